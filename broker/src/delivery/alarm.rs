//! Wakes subscriptions with due work: one timer for all of them, however many consumers wait.

use std::sync::Arc;
use std::time::Duration;

use kerolox_core::delivery::{NextWake, WakeTimes};
use kerolox_runtime::process::now_ms;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// Topic, group, and, for a subscription to a lite topic, its queue.
pub(super) type Key = (u32, u32, Option<u32>);

/// The time at which each subscription is to be woken. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Alarm {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    times: Mutex<WakeTimes<Key>>,
    earlier: Notify,
}

impl Alarm {
    /// Moves the time of `key` from `before_ms` to `at_ms`.
    pub(super) fn set(&self, key: Key, before_ms: Option<i64>, at_ms: i64) {
        if self.times().set(key, before_ms, at_ms) {
            self.inner.earlier.notify_one();
        }
    }

    /// Waits for the next subscription that is due.
    pub(super) async fn next(&self) -> Key {
        loop {
            let next = self.times().next(now_ms());
            match next {
                NextWake::Due(key) => return key,
                NextWake::Wait(ms) => {
                    // The wall clock may jump, so long waits are split.
                    let pause = Duration::from_millis(ms.unsigned_abs().min(LOOK_EVERY_MS));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.inner.earlier.notified() => {}
                    }
                }
                NextWake::Nothing => self.inner.earlier.notified().await,
            }
        }
    }

    fn times(&self) -> MutexGuard<'_, WakeTimes<Key>> {
        self.inner.times.lock()
    }
}

/// Longest wait without reading the wall clock.
const LOOK_EVERY_MS: u64 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_earliest_comes_first_and_each_once() {
        let alarm = Alarm::default();
        let now_ms = now_ms();
        alarm.set((1, 1, None), None, now_ms + 30);
        alarm.set((1, 2, None), None, now_ms + 60_000);
        alarm.set((1, 2, None), Some(now_ms + 60_000), now_ms + 10);
        alarm.set((1, 3, None), None, now_ms - 1);
        let order = [alarm.next().await, alarm.next().await, alarm.next().await];
        assert_eq!(order, [(1, 3, None), (1, 2, None), (1, 1, None)]);
        let none = tokio::time::timeout(Duration::from_millis(20), alarm.next());
        assert!(none.await.is_err(), "nothing is left");
    }
}
