//! How a slave and its master find where their logs part.
//!
//! The slave names its last record's epoch and where its log ends. The master looks up where records up to that epoch end
//! in its own log. If they are of that very epoch and reach as far, the logs agree, because each epoch has one writer.
//! Otherwise the slave gives up what cannot be common, and asks again. Epochs only fall in between, so it ends.

/// What a slave says of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// What the checksums of its log begin with; 0 when it has no log.
    pub salt: u64,
    /// Behind its last record.
    pub end: u64,
    /// Epoch of its last record; 0 when it has none.
    pub last_epoch: u32,
}

/// What a master knows of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnLog {
    /// What the checksums of its log begin with.
    pub salt: u64,
    /// Where its oldest segment begins.
    pub base: u64,
}

/// What a master answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The logs agree up to the end of the slave's.
    Start,
    /// Records up to the slave's last epoch end here in the master's log, and the last of them is of this epoch.
    Diverged {
        /// Epoch of that record.
        epoch: u32,
        /// Position behind it.
        end: u64,
    },
    /// What the slave would need next is gone, or it has no record: it begins with the master's oldest segment.
    Begin,
    /// It is another log: the folder belongs to somebody else, and nothing is done to it.
    Foreign,
}

/// The master's answer. `end_of_epoch` gives, of the records up to an epoch, the epoch of the last one and where it ends; epoch 0
/// when there is none.
///
/// # Errors
/// Those of `end_of_epoch`.
pub fn answer<E>(
    hello: &Hello,
    own: &OwnLog,
    end_of_epoch: impl FnOnce(u32) -> Result<(u32, u64), E>,
) -> Result<Answer, E> {
    if hello.salt == 0 {
        return Ok(Answer::Begin);
    }
    if hello.salt != own.salt {
        // A log without a record is nobody's: a crash came before its first one, and maybe before its salt.
        return Ok(if hello.last_epoch == 0 { Answer::Begin } else { Answer::Foreign });
    }
    if hello.end < own.base {
        return Ok(Answer::Begin);
    }
    if hello.end == own.base {
        // Nothing of its own that could differ.
        return Ok(Answer::Start);
    }
    let (epoch, end) = end_of_epoch(hello.last_epoch)?;
    Ok(match epoch {
        _ if epoch == hello.last_epoch && hello.end <= end => Answer::Start,
        // All that is common is gone here.
        0 => Answer::Begin,
        _ => Answer::Diverged { epoch, end },
    })
}

/// Where the slave has to cut its log after [`Answer::Diverged`]: `theirs` is the epoch and the end of that, `own` the same of the
/// slave's last record whose epoch is not above. Only if both are of one epoch, do the logs have the same records up to the
/// earlier end; otherwise the master's end may lie in the middle of a record of the slave.
pub fn cut_at(theirs: (u32, u64), own: (u32, u64)) -> u64 {
    if theirs.0 == own.0 { theirs.1.min(own.1) } else { own.1 }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const OWN: OwnLog = OwnLog { salt: 7, base: 1_000 };

    /// The answer of a master whose records of epoch 2 end at 1500, and those of epoch 4 at 2000.
    fn answered(salt: u64, end: u64, last_epoch: u32) -> Answer {
        let end_of_epoch = |epoch| match epoch {
            0 | 1 => Ok::<_, Infallible>((0, 1_000)),
            2 | 3 => Ok((2, 1_500)),
            _ => Ok((4, 2_000)),
        };
        let Ok(answer) = answer(&Hello { salt, end, last_epoch }, &OWN, end_of_epoch);
        answer
    }

    #[test]
    fn logs_agree_up_to_where_the_master_has_the_slaves_last_epoch() {
        assert_eq!(answered(7, 1_400, 2), Answer::Start);
        assert_eq!(answered(7, 2_000, 4), Answer::Start);
        assert_eq!(answered(7, 1_600, 2), Answer::Diverged { epoch: 2, end: 1_500 });
        assert_eq!(answered(7, 1_400, 3), Answer::Diverged { epoch: 2, end: 1_500 });
    }

    #[test]
    fn a_cut_is_where_a_record_ends_in_both_logs() {
        assert_eq!(cut_at((2, 1_500), (2, 1_300)), 1_300);
        assert_eq!(cut_at((2, 1_300), (2, 1_500)), 1_300);
        // The master has a record of epoch 3 where the slave has longer ones of epoch 2: the next round tells.
        assert_eq!(cut_at((3, 1_300), (2, 1_500)), 1_500);
    }

    #[test]
    fn who_has_nothing_in_common_begins() {
        assert_eq!(answered(0, 0, 0), Answer::Begin);
        assert_eq!(answered(7, 900, 1), Answer::Begin);
        assert_eq!(answered(7, 1_200, 1), Answer::Begin);
        assert_eq!(answered(7, 1_000, 0), Answer::Start);
    }

    #[test]
    fn another_log_is_foreign_unless_it_holds_no_record() {
        assert_eq!(answered(8, 1_400, 2), Answer::Foreign);
        assert_eq!(answered(8, 0, 0), Answer::Begin);
    }
}
