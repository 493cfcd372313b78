//! What runs did, to be told at the end.

use std::fmt;

use crate::world::Counts;

/// What one run did, or several.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct SimFigures {
    pub(crate) faults: Counts,
    pub(crate) elections: u64,
    pub(crate) acked: u64,
    pub(crate) decided: u64,
    pub(crate) reads: u64,
    pub(crate) cut_back: u64,
    /// Virtual time, in microseconds.
    pub(crate) time: u64,
}

impl SimFigures {
    /// Adds what another run did.
    pub fn add(&mut self, other: &Self) {
        for (fault, times) in &other.faults {
            *self.faults.entry(*fault).or_default() += times;
        }
        self.elections += other.elections;
        self.acked += other.acked;
        self.decided += other.decided;
        self.reads += other.reads;
        self.cut_back += other.cut_back;
        self.time += other.time;
    }
}

impl fmt::Display for SimFigures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: u64 = self.faults.values().sum();
        write!(f, "{:.1} h of virtual time, {all} faults (", crate::world::secs(self.time / 3600))?;
        for (i, (fault, times)) in self.faults.iter().enumerate() {
            let comma = if i > 0 { ", " } else { "" };
            write!(f, "{comma}{fault:?} {times}")?;
        }
        write!(
            f,
            "), {} elections, {} logs cut back, {} acknowledged sends and {} decisions checked, {} reads",
            self.elections, self.cut_back, self.acked, self.decided, self.reads
        )
    }
}
