//! What must hold when everything runs again and has come to rest.

use std::collections::{HashMap, HashSet};

use super::clients::OFFICIAL_SENDER;
use super::label::{self, Kind};
use super::ledger::{Content, Received};
use super::queues::{End, Standing};

/// Labels that a failure shows.
const SHOWN: usize = 8;

/// What must hold, and what is wrong if it does not.
pub(super) type Check = (&'static str, Result<String, String>);

/// Holds what the clients know against each other, and against what stands in the queues.
pub(super) fn check(content: &Content, standing: &[Standing], ends: &[End]) -> Vec<Check> {
    vec![
        ("every acknowledged message was received", nothing_lost(content)),
        ("every acknowledged message stands in a queue", all_stand(content, standing)),
        ("nothing else was received", nothing_else(content)),
        ("nothing else stands in a queue", nothing_else_stands(content, standing)),
        ("message groups came in order", in_order(content)),
        ("every offset has one message", offsets(standing, ends)),
    ]
}

/// Messages that came more than once.
pub(super) fn duplicates(content: &Content) -> usize {
    content.received.values().filter(|received| received.times > 1).count()
}

/// Messages that stand in queues more than once: a client that heard nothing sent them again.
pub(super) fn stored_twice(standing: &[Standing]) -> usize {
    let labels: HashSet<&str> = standing.iter().map(|standing| standing.label.as_str()).collect();
    standing.len() - labels.len()
}

/// Acknowledged messages of the official SDK.
pub(super) fn official(content: &Content) -> usize {
    let prefix = format!("{}-{OFFICIAL_SENDER}-", Kind::Normal.word());
    let acknowledged = content.sent.iter().filter(|(_, sent)| sent.is_acknowledged);
    acknowledged.filter(|(label, _)| label.starts_with(&prefix)).count()
}

/// Whether the official SDK had more messages acknowledged than in `earlier` rounds.
pub(super) fn went_on(content: &Content, earlier: usize) -> Result<String, String> {
    match official(content) {
        count if count > earlier => Ok(format!("{count} messages")),
        count => Err(format!("none in this round, {count} before")),
    }
}

fn nothing_lost(content: &Content) -> Result<String, String> {
    let lost: Vec<&str> = content.missing().collect();
    none(&lost, "acknowledged and lost")?;
    Ok(format!("{} messages", content.acknowledgements.len()))
}

fn all_stand(content: &Content, standing: &[Standing]) -> Result<String, String> {
    let there: HashSet<&str> = standing.iter().map(|standing| standing.label.as_str()).collect();
    let owed = content.sent.iter().filter(|(label, sent)| Content::is_owed(label, **sent));
    let lost: Vec<&str> =
        owed.map(|(label, _)| label.as_str()).filter(|label| !there.contains(label)).collect();
    none(&lost, "acknowledged and in no queue")?;
    Ok(format!("{} places", standing.len()))
}

fn nothing_else(content: &Content) -> Result<String, String> {
    let wrong: Vec<&str> =
        content.received.keys().map(String::as_str).filter(|label| !is_allowed(content, label)).collect();
    none(&wrong, "received although nobody sent them or they were rolled back")?;
    none(&content.spoilt, "received with another body")?;
    Ok(format!("{} messages", content.received.len()))
}

fn nothing_else_stands(content: &Content, standing: &[Standing]) -> Result<String, String> {
    let labels = standing.iter().map(|standing| standing.label.as_str());
    let wrong: Vec<&str> = labels.filter(|label| !is_allowed(content, label)).collect();
    none(&wrong, "in a queue although nobody sent them or they were rolled back")?;
    Ok(format!("{} places", standing.len()))
}

fn is_allowed(content: &Content, label: &str) -> bool {
    content.sent.contains_key(label) && label::is_visible(label)
}

/// The first time that acknowledged messages of a group came is in the order of their numbers. What was not acknowledged was
/// perhaps stored later than its sender thinks.
fn in_order(content: &Content) -> Result<String, String> {
    let mut groups: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
    for (label, Received { turn, .. }) in &content.received {
        if let Some((group, number)) = label::place(label)
            && content.sent.get(label).is_some_and(|sent| sent.is_acknowledged)
        {
            groups.entry(group).or_default().push((*turn, number));
        }
    }
    let mut wrong = Vec::new();
    for (group, firsts) in &mut groups {
        firsts.sort_unstable();
        let disorder = firsts.windows(2).filter(|pair| pair[0].1 > pair[1].1);
        wrong.extend(disorder.map(|pair| format!("{group}: {} before {}", pair[0].1, pair[1].1)));
    }
    none(&wrong, "received in the wrong order")?;
    Ok(format!("{} groups, {} messages", groups.len(), groups.values().map(Vec::len).sum::<usize>()))
}

fn offsets(standing: &[Standing], ends: &[End]) -> Result<String, String> {
    let mut used: HashMap<(&str, u32), HashSet<u64>> = HashMap::new();
    let mut twice = Vec::new();
    for Standing { topic, queue, offset, label } in standing {
        if !used.entry((topic, *queue)).or_default().insert(*offset) {
            twice.push(format!("{label} at {offset} of queue {queue} of {topic}"));
        }
    }
    none(&twice, "at an offset with another message")?;
    for End { topic, queue, offset: end } in ends {
        let used = used.remove(&(*topic, *queue)).unwrap_or_default();
        let empty: Vec<u64> = (0..*end).filter(|offset| !used.contains(offset)).collect();
        none(&empty, &format!("offsets of queue {queue} of {topic} without a message"))?;
    }
    Ok(format!("{} offsets in {} queues", standing.len(), ends.len()))
}

/// An error that counts and names some of `found`, unless it is empty.
fn none(found: &[impl std::fmt::Debug], what: &str) -> Result<(), String> {
    if found.is_empty() {
        return Ok(());
    }
    Err(format!("{} {what}, such as {:?}", found.len(), &found[..found.len().min(SHOWN)]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::ledger::Ledger;

    fn ledger(acknowledged: &[&str], received: &[&str]) -> Content {
        let ledger = Ledger::default();
        for label in acknowledged {
            ledger.on_send(label);
            ledger.on_acknowledged(label);
        }
        received.iter().for_each(|label| ledger.on_received(&label::body(label)));
        ledger.content()
    }

    fn standing(label: &str, offset: u64) -> Standing {
        Standing { topic: "t", queue: 0, offset, label: label.to_owned() }
    }

    fn end(offset: u64) -> [End; 1] {
        [End { topic: "t", queue: 0, offset }]
    }

    #[test]
    fn a_right_outcome_passes_and_what_came_twice_is_counted() {
        let content = ledger(&["normal-0-0", "rollback-0-1"], &["normal-0-0", "normal-0-0"]);
        let places = [standing("normal-0-0", 0), standing("normal-0-0", 1)];
        let checks = check(&content, &places, &end(2));
        assert!(checks.iter().all(|(_, outcome)| outcome.is_ok()), "{checks:?}");
        assert_eq!((duplicates(&content), stored_twice(&places)), (1, 1));
    }

    #[test]
    fn each_kind_of_damage_is_noticed() {
        assert!(nothing_lost(&ledger(&["normal-0-0"], &[])).is_err(), "lost");
        assert!(nothing_lost(&ledger(&["late-0-0"], &[])).is_err(), "committed and lost");
        assert!(nothing_else(&ledger(&[], &["normal-0-0"])).is_err(), "never sent");
        assert!(nothing_else(&ledger(&["rollback-0-0"], &["rollback-0-0"])).is_err(), "rolled back");
        let mut spoilt = Ledger::default();
        spoilt.on_send("normal-0-0");
        spoilt.on_received(b"normal-0-0 x");
        assert!(nothing_else(&spoilt.content()).is_err(), "another body");
        spoilt = Ledger::default();
        spoilt.on_send("normal-0-0");
        assert!(nothing_lost(&spoilt.content()).is_ok(), "not acknowledged");
        let group = ["ordered-1-0", "ordered-1-1"];
        assert!(in_order(&ledger(&group, &["ordered-1-1", "ordered-1-0"])).is_err(), "disorder");
        assert!(in_order(&ledger(&group, &["ordered-1-0", "ordered-1-1", "ordered-1-0"])).is_ok());
        let one = ledger(&["normal-0-0"], &["normal-0-0"]);
        assert!(all_stand(&one, &[]).is_err(), "in no queue");
        assert!(nothing_else_stands(&ledger(&[], &[]), &[standing("normal-0-0", 0)]).is_err());
        assert!(offsets(&[standing("a", 0), standing("b", 0)], &end(1)).is_err(), "a doubled offset");
        assert!(offsets(&[standing("a", 1)], &end(2)).is_err(), "an empty offset");
        assert!(offsets(&[standing("a", 0)], &end(1)).is_ok());
    }
}
