//! What the servers say about the group of a push consumer.

use kerolox_model::backoff::Backoff;
use kerolox_proto::v2;
use kerolox_proto::v2::retry_policy::Strategy;
use std::time::Duration;

/// How the messages of a group are delivered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plan {
    /// Whether messages of a message group come one after the other.
    pub(super) is_fifo: bool,
    /// Attempts before a message becomes a dead letter.
    pub(super) max_attempts: u32,
    /// Delays between them.
    backoff: Backoff,
    /// Messages of one receive.
    pub(super) batch: usize,
}

/// Messages of one receive where the servers do not say; more are never handed out.
const BATCH: usize = 32;
/// Attempts where the servers do not say: those of RocketMQ.
const ATTEMPTS: u32 = 17;

impl Plan {
    /// Reads settings of a server; what it leaves out has RocketMQ's defaults.
    pub(super) fn of(settings: &v2::Settings) -> Self {
        let subscription = match &settings.pub_sub {
            Some(v2::settings::PubSub::Subscription(subscription)) => Some(subscription),
            _ => None,
        };
        let policy = settings.backoff_policy.as_ref();
        let batch = subscription.and_then(|subscription| subscription.receive_batch_size);
        let batch = batch.and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
        let attempts = policy.and_then(|policy| u32::try_from(policy.max_attempts).ok());
        let is_fifo = subscription.is_some_and(|subscription| subscription.fifo.unwrap_or(false));
        Self {
            is_fifo,
            max_attempts: attempts.filter(|attempts| *attempts > 0).unwrap_or(ATTEMPTS),
            backoff: policy
                .and_then(|policy| policy.strategy.as_ref())
                .and_then(backoff)
                .unwrap_or_else(|| Backoff::by_default(is_fifo)),
            batch: batch.map_or(BATCH, |size| size.min(BATCH)),
        }
    }

    /// The pause before the attempt that follows attempt number `attempt`.
    pub(super) fn delay(&self, attempt: u32) -> Duration {
        self.backoff.delay(attempt)
    }
}

/// `None` for what gives no delay.
fn backoff(strategy: &Strategy) -> Option<Backoff> {
    match strategy {
        Strategy::ExponentialBackoff(wire) => Some(Backoff::Exponential {
            initial: duration(wire.initial.as_ref())?,
            max: duration(wire.max.as_ref())?,
            multiplier: wire.multiplier.max(1.0),
        }),
        Strategy::CustomizedBackoff(wire) => {
            let delays: Vec<Duration> = wire.next.iter().filter_map(|delay| duration(Some(delay))).collect();
            (!delays.is_empty()).then_some(Backoff::Listed(delays))
        }
    }
}

fn duration(wire: Option<&prost_types::Duration>) -> Option<Duration> {
    Duration::try_from(*wire?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(fifo: bool, strategy: Option<Strategy>) -> v2::Settings {
        let subscription =
            v2::Subscription { fifo: Some(fifo), receive_batch_size: Some(8), ..Default::default() };
        v2::Settings {
            pub_sub: Some(v2::settings::PubSub::Subscription(subscription)),
            backoff_policy: Some(v2::RetryPolicy { max_attempts: 5, strategy }),
            ..Default::default()
        }
    }

    #[test]
    fn both_kinds_of_back_off_are_understood() {
        let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
        let listed = v2::CustomizedBackoff { next: vec![seconds(1), seconds(5)] };
        let plan = Plan::of(&told(true, Some(Strategy::CustomizedBackoff(listed))));
        assert_eq!((plan.is_fifo, plan.max_attempts, plan.batch), (true, 5, 8));
        assert_eq!([1, 2, 9].map(|attempt| plan.delay(attempt).as_secs()), [1, 5, 5]);
        let growing =
            v2::ExponentialBackoff { initial: Some(seconds(1)), max: Some(seconds(3)), multiplier: 2.0 };
        let plan = Plan::of(&told(false, Some(Strategy::ExponentialBackoff(growing))));
        assert_eq!([1, 2, 9].map(|attempt| plan.delay(attempt).as_secs()), [1, 2, 3]);
    }

    #[test]
    fn what_is_missing_has_defaults() {
        let plan = Plan::of(&v2::Settings::default());
        assert_eq!((plan.is_fifo, plan.max_attempts, plan.batch), (false, ATTEMPTS, BATCH));
        assert_eq!(plan.delay(1), Duration::from_secs(10));
        let empty = Strategy::CustomizedBackoff(v2::CustomizedBackoff::default());
        assert_eq!(Plan::of(&told(false, Some(empty))).delay(1), Duration::from_secs(10));
    }
}
