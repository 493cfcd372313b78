use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::audit::{AuditEntry, AuditedEntry};
use crate::group::Group;
use crate::held::HeldMessage;
use crate::slots::MovingSlots;
use crate::timer::ScheduledMessage;
use crate::topic::Topic;
use crate::transaction::{CheckAnswer, DecisionSource, HalfMessage, UndecidedTransaction};

fn examples() -> Vec<Record> {
    let header = MessageHeader {
        topic_id: 7,
        queue: 3,
        hold: MessageHold::Half.into(),
        hold_ms: 6_000,
        tag_hash: 0xDEAD_BEEF,
        message_id: "01AB".into(),
        producer: "host@1".into(),
        carried: None,
        lookups: vec![0x0102_0304_0506_0708, 9],
        dead: None,
        deliver_at_ms: 0,
        dedup_high: None,
        dedup_low: None,
        slot: None,
        joins: false,
    };
    let queue = QueueProgress {
        group_id: 1,
        topic_id: 7,
        queue: 3,
        reset_to: Some(9),
        void_leases: 0,
        acked: vec![AckRange { start: 9, end: 12 }],
        attempted: vec![FailedAttempts { offset: 13, attempts: 2, visible_ms: 1_700_000_000_000 }],
    };
    let state = QueueState { topic_id: 7, queue: 3, next: 12, newest_ms: 5 };
    let carried = MessageHeader {
        topic_id: 7,
        carried: Some(CarriedOrigin { position: 64, offset: Some(2), store_ms: 5, visible_ms: 6 }),
        ..MessageHeader::default()
    };
    let dead = MessageHeader {
        topic_id: 8,
        dead: Some(DeadOrigin {
            group_id: 1,
            topic_id: 7,
            queue: 3,
            offset: 9,
            attempts: 17,
            reason: DeadReason::Exhausted.into(),
            topic: "orders".into(),
            store_ms: 5,
        }),
        ..MessageHeader::default()
    };
    // Slot 2 stays where 2 queues put it, and has got a message; the mark of queue 0 is 12.
    let moving = MovingSlots::decode(&[10, 5, 8, 2, 18, 1, 4, 18, 1, 4, 26, 4, 8, 0, 16, 12][..])
        .expect("well-formed");
    let lite = LiteTopic { topic_id: 7, queue: 65_536, name: "a".into(), created_ms: 5 };
    let checked = CheckedHalf {
        held: 64,
        checks: 1,
        next_check_ms: Some(5),
        asked: "host@1".into(),
        ..CheckedHalf::default()
    };
    let message = |queue, frame_len| HeldMessage { topic_id: 7, queue, frame_len, ..HeldMessage::default() };
    let timer = ScheduledMessage {
        message: message(3, 128),
        due_ms: 1_700_000_000_000,
        ..ScheduledMessage::default()
    };
    let half = HalfMessage { message: message(0, 0), ..HalfMessage::default() };
    let mut told = HalfMessage { decided_source: DecisionSource::Admin, ..half.clone() };
    told.decided_reason = "paid".into();
    told.note_check(9, "host@1");
    told.note_answer(10, "host@2", CheckAnswer::Unknown);
    let audited = AuditEntry {
        at_ms: 11,
        by: "alice".into(),
        action: "transaction commit".into(),
        object: "id".into(),
        reason: "paid".into(),
        outcome: "done".into(),
    };
    vec![
        Record::Message(MessageRecord {
            header,
            system: Bytes::from_static(b"system"),
            content: Bytes::from_static(b"content"),
        }),
        Record::Release(ReleaseRecord { held: 64, by: "host@1".into(), ..ReleaseRecord::default() }),
        Record::Discard(DiscardRecord { held: 64, by: "admin".into(), ..DiscardRecord::default() }),
        Record::Progress(ProgressRecord::new([ProgressItem::Queue(queue), ProgressItem::Checked(checked)])),
        Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("orders", 4))) }),
        Record::Meta(MetaRecord {
            change: Some(MetaChange::DeleteTopic(DeleteTopic { name: "orders".into() })),
        }),
        Record::Meta(MetaRecord { change: Some(MetaChange::PutGroup(Group::new("billing"))) }),
        Record::Meta(MetaRecord {
            change: Some(MetaChange::DeleteGroup(DeleteGroup { name: "billing".into() })),
        }),
        Record::Epoch(EpochRecord { epoch: 1, broker: "broker-a".into() }),
        Record::Snapshot(Box::new(SnapshotRecord {
            part: 1,
            last: true,
            broker: "broker-a".into(),
            next_topic: 8,
            next_group: 2,
            topics: vec![Topic::new("orders", 4)],
            groups: vec![Group::new("billing")],
            queues: vec![state],
            progress: vec![GroupProgress { group_id: 1, topic_id: 7, queue: 3, acks: vec![8, 9] }],
            halves: vec![HeldState { position: 64, message: half.encode() }],
            kept: vec![KeptMessage {
                topic_id: 7,
                queue: 3,
                offset: 2,
                position: 4096,
                len: 128,
                tag_hash: 1,
                visible_ms: 5,
            }],
            settles: false,
            timers: Vec::new(),
            lites: Vec::new(),
            next_lite: 0,
            moving: Vec::new(),
            audit: Vec::new(),
            withheld: 0,
        })),
        Record::Trim(TrimRecord { before: 1_048_576, queues: vec![state] }),
        Record::Message(MessageRecord { header: carried, system: Bytes::new(), content: Bytes::new() }),
        Record::Message(MessageRecord { header: dead, system: Bytes::new(), content: Bytes::new() }),
        Record::Progress(ProgressRecord::new([ProgressItem::Redriven(RedrivenRecord {
            dead_topic_id: 8,
            dead_queue: 0,
            dead_offset: 2,
            group_id: 1,
            topic_id: 7,
            queue: 3,
            offset: 9,
        })])),
        Record::Progress(ProgressRecord::new([
            ProgressItem::Fired(FiredRecord { held: vec![64, 4096] }),
            ProgressItem::TimerEnded(TimerEnded {
                held: 128,
                decision: TimerDecision::Deliver.into(),
                by: "admin".into(),
            }),
        ])),
        Record::Message(MessageRecord {
            header: MessageHeader {
                topic_id: 7,
                hold: MessageHold::Half.into(),
                deliver_at_ms: 1_700_000_000_000,
                ..MessageHeader::default()
            },
            system: Bytes::new(),
            content: Bytes::new(),
        }),
        Record::Snapshot(Box::new(SnapshotRecord {
            timers: vec![HeldState { position: 64, message: timer.encode() }],
            ..SnapshotRecord::default()
        })),
        Record::Meta(MetaRecord { change: Some(MetaChange::PutLite(lite.clone())) }),
        Record::Meta(MetaRecord {
            change: Some(MetaChange::DropLites(DropLites {
                topic_id: 7,
                lites: vec![DropLite { name: "a".into(), queue: 65_536, next: 3 }],
            })),
        }),
        Record::Snapshot(Box::new(SnapshotRecord {
            lites: vec![lite],
            next_lite: 65_537,
            ..SnapshotRecord::default()
        })),
        Record::Release(ReleaseRecord {
            held: 64,
            by: "alice".into(),
            source: DecisionSource::Admin.into(),
            reason: "paid".into(),
        }),
        Record::Progress(ProgressRecord::new([
            ProgressItem::Undecided(UndecidedTransaction { held: 64, by: "host@1".into() }),
            ProgressItem::Checked(CheckedHalf {
                held: 64,
                next_check_ms: Some(5),
                by: "alice".into(),
                reason: "mended".into(),
                ..CheckedHalf::default()
            }),
        ])),
        Record::Snapshot(Box::new(SnapshotRecord {
            halves: vec![HeldState { position: 64, message: told.encode() }],
            audit: vec![AuditedEntry { position: 128, entry: audited }],
            ..SnapshotRecord::default()
        })),
        Record::Message(MessageRecord {
            header: MessageHeader { topic_id: 7, slot: Some(300), joins: true, ..MessageHeader::default() },
            system: Bytes::new(),
            content: Bytes::new(),
        }),
        Record::Progress(ProgressRecord::new([ProgressItem::Finished(FinishedRecord {
            topic_id: 7,
            queue: 3,
            floor: 12,
        })])),
        Record::Snapshot(Box::new(SnapshotRecord {
            moving: vec![MovingTopic { topic_id: 7, moving }],
            ..SnapshotRecord::default()
        })),
        Record::Meta(MetaRecord { change: Some(MetaChange::Withhold(WithholdChange { perm: 2 })) }),
        Record::Snapshot(Box::new(SnapshotRecord { withheld: 2, ..SnapshotRecord::default() })),
    ]
}

/// The bytes of format version 1: they may never change, or old logs become unreadable.
const FIXTURES: &str = include_str!("fixtures_v1.txt");

#[test]
fn every_kind_survives_the_round_trip_and_has_the_bytes_of_version_1() {
    let examples = examples();
    let written: Vec<String> = examples
        .iter()
        .map(|record| format!("{} {}", record.kind() as u8, hex::encode(record.encode())))
        .collect();
    assert_eq!(written.join("\n"), FIXTURES.trim_end(), "the on-disk format changed");
    for record in examples {
        let decoded = Record::decode(record.kind() as u8, Bytes::from(record.encode()));
        assert_eq!(decoded, Ok(record));
    }
}

#[test]
fn a_kind_of_a_newer_version_is_named() {
    assert_eq!(Record::decode(99, Bytes::new()), Err(RecordError::UnknownKind(99)));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(kind in 0u8..8, body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Record::decode(kind, Bytes::from(body));
    }

    #[test]
    fn messages_survive_the_round_trip(
        topic_id: u32, queue: u32, hold_ms: i64, message_id in ".{0,40}",
        system in prop::collection::vec(any::<u8>(), 0..100), content in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let header = MessageHeader { topic_id, queue, hold_ms, message_id, ..MessageHeader::default() };
        let record = MessageRecord { header, system: system.into(), content: content.into() };
        let mut encoded = Vec::new();
        record.encode_to(&mut encoded);
        prop_assert_eq!(MessageRecord::decode(Bytes::from(encoded)), Ok(record));
    }
}
