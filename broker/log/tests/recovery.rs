//! Crashes, torn writes, damage and failing disks.

use std::sync::Arc;

use kerolox_log::fs::{Fault, Folder, MemFolder, OsFolder};
use kerolox_log::{Frame, Log, LogError, LogOptions, NewFrame, Recovered};
use proptest::prelude::*;

const SMALL: LogOptions = LogOptions { segment_bytes: 512, checkpoint_bytes: 256 };

fn open(folder: &MemFolder) -> (Log, Recovered) {
    Log::open(Arc::new(folder.clone()), SMALL).expect("the log opens")
}

fn record(i: usize) -> NewFrame {
    NewFrame { kind: 1, body: format!("record {i} {}", "x".repeat(i % 90)).into_bytes() }
}

fn frames(log: &Log) -> Vec<Frame> {
    let reader = log.reader();
    reader.scan(reader.start()).collect::<Result<_, _>>().expect("everything reads back")
}

fn append(log: &mut Log, i: usize) -> u64 {
    let places = log.append(&[record(i)], 1, 5).expect("appended");
    places[0].0
}

#[test]
fn records_come_back_in_order_over_many_segments() {
    let folder = MemFolder::new();
    let (mut log, _) = open(&folder);
    let mut places = Vec::new();
    for batch in 0..20 {
        let records: Vec<NewFrame> = (batch * 7..batch * 7 + 7).map(record).collect();
        places.extend(log.append(&records, 2, 9).expect("appended"));
        log.sync().expect("synced");
    }
    let found = frames(&log);
    assert_eq!(found.len(), 140);
    for (i, frame) in found.iter().enumerate() {
        assert_eq!(frame.body, record(i).body);
        assert_eq!(
            (frame.position, frame.len, frame.epoch, frame.store_ms),
            (places[i].0, places[i].1, 2, 9)
        );
        assert_eq!(&log.reader().read(frame.position, frame.len).expect("by position"), frame);
    }
    assert!(folder.list().expect("listed").len() > 5, "several segments");
    log.close().expect("closed");
    let (log, recovered) = open(&folder);
    assert_eq!((recovered.cut_bytes, recovered.scanned_bytes), (0, 0), "a clean stop leaves nothing to scan");
    assert_eq!(frames(&log), found);
}

#[test]
fn a_record_larger_than_a_segment_gets_its_own() {
    let folder = MemFolder::new();
    let (mut log, _) = open(&folder);
    append(&mut log, 1);
    let big = NewFrame { kind: 1, body: vec![7; 3_000_000] };
    log.append(&[big.clone(), record(2)], 1, 0).expect("appended");
    let bodies: Vec<usize> = frames(&log).iter().map(|frame| frame.body.len()).collect();
    assert_eq!(bodies, [record(1).body.len(), 3_000_000, record(2).body.len()]);
    log.close().expect("closed");
    assert_eq!(frames(&open(&folder).0).len(), 3);
}

proptest! {
    /// A power cut keeps everything that was synced, in order, and nothing that was not written whole; and the log
    /// goes on from there without old bytes coming back.
    #[test]
    fn a_power_cut_loses_only_what_was_not_synced(
        rounds in prop::collection::vec((1usize..8, 0usize..4, any::<u64>()), 1..8)
    ) {
        let folder = MemFolder::new();
        let mut kept: Vec<Vec<u8>> = Vec::new();
        let mut counter = 0;
        for (synced, unsynced, seed) in rounds {
            let (mut log, _) = open(&folder);
            let before: Vec<Vec<u8>> = frames(&log).iter().map(|f| f.body.to_vec()).collect();
            prop_assert!(before.starts_with(&kept) , "synced records are gone");
            kept = before;
            for i in 0..synced + unsynced {
                counter += 1;
                append(&mut log, counter);
                if i + 1 == synced {
                    log.sync().expect("synced");
                    kept = frames(&log).iter().map(|f| f.body.to_vec()).collect();
                }
            }
            let all: Vec<Vec<u8>> = frames(&log).iter().map(|f| f.body.to_vec()).collect();
            drop(log);
            folder.crash(seed);
            let (log, _) = open(&folder);
            let after: Vec<Vec<u8>> = frames(&log).iter().map(|f| f.body.to_vec()).collect();
            prop_assert!(after.starts_with(&kept), "synced records are gone");
            prop_assert!(all.starts_with(&after), "records that were never written");
            kept = after;
        }
    }
}

#[test]
fn a_torn_tail_is_cut_and_never_comes_back() {
    let folder = MemFolder::new();
    let (mut log, _) = open(&folder);
    append(&mut log, 1);
    log.sync().expect("synced");
    let big = NewFrame { kind: 1, body: vec![7; 1500] };
    log.append(&[big], 1, 5).expect("appended");
    let end = log.end();
    drop(log);
    // Only the first sector of the record reached the disk.
    let mut first = true;
    folder.crash_with(|_| std::mem::take(&mut first));
    let (mut log, recovered) = open(&folder);
    assert!(recovered.cut_bytes > 0);
    assert_eq!(frames(&log).len(), 1);
    append(&mut log, 2);
    log.sync().expect("synced");
    assert!(log.end() < end);
    drop(log);
    assert_eq!(frames(&open(&folder).0).len(), 2);
}

#[test]
fn damage_before_the_durable_position_is_reported_and_changes_nothing() {
    let folder = MemFolder::new();
    let (mut log, _) = open(&folder);
    for i in 0..30 {
        append(&mut log, i);
    }
    let victim = frames(&log)[3].position;
    log.close().expect("closed");
    let name = "00000000000000000000.log";
    folder.flip(name, usize::try_from(victim).expect("small") + 40);
    let (log, _) = open(&folder);
    let reader = log.reader();
    let error = reader.scan(reader.start()).find_map(Result::err).expect("the damage is seen");
    let LogError::Damaged { file, position, .. } = error else { panic!("{error}") };
    assert_eq!((file.as_str(), position), (name, victim));
    // The records behind the damage are still there.
    assert!(reader.scan(frames_end(&reader, victim)).all(|frame| frame.is_ok()));
}

/// Position behind the frame at `position`, by its length field (which the test leaves intact).
fn frames_end(reader: &kerolox_log::Reader, position: u64) -> u64 {
    position + kerolox_log::frame::frame_len(record(3).body.len()) as u64 + reader.start() - 64
}

#[test]
fn a_missing_segment_is_an_error() {
    let path = tempfile::tempdir().expect("a folder");
    let folder = Arc::new(OsFolder::create(path.path()).expect("created"));
    let (mut log, _) = Log::open(folder.clone(), SMALL).expect("opened");
    for i in 0..60 {
        append(&mut log, i);
    }
    log.close().expect("closed");
    let mut names = folder.list().expect("listed");
    names.retain(|name| name.ends_with(".log"));
    names.sort();
    std::fs::remove_file(path.path().join(&names[1])).expect("removed");
    assert!(matches!(Log::open(folder, SMALL), Err(LogError::Damaged { .. })));
}

#[test]
fn after_a_failed_sync_or_write_the_log_is_read_only() {
    for fault in [Fault::Sync, Fault::Write] {
        let folder = MemFolder::new();
        let (mut log, _) = open(&folder);
        append(&mut log, 1);
        log.sync().expect("synced");
        folder.fail(Some(fault));
        let failed = log.append(&[record(2)], 1, 0).and_then(|_| log.sync());
        assert!(matches!(failed, Err(LogError::Io { .. })), "{fault:?}");
        folder.fail(None);
        assert!(
            matches!(log.append(&[record(3)], 1, 0), Err(LogError::ReadOnly(_))),
            "the failure is sticky"
        );
        assert!(matches!(log.sync(), Err(LogError::ReadOnly(_))));
        assert_eq!(frames(&log)[0].body, record(1).body, "reading goes on");
    }
}
