//! How a follower and its leader find the point at which their logs diverge.
//!
//! The follower names its last record's epoch and the end of its log. The leader looks up where records up to that epoch end
//! in its own log. If the last of them is of that very epoch and they reach as far, the logs agree, because each epoch has
//! one writer. Otherwise the follower cuts off the part that cannot be common, and asks again. Its last epoch only falls in
//! between, so the handshake ends.
//!
//! Controllers that were given older data may hand one epoch out twice, and data folders may be exchanged. So the follower
//! also names its last record's checksum. If the leader has another record there, the epoch had two writers, and the follower
//! cuts all of it off.

/// A follower's description of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowRequest {
    /// Salt of its log; 0 without a log.
    pub salt: u64,
    /// Position behind its last record.
    pub end: u64,
    /// Epoch of its last record; 0 without one.
    pub last_epoch: u32,
    /// Its last record; `None` when it does not know it.
    pub last: Option<RecordMark>,
}

/// A record of a log, by its place and its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordMark {
    /// Where it begins.
    pub position: u64,
    /// Checksum of its epoch, time and content.
    pub checksum: u32,
}

/// Where the records of a log up to an epoch end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EpochEnd {
    /// Epoch of the last of them; 0 without one.
    pub epoch: u32,
    /// Position behind it.
    pub end: u64,
    /// That record; `None` without one, or when it is not known.
    pub last: Option<RecordMark>,
}

/// What both sides look up in their logs.
pub trait HandshakeRecords {
    /// Why the log cannot be read.
    type Error;

    /// The end of the records up to an epoch.
    ///
    /// # Errors
    /// The log cannot be read.
    fn end_of_epoch(&self, epoch: u32) -> Result<EpochEnd, Self::Error>;

    /// Whether the log has this record at its place, as far as that can be told: no when another record begins there or lies across.
    ///
    /// # Errors
    /// The log cannot be read.
    fn may_hold(&self, record: RecordMark) -> Result<bool, Self::Error>;
}

/// A leader's description of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderLog {
    /// Salt of its log.
    pub salt: u64,
    /// Base of its oldest segment.
    pub base: u64,
}

/// A leader's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeAnswer {
    /// The logs agree up to the end of the follower's.
    Start,
    /// The logs differ, or may: here records up to the follower's last epoch end in the leader's log, or, where both sides wrote in
    /// that epoch, records of earlier ones.
    Diverged(EpochEnd),
    /// The next records for the follower are gone, or it has no record: it begins with the leader's oldest segment.
    Begin,
    /// The log is another one: the folder belongs to another group, and is left unchanged.
    Foreign,
}

/// The leader's answer.
///
/// # Errors
/// Errors of `records`.
pub fn answer<R: HandshakeRecords>(
    hello: &FollowRequest,
    own: &LeaderLog,
    records: &R,
) -> Result<HandshakeAnswer, R::Error> {
    if hello.salt == 0 {
        return Ok(HandshakeAnswer::Begin);
    }
    if hello.salt != own.salt {
        // A log without a record belongs to no group: a crash came before its first record, and maybe before its salt.
        return Ok(if hello.last_epoch == 0 { HandshakeAnswer::Begin } else { HandshakeAnswer::Foreign });
    }
    if hello.end < own.base {
        return Ok(HandshakeAnswer::Begin);
    }
    if hello.end == own.base {
        // The follower has no record that could differ.
        return Ok(HandshakeAnswer::Start);
    }
    let mut theirs = records.end_of_epoch(hello.last_epoch)?;
    if theirs.epoch == hello.last_epoch && hello.end <= theirs.end {
        let is_equal = hello.last.map(|last| records.may_hold(last)).transpose()?;
        if is_equal != Some(false) {
            return Ok(HandshakeAnswer::Start);
        }
        theirs = records.end_of_epoch(hello.last_epoch.saturating_sub(1))?;
    }
    Ok(match theirs.epoch {
        // The common part is gone here.
        0 => HandshakeAnswer::Begin,
        _ => HandshakeAnswer::Diverged(theirs),
    })
}

/// Where the follower has to cut its log after [`HandshakeAnswer::Diverged`]; `own` is its log.
///
/// Only if the last record of both sides is of one epoch do the logs have equal records up to the earlier end; otherwise the
/// leader's end may lie in the middle of a record of the follower. Of an epoch that both sides wrote in nothing remains.
///
/// # Errors
/// Errors of `own`.
pub fn cut_at<R: HandshakeRecords>(theirs: &EpochEnd, own: &R) -> Result<u64, R::Error> {
    let here = own.end_of_epoch(theirs.epoch)?;
    if here.epoch != theirs.epoch || here.end <= theirs.end {
        return Ok(here.end);
    }
    match theirs.last {
        Some(last) if !own.may_hold(last)? => Ok(own.end_of_epoch(theirs.epoch.saturating_sub(1))?.end),
        _ => Ok(theirs.end),
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const OWN: LeaderLog = LeaderLog { salt: 7, base: 1_000 };

    /// Records of epoch 2 end at 1500, and those of epoch 4 at `end`. Each record has 100 bytes.
    struct Records {
        end: u64,
        writer: u32,
    }

    const DAMAGED: u64 = 1_700;
    const LEADER: Records = Records { end: 2_000, writer: 1 };

    impl Records {
        fn mark(&self, position: u64) -> RecordMark {
            RecordMark { position, checksum: u32::try_from(position).unwrap() * 10 + self.writer }
        }
    }

    impl HandshakeRecords for Records {
        type Error = Infallible;

        fn end_of_epoch(&self, epoch: u32) -> Result<EpochEnd, Infallible> {
            let (epoch, end) = match epoch {
                0 | 1 => return Ok(EpochEnd { epoch: 0, end: 1_000, last: None }),
                2 | 3 => (2, 1_500),
                _ => (4, self.end),
            };
            Ok(EpochEnd { epoch, end, last: Some(self.mark(end - 100)) })
        }

        fn may_hold(&self, record: RecordMark) -> Result<bool, Infallible> {
            Ok(record.position == DAMAGED || record == self.mark(record.position))
        }
    }

    fn answered_to(salt: u64, end: u64, last_epoch: u32, last: Option<RecordMark>) -> HandshakeAnswer {
        let Ok(answer) = answer(&FollowRequest { salt, end, last_epoch, last }, &OWN, &LEADER);
        answer
    }

    fn answered(salt: u64, end: u64, last_epoch: u32) -> HandshakeAnswer {
        answered_to(salt, end, last_epoch, None)
    }

    fn diverged(epoch: u32, end: u64) -> HandshakeAnswer {
        HandshakeAnswer::Diverged(EpochEnd { epoch, end, last: Some(LEADER.mark(end - 100)) })
    }

    #[test]
    fn an_epoch_that_was_written_twice_is_cut_off() {
        let other = Records { writer: 2, ..LEADER };
        let answered =
            |end, last_epoch, of: &Records| answered_to(7, end, last_epoch, Some(of.mark(end - 100)));
        assert_eq!(answered(2_000, 4, &LEADER), HandshakeAnswer::Start);
        assert_eq!(answered(2_000, 4, &other), diverged(2, 1_500));
        assert_eq!(answered(1_400, 2, &other), HandshakeAnswer::Begin, "nothing before it is left here");
        assert_eq!(answered(1_800, 4, &other), HandshakeAnswer::Start, "the leader's own record is damaged");
        assert_eq!(answered(2_100, 4, &other), diverged(4, 2_000), "the follower compares");
        let longer = |writer| Records { end: 2_300, writer };
        let theirs = EpochEnd { epoch: 4, end: 2_000, last: Some(LEADER.mark(1_900)) };
        assert_eq!(cut_at(&theirs, &longer(1)), Ok(2_000));
        assert_eq!(cut_at(&theirs, &longer(2)), Ok(1_500));
        assert_eq!(cut_at(&EpochEnd { last: None, ..theirs }, &longer(2)), Ok(2_000), "an earlier version");
    }

    #[test]
    fn logs_agree_up_to_where_the_leader_has_the_followers_last_epoch() {
        assert_eq!(answered(7, 1_400, 2), HandshakeAnswer::Start);
        assert_eq!(answered(7, 2_000, 4), HandshakeAnswer::Start);
        assert_eq!(answered(7, 1_600, 2), diverged(2, 1_500));
        assert_eq!(answered(7, 1_400, 3), diverged(2, 1_500));
    }

    #[test]
    fn a_cut_is_where_a_record_ends_in_both_logs() {
        let theirs = |epoch, end| EpochEnd { epoch, end, last: None };
        assert_eq!(cut_at(&theirs(2, 1_700), &LEADER), Ok(1_500));
        assert_eq!(cut_at(&theirs(2, 1_300), &LEADER), Ok(1_300));
        // The leader has a record of epoch 3 where the follower has longer ones of epoch 2: the next round decides.
        assert_eq!(cut_at(&theirs(3, 1_300), &LEADER), Ok(1_500));
    }

    #[test]
    fn who_has_nothing_in_common_begins() {
        assert_eq!(answered(0, 0, 0), HandshakeAnswer::Begin);
        assert_eq!(answered(7, 900, 1), HandshakeAnswer::Begin);
        assert_eq!(answered(7, 1_200, 1), HandshakeAnswer::Begin);
        assert_eq!(answered(7, 1_000, 0), HandshakeAnswer::Start);
    }

    #[test]
    fn another_log_is_foreign_unless_it_holds_no_record() {
        assert_eq!(answered(8, 1_400, 2), HandshakeAnswer::Foreign);
        assert_eq!(answered(8, 0, 0), HandshakeAnswer::Begin);
    }
}
