//! Message groups while their topic gets other numbers of queues, in seeded histories with restarts, rebuilt indexes and
//! trims: the next message of a group is never visible in another queue before the ordered consumers have finished the
//! earlier ones, and in the end every group is in the queue that the number of queues determines.

#[path = "support/machine.rs"]
mod machine;

use std::collections::BTreeMap;

use bytes::Bytes;
use kerolox_core::group::Group;
use kerolox_core::record::{
    AckRange, FinishedRecord, FiredRecord, MessageHeader, MessageHold, MessageRecord, MetaChange, MetaRecord,
    ProgressItem, QueueProgress, Record, ReleaseRecord,
};
use kerolox_core::slots::{finished_by_all, queue_of};
use kerolox_core::topic::{MessageType, Topic};
use kerolox_store::ApplyOutcome;

use machine::{Machine, each_seed};

const TOPIC: u32 = 1;
/// The last one is unordered.
const GROUPS: [(u32, bool); 3] = [(1, true), (2, true), (3, false)];
const SLOTS: u64 = 24;
const QUEUES_MAX: u64 = 7;
const STEPS: usize = 120;
const HISTORIES: u64 = 2_000;

struct History {
    machine: Machine,
    write_queues: u32,
    /// Queue and offset of visible messages, by slot, in order.
    visible: BTreeMap<u32, Vec<(u32, u64)>>,
    /// Offset before which a group has finished everything, by group and queue.
    floors: BTreeMap<(u32, u32), u64>,
    /// Ends of queues.
    ends: BTreeMap<u32, u64>,
    /// Finished records that are not proposed yet.
    late: Vec<FinishedRecord>,
    /// Positions and slots of held messages.
    halves: Vec<(u64, u32)>,
    timers: Vec<(u64, u32)>,
}

fn topic(write_queues: u32) -> Topic {
    let types = vec![MessageType::Fifo.into()];
    Topic { types, read_queues: 8, ..Topic::new("t", write_queues) }
}

impl History {
    fn new(seed: u64) -> Self {
        let machine = Machine::new(seed);
        machine.put_topic(topic(3));
        for (id, fifo) in GROUPS {
            let group = Group { fifo, ..Group::new(&format!("g{id}")) };
            machine.propose(&Record::Meta(MetaRecord { change: Some(MetaChange::PutGroup(group)) }));
        }
        Self {
            machine,
            write_queues: 3,
            visible: BTreeMap::new(),
            floors: BTreeMap::new(),
            ends: BTreeMap::new(),
            late: Vec::new(),
            halves: Vec::new(),
            timers: Vec::new(),
        }
    }

    fn step(&mut self, number: usize) {
        match self.machine.chooser.below(40) {
            0..14 => drop(self.send(number, MessageHold::None)),
            14 => drop(self.send(number, MessageHold::Half)),
            15 => drop(self.send(number, MessageHold::Until)),
            16 => self.commit(),
            17 => self.fire(),
            18..28 => self.consume(),
            28..31 => self.look(),
            31..34 => self.say(),
            34 => self.resize(),
            35 => self.machine(Machine::restart),
            36 => self.machine(|machine| machine.kill(false)),
            37 => self.machine(|machine| machine.kill(true)),
            38 => self.machine(Machine::trim),
            _ => {}
        }
    }

    /// Returns the slot.
    fn send(&mut self, number: usize, hold: MessageHold) -> u32 {
        let slot = u32::try_from(self.machine.below(SLOTS)).expect("small");
        let header = MessageHeader {
            topic_id: TOPIC,
            // The proposer's expectation may be outdated.
            queue: u32::try_from(self.machine.below(8)).expect("small"),
            message_id: format!("m{number}"),
            hold: hold.into(),
            hold_ms: machine::START_MS,
            slot: Some(slot),
            ..MessageHeader::default()
        };
        let content = Bytes::from(vec![7; 150]);
        let message = MessageRecord { header, system: Bytes::new(), content };
        let applied = self.machine.propose(&Record::Message(message));
        match hold {
            MessageHold::None => self.shown(slot, &applied.outcome),
            MessageHold::Half => self.halves.push((applied.position, slot)),
            MessageHold::Until => self.timers.push((applied.position, slot)),
        }
        slot
    }

    fn commit(&mut self) {
        let Some((held, slot)) = self.halves.pop() else { return };
        let release = ReleaseRecord { held, by: "p".into(), ..ReleaseRecord::default() };
        let outcome = self.machine.propose(&Record::Release(release)).outcome;
        self.shown(slot, &outcome);
    }

    fn fire(&mut self) {
        let Some((held, slot)) = self.timers.pop() else { return };
        self.machine.progress(ProgressItem::Fired(FiredRecord { held: vec![held] }));
        let timer = self.machine.store().state().timers.get(held).expect("reads").expect("known");
        self.shown(slot, &ApplyOutcome::Visible { queue: timer.queue, offset: timer.offset });
    }

    /// A message became visible: no message of its slot in another queue may be unfinished.
    fn shown(&mut self, slot: u32, outcome: &ApplyOutcome) {
        let ApplyOutcome::Visible { queue, offset } = *outcome else { panic!("{outcome:?} is not visible") };
        let seed = self.machine.seed;
        assert_eq!(self.ends.insert(queue, offset + 1).unwrap_or(0), offset, "seed {seed}");
        let index = self.machine.store().state();
        let before = self.visible.entry(slot).or_default();
        for (earlier, at) in before.iter().filter(|(earlier, _)| *earlier != queue) {
            for (group, _) in GROUPS.iter().filter(|(_, fifo)| *fifo) {
                // Expired messages no longer count.
                let expired = index.queues.bounds(TOPIC, *earlier).min;
                let floor = self.floors.get(&(*group, *earlier)).copied().unwrap_or(0).max(expired);
                assert!(
                    floor > *at,
                    "seed {seed}: slot {slot} goes to queue {queue} before group {group} is done with {earlier}:{at}"
                );
            }
        }
        before.push((queue, offset));
    }

    fn consume(&mut self) {
        let group = self.machine.one_of(&GROUPS).expect("groups").0;
        let queues: Vec<u32> = self.ends.keys().copied().collect();
        let Some(queue) = self.machine.one_of(&queues) else { return };
        let floor = self.floors.get(&(group, queue)).copied().unwrap_or(0);
        let more = self.machine.chooser.below(self.ends[&queue] - floor + 1);
        self.ack(group, queue, floor + more);
    }

    fn ack(&mut self, group: u32, queue: u32, end: u64) {
        let start = self.floors.insert((group, queue), end).unwrap_or(0);
        self.machine.progress(ProgressItem::Queue(QueueProgress {
            group_id: group,
            topic_id: TOPIC,
            queue,
            acked: vec![AckRange { start, end }],
            ..QueueProgress::default()
        }));
    }

    /// The broker's regular check, up to the record.
    fn look(&mut self) {
        let index = self.machine.store().state();
        let Some(moving) = index.ordering.get(TOPIC) else { return };
        for (queue, mark) in moving.marks() {
            let floor = |group| {
                index.acks(group, TOPIC, queue).expect("reads").map_or(0, |acks| acks.committed().get())
            };
            let floor = finished_by_all(GROUPS.map(|(group, fifo)| (fifo, floor(group)))).expect("groups");
            if floor >= mark {
                self.late.push(FinishedRecord { topic_id: TOPIC, queue, floor });
            }
        }
    }

    /// Proposes the record, perhaps after many others, and perhaps twice.
    fn say(&mut self) {
        let Some(finished) = self.machine.one_of(&self.late.clone()) else { return };
        self.machine.progress(ProgressItem::Finished(finished));
        if self.machine.chooser.chance(1, 2) {
            self.late.retain(|late| *late != finished);
        }
    }

    fn resize(&mut self) {
        self.write_queues = u32::try_from(self.machine.below(QUEUES_MAX)).expect("small") + 1;
        self.machine.put_topic(topic(self.write_queues));
    }

    /// Applies an event to the machine, after which everything is as before.
    fn machine(&mut self, happens: impl FnOnce(&mut Machine)) {
        let before = self.machine.store().state().ordering.all();
        happens(&mut self.machine);
        let index = self.machine.store().state();
        assert_eq!(index.ordering.all(), before, "seed {}", self.machine.seed);
        for (queue, end) in &self.ends {
            assert_eq!(index.queues.bounds(TOPIC, *queue).next, *end, "seed {}", self.machine.seed);
        }
    }

    fn run(mut self) {
        (0..STEPS).for_each(|number| self.step(number));
        for (group, _) in GROUPS {
            for (queue, end) in self.ends.clone() {
                self.ack(group, queue, end);
            }
        }
        // The second check is for slots that got a message since the first one.
        for _ in 0..2 {
            self.look();
            for finished in std::mem::take(&mut self.late) {
                self.machine.progress(ProgressItem::Finished(finished));
            }
        }
        assert_eq!(self.machine.store().state().ordering.all(), [], "seed {}", self.machine.seed);
        for number in STEPS..2 * STEPS {
            let slot = self.send(number, MessageHold::None);
            let (queue, _) = *self.visible[&slot].last().expect("just sent");
            assert_eq!(queue, queue_of(slot, self.write_queues), "seed {}", self.machine.seed);
        }
    }
}

#[test]
fn message_groups_keep_their_order_in_every_history() {
    each_seed(HISTORIES, |seed| History::new(seed).run());
}
