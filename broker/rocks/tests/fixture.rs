//! The golden fixtures on RocksDB: a log and an index of its version, opened together and the log alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kerolox_log::fs::OsFolder;
use kerolox_rocks::RocksKv;
use kerolox_store::state::StateMachine;

#[path = "../../store/tests/support/contents.rs"]
mod contents;

fn fixtures() -> PathBuf {
    PathBuf::from("../store/fixtures/v1")
}

/// The content of a store on a copy of the fixture's log, with the index in `index`.
fn show(data: &Path, index: &Path) -> String {
    contents::copy(&fixtures().join("log"), &data.join("log"));
    let folder = Arc::new(OsFolder::create(&data.join("log")).expect("the copy"));
    let store = contents::open(folder.clone(), Arc::new(RocksKv::open(index).expect("opens")));
    contents::describe(&store, &*folder)
}

fn expected() -> String {
    std::fs::read_to_string(fixtures().join("contents.txt")).expect("the fixture is checked in")
}

#[test]
fn without_an_index_it_is_made_from_the_log() {
    let data = tempfile::tempdir().expect("a folder");
    let index = data.path().join("index");
    assert_eq!(show(data.path(), &index), expected());
    assert_eq!(show(data.path(), &index), expected(), "the second time it is there");
}

/// When the index gets another version, this one is thrown away and made anew: then the first check is dropped, and the
/// second stays.
#[test]
fn an_index_of_version_3_is_taken_up() {
    let data = tempfile::tempdir().expect("a folder");
    let index = data.path().join("index");
    contents::copy(Path::new("fixtures/index-v3"), &index);
    {
        let kv = Arc::new(RocksKv::open(&index).expect("opens"));
        let loaded = StateMachine::load(kv).expect("loads");
        assert_eq!((loaded.broker(), loaded.transactions.open_total()), ("broker-a", 3));
        assert!(loaded.applied() > 3000, "it holds the whole log: {}", loaded.applied());
    }
    assert_eq!(show(data.path(), &index), expected());
}
