//! An index with damaged files: it reports the damage, or its content is sound; it never ends the process.

use std::fs;
use std::path::Path;

use kerolox_rocks::RocksKv;
use kerolox_store::kv::{KeyFamily, KeyValue, Kv, KvError, WriteOp};

/// Damaged places of each file, one after the other.
const PLACES: usize = 5;
/// Number of times that the index was made durable.
const PERSISTED: u32 = 4;

fn put(round: u32) -> Vec<WriteOp> {
    let pair = |number: u32| (number.to_be_bytes().to_vec(), round.to_be_bytes().to_vec());
    [KeyFamily::State, KeyFamily::Entries, KeyFamily::Dedup]
        .iter()
        .flat_map(|family| (0..50).map(pair).map(|(key, value)| WriteOp::Put(*family, key, value)))
        .collect()
}

fn make(path: &Path) {
    let kv = RocksKv::open(path).expect("opens");
    for round in 1..=PERSISTED {
        kv.write(put(round)).expect("writes");
        kv.persist().expect("persists");
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("created");
    for file in fs::read_dir(from).expect("listed") {
        let file = file.expect("listed");
        fs::copy(file.path(), to.join(file.file_name())).expect("copied");
    }
}

fn read(path: &Path) -> Result<Vec<KeyValue>, KvError> {
    let kv = RocksKv::open(path)?;
    let mut found = Vec::new();
    for family in [KeyFamily::State, KeyFamily::Entries, KeyFamily::Dedup] {
        found.extend(kv.scan(family, b"", 1000)?);
    }
    Ok(found)
}

/// Empty, or the complete writes of one round.
fn is_sound(found: &[KeyValue]) -> bool {
    let round = found.first().map(|(_, value)| value.clone());
    found.is_empty() || (found.len() == 150 && found.iter().all(|(_, value)| Some(value) == round.as_ref()))
}

#[test]
fn damaged_files_are_noticed_or_do_not_matter() {
    // In memory: the test does not concern the disk.
    let folder = tempfile::tempdir_in("/dev/shm").expect("a folder");
    let whole = folder.path().join("whole");
    make(&whole);
    let (mut noticed, mut harmless) = (0, 0);
    let mut check = |damage: &dyn Fn(&Path), what: &str| {
        let path = folder.path().join("damaged");
        copy(&whole, &path);
        damage(&path);
        match read(&path) {
            Err(KvError::Damaged(reason)) => {
                assert!(!reason.contains(path.to_str().expect("UTF-8")), "{what}: {reason}");
                noticed += 1;
            }
            Err(KvError::Failed(reason)) => panic!("{what}: {reason} is taken for something that passes"),
            Ok(found) => {
                assert!(is_sound(&found), "{what}: {} pairs", found.len());
                harmless += 1;
            }
        }
        kerolox_rocks::remove(&path).expect("removed");
    };
    for file in fs::read_dir(&whole).expect("listed") {
        let name = file.expect("listed").file_name().into_string().expect("UTF-8");
        let length = fs::metadata(whole.join(&name)).expect("there").len() as usize;
        check(&|path| fs::remove_file(path.join(&name)).expect("removed"), &format!("{name} is gone"));
        check(&|path| fs::write(path.join(&name), b"").expect("written"), &format!("{name} is empty"));
        for place in (0..length).step_by((length / PLACES).max(1)) {
            let bytes = fs::read(whole.join(&name)).expect("read");
            let flip = |path: &Path| {
                let mut bytes = bytes.clone();
                bytes[place] ^= 0x08;
                fs::write(path.join(&name), bytes).expect("written");
            };
            check(&flip, &format!("byte {place} of {name} is another one"));
            let cut = |path: &Path| fs::write(path.join(&name), &bytes[..place]).expect("written");
            check(&cut, &format!("{name} is cut at {place}"));
        }
    }
    assert!(noticed > harmless / 10, "{noticed} noticed, {harmless} harmless");
    let path = folder.path().join("damaged");
    assert_eq!(read(&path), Ok(Vec::new()), "a new one takes its place");
}

#[test]
fn no_room_and_no_descriptors_are_no_damage() {
    let folder = tempfile::tempdir().expect("a folder");
    let kv = RocksKv::open(folder.path()).expect("opens");
    let second = RocksKv::open(folder.path()).err().expect("it is in use");
    assert!(matches!(second, KvError::Failed(_)), "{second}");
    kv.close();
    assert_eq!(kv.get(KeyFamily::State, b"k"), Err(KvError::Failed("it is closed".to_owned())));
}
