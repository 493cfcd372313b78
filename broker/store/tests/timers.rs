//! Scheduled messages against a model, in thousands of seeded histories with restarts, rebuilt indexes, trims and a leaping
//! clock: none is early, none is lost, none is delivered twice, a recalled one is never delivered, and every answer is
//! true.

#[path = "support/machine.rs"]
mod machine;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;

use bytes::Bytes;
use kerolox_core::clock::{ClockAlarm, ClockGuard, ClockPolicy};
use kerolox_core::record::{
    DiscardRecord, FiredRecord, MessageHeader, MessageHold, MessageRecord, ProgressItem, Record,
    ReleaseRecord, TimerDecision, TimerEnded,
};
use kerolox_core::timer::TimerPhase;
use kerolox_core::topic::Topic;
use kerolox_store::{ApplyOutcome, Store};

use machine::{Machine, each_seed};

const POLICY: ClockPolicy = ClockPolicy { leap_ms: 5_000, grace_ms: 10_000 };
const QUEUES: u32 = 2;
const STEPS: usize = 70;
const HISTORIES: u64 = 2_000;
/// Maximum number of messages that one record delivers.
const BATCH: usize = 3;

/// The model's knowledge of a message.
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
    machine: Machine,
    monotonic_ms: u64,
    guard: ClockGuard,
    /// By position.
    messages: BTreeMap<u64, Known>,
    /// Ids in the order in which they became visible, by queue.
    visible: BTreeMap<u32, Vec<String>>,
}

impl History {
    fn new(seed: u64) -> Self {
        let machine = Machine::new(seed);
        machine.put_topic(Topic::new("t", QUEUES));
        Self {
            machine,
            monotonic_ms: 0,
            guard: ClockGuard::new(POLICY),
            messages: BTreeMap::new(),
            visible: BTreeMap::new(),
        }
    }

    fn store(&self) -> &Store {
        self.machine.store()
    }

    /// The broker's clock.
    fn now_ms(&mut self) -> i64 {
        self.guard.look(self.machine.wall_ms.load(Ordering::Relaxed), self.monotonic_ms).now_ms
    }

    fn pass(&mut self, ms: i64, jump_ms: i64) {
        self.monotonic_ms += ms.unsigned_abs();
        self.machine.wall_ms.fetch_add(ms + jump_ms, Ordering::Relaxed);
    }

    fn step(&mut self, number: usize) {
        match self.machine.chooser.below(40) {
            0..12 => self.send(number),
            12..17 => self.send_half(number),
            17..21 => self.end_half(),
            21..24 => self.end_timer(TimerDecision::Recall),
            24 => self.end_timer(TimerDecision::Deliver),
            25..33 => {
                let ms = self.machine.below(4_000);
                self.pass(ms, 0);
                self.fire();
            }
            33 => self.leap(),
            34 => self.machine(Machine::restart),
            35 => self.machine(|machine| machine.kill(false)),
            36 => self.machine(|machine| machine.kill(true)),
            37 => self.machine(Machine::trim),
            _ => self.fire_twice(),
        }
    }

    fn header(&mut self, number: usize) -> (MessageHeader, i64) {
        let due_ms = self.now_ms() + 1 + self.machine.below(15_000);
        let header = MessageHeader {
            topic_id: 1,
            queue: u32::try_from(self.machine.chooser.below(QUEUES.into())).expect("small"),
            message_id: format!("m{number}"),
            ..MessageHeader::default()
        };
        (header, due_ms)
    }

    fn put(&mut self, header: MessageHeader, due_ms: i64, stands: Stands) {
        let (id, queue) = (header.message_id.clone(), header.queue);
        let content = Bytes::from(vec![7; 150]);
        let record = Record::Message(MessageRecord { header, system: Bytes::new(), content });
        let applied = self.machine.propose(&record);
        let expected = if stands == Stands::Open { ApplyOutcome::Held } else { ApplyOutcome::Scheduled };
        assert_eq!(applied.outcome, expected, "seed {}", self.machine.seed);
        self.messages.insert(applied.position, Known { id, queue, due_ms, stands });
    }

    fn send(&mut self, number: usize) {
        let (header, due_ms) = self.header(number);
        let header = MessageHeader { hold: MessageHold::Until.into(), hold_ms: due_ms, ..header };
        self.put(header, due_ms, Stands::Pending);
    }

    fn send_half(&mut self, number: usize) {
        let (header, due_ms) = self.header(number);
        let header =
            MessageHeader { hold: MessageHold::Half.into(), hold_ms: 6_000, deliver_at_ms: due_ms, ..header };
        self.put(header, due_ms, Stands::Open);
    }

    /// Some message that the model knows.
    fn any(&mut self, wanted: impl Fn(Stands) -> bool) -> Option<u64> {
        let known = self.messages.iter().filter(|(_, known)| wanted(known.stands));
        let known: Vec<u64> = known.map(|(position, _)| *position).collect();
        self.machine.one_of(&known)
    }

    fn end_half(&mut self) {
        let Some(held) = self.any(|stands| stands == Stands::Open) else { return };
        let by = "p".to_owned();
        let (record, outcome, stands) = if self.machine.chooser.chance(3, 4) {
            let release = Record::Release(ReleaseRecord { held, by, ..ReleaseRecord::default() });
            (release, ApplyOutcome::Scheduled, Stands::Pending)
        } else {
            (
                Record::Discard(DiscardRecord { held, by, ..DiscardRecord::default() }),
                ApplyOutcome::Discarded,
                Stands::RolledBack,
            )
        };
        assert_eq!(self.machine.propose(&record).outcome, outcome, "seed {}", self.machine.seed);
        self.messages.get_mut(&held).expect("known").stands = stands;
    }

    fn end_timer(&mut self, decision: TimerDecision) {
        let Some(held) = self.any(|_| true) else { return };
        let ended = TimerEnded { held, decision: decision.into(), by: "p".into() };
        let outcome = self.machine.progress(ProgressItem::TimerEnded(ended)).outcome;
        let what = format!("seed {}, {decision:?} of {:?}", self.machine.seed, self.messages[&held]);
        let over = |phase| [ApplyOutcome::TimerOver(phase), ApplyOutcome::NoSuchTimer].contains(&outcome);
        match self.messages[&held].stands {
            Stands::Pending if decision == TimerDecision::Recall => {
                assert_eq!(outcome, ApplyOutcome::Discarded, "{what}");
                self.messages.get_mut(&held).expect("known").stands = Stands::Recalled;
            }
            Stands::Pending => {
                assert!(matches!(outcome, ApplyOutcome::Visible { .. }), "{what}: {outcome:?}");
                self.delivered(held);
            }
            // When its segment is gone, the decision is forgotten.
            Stands::Delivered => assert!(over(TimerPhase::Delivered), "{what}: {outcome:?}"),
            Stands::Recalled => assert!(over(TimerPhase::Recalled), "{what}: {outcome:?}"),
            Stands::Open | Stands::RolledBack => assert_eq!(outcome, ApplyOutcome::NoSuchTimer, "{what}"),
        }
    }

    fn delivered(&mut self, held: u64) {
        let known = self.messages.get_mut(&held).expect("known");
        known.stands = Stands::Delivered;
        self.visible.entry(known.queue).or_default().push(known.id.clone());
    }

    /// The broker's action when it wakes.
    fn fire(&mut self) {
        let now_ms = self.now_ms();
        let mut last = None;
        loop {
            let due = self.store().state().timers.due(now_ms, None, BATCH).expect("reads");
            let held: Vec<u64> = due.iter().map(|(position, _)| *position).collect();
            for (position, timer) in due {
                let known = &self.messages[&position];
                assert_eq!(
                    (known.stands, known.due_ms),
                    (Stands::Pending, timer.due_ms),
                    "seed {}",
                    self.machine.seed
                );
                assert!(timer.due_ms <= now_ms, "seed {}: {known:?} is early", self.machine.seed);
                let place = Some((timer.due_ms, position));
                assert!(last < place, "seed {}: {known:?} is out of order", self.machine.seed);
                last = place;
            }
            if held.is_empty() {
                break;
            }
            self.machine.progress(ProgressItem::Fired(FiredRecord { held: held.clone() }));
            held.into_iter().for_each(|held| self.delivered(held));
        }
        let late = self.messages.values().find(|m| m.stands == Stands::Pending && m.due_ms <= now_ms);
        assert!(late.is_none(), "seed {}: {late:?} is forgotten", self.machine.seed);
    }

    /// A record that names decided and unknown messages: as after a crash between a record and its answer.
    fn fire_twice(&mut self) {
        let over = self.messages.iter().filter(|(_, known)| known.stands != Stands::Pending);
        let held: Vec<u64> = over.map(|(position, _)| *position).take(4).chain([9_999_999]).collect();
        self.machine.progress(ProgressItem::Fired(FiredRecord { held }));
    }

    /// The wall clock is set ahead or back; a leap ahead delivers nothing before the grace period is over.
    fn leap(&mut self) {
        let before_ms = self.now_ms();
        let jump_ms = self.machine.below(60_000) - 20_000;
        self.pass(10, jump_ms);
        let look = self.guard.look(self.machine.wall_ms.load(Ordering::Relaxed), self.monotonic_ms);
        if matches!(look.alarm, Some(ClockAlarm::Leapt(_))) {
            assert!(look.now_ms <= before_ms + 10, "seed {}", self.machine.seed);
        }
        self.fire();
    }

    /// Applies an event to the machine.
    fn machine(&mut self, happens: impl FnOnce(&mut Machine)) {
        happens(&mut self.machine);
        self.check();
    }

    /// Checks that the store agrees with the model.
    fn check(&self) {
        let what = format!("seed {}", self.machine.seed);
        let index = self.store().state();
        let due = index.timers.due(i64::MAX, None, 10_000).expect("reads");
        let pending: BTreeSet<u64> = due.iter().map(|(position, _)| *position).collect();
        let expected = self.messages.iter().filter(|(_, known)| known.stands == Stands::Pending);
        assert_eq!(pending, expected.map(|(position, _)| *position).collect(), "{what}");
        assert_eq!(index.timers.open_total(), pending.len() as u64, "{what}");
        assert!(due.is_sorted_by_key(|(position, timer)| (timer.due_ms, *position)), "{what}");
        for (position, timer) in &due {
            let read = self.store().read_message(timer.location(*position), timer.frame_len);
            let (_, message) = read.expect("a pending message outlives its segment");
            assert_eq!(message.header.message_id, self.messages[position].id, "{what}");
        }
        for queue in 0..QUEUES {
            let expected = self.visible.get(&queue).map_or(&[][..], Vec::as_slice);
            let bounds = index.queues.bounds(1, queue);
            assert_eq!(bounds.next, expected.len() as u64, "{what}, queue {queue}");
            for (offset, entry) in index.queues.entries(1, queue, bounds.min, 10_000).expect("reads") {
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
        // Whatever the clock did, every message is delivered in the end, and once.
        self.pass(60_000, 0);
        self.now_ms();
        self.pass(60_000, 0);
        self.fire();
        self.check();
        assert!(
            self.messages.values().all(|known| known.stands != Stands::Pending),
            "seed {}",
            self.machine.seed
        );
        let visible = self.visible.values().flatten();
        let ids: BTreeSet<&String> = visible.clone().collect();
        assert_eq!(ids.len(), visible.count(), "seed {}: something came twice", self.machine.seed);
    }
}

#[test]
fn scheduled_messages_follow_the_model_in_every_history() {
    each_seed(HISTORIES, |seed| History::new(seed).run());
}
