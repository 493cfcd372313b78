//! Members of broadcast groups, with the time of their last activity. They have cursors in the log, so absent ones must
//! be removed.
//!
//! # Broadcast
//!
//! Each client of a broadcast group consumes with its own group, stored under the name `GROUP#CLIENT`: a record with an
//! id, whose configuration is that of its parent.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Last activity, by group id of the member. A restart counts as activity.
#[derive(Default)]
pub struct BroadcastMembers {
    seen: Mutex<HashMap<u32, Instant>>,
}

impl BroadcastMembers {
    /// Records that a member received or acknowledged.
    pub fn saw(&self, id: u32, now: Instant) {
        self.seen.lock().insert(id, now);
    }

    /// The members of `present` that were not active for `expiry` and are not alive; absent ones are forgotten.
    pub fn gone(
        &self,
        present: &[(u32, &str)],
        is_alive: impl Fn(&str) -> bool,
        now: Instant,
        expiry: Duration,
    ) -> Vec<u32> {
        let mut seen = self.seen.lock();
        let known = std::mem::take(&mut *seen);
        for (id, client) in present {
            let last = if is_alive(client) { now } else { known.get(id).copied().unwrap_or(now) };
            seen.insert(*id, last);
        }
        let gone = |last: &Instant| now.duration_since(*last) >= expiry;
        seen.iter().filter(|(_, last)| gone(last)).map(|(id, _)| *id).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_go_when_they_stay_away() {
        let (members, start) = (BroadcastMembers::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let gone = |present: &[(u32, &str)], now| {
            let mut gone =
                members.gone(present, |client| client == "alive", at(now), Duration::from_secs(10));
            gone.sort_unstable();
            gone
        };
        members.saw(1, at(0));
        assert!(gone(&[(1, "a"), (2, "b"), (3, "alive")], 5).is_empty());
        assert_eq!(gone(&[(1, "a"), (2, "b"), (3, "alive")], 10), [1]);
        members.saw(1, at(11));
        assert_eq!(gone(&[(1, "a"), (2, "b"), (3, "alive")], 16), [2]);
        assert!(gone(&[(2, "x")], 16).contains(&2), "gone until it is removed");
        assert!(gone(&[], 99).is_empty());
        assert!(gone(&[(2, "b")], 100).is_empty(), "forgotten, so its time begins anew");
    }
}
