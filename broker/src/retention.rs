//! Retention: which old segments and messages go, and when sends are refused for lack of room.
//!
//! The decisions are functions of what the disk and the log look like: [`plan`] for segments, [`is_worth_a_trim`] for the
//! messages of a topic with a time of its own. [`Keeper`] looks, and acts.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::ballast::DiskBallast;
use crate::early::{self, Going, Losses, Unread};
use kerolox_core::dedup::Dedup;
use kerolox_core::record::QueueState;
use kerolox_core::topic::{MessageType, Topic};
use kerolox_store::{ENTRIES_PER_BLOCK, Store, StoreError, TrimPoint};

/// How long and how much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Messages are kept this long at least, milliseconds, as long as there is room and their topic says nothing else.
    pub time_ms: i64,
    /// The log is kept below this, in bytes.
    pub log_bytes: u64,
    /// Free bytes of the file system below which room is short: the operator is warned.
    pub free_bytes_low: u64,
    /// Whether old segments go early when room is short.
    pub removes_early: bool,
    /// Free bytes below which sends are refused.
    pub free_bytes_min: u64,
}

/// What the broker sees of its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sight {
    /// Milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Bytes of the log.
    pub log_bytes: u64,
    /// Free bytes of the file system that holds it.
    pub free_bytes: u64,
}

/// A place where the log can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Bytes that go with it.
    pub frees: u64,
    /// From this time on everything before it is old enough to go, milliseconds since the Unix epoch.
    pub due_ms: i64,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Number of the cut to make, if any.
    pub cut: Option<usize>,
    /// Number of the last cut that is old enough; a later one is made early.
    pub old: Option<usize>,
    /// Whether messages are to be refused.
    pub refuse: bool,
    /// Whether the operator should know that room runs out.
    pub warn: bool,
}

/// Decides. `cuts` are in the order of the log, and later ones are due later; making one makes all before it superfluous.
/// Size and room are those of the whole broker: where they run out, segments go whatever their age, if the operator switched that
/// on.
///
/// # Errors
/// The first error among the `cuts`, which are asked for only as far as they matter.
pub fn plan<E>(
    limits: &Limits,
    sight: &Sight,
    cuts: impl IntoIterator<Item = Result<Cut, E>>,
) -> Result<Plan, E> {
    let too_big = sight.log_bytes.saturating_sub(limits.log_bytes);
    let short_of = limits.free_bytes_low.saturating_sub(sight.free_bytes);
    let too_full = if limits.removes_early { short_of } else { 0 };
    let (mut cut, mut old, mut frees) = (None, None, 0);
    for (number, next) in cuts.into_iter().enumerate() {
        let next = next?;
        let is_old = next.due_ms <= sight.now_ms;
        if !is_old && frees >= too_big.max(too_full) {
            break;
        }
        if is_old {
            old = Some(number);
        }
        (cut, frees) = (Some(number), next.frees);
    }
    Ok(Plan {
        cut,
        old,
        refuse: sight.free_bytes < limits.free_bytes_min,
        warn: sight.free_bytes < limits.free_bytes_low,
    })
}

/// From when on everything before a cut is old enough. Nothing before it is younger than `since_ms`; `holding` are the
/// times for which the topics that hold something before it want to keep that, milliseconds.
pub fn due_ms(since_ms: i64, holding: impl Iterator<Item = i64>) -> i64 {
    since_ms.saturating_add(holding.max().unwrap_or(0))
}

/// For how long a topic wants what lies before a cut to stay, milliseconds; `is_live` says whether any of its messages lie
/// there, `time_ms` how long messages are kept if it says nothing. A topic that takes transactions holds every cut: the
/// decisions about its messages are remembered as long as messages are, so that a repeated one gets the same answer. So
/// does one without duplicates, as long as its window is.
pub fn hold_ms(topic: &Topic, is_live: bool, time_ms: i64) -> i64 {
    let keeps = is_live || topic.accepts(MessageType::Transaction);
    let keep_ms = if keeps { topic.retention_ms().unwrap_or(time_ms) } else { 0 };
    keep_ms.max(Dedup::of(topic).map_or(0, |dedup| dedup.window_ms))
}

/// Whether messages of a queue that are older than their topic keeps them go now. A trim costs a record and a sync, so it
/// is not done for every single message: either a block of the index has come together, or the oldest is late by a tenth
/// of its time.
pub fn is_worth_a_trim(expired: u64, oldest_late_ms: i64, keep_ms: i64) -> bool {
    expired >= ENTRIES_PER_BLOCK || (expired > 0 && oldest_late_ms >= keep_ms / 10)
}

/// Whether sends are refused for lack of room. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Room {
    is_short: Arc<AtomicBool>,
}

impl Room {
    /// Whether messages are to be refused.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Notes that the log had no room for a message, which is sooner than the next look at the disk.
    pub(crate) fn ran_out(&self) {
        self.is_short.store(true, Ordering::Relaxed);
    }
}

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// The task that looks after old segments and messages.
pub struct Keeper {
    /// The store.
    pub store: Arc<Store>,
    /// The data folder.
    pub folder: PathBuf,
    /// What is kept.
    pub limits: Limits,
    /// How often to look.
    pub interval: Duration,
    /// Tells who stores messages.
    pub room: Room,
    /// What consumer groups have not done of what goes early.
    pub unread: Box<Readers>,
    /// What they lost.
    pub losses: Losses,
}

/// See [`early::unread_of_groups`].
pub type Readers = dyn Fn(BTreeMap<(u32, u32), Going>) -> Result<Unread, StoreError> + Send + Sync;

impl Keeper {
    /// Runs for ever.
    pub async fn run(self) {
        let keeper = Arc::new(self);
        let mut ticks = tokio::time::interval(keeper.interval);
        let mut warned = false;
        loop {
            ticks.tick().await;
            let looking = keeper.clone();
            // Reading segments and waiting for the log blocks.
            let looked = tokio::task::spawn_blocking(move || looking.look()).await;
            match looked {
                Ok(Ok(plan)) => warned = keeper.tell(&plan, warned),
                Ok(Err(error)) => tracing::error!(%error, "old segments cannot be removed; trying again"),
                Err(error) => tracing::error!(%error, "looking after old segments failed"),
            }
        }
    }

    fn look(&self) -> Result<Plan, Problem> {
        DiskBallast::new(&self.folder).make_if_free(self.limits.free_bytes_min);
        let sight = Sight {
            now_ms: self.store.now_ms(),
            log_bytes: self.store.log_bytes(),
            free_bytes: kerolox_log::fs::free_bytes(&self.folder)?,
        };
        let start = self.store.log_start();
        let mut points = Vec::new();
        let cuts = self.store.trim_points().map(|point| {
            let point = point?;
            let cut = Cut { frees: point.before - start, due_ms: self.due_ms(&point) };
            points.push(point);
            Ok::<_, StoreError>(cut)
        });
        let plan = plan(&self.limits, &sight, cuts)?;
        self.room.is_short.store(plan.refuse, Ordering::Relaxed);
        if let Some(cut) = plan.cut {
            let unread = self.unread_before(&points[cut], plan.old.map(|old| &points[old]))?;
            let trimmed = self.store.trim(&points[cut])?;
            if !unread.is_empty() {
                tracing::warn!(%unread, "unread messages were removed before retention.time, for lack of room");
                self.losses.note(&unread);
            }
            tracing::info!(
                bytes = trimmed.bytes,
                carried = trimmed.carried,
                "removed old segments of the log"
            );
        }
        self.expire(sight.now_ms)?;
        Ok(plan)
    }

    /// What groups lose by a trim at `point`, if what lies before `old` is old enough.
    fn unread_before(&self, point: &TrimPoint, old: Option<&TrimPoint>) -> Result<Unread, StoreError> {
        let going = early::going(old.map_or(&[], |old| &old.queues), &point.queues);
        if going.is_empty() { Ok(Unread::default()) } else { (self.unread)(going) }
    }

    /// See [`due_ms`].
    fn due_ms(&self, point: &TrimPoint) -> i64 {
        let index = self.store.index();
        let is_live = |state: &&QueueState| index.queue_bounds(state.topic_id, state.queue).min < state.next;
        let live: HashSet<u32> = point.queues.iter().filter(is_live).map(|state| state.topic_id).collect();
        let topics = index.topics();
        let holding =
            topics.iter().map(|topic| hold_ms(topic, live.contains(&topic.id), self.limits.time_ms));
        due_ms(point.since_ms, holding)
    }

    /// Gives up messages that are older than their topic wants to keep them.
    fn expire(&self, now_ms: i64) -> Result<(), Problem> {
        let topics = self.store.index().topics();
        let mut queues = Vec::new();
        for topic in topics {
            let Some(keep_ms) = topic.retention_ms() else { continue };
            for queue in 0..topic.read_queues {
                queues.extend(self.expired(topic.id, queue, now_ms, keep_ms)?);
            }
        }
        if !queues.is_empty() {
            let count = queues.len();
            let carried = self.store.expire(queues)?;
            tracing::debug!(queues = count, carried, "messages expired as their topics want it");
        }
        Ok(())
    }

    /// Where a queue begins when its old messages have gone; `None` when nothing is to be done.
    fn expired(
        &self,
        topic_id: u32,
        queue: u32,
        now_ms: i64,
        keep_ms: i64,
    ) -> Result<Option<QueueState>, StoreError> {
        let index = self.store.index();
        let min = index.queue_bounds(topic_id, queue).min;
        let since_ms = now_ms.saturating_sub(keep_ms);
        let oldest = index.entries(topic_id, queue, min, 1)?.first().map(|(_, entry)| entry.visible_ms);
        let Some(oldest_ms) = oldest.filter(|oldest_ms| *oldest_ms < since_ms) else { return Ok(None) };
        let next = index.offset_at(topic_id, queue, since_ms)?;
        let goes = is_worth_a_trim(next - min, since_ms.saturating_sub(oldest_ms), keep_ms);
        Ok(goes.then_some(QueueState { topic_id, queue, next, newest_ms: 0 }))
    }

    /// Says once when room runs out and once when there is some again; returns whether it runs out.
    fn tell(&self, plan: &Plan, warned: bool) -> bool {
        match (warned, plan.warn) {
            (false, true) => tracing::warn!(
                folder = %self.folder.display(),
                refusing = plan.refuse,
                old_segments_go_early = self.limits.removes_early,
                "the disk is nearly full, and sends are refused when it gets worse; make room or lower retention.time"
            ),
            (true, false) => tracing::info!("there is room on the disk again"),
            _ => {}
        }
        plan.warn
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::AtomicI64;

    use super::*;
    use kerolox_core::record::{MessageHeader, MessageRecord, MetaChange, MetaRecord, Record};
    use kerolox_core::topic::{self, TopicChange};
    use kerolox_log::fs::MemFolder;
    use kerolox_log::{LogOptions, Salt};
    use kerolox_store::kv::MemKv;
    use kerolox_store::{GuardedClock, StoreOptions};

    const LIMITS: Limits = Limits {
        time_ms: 1_000,
        log_bytes: 500,
        free_bytes_low: 100,
        removes_early: true,
        free_bytes_min: 50,
    };
    const CUTS: [Cut; 3] = [
        Cut { frees: 100, due_ms: 1_000 },
        Cut { frees: 200, due_ms: 1_500 },
        Cut { frees: 300, due_ms: 1_900 },
    ];

    fn plan_for(now_ms: i64, log_bytes: u64, free_bytes: u64, cuts: &[Cut]) -> Plan {
        let cuts = cuts.iter().map(|cut| Ok::<_, Infallible>(*cut));
        plan(&LIMITS, &Sight { now_ms, log_bytes, free_bytes }, cuts).expect("no cut is an error")
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
        let limits = Limits { removes_early: false, ..LIMITS };
        let plan_at = |now_ms, log_bytes| {
            let sight = Sight { now_ms, log_bytes, free_bytes: 0 };
            plan(&limits, &sight, CUTS.iter().map(|cut| Ok::<_, Infallible>(*cut)))
                .expect("no cut is an error")
        };
        assert_eq!(plan_at(999, 500), Plan { cut: None, old: None, refuse: true, warn: true });
        assert_eq!(plan_at(1_000, 500).cut, Some(0), "old enough");
        assert_eq!(plan_at(0, 501).cut, Some(0), "the log is too big");
    }

    #[test]
    fn cuts_are_read_only_as_far_as_they_matter() {
        let sight = Sight { now_ms: 1_000, log_bytes: 0, free_bytes: 1_000 };
        let read = |cuts: &[Result<Cut, &'static str>]| {
            plan(&LIMITS, &sight, cuts.iter().copied()).map(|plan| plan.cut)
        };
        assert_eq!(read(&[Ok(CUTS[0]), Ok(CUTS[1]), Err("behind")]), Ok(Some(0)));
        assert_eq!(read(&[Ok(CUTS[0]), Err("unreadable")]), Err("unreadable"));
    }

    #[test]
    fn a_cut_waits_for_the_topic_that_keeps_longest() {
        assert_eq!(due_ms(100, [10, 70, 30].into_iter()), 170);
        assert_eq!(due_ms(100, [].into_iter()), 100, "nothing before it is kept by anybody");
        assert_eq!(due_ms(100, [i64::MAX].into_iter()), i64::MAX);
    }

    #[test]
    fn a_window_holds_every_cut() {
        let topic = |changes: &[&str]| {
            let attributes = changes.iter().map(|&change| change.to_owned()).collect();
            let change = TopicChange { name: "t".into(), attributes, ..TopicChange::default() };
            topic::changed(None, &change, 1).expect("legal")
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
        assert!(!is_worth_a_trim(0, 0, 5), "nothing expired");
        assert!(!is_worth_a_trim(255, 99, 1_000));
        assert!(is_worth_a_trim(256, 0, 1_000), "a whole block");
        assert!(is_worth_a_trim(1, 100, 1_000), "late by a tenth");
    }

    #[test]
    fn sends_are_refused_below_the_minimum_and_taken_again_above_it() {
        let at = |free_bytes| plan_for(0, 0, free_bytes, &[]);
        assert_eq!((at(100).warn, at(100).refuse), (false, false));
        assert_eq!((at(99).warn, at(99).refuse), (true, false));
        assert_eq!((at(49).warn, at(49).refuse), (true, true));
    }

    const START_MS: i64 = 1_700_000_000_000;
    const DAY_MS: i64 = 24 * 3_600_000;

    /// A real store whose wall clock can be set, and the task that looks after it.
    struct World {
        keeper: Keeper,
        wall_ms: Arc<AtomicI64>,
        monotonic_ms: Arc<AtomicI64>,
        _folder: tempfile::TempDir,
    }

    impl World {
        /// Holds a topic of each kind with messages in several segments, some days younger than what is kept.
        fn new() -> Self {
            let (wall_ms, monotonic_ms) = (Arc::new(AtomicI64::new(START_MS)), Arc::new(AtomicI64::new(0)));
            let policy = kerolox_core::clock::ClockPolicy { leap_ms: 5_000, grace_ms: 10_000 };
            let clock = {
                let (wall, monotonic) = (wall_ms.clone(), monotonic_ms.clone());
                GuardedClock::against(
                    policy,
                    move || wall.load(Ordering::Relaxed),
                    move || monotonic.load(Ordering::Relaxed).unsigned_abs(),
                )
            };
            let options = StoreOptions {
                broker: "a".to_owned(),
                log: LogOptions { segment_bytes: 8192, ..LogOptions::new(Salt::new(7)) },
                waiting_bytes_max: 1 << 20,
                flush_interval: Duration::from_millis(5),
                tail_bytes: 0,
            };
            let (log, kv) = (Arc::new(MemFolder::new()), Arc::new(MemKv::default()));
            let store = Store::open(options, log, kv, move || clock.now_ms(), |_| {}).expect("opens");
            let folder = tempfile::tempdir().expect("made");
            let keeper = Keeper {
                store: Arc::new(store),
                folder: folder.path().to_owned(),
                limits: Limits {
                    time_ms: 3 * DAY_MS,
                    log_bytes: u64::MAX,
                    free_bytes_low: 0,
                    free_bytes_min: 0,
                    ..LIMITS
                },
                interval: Duration::from_secs(5),
                room: Room::default(),
                unread: Box::new(|_| Ok(Unread::default())),
                losses: Losses::default(),
            };
            let world = Self { keeper, wall_ms, monotonic_ms, _folder: folder };
            world.fill();
            world
        }

        fn fill(&self) {
            for (id, attributes) in [(1, vec![]), (2, vec![("retention.time".to_owned(), "12h".to_owned())])]
            {
                let topic = Topic {
                    id,
                    name: format!("t{id}"),
                    read_queues: 1,
                    write_queues: 1,
                    attributes: attributes.into_iter().collect(),
                    ..Topic::default()
                };
                self.propose(&Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(topic)) }));
            }
            for number in 0..120 {
                let header = MessageHeader {
                    topic_id: 1 + number % 2,
                    message_id: number.to_string(),
                    ..MessageHeader::default()
                };
                let content = bytes::Bytes::from(vec![7; 500]);
                self.propose(&Record::Message(MessageRecord {
                    header,
                    system: bytes::Bytes::new(),
                    content,
                }));
                self.passes(10, 0);
            }
            assert!(self.keeper.store.trim_points().count() > 3, "several segments");
        }

        fn propose(&self, record: &Record) {
            let (sender, answer) = std::sync::mpsc::channel();
            let done = move |applied| drop(sender.send(applied));
            self.keeper.store.propose(record, kerolox_core::flush::Flush::Sync, Box::new(done));
            answer.recv().expect("answered").expect("stored");
        }

        /// Time passes, and the wall clock leaps besides.
        fn passes(&self, ms: i64, leap_ms: i64) {
            self.monotonic_ms.fetch_add(ms, Ordering::Relaxed);
            self.wall_ms.fetch_add(ms + leap_ms, Ordering::Relaxed);
        }

        /// First offsets of both topics and the beginning of the log, after a look.
        fn look(&self) -> (u64, u64, u64) {
            self.keeper.look().expect("looks");
            let store = &self.keeper.store;
            let first = |topic| store.index().queue_bounds(topic, 0).min;
            (first(1), first(2), store.log_start())
        }
    }

    #[test]
    fn a_leap_of_the_wall_clock_destroys_nothing_until_it_is_believed() {
        let world = World::new();
        assert_eq!(world.look(), (0, 0, 0));
        world.passes(0, 4 * DAY_MS);
        for _ in 0..9 {
            assert_eq!(world.look(), (0, 0, 0), "the clock leapt, and nothing grew old");
            world.passes(1_000, 0);
        }
        world.passes(0, -4 * DAY_MS);
        for _ in 0..30 {
            world.passes(1_000, 0);
            assert_eq!(world.look(), (0, 0, 0), "the clock is back");
        }
        world.passes(0, 4 * DAY_MS);
        assert_eq!(world.look(), (0, 0, 0), "another leap has a grace of its own");
        world.passes(10_000, 0);
        let (kept_long, kept_short, start) = world.look();
        assert!(
            kept_long > 0 && kept_short > kept_long && start > 0,
            "who sets the clock for good is believed"
        );
    }
}
