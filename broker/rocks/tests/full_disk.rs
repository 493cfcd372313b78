//! A temporarily full disk: the index reports it, and neither crashes nor stays broken. Mounts a small file system, so it needs to be
//! root.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use kerolox_rocks::RocksKv;
use kerolox_store::kv::{KeyFamily, Kv, WriteOp};

/// Maximum time until the index can be written again, once there is space.
const PATIENCE: Duration = Duration::from_secs(30);

/// A file system of 512 MiB.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Self {
        let mount =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=512m", "small-disk"]).arg(at).status();
        assert!(mount.expect("mount runs").success(), "mounting needs root");
        Self(at.to_owned())
    }

    /// Uses up the remaining space.
    fn fill(&self) {
        let mut file = File::create(self.0.join("filler")).expect("created");
        for size in [1 << 20, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        fs::remove_file(self.0.join("filler")).expect("removed");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn put(number: u32) -> Vec<WriteOp> {
    vec![WriteOp::Put(KeyFamily::State, number.to_be_bytes().to_vec(), vec![7; 1000])]
}

#[test]
fn an_index_outlives_a_disk_that_was_full() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = SmallDisk::mount(folder.path());
    let path = folder.path().join("index");
    let kv = RocksKv::open(&path).expect("opens");
    kv.write(put(0)).expect("writes");
    kv.persist().expect("persists");
    disk.fill();
    kv.write(put(1)).expect("it is in memory");
    assert!(kv.persist().is_err(), "there is no room");
    // Longer than RocksDB's interval for statistics, if it collected them.
    std::thread::sleep(Duration::from_secs(3));
    disk.make_room();
    let since = Instant::now();
    while let Err(error) = kv.write(put(2)).and_then(|()| kv.persist()) {
        assert!(since.elapsed() < PATIENCE, "there is room, and still: {error}");
        std::thread::sleep(Duration::from_millis(200));
    }
    // The disk is full again, and the index closed.
    disk.fill();
    kv.write(put(3)).expect("it is in memory");
    drop(kv);
    // Opening it again needs space: that is an error, not the end of the process.
    let full = RocksKv::open(&path);
    drop(full);
    disk.make_room();
    let kv = RocksKv::open(&path).expect("opens");
    for number in 0..=2_u32 {
        assert!(kv.get(KeyFamily::State, &number.to_be_bytes()).expect("reads").is_some(), "{number}");
    }
}

#[test]
fn no_log_of_rocksdb_lies_beside_the_index() {
    let folder = tempfile::tempdir().expect("a folder");
    let kv = RocksKv::open(folder.path()).expect("opens");
    kv.write(put(1)).expect("writes");
    kv.persist().expect("persists");
    drop(kv);
    drop(RocksKv::open_read_only(folder.path()).expect("opens"));
    let names =
        fs::read_dir(folder.path()).expect("listed").map(|entry| entry.expect("an entry").file_name());
    let logs: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with("LOG")).collect();
    assert!(logs.is_empty(), "{logs:?}");
}
