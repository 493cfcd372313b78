//! The quiet client: it sends, receives and acknowledges one message at a time, like everybody on a good day.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use kerolox_client::{Client, FilterExpression, Message, RetryPolicy};
use tokio::task::JoinHandle;

pub(super) const TOPIC: &str = "hostile-quiet";
const GROUP: &str = "hostile-quiet-readers";
/// Between two sends.
const PAUSE: Duration = Duration::from_millis(10);
const INVISIBLE: Duration = Duration::from_secs(60);

/// What it saw since it was asked last.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    /// How long each send took.
    pub(super) sends: Vec<Duration>,
    pub(super) received: usize,
    pub(super) errors: Vec<String>,
}

impl Seen {
    /// The time below which `percent` of the sends were.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        percentile(&self.sends, percent)
    }
}

/// The time below which `percent` of `times` are.
pub(super) fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    open: Mutex<HashSet<String>>,
    acknowledged: AtomicU64,
    is_over: AtomicBool,
    stops_sending: AtomicBool,
}

/// The client at work.
pub(super) struct Quiet {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Quiet {
    pub(super) async fn start(client: &Client) -> Result<Self> {
        Self::retrying(client, RetryPolicy::default()).await
    }

    /// One that sends again as a policy says.
    pub(super) async fn retrying(client: &Client, policy: RetryPolicy) -> Result<Self> {
        let shared = Arc::new(Shared::default());
        let producer = client.producer().topic(TOPIC).retry_policy(policy).start().await?;
        let consumer = client.simple_consumer(GROUP).subscribe(TOPIC, FilterExpression::all());
        let consumer = consumer.await_duration(Duration::from_secs(5)).start().await?;
        let sender = shared.clone();
        let sending = tokio::spawn(async move {
            let mut number = 0_u64;
            while !sender.stops_sending.load(Ordering::Relaxed) {
                let body = number.to_string();
                number += 1;
                // Known before it is sent: it may be received before its answer is.
                sender.open().insert(body.clone());
                let began = Instant::now();
                let sent = producer.send(Message::builder(TOPIC).body(body.clone()).build()).await;
                match sent {
                    Ok(_) => {
                        sender.seen().sends.push(began.elapsed());
                        sender.acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    Err(error) => {
                        sender.seen().errors.push(format!("send: {error}"));
                        sender.open().remove(&body);
                    }
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        let receiver = shared.clone();
        let receiving = tokio::spawn(async move {
            while !receiver.is_over.load(Ordering::Relaxed) {
                let deliveries = match consumer.receive(16, INVISIBLE).await {
                    Ok(deliveries) => deliveries,
                    Err(error) => {
                        receiver.seen().errors.push(format!("receive: {error}"));
                        continue;
                    }
                };
                for delivery in deliveries {
                    receiver.open().remove(&String::from_utf8_lossy(delivery.message().body()).into_owned());
                    receiver.seen().received += 1;
                    if let Err(error) = consumer.ack(&delivery).await {
                        receiver.seen().errors.push(format!("ack: {error}"));
                    }
                }
            }
        });
        Ok(Self { shared, tasks: vec![sending, receiving] })
    }

    /// What it saw since this was called last.
    pub(super) fn take(&self) -> Seen {
        std::mem::take(&mut self.shared.seen())
    }

    /// Stops sending, and waits until all that was acknowledged was received; how many that are, or how many did not come.
    pub(super) async fn settle(self, patience: Duration) -> Result<u64, String> {
        self.shared.stops_sending.store(true, Ordering::Relaxed);
        let began = Instant::now();
        let is_done = |quiet: &Self| quiet.tasks[0].is_finished() && quiet.shared.open().is_empty();
        while !is_done(&self) && began.elapsed() < patience {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.shared.is_over.store(true, Ordering::Relaxed);
        self.tasks.iter().for_each(JoinHandle::abort);
        let acknowledged = self.shared.acknowledged.load(Ordering::Relaxed);
        match self.shared.open().len() {
            0 => Ok(acknowledged),
            lost => Err(format!("{lost} of {acknowledged} acknowledged messages did not come")),
        }
    }
}

impl Shared {
    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
