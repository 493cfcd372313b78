//! Whose word a member takes: which of the states that controllers tell of its group it goes by.

/// Names a state of the group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateName {
    /// Random number of the nameservers; empty when they do not say it.
    pub cluster_id: String,
    /// Another one whenever the controller's record of the group began anew; empty when it does not say it.
    pub lineage: String,
    /// Grows with every change within a lineage.
    pub version: u64,
}

/// What a member does with a state that it was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes by it.
    Take,
    /// It knows a newer one.
    Overtaken,
    /// The record of the group began anew, if this nameserver is right: another one is asked first.
    Doubted,
    /// It comes from other nameservers.
    Foreign,
}

/// What a member remembers between two answers.
#[derive(Debug, Clone, Default)]
pub struct Allegiance {
    /// Answers of another lineage in a row.
    others: usize,
}

impl Allegiance {
    /// Judges the state `told`, when `known` is the newest one that was gone by and there are so many `nameservers`. A member whose
    /// nameservers each decide alone obeys the one that it knows, as long as that one answers.
    pub fn judge(&mut self, known: Option<&StateName>, told: &StateName, nameservers: usize) -> Verdict {
        let Some(known) = known else { return Verdict::Take };
        let differs = |one: &str, other: &str| !one.is_empty() && !other.is_empty() && one != other;
        if differs(&known.cluster_id, &told.cluster_id) {
            return Verdict::Foreign;
        }
        if differs(&known.lineage, &told.lineage) {
            self.others += 1;
            return if self.others < nameservers { Verdict::Doubted } else { Verdict::Take };
        }
        self.others = 0;
        if told.version < known.version { Verdict::Overtaken } else { Verdict::Take }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(cluster_id: &str, lineage: &str, version: u64) -> StateName {
        StateName { cluster_id: cluster_id.into(), lineage: lineage.into(), version }
    }

    #[test]
    fn versions_count_within_a_lineage() {
        let mut allegiance = Allegiance::default();
        assert_eq!(allegiance.judge(None, &name("c", "a", 1), 3), Verdict::Take);
        let known = name("c", "a", 7);
        assert_eq!(allegiance.judge(Some(&known), &name("c", "a", 8), 3), Verdict::Take);
        assert_eq!(allegiance.judge(Some(&known), &name("c", "a", 7), 3), Verdict::Take);
        assert_eq!(allegiance.judge(Some(&known), &name("c", "a", 6), 3), Verdict::Overtaken);
        // One of them does not say it yet.
        assert_eq!(allegiance.judge(Some(&known), &name("", "", 6), 3), Verdict::Overtaken);
        assert_eq!(allegiance.judge(Some(&name("", "", 7)), &name("c", "a", 8), 3), Verdict::Take);
    }

    #[test]
    fn a_record_that_began_anew_is_believed_when_no_nameserver_has_the_old_one() {
        let mut allegiance = Allegiance::default();
        let known = name("c", "a", 7);
        assert_eq!(allegiance.judge(Some(&known), &name("c", "b", 1), 1), Verdict::Take, "there is one only");
        let mut allegiance = Allegiance::default();
        assert_eq!(allegiance.judge(Some(&known), &name("c", "b", 9), 2), Verdict::Doubted);
        assert_eq!(
            allegiance.judge(Some(&known), &name("c", "a", 7), 2),
            Verdict::Take,
            "the old one is there"
        );
        assert_eq!(allegiance.judge(Some(&known), &name("c", "b", 1), 2), Verdict::Doubted);
        assert_eq!(allegiance.judge(Some(&known), &name("c", "b", 1), 2), Verdict::Take);
    }

    #[test]
    fn other_nameservers_have_no_say() {
        let mut allegiance = Allegiance::default();
        let known = name("c", "a", 7);
        for _ in 0..4 {
            assert_eq!(allegiance.judge(Some(&known), &name("d", "a", 9), 1), Verdict::Foreign);
        }
    }
}
