//! Copies of a log: the same bytes at the same positions, whatever the pieces, and the way back to the last common
//! record.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use kerolox_log::fs::MemFolder;
use kerolox_log::{
    Frame, FrameSalt, Log, LogEpochEnd, LogError, LogOptions, LogReader, Piece, begin_copy, is_blank,
    remove_log,
};
use proptest::prelude::*;
use support::{SMALL, flip, frames, open, open_with, record, segments};

/// A log with these epochs, each with a number of records.
fn ruled(folder: &MemFolder, epochs: &[(u32, usize)]) -> Log {
    let (mut log, _) = open(folder);
    for (epoch, records) in epochs {
        for i in 0..*records {
            log.append(&[record(i + *epoch as usize)], *epoch, 5).expect("appended");
        }
    }
    log.sync().expect("synced");
    log
}

/// An empty copy of the log in whose first segment `reader` begins.
fn blank_copy(reader: &LogReader) -> (MemFolder, Log) {
    let folder = MemFolder::new();
    assert!(is_blank(&folder).expect("readable"));
    let first = reader.segments()[0];
    begin_copy(&folder, SMALL.salt, first.base).expect("begun");
    let (log, _) = open_with(&folder, LogOptions { salt: FrameSalt::new(99), ..SMALL });
    (folder, log)
}

/// Copies the missing part of the log to `copy`, in pieces of at most `bytes` bytes.
fn catch_up(copy: &mut Log, from: &LogReader, bytes: usize) {
    let mut position = copy.reader().frames_end();
    loop {
        match from.copy(position, bytes).expect("readable") {
            Piece::Segment { base, .. } => {
                copy.begin_copied_segment(base).expect("begun");
                position = copy.end();
            }
            Piece::Frames(frames) => {
                copy.append_copy(position, &frames).expect("copied");
                position += frames.len() as u64;
            }
            Piece::End => break,
        }
    }
    copy.sync().expect("synced");
}

/// The reconciliation of logs that may differ: the copy is cut until its last record is one of the master's.
fn reconcile(copy: &mut Log, folder: &MemFolder, master: &LogReader) {
    loop {
        let reader = copy.reader();
        let LogEpochEnd { epoch: last, end, .. } = reader.end_of_epoch(u32::MAX).expect("readable");
        let LogEpochEnd { epoch, end: until, .. } = master.end_of_epoch(last).expect("readable");
        if epoch == last && end <= until {
            let _ = copy.truncate(folder, end);
            return;
        }
        let own = reader.end_of_epoch(epoch).expect("readable").end;
        copy.truncate(folder, own.min(until)).expect("truncated");
    }
}

fn bytes_of(log: &Log) -> Vec<Frame> {
    frames(log)
}

proptest! {
    #[test]
    fn a_copy_is_identical(
        epochs in prop::collection::vec((1u32..5, 0usize..30), 1..5), piece in 1usize..900, crash: u64,
    ) {
        let mut epochs = epochs;
        epochs.sort_unstable();
        let master = ruled(&MemFolder::new(), &epochs);
        let (folder, mut copy) = blank_copy(&master.reader());
        catch_up(&mut copy, &master.reader(), piece);
        prop_assert_eq!(bytes_of(&copy), bytes_of(&master));
        prop_assert_eq!(copy.reader().frames_end(), master.reader().frames_end());
        prop_assert_eq!(copy.salt(), SMALL.salt);
        drop(copy);
        folder.crash(crash);
        let (copy, _) = open(&folder);
        prop_assert_eq!(bytes_of(&copy), bytes_of(&master), "synced records survive a power cut");
    }

    /// Two logs with a common beginning that diverged; the copy becomes the master's log.
    #[test]
    fn a_copy_goes_back_to_the_last_common_record(
        common in prop::collection::vec((1u32..3, 1usize..20), 1..3),
        ours in prop::collection::vec((3u32..6, 0usize..20), 0..3),
        theirs in prop::collection::vec((6u32..9, 1usize..20), 1..3),
        cut_off in any::<bool>(),
        power_off in prop::option::of(0u64..40),
    ) {
        let (mut common, mut ours, mut theirs) = (common, ours, theirs);
        common.sort_unstable();
        ours.sort_unstable();
        theirs.sort_unstable();
        let master = ruled(&MemFolder::new(), &[common.clone(), theirs].concat());
        // Cut off: the master has only a part of the last common epoch.
        if cut_off {
            common.last_mut().expect("one at least").1 += 3;
        }
        let folder = MemFolder::new();
        let copy = ruled(&folder, &[common, ours].concat());
        let old = bytes_of(&copy);
        drop(copy);
        if let Some(nth) = power_off {
            folder.power_off_at(folder.operations() + nth);
            let attempt = catch_unwind(AssertUnwindSafe(|| {
                let (mut copy, _) = open(&folder);
                reconcile(&mut copy, &folder, &master.reader());
                catch_up(&mut copy, &master.reader(), 300);
            }));
            drop(attempt);
            folder.crash(nth);
            let (copy, _) = open(&folder);
            let now = bytes_of(&copy);
            let target = bytes_of(&master);
            prop_assert!(old.starts_with(&now) || target.starts_with(&now), "one of the two, or its beginning");
        }
        let (mut copy, _) = open(&folder);
        reconcile(&mut copy, &folder, &master.reader());
        catch_up(&mut copy, &master.reader(), 300);
        prop_assert_eq!(bytes_of(&copy), bytes_of(&master));
        drop(copy);
        let (copy, _) = open(&folder);
        prop_assert_eq!(bytes_of(&copy), bytes_of(&master), "nothing comes back that was given up");
    }
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let master_folder = MemFolder::new();
    let master = ruled(&master_folder, &[(1, 4)]);
    let reader = master.reader();
    let (_, mut copy) = blank_copy(&reader);
    let start = reader.start();
    let Piece::Frames(good) = reader.copy(start, 4096).expect("readable") else { panic!("frames") };
    assert!(matches!(copy.append_copy(start + 8, &good), Err(LogError::Copy { .. })), "not the end");
    flip(&master_folder, start + good.len() as u64 - 20, 1);
    let Piece::Frames(bad) = reader.copy(start, 4096).expect("readable") else { panic!("frames") };
    assert!(matches!(copy.append_copy(start, &bad), Err(LogError::Copy { .. })), "damaged on the way");
    let other = blank_copy(&ruled(&MemFolder::new(), &[(1, 0)]).reader()).1;
    drop(other);
    assert_eq!((copy.end(), frames(&copy).len()), (start, 0));
    copy.append_copy(start, &good).expect("the log still takes what fits");
    assert_eq!(frames(&copy).len(), 4);
}

#[test]
fn what_is_given_up_is_kept_aside_and_a_log_can_be_removed_as_a_whole() {
    let folder = MemFolder::new();
    let mut log = ruled(&folder, &[(1, 40)]);
    let all = frames(&log);
    assert!(segments(&folder).len() > 2, "several segments");
    log.truncate(&folder, all[3].position).expect("truncated");
    assert_eq!(frames(&log), all[..3]);
    assert!(folder.names().iter().any(|name| name.starts_with("cut-")), "{:?}", folder.names());
    assert!(matches!(log.truncate(&folder, all[9].position), Err(LogError::NotFound { .. })));
    drop(log);
    let (mut log, _) = open(&folder);
    assert_eq!(frames(&log), all[..3], "nothing comes back, although nothing was written since");
    log.append(&[record(1)], 2, 5).expect("the log goes on");
    drop(log);
    remove_log(&folder).expect("removed");
    assert!(is_blank(&folder).expect("readable"));
    let arc: Arc<MemFolder> = Arc::new(folder);
    assert!(arc.names().iter().all(|name| name.starts_with("cut-")));
}

#[test]
fn the_last_frame_is_known_by_its_checksum_until_it_is_cut_off() {
    let folder = MemFolder::new();
    let log = ruled(&folder, &[(1, 3), (2, 2)]);
    let reader = log.reader();
    let frames: Vec<_> = reader.scan(reader.start()).collect::<Result<_, _>>().expect("readable");
    let last = log.last_frame().expect("known");
    assert_eq!(last.0, frames[4].position);
    assert_eq!(reader.checksum(last.0).expect("readable"), Some(last.1));
    let others: Vec<_> =
        frames[..4].iter().map(|frame| reader.checksum(frame.position).expect("readable")).collect();
    assert!(others.iter().all(|checksum| checksum.is_some_and(|checksum| checksum != last.1)), "{others:?}");
    assert_eq!(reader.checksum(last.0 + 8).expect("readable"), None, "no frame begins there");
    drop(log);
    let (mut log, _) = open(&folder);
    assert_eq!(log.last_frame(), Some(last), "also after a start");
    log.truncate(&folder, frames[3].position).expect("cut");
    assert_eq!(log.last_frame(), None);
    flip(&folder, frames[1].position + 40, 1);
    let reader = log.reader();
    assert_eq!(reader.checksum(frames[1].position).expect("readable"), None, "damaged");
    let may_hold = |position, checksum| reader.may_hold(position, checksum).expect("readable");
    let first = reader.checksum(frames[0].position).expect("readable").expect("intact");
    assert_eq!((may_hold(frames[0].position, first), may_hold(frames[0].position, first + 1)), (true, false));
    assert!(may_hold(frames[1].position, 1), "damage says nothing");
    assert!(!may_hold(frames[2].position + 8, 1), "another frame lies across");
    assert!(!may_hold(0, 1), "a segment begins there");
    assert!(!may_hold(log.end(), 1), "behind the log");
}

#[test]
fn damage_hides_the_end_of_an_epoch_only_where_it_may_lie() {
    let folder = MemFolder::new();
    let log = ruled(&folder, &[(1, 3), (2, 2)]);
    let reader = log.reader();
    let frames: Vec<_> = reader.scan(reader.start()).collect::<Result<_, _>>().expect("readable");
    let end_after =
        |epoch, frame: &Frame| LogEpochEnd { epoch, end: frame.end(), begin: Some(frame.position) };
    let first_end = end_after(1, &frames[2]);
    assert_eq!(reader.end_of_epoch(1).expect("readable"), first_end);
    flip(&folder, frames[1].position + 40, 1);
    assert_eq!(reader.end_of_epoch(1).expect("damage in the middle says nothing"), first_end);
    flip(&folder, frames[2].position + 40, 1);
    assert!(matches!(reader.end_of_epoch(1), Err(LogError::Damaged(_))), "the last one of its epoch");
    assert_eq!(reader.end_of_epoch(2).expect("the end is behind the damage"), end_after(2, &frames[4]));
}
