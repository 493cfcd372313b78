//! The leases that a follower granted to its leader.

/// Grants of a follower. Times are monotonic milliseconds of the follower's clock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeaseGrants {
    /// No other member leads before this moment, as far as this member is concerned.
    until: u64,
}

impl LeaseGrants {
    /// The grants of a process that has just been started, whose earlier self may have granted a lease to a leader.
    pub fn unknown(lease_ms: u64, now: u64) -> Self {
        Self { until: now + widened(lease_ms) }
    }

    /// Grants a lease in answer to a leader's ping; the lease runs from the sending of the ping, which is before now.
    pub fn give(&mut self, lease_ms: u64, now: u64) {
        self.until = self.until.max(now + widened(lease_ms));
    }

    /// Milliseconds until no leader can rely on a lease from this member.
    pub fn left(&self, now: u64) -> u64 {
        self.until.saturating_sub(now)
    }
}

/// Adds a tenth and a moment: the leader's clock may run slower than this one.
fn widened(lease_ms: u64) -> u64 {
    lease_ms + lease_ms / 10 + 20
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_election_waits_for_the_newest_grant() {
        let mut grants = LeaseGrants::default();
        assert_eq!(grants.left(5), 0);
        grants.give(1000, 10_000);
        grants.give(1000, 9_000);
        assert_eq!(grants.left(10_000), 1_120);
        assert_eq!((grants.left(11_119), grants.left(11_121)), (1, 0));
        assert_eq!(LeaseGrants::unknown(1000, 7).left(7), 1_120);
    }
}
