//! Check-back: asking producers about half messages that wait too long for their decision.

mod webhook;
mod webhook_hosts;

pub use webhook::{WebhookClient, WebhookCounts, secret as webhook_secret};
pub use webhook_hosts::{WebhookHost, WebhookHosts};

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use parking_lot::{Mutex, MutexGuard};

use kerolox_core::record::{ProgressRecord, Record};
use kerolox_core::transaction::{
    CheckOutcome, CheckPolicy, DesertedTopics, DueCheck, HalfMessage, WEBHOOK_ATTRIBUTE,
};
use kerolox_gateway::producers::ClientReach;
use kerolox_model::token::TransactionId;
use kerolox_proto::v2::{self, RecoverOrphanedTransactionCommand};
use kerolox_store::{StoreError, mono_ms};
use prost::Message as _;

use crate::log_client::LogClient;
use crate::tasks::due::{self, DueArrivals, NEVER_MS, Passed};
use crate::wire::{self, Delivery};

/// Number of half messages that are read at a time.
const PAGE: usize = 256;
/// Maximum number of concurrent checks: webhooks may be slow to answer.
const AT_ONCE: usize = 16;
/// Pause after a failed proposal.
const RETRY: Duration = Duration::from_secs(1);
/// Longest sleep; a bound against mistakes, not a deadline.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Later than any check that will ever be due, and before the parked ones.
const FAR_MS: i64 = i64::MAX - 1;

/// The task that asks.
pub struct CheckBackTask {
    broker: String,
    log: LogClient,
    reach: Arc<ClientReach>,
    webhooks: WebhookClient,
    policy: CheckPolicy,
    arrivals: DueArrivals,
    /// A leaf lock: concurrent checks read it.
    deserted: Mutex<DesertedTopics>,
    /// Due half messages up to here that still exist belong to deserted topics.
    passed: Passed,
    /// No half message behind that is due before this time, milliseconds since the Unix epoch. Most half messages are decided
    /// long before they are due, so the time of a new one is as good as that of the next existing one, and costs no search.
    awaited_ms: i64,
}

impl CheckBackTask {
    /// The task of the broker group `broker`, which asks the clients that `reach` finds, or else webhooks, when and as often
    /// as `policy` says.
    pub(crate) fn new(
        broker: String,
        log: LogClient,
        reach: Arc<ClientReach>,
        webhooks: WebhookClient,
        policy: CheckPolicy,
        arrivals: DueArrivals,
    ) -> Self {
        Self {
            broker,
            log,
            reach,
            webhooks,
            policy,
            arrivals,
            deserted: Mutex::default(),
            passed: None,
            awaited_ms: i64::MIN,
        }
    }

    /// Runs for ever.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn run(mut self) -> Result<(), StoreError> {
        loop {
            let pause = self.round().await?;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.arrivals.woken() => {}
                () = self.reach.clients().producer_appeared() => {}
            }
        }
    }

    /// Asks about all due half messages, and returns how long there is nothing to do.
    async fn round(&mut self) -> Result<Duration, StoreError> {
        let earliest_ms = self.arrivals.take_earliest();
        due::look_back(&mut self.passed, earliest_ms);
        self.awaited_ms = self.awaited_ms.min(earliest_ms);
        self.try_deserted().await?;
        if self.awaited_ms <= self.now_ms() {
            if !self.check_due().await? {
                return Ok(RETRY);
            }
            let next = self.log.store().state().transactions.due(FAR_MS, self.passed, 1)?;
            self.awaited_ms = next.first().map_or(NEVER_MS, |(_, half)| half.next_check_ms);
        }
        if self.arrivals.wait_for(self.awaited_ms) {
            return Ok(Duration::ZERO);
        }
        let until_due = self.awaited_ms.saturating_sub(self.now_ms());
        let until_due = Some(Duration::from_millis(u64::try_from(until_due).unwrap_or(0)));
        let until_try = self.deserted().next_ms();
        let until_try = until_try.map(|at_ms| Duration::from_millis(at_ms.saturating_sub(mono_ms())));
        Ok([until_due, until_try].into_iter().flatten().fold(SLEEP_MAX, Duration::min))
    }

    /// A message parked for its age stays parked: a leap of the wall clock must not count before it is accepted.
    fn now_ms(&self) -> i64 {
        self.log.store().now_ms()
    }

    /// Checks whether deserted topics have producers again: if one takes the sample, all skipped half messages are tried.
    async fn try_deserted(&mut self) -> Result<(), StoreError> {
        let store = self.log.store();
        let has_producer = |topic_id| {
            let topic = store.state().topics.by_id(topic_id);
            topic.is_some_and(|topic| !self.reach.clients().producers_of(&topic.name).is_empty())
        };
        let samples = self.deserted().due(mono_ms(), has_producer);
        for (topic_id, sample) in samples {
            let half = store.state().transactions.get(sample)?;
            let is_due = |half: &HalfMessage| half.is_undecided() && half.next_check_ms <= self.now_ms();
            // The sample was decided meanwhile: another one is chosen, if there is one.
            if let Some(half) = half.filter(is_due) {
                let check =
                    if self.is_over(&half) { CheckOutcome::Over } else { self.ask(sample, &half).await? };
                if let CheckOutcome::NoProducer = check {
                    self.deserted().add(topic_id, sample, mono_ms());
                    continue;
                }
                self.note([(sample, &half, &check)]).await;
            }
            self.deserted().remove(topic_id);
            (self.passed, self.awaited_ms) = (None, i64::MIN);
        }
        Ok(())
    }

    fn deserted(&self) -> MutexGuard<'_, DesertedTopics> {
        self.deserted.lock()
    }

    /// Handles all due half messages behind the skipped ones; `false` when that could not be logged.
    async fn check_due(&mut self) -> Result<bool, StoreError> {
        loop {
            let now_ms = self.now_ms();
            let page = self.log.store().state().transactions.due(now_ms, self.passed, PAGE)?;
            let Some((position, last)) = page.last() else {
                self.passed = self.passed.max(Some((now_ms, u64::MAX)));
                return Ok(true);
            };
            let passed = Some((last.next_check_ms, *position));
            let checker = &*self;
            let check = |(position, half): (u64, HalfMessage)| async move {
                let check = checker.due_check(position, &half).await;
                check.map(|check| (position, half, check))
            };
            let mut checks = stream::iter(page.into_iter().map(check)).buffered(AT_ONCE);
            let mut done = Vec::new();
            while let Some(check) = checks.next().await {
                done.push(check?);
            }
            drop(checks);
            if !self.note(done.iter().map(|(position, half, check)| (*position, half, check))).await {
                return Ok(false);
            }
            self.passed = passed;
        }
    }

    /// Checks a due half message, unless its topic is deserted.
    async fn due_check(&self, position: u64, half: &HalfMessage) -> Result<CheckOutcome, StoreError> {
        if self.is_over(half) {
            return Ok(CheckOutcome::Over);
        }
        if self.deserted().contains(half.topic_id) {
            return Ok(CheckOutcome::Passed);
        }
        let check = self.ask(position, half).await?;
        if let CheckOutcome::NoProducer = check {
            self.deserted().add(half.topic_id, position, mono_ms());
        }
        Ok(check)
    }

    fn is_over(&self, half: &HalfMessage) -> bool {
        self.policy_of(half.topic_id).when_due(half, self.now_ms()) == DueCheck::Park
    }

    /// The check policy of a topic.
    fn policy_of(&self, topic_id: u32) -> CheckPolicy {
        let topic = self.log.store().state().topics.by_id(topic_id);
        topic.map_or(self.policy, |topic| self.policy.of_topic(&topic.attributes))
    }

    /// Logs the outcomes of checks, and the decisions that came with them; `false` when they cannot be logged.
    async fn note<'a>(
        &self,
        checks: impl IntoIterator<Item = (u64, &'a HalfMessage, &'a CheckOutcome)>,
    ) -> bool {
        let (mut items, mut decisions) = (Vec::new(), Vec::new());
        for (position, half, check) in checks {
            items.extend(check.items(position, half, &self.policy_of(half.topic_id), self.now_ms()));
            self.tell(position, half, check);
            decisions.extend(check.decision(position));
        }
        let noted = (!items.is_empty()).then(|| Record::Progress(ProgressRecord::new(items)));
        let proposed: Vec<_> =
            noted.iter().chain(&decisions).map(|record| self.log.propose(record)).collect();
        let mut is_logged = true;
        for applied in proposed {
            if let Err(error) = applied.await {
                tracing::warn!(%error, "checks of half messages could not be logged");
                is_logged = false;
            }
        }
        is_logged
    }

    /// Logs the outcome of a check in the process's log.
    fn tell(&self, position: u64, half: &HalfMessage, check: &CheckOutcome) {
        match check {
            CheckOutcome::Taken(who) | CheckOutcome::Told(who, _) => {
                tracing::debug!(
                    position,
                    checks = half.checks.saturating_add(1),
                    who,
                    "half message checked back"
                );
            }
            check if check.parks() => {
                let (broker, message_id_crc) = (self.broker.clone(), half.message_id_crc);
                tracing::warn!(
                    transaction = TransactionId { broker, position, message_id_crc }.to_text(),
                    topic_id = half.topic_id,
                    stored_ms = half.stored_ms,
                    position,
                    checks = half.checks,
                    "half message parked after its last check; it waits to be settled: mqadmin transaction show -i TRANSACTION"
                );
            }
            _ => {}
        }
    }

    /// Sends a half message to some producer of its topic.
    async fn ask(&self, position: u64, half: &HalfMessage) -> Result<CheckOutcome, StoreError> {
        let Some(topic) = self.log.store().state().topics.by_id(half.topic_id) else {
            return Ok(CheckOutcome::NoProducer);
        };
        let command = match self.command(position, half) {
            Ok(Some(command)) => command,
            Ok(None) => return Ok(CheckOutcome::Impossible),
            Err(error) if error.is_damage() => return Ok(CheckOutcome::Impossible),
            Err(error) => return Err(error),
        };
        if let Some(client) = self.reach.check(&topic.name, &command).await {
            return Ok(CheckOutcome::Taken(client));
        }
        let Some(url) = topic.attributes.get(WEBHOOK_ATTRIBUTE) else { return Ok(CheckOutcome::NoProducer) };
        let answer = self.webhooks.ask(url, half, &command).await;
        Ok(answer.map_or(CheckOutcome::NoProducer, |answer| CheckOutcome::Told(url.clone(), answer)))
    }

    /// The command for a producer; `None` when the message is malformed.
    fn command(
        &self,
        position: u64,
        half: &HalfMessage,
    ) -> Result<Option<RecoverOrphanedTransactionCommand>, StoreError> {
        let store = self.log.store();
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
}
