//! Records torn by a power cut at the end of a parked log are removed, so that a copy of the master's log can continue
//! there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::record::{EpochRecord, MessageHeader, MessageRecord, Record};
use kerolox_log::fs::{MemFolder, UnsyncedPiece};
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_store::kv::MemKv;
use kerolox_store::{Store, StoreOptions};

fn open(folder: &MemFolder) -> Store {
    let options = StoreOptions {
        broker: "a".to_owned(),
        log: LogOptions {
            segment_bytes: 1 << 16,
            checkpoint_bytes: 1 << 16,
            ..LogOptions::new(FrameSalt::new(7))
        },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_secs(3600),
        tail_bytes: 0,
    };
    Store::open_parked(options, Arc::new(folder.clone()), Arc::new(MemKv::default()), || 1, |_| {})
        .expect("opens")
}

fn message(id: &str) -> Record {
    let header = MessageHeader { topic_id: 1, message_id: id.to_owned(), ..MessageHeader::default() };
    Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::from(vec![7; 3_000]) })
}

#[test]
fn intact_records_behind_a_torn_one_are_given_up() {
    let folder = MemFolder::new();
    let store = open(&folder);
    let mut parked = store.standby_log().expect("parked");
    let epoch = Record::Epoch(EpochRecord { epoch: 1, broker: "a".to_owned() });
    parked.append(&[epoch, message("synced")], 1, 1).expect("appends");
    let synced = parked.sync().expect("syncs");
    assert_eq!(parked.cut_torn().expect("reads"), None);
    parked.append(&[message("torn"), message("behind")], 1, 1).expect("appends");
    let end = parked.end();
    drop(parked);
    let torn = usize::try_from(synced).expect("small") + 1_000;
    folder.crash_with(
        |piece| !matches!(piece, UnsyncedPiece::Write { offset, len, .. } if (*offset..offset + len).contains(&torn)),
    );
    drop(store);

    let store = open(&folder);
    let mut parked = store.standby_log().expect("parked");
    assert_eq!(parked.end(), end, "an intact record behind the torn one keeps it from being cut off");
    assert_eq!(parked.cut_torn().expect("cuts"), Some(synced));
    assert_eq!((parked.end(), parked.newest().expect("reads").epoch), (synced, 1));
    assert_eq!(parked.cut_torn().expect("reads"), None);
}
