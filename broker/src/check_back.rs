//! Check-back: asking producers about half messages that wait too long for their decision.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kerolox_core::record::{Checked, ProgressItem, ProgressRecord, Record};
use kerolox_core::transaction::{self, CheckPolicy, Due, Half};
use kerolox_kit::clients::Clients;
use kerolox_kit::process::now_ms;
use kerolox_model::token::TransactionId;
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, RecoverOrphanedTransactionCommand, TelemetryCommand};
use kerolox_store::{Event, StoreError};
use prost::Message as _;
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::wire::{self, Delivery};

/// Half messages looked at in one go.
const PAGE: usize = 256;
/// While checks are due that nobody can be asked about, somebody may connect at any time: look again this often.
const RETRY: Duration = Duration::from_secs(1);
/// Longest sleep; a bound for mistakes, not a deadline.
const SLEEP_MAX: Duration = Duration::from_secs(60);

/// Wakes the checker when a half message is stored. It exists before the store does.
#[derive(Clone, Default)]
pub struct HalfArrivals {
    wake: Arc<Notify>,
}

impl HalfArrivals {
    /// Called on a thread of the store.
    pub fn notice(&self, event: &Event) {
        if matches!(event, Event::HalfDue { .. }) {
            self.wake.notify_one();
        }
    }
}

/// The task that asks.
pub struct Checker {
    /// Name of this broker group.
    pub broker: String,
    /// The store.
    pub engine: Engine,
    /// Whom to ask.
    pub clients: Arc<Clients>,
    /// When and how often.
    pub policy: CheckPolicy,
    /// Tells of new half messages.
    pub arrivals: HalfArrivals,
}

impl Checker {
    /// Runs for ever.
    pub async fn run(self) {
        loop {
            let all_asked = match self.check_due().await {
                Ok(all_asked) => all_asked,
                Err(error) => {
                    tracing::error!(%error, "half messages cannot be checked back; trying again");
                    false
                }
            };
            let sleep = if all_asked { self.until_next() } else { RETRY };
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                // A new half message moves the next due time, but never makes those wait longer that are due.
                () = self.arrivals.wake.notified(), if all_asked => {}
            }
        }
    }

    fn until_next(&self) -> Duration {
        let next = self.engine.store().index().next_half_due_ms();
        let wait_ms = match next {
            Ok(Some(due_ms)) => u64::try_from(due_ms.saturating_sub(now_ms())).unwrap_or(0),
            Ok(None) => return SLEEP_MAX,
            Err(_) => return RETRY,
        };
        Duration::from_millis(wait_ms).min(SLEEP_MAX)
    }

    /// Deals with everything that is due; `false` when nobody could be asked about some of it.
    async fn check_due(&self) -> Result<bool, StoreError> {
        let now_ms = now_ms();
        let mut deserted = HashSet::new();
        let mut after = None;
        loop {
            let page = self.engine.store().index().due_halves(now_ms, after, PAGE)?;
            let Some((position, last)) = page.last() else { return Ok(deserted.is_empty()) };
            after = Some((last.next_check_ms, *position));
            let mut checked = Vec::new();
            for (position, half) in &page {
                match transaction::when_due(half, &self.policy) {
                    Due::Park => checked.push(parked(*position, half)),
                    Due::Ask if deserted.contains(&half.topic_id) => {}
                    Due::Ask => match self.ask(*position, half) {
                        Ok(Some(asked)) => checked.push(self.asked(*position, half, asked, now_ms)),
                        Ok(None) => drop(deserted.insert(half.topic_id)),
                        // Nobody can be asked about what cannot be read, and the others must not wait for it.
                        Err(error) if error.is_damage() => checked.push(parked(*position, half)),
                        Err(error) => return Err(error),
                    },
                }
            }
            if !checked.is_empty() {
                let record = Record::Progress(ProgressRecord::new(checked));
                if let Err(error) = self.engine.propose(&record).await {
                    tracing::warn!(%error, "checks of half messages could not be logged");
                    return Ok(false);
                }
            }
        }
    }

    /// Puts a half message to a live producer of its topic, another one if that does not take it. `None`: there is none.
    fn ask(&self, position: u64, half: &Half) -> Result<Option<String>, StoreError> {
        let store = self.engine.store();
        let Some(topic) = store.index().topic_by_id(half.topic_id) else { return Ok(None) };
        let producers = self.clients.producers_of(&topic.name);
        if producers.is_empty() {
            return Ok(None);
        }
        let (frame, record) = store.read_message(half.location(position), half.frame_len)?;
        let delivery = Delivery { store_ms: frame.store_ms, queue: half.queue, ..Delivery::default() };
        let message = match v2::Message::decode(wire::message(&record, &delivery)) {
            Ok(message) => message,
            Err(error) => {
                tracing::error!(position, %error, "a half message is malformed and cannot be checked back");
                return Ok(None);
            }
        };
        let transaction_id = TransactionId::new(&self.broker, position, &record.header.message_id).to_text();
        let command = RecoverOrphanedTransactionCommand { message: Some(message), transaction_id };
        let command = Command::RecoverOrphanedTransactionCommand(command);
        let asked = producers.into_iter().find(|producer| {
            producer.try_send(TelemetryCommand { status: None, command: Some(command.clone()) })
        });
        Ok(asked.map(|producer| producer.client_id))
    }

    fn asked(&self, position: u64, half: &Half, producer: String, now_ms: i64) -> ProgressItem {
        let (checks, next_check_ms) = transaction::after_check(half, &self.policy, now_ms);
        tracing::debug!(position, checks, producer, "half message checked back");
        ProgressItem::Checked(Checked {
            held: position,
            checks,
            next_check_ms: Some(next_check_ms),
            asked: producer,
        })
    }
}

fn parked(position: u64, half: &Half) -> ProgressItem {
    tracing::warn!(
        position,
        checks = half.checks,
        "half message parked after its last check; it waits to be settled"
    );
    ProgressItem::Checked(Checked {
        held: position,
        checks: half.checks,
        next_check_ms: None,
        asked: String::new(),
    })
}
