//! How a follower and its leader find the point at which their logs diverge.
//!
//! The follower names its last record's epoch and the end of its log. The leader looks up where records up to that epoch end
//! in its own log. If the last of them is of that very epoch and they reach as far, the logs agree, because each epoch has
//! one writer. Otherwise the follower cuts off the part that cannot be common, and asks again. Its last epoch only falls in
//! between, so the handshake ends.

/// A follower's description of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FollowRequest {
    /// Salt of its log; 0 without a log.
    pub salt: u64,
    /// Position behind its last record.
    pub end: u64,
    /// Epoch of its last record; 0 without one.
    pub last_epoch: u32,
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
    /// Records up to the follower's last epoch end here in the leader's log, and the last of them is of this epoch.
    Diverged {
        /// Epoch of that record.
        epoch: u32,
        /// Position behind it.
        end: u64,
    },
    /// The next records for the follower are gone, or it has no record: it begins with the leader's oldest segment.
    Begin,
    /// The log is another one: the folder belongs to another group, and is left unchanged.
    Foreign,
}

/// The leader's answer. `end_of_epoch` returns, for the records up to an epoch, the epoch of the last one and its end; epoch 0
/// without one.
///
/// # Errors
/// Errors of `end_of_epoch`.
pub fn answer<E>(
    hello: &FollowRequest,
    own: &LeaderLog,
    end_of_epoch: impl FnOnce(u32) -> Result<(u32, u64), E>,
) -> Result<HandshakeAnswer, E> {
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
    let (epoch, end) = end_of_epoch(hello.last_epoch)?;
    Ok(match epoch {
        _ if epoch == hello.last_epoch && hello.end <= end => HandshakeAnswer::Start,
        // The common part is gone here.
        0 => HandshakeAnswer::Begin,
        _ => HandshakeAnswer::Diverged { epoch, end },
    })
}

/// Where the follower has to cut its log after [`HandshakeAnswer::Diverged`]. `theirs` is the epoch and end in that answer, `own` the epoch
/// and end of the follower's last record whose epoch is not above it. Only if both are of one epoch do the logs have equal records up to
/// the earlier end; otherwise the leader's end may lie in the middle of a record of the follower.
pub fn cut_at(theirs: (u32, u64), own: (u32, u64)) -> u64 {
    if theirs.0 == own.0 { theirs.1.min(own.1) } else { own.1 }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const OWN: LeaderLog = LeaderLog { salt: 7, base: 1_000 };

    /// The answer of a leader whose records of epoch 2 end at 1500, and those of epoch 4 at 2000.
    fn answered(salt: u64, end: u64, last_epoch: u32) -> HandshakeAnswer {
        let end_of_epoch = |epoch| match epoch {
            0 | 1 => Ok::<_, Infallible>((0, 1_000)),
            2 | 3 => Ok((2, 1_500)),
            _ => Ok((4, 2_000)),
        };
        let Ok(answer) = answer(&FollowRequest { salt, end, last_epoch }, &OWN, end_of_epoch);
        answer
    }

    #[test]
    fn logs_agree_up_to_where_the_leader_has_the_followers_last_epoch() {
        assert_eq!(answered(7, 1_400, 2), HandshakeAnswer::Start);
        assert_eq!(answered(7, 2_000, 4), HandshakeAnswer::Start);
        assert_eq!(answered(7, 1_600, 2), HandshakeAnswer::Diverged { epoch: 2, end: 1_500 });
        assert_eq!(answered(7, 1_400, 3), HandshakeAnswer::Diverged { epoch: 2, end: 1_500 });
    }

    #[test]
    fn a_cut_is_where_a_record_ends_in_both_logs() {
        assert_eq!(cut_at((2, 1_500), (2, 1_300)), 1_300);
        assert_eq!(cut_at((2, 1_300), (2, 1_500)), 1_300);
        // The leader has a record of epoch 3 where the follower has longer ones of epoch 2: the next round decides.
        assert_eq!(cut_at((3, 1_300), (2, 1_500)), 1_500);
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
