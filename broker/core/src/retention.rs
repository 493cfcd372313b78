//! Retention: the removal of old segments and messages, and refusal of sends when space runs short.
//!
//! Functions of the state of the disk and the log: [`plan`] for segments, [`is_worth_a_trim`] for the messages of a topic
//! with its own retention time.

use crate::dedup::DedupPolicy;
use crate::topic::{MessageType, Topic};

/// Limits of age and size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionLimits {
    /// Messages are kept at least this long, in milliseconds, as long as there is space and their topic sets no other
    /// time.
    pub time_ms: i64,
    /// The log is kept below this, in bytes.
    pub log_bytes: u64,
    /// Free bytes of the file system below which space is short: the operator is warned.
    pub free_bytes_low: u64,
    /// Whether old segments are removed early when space is short.
    pub removes_early: bool,
    /// Free bytes below which sends are refused.
    pub free_bytes_min: u64,
}

/// How full the disk and the log are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Free bytes of the file system that holds it.
    pub free_bytes: u64,
}

/// A place where the log can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrimCandidate {
    /// Bytes that a cut here frees.
    pub frees: u64,
    /// From this time on everything before it is old enough to be removed, milliseconds since the Unix epoch.
    pub due_ms: i64,
}

/// The actions of one retention check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionPlan {
    /// Index of the candidate to cut at, if any.
    pub cut: Option<usize>,
    /// Index of the last candidate that is old enough; a cut behind it is early.
    pub old: Option<usize>,
    /// Whether sends are refused.
    pub refuse: bool,
    /// Whether the operator is warned that space runs out.
    pub warn: bool,
}

/// Decides where to cut at `now_ms`, milliseconds since the Unix epoch. `candidates` are in log order, and later ones are
/// due later; a cut at one covers all before it. Size and space are those of the whole broker: when they run out, segments
/// are removed at any age, if the operator allowed that.
/// # Errors
/// The first error among the `candidates`, which are asked for only as far as they matter.
pub fn plan<E>(
    limits: &RetentionLimits,
    usage: &DiskUsage,
    now_ms: i64,
    candidates: impl IntoIterator<Item = Result<TrimCandidate, E>>,
) -> Result<RetentionPlan, E> {
    let too_big = usage.log_bytes.saturating_sub(limits.log_bytes);
    let short_of = limits.free_bytes_low.saturating_sub(usage.free_bytes);
    let too_full = if limits.removes_early { short_of } else { 0 };
    let (mut cut, mut old, mut frees) = (None, None, 0);
    for (number, next) in candidates.into_iter().enumerate() {
        let next = next?;
        assert!(next.frees >= frees, "candidates come in the order of the log");
        let is_old = next.due_ms <= now_ms;
        if !is_old && frees >= too_big.max(too_full) {
            break;
        }
        if is_old {
            old = Some(number);
        }
        (cut, frees) = (Some(number), next.frees);
    }
    Ok(RetentionPlan {
        cut,
        old,
        refuse: usage.free_bytes < limits.free_bytes_min,
        warn: usage.free_bytes < limits.free_bytes_low,
    })
}

/// When everything before a candidate becomes old enough. Nothing before it is younger than `since_ms`; `holding` yields
/// the retention times, in milliseconds, of the topics with something before it.
pub fn due_ms(since_ms: i64, holding: impl Iterator<Item = i64>) -> i64 {
    since_ms.saturating_add(holding.max().unwrap_or(0))
}

/// How long a topic holds the log before a candidate, in milliseconds. `is_live` says whether any of its messages lie there,
/// `time_ms` is the default retention time. A topic for transactions holds every candidate: decisions are remembered as long
/// as messages are, so that a repeated decision gets an equal answer. So does a topic with deduplication, as long as its
/// window is.
pub fn hold_ms(topic: &Topic, is_live: bool, time_ms: i64) -> i64 {
    let keeps = is_live || topic.accepts(MessageType::Transaction);
    let keep_ms = if keeps { topic.retention_ms().unwrap_or(time_ms) } else { 0 };
    keep_ms.max(DedupPolicy::of(topic).map_or(0, |dedup| dedup.window_ms))
}

/// Whether `expired` messages of a queue, older than the retention time of their topic, are removed now. A trim costs a
/// record and a sync, so it is not done for every single message: either a block of the index, `block` messages, has
/// accumulated, or the oldest message is late by a tenth of its time.
pub fn is_worth_a_trim(expired: u64, block: u64, oldest_late_ms: i64, keep_ms: i64) -> bool {
    expired >= block || (expired > 0 && oldest_late_ms >= keep_ms / 10)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::topic_change::{self, TopicChange};

    const LIMITS: RetentionLimits = RetentionLimits {
        time_ms: 1_000,
        log_bytes: 500,
        free_bytes_low: 100,
        removes_early: true,
        free_bytes_min: 50,
    };
    const CUTS: [TrimCandidate; 3] = [
        TrimCandidate { frees: 100, due_ms: 1_000 },
        TrimCandidate { frees: 200, due_ms: 1_500 },
        TrimCandidate { frees: 300, due_ms: 1_900 },
    ];

    fn plan_for(now_ms: i64, log_bytes: u64, free_bytes: u64, cuts: &[TrimCandidate]) -> RetentionPlan {
        let cuts = cuts.iter().map(|cut| Ok::<_, Infallible>(*cut));
        plan(&LIMITS, &DiskUsage { log_bytes, free_bytes }, now_ms, cuts).expect("no cut is an error")
    }

    fn cut(now_ms: i64, log_bytes: u64, free_bytes: u64) -> Option<usize> {
        plan_for(now_ms, log_bytes, free_bytes, &CUTS).cut
    }

    #[test]
    fn segments_go_when_they_are_old_or_room_is_short() {
        assert_eq!(cut(999, 500, 1_000), None);
        assert_eq!(cut(1_000, 500, 1_000), Some(0), "old enough");
        assert_eq!(cut(1_500, 500, 1_000), Some(1));
        assert_eq!(cut(0, 501, 1_000), Some(0), "the log is too big");
        assert_eq!(cut(0, 650, 1_000), Some(1));
        assert_eq!(cut(0, 9_999, 1_000), Some(2), "as much as possible");
        assert_eq!(cut(0, 0, 99), Some(0), "the disk is full");
        assert_eq!(cut(1_500, 900, 99), Some(2), "the strongest reason counts");
        assert_eq!(plan_for(9_999, 9_999, 0, &[]).cut, None);
    }

    #[test]
    fn a_full_disk_costs_no_message_that_is_to_be_kept_if_the_operator_says_so() {
        let limits = RetentionLimits { removes_early: false, ..LIMITS };
        let plan_at = |now_ms, log_bytes| {
            let usage = DiskUsage { log_bytes, free_bytes: 0 };
            plan(&limits, &usage, now_ms, CUTS.iter().map(|cut| Ok::<_, Infallible>(*cut)))
                .expect("no cut is an error")
        };
        assert_eq!(plan_at(999, 500), RetentionPlan { cut: None, old: None, refuse: true, warn: true });
        assert_eq!(plan_at(1_000, 500).cut, Some(0), "old enough");
        assert_eq!(plan_at(0, 501).cut, Some(0), "the log is too big");
    }

    #[test]
    fn cuts_are_read_only_as_far_as_they_matter() {
        let usage = DiskUsage { log_bytes: 0, free_bytes: 1_000 };
        let read = |cuts: &[Result<TrimCandidate, &'static str>]| {
            plan(&LIMITS, &usage, 1_000, cuts.iter().copied()).map(|plan| plan.cut)
        };
        assert_eq!(read(&[Ok(CUTS[0]), Ok(CUTS[1]), Err("behind")]), Ok(Some(0)));
        assert_eq!(read(&[Ok(CUTS[0]), Err("unreadable")]), Err("unreadable"));
    }

    #[test]
    fn a_cut_waits_for_the_topic_that_keeps_longest() {
        assert_eq!(due_ms(100, [10, 70, 30].into_iter()), 170);
        assert_eq!(due_ms(100, [].into_iter()), 100, "no topic keeps what lies before it");
        assert_eq!(due_ms(100, [i64::MAX].into_iter()), i64::MAX);
    }

    #[test]
    fn a_window_holds_every_cut() {
        let topic = |changes: &[&str]| {
            let attributes = changes.iter().map(|&change| change.to_owned()).collect();
            let change = TopicChange { name: "t".into(), attributes, ..TopicChange::default() };
            topic_change::changed(None, &change, 1).expect("legal")
        };
        let hour = 3_600_000;
        assert_eq!((hold_ms(&topic(&[]), true, hour), hold_ms(&topic(&[]), false, hour)), (hour, 0));
        let remembering = topic(&["+dedup=id", "+dedup.window=2h", "+retention.time=1m"]);
        assert_eq!(
            (hold_ms(&remembering, true, hour), hold_ms(&remembering, false, hour)),
            (2 * hour, 2 * hour)
        );
        let short = topic(&["+dedup=id", "+dedup.window=1m"]);
        assert_eq!((hold_ms(&short, true, hour), hold_ms(&short, false, hour)), (hour, 60_000));
        let deciding = topic(&["+message.type=TRANSACTION", "+retention.time=3h"]);
        assert_eq!(hold_ms(&deciding, false, hour), 3 * hour);
    }

    #[test]
    fn a_trim_waits_until_it_is_worth_its_record() {
        assert!(!is_worth_a_trim(0, 256, 0, 5), "nothing expired");
        assert!(!is_worth_a_trim(255, 256, 99, 1_000));
        assert!(is_worth_a_trim(256, 256, 0, 1_000), "a whole block");
        assert!(is_worth_a_trim(1, 256, 100, 1_000), "late by a tenth");
    }

    #[test]
    fn sends_are_refused_below_the_minimum_and_taken_again_above_it() {
        let at = |free_bytes| plan_for(0, 0, free_bytes, &[]);
        assert_eq!((at(100).warn, at(100).refuse), (false, false));
        assert_eq!((at(99).warn, at(99).refuse), (true, false));
        assert_eq!((at(49).warn, at(49).refuse), (true, true));
    }
}
