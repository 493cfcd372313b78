//! Inspections of intact, torn, damaged and incomplete logs, which change nothing.

use std::path::Path;
use std::sync::Arc;

use kerolox_log::fs::{Folder, OsFolder};
use kerolox_log::inspect::{InspectMode, LogFinding, LogInspector};
use kerolox_log::{DamagedRange, FrameSalt, Log, LogOptions, NewFrame};
use proptest::prelude::*;

const OPTIONS: LogOptions =
    LogOptions { segment_bytes: 1024, checkpoint_bytes: 1, ..LogOptions::new(FrameSalt::new(7)) };
const RECORDS: usize = 40;

/// A closed log of several segments; positions of its records, and its end.
fn log(path: &Path) -> (Vec<u64>, u64) {
    let folder = Arc::new(OsFolder::create(path).expect("temporary folder"));
    let (mut log, _) = Log::open(folder, OPTIONS).expect("opens");
    let mut positions = Vec::new();
    for i in 0..RECORDS {
        let body = format!("record {i} {}", "x".repeat(i * 3)).into_bytes();
        positions.push(log.append(&[NewFrame { kind: 1, body: body.into() }], 1, 5).expect("appended")[0].0);
        log.sync().expect("synced");
    }
    let end = log.end();
    log.close().expect("closed");
    (positions, end)
}

struct Seen {
    records: Vec<u64>,
    damage: Vec<DamagedRange>,
    end: u64,
    torn_bytes: u64,
}

fn inspect(path: &Path, mode: InspectMode) -> Seen {
    let folder = OsFolder::read_only(path).expect("there");
    let mut seen = Seen { records: Vec::new(), damage: Vec::new(), end: 0, torn_bytes: 0 };
    for finding in LogInspector::open(&folder, mode).expect("opens") {
        match finding.expect("readable") {
            LogFinding::Record(frame) => seen.records.push(frame.position),
            LogFinding::Damaged(damage) => seen.damage.push(damage),
            LogFinding::End { position, torn_bytes } => (seen.end, seen.torn_bytes) = (position, torn_bytes),
        }
    }
    seen
}

/// Segment files with their base positions, in order.
fn segments(path: &Path) -> Vec<(u64, std::path::PathBuf)> {
    let folder = OsFolder::read_only(path).expect("there");
    let inspector = LogInspector::open(&folder, InspectMode::Offline).expect("opens");
    inspector.segments().map(|info| (info.base, path.join(&info.file))).collect()
}

fn change(file: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(file).expect("readable");
    edit(&mut bytes);
    std::fs::write(file, bytes).expect("writable");
}

#[test]
fn an_intact_log_is_read_to_its_end() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (positions, end) = log(folder.path());
    assert!(segments(folder.path()).len() > 3);
    for mode in [InspectMode::Offline, InspectMode::Live] {
        let seen = inspect(folder.path(), mode);
        assert_eq!((seen.records, seen.damage), (positions.clone(), vec![]));
        assert_eq!((seen.end, seen.torn_bytes), (end, 0));
    }
}

#[test]
fn an_empty_folder_is_an_empty_log() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let seen = inspect(folder.path(), InspectMode::Offline);
    assert_eq!((seen.records.len(), seen.damage.len(), seen.end), (0, 0, 0));
}

#[test]
fn what_a_torn_write_left_is_no_damage() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (positions, end) = log(folder.path());
    let (base, last) = segments(folder.path()).pop().expect("several");
    let at = usize::try_from(end - base).expect("small");
    change(&last, |bytes| bytes[at..at + 5].copy_from_slice(b"\x28\0\0\0\x09"));
    let seen = inspect(folder.path(), InspectMode::Offline);
    assert_eq!((seen.records, seen.damage), (positions, vec![]));
    assert_eq!((seen.end, seen.torn_bytes), (end, 5));
}

#[test]
fn a_missing_segment_is_named_and_the_rest_is_read() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (positions, end) = log(folder.path());
    let files = segments(folder.path());
    std::fs::remove_file(&files[1].1).expect("removed");
    let seen = inspect(folder.path(), InspectMode::Offline);
    assert_eq!(seen.damage.len(), 1, "{:?}", seen.damage);
    assert_eq!((seen.damage[0].position, seen.damage[0].until), (files[1].0, files[2].0));
    let rest = positions.into_iter().filter(|at| !(files[1].0..files[2].0).contains(at));
    assert_eq!((seen.records, seen.end), (rest.collect(), end));
}

#[test]
fn a_lost_end_is_damage_up_to_the_checkpoint() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (positions, end) = log(folder.path());
    let (base, last) = segments(folder.path()).pop().expect("several");
    let lost = *positions.last().expect("many");
    let keep = usize::try_from(lost - base).expect("small");
    let expected = |seen: &Seen| {
        assert_eq!(seen.damage.len(), 1, "{:?}", seen.damage);
        assert_eq!((seen.damage[0].position, seen.damage[0].until), (lost, end));
        assert_eq!(seen.records.len(), RECORDS - 1);
    };
    change(&last, |bytes| bytes[keep..].fill(0));
    expected(&inspect(folder.path(), InspectMode::Offline));
    change(&last, |bytes| bytes.truncate(keep));
    expected(&inspect(folder.path(), InspectMode::Live));
}

#[test]
fn a_broken_header_does_not_hide_the_records_behind_it() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (positions, _) = log(folder.path());
    let (base, file) = segments(folder.path()).swap_remove(2);
    change(&file, |bytes| bytes[9] ^= 1);
    let seen = inspect(folder.path(), InspectMode::Offline);
    assert_eq!(seen.records, positions);
    assert_eq!((seen.damage.len(), seen.damage[0].position, seen.damage[0].until), (1, base, base + 64));
}

#[test]
fn a_segment_of_another_version_is_refused() {
    let folder = tempfile::tempdir().expect("temporary folder");
    log(folder.path());
    let (_, file) = segments(folder.path()).swap_remove(0);
    change(&file, |bytes| {
        bytes[7] = 2;
        let checksum = crc32c::crc32c(&bytes[..24]);
        bytes[24..28].copy_from_slice(&checksum.to_le_bytes());
    });
    let folder = OsFolder::read_only(folder.path()).expect("there");
    let error = LogInspector::open(&folder, InspectMode::Offline).err().expect("refused");
    assert!(error.to_string().contains("version 2"), "{error}");
}

#[test]
fn skipping_begins_with_the_segment_of_the_position() {
    let path = tempfile::tempdir().expect("temporary folder");
    let (positions, _) = log(path.path());
    let bases: Vec<u64> = segments(path.path()).iter().map(|(base, _)| *base).collect();
    let folder = OsFolder::read_only(path.path()).expect("there");
    let mut inspector = LogInspector::open(&folder, InspectMode::Offline).expect("opens");
    inspector.skip_to_segment_of(bases[2] + 70);
    let Some(Ok(LogFinding::Record(first))) = inspector.next() else { panic!("a record is there") };
    assert_eq!(Some(&first.position), positions.iter().find(|at| **at > bases[2]));
}

#[test]
fn nothing_is_created_or_written() {
    let path = tempfile::tempdir().expect("temporary folder");
    let folder = OsFolder::read_only(path.path()).expect("there");
    assert!(folder.create("x").is_err());
    assert!(OsFolder::read_only(&path.path().join("absent")).is_err());
    std::fs::write(path.path().join("x"), b"1").expect("written");
    assert!(folder.open("x").expect("there").write_at(b"2", 0).is_err());
    assert_eq!(std::fs::read(path.path().join("x")).expect("there"), b"1");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Any run of changed bytes costs the records that it touches, and no others.
    #[test]
    fn damage_costs_what_it_touches(at in 64u64..5000, len in 1u64..200) {
        let path = tempfile::tempdir().expect("temporary folder");
        let (positions, end) = log(path.path());
        prop_assume!(at + len <= end);
        for (base, file) in segments(path.path()) {
            change(&file, |bytes| {
                for (i, byte) in bytes.iter_mut().enumerate() {
                    if (at..at + len).contains(&(base + i as u64)) {
                        *byte ^= 0xA5;
                    }
                }
            });
        }
        let seen = inspect(path.path(), InspectMode::Offline);
        let ends = positions.iter().skip(1).copied().chain([end]);
        let untouched: Vec<u64> = positions.iter().copied().zip(ends)
            .filter(|(from, until)| *until <= at || *from >= at + len).map(|(from, _)| from).collect();
        let lost: Vec<u64> = positions.iter().copied().filter(|from| !seen.records.contains(from)).collect();
        prop_assert!(untouched.iter().all(|from| seen.records.contains(from)), "{:?}", seen.damage);
        prop_assert!(lost.iter().all(|from| seen.damage.iter().any(|d| (d.position..d.until).contains(from))));
        prop_assert_eq!(seen.end, end);
    }
}
