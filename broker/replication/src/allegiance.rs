//! Allegiance: which of the states that controllers tell of its group a member accepts.

/// Names a state of the group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateName {
    /// Random number of the nameservers; empty when they do not report it.
    pub cluster_id: String,
    /// Changes whenever the controller's record of the group begins anew; empty when the controller does not report it.
    pub lineage: String,
    /// Grows with every change within a lineage.
    pub version: u64,
}

/// A member's verdict on a state that it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateVerdict {
    /// It accepts the state.
    Take,
    /// It knows a newer state.
    Overtaken,
    /// The nameserver claims that the record of the group began anew: another nameserver is asked first.
    Doubted,
    /// The state comes from other nameservers.
    Foreign,
}

/// Memory of a member between two answers.
#[derive(Debug, Clone, Default)]
pub struct MemberAllegiance {
    /// Answers of another lineage in a row.
    others: usize,
    /// When the first of these answers came.
    since_ms: u64,
}

/// Limits of a member's doubt that the record of its group began anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubtLimits {
    /// Number of nameservers that are asked, one after the other.
    pub nameservers: usize,
    /// Time that has to pass as well, in milliseconds. A leader without other members loses nothing while it waits for the
    /// nameserver that it obeyed; with others, an election may be due.
    pub patience_ms: u64,
}

impl MemberAllegiance {
    /// Judges the state `told`, when `known` is the newest accepted one. A member whose nameservers each decide alone obeys the one
    /// that it knows, as long as that one answers. `now_ms` comes from a monotonic clock.
    pub fn judge(
        &mut self,
        known: Option<&StateName>,
        told: &StateName,
        limits: DoubtLimits,
        now_ms: u64,
    ) -> StateVerdict {
        let Some(known) = known else { return StateVerdict::Take };
        let differs = |one: &str, other: &str| !one.is_empty() && !other.is_empty() && one != other;
        if differs(&known.cluster_id, &told.cluster_id) {
            return StateVerdict::Foreign;
        }
        if differs(&known.lineage, &told.lineage) {
            if self.others == 0 {
                self.since_ms = now_ms;
            }
            self.others += 1;
            let is_doubted =
                self.others < limits.nameservers || now_ms.saturating_sub(self.since_ms) < limits.patience_ms;
            return if is_doubted { StateVerdict::Doubted } else { StateVerdict::Take };
        }
        self.others = 0;
        if told.version < known.version { StateVerdict::Overtaken } else { StateVerdict::Take }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(cluster_id: &str, lineage: &str, version: u64) -> StateName {
        StateName { cluster_id: cluster_id.into(), lineage: lineage.into(), version }
    }

    fn of(nameservers: usize) -> DoubtLimits {
        DoubtLimits { nameservers, patience_ms: 0 }
    }

    #[test]
    fn who_loses_nothing_by_it_waits_for_the_nameserver_that_it_knows() {
        let mut allegiance = MemberAllegiance::default();
        let (known, other) = (name("c", "a", 7), name("c", "b", 9));
        let patient = DoubtLimits { nameservers: 2, patience_ms: 100 };
        let mut judge = |told: &StateName, now_ms| allegiance.judge(Some(&known), told, patient, now_ms);
        for now_ms in [1_000, 1_040, 1_099] {
            assert_eq!(judge(&other, now_ms), StateVerdict::Doubted);
        }
        assert_eq!(judge(&known, 1_100), StateVerdict::Take, "it is back");
        assert_eq!(judge(&other, 1_150), StateVerdict::Doubted, "the patience begins anew");
        assert_eq!(judge(&other, 1_249), StateVerdict::Doubted);
        assert_eq!(judge(&other, 1_250), StateVerdict::Take);
    }

    #[test]
    fn versions_count_within_a_lineage() {
        let mut allegiance = MemberAllegiance::default();
        assert_eq!(allegiance.judge(None, &name("c", "a", 1), of(3), 0), StateVerdict::Take);
        let known = name("c", "a", 7);
        assert_eq!(allegiance.judge(Some(&known), &name("c", "a", 8), of(3), 0), StateVerdict::Take);
        assert_eq!(allegiance.judge(Some(&known), &name("c", "a", 7), of(3), 0), StateVerdict::Take);
        assert_eq!(allegiance.judge(Some(&known), &name("c", "a", 6), of(3), 0), StateVerdict::Overtaken);
        // One of the nameservers does not report it yet.
        assert_eq!(allegiance.judge(Some(&known), &name("", "", 6), of(3), 0), StateVerdict::Overtaken);
        assert_eq!(
            allegiance.judge(Some(&name("", "", 7)), &name("c", "a", 8), of(3), 0),
            StateVerdict::Take
        );
    }

    #[test]
    fn a_record_that_began_anew_is_believed_when_no_nameserver_has_the_old_one() {
        let mut allegiance = MemberAllegiance::default();
        let known = name("c", "a", 7);
        assert_eq!(
            allegiance.judge(Some(&known), &name("c", "b", 1), of(1), 0),
            StateVerdict::Take,
            "there is one only"
        );
        let mut allegiance = MemberAllegiance::default();
        assert_eq!(allegiance.judge(Some(&known), &name("c", "b", 9), of(2), 0), StateVerdict::Doubted);
        assert_eq!(
            allegiance.judge(Some(&known), &name("c", "a", 7), of(2), 0),
            StateVerdict::Take,
            "the old one is there"
        );
        assert_eq!(allegiance.judge(Some(&known), &name("c", "b", 1), of(2), 0), StateVerdict::Doubted);
        assert_eq!(allegiance.judge(Some(&known), &name("c", "b", 1), of(2), 0), StateVerdict::Take);
    }

    #[test]
    fn other_nameservers_have_no_say() {
        let mut allegiance = MemberAllegiance::default();
        let known = name("c", "a", 7);
        for _ in 0..4 {
            assert_eq!(allegiance.judge(Some(&known), &name("d", "a", 9), of(1), 0), StateVerdict::Foreign);
        }
    }
}
