//! What the ledger has to say.

use kerolox_harness::verdict::{CheckedProperty, none_of};
use kerolox_harness::{MessageHistory, MessageIntent, ProcessUsage, properties};

use super::cluster::ORDERED_GROUP;
use super::consumers::READINGS;
use super::ledger::{ClientLedger, ClientNotes};
use super::{ORDERED, TRANSACTIONS, UNIQUE};

/// Resident memory of this process, in bytes: what the ledger takes, and what clients may.
const RESIDENT_MAX: u64 = 400 << 20;

type Outcome = Result<String, String>;

/// What has to hold of what was sent and received.
pub(super) fn checks(ledger: &ClientLedger) -> Vec<CheckedProperty> {
    let (history, notes) = (ledger.messages.history(), ledger.notes());
    vec![
        ("no send fails", sends(&history, &notes)),
        ("nothing is lost", lost(&history, &notes)),
        ("nothing is stored twice", properties::delivered_once(&history, "pull")),
        ("message groups are in order", properties::groups_in_order(&history, ORDERED_GROUP)),
        ("transactions end as they should", transactions(&history, &notes)),
        ("the pull consumer reads each offset once", read(&notes)),
    ]
}

/// Acknowledged messages of a topic with an intent.
fn count(history: &MessageHistory, topic: &str, intent: MessageIntent) -> usize {
    let of_topic = history.sent.values().filter(|sent| sent.topic == topic && sent.is_acknowledged);
    of_topic.filter(|sent| sent.intent == intent).count()
}

fn sends(history: &MessageHistory, notes: &ClientNotes) -> Outcome {
    let sent = [UNIQUE, ORDERED, TRANSACTIONS].map(|topic| count(history, topic, MessageIntent::Deliver));
    if sent.contains(&0) {
        return Err("nothing was sent to one of the topics".to_owned());
    }
    none_of(&notes.failures, "sends failed")?;
    Ok(format!(
        "{} to a topic with dedup, {} in order; the slowest took {:?}",
        sent[0], sent[1], notes.slowest
    ))
}

fn lost(history: &MessageHistory, notes: &ClientNotes) -> Outcome {
    properties::nothing_lost(history, &READINGS)?;
    let received = history.received.iter().map(|(consumer, received)| {
        let again: u64 = received.values().map(|reception| reception.times - 1).sum();
        format!("{consumer} {} ({again} again)", received.len())
    });
    let received = received.collect::<Vec<_>>().join(", ");
    Ok(format!("received: {received}; {} acknowledgements failed", notes.failed_acks))
}

fn transactions(history: &MessageHistory, notes: &ClientNotes) -> Outcome {
    properties::nothing_else_received(history)?;
    Ok(format!(
        "{} committed, {} rolled back, {} not begun",
        count(history, TRANSACTIONS, MessageIntent::Deliver),
        count(history, TRANSACTIONS, MessageIntent::Withhold),
        notes.not_begun
    ))
}

fn read(notes: &ClientNotes) -> Outcome {
    none_of(&notes.misread, "things went wrong")?;
    Ok(format!("{} queues", notes.read_to.len()))
}

/// `stopped`: producers that did not end; `left`: messages that were with listeners still.
pub(super) fn hangs(stopped: usize, left: usize) -> Outcome {
    if stopped + left > 0 {
        return Err(format!("{stopped} producers do not end, {left} messages are not settled"));
    }
    Ok("every call came to an end".to_owned())
}

pub(super) fn memory(before: &ProcessUsage, after: &ProcessUsage) -> Outcome {
    let mib = |bytes: u64| bytes >> 20;
    let text = format!(
        "{} MiB at the beginning, {} MiB at the end, ledger included",
        mib(before.resident),
        mib(after.resident)
    );
    if after.resident > RESIDENT_MAX { Err(text) } else { Ok(text) }
}
