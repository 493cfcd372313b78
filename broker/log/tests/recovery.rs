//! Crashes, torn writes, damage and failing disks, case by case.

mod support;

use std::sync::Arc;

use kerolox_log::fs::{DiskFault, FaultTimes, Folder, MemFolder, UnsyncedPiece};
use kerolox_log::{FrameSalt, Log, LogError, LogOptions, NewFrame};
use support::{Content, SMALL, append, flip, frames, name, open, open_with, record, segments};

/// The checkpoint records only a roll or a clean stop.
const LAZY: LogOptions =
    LogOptions { segment_bytes: 4096, checkpoint_bytes: 1 << 20, ..LogOptions::new(FrameSalt::new(7)) };

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
    assert!(segments(&folder).len() > 5, "several segments");
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
    let big = NewFrame { kind: 1, body: vec![7; 3_000_000].into() };
    log.append(&[big.clone(), record(2)], 1, 0).expect("appended");
    let bodies: Vec<usize> = frames(&log).iter().map(|frame| frame.body.len()).collect();
    assert_eq!(bodies, [record(1).body.len(), 3_000_000, record(2).body.len()]);
    log.close().expect("closed");
    assert_eq!(frames(&open(&folder).0).len(), 3);
}

#[test]
fn a_scan_goes_on_when_more_is_appended() {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, LAZY);
    let reader = log.reader();
    let mut scan = reader.scan(reader.start());
    for i in 0..200 {
        assert!(scan.next().is_none());
        append(&mut log, i);
        assert_eq!(scan.next().expect("one more").expect("intact").body, record(i).body);
    }
}

#[test]
fn a_torn_tail_is_cut_and_kept_aside_and_never_comes_back() {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, LAZY);
    append(&mut log, 1);
    log.sync().expect("synced");
    let end = log.end();
    log.append(&[NewFrame { kind: 1, body: vec![7; 1500].into() }], 1, 5).expect("appended");
    drop(log);
    // Only the first sector of the record reached the disk.
    let mut first = true;
    folder.crash_with(|_| std::mem::take(&mut first));
    let (mut log, recovered) = open_with(&folder, LAZY);
    assert_eq!((recovered.end, recovered.cut_bytes), (end, 512 - end));
    assert_eq!(recovered.damaged, []);
    assert_eq!(frames(&log).len(), 1);
    let aside = recovered.cut_file.expect("kept aside");
    assert_eq!(aside, format!("cut-{end:020}"));
    let aside = folder.content(&aside).expect("there");
    assert_eq!((aside.len() as u64, &aside[32..]), (512 - end, &[7; 512][..aside.len() - 32]));
    // The bytes cut off are zero again, whatever happens to the new writes.
    log.append(&[NewFrame { kind: 1, body: vec![8; 100].into() }], 1, 5).expect("appended");
    drop(log);
    folder.crash_with(|_| false);
    let segment = folder.content(&name(0)).expect("there");
    assert!(segment[usize::try_from(end).expect("small")..].iter().all(|byte| *byte == 0));
    assert_eq!(frames(&open_with(&folder, LAZY).0).len(), 1);
}

#[test]
fn only_the_newest_cuts_are_kept() {
    let folder = MemFolder::new();
    for i in 0..12 {
        let (mut log, _) = open_with(&folder, LAZY);
        append(&mut log, i);
        log.sync().expect("synced");
        log.append(&[NewFrame { kind: 1, body: vec![7; 700].into() }], 1, 5).expect("appended");
        drop(log);
        folder.crash_with(|piece| matches!(piece, UnsyncedPiece::Write { offset, .. } if offset % 512 != 0));
    }
    open_with(&folder, LAZY);
    let cuts = folder.list().expect("listed").into_iter().filter(|name| name.starts_with("cut-")).count();
    assert_eq!(cuts, 8);
}

/// The checkpoint lags: it cannot show that the damaged record was acknowledged, but the records behind it can.
#[test]
fn damage_behind_the_checkpoint_is_no_torn_tail() {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, LAZY);
    let places: Vec<(u64, u32)> = (0..20).map(|i| append(&mut log, i)).collect();
    log.sync().expect("synced");
    let end = log.end();
    drop(log);
    flip(&folder, places[3].0 + 40, 1);
    flip(&folder, places[8].0, 1);
    flip(&folder, places[9].0 + 17, 1);
    let (mut log, recovered) = open_with(&folder, LAZY);
    assert_eq!((recovered.end, recovered.cut_bytes), (end, 0));
    let content = Content::of(&log.reader());
    assert_eq!(content.ranges(), [(places[3].0, places[4].0), (places[8].0, places[10].0)]);
    assert_eq!(content.damaged, recovered.damaged);
    assert_eq!(content.frames.len(), 17);
    let error = log.reader().read(places[9].0, places[9].1).expect_err("damaged");
    let LogError::Damaged(range) = error else { panic!("{error}") };
    assert_eq!((range.file, range.position), (name(0), places[9].0));
    // The log continues behind the damage, which is still there.
    assert_eq!(append(&mut log, 20).0, end);
    log.close().expect("closed");
    let after = Content::of(&open_with(&folder, LAZY).0.reader());
    assert_eq!((after.damaged, after.frames.len()), (content.damaged, 18));
}

#[test]
fn damage_before_the_checkpoint_costs_no_time_at_the_start_and_is_reported_when_read() {
    let folder = MemFolder::new();
    let (mut log, _) = open(&folder);
    let places: Vec<(u64, u32)> = (0..30).map(|i| append(&mut log, i)).collect();
    log.close().expect("closed");
    flip(&folder, places[3].0 + 40, 1);
    let (log, recovered) = open(&folder);
    assert_eq!((recovered.scanned_bytes, recovered.damaged), (0, vec![]));
    let content = Content::of(&log.reader());
    assert_eq!(content.ranges(), [(places[3].0, places[4].0)]);
    assert_eq!((content.damaged[0].file.as_str(), content.frames.len()), (name(0).as_str(), 29));
}

#[test]
fn a_lost_end_is_damage_and_its_positions_are_not_used_again() {
    for keep in [4000, 700, 64, 10, 0] {
        let folder = MemFolder::new();
        let (mut log, _) = open_with(&folder, LAZY);
        let places: Vec<(u64, u32)> = (0..20).map(|i| append(&mut log, i)).collect();
        let end = log.end();
        log.close().expect("closed");
        folder.truncate(&name(0), keep);
        let (mut log, recovered) = open_with(&folder, LAZY);
        let lost = keep < usize::try_from(end).expect("small");
        assert_eq!(recovered.end, if lost { end + 64 } else { end }, "kept {keep}");
        let new = append(&mut log, 99).0;
        assert!(new >= end);
        log.close().expect("closed");
        let content = Content::of(&open_with(&folder, LAZY).0.reader());
        let mut expected: Vec<u64> = places.iter().map(|(at, _)| *at).collect();
        expected.retain(|at| folder.content(&name(0)).expect("there").len() as u64 > *at + 100 || !lost);
        assert!(content.positions().starts_with(&expected), "kept {keep}");
        assert_eq!(content.positions().last(), Some(&new));
        assert_eq!(content.ranges().iter().map(|range| range.1).max(), lost.then_some(new), "kept {keep}");
    }
}

#[test]
fn a_missing_segment_is_a_damaged_range() {
    let folder = MemFolder::new();
    let (mut log, _) = open(&folder);
    let places: Vec<(u64, u32)> = (0..60).map(|i| append(&mut log, i)).collect();
    log.close().expect("closed");
    let segments = segments(&folder);
    let (missing, next) = (segments[1].1, segments[2].1);
    folder.remove(&name(missing)).expect("removed");
    let (log, recovered) = open(&folder);
    let content = Content::of(&log.reader());
    assert_eq!(content.ranges(), [(missing, next + 64)]);
    assert_eq!(recovered.damaged.len(), 1);
    assert_eq!(recovered.damaged[0].position, missing);
    let kept = places.iter().map(|(at, _)| *at).filter(|at| *at < missing || *at >= next);
    assert_eq!(content.positions(), kept.collect::<Vec<_>>());
    let (lost, len) = places.iter().find(|(at, _)| *at > missing).expect("one");
    assert!(matches!(log.reader().read(*lost, *len), Err(LogError::Damaged(_))));
}

#[test]
fn a_log_without_its_segments_does_not_begin_again() {
    let folder = MemFolder::new();
    let (mut log, _) = open(&folder);
    append(&mut log, 1);
    log.close().expect("closed");
    folder.remove(&name(0)).expect("removed");
    let error = Log::open(Arc::new(folder.clone()), SMALL).err().expect("refused");
    assert!(error.to_string().contains("all segments are missing"), "{error}");
    assert_eq!(segments(&folder), [], "nothing was created");
}

#[test]
fn segments_that_overlap_are_refused() {
    let folder = MemFolder::new();
    let (mut log, _) = open(&folder);
    append(&mut log, 1);
    log.close().expect("closed");
    folder.create(&name(128)).expect("created");
    let error = Log::open(Arc::new(folder), SMALL).err().expect("refused");
    assert!(matches!(&error, LogError::Misplaced { file, .. } if *file == name(128)), "{error}");
    assert!(!error.to_string().contains("newer version"), "{error}");
}

/// A power cut at every operation of the very first start and of the first roll.
#[test]
fn an_interrupted_creation_of_a_segment_is_begun_again() {
    for cut in 0.. {
        let folder = MemFolder::new();
        folder.power_off_at(cut);
        let begun = Log::open(Arc::new(folder.clone()), SMALL).and_then(|(mut log, _)| {
            (0..12).try_for_each(|i| log.append(&[record(i)], 1, 5).map(drop))?;
            log.sync()
        });
        if begun.is_ok() {
            assert!(cut > 12, "there was something to interrupt");
            return;
        }
        for seed in 0..16 {
            let folder = folder.fork();
            folder.crash(seed);
            let (mut log, recovered) = open(&folder);
            assert_eq!(recovered.damaged.iter().filter(|range| range.until < 128).count(), 0);
            let before = Content::of(&log.reader()).frames.len();
            for i in 20..40 {
                append(&mut log, i);
            }
            log.close().expect("closed");
            assert_eq!(
                Content::of(&open(&folder).0.reader()).frames.len(),
                before + 20,
                "cut {cut}, seed {seed}"
            );
        }
    }
}

#[test]
fn after_a_failed_sync_or_write_the_log_is_read_only() {
    for fault in [DiskFault::Sync, DiskFault::Write] {
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

/// The system shows cached bytes of a failed sync, and a later sync that succeeds does not write them.
#[test]
fn a_restart_after_a_failed_sync_makes_durable_what_it_reads() {
    let folder = MemFolder::new();
    let (mut log, _) = open(&folder);
    append(&mut log, 1);
    log.sync().expect("synced");
    append(&mut log, 2);
    folder.fail(Some(DiskFault::Sync));
    log.sync().expect_err("the disk fails");
    folder.fail(None);
    drop(log);

    let (log, _) = open(&folder);
    let found = frames(&log);
    assert_eq!(log.reader().durable(), log.end(), "a log that is open is durable to its end");
    drop(log);
    folder.crash_with(|_| false);
    let (log, _) = open(&folder);
    assert_eq!(frames(&log), found, "a power cut takes nothing that was durable");
    assert_eq!(found.len(), 2);
}

#[test]
fn a_sync_on_another_thread_makes_durable_what_was_there_when_it_was_begun() {
    let (folder, other) = (MemFolder::new(), MemFolder::new());
    let (mut log, _) = open(&folder);
    append(&mut log, 1);
    let (task, end) = (log.sync_elsewhere().expect("begun"), log.end());
    append(&mut log, 2);
    assert!(log.is_syncing() && log.reader().durable() < end);
    task.run().expect("synced");
    assert_eq!(log.reader().durable(), end, "the second record came later");
    append(&mut log, 3);
    assert!(!log.is_syncing());

    // The durable end is unknown after a sync that failed, or was never done.
    let (mut log, _) = open(&other);
    drop(log.sync_elsewhere().expect("begun"));
    assert!(matches!(log.sync(), Err(LogError::ReadOnly(_))));
    let (mut log, _) = open(&other);
    append(&mut log, 1);
    let before = log.reader().durable();
    other.fail(Some(DiskFault::Sync));
    assert!(log.sync_elsewhere().expect("begun").run().is_err());
    other.fail(None);
    assert_eq!(log.reader().durable(), before);
    assert!(matches!(log.note_durable(), Err(LogError::ReadOnly(_))));
    assert!(matches!(log.close(), Err(LogError::ReadOnly(_))));
}

#[test]
fn a_disk_that_cannot_be_read_is_not_taken_for_damage() {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, LAZY);
    for i in 0..20 {
        append(&mut log, i);
    }
    log.sync().expect("synced");
    drop(log);
    let before = folder.content(&name(0));
    for nth in 0.. {
        let folder = folder.fork();
        folder.fail_nth(DiskFault::Read, nth, FaultTimes::ForGood);
        match Log::open(Arc::new(folder.clone()), LAZY) {
            Err(LogError::Io { .. } | LogError::Unreadable { .. }) => {
                assert_eq!(folder.content(&name(0)), before, "nothing was changed")
            }
            Err(error) => panic!("{error}"),
            Ok(_) => {
                assert!(nth > 2);
                return;
            }
        }
    }
}

#[test]
fn a_full_disk_does_not_prevent_a_start() {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, LAZY);
    append(&mut log, 1);
    log.sync().expect("synced");
    log.append(&[NewFrame { kind: 1, body: vec![7; 1500].into() }], 1, 5).expect("appended");
    drop(log);
    flip(&folder, 700, 1);
    folder.set_capacity(Some(4096 + 128));
    let (log, recovered) = open_with(&folder, LAZY);
    assert!(recovered.cut_bytes > 0);
    assert_eq!(recovered.cut_file, None, "no room to keep it");
    assert!(!folder.list().expect("listed").iter().any(|name| name.starts_with("cut-")));
    assert_eq!(frames(&log).len(), 1);
}
