//! A log from which a broker takes some seconds to make its index.

use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use kerolox_core::record::{
    EpochRecord, MessageHeader, MessageHold, MessageRecord, MetaChange, MetaRecord, Record, ReleaseRecord,
};
use kerolox_core::topic::Topic;
use kerolox_log::fs::OsFolder;
use kerolox_log::{FrameSalt, Log, LogOptions, NewFrame};

/// Transactions in the log, all of them committed, on the one queue of the topic "orders".
pub const TRANSACTIONS: u64 = 400_000;
/// Records that are appended at a time.
const BATCH: usize = 8192;

/// Writes the log into a folder without one, as fast as the disk takes it.
///
/// # Errors
/// When the disk does not take it.
pub fn write_log(path: &Path) -> Result<()> {
    let folder = Arc::new(OsFolder::create(path)?);
    let options = LogOptions { segment_bytes: 64 << 20, ..LogOptions::new(FrameSalt::new(1)) };
    let (mut log, _) = Log::open(folder, options)?;
    let frame = |record: Record| NewFrame { kind: record.kind() as u8, body: record.encode().into() };
    let topic = MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("orders", 1))) };
    let epoch = EpochRecord { epoch: 1, broker: "broker-a".into() };
    log.append(&[frame(Record::Epoch(epoch)), frame(Record::Meta(topic))], 1, 1)?;
    let mut left = TRANSACTIONS;
    while left > 0 {
        let count = left.min(BATCH as u64);
        left -= count;
        let halves: Vec<NewFrame> = (0..count).map(|_| frame(half())).collect();
        let places = log.append(&halves, 1, 1)?;
        let release =
            |held| frame(Record::Release(ReleaseRecord { held, by: "p".into(), ..ReleaseRecord::default() }));
        let releases: Vec<NewFrame> = places.into_iter().map(|(position, _)| release(position)).collect();
        log.append(&releases, 1, 1)?;
    }
    log.close()?;
    Ok(())
}

fn half() -> Record {
    let header = MessageHeader {
        topic_id: 1,
        hold: MessageHold::Half.into(),
        hold_ms: 3_600_000,
        message_id: "m".into(),
        ..MessageHeader::default()
    };
    Record::Message(MessageRecord { header, system: Vec::new().into(), content: Vec::new().into() })
}
