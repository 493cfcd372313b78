//! Disks without space and processes without descriptors: the log refuses records that it cannot take, and continues
//! when it can.

mod support;

use std::sync::Arc;

use kerolox_log::fs::{DiskFault, FaultTimes, MemFolder};
use kerolox_log::{FrameSalt, Log, LogError, LogOptions, NewFrame};
use support::{Content, append, frames, name, open_with, record, segments};

const OPTIONS: LogOptions = LogOptions {
    segment_bytes: 8192,
    step_bytes: 2048,
    reserve_bytes: 1024,
    checkpoint_bytes: 1 << 20,
    salt: FrameSalt::new(7),
};

fn used(folder: &MemFolder) -> u64 {
    let names = folder.names().into_iter();
    names.map(|name| folder.content(&name).expect("listed").len() as u64).sum()
}

/// Prevents every file from growing.
fn fill(folder: &MemFolder) {
    folder.set_capacity(Some(used(folder)));
}

fn append_until_full(log: &mut Log) -> usize {
    for i in 0.. {
        match log.append(&[record(i)], 1, 5) {
            Ok(_) => log.sync().expect("reserved space can be written"),
            Err(error) => {
                assert!(error.is_full(), "{error}");
                return i;
            }
        }
    }
    unreachable!("the disk is full")
}

#[test]
fn room_is_reserved_in_steps_and_not_for_a_whole_segment() {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, OPTIONS);
    let len = || folder.content(&name(0)).expect("there").len() as u64;
    assert_eq!(len(), 2048);
    while log.end() < 6000 {
        append(&mut log, 60);
        assert!((log.end()..=log.end() + OPTIONS.step_bytes).contains(&len()), "{} of {}", log.end(), len());
    }
    log.close().expect("closed");
    // However often it is started, the file grows no longer than a segment and its reserve.
    for i in 0..20 {
        let (mut log, _) = open_with(&folder, OPTIONS);
        if i < 10 {
            append(&mut log, 60);
        }
        assert!(len() <= OPTIONS.segment_bytes + OPTIONS.reserve_bytes, "{}", len());
    }
}

/// The disk fills between two checks: no failed write took place, so nothing is in doubt.
#[test]
fn a_full_disk_refuses_messages_and_takes_what_the_reserve_is_for_until_that_is_used_up() {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, OPTIONS);
    append(&mut log, 1);
    fill(&folder);
    let mut messages = 0;
    while log.make_room(200).is_ok() {
        log.append(&[NewFrame { kind: 1, body: vec![7; 168].into() }], 1, 5).expect("there is room");
        messages += 1;
    }
    assert!((1..10).contains(&messages), "{messages}");
    assert!(log.make_room(200).is_err_and(|error| error.is_full()));
    let others = append_until_full(&mut log);
    assert!(others >= 8, "a kibibyte is for these: {others}");
    assert_eq!(log.failure(), None);
    assert!(log.make_room(1).is_err_and(|error| error.is_full()), "and still nothing is in doubt");
    log.close().expect("closed");

    let (mut log, recovered) = open_with(&folder, OPTIONS);
    assert_eq!((recovered.cut_bytes, recovered.damaged), (0, vec![]));
    assert_eq!(frames(&log).len(), 1 + messages + others);
    assert!(log.append(&[record(60)], 1, 5).is_err_and(|error| error.is_full()));
    folder.set_capacity(None);
    log.make_room(200).expect("there is room again");
    append(&mut log, 60);
    log.close().expect("closed");
    assert_eq!(frames(&open_with(&folder, OPTIONS).0).len(), 2 + messages + others);
}

/// Sealing a segment releases its space; the next one on a full disk takes no more than that.
#[test]
fn the_reserve_outlives_the_end_of_a_segment_on_a_full_disk() {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, OPTIONS);
    while log.end() < 8000 {
        append(&mut log, 60);
    }
    log.make_room(8).expect("there is room");
    log.sync().expect("synced");
    fill(&folder);
    let before = frames(&log).len();
    assert!(log.begin_segment(0).is_err_and(|error| error.is_full()));
    let others = append_until_full(&mut log);
    assert!(others >= 8, "{others}");
    assert_eq!(segments(&folder).len(), 1);
    folder.set_capacity(None);
    while segments(&folder).len() < 2 {
        append(&mut log, 60);
    }
    log.close().expect("closed");
    assert!(frames(&open_with(&folder, OPTIONS).0).len() > before + others);
}

#[test]
fn a_log_is_opened_on_a_full_disk_whatever_a_kill_left_there() {
    for killed_at in 0..40 {
        let folder = MemFolder::new();
        let (mut log, _) = open_with(&folder, OPTIONS);
        let mut written = 0;
        folder.power_off_at(killed_at);
        while written < 80 && log.append(&[record(60)], 1, 5).is_ok_and(|_| log.sync().is_ok()) {
            written += 1;
        }
        drop(log);
        folder.crash_with(|_| true);
        fill(&folder);
        let (log, recovered) = open_with(&folder, OPTIONS);
        assert_eq!(recovered.damaged, []);
        assert!(frames(&log).len() >= written, "killed at {killed_at}");
        log.close().expect("closed");
    }
}

#[test]
fn a_small_disk_is_enough_to_begin_a_log() {
    let folder = MemFolder::new();
    folder.set_capacity(Some(1024 + 64 + 128));
    let (mut log, _) = open_with(&folder, LogOptions::new(FrameSalt::new(7)));
    assert!(log.make_room(100).is_err_and(|error| error.is_full()));
    folder.set_capacity(Some(16 << 20));
    log.make_room(100).expect("there is room for a message and the reserve");
    append(&mut log, 1);
    log.close().expect("closed");
}

#[test]
fn without_a_descriptor_for_the_next_segment_the_log_goes_on_in_the_old_one() {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, OPTIONS);
    folder.fail(Some(DiskFault::Descriptor));
    for i in 0..200 {
        log.append(&[record(i)], 1, 5).expect("the old segment takes it");
        log.sync().expect("synced");
    }
    assert_eq!((segments(&folder).len(), log.failure()), (1, None));
    assert!(log.end() > OPTIONS.segment_bytes);
    assert!(matches!(log.begin_segment(10), Err(LogError::NotNow { .. })));
    folder.fail(None);
    for i in 200..300 {
        append(&mut log, i);
    }
    assert!(segments(&folder).len() > 1, "descriptors are there again");
    log.close().expect("closed");
    let found = frames(&open_with(&folder, OPTIONS).0);
    assert!(found.iter().enumerate().all(|(i, frame)| frame.body == record(i).body));
    assert_eq!(found.len(), 300);
}

/// The file of the next segment was created but cannot be filled, or not even removed, and the power is cut at any
/// moment.
#[test]
fn a_segment_that_cannot_be_begun_costs_nothing_whenever_the_power_goes() {
    let harms: [&dyn Fn(&MemFolder); 3] =
        [&|folder| folder.fail(Some(DiskFault::Descriptor)), &|folder| fill(folder), &|folder| {
            fill(folder);
            folder.fail_nth(DiskFault::Remove, 0, FaultTimes::Once);
        }];
    for harm in harms {
        for cut in 0..60 {
            let folder = MemFolder::new();
            let (mut log, _) = open_with(&folder, OPTIONS);
            while log.end() < 7900 {
                append(&mut log, 60);
            }
            log.make_room(8).expect("there is room");
            log.sync().expect("synced");
            harm(&folder);
            folder.power_off_at(cut);
            let mut durable = frames(&log).len();
            for i in 0..6 {
                if log.append(&[record(i)], 1, 5).is_ok() && log.sync().is_ok() {
                    durable += 1;
                }
            }
            drop(log);
            for seed in 0..12 {
                let folder = folder.fork();
                folder.crash(seed);
                let (mut log, recovered) = open_with(&folder, OPTIONS);
                assert_eq!(recovered.damaged, [], "cut {cut}, seed {seed}");
                assert!(frames(&log).len() >= durable, "cut {cut}, seed {seed}");
                (0..60).for_each(|i| _ = append(&mut log, i));
                log.close().expect("closed");
                assert!(Content::of(&open_with(&folder, OPTIONS).0.reader()).frames.len() >= durable + 60);
            }
        }
    }
}

/// With the real kernel: no descriptor is left, and the log opens the next file with a spare one.
#[test]
fn descriptors_that_are_kept_open_the_next_segment() {
    let path = tempfile::tempdir().expect("a folder");
    let folder = kerolox_log::fs::OsFolder::create(path.path()).expect("created");
    let (mut log, _) = Log::open(Arc::new(folder), OPTIONS).expect("opens");
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let low = rustix::process::Rlimit { current: Some(200), ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, low).expect("lowered");
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    let files = |path: &std::path::Path| path.join(name(0)).exists();
    for i in 0..300 {
        append(&mut log, i);
    }
    drop(taken);
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).expect("raised");
    assert!(files(path.path()));
    assert!(log.reader().segments().len() > 2, "the log opened files all the same");
}
