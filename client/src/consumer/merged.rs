//! Deliveries of all queues as one stream.

use super::receiver::{Fetch, Receiver, receiving};
use crate::delivery::Delivery;
use crate::error::Result;
use crate::route::Queue;
use futures_util::stream::{self, BoxStream, SelectAll, Stream, StreamExt as _};
use std::time::Duration;
use tokio::time::Instant;

/// How often to look whether there are other queues to receive from.
const LOOK: Duration = Duration::from_secs(5);

/// A topic, and a queue of it.
type Source = (String, Queue);

/// What a queue gives.
enum Item {
    Delivery(Result<Box<Delivery>>),
    /// The servers do not let this consumer receive from it any more.
    End(Source),
}

/// The queues that are received from, each on its own.
struct Merged<'a> {
    receiver: &'a Receiver,
    max_messages: usize,
    invisible_duration: Duration,
    polls: SelectAll<BoxStream<'a, Item>>,
    polled: Vec<Source>,
    look_at: Instant,
}

/// Receives from all queues at the same time; see [`SimpleConsumer::deliveries`](super::SimpleConsumer::deliveries).
pub(super) fn merged(
    receiver: &Receiver,
    max_messages: usize,
    invisible_duration: Duration,
) -> impl Stream<Item = Result<Delivery>> + Send + '_ {
    let merged = Merged {
        receiver,
        max_messages,
        invisible_duration,
        polls: SelectAll::new(),
        polled: Vec::new(),
        look_at: Instant::now(),
    };
    stream::unfold(merged, |mut merged| async move { Some((merged.next().await, merged)) })
}

impl Merged<'_> {
    async fn next(&mut self) -> Result<Delivery> {
        loop {
            tokio::select! {
                Some(item) = self.polls.next() => match item {
                    Item::Delivery(delivery) => return delivery.map(|delivery| *delivery),
                    Item::End(source) => self.polled.retain(|polled| *polled != source),
                },
                () = tokio::time::sleep_until(self.look_at) => self.look().await?,
            }
        }
    }

    /// Begins to receive from queues that are new.
    async fn look(&mut self) -> Result<()> {
        self.look_at = Instant::now() + LOOK;
        match self.receiver.assigned().await {
            Ok(assigned) => {
                for source in assigned.iter() {
                    if self.polled.contains(source) {
                        continue;
                    }
                    self.polled.push(source.clone());
                    let fetch = Fetch {
                        max_messages: self.max_messages,
                        invisible_duration: self.invisible_duration,
                        attempt_id: None,
                    };
                    self.polls.push(poll(self.receiver, source.clone(), fetch).boxed());
                }
                Ok(())
            }
            Err(error) if error.is_retryable() => {
                tracing::debug!(%error, "no assignment; asking again");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// What comes from one queue, as long as the servers let this consumer receive from it.
fn poll(receiver: &Receiver, source: Source, fetch: Fetch) -> impl Stream<Item = Item> + Send + '_ {
    let end = stream::once(std::future::ready(Item::End(source.clone())));
    let deliveries = stream::unfold((source, 0), move |(source, failures)| {
        let fetch = fetch.clone();
        async move {
            let assigned = receiver.assigned().await;
            if assigned.is_ok_and(|assigned| !assigned.contains(&source)) {
                return None;
            }
            let (items, failures) = match receiver.receive(&source.0, &source.1, fetch).await {
                Ok(deliveries) => (deliveries.into_iter().map(Ok).collect(), 0),
                Err(error) => {
                    tracing::debug!(%error, "receive failed; retrying");
                    tokio::time::sleep(receiving().pause_after(failures + 1)).await;
                    (if error.is_retryable() { Vec::new() } else { vec![Err(error)] }, failures + 1)
                }
            };
            Some((stream::iter(items), (source, failures)))
        }
    });
    deliveries.flatten().map(|delivery: Result<Delivery>| Item::Delivery(delivery.map(Box::new))).chain(end)
}
