//! What the ledger has to say.

use super::ledger::{Ledger, Notes};
use super::{ORDERED, TRANSACTIONS, UNIQUE};
use kerolox_harness::ProcessUsage;

/// Resident memory of this process, in bytes: what the ledger takes, and what clients may.
const RESIDENT_MAX: u64 = 400 << 20;
/// How many of a list an error shows.
const SHOWN: usize = 5;

type Outcome = Result<String, String>;

/// What has to hold of what was sent and received; `arrived` is what each consumer misses.
pub(super) fn checks(
    ledger: &Ledger,
    arrived: &[(&'static str, Vec<String>)],
) -> Vec<(&'static str, Outcome)> {
    let notes = ledger.notes();
    vec![
        ("no send fails", sends(&notes)),
        ("nothing is lost", lost(&notes, arrived)),
        ("nothing is stored twice", stored_once(&notes)),
        ("message groups are in order", order(&notes)),
        ("transactions end as they should", transactions(&notes)),
        ("the pull consumer reads each offset once", read(&notes)),
    ]
}

fn sends(notes: &Notes) -> Outcome {
    let count = |topic| notes.sent.get(topic).map_or(0, |sent| sent.len());
    if count(UNIQUE) == 0 || count(ORDERED) == 0 || count(TRANSACTIONS) == 0 {
        return Err("nothing was sent to one of the topics".to_owned());
    }
    none(&notes.failures, "sends failed")?;
    Ok(format!(
        "{} to a topic with dedup, {} in order; the slowest took {:?}",
        count(UNIQUE),
        count(ORDERED),
        notes.slowest
    ))
}

fn lost(notes: &Notes, arrived: &[(&'static str, Vec<String>)]) -> Outcome {
    for (consumer, missing) in arrived {
        none(missing, &format!("messages did not reach {consumer}"))?;
    }
    let twice = |received: &std::collections::BTreeMap<String, u32>| -> u32 {
        received.values().map(|times| times - 1).sum()
    };
    let again: Vec<String> = notes
        .received
        .iter()
        .map(|(consumer, received)| format!("{consumer} {} ({} again)", received.len(), twice(received)))
        .collect();
    Ok(format!("received: {}; {} acknowledgements failed", again.join(", "), notes.failed_acks))
}

fn stored_once(notes: &Notes) -> Outcome {
    let read = notes.received.get("pull").ok_or("the pull consumer read nothing")?;
    let twice: Vec<String> = read
        .iter()
        .filter(|(_, times)| **times > 1)
        .map(|(body, times)| format!("{body} {times} times"))
        .collect();
    none(&twice, "messages are stored more than once")?;
    Ok(format!("{} messages, each at one offset", read.len()))
}

/// A message that is done again comes before the next one is done for the first time.
fn order(notes: &Notes) -> Outcome {
    let mut wrong = Vec::new();
    for (group, numbers) in &notes.order {
        let mut next = 0;
        for number in numbers {
            if *number > next {
                wrong.push(format!("{group}: {number} before {next}"));
            }
            next = next.max(number + 1);
        }
    }
    none(&wrong, "messages came out of order")?;
    if notes.order.is_empty() {
        return Err("none came".to_owned());
    }
    Ok(format!(
        "{} groups of {} messages",
        notes.order.len(),
        notes.order.values().map(Vec::len).sum::<usize>()
    ))
}

fn transactions(notes: &Notes) -> Outcome {
    let received = notes.received.get("transactions-push");
    let wrong: Vec<String> = notes
        .rolled_back
        .iter()
        .filter(|body| received.is_some_and(|received| received.contains_key(*body)))
        .cloned()
        .collect();
    none(&wrong, "transactions were rolled back and came")?;
    Ok(format!(
        "{} committed, {} rolled back, {} not begun",
        notes.sent.get(TRANSACTIONS).map_or(0, |sent| sent.len()),
        notes.rolled_back.len(),
        notes.not_begun
    ))
}

fn read(notes: &Notes) -> Outcome {
    none(&notes.misread, "things went wrong")?;
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

/// An error unless the list is empty.
fn none(list: &[String], what: &str) -> Result<(), String> {
    if list.is_empty() {
        return Ok(());
    }
    let shown = &list[..list.len().min(SHOWN)];
    Err(format!("{} {what}: {}", list.len(), shown.join("; ")))
}
