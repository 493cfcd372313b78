//! # No duplicates
//!
//! Sends to topics with `dedup`: a duplicate gets the answer of the first message and stores nothing. A record carries a hash of its
//! id or keys (`core::dedup`). The state machine has the last word about duplicates (`store/src/state/dedup.rs`); the look-up before a
//! proposal keeps them out of the log, and since two sends of one message may be in flight at once, the second waits for the first.
//! The state machine's memory of hashes is too large for snapshots: it follows from the log that is kept, and a log is not trimmed
//! between a record and its duplicate.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;

use kerolox_core::record::{MessageRecord, Record};
use kerolox_core::topic::Topic;
use kerolox_store::{AppliedRecord, ApplyOutcome, FirstMessage, StoreError};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::log_client::{LogClient, LogRefusal};

/// Messages being stored. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Underway(Arc<Table>);

#[derive(Default)]
struct Table {
    /// Numbers of topics and identities of their messages.
    known: Mutex<HashSet<(u32, u128)>>,
    /// Notifies when a message was stored.
    stored: Notify,
}

/// Keeps other sends from storing these messages, until it is dropped.
pub struct DedupReservation {
    table: Arc<Table>,
    known: Vec<(u32, u128)>,
}

impl Underway {
    /// Waits until no other send stores any of these messages, and reserves them all.
    async fn reserve(&self, known: Vec<(u32, u128)>) -> DedupReservation {
        loop {
            let mut stored = pin!(self.0.stored.notified());
            // From here on no notification is missed.
            stored.as_mut().enable();
            {
                let mut table = self.0.known.lock();
                if !known.iter().any(|one| table.contains(one)) {
                    table.extend(&known);
                    return DedupReservation { table: self.0.clone(), known };
                }
            }
            stored.await;
        }
    }
}

impl Drop for DedupReservation {
    fn drop(&mut self) {
        let mut table = self.table.known.lock();
        for one in &self.known {
            table.remove(one);
        }
        drop(table);
        self.table.stored.notify_waiters();
    }
}

/// Why messages were not stored.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OnceError {
    /// The log does not accept them.
    #[error(transparent)]
    Log(#[from] LogRefusal),
    /// The state cannot be read; they may repeat others.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Stores the messages that are no duplicates. Each duplicate has the outcome [`ApplyOutcome::Duplicate`].
///
/// # Errors
/// [`OnceError`]; none of the messages was stored then.
pub(crate) async fn store(
    (log, underway): (&LogClient, &Underway),
    topic: &Topic,
    messages: Vec<MessageRecord>,
    now_ms: i64,
) -> Result<Vec<AppliedRecord>, OnceError> {
    let known: Vec<Option<u128>> = messages.iter().map(|message| message.header.dedup()).collect();
    let mut sorted: Vec<(u32, u128)> = known.iter().flatten().map(|known| (topic.id, *known)).collect();
    if sorted.is_empty() {
        let records: Vec<Record> = messages.into_iter().map(Record::Message).collect();
        return Ok(log.propose_for(topic, &records, None).await?);
    }
    sorted.sort_unstable();
    sorted.dedup();
    let reservation = underway.reserve(sorted).await;
    let mut answers = Vec::with_capacity(messages.len());
    let mut records = Vec::new();
    let mut firsts: HashMap<u128, Answer> = HashMap::new();
    {
        let index = log.store().state();
        for (message, known) in messages.into_iter().zip(known) {
            let answer = match known.and_then(|known| firsts.get(&known)) {
                Some(same) => same.clone(),
                None => {
                    match known.map(|known| index.first_of(topic, known, now_ms)).transpose()?.flatten() {
                        Some(first) => Answer::Known(AppliedRecord {
                            position: first.position,
                            store_ms: first.store_ms,
                            outcome: ApplyOutcome::Duplicate(first),
                        }),
                        None => {
                            records.push(Record::Message(message));
                            Answer::Stored(records.len() - 1)
                        }
                    }
                }
            };
            let again = match &answer {
                Answer::Stored(number) => Answer::Again(*number),
                known => known.clone(),
            };
            firsts.extend(known.map(|known| (known, again)));
            answers.push(answer);
        }
    }
    let applied = match records.is_empty() {
        true => Vec::new(),
        false => log.propose_for(topic, &records, Some(reservation)).await?,
    };
    let outcome = |answer| match answer {
        Answer::Known(applied) => applied,
        Answer::Stored(number) => applied[number].clone(),
        Answer::Again(number) => repeat_of(&applied[number]),
    };
    Ok(answers.into_iter().map(outcome).collect())
}

/// The answer for a message that duplicates another one of its request.
fn repeat_of(applied: &AppliedRecord) -> AppliedRecord {
    let place = match applied.outcome {
        ApplyOutcome::Visible { queue, offset } => Some((queue, offset)),
        ApplyOutcome::Held | ApplyOutcome::Scheduled => None,
        _ => return applied.clone(),
    };
    let first = FirstMessage { position: applied.position, store_ms: applied.store_ms, place };
    AppliedRecord { outcome: ApplyOutcome::Duplicate(first), ..applied.clone() }
}

/// The answer to a message.
#[derive(Clone)]
enum Answer {
    /// The message duplicates a stored one.
    Known(AppliedRecord),
    /// The outcome of the record with this index.
    Stored(usize),
    /// The message duplicates the record with this index.
    Again(usize),
}
