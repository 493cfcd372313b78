//! Random histories of a topic with deduplication, checked against a model that remembers everything: time, windows,
//! transactions, crashes, rebuilt indexes, and trims.

use std::sync::Arc;

use bytes::Bytes;
use kerolox_core::record::{
    CarriedOrigin, DiscardRecord, MessageHeader, MessageHold, MessageRecord, MetaChange, MetaRecord, Record,
    ReleaseRecord, TrimRecord,
};
use kerolox_core::topic::Topic;
use kerolox_log::Frame;
use kerolox_log::fs::SeededChoices;

use super::{ApplyOutcome, FirstMessage, StateMachine};
use crate::kv::{Kv, MemKv};

const SEEDS: u64 = 4_000;
const STEPS: usize = 80;
const FRAME_LEN: u64 = 64;
const TOPIC: u32 = 1;

/// The fate of a stored message in the model.
struct Stored {
    hash: u128,
    first: FirstMessage,
    rolled_back: bool,
    /// Whether it was over at any moment: it may then be forgotten, even if the window grows or the clock is set back.
    was_over: bool,
}

struct World {
    chooser: SeededChoices,
    kv: Arc<MemKv>,
    state: StateMachine,
    /// The log, with the outcome of each record.
    log: Vec<(Frame, ApplyOutcome)>,
    now_ms: i64,
    window_ms: i64,
    stored: Vec<Stored>,
    /// Duplicates in the log, each with its first record.
    repeats: Vec<(u64, u64)>,
    /// Beginnings of segments: position, and state of the queues.
    segments: Vec<(u64, TrimRecord)>,
    trimmed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let kv = Arc::new(MemKv::default());
        let mut world = Self {
            chooser: SeededChoices::new(seed),
            state: StateMachine::empty(kv.clone()).expect("memory"),
            kv,
            log: Vec::new(),
            now_ms: 1_700_000_000_000,
            window_ms: 0,
            stored: Vec::new(),
            repeats: Vec::new(),
            segments: Vec::new(),
            trimmed: 0,
        };
        world.set_window();
        world
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.chooser.below(limit as u64)).expect("below a usize")
    }

    fn next_position(&self) -> u64 {
        self.log.last().map_or(FRAME_LEN, |(frame, _)| frame.end())
    }

    fn put(&mut self, record: &Record) -> (u64, ApplyOutcome) {
        let frame = Frame {
            position: self.next_position(),
            len: u32::try_from(FRAME_LEN).expect("small"),
            kind: record.kind() as u8,
            epoch: 1,
            store_ms: self.now_ms,
            body: Bytes::from(record.encode()),
        };
        let outcome = self.state.apply(&frame, &mut Vec::new()).expect("applies");
        let position = frame.position;
        self.log.push((frame, outcome.clone()));
        (position, outcome)
    }

    fn set_window(&mut self) {
        let seconds = [1, 2, 5, 60][self.below(4)];
        self.window_ms = seconds * 1_000;
        self.note_what_is_over();
        let attributes =
            [("dedup".to_owned(), "key".to_owned()), ("dedup.window".to_owned(), format!("{seconds}s"))];
        let topic = Topic { attributes: attributes.into(), ..Topic::new("t", 2) };
        self.put(&Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(topic)) }));
    }

    fn is_over(&self, stored: &Stored) -> bool {
        self.now_ms.abs_diff(stored.first.store_ms) >= self.window_ms.unsigned_abs()
    }

    fn note_what_is_over(&mut self) {
        for at in 0..self.stored.len() {
            self.stored[at].was_over |= self.is_over(&self.stored[at]);
        }
    }

    fn set_clock(&mut self, now_ms: i64) {
        self.now_ms = now_ms;
        self.note_what_is_over();
    }

    /// Whether `asked` is the right answer for a message with this hash: its first record, or none. The newest one
    /// counts; one that was over may be forgotten.
    fn is_right(&self, hash: u128, asked: Option<FirstMessage>) -> bool {
        let known = self.stored.iter().rev().filter(|stored| {
            let is_there = stored.first.position >= self.trimmed && !self.is_over(stored);
            stored.hash == hash && is_there && !stored.rolled_back
        });
        for stored in known {
            if asked == Some(stored.first) || !stored.was_over {
                return asked == Some(stored.first);
            }
        }
        asked.is_none()
    }

    fn send(&mut self, hold: MessageHold) {
        let hash = u128::from(self.chooser.below(5)) << 64 | 7;
        let queue = u32::try_from(self.chooser.below(2)).expect("small");
        let mut header =
            MessageHeader { topic_id: TOPIC, queue, hold: hold.into(), ..MessageHeader::default() };
        header.set_dedup(Some(hash));
        let topic = self.state.topics.get("t").expect("it was made");
        let asked = self.state.first_of(&topic, hash, self.now_ms).expect("memory");
        assert!(self.is_right(hash, asked), "{asked:?}");
        let message = MessageRecord { header, system: Bytes::new(), content: Bytes::new() };
        let (position, outcome) = self.put(&Record::Message(message));
        let place = match (asked, outcome) {
            (Some(first), outcome) => {
                assert_eq!(outcome, ApplyOutcome::Duplicate(first), "a repeat has the first one's result");
                return self.repeats.push((position, first.position));
            }
            (None, ApplyOutcome::Visible { queue, offset }) => Some((queue, offset)),
            (None, outcome) => {
                assert_eq!((hold, outcome), (MessageHold::Half, ApplyOutcome::Held));
                None
            }
        };
        let first = FirstMessage { position, store_ms: self.now_ms, place };
        self.stored.push(Stored { hash, first, rolled_back: false, was_over: false });
    }

    /// Ends a random transaction, which may have ended before.
    fn settle(&mut self) {
        let halves: Vec<usize> =
            (0..self.stored.len()).filter(|at| self.stored[*at].first.place.is_none()).collect();
        if halves.is_empty() {
            return;
        }
        let at = halves[self.below(halves.len())];
        let (held, by) = (self.stored[at].first.position, "p".to_owned());
        if self.chooser.chance(1, 2) {
            let (_, outcome) =
                self.put(&Record::Discard(DiscardRecord { held, by, ..DiscardRecord::default() }));
            self.stored[at].rolled_back |= outcome == ApplyOutcome::Discarded;
        } else {
            self.put(&Record::Release(ReleaseRecord { held, by, ..ReleaseRecord::default() }));
        }
    }

    fn begin_segment(&mut self) {
        let parts = self.state.snapshot().expect("memory");
        let before = self.next_position();
        let queues = parts.iter().flat_map(|part| part.queues.clone()).collect();
        for part in parts {
            self.put(&Record::Snapshot(Box::new(part)));
        }
        self.segments.push((before, TrimRecord { before, queues }));
    }

    fn trim(&mut self) {
        if self.segments.is_empty() {
            return;
        }
        let at = self.below(self.segments.len());
        let (before, trim) = self.segments[at].clone();
        for carry in self.state.to_carry(before).expect("memory") {
            let found = self.log.iter().find(|(frame, _)| frame.position == carry.location);
            let (frame, _) = found.expect("carried records are readable");
            let mut message = MessageRecord::decode(frame.body.clone()).expect("a message");
            message.header.carried = Some(CarriedOrigin { store_ms: frame.store_ms, ..carry.carried });
            self.put(&Record::Message(message));
        }
        let hangs = self.repeats.iter().any(|(repeat, first)| *first < before && *repeat >= before);
        let (_, outcome) = self.put(&Record::Trim(trim));
        assert_eq!(outcome, if hangs { ApplyOutcome::Hangs } else { ApplyOutcome::Done });
        if !hangs {
            self.trimmed = self.trimmed.max(before);
            self.segments.retain(|(begin, _)| *begin >= before);
            // The state can do without records that are removed from the log.
            self.flush();
            self.log.retain(|(frame, _)| frame.position >= before);
        }
    }

    fn flush(&mut self) {
        self.kv.write(self.state.changes()).expect("memory");
        self.state.flushed();
    }

    /// Loses unflushed changes or the whole state, and recovers an equal state.
    fn restart(&mut self, loses_index: bool) {
        self.state = if loses_index {
            StateMachine::empty(self.kv.clone())
        } else {
            StateMachine::load(self.kv.clone())
        }
        .expect("memory");
        let applied = self.state.applied();
        for (frame, before) in self.log.iter().filter(|(frame, _)| frame.position >= applied) {
            let now = self.state.apply(frame, &mut Vec::new()).expect("applies");
            // Everything before the log is forgotten, also the transactions that ended there and the records that hung
            // on it.
            let is_forgotten = now == ApplyOutcome::NoSuchHalf
                || (before, &now) == (&ApplyOutcome::Hangs, &ApplyOutcome::Done);
            assert!(now == *before || is_forgotten, "at {}: {before:?} became {now:?}", frame.position);
        }
    }

    fn step(&mut self) {
        match self.below(24) {
            0..10 => self.send(MessageHold::None),
            10..13 => self.send(MessageHold::Half),
            13..15 => self.settle(),
            15..18 => {
                let step = [1, 300, 999, 1_000, 2_500, 30_000][self.below(6)];
                self.set_clock(self.now_ms + step);
            }
            18 => self.begin_segment(),
            19 => self.trim(),
            20 => self.flush(),
            21 => self.restart(false),
            22 => self.restart(true),
            _ if self.chooser.chance(1, 4) => self.set_window(),
            _ if self.chooser.chance(1, 4) => self.set_clock(self.now_ms - 5_000),
            _ => {}
        }
    }
}

#[test]
fn nothing_is_stored_twice_within_the_window_and_nothing_is_refused_outside_of_it() {
    let (mut repeats, mut trims) = (0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        (0..STEPS).for_each(|_| world.step());
        repeats += world.repeats.len();
        trims += usize::from(world.trimmed > 0);
    }
    assert!(repeats > 10_000 && trims > 100, "{repeats} repeats, {trims} trimmed logs");
}

/// Messages without duplicates do not stay in the state for ever.
#[test]
fn what_is_over_goes_from_the_store() {
    let mut world = World::new(1);
    world.window_ms = 0;
    let keys = |kv: &MemKv| kv.scan(crate::kv::KeyFamily::Dedup, &[], usize::MAX).expect("memory").len();
    let mut most = 0;
    for _ in 0..400 {
        world.set_clock(world.now_ms + 700);
        world.window_ms = world
            .state
            .topics
            .get("t")
            .and_then(|topic| kerolox_core::dedup::DedupPolicy::of(&topic))
            .expect("on")
            .window_ms;
        world.send(MessageHold::None);
        world.flush();
        most = most.max(keys(&world.kv));
    }
    assert!((2..200).contains(&most), "{most} keys");
    let plain = Topic::new("t", 2);
    world.put(&Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(plain)) }));
    world.flush();
    assert!(keys(&world.kv) <= world.repeats.len(), "nothing is left of a topic that takes everything");
}
