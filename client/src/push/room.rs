//! How many messages a push consumer holds.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Messages that were received and not settled yet, against their limits. Clones share the count.
#[derive(Debug, Clone)]
pub(super) struct Room {
    held: Arc<watch::Sender<Held>>,
    limit: Held,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Held {
    messages: usize,
    bytes: usize,
}

/// The place of one message; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    held: Arc<watch::Sender<Held>>,
    bytes: usize,
}

impl Room {
    pub(super) fn new(messages: usize, bytes: usize) -> Self {
        Self { held: Arc::new(watch::Sender::new(Held::default())), limit: Held { messages, bytes } }
    }

    /// Waits until there is room for a message.
    pub(super) async fn wait(&self) {
        let limit = self.limit;
        self.until(move |held| held.messages < limit.messages && held.bytes < limit.bytes).await;
    }

    /// Takes a message in, whether or not there is room: it is here already.
    pub(super) fn admit(&self, bytes: usize) -> Place {
        self.held.send_modify(|held| {
            held.messages += 1;
            held.bytes += bytes;
        });
        Place { held: Arc::clone(&self.held), bytes }
    }

    pub(super) fn messages(&self) -> usize {
        self.held.borrow().messages
    }

    /// Waits until all are settled, up to `patience`; how many are not.
    pub(super) async fn empty(&self, patience: Duration) -> usize {
        // Who takes longer is counted.
        let _ = tokio::time::timeout(patience, self.until(|held| held.messages == 0)).await;
        self.messages()
    }

    async fn until(&self, condition: impl Fn(&Held) -> bool) {
        let mut held = self.held.subscribe();
        held.wait_for(|held| condition(held)).await.expect("the sender lives as long as this room");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.held.send_modify(|held| {
            held.messages -= 1;
            held.bytes -= self.bytes;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn either_limit_closes_the_room_until_something_is_settled() {
        for (messages, bytes) in [(2, 1000), (1000, 20)] {
            let room = Room::new(messages, bytes);
            room.wait().await;
            let places = [room.admit(10), room.admit(10)];
            let soon = Duration::from_millis(20);
            assert!(tokio::time::timeout(soon, room.wait()).await.is_err());
            assert_eq!(room.empty(soon).await, 2);
            let [first, second] = places;
            drop(first);
            room.wait().await;
            drop(second);
            assert_eq!(room.empty(soon).await, 0);
        }
    }
}
