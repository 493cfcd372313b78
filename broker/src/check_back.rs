//! Check-back: asking producers about half messages that wait too long for their decision.

mod deserted;

use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_core::record::{Checked, ProgressItem, ProgressRecord, Record};
use kerolox_core::transaction::{self, CheckPolicy, Due, Half};
use kerolox_kit::process::now_ms;
use kerolox_kit::producers::Reach;
use kerolox_model::token::TransactionId;
use kerolox_proto::v2::{self, RecoverOrphanedTransactionCommand};
use kerolox_store::{Event, StoreError};
use prost::Message as _;
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::wire::{self, Delivery};
use deserted::Deserted;

/// Half messages looked at in one go.
const PAGE: usize = 256;
/// Pause after something failed.
const RETRY: Duration = Duration::from_secs(1);
/// Longest sleep; a bound for mistakes, not a deadline.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Later than any check that will ever be due, and before those that never will.
const FAR_MS: i64 = i64::MAX - 1;

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
    broker: String,
    engine: Engine,
    reach: Reach,
    policy: CheckPolicy,
    arrivals: HalfArrivals,
    deserted: Deserted,
    /// Due time and position of a half message: whatever is due up to it belongs to a deserted topic.
    passed: Option<(i64, u64)>,
}

/// What became of a check.
enum Check {
    /// This client took it.
    Taken(String),
    /// Nobody can be asked now.
    Nobody,
    /// Nobody can ever be asked: the message cannot be read.
    Impossible,
}

impl Checker {
    /// A checker of the broker group `broker`, which asks whom `reach` finds, when and as often as `policy` says.
    pub fn new(
        broker: String,
        engine: Engine,
        reach: Reach,
        policy: CheckPolicy,
        arrivals: HalfArrivals,
    ) -> Self {
        Self { broker, engine, reach, policy, arrivals, deserted: Deserted::default(), passed: None }
    }

    /// Runs for ever.
    pub async fn run(mut self) {
        loop {
            let pause = match self.round().await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::error!(%error, "half messages cannot be checked back; trying again");
                    RETRY
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.arrivals.wake.notified() => {}
                () = self.reach.clients().producer_appeared() => {}
            }
        }
    }

    /// Asks about everything that is due, and returns how long there is nothing to do.
    async fn round(&mut self) -> Result<Duration, StoreError> {
        self.try_deserted().await?;
        if !self.check_due().await? {
            return Ok(RETRY);
        }
        let next = self.engine.store().index().due_halves(FAR_MS, self.passed, 1)?;
        let until_due = next.first().map(|(_, half)| {
            Duration::from_millis(u64::try_from(half.next_check_ms.saturating_sub(now_ms())).unwrap_or(0))
        });
        let until_try = self.deserted.next().map(|at| at.saturating_duration_since(Instant::now()));
        Ok([until_due, until_try].into_iter().flatten().fold(SLEEP_MAX, Duration::min))
    }

    /// Looks whether deserted topics have producers again: if one takes the sample, all that was passed over is looked at.
    async fn try_deserted(&mut self) -> Result<(), StoreError> {
        let store = self.engine.store();
        let has_producer = |topic_id| {
            let topic = store.index().topic_by_id(topic_id);
            topic.is_some_and(|topic| !self.reach.clients().producers_of(&topic.name).is_empty())
        };
        for (topic_id, sample) in self.deserted.due(Instant::now(), has_producer) {
            let half = store.index().half(sample)?;
            let is_due = |half: &Half| half.is_undecided() && half.next_check_ms <= now_ms();
            match half.filter(is_due) {
                Some(half) if matches!(transaction::when_due(&half, &self.policy), Due::Ask) => {
                    let check = self.ask(sample, &half).await?;
                    if let Check::Nobody = check {
                        self.deserted.add(topic_id, sample, Instant::now());
                        continue;
                    }
                    let checked = self.checked(sample, &half, check);
                    self.log(vec![checked]).await;
                }
                // Decided meanwhile, or to be parked: another sample is found, if there is one.
                _ => {}
            }
            self.deserted.remove(topic_id);
            self.passed = None;
        }
        Ok(())
    }

    /// Deals with everything that is due behind what was passed over; `false` when that could not be logged.
    async fn check_due(&mut self) -> Result<bool, StoreError> {
        loop {
            let page = self.engine.store().index().due_halves(now_ms(), self.passed, PAGE)?;
            let Some((position, last)) = page.last() else { return Ok(true) };
            let passed = Some((last.next_check_ms, *position));
            let mut checked = Vec::new();
            for (position, half) in &page {
                match transaction::when_due(half, &self.policy) {
                    Due::Park => checked.push(parked(*position, half)),
                    Due::Ask if self.deserted.contains(half.topic_id) => {}
                    Due::Ask => match self.ask(*position, half).await? {
                        Check::Nobody => self.deserted.add(half.topic_id, *position, Instant::now()),
                        check => checked.push(self.checked(*position, half, check)),
                    },
                }
            }
            if !checked.is_empty() && !self.log(checked).await {
                return Ok(false);
            }
            self.passed = passed;
        }
    }

    async fn log(&self, checked: Vec<ProgressItem>) -> bool {
        let record = Record::Progress(ProgressRecord::new(checked));
        let logged = self.engine.propose(&record).await;
        if let Err(error) = &logged {
            tracing::warn!(%error, "checks of half messages could not be logged");
        }
        logged.is_ok()
    }

    /// Puts a half message to some producer of its topic.
    async fn ask(&self, position: u64, half: &Half) -> Result<Check, StoreError> {
        let Some(topic) = self.engine.store().index().topic_by_id(half.topic_id) else {
            return Ok(Check::Nobody);
        };
        let command = match self.command(position, half) {
            Ok(Some(command)) => command,
            Ok(None) => return Ok(Check::Impossible),
            Err(error) if error.is_damage() => return Ok(Check::Impossible),
            Err(error) => return Err(error),
        };
        let taken = self.reach.check(&topic.name, &command).await;
        Ok(taken.map_or(Check::Nobody, Check::Taken))
    }

    /// What a producer is told; `None` when the message is malformed.
    fn command(
        &self,
        position: u64,
        half: &Half,
    ) -> Result<Option<RecoverOrphanedTransactionCommand>, StoreError> {
        let store = self.engine.store();
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
        Ok(Some(RecoverOrphanedTransactionCommand { message: Some(message), transaction_id }))
    }

    /// What to note of a check that somebody took, or that can never be.
    fn checked(&self, position: u64, half: &Half, check: Check) -> ProgressItem {
        match check {
            Check::Taken(producer) => self.asked(position, half, producer, now_ms()),
            Check::Nobody | Check::Impossible => parked(position, half),
        }
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
