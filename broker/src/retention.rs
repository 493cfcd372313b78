//! Retention: which old segments go, and when sends are refused for lack of room.
//!
//! The decision is [`plan`], a function of what the disk and the log look like; [`Keeper`] looks, and acts.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kerolox_kit::process::now_ms;
use kerolox_store::{Store, TrimPoint};

/// How long and how much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages are kept this long at least, milliseconds, as long as there is room.
    pub time_ms: i64,
    /// The log is kept below this, in bytes.
    pub log_bytes: u64,
    /// Free bytes of the file system below which old segments go early.
    pub free_bytes_low: u64,
    /// Free bytes below which sends are refused.
    pub free_bytes_min: u64,
}

/// What the broker sees of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Free bytes of the file system that holds it.
    pub free_bytes: u64,
}

/// A place where the log can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Bytes that go with it.
    pub frees: u64,
    /// Everything before it is older than this, milliseconds since the Unix epoch.
    pub since_ms: i64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Number of the cut to make, if any.
    pub cut: Option<usize>,
    /// Whether messages are to be refused.
    pub refuse: bool,
    /// Whether the operator should know that room runs out.
    pub warn: bool,
}

/// Decides. `cuts` are in the order of the log; making one makes all before it superfluous.
pub fn plan(limits: &Limits, sight: &Sight, cuts: &[Cut]) -> Plan {
    let old = |cut: &Cut| sight.now_ms.saturating_sub(cut.since_ms) >= limits.time_ms;
    let by_age = cuts.iter().rposition(old);
    // The first cut that brings the log below its limit; the last one if none does.
    let enough = |wanted: u64| {
        let found = cuts.iter().position(|cut| cut.frees >= wanted);
        if wanted == 0 { None } else { found.or(cuts.len().checked_sub(1)) }
    };
    let by_size = enough(sight.log_bytes.saturating_sub(limits.log_bytes));
    let by_room = enough(limits.free_bytes_low.saturating_sub(sight.free_bytes));
    Plan {
        cut: by_age.max(by_size).max(by_room),
        refuse: sight.free_bytes < limits.free_bytes_min,
        warn: sight.free_bytes < limits.free_bytes_low,
    }
}

/// Whether sends are refused for lack of room. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Room {
    is_short: Arc<AtomicBool>,
}

impl Room {
    /// Whether messages are to be refused.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }
}

/// The task that looks after old segments.
pub struct Keeper {
    /// The store.
    pub store: Arc<Store>,
    /// A folder on the file system that holds the log.
    pub folder: PathBuf,
    /// What is kept.
    pub limits: Limits,
    /// How often to look.
    pub interval: Duration,
    /// Tells who stores messages.
    pub room: Room,
}

impl Keeper {
    /// Runs for ever.
    pub async fn run(self) {
        let keeper = Arc::new(self);
        let mut ticks = tokio::time::interval(keeper.interval);
        let mut warned = false;
        loop {
            ticks.tick().await;
            let looking = keeper.clone();
            // Reading segments and waiting for the log blocks.
            let looked = tokio::task::spawn_blocking(move || looking.look()).await;
            match looked {
                Ok(Ok(plan)) => warned = keeper.tell(&plan, warned),
                Ok(Err(error)) => tracing::error!(%error, "old segments cannot be removed; trying again"),
                Err(error) => tracing::error!(%error, "looking after old segments failed"),
            }
        }
    }

    fn look(&self) -> Result<Plan, Box<dyn std::error::Error + Send + Sync>> {
        let points = self.store.trim_points()?;
        let sight = Sight {
            now_ms: now_ms(),
            log_bytes: self.store.log_bytes(),
            free_bytes: kerolox_log::fs::free_bytes(&self.folder)?,
        };
        let start = self.store.log_start();
        let cut = |point: &TrimPoint| Cut { frees: point.before - start, since_ms: point.since_ms };
        let plan = plan(&self.limits, &sight, &points.iter().map(cut).collect::<Vec<_>>());
        self.room.is_short.store(plan.refuse, Ordering::Relaxed);
        if let Some(cut) = plan.cut {
            let trimmed = self.store.trim(&points[cut])?;
            tracing::info!(
                bytes = trimmed.bytes,
                carried = trimmed.carried,
                "removed old segments of the log"
            );
        }
        Ok(plan)
    }

    /// Says once when room runs out and once when there is some again; returns whether it runs out.
    fn tell(&self, plan: &Plan, warned: bool) -> bool {
        match (warned, plan.warn) {
            (false, true) => tracing::warn!(
                folder = %self.folder.display(),
                refusing = plan.refuse,
                "the disk is nearly full: old segments go early, and sends are refused when it gets worse; make room or lower retention.time"
            ),
            (true, false) => tracing::info!("there is room on the disk again"),
            _ => {}
        }
        plan.warn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { time_ms: 1_000, log_bytes: 500, free_bytes_low: 100, free_bytes_min: 50 };
    const CUTS: [Cut; 3] = [
        Cut { frees: 100, since_ms: 0 },
        Cut { frees: 200, since_ms: 500 },
        Cut { frees: 300, since_ms: 900 },
    ];

    fn cut(now_ms: i64, log_bytes: u64, free_bytes: u64) -> Option<usize> {
        plan(&LIMITS, &Sight { now_ms, log_bytes, free_bytes }, &CUTS).cut
    }

    #[test]
    fn segments_go_when_they_are_old_or_room_is_short() {
        assert_eq!(cut(999, 500, 1_000), None);
        assert_eq!(cut(1_000, 500, 1_000), Some(0), "old enough");
        assert_eq!(cut(1_500, 500, 1_000), Some(1));
        assert_eq!(cut(0, 501, 1_000), Some(0), "the log is too big");
        assert_eq!(cut(0, 650, 1_000), Some(1));
        assert_eq!(cut(0, 9_999, 1_000), Some(2), "as much as possible");
        assert_eq!(cut(0, 0, 99), Some(0), "the disk is full");
        assert_eq!(cut(1_500, 900, 99), Some(2), "the strongest reason counts");
        assert_eq!(plan(&LIMITS, &Sight { now_ms: 9_999, log_bytes: 9_999, free_bytes: 0 }, &[]).cut, None);
    }

    #[test]
    fn sends_are_refused_below_the_minimum_and_taken_again_above_it() {
        let at = |free_bytes| plan(&LIMITS, &Sight { now_ms: 0, log_bytes: 0, free_bytes }, &[]);
        assert_eq!((at(100).warn, at(100).refuse), (false, false));
        assert_eq!((at(99).warn, at(99).refuse), (true, false));
        assert_eq!((at(49).warn, at(49).refuse), (true, true));
    }
}
