//! Sends what the lanes give.

use super::{Lanes, Weight};
use std::future::Future;
use std::hash::Hash;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What happens to lanes from outside.
pub(crate) enum Event<K, T> {
    /// Something is to go out, in a lane that may have `width` batches in flight.
    Item {
        /// Its lane.
        key: K,
        /// The item to send.
        item: T,
        /// Most batches of the lane that are in flight.
        width: usize,
    },
    /// All lanes are due now: waiting for company has ended.
    Flush,
}

/// Has `send` send batches until all senders of events are gone and all items are sent.
pub(crate) async fn drive<K, T, F>(
    mut lanes: Lanes<K, T>,
    mut events: mpsc::UnboundedReceiver<Event<K, T>>,
    send: impl Fn(K, Vec<T>) -> F,
) where
    K: Clone + Eq + Hash + Ord + Send + 'static,
    T: Weight,
    F: Future<Output = ()> + Send + 'static,
{
    let mut sending = JoinSet::new();
    let mut is_open = true;
    while is_open || !lanes.is_empty() || !sending.is_empty() {
        let due = lanes.next_due();
        tokio::select! {
            event = events.recv(), if is_open => match event {
                Some(Event::Item { key, item, width }) => lanes.push(key, item, width, Instant::now()),
                Some(Event::Flush) => lanes.flush(),
                None => {
                    is_open = false;
                    lanes.flush();
                }
            },
            Some(sent) = sending.join_next() => match sent {
                Ok(key) => lanes.answered(&key),
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime ends.
                    Err(_) => return,
                },
            },
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
        while let Some((key, batch)) = lanes.take(Instant::now()) {
            let sent = send(key.clone(), batch);
            sending.spawn(async move {
                sent.await;
                key
            });
        }
    }
}
