//! A machine: a disk, clocks, and a process that may run on it.

use kerolox_replication::ClockReading;

use crate::member::{Disk, Input, Member};

/// What wall clocks show at first, in milliseconds since the Unix epoch.
pub(crate) const START_MS: i64 = 1_700_000_000_000;

pub(crate) struct Machine {
    pub(crate) disk: Disk,
    pub(crate) incarnation: String,
    /// Of the process that runs or ran last, over all machines.
    pub(crate) life: u64,
    pub(crate) running: Option<Member>,
    pub(crate) is_paused: bool,
    /// What came in while it was paused.
    pub(crate) held_back: Vec<Input>,
    /// Speed of the monotonic clock, in millionths of the right one.
    pub(crate) rate: u64,
    /// When it was switched on.
    pub(crate) booted: u64,
    /// What the monotonic clock showed then, in milliseconds.
    pub(crate) mono_base: u64,
    /// How far the wall clock is off, in milliseconds.
    pub(crate) wall_off: i64,
    /// Syncs take so many times as long.
    pub(crate) slowness: u64,
}

impl Machine {
    pub(crate) fn mono_ms(&self, now: u64) -> u64 {
        self.mono_base + (now - self.booted) * self.rate / 1_000_000_000
    }

    pub(crate) fn wall_ms(&self, now: u64) -> i64 {
        START_MS + i64::try_from(now / 1000).expect("short runs") + self.wall_off
    }

    pub(crate) fn clock(&self, now: u64) -> ClockReading {
        ClockReading { mono_ms: self.mono_ms(now), wall_ms: self.wall_ms(now) }
    }

    /// The process and what came in for it are gone.
    pub(crate) fn stop(&mut self) {
        self.running = None;
        self.is_paused = false;
        self.held_back.clear();
    }
}
