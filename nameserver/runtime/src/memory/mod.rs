//! The memory that a server lends to its callers: for requests that are being read, answers that are being
//! written, sessions and calls that wait. All memory that callers can tie up is taken from one budget; when
//! it is used up, new callers are told so, and those that hold most for longest give way.
//!
//! The amounts are estimates on the safe side: a call is charged more than its bytes, because their decoded
//! form takes more.

mod container;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::config::ByteSize;
use crate::health::HealthCheck;
use crate::listen::CallRefusal;

/// Share of the memory that callers get where nothing is configured: a fourth. The other parts are for the index, the newest
/// messages, and what waits for the disk.
const SHARE: u64 = 4;
/// Less than this is of no use: a single large message takes half, in its decoded form.
const BUDGET_MIN: u64 = 32 << 20;
/// The budget where neither a container nor the machine says how much there is.
const BUDGET_UNKNOWN: u64 = 256 << 20;
/// One connection may take a fourth of the budget.
const CONNECTION_SHARE: usize = 4;
/// This part of the budget may be on its way on one connection, and no less than the window.
const WINDOWS: usize = 128;
const WINDOW_MIN: u32 = 512 << 10;
/// A connection that has no more than this part of the budget may wait for room.
const MODEST: usize = 64;
/// A connection that has no more than this part of the budget may have more, whatever others have.
const LITTLE: usize = 256;

/// Memory for callers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct MemorySettings {
    /// Memory for what callers make the server keep: requests that are being read, answers that are being written, sessions, calls
    /// that wait. Over it new calls are refused with TOO_MANY_REQUESTS, and what holds most for longest is given up; one connection
    /// may take a fourth. 0 means a fourth of what the container may use, else of the machine's memory, 32MiB at the least.
    pub budget: ByteSize,
}

impl Default for MemorySettings {
    fn default() -> Self {
        Self { budget: ByteSize::from_bytes(0) }
    }
}

impl MemorySettings {
    fn bytes(&self) -> usize {
        let bytes = match self.budget.bytes() {
            0 => container::limit().map_or(BUDGET_UNKNOWN, |limit| (limit / SHARE).max(BUDGET_MIN)),
            bytes => bytes,
        };
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// How much of the budget may be in use for something to be taken from it still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    /// A session, or a connection: these stay for long, and half of the budget is enough for them.
    Stay,
    /// A new call.
    New,
    /// More for a call that was let in.
    Grow,
    /// Messages that the members of a cluster must exchange.
    Vital,
}

impl Level {
    /// In hundredths of the budget.
    fn percent(self) -> usize {
        match self {
            Self::Stay => 50,
            Self::New => 80,
            Self::Grow => 90,
            Self::Vital => 100,
        }
    }
}

/// The budget of one process.
#[derive(Debug)]
pub struct MemoryBudget {
    limit: usize,
    used: AtomicUsize,
    peak: AtomicUsize,
    /// How many wait for room.
    waiting: AtomicUsize,
    room: Notify,
    short: Notify,
    refused: AtomicU64,
    given_up: AtomicU64,
}

impl MemoryBudget {
    pub(crate) fn new(settings: &MemorySettings) -> Self {
        Self {
            limit: settings.bytes(),
            used: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            room: Notify::new(),
            short: Notify::new(),
            refused: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
        }
    }

    /// What one connection may take, in bytes.
    pub(crate) fn share(&self) -> usize {
        self.limit / CONNECTION_SHARE
    }

    fn at(&self, level: Level) -> usize {
        self.limit / 100 * level.percent()
    }

    /// Bytes that a peer may send before they are read: those are not counted yet.
    pub(crate) fn window(&self) -> u32 {
        u32::try_from(self.limit / WINDOWS).unwrap_or(u32::MAX).max(WINDOW_MIN)
    }

    /// Whether a connection that has so many bytes may wait for more; others are refused at once, so that what they have sent is not
    /// kept meanwhile.
    pub(crate) fn may_wait(&self, held: usize) -> bool {
        held <= self.limit / MODEST
    }

    /// What one connection may have at the moment: as much as is left for new calls, or very little.
    pub(crate) fn fair(&self) -> usize {
        let left = self.at(Level::New).saturating_sub(self.used.load(Ordering::Acquire));
        left.max(self.limit / LITTLE)
    }

    /// Takes so many bytes if there is room for them at this level.
    pub(crate) fn take(&self, bytes: usize, level: Level) -> bool {
        let most = self.at(level);
        let add = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= most);
        let taken = self.used.fetch_update(Ordering::SeqCst, Ordering::Relaxed, add);
        match taken {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                true
            }
            Err(_) => {
                self.short.notify_one();
                false
            }
        }
    }

    /// Takes bytes that are in use already, whether there is room or not.
    pub(crate) fn force(&self, bytes: usize) {
        let before = self.used.fetch_add(bytes, Ordering::AcqRel);
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        if before + bytes > self.at(Level::Grow) {
            self.short.notify_one();
        }
    }

    /// Gives bytes back.
    pub(crate) fn give(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.room.notify_waiters();
        }
    }

    /// How many bytes have to be given back so that new calls find room again; 0 while they do.
    pub(crate) fn excess(&self) -> usize {
        let used = self.used.load(Ordering::Acquire);
        match used > self.at(Level::New) - self.limit / 20 {
            true => used - self.limit / 100 * 70,
            false => 0,
        }
    }

    /// Completes when something found no room.
    pub(crate) async fn shortage(&self) {
        self.short.notified().await;
    }

    /// Tries `take` whenever something was given back, until it succeeds.
    pub(crate) async fn wait_until(&self, mut take: impl FnMut() -> bool) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        let _waiting = Waiting(&self.waiting);
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            room.as_mut().enable();
            if take() {
                return;
            }
            room.await;
        }
    }

    /// Refuses a call.
    pub(crate) fn refuse(&self) -> CallRefusal {
        self.refused.fetch_add(1, Ordering::Relaxed);
        CallRefusal::MemoryExhausted
    }

    /// Counts a call or a connection that was ended to make room.
    pub(crate) fn gave_up(&self) {
        self.given_up.fetch_add(1, Ordering::Relaxed);
    }

    /// How many calls were refused, and how much was ended to make room.
    pub(crate) fn troubles(&self) -> (u64, u64) {
        (self.refused.load(Ordering::Relaxed), self.given_up.load(Ordering::Relaxed))
    }

    /// How much is in use, for health checks.
    pub fn check(&self) -> HealthCheck {
        let mebibytes = |bytes: usize| bytes.div_ceil(1 << 20);
        let (refused, given_up) = self.troubles();
        let used = self.used.load(Ordering::Relaxed);
        let said = format!(
            "callers use {} MiB of {}, {} at the most so far; {refused} calls were refused since the start, {given_up} given up",
            mebibytes(used),
            mebibytes(self.limit),
            mebibytes(self.peak.load(Ordering::Relaxed)),
        );
        if used > self.at(Level::New) {
            return HealthCheck::warning("memory", format!("calls are refused: {said}"));
        }
        HealthCheck::ok("memory", said)
    }
}

/// A caller that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn memory() -> MemoryBudget {
        MemoryBudget::new(&MemorySettings { budget: ByteSize::from_bytes(1000) })
    }

    #[test]
    fn what_stays_leaves_room_for_calls_and_they_for_what_is_vital() {
        let memory = memory();
        assert!(memory.take(500, Level::Stay) && !memory.take(1, Level::Stay));
        assert!(memory.take(300, Level::New) && !memory.take(1, Level::New));
        assert!(memory.take(100, Level::Grow) && !memory.take(1, Level::Grow));
        assert!(memory.take(100, Level::Vital) && !memory.take(1, Level::Vital));
        assert_eq!(memory.excess(), 300);
        memory.force(50);
        assert_eq!(memory.check().state, crate::health::HealthState::Warning);
        memory.give(1050);
        assert_eq!((memory.excess(), memory.used.load(Ordering::Relaxed)), (0, 0));
        assert!(!memory.take(usize::MAX, Level::Vital));
    }

    #[tokio::test]
    async fn who_waits_hears_of_room() {
        let memory = memory();
        assert!(memory.take(800, Level::New));
        let wait = memory.wait_until(|| memory.take(100, Level::New));
        let give = async {
            tokio::time::sleep(Duration::from_millis(10)).await;
            memory.give(100);
        };
        tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(wait, give) }).await.unwrap();
        assert_eq!(memory.waiting.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_share_of_the_memory_is_for_callers() {
        assert!(MemoryBudget::new(&MemorySettings::default()).limit >= 32 << 20);
    }
}
