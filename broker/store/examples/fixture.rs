//! Writes the golden fixtures of the log format: `cargo run --release -p kerolox-store --example fixture -- FOLDER`.
//! The results are checked in as `broker/store/fixtures/v1` (written by the log alone, always with the same bytes) and
//! `v1-trimmed-story` (that log after a store removed its old segments); `v1-trimmed` dates from before snapshots included the
//! history of half messages. See FORMATS.md for when they may change.

use std::path::Path;
use std::sync::Arc;

use kerolox_log::fs::OsFolder;
use kerolox_store::kv::MemKv;

#[path = "../tests/support/contents.rs"]
mod contents;
#[path = "../tests/support/scenario.rs"]
mod scenario;

fn main() {
    let path = std::env::args().nth(1).expect("usage: fixture FOLDER");
    let (whole, trimmed) = (Path::new(&path).join("v1"), Path::new(&path).join("v1-trimmed-story"));
    let folder = Arc::new(OsFolder::create(&whole.join("log")).expect("a new folder"));
    scenario::write(folder);
    describe(&whole);

    contents::copy(&whole.join("log"), &trimmed.join("log"));
    let folder = Arc::new(OsFolder::create(&trimmed.join("log")).expect("the copy"));
    let store = contents::open(folder, Arc::new(MemKv::default()));
    scenario::trim(&store);
    store.close();
    describe(&trimmed);
}

fn describe(fixture: &Path) {
    let copy = tempfile::tempdir().expect("a folder");
    contents::copy(&fixture.join("log"), copy.path());
    let folder = Arc::new(OsFolder::create(copy.path()).expect("the copy"));
    let store = contents::open(folder.clone(), Arc::new(MemKv::default()));
    std::fs::write(fixture.join("contents.txt"), contents::describe(&store, &*folder)).expect("written");
}
