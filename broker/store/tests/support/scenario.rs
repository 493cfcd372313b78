//! The records of the golden fixture: every kind, over several segments, with a fixed clock.

use std::sync::{Arc, mpsc};

use kerolox_core::flush::FlushRequirement;
use kerolox_core::group::Group;
use kerolox_core::record::{
    AckRange, CheckedHalf, DeleteGroup, DeleteTopic, DiscardRecord, EpochRecord, FailedAttempts,
    MessageHeader, MessageHold, MessageRecord, MetaChange, MetaRecord, ProgressItem, ProgressRecord,
    QueueProgress, Record, ReleaseRecord,
};
use kerolox_core::topic::{MessageType, Topic};
use kerolox_log::fs::Folder;
use kerolox_log::{Log, NewFrame};
use kerolox_proto::v2::{self, SystemProperties};
use kerolox_store::Store;
use prost::Message as _;

use super::contents::{BROKER, log_options};

const START_MS: i64 = 1_700_000_000_000;
const ORDERS: u32 = 1;
const PLAIN: u32 = 2;
const GONE: u32 = 3;
const BILLING: u32 = 1;
const OLD: u32 = 2;

struct Writer {
    log: Log,
    now_ms: i64,
}

/// Writes the log of the fixture into an empty folder, always with the same bytes.
pub(crate) fn write(folder: Arc<dyn Folder>) {
    let (log, _) = Log::open(folder, log_options()).expect("an empty folder");
    let mut writer = Writer { log, now_ms: START_MS };
    writer.put(Record::Epoch(EpochRecord { epoch: 1, broker: BROKER.into() }));
    writer.meta();
    writer.messages();
    writer.transactions();
    writer.progress();
    writer.deletions();
    writer.log.close().expect("closes");
}

/// Continues with a store that holds the log of [`write`]: more messages, and old segments removed.
pub(crate) fn trim(store: &Store) {
    for i in 0..6 {
        propose(store, &message(PLAIN, "plain", 0, MessageHold::None, &format!("Q{i}")));
    }
    let point = store.trim_points().last().expect("a segment was begun").expect("reads");
    store.trim(&point).expect("trims");
    propose(store, &message(PLAIN, "plain", 0, MessageHold::None, "Q9"));
}

fn propose(store: &Store, record: &Record) {
    let (sender, answer) = mpsc::channel();
    let done = Box::new(move |applied| sender.send(applied).expect("the receiver waits"));
    store.propose(record, FlushRequirement::Sync, done);
    answer.recv().expect("answered").expect("stored");
}

impl Writer {
    fn put(&mut self, record: Record) -> u64 {
        self.now_ms += 1_000;
        let frame = NewFrame { kind: record.kind() as u8, body: record.encode().into() };
        let places = self.log.append(&[frame], 1, self.now_ms).expect("appends");
        self.log.sync().expect("syncs");
        places[0].0
    }

    fn change(&mut self, change: MetaChange) {
        self.put(Record::Meta(MetaRecord { change: Some(change) }));
    }

    fn meta(&mut self) {
        let types = vec![MessageType::Transaction.into()];
        let attributes = [("message.type".to_owned(), "TRANSACTION".to_owned())].into();
        self.change(MetaChange::PutTopic(Topic { types, attributes, ..Topic::new("orders", 2) }));
        self.change(MetaChange::PutTopic(Topic::new("plain", 1)));
        self.change(MetaChange::PutTopic(Topic::new("gone", 1)));
        self.change(MetaChange::PutGroup(Group { retry_max_times: 3, ..Group::new("billing") }));
        self.change(MetaChange::PutGroup(Group::new("old")));
        // A changed topic keeps its id.
        self.change(MetaChange::PutTopic(Topic { read_queues: 2, ..Topic::new("plain", 1) }));
    }

    fn messages(&mut self) {
        for i in 0..6 {
            self.put(message(PLAIN, "plain", 0, MessageHold::None, &format!("P{i}")));
        }
        self.put(message(GONE, "gone", 0, MessageHold::None, "G0"));
    }

    fn transactions(&mut self) {
        let halves: Vec<u64> = (0..6u32)
            .map(|i| self.put(message(ORDERS, "orders", i % 2, MessageHold::Half, &format!("H{i}"))))
            .collect();
        self.put(message(GONE, "gone", 0, MessageHold::Half, "HG"));
        let by = || "producer@1".to_owned();
        self.put(Record::Release(ReleaseRecord { held: halves[1], by: by(), ..ReleaseRecord::default() }));
        self.put(Record::Release(ReleaseRecord {
            held: halves[0],
            by: "admin".into(),
            ..ReleaseRecord::default()
        }));
        self.put(Record::Discard(DiscardRecord { held: halves[2], by: by(), ..DiscardRecord::default() }));
        // The first decision stands.
        self.put(Record::Discard(DiscardRecord { held: halves[1], by: by(), ..DiscardRecord::default() }));
        self.put(Record::Release(ReleaseRecord { held: halves[2], by: by(), ..ReleaseRecord::default() }));
        let checked = |held, checks, next_check_ms| {
            ProgressItem::Checked(CheckedHalf {
                held,
                checks,
                next_check_ms,
                asked: "producer@2".into(),
                ..CheckedHalf::default()
            })
        };
        let items = [checked(halves[3], 1, Some(START_MS + 90_000)), checked(halves[4], 1, None)];
        self.put(Record::Progress(ProgressRecord::new(items)));
    }

    fn progress(&mut self) {
        let acked = |start, end| AckRange { start, end };
        let queue = |group_id, topic_id, queue| QueueProgress {
            group_id,
            topic_id,
            queue,
            ..QueueProgress::default()
        };
        let visible_ms = START_MS + 120_000;
        let items = [
            QueueProgress {
                acked: vec![acked(0, 2), acked(4, 5)],
                attempted: vec![FailedAttempts { offset: 2, attempts: 2, visible_ms }],
                ..queue(BILLING, PLAIN, 0)
            },
            QueueProgress { acked: vec![acked(0, 1)], ..queue(BILLING, ORDERS, 1) },
            QueueProgress { acked: vec![acked(0, 3)], ..queue(OLD, PLAIN, 0) },
            QueueProgress { reset_to: Some(1), ..queue(BILLING, ORDERS, 0) },
        ];
        self.put(Record::Progress(ProgressRecord::new(items.map(ProgressItem::Queue))));
    }

    fn deletions(&mut self) {
        self.change(MetaChange::DeleteTopic(DeleteTopic { name: "gone".into() }));
        self.change(MetaChange::DeleteGroup(DeleteGroup { name: "old".into() }));
        // Ids are not reused.
        self.change(MetaChange::PutTopic(Topic::new("later", 1)));
        self.put(message(4, "later", 0, MessageHold::None, "L0"));
    }
}

fn message(topic_id: u32, topic: &str, queue: u32, hold: MessageHold, id: &str) -> Record {
    let system = SystemProperties {
        tag: Some("paid".into()),
        keys: vec![format!("key-{id}")],
        message_id: id.into(),
        ..SystemProperties::default()
    };
    let message = v2::Message {
        topic: Some(v2::Resource { resource_namespace: String::new(), name: topic.into() }),
        user_properties: [("colour".to_owned(), "blue".to_owned())].into(),
        system_properties: None,
        body: format!("body of {id}").into_bytes().into(),
    };
    let header = MessageHeader {
        topic_id,
        queue,
        hold: hold.into(),
        hold_ms: if hold == MessageHold::Half { 6_000 } else { 0 },
        tag_hash: crc32c::crc32c(b"paid"),
        message_id: id.into(),
        producer: "producer@1".into(),
        ..MessageHeader::default()
    };
    Record::Message(MessageRecord {
        header,
        system: system.encode_to_vec().into(),
        content: message.encode_to_vec().into(),
    })
}
