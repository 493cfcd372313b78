//! A process without free descriptors: the index has spare ones.

use std::fs::File;

use kerolox_rocks::RocksKv;
use kerolox_store::kv::{KeyFamily, Kv, WriteOp};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

fn put(number: u32, bytes: usize) -> Vec<WriteOp> {
    vec![WriteOp::Put(KeyFamily::State, number.to_be_bytes().to_vec(), vec![7; bytes])]
}

/// Opens files until no descriptor is left.
fn use_up_descriptors() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

#[test]
fn an_index_is_written_when_connections_have_used_up_all_other_descriptors() {
    let folder = tempfile::tempdir().expect("a folder");
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(500), ..limit }).expect("lowered");
    let kv = RocksKv::open(&folder.path().join("index")).expect("opens");
    kv.write(put(0, 1000)).expect("writes");
    kv.persist().expect("persists");
    let taken = use_up_descriptors();
    // More than fits into memory, so that it has to be written to files.
    for number in 1..80 {
        kv.write(put(number, 1 << 20)).expect("writes");
    }
    kv.persist().expect("persists");
    drop(taken);
    kv.write(put(80, 10)).and_then(|()| kv.persist()).expect("goes on");
    drop(kv);
    let kv = RocksKv::open(&folder.path().join("index")).expect("opens");
    for number in 0..=80_u32 {
        assert!(kv.get(KeyFamily::State, &number.to_be_bytes()).expect("reads").is_some(), "{number}");
    }
}
