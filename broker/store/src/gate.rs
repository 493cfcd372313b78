//! What holds stored records back until enough members of the broker group have them.
//!
//! A record is applied, and so answered and seen, in the order of the log, and not before its own condition holds: that it
//! is confirmed, or, if its sender asked for no more, that the master is sure to rule still. So one that waits for
//! slaves holds up what lies behind it, but nothing that lies before.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use kerolox_core::replicas::Replicas;
use kerolox_log::sabotage;

/// A moment that never comes.
pub(crate) const FOR_EVER: u64 = u64::MAX;

/// Up to where other members hold the log, as the master counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The whole in-sync set holds everything before this.
    pub all: u64,
    /// So many members that an election preserves it.
    pub safe: u64,
    /// Until when the master is sure that nobody else rules, in milliseconds of [`mono_ms`]; `u64::MAX` for good.
    pub rules_until: u64,
}

impl Standing {
    /// Of a master without slaves.
    pub const ALONE: Self = Self { all: u64::MAX, safe: u64::MAX, rules_until: FOR_EVER };
    /// Of a master that has heard of nobody.
    pub const UNHEARD: Self = Self { all: 0, safe: 0, rules_until: 0 };
}

#[derive(Debug, Default)]
pub(crate) struct Gate {
    all: AtomicU64,
    safe: AtomicU64,
    rules_until: AtomicU64,
    /// The reign is over: what waits is never going to be confirmed here.
    is_shut: AtomicBool,
}

impl Gate {
    /// Begins a reign.
    pub(crate) fn open(&self, standing: Standing) {
        self.set(standing);
        self.is_shut.store(false, Ordering::Release);
    }

    /// Takes newer knowledge. It may say less than before, when a member is about to join that does not have everything yet:
    /// what was let through stays so. Tells whether it may let through what it did not before.
    pub(crate) fn set(&self, standing: Standing) -> bool {
        let ruled = self.rules();
        let all = self.all.swap(standing.all, Ordering::AcqRel);
        let safe = self.safe.swap(standing.safe, Ordering::AcqRel);
        self.rules_until.store(standing.rules_until, Ordering::Release);
        standing.all > all || standing.safe > safe || (!ruled && self.rules())
    }

    pub(crate) fn shut(&self) {
        self.is_shut.store(true, Ordering::Release);
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.is_shut.load(Ordering::Acquire)
    }

    /// Whether records that end at `end` and ask for this may be applied.
    pub(crate) fn lets_through(&self, replicas: Replicas, end: u64) -> bool {
        if sabotage::is("ack-before-slaves") {
            return true;
        }
        match replicas {
            Replicas::Master => self.rules() || self.all() >= end,
            Replicas::Quorum => self.safe() >= end,
            Replicas::All => self.all() >= end,
        }
    }

    /// Whether nobody else rules at this moment.
    pub(crate) fn rules(&self) -> bool {
        let until = self.rules_until.load(Ordering::Acquire);
        !self.is_shut() && (until == FOR_EVER || mono_ms() < until || sabotage::is("no-lease"))
    }

    pub(crate) fn safe(&self) -> u64 {
        self.safe.load(Ordering::Acquire)
    }

    fn all(&self) -> u64 {
        self.all.load(Ordering::Acquire)
    }
}

/// Milliseconds of a clock that never runs backwards, and that goes on while the machine sleeps: leases go by it.
pub fn mono_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1000 + nanos.unwrap_or(0) / 1_000_000
}
