//! The gate that holds stored records back until enough members of the broker group have them.
//!
//! A record is applied, and so answered and visible, in the order of the log, and only once its own condition holds: it is
//! confirmed, or, if its sender required no more, the master is sure that it still rules. So a record that waits for
//! slaves delays the records behind it, but none before it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use kerolox_core::replicas::ReplicaRequirement;
use kerolox_log::sabotage;
use kerolox_replication::{ClockReading, CommitStatus};

/// The status that the leader published last, for the threads of the store.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    all: AtomicU64,
    high_watermark: AtomicU64,
    lease_until: AtomicU64,
    /// Set when the leadership is over: waiting records will never be confirmed here.
    is_shut: AtomicBool,
}

impl Gate {
    /// Begins a leadership.
    pub(crate) fn open(&self, status: CommitStatus) {
        self.set(status);
        self.is_shut.store(false, Ordering::Release);
    }

    /// Takes a newer status. It may say less than before, when a member that lacks some records is about to join: records
    /// that passed stay applied. Returns whether more records may pass now.
    pub(crate) fn set(&self, status: CommitStatus) -> bool {
        let led = self.leads();
        let all = self.all.swap(status.all, Ordering::AcqRel);
        let high_watermark = self.high_watermark.swap(status.high_watermark, Ordering::AcqRel);
        self.lease_until.store(status.lease_until, Ordering::Release);
        status.all > all || status.high_watermark > high_watermark || (!led && self.leads())
    }

    pub(crate) fn shut(&self) {
        self.is_shut.store(true, Ordering::Release);
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::Acquire)
    }

    /// Whether records that end at `end` and require `replicas` may be applied.
    pub(crate) fn lets_through(&self, replicas: ReplicaRequirement, end: u64) -> bool {
        let is_asked_for_lease = replicas == ReplicaRequirement::Master && !self.is_shut();
        lets_through(&self.status(), replicas, end, is_asked_for_lease.then(clock_reading))
    }

    /// Whether no other member leads at this moment.
    pub(crate) fn leads(&self) -> bool {
        !self.is_shut() && self.status().holds_lease(clock_reading())
    }

    /// Everything before this is held by enough members for an election to preserve it.
    pub(crate) fn high_watermark(&self) -> u64 {
        self.high_watermark.load(Ordering::Acquire)
    }

    /// The last status.
    pub(crate) fn status(&self) -> CommitStatus {
        CommitStatus {
            all: self.all.load(Ordering::Acquire),
            high_watermark: self.high_watermark(),
            lease_until: self.lease_until.load(Ordering::Acquire),
        }
    }
}

/// Whether a leader with this status may apply, and so answer, records that end at `end` and require so many members; its own log is
/// durable up to there. `now` is the time, for a leader that has not stepped down.
pub fn lets_through(
    status: &CommitStatus,
    replicas: ReplicaRequirement,
    end: u64,
    now: Option<ClockReading>,
) -> bool {
    if sabotage::is("ack-before-slaves") {
        return true;
    }
    match replicas {
        ReplicaRequirement::Master => status.all >= end || now.is_some_and(|now| status.holds_lease(now)),
        ReplicaRequirement::Quorum => status.high_watermark >= end,
        ReplicaRequirement::All => status.all >= end,
    }
}

/// Both clocks of this machine.
pub fn clock_reading() -> ClockReading {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let wall_ms = i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX);
    ClockReading { mono_ms: mono_ms(), wall_ms }
}

/// Milliseconds of a clock that never runs backwards and keeps running while the machine sleeps: the clock for leases.
pub fn mono_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1000 + nanos.unwrap_or(0) / 1_000_000
}
