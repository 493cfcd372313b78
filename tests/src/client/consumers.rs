//! Consumers of all kinds.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures_util::StreamExt as _;
use kerolox_client::{
    Client, Delivery, FilterExpression, Position, PullConsumer, PushConsumer, SimpleConsumer, Verdict,
};
use tokio::task::JoinSet;

use super::cluster::ORDERED_GROUP;
use super::ledger::ClientLedger;
use super::producers::text;
use super::{CALM, ORDERED, TRANSACTIONS, UNIQUE, eventually};

/// What was received and not acknowledged comes again after this time.
const INVISIBLE: Duration = Duration::from_secs(10);
/// One message in so many fails at first.
const FAILING: u64 = 50;

/// Who consumes which topic. The last one reads and does not acknowledge.
pub(super) const READINGS: [(&str, &str); 5] = [
    ("push", UNIQUE),
    ("simple", UNIQUE),
    (ORDERED_GROUP, ORDERED),
    ("transactions-push", TRANSACTIONS),
    ("pull", UNIQUE),
];

pub(super) struct Consumers {
    pushed: Vec<PushConsumer>,
    tasks: JoinSet<()>,
}

impl Consumers {
    pub(super) async fn start(client: &Client, ledger: &ClientLedger) -> Result<Self> {
        let mut pushed = Vec::new();
        for (group, topic) in READINGS.into_iter().filter(|(group, _)| group.ends_with("push")) {
            // Two members, so that they share.
            for _ in 0..2 {
                let ledger = ledger.clone();
                let consumer = client
                    .push_consumer(group)
                    .subscribe(topic, FilterExpression::all())
                    .invisible_duration(INVISIBLE)
                    .await_duration(Duration::from_secs(2))
                    .start(move |delivery| {
                        let ledger = ledger.clone();
                        async move { listen(&ledger, group, &delivery) }
                    })
                    .await?;
                pushed.push(consumer);
            }
        }
        let mut tasks = JoinSet::new();
        let simple = client.simple_consumer("simple").subscribe(UNIQUE, FilterExpression::all());
        let simple = simple.await_duration(Duration::from_secs(2)).start().await?;
        let simple = Arc::new(simple);
        tasks.spawn(receive(Arc::clone(&simple), ledger.clone()));
        tasks.spawn(receive(simple, ledger.clone()));
        let pull = client.pull_consumer("pull").await_duration(Duration::from_secs(2)).start().await?;
        tasks.spawn(read(pull, ledger.clone()));
        Ok(Self { pushed, tasks })
    }

    /// Waits until everybody has got everything, or for as long as that may take.
    pub(super) async fn wait_for_all(&self, ledger: &ClientLedger) {
        eventually(|| {
            READINGS.iter().all(|(consumer, topic)| ledger.messages.missing(consumer, topic).is_empty())
        })
        .await;
    }

    /// Shuts the push consumers down; how many messages were with listeners still.
    pub(super) async fn stop(mut self) -> usize {
        self.tasks.abort_all();
        let mut left = 0;
        for consumer in self.pushed {
            left += consumer.shutdown(CALM).await;
        }
        left
    }
}

fn listen(ledger: &ClientLedger, group: &'static str, delivery: &Delivery) -> Verdict {
    let body = text(delivery.message());
    let number: u64 = body.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
    if delivery.attempt() == 1 && number % FAILING == FAILING - 1 {
        return Verdict::AgainIn(Duration::from_millis(500));
    }
    ledger.messages.note_received(group, &body);
    Verdict::Done
}

async fn receive(consumer: Arc<SimpleConsumer>, ledger: ClientLedger) {
    let mut deliveries = pin!(consumer.deliveries(16, INVISIBLE));
    while let Some(next) = deliveries.next().await {
        match next {
            Ok(delivery) => {
                ledger.messages.note_received("simple", &text(delivery.message()));
                if consumer.ack(&delivery).await.is_err() {
                    ledger.notes().failed_acks += 1;
                }
            }
            Err(error) => ledger.notes().misread.push(format!("receive: {error}")),
        }
    }
}

/// Reads every queue from its beginning, each message once and in order.
async fn read(consumer: PullConsumer, ledger: ClientLedger) {
    let messages = match consumer.read(UNIQUE, Position::Earliest).await {
        Ok(messages) => messages,
        Err(error) => return ledger.notes().misread.push(format!("read: {error}")),
    };
    let mut messages = pin!(messages);
    while let Some(next) = messages.next().await {
        match next {
            Ok(pulled) => {
                ledger.messages.note_received("pull", &text(pulled.message()));
                let (queue, offset) = (pulled.queue().to_string(), pulled.offset());
                let last = ledger.notes().read_to.insert(queue.clone(), offset);
                if last.is_some_and(|last| last + 1 != offset) {
                    ledger.notes().misread.push(format!("{queue}: {offset} after {last:?}"));
                }
            }
            Err(error) => ledger.notes().misread.push(format!("pull: {error}")),
        }
    }
}
