//! The content of a store as text: for comparisons with a golden fixture.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kerolox_core::group::Group;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::record::{MessageHold, Record};
use kerolox_core::topic::Topic;
use kerolox_log::fs::Folder;
use kerolox_log::inspect::{InspectMode, LogFinding, LogInspector};
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_proto::v2;
use kerolox_store::kv::Kv;
use kerolox_store::{Store, StoreOptions};
use prost::Message as _;

/// Broker group of the fixture.
pub(crate) const BROKER: &str = "broker-a";

/// Small segments, so that a few KiB make several.
pub(crate) fn log_options() -> LogOptions {
    LogOptions { segment_bytes: 768, ..LogOptions::new(FrameSalt::new(0x5EED_5EED_0000_0001)) }
}

/// Everything that a broker would answer from this store, and the transactions of the log in `folder`.
pub(crate) fn describe(store: &Store, folder: &dyn Folder) -> String {
    let mut text = String::new();
    let halves = halves(folder);
    let index = store.state();
    let mut line = |words: String| writeln!(text, "{words}").expect("a string grows as needed");
    line(format!("broker {}, log end {}", index.broker(), store.positions().end));
    for topic in index.topics.all() {
        let Topic { id, name, read_queues, write_queues, perm, types, attributes, .. } = &*topic;
        line(format!(
            "topic {id} {name} r{read_queues} w{write_queues} perm {perm} {types:?} {attributes:?}"
        ));
        for queue in 0..*read_queues {
            let bounds = index.queues.bounds(*id, queue);
            line(format!("  queue {queue}: {} to {}, newest {}", bounds.min, bounds.next, bounds.newest_ms));
            for (offset, entry) in index.queues.entries(*id, queue, 0, 1_000).expect("reads") {
                let (_, message) = store.read_message(entry.position, entry.len).expect("reads");
                let content = v2::Message::decode(message.content.clone()).expect("a message");
                line(format!(
                    "    {offset}: {} at {}, {} bytes, visible {}, tag {:x}, {:?} {:?}",
                    message.header.message_id,
                    entry.position,
                    entry.len,
                    entry.visible_ms,
                    entry.tag_hash,
                    String::from_utf8_lossy(&content.body),
                    content.user_properties
                ));
            }
        }
    }
    for group in index.groups.all() {
        let Group { id, name, consume_enable, fifo, retry_max_times, consume_from_min, .. } = &*group;
        line(format!(
            "group {id} {name} enabled {consume_enable} fifo {fifo} retries {retry_max_times} from-min {consume_from_min}"
        ));
        for topic in index.topics.all() {
            for queue in 0..topic.read_queues {
                if let Some(acks) = index.acks(*id, topic.id, queue).expect("reads") {
                    let bounds = index.queues.bounds(topic.id, queue);
                    let open = acks.committed().up_to(QueueOffset::new(bounds.next));
                    let open: Vec<u64> =
                        open.filter(|offset| !acks.is_done(*offset)).map(QueueOffset::get).collect();
                    let attempted: Vec<_> = acks
                        .attempted()
                        .map(|(offset, attempts, visible_ms)| (offset.get(), attempts, visible_ms))
                        .collect();
                    let committed = acks.committed();
                    line(format!(
                        "  {} {queue}: done below {committed}, open {open:?}, attempted {attempted:?}",
                        topic.name
                    ));
                    // Messages that wait for another attempt are kept, although their queue begins behind them.
                    for (offset, ..) in attempted.iter().filter(|(offset, ..)| *offset < bounds.min) {
                        let entry = index.entry(topic.id, queue, *offset).expect("reads").expect("is kept");
                        let (frame, message) = store.read_message(entry.position, entry.len).expect("reads");
                        let (id, store_ms) = (message.header.message_id, frame.store_ms);
                        line(format!("    {offset}: kept {id} at {}, stored {store_ms}", entry.position));
                    }
                }
            }
        }
    }
    line(format!("undecided {}", index.transactions.open_total()));
    for position in halves {
        match index.transactions.get(position).expect("reads") {
            None => line(format!("half {position}: forgotten")),
            Some(half) => line(format!(
                "half {position}: {:?} in {} {}, checks {}, next {}, offset {}, by {:?} at {}",
                half.phase,
                half.topic_id,
                half.queue,
                half.checks,
                half.next_check_ms,
                half.offset,
                half.decided_by,
                half.decided_ms
            )),
        }
    }
    text
}

/// Opens the log in `folder` with an index.
pub(crate) fn open(folder: Arc<dyn Folder>, kv: Arc<dyn Kv>) -> Store {
    let options = StoreOptions {
        broker: BROKER.to_owned(),
        log: log_options(),
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_millis(5),
        tail_bytes: 0,
    };
    Store::open(options, folder, kv, || 1_700_000_100_000, |_| ()).expect("opens")
}

/// First positions of the half messages in a log.
fn halves(folder: &dyn Folder) -> BTreeSet<u64> {
    let findings = LogInspector::open(folder, InspectMode::Offline).expect("opens");
    findings
        .filter_map(|finding| match finding.expect("reads") {
            LogFinding::Record(frame) => Some(frame),
            LogFinding::Damaged(damage) => panic!("{damage:?}"),
            LogFinding::End { .. } => None,
        })
        .filter_map(|frame| match Record::decode(frame.kind, frame.body.clone()) {
            Ok(Record::Message(message)) if message.header.hold() == MessageHold::Half => {
                Some(message.header.carried.map_or(frame.position, |carried| carried.position))
            }
            _ => None,
        })
        .collect()
}

/// Copies the files of a folder.
pub(crate) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}
