//! One producer process. What becomes of a transaction follows from its label alone, so that any producer can answer for any
//! other one.

use std::time::Duration;

use anyhow::Result;
use kerolox_client::{Client, Message, Producer, Resolution, RetryPolicy};
use kerolox_harness::MessageIntent;

use super::TOPIC;

/// How a producer behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProducerKind {
    /// It commits.
    Commit,
    /// It rolls back.
    Rollback,
    /// It never decides by itself. Asked about its transactions, producers commit those with even numbers and know nothing of
    /// the others.
    Undecided,
    /// It stores nothing and answers check-backs.
    Silent,
}

impl ProducerKind {
    /// The kinds that store half messages.
    pub(super) const ALL: [Self; 3] = [Self::Commit, Self::Rollback, Self::Undecided];

    /// The word on the command line, with which labels begin too.
    pub fn word(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::Rollback => "rollback",
            Self::Undecided => "undecided",
            Self::Silent => "silent",
        }
    }

    /// The kind that a word names.
    pub fn named(word: &str) -> Option<Self> {
        [Self::Commit, Self::Rollback, Self::Undecided, Self::Silent]
            .into_iter()
            .find(|kind| kind.word() == word)
    }
}

/// What a producer says when it is asked about the transaction with a label, `KIND-NAME-NUMBER`.
pub(super) fn answer(label: &str) -> Resolution {
    let mut parts = label.split('-');
    let kind = parts.next().and_then(ProducerKind::named);
    let is_even = parts.next_back().and_then(|number| number.parse::<u64>().ok()).is_some_and(|n| n % 2 == 0);
    match kind {
        Some(ProducerKind::Commit) => Resolution::Commit,
        Some(ProducerKind::Undecided) if is_even => Resolution::Commit,
        Some(ProducerKind::Rollback) => Resolution::Rollback,
        _ => Resolution::Unknown,
    }
}

/// What must become of the message with a label.
pub(super) fn intent(label: &str) -> MessageIntent {
    match answer(label) {
        Resolution::Commit => MessageIntent::Deliver,
        Resolution::Rollback => MessageIntent::Withhold,
        _ => MessageIntent::Park,
    }
}

/// Works until it is killed, and prints the label of each half message that was acknowledged.
///
/// # Errors
/// When no broker can be reached at the start.
pub async fn produce(kind: ProducerKind, address: &str, name: &str) -> Result<()> {
    let policy = RetryPolicy::default().attempts(50);
    let producer = start(address, policy).await?;
    if kind == ProducerKind::Silent {
        return std::future::pending().await;
    }
    for number in 0_u64.. {
        let label = format!("{}-{name}-{number}", kind.word());
        let message = Message::builder(TOPIC).body(label.clone()).build();
        match producer.send_in_transaction(message).await {
            Ok(transaction) => {
                println!("{label}");
                // An answer that got lost is no harm: the check-back asks.
                let _ = match kind {
                    ProducerKind::Commit => transaction.commit().await,
                    ProducerKind::Rollback => transaction.rollback().await,
                    ProducerKind::Undecided | ProducerKind::Silent => Ok(()),
                };
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
        // Many producers on few processors: none is to starve the others, or the broker.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// A broker that was just killed is back soon.
async fn start(address: &str, policy: RetryPolicy) -> Result<Producer> {
    let client = Client::builder(address).build()?;
    let mut tries = 0;
    loop {
        let checker = |half: &kerolox_client::HalfMessage| {
            std::str::from_utf8(half.message().body()).map_or(Resolution::Unknown, answer)
        };
        let builder = client.producer().topic(TOPIC).transaction_checker_sync(checker);
        match builder.retry_policy(policy.clone()).start().await {
            Ok(producer) => return Ok(producer),
            Err(error) if tries == 100 => return Err(error.into()),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_decides() {
        assert_eq!(answer("commit-1-7"), Resolution::Commit);
        assert_eq!(answer("rollback-12-4"), Resolution::Rollback);
        assert_eq!(answer("undecided-3-4"), Resolution::Commit);
        assert_eq!(answer("undecided-3-5"), Resolution::Unknown);
        assert_eq!(answer("something else"), Resolution::Unknown);
    }
}
