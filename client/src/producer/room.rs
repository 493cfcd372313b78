//! How much a batcher takes in: bytes, and the time that messages then wait for earlier ones.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// The limit never falls below this, bytes: requests of small messages that are under way at the same time.
const LIMIT_MIN: usize = 256 << 10;
/// The limit of a new batcher, bytes.
const LIMIT_FIRST: usize = 1 << 20;
/// The limit changes by this part of itself for each batch.
const STEP: usize = 8;

/// Room for messages that wait or are under way. A caller that finds none waits, in turn.
///
/// The limit follows the speed of the servers: it falls while messages wait longer than they may, and grows while callers wait
/// although messages do not.
#[derive(Debug)]
pub(super) struct BufferRoom {
    state: Mutex<RoomState>,
    /// Held by the caller that is next.
    turn: tokio::sync::Mutex<()>,
    freed: Notify,
    wait_max: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct RoomState {
    used: usize,
    limit: usize,
    limit_max: usize,
    /// A caller found no room since the last batch left.
    was_full: bool,
}

impl RoomState {
    fn new(limit_max: usize) -> Self {
        Self { used: 0, limit: LIMIT_FIRST.min(limit_max), limit_max, was_full: false }
    }

    /// Takes `bytes`. One message alone always fits.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.used == 0 || self.used.saturating_add(bytes) <= self.limit;
        match fits {
            true => self.used += bytes,
            false => self.was_full = true,
        }
        fits
    }

    fn give_back(&mut self, bytes: usize) {
        self.used = self.used.checked_sub(bytes).expect("no more is given back than was taken");
    }

    /// A batch leaves whose first message waited this long.
    fn batch_left(&mut self, waited: Duration, wait_max: Duration) {
        let step = self.limit / STEP;
        if waited > wait_max {
            self.limit = (self.limit - step).max(LIMIT_MIN.min(self.limit_max));
        } else if self.was_full && waited <= wait_max / 2 {
            self.limit = (self.limit + step).min(self.limit_max);
        }
        self.was_full = false;
    }
}

impl BufferRoom {
    /// Room for `bytes_max` bytes at most, in which messages wait about `wait_max` for others.
    pub(super) fn new(bytes_max: usize, wait_max: Duration) -> Self {
        let state = Mutex::new(RoomState::new(bytes_max));
        Self { state, turn: tokio::sync::Mutex::default(), freed: Notify::new(), wait_max }
    }

    /// Waits until there is room for `bytes`.
    pub(super) async fn take(self: &Arc<Self>, bytes: usize) -> RoomShare {
        let _turn = self.turn.lock().await;
        while !self.lock().take(bytes) {
            self.freed.notified().await;
        }
        RoomShare { room: Arc::clone(self), bytes }
    }

    /// A batch leaves whose first message waited this long.
    pub(super) fn batch_left(&self, waited: Duration) {
        self.lock().batch_left(waited, self.wait_max);
        self.freed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, RoomState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The room of one message, until it is dropped.
#[derive(Debug)]
pub(super) struct RoomShare {
    room: Arc<BufferRoom>,
    bytes: usize,
}

impl Drop for RoomShare {
    fn drop(&mut self) {
        self.room.lock().give_back(self.bytes);
        self.room.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT_MAX: Duration = Duration::from_millis(10);

    #[test]
    fn the_limit_follows_the_time_that_messages_wait() {
        let mut state = RoomState::new(32 << 20);
        let first = state.limit;
        assert!(state.take(first) && !state.take(1), "full");
        state.batch_left(Duration::from_millis(4), WAIT_MAX);
        let grown = state.limit;
        assert!(grown > first, "callers wait, messages do not");
        state.batch_left(Duration::from_millis(4), WAIT_MAX);
        assert_eq!(state.limit, grown, "no caller waits");
        for _ in 0..100 {
            state.batch_left(Duration::from_millis(11), WAIT_MAX);
        }
        assert_eq!(state.limit, LIMIT_MIN);
        for _ in 0..100 {
            state.was_full = true;
            state.batch_left(Duration::ZERO, WAIT_MAX);
        }
        assert_eq!(state.limit, 32 << 20);
    }

    #[test]
    fn a_message_that_is_larger_than_the_room_goes_alone() {
        let mut state = RoomState::new(100);
        assert!(state.take(500));
        assert!(!state.take(1));
        state.give_back(500);
        assert!(state.take(60) && state.take(40) && !state.take(1));
    }

    #[tokio::test]
    async fn callers_get_room_in_turn_as_it_is_given_back() {
        let room = Arc::new(BufferRoom::new(100, WAIT_MAX));
        let held = room.take(100).await;
        let large = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.take(90).await }
        });
        tokio::task::yield_now().await;
        let small = tokio::spawn({
            let room = Arc::clone(&room);
            async move { room.take(10).await }
        });
        tokio::task::yield_now().await;
        assert!(!large.is_finished() && !small.is_finished());
        drop(held);
        let (large, small) = (large.await.expect("it ends"), small.await.expect("it ends"));
        assert_eq!(room.lock().used, 100);
        drop((large, small));
        assert_eq!(room.lock().used, 0);
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_lets_the_next_one_in() {
        let room = Arc::new(BufferRoom::new(100, WAIT_MAX));
        let held = room.take(100).await;
        let gives_up = tokio::time::timeout(Duration::from_millis(5), room.take(100)).await;
        assert!(gives_up.is_err());
        drop(held);
        assert_eq!(room.take(1).await.bytes, 1);
    }
}
