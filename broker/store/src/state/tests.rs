//! The state machine, record by record, on an ordered map.

use bytes::Bytes;
use kerolox_core::audit::AUDIT_MAX;
use kerolox_core::group::Group;
use kerolox_core::record::{
    AckRange, CheckedHalf, DeleteTopic, DiscardRecord, FiredRecord, MessageHeader, MessageHold,
    MessageRecord, MetaChange, MetaRecord, ProgressItem, ProgressRecord, QueueProgress, Record,
    ReleaseRecord, TimerDecision, TimerEnded,
};
use kerolox_core::timer::TimerPhase;
use kerolox_core::topic::Topic;
use kerolox_core::transaction::DecisionSource;

mod lites;
mod withheld;

use super::*;
use crate::kv::MemKv;
use kerolox_log::Frame;

const STEP: u64 = 64;

/// A state and the log of the records applied to it.
struct Replay {
    state: StateMachine,
    frames: Vec<Frame>,
}

impl Replay {
    fn new() -> Self {
        let mut replay = Self {
            state: StateMachine::empty(Arc::new(MemKv::default())).expect("memory"),
            frames: Vec::new(),
        };
        replay.apply(Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("t", 2))) }));
        replay.apply(Record::Meta(MetaRecord { change: Some(MetaChange::PutGroup(Group::new("g"))) }));
        replay
    }

    fn apply(&mut self, record: Record) -> (u64, ApplyOutcome) {
        let position = STEP * (self.frames.len() as u64 + 1);
        let frame = Frame {
            position,
            len: 64,
            kind: record.kind() as u8,
            epoch: 1,
            store_ms: 1_000 + i64::try_from(self.frames.len()).expect("few"),
            body: Bytes::from(record.encode()),
        };
        self.frames.push(frame.clone());
        (position, self.state.apply(&frame, &mut Vec::new()).expect("applies"))
    }

    fn send(&mut self, queue: u32) -> (u64, ApplyOutcome) {
        self.apply(message(queue, MessageHold::None))
    }

    fn flush(&mut self) {
        self.state.kv.write(self.state.changes()).expect("memory");
        self.state.flushed();
    }

    /// A reader's view of a state, for comparisons.
    fn view(state: &StateMachine) -> impl PartialEq + std::fmt::Debug + use<> {
        let queues: Vec<_> = state
            .topics
            .all()
            .iter()
            .flat_map(|topic| (0..topic.read_queues).map(|queue| (topic.id, queue)))
            .map(|(topic, queue)| {
                let entries = state.queues.entries(topic, queue, 0, 10_000).expect("reads");
                (
                    topic,
                    queue,
                    state.queues.bounds(topic, queue),
                    entries,
                    state.acks(1, topic, queue).expect("reads"),
                )
            })
            .collect();
        let halves: Vec<_> = (0..200).map(|i| state.transactions.get(i * STEP).expect("reads")).collect();
        let due = state.transactions.due(i64::MAX, None, 1_000).expect("reads");
        let timers: Vec<_> = (0..200).map(|i| state.timers.get(i * STEP).expect("reads")).collect();
        let due_timers = state.timers.due(i64::MAX, None, 1_000).expect("reads");
        let totals = (state.transactions.open_total(), state.timers.open_total(), state.applied());
        let lites: Vec<_> = state.lites.page(1, "", 10_000).expect("reads");
        let lite_queues: Vec<_> = lites
            .iter()
            .map(|lite| {
                let entries = state.queues.entries(1, lite.queue, 0, 10_000).expect("reads");
                (entries, state.queues.bounds(1, lite.queue), state.acks(1, 1, lite.queue).expect("reads"))
            })
            .collect();
        let counts = (state.queues.lite_len(1), state.lites.next_queue());
        let held = ((halves, due), (timers, due_timers));
        let audit = state.audit.newest(u64::MAX, 100).expect("reads");
        (state.topics.all(), state.groups.all(), queues, held, (lites, lite_queues, counts), totals, audit)
    }
}

fn message(queue: u32, hold: MessageHold) -> Record {
    let header = MessageHeader {
        topic_id: 1,
        queue,
        hold: hold.into(),
        hold_ms: 6_000,
        message_id: "01AB".into(),
        ..MessageHeader::default()
    };
    Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::new() })
}

fn commit(held: u64) -> Record {
    Record::Release(ReleaseRecord { held, by: "p".into(), ..ReleaseRecord::default() })
}

fn rollback(held: u64) -> Record {
    Record::Discard(DiscardRecord { held, by: "p".into(), ..DiscardRecord::default() })
}

fn commit_by_hand(held: u64, by: &str) -> Record {
    let reason = "because".to_owned();
    Record::Release(ReleaseRecord { held, by: by.to_owned(), source: DecisionSource::Admin.into(), reason })
}

fn ack(start: u64, end: u64) -> Record {
    let queue = QueueProgress {
        group_id: 1,
        topic_id: 1,
        queue: 0,
        acked: vec![AckRange { start, end }],
        ..QueueProgress::default()
    };
    Record::Progress(ProgressRecord::new([ProgressItem::Queue(queue)]))
}

#[test]
fn offsets_count_up_per_queue_across_blocks_and_flushes() {
    let mut replay = Replay::new();
    for i in 0..600u64 {
        let (_, outcome) = replay.send(0);
        assert_eq!(outcome, ApplyOutcome::Visible { queue: 0, offset: i });
        if i % 97 == 0 {
            replay.flush();
        }
    }
    assert_eq!(replay.send(1).1, ApplyOutcome::Visible { queue: 1, offset: 0 });
    for (from, max) in (0..600).flat_map(|from| [1, 2, 31, 700].map(|max| (from, max))) {
        let entries = replay.state.queues.entries(1, 0, from, max).expect("reads");
        let offsets: Vec<u64> = entries.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, (from..600.min(from + max as u64)).collect::<Vec<_>>());
    }
    let entries = replay.state.queues.entries(1, 0, 250, 20).expect("reads");
    assert_eq!(entries.iter().map(|(offset, _)| *offset).collect::<Vec<_>>(), (250..270).collect::<Vec<_>>());
    assert!(entries.windows(2).all(|pair| pair[0].1.position + STEP == pair[1].1.position));
}

#[test]
fn a_half_is_invisible_until_committed_and_the_first_decision_wins() {
    let mut replay = Replay::new();
    let (held, outcome) = replay.apply(message(1, MessageHold::Half));
    assert_eq!(outcome, ApplyOutcome::Held);
    assert_eq!(replay.state.queues.bounds(1, 1).next, 0);
    assert_eq!(replay.state.transactions.due(held.cast_signed() + 10_000, None, 9).expect("reads").len(), 1);
    assert_eq!(replay.state.transactions.open(1), 1);

    replay.send(1);
    assert_eq!(replay.apply(commit(held)).1, ApplyOutcome::Visible { queue: 1, offset: 1 });
    assert_eq!(replay.state.queues.entries(1, 1, 1, 1).expect("reads")[0].1.position, held, "no second copy");
    assert_eq!(replay.apply(commit(held)).1, ApplyOutcome::Repeated);
    assert_eq!(replay.apply(rollback(held)).1, ApplyOutcome::Contradicted);
    assert_eq!(replay.state.transactions.open(1), 0);
    assert_eq!(replay.state.transactions.next_due_ms().expect("reads"), None);

    let (held, _) = replay.apply(message(1, MessageHold::Half));
    assert_eq!(replay.apply(rollback(held)).1, ApplyOutcome::Discarded);
    assert_eq!(replay.apply(rollback(held)).1, ApplyOutcome::Repeated);
    assert_eq!(replay.apply(commit(held)).1, ApplyOutcome::Contradicted);
    assert_eq!(replay.state.queues.bounds(1, 1).next, 2);
    assert_eq!(replay.apply(commit(999_999)).1, ApplyOutcome::NoSuchHalf);
}

#[test]
fn checks_move_the_due_time_and_the_last_one_parks() {
    let mut replay = Replay::new();
    let (held, _) = replay.apply(message(0, MessageHold::Half));
    let checked = |next_check_ms| {
        let item =
            CheckedHalf { held, checks: 1, next_check_ms, asked: "p".into(), ..CheckedHalf::default() };
        Record::Progress(ProgressRecord::new([ProgressItem::Checked(item)]))
    };
    replay.apply(checked(Some(77_000)));
    assert_eq!(replay.state.transactions.next_due_ms().expect("reads"), Some(77_000));
    assert!(replay.state.transactions.due(76_999, None, 9).expect("reads").is_empty());
    replay.apply(checked(None));
    assert_eq!(replay.state.transactions.next_due_ms().expect("reads"), None);
    assert_eq!(replay.state.transactions.open(1), 1, "parked, not lost");
    assert_eq!(replay.apply(commit(held)).1, ApplyOutcome::Visible { queue: 0, offset: 0 });
    replay.apply(checked(Some(99_000)));
    assert_eq!(replay.state.transactions.next_due_ms().expect("reads"), None, "a late check changes nothing");
}

fn fired(held: &[u64]) -> Record {
    Record::Progress(ProgressRecord::new([ProgressItem::Fired(FiredRecord { held: held.to_vec() })]))
}

fn ended(held: u64, decision: TimerDecision) -> Record {
    let item = TimerEnded { held, decision: decision.into(), by: "p".into() };
    Record::Progress(ProgressRecord::new([ProgressItem::TimerEnded(item)]))
}

#[test]
fn a_scheduled_message_is_delivered_or_recalled_once() {
    let mut replay = Replay::new();
    let held: Vec<u64> = (0..4).map(|_| replay.apply(message(1, MessageHold::Until)).0).collect();
    assert_eq!(replay.state.queues.bounds(1, 1).next, 0);
    assert_eq!(replay.state.timers.next_due_ms().expect("reads"), Some(6_000));
    assert_eq!(replay.state.timers.open(1), 4);
    assert_eq!(replay.apply(ended(held[1], TimerDecision::Recall)).1, ApplyOutcome::Discarded);
    let over = ApplyOutcome::TimerOver(TimerPhase::Recalled);
    assert_eq!(replay.apply(ended(held[1], TimerDecision::Recall)).1, over);
    assert_eq!(replay.apply(ended(held[1], TimerDecision::Deliver)).1, over);
    let now = ended(held[3], TimerDecision::Deliver);
    assert_eq!(replay.apply(now).1, ApplyOutcome::Visible { queue: 1, offset: 0 });
    // In the order of the record; earlier decisions stay, and no message is delivered twice.
    replay.apply(fired(&[held[2], held[1], held[0], held[2], held[3], 999_999]));
    replay.apply(fired(&held));
    let visible: Vec<u64> = replay
        .state
        .queues
        .entries(1, 1, 0, 9)
        .expect("reads")
        .iter()
        .map(|(_, entry)| entry.position)
        .collect();
    assert_eq!(visible, [held[3], held[2], held[0]]);
    assert_eq!((replay.state.timers.open(1), replay.state.timers.next_due_ms().expect("reads")), (0, None));
    let over = ApplyOutcome::TimerOver(TimerPhase::Delivered);
    assert_eq!(replay.apply(ended(held[0], TimerDecision::Recall)).1, over);
    let timer = replay.state.timers.get(held[0]).expect("reads").expect("known");
    assert_eq!((timer.offset, timer.decided_by.as_str()), (2, ""));
    assert_eq!(replay.apply(ended(999_999, TimerDecision::Recall)).1, ApplyOutcome::NoSuchTimer);
}

#[test]
fn a_half_message_with_a_delivery_time_is_scheduled_by_its_commit() {
    let mut replay = Replay::new();
    let half = || {
        let Record::Message(mut half) = message(0, MessageHold::Half) else { panic!("a message") };
        half.header.deliver_at_ms = 50_000;
        Record::Message(half)
    };
    let (held, outcome) = replay.apply(half());
    assert_eq!((outcome, replay.state.timers.open(1)), (ApplyOutcome::Held, 0));
    assert_eq!(
        replay.apply(ended(held, TimerDecision::Deliver)).1,
        ApplyOutcome::NoSuchTimer,
        "it is not committed"
    );
    assert_eq!(replay.apply(commit(held)).1, ApplyOutcome::Scheduled);
    assert_eq!((replay.state.transactions.open(1), replay.state.timers.open(1)), (0, 1));
    assert_eq!(replay.apply(commit(held)).1, ApplyOutcome::Repeated);
    assert_eq!(replay.apply(rollback(held)).1, ApplyOutcome::Contradicted, "a recall is something else");
    assert_eq!(replay.state.timers.next_due_ms().expect("reads"), Some(50_000));
    replay.apply(fired(&[held]));
    assert_eq!(replay.state.queues.bounds(1, 0).next, 1);
    let (held, _) = replay.apply(half());
    replay.apply(commit(held));
    assert_eq!(replay.apply(ended(held, TimerDecision::Recall)).1, ApplyOutcome::Discarded);
    assert_eq!(replay.state.queues.bounds(1, 0).next, 1);
}

#[test]
fn a_deleted_topic_leaves_nothing_behind() {
    let mut replay = Replay::new();
    replay.send(0);
    let (held, _) = replay.apply(message(0, MessageHold::Half));
    let (scheduled, _) = replay.apply(message(0, MessageHold::Until));
    replay.apply(ack(0, 1));
    replay.flush();
    replay.send(0);
    let delete = || {
        Record::Meta(MetaRecord { change: Some(MetaChange::DeleteTopic(DeleteTopic { name: "t".into() })) })
    };
    assert_eq!(replay.apply(delete()).1, ApplyOutcome::Deleted(true));
    assert_eq!(replay.apply(delete()).1, ApplyOutcome::Deleted(false));
    assert_eq!(replay.send(0).1, ApplyOutcome::TopicGone);
    assert_eq!(replay.apply(commit(held)).1, ApplyOutcome::NoSuchHalf);
    assert_eq!(replay.state.transactions.open_total(), 0);
    assert_eq!(replay.apply(ended(scheduled, TimerDecision::Deliver)).1, ApplyOutcome::NoSuchTimer);
    assert_eq!(
        (replay.state.timers.open_total(), replay.state.timers.next_due_ms().expect("reads")),
        (0, None)
    );
    let (_, outcome) =
        replay.apply(Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("t", 2))) }));
    let ApplyOutcome::Topic(topic, true) = outcome else { panic!("{outcome:?}") };
    assert_eq!(topic.id, 2, "an id is never given twice");
    assert_eq!(replay.state.queues.bounds(2, 0), QueueBounds::default());
}

#[test]
fn an_index_that_is_reloaded_or_rebuilt_shows_the_same() {
    let mut replay = Replay::new();
    let (mut halves, mut timers) = (Vec::new(), Vec::new());
    for i in 0..150u64 {
        match i % 8 {
            5 => timers.push(replay.apply(message(1, MessageHold::Until)).0),
            6 => drop(replay.apply(ended(timers[timers.len() / 2], TimerDecision::Recall))),
            7 => drop(replay.apply(fired(&timers[timers.len() / 3..][..1]))),
            0 => halves.push(replay.apply(message(1, MessageHold::Half)).0),
            1 if i % 2 == 0 => drop(replay.apply(commit(halves[halves.len() / 2]))),
            1 => drop(replay.apply(rollback(halves[halves.len() / 3]))),
            2 => drop(replay.apply(ack(i / 4, i / 4 + 2))),
            3 if i % 3 == 0 => drop(replay.apply(commit_by_hand(halves[halves.len() / 4], "alice"))),
            _ => drop(replay.send(0)),
        }
        if i == 70 {
            replay.flush();
        }
        if i == 100 {
            // A crash: everything since the last flush is applied again.
            let mut reloaded = StateMachine::load(replay.state.kv.clone()).expect("loads");
            let applied = reloaded.applied();
            for frame in replay.frames.iter().filter(|frame| frame.position >= applied) {
                reloaded.apply(frame, &mut Vec::new()).expect("applies");
            }
            assert_eq!(Replay::view(&reloaded), Replay::view(&replay.state));
            replay.state = reloaded;
        }
    }
    let mut rebuilt = StateMachine::empty(Arc::new(MemKv::default())).expect("memory");
    for frame in &replay.frames {
        rebuilt.apply(frame, &mut Vec::new()).expect("applies");
    }
    assert_eq!(Replay::view(&rebuilt), Replay::view(&replay.state));
    replay.flush();
    let reloaded = StateMachine::load(replay.state.kv.clone()).expect("loads");
    assert_eq!(Replay::view(&reloaded), Replay::view(&replay.state));
}

#[test]
fn the_audit_trail_survives_and_is_bounded() {
    let mut replay = Replay::new();
    let (held, _) = replay.apply(message(0, MessageHold::Half));
    replay.apply(commit(held));
    assert_eq!(replay.state.audit.newest(u64::MAX, 9).expect("reads"), [], "producers are not audited");
    for number in 0..AUDIT_MAX + 5 {
        replay.apply(commit_by_hand(held, &format!("admin {number}")));
    }
    let mut from_snapshot = StateMachine::empty(Arc::new(MemKv::default())).expect("memory");
    for part in replay.state.snapshot().expect("reads") {
        from_snapshot.apply_snapshot(part).expect("takes it up");
    }
    replay.flush();
    let reloaded = StateMachine::load(replay.state.kv.clone()).expect("loads");
    for state in [&replay.state, &reloaded, &from_snapshot] {
        let entries = state.audit.newest(u64::MAX, usize::MAX).expect("reads");
        assert_eq!(entries.len(), AUDIT_MAX);
        let (newest, oldest) = (&entries[0].1, &entries[AUDIT_MAX - 1].1);
        assert_eq!(newest.by, format!("admin {}", AUDIT_MAX + 4));
        assert_eq!((&*oldest.by, &*oldest.outcome), ("admin 5", "had been done before"));
        assert_eq!(state.audit.newest(entries[1].0, 1).expect("reads"), entries[2..3]);
    }
}

#[test]
fn every_family_of_the_store_has_one_table() {
    let state = StateMachine::empty(Arc::new(MemKv::default())).expect("memory");
    for family in KeyFamily::ALL {
        let tables = state.tables();
        let owners = tables.iter().filter(|table| table.families().contains(&family)).count();
        assert_eq!(owners, usize::from(family != KeyFamily::State), "{family:?}");
    }
}
