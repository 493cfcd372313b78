//! The task that removes old segments and messages and decides when sends are refused for lack of space, by
//! [`kerolox_core::retention`].

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::ballast::DiskBallast;
use crate::tasks::early_removal::EarlyLosses;
use kerolox_core::early_removal::{EarlyRemoval, UnreadLosses, going};
use kerolox_core::record::QueueState;
use kerolox_core::retention::{
    DiskUsage, RetentionLimits, RetentionPlan, TrimCandidate, due_ms, hold_ms, is_worth_a_trim, plan,
};
use kerolox_store::{ENTRIES_PER_BLOCK, Store, StoreError, TrimPoint};

/// Whether sends are refused for lack of space. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DiskSpace {
    is_short: Arc<AtomicBool>,
}

impl DiskSpace {
    /// Whether messages are refused.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }

    /// Records that the log had no space for a message, which is sooner than the next check of the disk.
    pub(crate) fn ran_out(&self) {
        self.is_short.store(true, Ordering::Relaxed);
    }
}

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// The task that removes old segments and messages.
pub struct RetentionTask {
    /// The store.
    pub store: Arc<Store>,
    /// The data folder.
    pub folder: PathBuf,
    /// Limits of age and size.
    pub limits: RetentionLimits,
    /// Interval of the checks.
    pub interval: Duration,
    /// The flag for senders of messages.
    pub space: DiskSpace,
    /// Function that counts undone messages of consumer groups in segments removed early.
    pub unread: Box<UnreadGroups>,
    /// Losses of the groups.
    pub losses: EarlyLosses,
}

/// See [`crate::tasks::early_removal::unread_of_groups`].
pub type UnreadGroups =
    dyn Fn(BTreeMap<(u32, u32), EarlyRemoval>) -> Result<UnreadLosses, StoreError> + Send + Sync;

impl RetentionTask {
    /// Runs for ever. A running check is not cut short when this future is dropped.
    pub async fn run(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(self.interval);
        let mut warned = false;
        loop {
            ticks.tick().await;
            let looking = self.clone();
            // Reading segments and waiting for the log blocks.
            let looked = tokio::task::spawn_blocking(move || looking.look()).await;
            match looked.expect("a panic ends the process, or this task") {
                Ok(plan) => warned = self.tell(&plan, warned),
                Err(error) => tracing::error!(%error, "old segments cannot be removed; retrying"),
            }
        }
    }

    fn look(&self) -> Result<RetentionPlan, Problem> {
        DiskBallast::new(&self.folder).make_if_free(self.limits.free_bytes_min);
        let now_ms = self.store.now_ms();
        let usage = DiskUsage {
            log_bytes: self.store.log_bytes(),
            free_bytes: kerolox_log::fs::free_bytes(&self.folder)?,
        };
        let start = self.store.log_start();
        let mut points = Vec::new();
        let cuts = self.store.trim_points().map(|point| {
            let point = point?;
            let cut = TrimCandidate { frees: point.before - start, due_ms: self.due_ms(&point) };
            points.push(point);
            Ok::<_, StoreError>(cut)
        });
        let plan = plan(&self.limits, &usage, now_ms, cuts)?;
        self.space.is_short.store(plan.refuse, Ordering::Relaxed);
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
        self.expire(now_ms)?;
        Ok(plan)
    }

    /// Losses of groups by a trim at `point`, if everything before `old` is old enough.
    fn unread_before(&self, point: &TrimPoint, old: Option<&TrimPoint>) -> Result<UnreadLosses, StoreError> {
        let going = going(old.map_or(&[], |old| &old.queues), &point.queues);
        if going.is_empty() { Ok(UnreadLosses::default()) } else { (self.unread)(going) }
    }

    /// See [`due_ms`].
    fn due_ms(&self, point: &TrimPoint) -> i64 {
        let index = self.store.state();
        let is_live = |state: &&QueueState| index.queues.bounds(state.topic_id, state.queue).min < state.next;
        let live: HashSet<u32> = point.queues.iter().filter(is_live).map(|state| state.topic_id).collect();
        let topics = index.topics.all();
        let holding =
            topics.iter().map(|topic| hold_ms(topic, live.contains(&topic.id), self.limits.time_ms));
        due_ms(point.since_ms, holding)
    }

    /// Expires messages that are older than the retention time of their topic.
    fn expire(&self, now_ms: i64) -> Result<(), Problem> {
        let topics = self.store.state().topics.all();
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
            tracing::debug!(
                queues = count,
                carried,
                "messages expired by the retention time of their topics"
            );
        }
        Ok(())
    }

    /// The beginning of a queue after its old messages have expired; `None` when there is nothing to do.
    fn expired(
        &self,
        topic_id: u32,
        queue: u32,
        now_ms: i64,
        keep_ms: i64,
    ) -> Result<Option<QueueState>, StoreError> {
        let index = self.store.state();
        let min = index.queues.bounds(topic_id, queue).min;
        let since_ms = now_ms.saturating_sub(keep_ms);
        let oldest =
            index.queues.entries(topic_id, queue, min, 1)?.first().map(|(_, entry)| entry.visible_ms);
        let Some(oldest_ms) = oldest.filter(|oldest_ms| *oldest_ms < since_ms) else { return Ok(None) };
        let next = index.offset_at(topic_id, queue, since_ms)?;
        let goes =
            is_worth_a_trim(next - min, ENTRIES_PER_BLOCK, since_ms.saturating_sub(oldest_ms), keep_ms);
        Ok(goes.then_some(QueueState { topic_id, queue, next, newest_ms: 0 }))
    }

    /// Logs once when space runs out and once when there is some again; returns whether it has run out.
    fn tell(&self, plan: &RetentionPlan, warned: bool) -> bool {
        match (warned, plan.warn) {
            (false, true) => tracing::warn!(
                folder = %self.folder.display(),
                refusing = plan.refuse,
                old_segments_go_early = self.limits.removes_early,
                "the disk is nearly full, and sends are refused when it gets worse; free space or lower retention.time"
            ),
            (true, false) => tracing::info!("there is room on the disk again"),
            _ => {}
        }
        plan.warn
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;

    use super::*;
    use kerolox_core::record::{MessageHeader, MessageRecord, MetaChange, MetaRecord, Record};
    use kerolox_core::topic::Topic;
    use kerolox_store::GuardedClock;

    use crate::test_store::store_in_memory;

    const START_MS: i64 = 1_700_000_000_000;
    const DAY_MS: i64 = 24 * 3_600_000;

    /// A real store with an adjustable wall clock, and its retention task.
    struct World {
        task: RetentionTask,
        wall_ms: Arc<AtomicI64>,
        monotonic_ms: Arc<AtomicI64>,
        _folder: tempfile::TempDir,
    }

    impl World {
        /// Holds a topic of each kind with messages in several segments, some days younger than the retention time.
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
            let store = store_in_memory(8192, move || clock.now_ms());
            let folder = tempfile::tempdir().expect("made");
            let task = RetentionTask {
                store: Arc::new(store),
                folder: folder.path().to_owned(),
                limits: RetentionLimits {
                    time_ms: 3 * DAY_MS,
                    log_bytes: u64::MAX,
                    free_bytes_low: 0,
                    removes_early: true,
                    free_bytes_min: 0,
                },
                interval: Duration::from_secs(5),
                space: DiskSpace::default(),
                unread: Box::new(|_| Ok(UnreadLosses::default())),
                losses: EarlyLosses::default(),
            };
            let world = Self { task, wall_ms, monotonic_ms, _folder: folder };
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
            assert!(self.task.store.trim_points().count() > 3, "several segments");
        }

        fn propose(&self, record: &Record) {
            let (sender, answer) = std::sync::mpsc::channel();
            let done = move |applied| drop(sender.send(applied));
            self.task.store.propose(record, kerolox_core::flush::FlushRequirement::Sync, Box::new(done));
            answer.recv().expect("answered").expect("stored");
        }

        /// Advances the time, and makes the wall clock leap besides.
        fn passes(&self, ms: i64, leap_ms: i64) {
            self.monotonic_ms.fetch_add(ms, Ordering::Relaxed);
            self.wall_ms.fetch_add(ms + leap_ms, Ordering::Relaxed);
        }

        /// First offsets of both topics and the beginning of the log, after a check.
        fn look(&self) -> (u64, u64, u64) {
            self.task.look().expect("looks");
            let store = &self.task.store;
            let first = |topic| store.state().queues.bounds(topic, 0).min;
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
            "a lasting change of the clock is accepted"
        );
    }
}
