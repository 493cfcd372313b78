//! Wakes subscriptions when something of theirs comes due: one timer for all of them, however many consumers wait.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kerolox_runtime::process::now_ms;
use tokio::sync::Notify;

/// Topic, group, and queue of a subscription to a lite topic, which others do not have.
pub(super) type Key = (u32, u32, Option<u32>);

/// When which subscription is to be woken. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Alarm {
    inner: Arc<Inner>,
}

#[derive(Default)]
struct Inner {
    times: Mutex<BTreeSet<(i64, Key)>>,
    earlier: Notify,
}

impl Alarm {
    /// Wakes `key` at `at_ms` instead of at `before_ms`.
    pub(super) fn set(&self, key: Key, before_ms: Option<i64>, at_ms: i64) {
        let mut times = self.inner.times.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before_ms) = before_ms {
            times.remove(&(before_ms, key));
        }
        let is_first = times.first().is_none_or(|(first_ms, _)| at_ms < *first_ms);
        times.insert((at_ms, key));
        drop(times);
        if is_first {
            self.inner.earlier.notify_one();
        }
    }

    /// The next subscription whose time has come; waits for it.
    pub(super) async fn next(&self) -> Key {
        loop {
            let wait = {
                let mut times = self.inner.times.lock().unwrap_or_else(PoisonError::into_inner);
                match times.first().copied() {
                    Some((at_ms, key)) if at_ms <= now_ms() => {
                        times.pop_first();
                        return key;
                    }
                    // The wall clock may jump, so nothing is waited for in one piece.
                    first => first.map(|(at_ms, _)| (at_ms - now_ms()).clamp(1, LOOK_EVERY_MS)),
                }
            };
            match wait {
                Some(ms) => {
                    let pause = Duration::from_millis(u64::try_from(ms).unwrap_or(1));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.inner.earlier.notified() => {}
                    }
                }
                None => self.inner.earlier.notified().await,
            }
        }
    }
}

/// Longest wait without a look at the wall clock.
const LOOK_EVERY_MS: i64 = 1_000;

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
