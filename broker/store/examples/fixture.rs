//! Writes the golden fixture of the log format: `cargo run --release -p kerolox-store --example fixture -- FOLDER`.
//! The result is checked in as `broker/store/fixtures/v1`; see FORMATS.md for when it may change.

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
    let path = Path::new(&path);
    let folder = Arc::new(OsFolder::create(&path.join("log")).expect("a new folder"));
    scenario::write(folder);

    let copy = tempfile::tempdir().expect("a folder");
    contents::copy(&path.join("log"), copy.path());
    let folder = Arc::new(OsFolder::create(copy.path()).expect("the copy"));
    let store = contents::open(folder.clone(), Arc::new(MemKv::default()));
    std::fs::write(path.join("contents.txt"), contents::describe(&store, &*folder)).expect("written");
}
