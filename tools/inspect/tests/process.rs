//! `kerolox-inspect` as a process, on the golden fixture and on damaged copies of it.
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{DiscardRecord, Record};
use kerolox_log::fs::OsFolder;
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_rocks::RocksKv;
use kerolox_store::kv::{KeyFamily, Kv, WriteOp};
use kerolox_store::{Store, StoreOptions};
use serde_json::Value;
use tempfile::TempDir;

fn inspect(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_kerolox-inspect")).args(arguments).env("TZ", "UTC").output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A data folder with the log of the golden fixture and the index that a broker makes of it.
fn data_folder() -> TempDir {
    let data = tempfile::tempdir().unwrap();
    let fixture = Path::new("../../broker/store/fixtures/v1/log");
    fs::create_dir(data.path().join("log")).unwrap();
    for file in fs::read_dir(fixture).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), data.path().join("log").join(file.file_name())).unwrap();
    }
    open_store(data.path()).close();
    data
}

fn open_store(data: &Path) -> Store {
    let folder = OsFolder::create(&data.join("log")).unwrap();
    let kv = RocksKv::open(&data.join("index")).unwrap();
    let options = StoreOptions {
        broker: "broker-a".to_owned(),
        log: LogOptions { segment_bytes: 768, ..LogOptions::new(FrameSalt::new(7)) },
        waiting_bytes_max: 1 << 20,
        flush_interval: std::time::Duration::from_millis(5),
        tail_bytes: 0,
    };
    Store::open(options, Arc::new(folder), Arc::new(kv), || 0, |_| ()).unwrap()
}

fn verify(data: &Path, more: &[&str]) -> (Option<i32>, Value) {
    let arguments = ["verify", data.to_str().unwrap(), "--output", "json"];
    let output = inspect(&[&arguments[..], more].concat());
    let report =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    (output.status.code(), report)
}

fn segments(data: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(data.join("log")).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    files.sort();
    files
}

fn change(file: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    edit(&mut bytes);
    fs::write(file, bytes).unwrap();
}

/// Contents and times of change of all files below a folder.
fn contents(path: &Path) -> BTreeMap<PathBuf, (Vec<u8>, std::time::SystemTime)> {
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(contents(&path));
        } else {
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            files.insert(path.clone(), (fs::read(path).unwrap(), modified));
        }
    }
    files
}

#[test]
fn a_clean_folder_is_clean_and_stays_as_it_is() {
    let data = data_folder();
    fs::write(data.path().join("lock"), b"").unwrap();
    let before = contents(data.path());
    let (code, report) = verify(data.path(), &["--progress"]);
    assert_eq!((code, &report["clean"]), (Some(0), &Value::Bool(true)), "{report:#}");
    assert!(report["index"].as_str().unwrap().contains("0 differ"), "{report:#}");
    for command in ["dump", "stats"] {
        assert_eq!(inspect(&[command, data.path().to_str().unwrap()]).status.code(), Some(0));
    }
    assert_eq!(contents(data.path()), before);
}

#[test]
fn damage_is_reported_with_its_place_and_length() {
    let data = data_folder();
    let file = segments(data.path()).swap_remove(1);
    // Inside the second frame of the segment, whose first is 120 bytes long.
    change(&file, |bytes| bytes[64 + 120 + 50] ^= 1);
    let (code, report) = verify(data.path(), &[]);
    assert_eq!(code, Some(1));
    let base = report["start"].as_u64().unwrap() + fs::metadata(&segments(data.path())[0]).unwrap().len();
    let damage = &report["damage"][0];
    assert_eq!(damage["place"], file.file_name().unwrap().to_str().unwrap());
    assert_eq!((damage["from"].as_u64(), damage["until"].as_u64()), (Some(base + 184), Some(base + 304)));
    assert_eq!(report["problems"], 1, "{report:#}");
    // A message was there, in the only queue of its topic.
    let again = report["ifMadeAgain"].as_array().unwrap();
    assert!(again.iter().any(|line| line.as_str().unwrap().contains("topic plain, queue 0")), "{report:#}");
    let table = inspect(&["verify", data.path().to_str().unwrap()]);
    assert!(text(&table.stdout).contains("checksum does not match"), "{}", text(&table.stdout));
}

#[test]
fn a_missing_segment_is_damage() {
    let data = data_folder();
    fs::remove_file(&segments(data.path())[2]).unwrap();
    let (code, report) = verify(data.path(), &[]);
    assert_eq!((code, &report["problems"]), (Some(1), &Value::from(1)), "{report:#}");
    assert!(report["damage"][0]["reason"].as_str().unwrap().contains("missing"), "{report:#}");
}

#[test]
fn a_torn_tail_is_told_but_is_no_damage() {
    let data = data_folder();
    let (_, clean) = verify(data.path(), &[]);
    let end = clean["end"].as_u64().unwrap();
    let last = segments(data.path()).pop().unwrap();
    let base: u64 = last.file_stem().unwrap().to_str().unwrap().parse().unwrap();
    let at = usize::try_from(end - base).unwrap();
    change(&last, |bytes| bytes[at..at + 6].copy_from_slice(b"\x40\0\0\0ab"));
    let (code, report) = verify(data.path(), &[]);
    assert_eq!((code, &report["tornBytes"], &report["end"]), (Some(0), &6.into(), &end.into()), "{report:#}");
}

#[test]
fn an_index_that_does_not_follow_from_the_log_is_found() {
    let data = data_folder();
    {
        let kv = RocksKv::open(&data.path().join("index")).unwrap();
        let (key, _) = kv.scan(KeyFamily::Queues, b"", 1).unwrap().remove(0);
        kv.write(vec![WriteOp::Put(KeyFamily::Queues, key, vec![0; 24])]).unwrap();
    }
    let (code, report) = verify(data.path(), &[]);
    assert_eq!(code, Some(1));
    assert_eq!(report["damage"][0]["place"], "index");
    assert!(report["damage"][0]["reason"].as_str().unwrap().contains("queues"), "{report:#}");
}

/// The log does not begin at 0 any more: the index is held against what follows from the first snapshot.
#[test]
fn an_index_of_a_trimmed_log_is_compared_as_well() {
    let data = data_folder();
    let store = open_store(data.path());
    for i in 0..40 {
        let record =
            Record::Discard(DiscardRecord { held: i, by: "no-one".repeat(10), ..DiscardRecord::default() });
        let (done, answer) = std::sync::mpsc::channel();
        store.propose(&record, FlushRequirement::Sync, Box::new(move |applied| done.send(applied).unwrap()));
        answer.recv().unwrap().unwrap();
    }
    let point = store.trim_points().nth(1).unwrap().unwrap();
    store.trim(&point).unwrap();
    drop(store);
    let (code, report) = verify(data.path(), &[]);
    assert_eq!((code, &report["clean"]), (Some(0), &Value::Bool(true)), "{report:#}");
    assert!(report["start"].as_u64().unwrap() > 0);
    assert!(report["index"].as_str().unwrap().contains("0 differ"), "{report:#}");
    {
        let kv = RocksKv::open(&data.path().join("index")).unwrap();
        let (key, _) = kv.scan(KeyFamily::Queues, b"", 1).unwrap().remove(0);
        kv.write(vec![WriteOp::Put(KeyFamily::Queues, key, vec![0; 24])]).unwrap();
    }
    let (code, report) = verify(data.path(), &[]);
    assert_eq!((code, &report["damage"][0]["place"]), (Some(1), &"index".into()), "{report:#}");
}

#[test]
fn an_index_that_cannot_be_opened_is_found_and_a_missing_one_is_fine() {
    let data = data_folder();
    change(&data.path().join("index/CURRENT"), |bytes| *bytes = b"nonsense".to_vec());
    assert_eq!(verify(data.path(), &[]).0, Some(1));
    fs::remove_dir_all(data.path().join("index")).unwrap();
    assert_eq!(verify(data.path(), &[]).0, Some(0));
}

#[test]
fn a_folder_in_use_is_refused_unless_it_is_read_online() {
    let data = data_folder();
    let lock = fs::File::create(data.path().join("lock")).unwrap();
    lock.lock().unwrap();
    let path = data.path().to_str().unwrap();
    let refused = inspect(&["verify", path]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("--online"), "{}", text(&refused.stderr));
    let (code, report) = verify(data.path(), &["--online"]);
    assert_eq!(code, Some(0), "{report:#}");
    assert!(report["index"].as_str().unwrap().contains("not compared"), "{report:#}");
}

#[test]
fn what_is_no_data_folder_is_not_found() {
    let empty = tempfile::tempdir().unwrap();
    for command in ["verify", "dump", "stats"] {
        let output = inspect(&[command, empty.path().to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(4), "{command}");
        assert!(text(&output.stderr).contains("--data"), "{}", text(&output.stderr));
    }
    assert_eq!(fs::read_dir(empty.path()).unwrap().count(), 0);
}

fn dump(data: &Path, more: &[&str]) -> Vec<Value> {
    let arguments = ["dump", data.to_str().unwrap(), "--output", "json"];
    let output = inspect(&[&arguments[..], more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn records_are_dumped_in_plain_words() {
    let data = data_folder();
    let all = dump(data.path(), &[]);
    assert_eq!(all.len() as u64, verify(data.path(), &[]).1["records"].as_u64().unwrap());
    let positions: Vec<u64> = all.iter().map(|record| record["position"].as_u64().unwrap()).collect();
    assert!(positions.is_sorted());
    assert_eq!((&all[0]["kind"], &all[0]["record"]["broker"]), (&"epoch".into(), &"broker-a".into()));
    let message = &dump(data.path(), &["--kind", "message", "--limit", "1", "--body=hex"])[0];
    let fields = &message["record"];
    assert_eq!(
        (&fields["topic"], &fields["id"], &fields["tag"]),
        (&"plain".into(), &"P0".into(), &"paid".into())
    );
    assert_eq!(fields["body"], "626f6479206f66205030");
    let (from, to) = (positions[5].to_string(), positions[9].to_string());
    assert_eq!(dump(data.path(), &["--from", &from, "--to", &to]), all[5..9]);
    let between = (positions[5] - 1).to_string();
    assert_eq!(dump(data.path(), &["--from", &between, "--limit", "2"]), all[5..7]);
    let table = text(&inspect(&["dump", data.path().to_str().unwrap(), "--body"]).stdout);
    assert_eq!(table.lines().count(), all.len() + 1);
    assert!(table.contains("2023-11-14") && table.contains("body=\"body of P0\""), "{table}");
}

#[test]
fn a_dump_goes_on_behind_damage() {
    let data = data_folder();
    let all = dump(data.path(), &[]);
    change(&segments(data.path())[1], |bytes| bytes[64 + 120 + 50] ^= 1);
    let output = inspect(&["dump", data.path().to_str().unwrap(), "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stdout).lines().count(), all.len() - 1);
    assert!(text(&output.stderr).contains("damaged from"), "{}", text(&output.stderr));
}

#[test]
fn stats_count_kinds_topics_and_transactions() {
    let data = data_folder();
    let output = inspect(&["stats", data.path().to_str().unwrap(), "--output", "json"]);
    let stats: Value = serde_json::from_slice(&output.stdout).unwrap();
    let all = dump(data.path(), &[]);
    let of_kind = |kind: &str| all.iter().filter(|record| record["kind"] == kind).count();
    for kind in ["message", "release", "discard", "progress", "meta", "epoch"] {
        assert_eq!(stats["kinds"][kind]["records"], of_kind(kind), "{kind}");
    }
    let topics = stats["topics"].as_array().unwrap();
    let orders = topics.iter().find(|topic| topic["topic"] == "orders").unwrap();
    assert_eq!(
        (&orders["records"], &orders["visible"], &orders["undecided"]),
        (&6.into(), &2.into(), &3.into())
    );
    assert_eq!((&stats["broker"], &stats["undecided"]), (&"broker-a".into(), &3.into()));
    assert!(stats["indexBytes"].as_u64().unwrap() > 0);
}
