//! Sleeping until something in the store is due, although earlier things may be stored meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Notify;

/// Nothing is waited for.
pub(crate) const NEVER_MS: i64 = i64::MAX;

/// Wakes a task when something is stored that is due before what it waits for. It exists before the store does. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DueArrivals {
    shared: Arc<Shared>,
}

struct Shared {
    wake: Notify,
    /// Earliest due time that came since the task looked last.
    earliest_ms: AtomicI64,
    /// What the task waits for.
    awaited_ms: AtomicI64,
}

impl Default for DueArrivals {
    fn default() -> Self {
        let (earliest_ms, awaited_ms) = (AtomicI64::new(NEVER_MS), AtomicI64::new(NEVER_MS));
        Self { shared: Arc::new(Shared { wake: Notify::new(), earliest_ms, awaited_ms }) }
    }
}

impl DueArrivals {
    /// Something is due at a time, milliseconds since the Unix epoch, and can be looked up.
    pub(crate) fn notice(&self, due_ms: i64) {
        let shared = &self.shared;
        shared.earliest_ms.fetch_min(due_ms, Ordering::SeqCst);
        if due_ms < shared.awaited_ms.load(Ordering::SeqCst) {
            shared.wake.notify_one();
        }
    }

    /// Returns when something is due before what is waited for.
    pub(crate) async fn woken(&self) {
        self.shared.wake.notified().await;
    }

    /// The earliest due time that came since this was called last, or [`NEVER_MS`].
    pub(crate) fn take_earliest(&self) -> i64 {
        self.shared.earliest_ms.swap(NEVER_MS, Ordering::SeqCst)
    }

    /// From now on whatever is due before `due_ms` wakes the task. Says whether something like that came already.
    pub(crate) fn wait_for(&self, due_ms: i64) -> bool {
        self.shared.awaited_ms.store(due_ms, Ordering::SeqCst);
        self.shared.earliest_ms.load(Ordering::SeqCst) < due_ms
    }
}

/// How far a task has come in a list that is ordered by due time and position: nothing up to here is left to do. Looking there
/// again would mean going over all that was done since RocksDB compacted last.
pub(crate) type Passed = Option<(i64, u64)>;

/// Back to where something came that is due at or before what was passed.
pub(crate) fn look_back(passed: &mut Passed, earliest_ms: i64) {
    if passed.is_some_and(|(due_ms, _)| earliest_ms <= due_ms) {
        // Positions begin with 0, so nothing of the millisecond before can stand behind this.
        *passed = Some((earliest_ms.saturating_sub(1), u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_comes_before_the_awaited_wakes() {
        let arrivals = DueArrivals::default();
        assert!(!arrivals.wait_for(100));
        let is_woken = || {
            let woken = arrivals.shared.wake.notified();
            tokio::pin!(woken);
            woken.enable()
        };
        arrivals.notice(100);
        assert!(!is_woken());
        arrivals.notice(99);
        assert!(is_woken());
        assert_eq!((arrivals.take_earliest(), arrivals.take_earliest()), (99, NEVER_MS));
    }

    #[test]
    fn what_comes_while_nobody_waits_is_not_missed() {
        let arrivals = DueArrivals::default();
        arrivals.notice(50);
        assert!(!arrivals.wait_for(50));
        assert!(arrivals.wait_for(51));
    }

    #[test]
    fn what_is_due_before_what_was_passed_is_looked_at_again() {
        let mut passed = Some((100, 7));
        look_back(&mut passed, 101);
        assert_eq!(passed, Some((100, 7)));
        look_back(&mut passed, 100);
        assert_eq!(passed, Some((99, u64::MAX)));
    }
}
