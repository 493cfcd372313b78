//! A machine's clocks at one moment.

use crate::sabotage;

/// Both clocks of a machine, read at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// Milliseconds of a clock that never runs backwards and goes on while the machine sleeps.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch; this clock may be set at any time.
    pub wall_ms: i64,
}

impl ClockReading {
    /// The clock for the leader's lease, in milliseconds.
    pub fn lease_ms(self) -> u64 {
        if sabotage::is("lease-on-wall-clock") {
            return u64::try_from(self.wall_ms).unwrap_or(0);
        }
        self.mono_ms
    }
}
