//! What must hold of a history, one function for each property: it returns figures, or the violation.

mod money;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::message_history::{MessageHistory, MessageIntent};
use crate::verdict::none_of;
pub use money::{BankBooks, BankCredit, BankDebit};

/// Figures, or the violation.
pub type PropertyOutcome = Result<String, String>;

/// Each consumer got every message of its topic that it must get.
///
/// # Errors
/// With messages that are missing.
pub fn nothing_lost(history: &MessageHistory, readings: &[(&'static str, &str)]) -> PropertyOutcome {
    let mut owed = 0;
    let mut wrong = Vec::new();
    for (consumer, topic) in readings {
        let what = format!("of {topic} acknowledged and never received by {consumer}");
        wrong.extend(none_of(&history.missing(consumer, topic), &what).err());
        owed += history.sent.values().filter(|sent| sent.topic == *topic && sent.is_owed()).count();
    }
    if wrong.is_empty() { Ok(format!("{owed} messages")) } else { Err(wrong.join("; ")) }
}

/// Every message that consumers must get stands in a queue.
///
/// # Errors
/// With messages that do not.
pub fn everything_stands(history: &MessageHistory) -> PropertyOutcome {
    let standing: HashSet<&str> = history.standing.iter().map(|message| message.label.as_str()).collect();
    let owed = history.sent.iter().filter(|(_, sent)| sent.is_owed()).map(|(label, _)| label);
    let lost: Vec<&String> = owed.filter(|label| !standing.contains(label.as_str())).collect();
    none_of(&lost, "acknowledged and in no queue")?;
    Ok(format!("{} places", history.standing.len()))
}

/// Consumers got the messages that were sent for delivery, unchanged, and nothing else.
///
/// # Errors
/// With messages that were never sent, that were to be withheld or parked, or that had another body.
pub fn nothing_else_received(history: &MessageHistory) -> PropertyOutcome {
    let labels: BTreeSet<&String> = history.received.values().flat_map(BTreeMap::keys).collect();
    let wrong: Vec<&&String> = labels.iter().filter(|label| !may_be_seen(history, label)).collect();
    none_of(&wrong, "received although they were never sent or not committed")?;
    none_of(&history.spoilt, "received with another body")?;
    Ok(format!("{} messages", labels.len()))
}

/// Queues have the messages that were sent for delivery, and nothing else.
///
/// # Errors
/// With messages that were never sent, or that were to be withheld or parked.
pub fn nothing_else_stands(history: &MessageHistory) -> PropertyOutcome {
    let labels = history.standing.iter().map(|message| &message.label);
    let wrong: Vec<&String> = labels.filter(|label| !may_be_seen(history, label)).collect();
    none_of(&wrong, "in a queue although they were never sent or not committed")?;
    Ok(format!("{} places", history.standing.len()))
}

fn may_be_seen(history: &MessageHistory, label: &str) -> bool {
    history.sent.get(label).is_some_and(|sent| sent.intent == MessageIntent::Deliver)
}

/// No message came to a consumer twice. That is promised while every receipt is used in time and no message is sent twice.
///
/// # Errors
/// With messages that did.
pub fn delivered_once(history: &MessageHistory, consumer: &str) -> PropertyOutcome {
    let received = history.received.get(consumer).ok_or_else(|| format!("{consumer} received nothing"))?;
    let twice = received.iter().filter(|(_, reception)| reception.times > 1);
    let twice: Vec<String> =
        twice.map(|(label, reception)| format!("{label} {} times", reception.times)).collect();
    none_of(&twice, &format!("received by {consumer} more than once"))?;
    Ok(format!("{} messages, each once", received.len()))
}

/// No message stands in two places. That is promised while no message is sent twice, and of topics that know repeats.
///
/// # Errors
/// With messages that do.
pub fn stored_once(history: &MessageHistory) -> PropertyOutcome {
    let mut seen = HashSet::new();
    let twice = history.standing.iter().map(|message| message.label.as_str());
    let twice: Vec<&str> = twice.filter(|label| !seen.insert(*label)).collect();
    none_of(&twice, "in more than one place")?;
    Ok(format!("{} messages", seen.len()))
}

/// The first time that acknowledged messages of a message group came to a consumer is in the order of their numbers. What was not
/// acknowledged was perhaps stored later than its sender thinks; what comes again may come at any time.
///
/// # Errors
/// With pairs that came the wrong way round.
pub fn groups_in_order(history: &MessageHistory, consumer: &str) -> PropertyOutcome {
    let mut groups: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for (label, reception) in history.received.get(consumer).into_iter().flatten() {
        if let Some(sent) = history.sent.get(label).filter(|sent| sent.is_acknowledged)
            && let Some((group, number)) = &sent.place
        {
            groups.entry(group).or_default().push((reception.turn, *number));
        }
    }
    let mut wrong = Vec::new();
    for (group, firsts) in &mut groups {
        firsts.sort_unstable();
        let disorder = firsts.windows(2).filter(|pair| pair[0].1 > pair[1].1);
        wrong.extend(disorder.map(|pair| format!("{group}: {} before {}", pair[0].1, pair[1].1)));
    }
    none_of(&wrong, "received in the wrong order")?;
    if groups.is_empty() {
        return Err(format!("{consumer} received nothing that has an order"));
    }
    Ok(format!("{} groups, {} messages", groups.len(), groups.values().map(Vec::len).sum::<usize>()))
}

/// Every offset up to the end of its queue has one message, and the one that was promised to its sender.
///
/// # Errors
/// With offsets that have two or none, or messages that stand elsewhere.
pub fn offsets_are_whole(history: &MessageHistory) -> PropertyOutcome {
    let mut used: BTreeMap<(&str, u32), HashSet<u64>> = BTreeMap::new();
    let (mut twice, mut moved) = (Vec::new(), Vec::new());
    for message in &history.standing {
        if !used.entry((message.topic, message.queue)).or_default().insert(message.offset) {
            twice.push(message);
        }
        let promised = history.sent.get(&message.label).and_then(|sent| sent.offset);
        if promised.is_some_and(|offset| offset != message.offset) {
            moved.push(message);
        }
    }
    none_of(&twice, "at an offset with another message")?;
    none_of(&moved, "at another offset than was answered to their producers")?;
    for end in &history.ends {
        let used = used.remove(&(end.topic, end.queue)).unwrap_or_default();
        let empty: Vec<u64> = (0..end.offset).filter(|offset| !used.contains(offset)).collect();
        none_of(&empty, &format!("offsets of queue {} of {} without a message", end.queue, end.topic))?;
    }
    Ok(format!("{} offsets in {} queues", history.standing.len(), history.ends.len()))
}

/// The log has every message once, and every one that the broker said that it stored.
///
/// # Errors
/// With messages that it has twice, or not.
pub fn log_has_everything_once(history: &MessageHistory) -> PropertyOutcome {
    let mut seen = HashSet::new();
    let twice: Vec<&String> = history.log.iter().filter(|id| !seen.insert(*id)).collect();
    none_of(&twice, "in the log twice")?;
    let stored = history.sent.values().filter_map(|sent| sent.message_id.as_ref());
    let lost: Vec<&String> = stored.filter(|id| !seen.contains(id)).collect();
    none_of(&lost, "acknowledged and not in the log")?;
    Ok(format!("{} records", history.log.len()))
}

/// Every transaction that no checker can decide is parked.
///
/// # Errors
/// With those that are not.
pub fn undecided_are_parked(history: &MessageHistory) -> PropertyOutcome {
    let acknowledged = history.sent.iter().filter(|(_, sent)| sent.is_acknowledged);
    let undecided = acknowledged.filter(|(_, sent)| sent.intent == MessageIntent::Park);
    let undecided: Vec<&String> = undecided.map(|(label, _)| label).collect();
    let lost: Vec<&&String> = undecided.iter().filter(|label| !history.parked.contains(**label)).collect();
    none_of(&lost, "undecided and not parked")?;
    Ok(format!("{} transactions", undecided.len()))
}

/// No transaction is parked that a checker can decide.
///
/// # Errors
/// With those that are.
pub fn nothing_else_is_parked(history: &MessageHistory) -> PropertyOutcome {
    let may_be =
        |label: &&String| history.sent.get(*label).is_some_and(|sent| sent.intent == MessageIntent::Park);
    let wrong: Vec<&String> = history.parked.iter().filter(|label| !may_be(label)).collect();
    none_of(&wrong, "parked although they are decided, or were never sent")?;
    Ok(format!("{} transactions", history.parked.len()))
}
