//! Sleeping until an entry of the store is due, although earlier ones may be stored meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use tokio::sync::Notify;

/// The time of a task that waits for nothing.
pub(crate) const NEVER_MS: i64 = i64::MAX;

/// Wakes a task when an entry is stored that is due before the awaited time. It exists before the store does. Cheap to clone.
#[derive(Clone)]
pub(crate) struct DueArrivals {
    shared: Arc<Shared>,
}

struct Shared {
    wake: Notify,
    /// Earliest due time that was stored since the task last checked.
    earliest_ms: AtomicI64,
    /// The time that the task waits for.
    awaited_ms: AtomicI64,
}

impl Default for DueArrivals {
    fn default() -> Self {
        let (earliest_ms, awaited_ms) = (AtomicI64::new(NEVER_MS), AtomicI64::new(NEVER_MS));
        Self { shared: Arc::new(Shared { wake: Notify::new(), earliest_ms, awaited_ms }) }
    }
}

impl DueArrivals {
    /// Reports an entry that is due at this time, milliseconds since the Unix epoch, and can be looked up.
    pub(crate) fn notice(&self, due_ms: i64) {
        let shared = &self.shared;
        shared.earliest_ms.fetch_min(due_ms, Ordering::SeqCst);
        if due_ms < shared.awaited_ms.load(Ordering::SeqCst) {
            shared.wake.notify_one();
        }
    }

    /// Returns when an entry is due before the awaited time.
    pub(crate) async fn woken(&self) {
        self.shared.wake.notified().await;
    }

    /// The earliest due time reported since the last call, or [`NEVER_MS`].
    pub(crate) fn take_earliest(&self) -> i64 {
        self.shared.earliest_ms.swap(NEVER_MS, Ordering::SeqCst)
    }

    /// From now on every entry that is due before `due_ms` wakes the task. Returns whether such an entry was reported
    /// already.
    pub(crate) fn wait_for(&self, due_ms: i64) -> bool {
        self.shared.awaited_ms.store(due_ms, Ordering::SeqCst);
        self.shared.earliest_ms.load(Ordering::SeqCst) < due_ms
    }
}

/// The position of a task in a list that is ordered by due time and position: all entries up to here are finished. Reading
/// there again would mean going over all entries removed since RocksDB last compacted.
pub(crate) type Passed = Option<(i64, u64)>;

/// Moves back to an entry that was added at or before the passed ones.
pub(crate) fn look_back(passed: &mut Passed, earliest_ms: i64) {
    if passed.is_some_and(|(due_ms, _)| earliest_ms <= due_ms) {
        // Positions begin with 0, so no entry of the previous millisecond can be behind this.
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
