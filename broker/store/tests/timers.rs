//! Scheduled messages against a model, in thousands of seeded histories with restarts, indexes made anew, trims and a clock
//! that leaps: none comes early, none is lost, none comes twice, what is recalled never comes, and every answer is true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::clock::{ClockAlarm, ClockGuard, ClockPolicy};
use kerolox_core::flush::Flush;
use kerolox_core::record::{
    DiscardRecord, Fired, Hold, MessageHeader, MessageRecord, MetaChange, MetaRecord, ProgressItem,
    ProgressRecord, Record, ReleaseRecord, TimerDecision, TimerEnded,
};
use kerolox_core::timer::TimerPhase;
use kerolox_core::topic::Topic;
use kerolox_log::fs::{Chooser, MemFolder};
use kerolox_log::{LogOptions, Salt};
use kerolox_store::kv::MemKv;
use kerolox_store::{Applied, Outcome, Store, StoreOptions};

const START_MS: i64 = 1_700_000_000_000;
const POLICY: ClockPolicy = ClockPolicy { leap_ms: 5_000, grace_ms: 10_000 };
const QUEUES: u32 = 2;
const STEPS: usize = 70;
const HISTORIES: u64 = 2_000;
/// Messages that one record delivers at the most.
const BATCH: usize = 3;

/// What the model knows of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// A half message.
    Open,
    Pending,
    Delivered,
    Recalled,
    RolledBack,
}

#[derive(Debug, Clone)]
struct Known {
    id: String,
    queue: u32,
    due_ms: i64,
    stands: Stands,
}

struct History {
    seed: u64,
    chooser: Chooser,
    folder: MemFolder,
    kv: Arc<MemKv>,
    store: Option<Store>,
    /// The clock of the store's records.
    wall_ms: Arc<AtomicI64>,
    monotonic_ms: u64,
    guard: ClockGuard,
    /// By position.
    messages: BTreeMap<u64, Known>,
    /// Ids in the order in which they became visible, by queue.
    visible: BTreeMap<u32, Vec<String>>,
}

fn open(folder: &MemFolder, kv: &Arc<MemKv>, wall_ms: &Arc<AtomicI64>) -> Store {
    let options = StoreOptions {
        broker: "a".into(),
        log: LogOptions { segment_bytes: 4096, checkpoint_bytes: 1024, salt: Salt::new(7) },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_millis(5),
        tail_bytes: 0,
    };
    let clock = Arc::clone(wall_ms);
    let clock = move || clock.load(Ordering::Relaxed);
    Store::open(options, Arc::new(folder.clone()), kv.clone(), clock, |_| {}).expect("opens")
}

fn propose(store: &Store, record: &Record) -> Applied {
    let (sender, answer) = mpsc::channel();
    store.propose(record, Flush::Sync, Box::new(move |applied| sender.send(applied).expect("waits")));
    answer.recv().expect("answered").expect("stored")
}

fn progress(item: ProgressItem) -> Record {
    Record::Progress(ProgressRecord::new([item]))
}

impl History {
    fn new(seed: u64) -> Self {
        let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
        let wall_ms = Arc::new(AtomicI64::new(START_MS));
        let store = open(&folder, &kv, &wall_ms);
        let topic = Topic::new("t", QUEUES);
        propose(&store, &Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(topic)) }));
        Self {
            seed,
            chooser: Chooser::new(seed),
            folder,
            kv,
            store: Some(store),
            wall_ms,
            monotonic_ms: 0,
            guard: ClockGuard::new(POLICY),
            messages: BTreeMap::new(),
            visible: BTreeMap::new(),
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().expect("open between the steps")
    }

    fn below(&mut self, limit: u64) -> i64 {
        i64::try_from(self.chooser.below(limit)).expect("small")
    }

    /// The time that the broker goes by.
    fn now_ms(&mut self) -> i64 {
        self.guard.look(self.wall_ms.load(Ordering::Relaxed), self.monotonic_ms).now_ms
    }

    fn pass(&mut self, ms: i64, jump_ms: i64) {
        self.monotonic_ms += ms.unsigned_abs();
        self.wall_ms.fetch_add(ms + jump_ms, Ordering::Relaxed);
    }

    fn step(&mut self, number: usize) {
        match self.chooser.below(40) {
            0..12 => self.send(number),
            12..17 => self.send_half(number),
            17..21 => self.end_half(),
            21..24 => self.end_timer(TimerDecision::Recall),
            24 => self.end_timer(TimerDecision::Deliver),
            25..33 => {
                let ms = self.below(4_000);
                self.pass(ms, 0);
                self.fire();
            }
            33 => self.leap(),
            34 => self.restart(),
            35 => self.kill(false),
            36 => self.kill(true),
            37 => self.trim(),
            _ => self.fire_twice(),
        }
    }

    fn header(&mut self, number: usize) -> (MessageHeader, i64) {
        let due_ms = self.now_ms() + 1 + self.below(15_000);
        let header = MessageHeader {
            topic_id: 1,
            queue: u32::try_from(self.chooser.below(QUEUES.into())).expect("small"),
            message_id: format!("m{number}"),
            ..MessageHeader::default()
        };
        (header, due_ms)
    }

    fn put(&mut self, header: MessageHeader, due_ms: i64, stands: Stands) {
        let (id, queue) = (header.message_id.clone(), header.queue);
        let content = Bytes::from(vec![7; 150]);
        let record = Record::Message(MessageRecord { header, system: Bytes::new(), content });
        let applied = propose(self.store(), &record);
        let expected = if stands == Stands::Open { Outcome::Held } else { Outcome::Scheduled };
        assert_eq!(applied.outcome, expected, "seed {}", self.seed);
        self.messages.insert(applied.position, Known { id, queue, due_ms, stands });
    }

    fn send(&mut self, number: usize) {
        let (header, due_ms) = self.header(number);
        let header = MessageHeader { hold: Hold::Until.into(), hold_ms: due_ms, ..header };
        self.put(header, due_ms, Stands::Pending);
    }

    fn send_half(&mut self, number: usize) {
        let (header, due_ms) = self.header(number);
        let header =
            MessageHeader { hold: Hold::Half.into(), hold_ms: 6_000, deliver_at_ms: due_ms, ..header };
        self.put(header, due_ms, Stands::Open);
    }

    /// Some message that the model knows.
    fn any(&mut self, wanted: impl Fn(Stands) -> bool) -> Option<u64> {
        let known = self.messages.iter().filter(|(_, known)| wanted(known.stands));
        let known: Vec<u64> = known.map(|(position, _)| *position).collect();
        (!known.is_empty())
            .then(|| known[usize::try_from(self.chooser.below(known.len() as u64)).expect("small")])
    }

    fn end_half(&mut self) {
        let Some(held) = self.any(|stands| stands == Stands::Open) else { return };
        let by = "p".to_owned();
        let (record, outcome, stands) = if self.chooser.chance(3, 4) {
            let release = Record::Release(ReleaseRecord { held, by, ..ReleaseRecord::default() });
            (release, Outcome::Scheduled, Stands::Pending)
        } else {
            (
                Record::Discard(DiscardRecord { held, by, ..DiscardRecord::default() }),
                Outcome::Discarded,
                Stands::RolledBack,
            )
        };
        assert_eq!(propose(self.store(), &record).outcome, outcome, "seed {}", self.seed);
        self.messages.get_mut(&held).expect("known").stands = stands;
    }

    fn end_timer(&mut self, decision: TimerDecision) {
        let Some(held) = self.any(|_| true) else { return };
        let ended = TimerEnded { held, decision: decision.into(), by: "p".into() };
        let outcome = propose(self.store(), &progress(ProgressItem::TimerEnded(ended))).outcome;
        let what = format!("seed {}, {decision:?} of {:?}", self.seed, self.messages[&held]);
        let over = |phase| [Outcome::TimerOver(phase), Outcome::NoSuchTimer].contains(&outcome);
        match self.messages[&held].stands {
            Stands::Pending if decision == TimerDecision::Recall => {
                assert_eq!(outcome, Outcome::Discarded, "{what}");
                self.messages.get_mut(&held).expect("known").stands = Stands::Recalled;
            }
            Stands::Pending => {
                assert!(matches!(outcome, Outcome::Visible { .. }), "{what}: {outcome:?}");
                self.delivered(held);
            }
            // When its segment is gone, nobody remembers what was decided.
            Stands::Delivered => assert!(over(TimerPhase::Delivered), "{what}: {outcome:?}"),
            Stands::Recalled => assert!(over(TimerPhase::Recalled), "{what}: {outcome:?}"),
            Stands::Open | Stands::RolledBack => assert_eq!(outcome, Outcome::NoSuchTimer, "{what}"),
        }
    }

    fn delivered(&mut self, held: u64) {
        let known = self.messages.get_mut(&held).expect("known");
        known.stands = Stands::Delivered;
        self.visible.entry(known.queue).or_default().push(known.id.clone());
    }

    /// What the broker does when it wakes.
    fn fire(&mut self) {
        let now_ms = self.now_ms();
        let mut last = None;
        loop {
            let due = self.store().index().due_timers(now_ms, None, BATCH).expect("reads");
            let held: Vec<u64> = due.iter().map(|(position, _)| *position).collect();
            for (position, timer) in due {
                let known = &self.messages[&position];
                assert_eq!(
                    (known.stands, known.due_ms),
                    (Stands::Pending, timer.due_ms),
                    "seed {}",
                    self.seed
                );
                assert!(timer.due_ms <= now_ms, "seed {}: {known:?} is early", self.seed);
                let place = Some((timer.due_ms, position));
                assert!(last < place, "seed {}: {known:?} is out of order", self.seed);
                last = place;
            }
            if held.is_empty() {
                break;
            }
            propose(self.store(), &progress(ProgressItem::Fired(Fired { held: held.clone() })));
            held.into_iter().for_each(|held| self.delivered(held));
        }
        let late = self.messages.values().find(|m| m.stands == Stands::Pending && m.due_ms <= now_ms);
        assert!(late.is_none(), "seed {}: {late:?} is forgotten", self.seed);
    }

    /// A record that names what was decided before and what never was: as after a crash between a record and its answer.
    fn fire_twice(&mut self) {
        let over = self.messages.iter().filter(|(_, known)| known.stands != Stands::Pending);
        let held: Vec<u64> = over.map(|(position, _)| *position).take(4).chain([9_999_999]).collect();
        propose(self.store(), &progress(ProgressItem::Fired(Fired { held })));
    }

    /// The wall clock is set ahead or back; a leap ahead delivers nothing before the grace is over.
    fn leap(&mut self) {
        let before_ms = self.now_ms();
        let jump_ms = self.below(60_000) - 20_000;
        self.pass(10, jump_ms);
        let look = self.guard.look(self.wall_ms.load(Ordering::Relaxed), self.monotonic_ms);
        if matches!(look.alarm, Some(ClockAlarm::Leapt(_))) {
            assert!(look.now_ms <= before_ms + 10, "seed {}", self.seed);
        }
        self.fire();
    }

    fn restart(&mut self) {
        self.store.take().expect("open").close();
        self.store = Some(open(&self.folder, &self.kv, &self.wall_ms));
        self.check();
    }

    /// The power is cut; what was answered is on disk. The index is as old as its last flush, or lost.
    fn kill(&mut self, loses_index: bool) {
        let kv = if loses_index { Arc::default() } else { Arc::new((*self.kv).clone()) };
        let folder = self.folder.fork();
        folder.crash(self.chooser.next_u64());
        self.store.take();
        (self.folder, self.kv) = (folder, kv);
        self.store = Some(open(&self.folder, &self.kv, &self.wall_ms));
        self.check();
    }

    fn trim(&mut self) {
        let points: Vec<_> = self.store().trim_points().collect::<Result<_, _>>().expect("reads");
        if !points.is_empty() {
            let point = usize::try_from(self.chooser.below(points.len() as u64)).expect("small");
            self.store().trim(&points[point]).expect("trims");
            self.check();
        }
    }

    /// The store shows what the model knows.
    fn check(&self) {
        let what = format!("seed {}", self.seed);
        let index = self.store().index();
        let due = index.due_timers(i64::MAX, None, 10_000).expect("reads");
        let pending: BTreeSet<u64> = due.iter().map(|(position, _)| *position).collect();
        let expected = self.messages.iter().filter(|(_, known)| known.stands == Stands::Pending);
        assert_eq!(pending, expected.map(|(position, _)| *position).collect(), "{what}");
        assert_eq!(index.scheduled_total(), pending.len() as u64, "{what}");
        assert!(due.is_sorted_by_key(|(position, timer)| (timer.due_ms, *position)), "{what}");
        for (position, timer) in &due {
            let read = self.store().read_message(timer.location(*position), timer.frame_len);
            let (_, message) = read.expect("a pending message outlives its segment");
            assert_eq!(message.header.message_id, self.messages[position].id, "{what}");
        }
        for queue in 0..QUEUES {
            let expected = self.visible.get(&queue).map_or(&[][..], Vec::as_slice);
            let bounds = index.queue_bounds(1, queue);
            assert_eq!(bounds.next, expected.len() as u64, "{what}, queue {queue}");
            for (offset, entry) in index.entries(1, queue, bounds.min, 10_000).expect("reads") {
                let entry = index.carried_entry(1, queue, offset, entry).expect("reads");
                let (_, message) = self.store().read_message(entry.position, entry.len).expect("reads");
                let id = &expected[usize::try_from(offset).expect("small")];
                assert_eq!(&message.header.message_id, id, "{what}, queue {queue}, offset {offset}");
            }
        }
    }

    fn run(mut self) {
        (0..STEPS).for_each(|number| self.step(number));
        self.check();
        // Whatever the clock did, everything comes in the end, and once.
        self.pass(60_000, 0);
        self.now_ms();
        self.pass(60_000, 0);
        self.fire();
        self.check();
        assert!(self.messages.values().all(|known| known.stands != Stands::Pending), "seed {}", self.seed);
        let visible = self.visible.values().flatten();
        let ids: BTreeSet<&String> = visible.clone().collect();
        assert_eq!(ids.len(), visible.count(), "seed {}: something came twice", self.seed);
    }
}

#[test]
fn scheduled_messages_follow_the_model_in_every_history() {
    // Each has threads of its own; a few at a time keep the cores busy.
    let seeds = std::sync::atomic::AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let seed = seeds.fetch_add(1, Ordering::Relaxed);
                    if seed >= HISTORIES {
                        return;
                    }
                    History::new(seed).run();
                }
            });
        }
    });
}
