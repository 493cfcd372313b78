//! Disks with unreadable places: everything elsewhere stays readable, and nothing is cut because of them.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use kerolox_log::fs::{DiskFault, FaultTimes, MemFolder};
use kerolox_log::inspect::{InspectMode, LogFinding, LogInspector};
use kerolox_log::{FrameSalt, Log, LogError, LogOptions};
use support::{Content, append, name, open_with, segments};

/// The checkpoint records only a roll or a clean stop.
const OPTIONS: LogOptions =
    LogOptions { segment_bytes: 20_000, checkpoint_bytes: 1 << 20, ..LogOptions::new(FrameSalt::new(7)) };
const RECORDS: usize = 500;
/// Bytes that a system with pages of this size cannot read because of one bad sector.
const BLOCK: usize = 4096;

struct Sample {
    folder: MemFolder,
    places: Vec<(u64, u32)>,
    closed: bool,
}

fn sample(closed: bool) -> Sample {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, OPTIONS);
    let places: Vec<(u64, u32)> = (0..RECORDS).map(|i| append(&mut log, i)).collect();
    log.sync().expect("synced");
    if closed {
        log.close().expect("closed");
    }
    assert!(segments(&folder).len() >= 3);
    Sample { folder, places, closed }
}

fn contents(folder: &MemFolder) -> BTreeMap<String, Vec<u8>> {
    let names = folder.names().into_iter().filter(|name| name != "checkpoint");
    names.map(|name| (name.clone(), folder.content(&name).expect("listed"))).collect()
}

impl Sample {
    /// Positions of the records that do not touch a range.
    fn outside(&self, from: u64, until: u64) -> Vec<u64> {
        let touched = |(at, len): &&(u64, u32)| *at < until && from < at + u64::from(*len);
        self.places.iter().filter(|place| !touched(place)).map(|(at, _)| *at).collect()
    }
}

/// One bad sector, at every place in turn.
#[test]
fn a_bad_sector_costs_what_lies_in_it_or_refuses_the_start() {
    for sample in [sample(true), sample(false)] {
        let newest = segments(&sample.folder).pop().expect("some");
        let (mut opened, mut refused) = (0, 0);
        for (file, base) in segments(&sample.folder) {
            let len = sample.folder.content(&file).expect("there").len();
            for block in (0..len).step_by(BLOCK) {
                let folder = sample.folder.fork();
                folder.give_up(&file, block..block + BLOCK);
                let before = contents(&folder);
                let (from, until) = (base + block as u64, base + len.min(block + BLOCK) as u64);
                let kept = sample.outside(from, until);
                let what = format!("closed {}, {file} at {block}", sample.closed);
                match Log::open(Arc::new(folder.clone()), OPTIONS) {
                    Ok((mut log, _)) => {
                        opened += 1;
                        let found = Content::of(&log.reader());
                        assert_eq!(found.positions(), kept, "{what}");
                        for (position, len) in &sample.places {
                            let read = log.reader().read(*position, *len);
                            match read {
                                Ok(frame) => assert!(kept.contains(&frame.position), "{what}"),
                                Err(LogError::Damaged(range)) => {
                                    assert!(!kept.contains(&range.position), "{what}");
                                }
                                Err(error) => panic!("{what}: {error}"),
                            }
                        }
                        let told = |at: &u64| {
                            found.ranges().iter().any(|(from, until)| (*from..*until).contains(at))
                        };
                        let lost = sample.places.iter().map(|(at, _)| *at).filter(|at| !kept.contains(at));
                        assert!(lost.into_iter().all(|at| told(&at)), "{what}");
                        append(&mut log, 1);
                        log.close().expect("closed");
                    }
                    Err(error @ LogError::Unreadable { .. }) => {
                        refused += 1;
                        assert_eq!(file, newest.0, "{what}");
                        let end = sample.places.last().map_or(0, |(at, len)| at + u64::from(*len));
                        assert!(!sample.closed || until > end, "the checkpoint knows better: {what}");
                        assert!(kept.iter().all(|at| *at < until), "a record behind it tells: {what}");
                        assert!(error.to_string().contains("nothing was changed"), "{error}");
                        assert_eq!(contents(&folder), before, "{what}");
                    }
                    Err(error) => panic!("{what}: {error}"),
                }
            }
        }
        assert!(opened > 8 && refused > 0, "{opened} opened, {refused} refused");
    }
}

#[test]
fn a_newest_segment_that_cannot_be_read_at_all_is_not_begun_again() {
    let sample = sample(false);
    let (newest, _) = segments(&sample.folder).pop().expect("some");
    let before = contents(&sample.folder);
    sample.folder.give_up(&newest, 0..1 << 20);
    let error = Log::open(Arc::new(sample.folder.clone()), OPTIONS).err().expect("refused");
    assert!(matches!(&error, LogError::Unreadable { file, .. } if *file == newest), "{error}");
    assert_eq!(contents(&sample.folder), before);
}

/// Any single read of a start fails, and succeeds on the next try.
#[test]
fn a_read_that_fails_once_costs_nothing() {
    let sample = sample(false);
    let all = sample.outside(0, 0);
    for nth in 0.. {
        let folder = sample.folder.fork();
        folder.fail_nth(DiskFault::Read, nth, FaultTimes::Once);
        let opened = Log::open(Arc::new(folder.clone()), OPTIONS);
        folder.fail(None);
        // A start is refused if the checkpoint or the search for the end fails to read once; the next one succeeds.
        if let Err(error) = opened {
            assert!(matches!(error, LogError::Io { .. } | LogError::Unreadable { .. }), "{error}");
        }
        assert_eq!(Content::of(&open_with(&folder, OPTIONS).0.reader()).positions(), all, "read {nth}");
        if nth > 40 {
            return;
        }
    }
}

#[test]
fn an_inspection_goes_on_behind_a_bad_sector() {
    let sample = sample(true);
    for (file, base) in segments(&sample.folder) {
        let folder = sample.folder.fork();
        folder.give_up(&file, BLOCK..BLOCK + 1);
        let (mut records, mut damage) = (Vec::new(), Vec::new());
        for finding in LogInspector::open(&folder, InspectMode::Offline).expect("opens") {
            match finding.expect("goes on") {
                LogFinding::Record(frame) => records.push(frame.position),
                LogFinding::Damaged(range) => damage.push(range),
                LogFinding::End { .. } => {}
            }
        }
        let from = base + BLOCK as u64;
        assert_eq!(records, sample.outside(from, from + BLOCK as u64));
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert_eq!(damage[0].file, file);
    }
    let folder = sample.folder.fork();
    folder.give_up(&name(0), 0..1);
    let findings = LogInspector::open(&folder, InspectMode::Offline).expect("opens");
    let damage = findings.filter_map(|finding| match finding.expect("goes on") {
        LogFinding::Damaged(range) => Some(range.reason),
        _ => None,
    });
    assert!(damage.into_iter().any(|reason| reason.contains("cannot be read")));
}
