//! The golden fixture: a log of format version 1 that must stay readable for ever, with exactly its content.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kerolox_log::fs::{File, Folder, MemFolder, OsFolder};
use kerolox_log::inspect::{InspectMode, LogFinding, LogInspector};
use kerolox_store::kv::MemKv;
use kerolox_store::state::StateMachine;

#[path = "support/contents.rs"]
mod contents;
#[path = "support/scenario.rs"]
mod scenario;

fn fixture(name: &str) -> PathBuf {
    Path::new("fixtures").join(name)
}

fn expected(name: &str) -> String {
    std::fs::read_to_string(fixture(name).join("contents.txt")).expect("the fixture is checked in")
}

/// A copy of a fixture's log, in a folder that is removed when the first value is dropped.
fn copy(name: &str) -> (tempfile::TempDir, Arc<OsFolder>) {
    let temporary = tempfile::tempdir().expect("a folder");
    contents::copy(&fixture(name).join("log"), temporary.path());
    let folder = Arc::new(OsFolder::create(temporary.path()).expect("the copy"));
    (temporary, folder)
}

#[test]
fn the_log_of_version_1_is_read_as_it_was_written() {
    for name in ["v1", "v1-trimmed", "v1-trimmed-story"] {
        let (_temporary, folder) = copy(name);
        let store = contents::open(folder.clone(), Arc::new(MemKv::default()));
        assert_eq!(contents::describe(&store, &*folder), expected(name));
    }
}

#[test]
fn a_log_that_is_trimmed_today_holds_what_the_fixture_holds() {
    let (_temporary, folder) = copy("v1");
    let store = contents::open(folder.clone(), Arc::new(MemKv::default()));
    scenario::trim(&store);
    // Snapshots include the history of half messages; those in `v1-trimmed` do not.
    assert_eq!(contents::describe(&store, &*folder), expected("v1-trimmed-story"));
}

#[test]
fn an_index_of_any_earlier_moment_leads_to_the_same() {
    let (_temporary, folder) = copy("v1");
    let frames: Vec<_> = LogInspector::open(&*folder, InspectMode::Offline)
        .expect("opens")
        .filter_map(|finding| match finding.expect("reads") {
            LogFinding::Record(frame) => Some(frame),
            _ => None,
        })
        .collect();
    for folded in (0..=frames.len()).step_by(3) {
        let kv = Arc::new(MemKv::default());
        let mut index = StateMachine::empty(kv.clone()).expect("memory");
        for frame in &frames[..folded] {
            index.apply(frame, &mut Vec::new()).expect("applies");
        }
        kerolox_store::kv::Kv::write(&*kv, index.changes()).expect("memory");
        let (_temporary, folder) = copy("v1");
        let store = contents::open(folder.clone(), kv);
        assert_eq!(contents::describe(&store, &*folder), expected("v1"), "index of {folded} records");
    }
}

/// The current writer still makes the bytes of version 1. When a later version writes other bytes on purpose, the
/// fixture stays unchanged, the new version gets its own, and this test moves to that one.
#[test]
fn the_writer_makes_the_bytes_of_version_1() {
    let written = MemFolder::new();
    scenario::write(Arc::new(written.clone()));
    let golden = OsFolder::read_only(&fixture("v1").join("log")).expect("the fixture is checked in");
    // The files beside the segments have their own versions.
    let names = |folder: &dyn Folder| {
        let mut names = folder.list().expect("lists");
        names.retain(|name| name.ends_with(".log"));
        names.sort();
        names
    };
    assert_eq!(names(&written), names(&golden));
    for name in names(&golden) {
        let bytes = |file: Arc<dyn File>| {
            let mut bytes = vec![0; usize::try_from(file.len().expect("measured")).expect("small")];
            file.read_at(&mut bytes, 0).expect("reads");
            bytes
        };
        let (new, old) = (written.open(&name).expect("is listed"), golden.open(&name).expect("is listed"));
        assert!(bytes(new) == bytes(old), "{name} differs");
    }
}
