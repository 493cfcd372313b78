//! The confirmed end as a member knows it, independent of the controller's memory: the last guard of acknowledged records.

/// The highest position that this member knows to be confirmed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConfirmedMark {
    /// Newest leadership that reported a confirmed position; 0 for none.
    pub epoch: u32,
    /// Everything before this was confirmed.
    pub position: u64,
}

impl ConfirmedMark {
    /// A leader of `epoch` reports that everything before `position` is confirmed. `accepted` is the newest epoch for which
    /// an operator accepted loss; 0 for none. Such a leadership voids earlier reports.
    pub fn hear(&mut self, epoch: u32, position: u64, accepted: u32) {
        if accepted > self.epoch && epoch >= accepted {
            *self = Self { epoch, position };
        } else {
            *self = Self { epoch: self.epoch.max(epoch), position: self.position.max(position) };
        }
    }

    /// Whether a log that ends at `end` may be cut at `to`: no confirmed record is lost, or an operator accepted the
    /// loss.
    pub fn allows_cut(&self, to: u64, end: u64, accepted: u32) -> bool {
        accepted > self.epoch || to >= self.position.min(end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_confirmed_is_not_cut() {
        let mut known = ConfirmedMark::default();
        assert!(known.allows_cut(0, 900, 0), "nothing is known");
        known.hear(3, 500, 0);
        known.hear(2, 400, 0);
        assert_eq!(known, ConfirmedMark { epoch: 3, position: 500 });
        assert!(known.allows_cut(500, 900, 0));
        assert!(!known.allows_cut(499, 900, 0));
        assert!(known.allows_cut(300, 300, 0), "it never had the rest");
        assert!(!known.allows_cut(299, 300, 0));
    }

    #[test]
    fn only_an_operators_word_of_a_later_epoch_lets_it_go() {
        let mut known = ConfirmedMark { epoch: 3, position: 500 };
        assert!(!known.allows_cut(0, 900, 3), "an acceptance of before says nothing of this");
        assert!(known.allows_cut(0, 900, 4));
        known.hear(3, 510, 4);
        assert_eq!(known.position, 510, "the leadership before is still heard");
        known.hear(4, 200, 4);
        assert_eq!(known, ConfirmedMark { epoch: 4, position: 200 });
        assert!(!known.allows_cut(100, 900, 4));
    }
}
