//! A start reads the bytes written behind the checkpoint, not the space reserved behind them.

mod support;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use kerolox_log::fs::{File, Folder, MemFolder, OsFolder};
use kerolox_log::{FrameSalt, Log, LogOptions, NewFrame, RecoveredLog};
use support::{Content, append, frames, name, record};

/// As in production: 1 GiB of reserved space, of which only a little is written.
const BIG: LogOptions = LogOptions::new(FrameSalt::new(7));
/// Smaller sizes, for memory.
const SMALLER: LogOptions = LogOptions { segment_bytes: 16 << 20, ..BIG };
/// Bytes that a start may read beyond the minimum: headers, some pages, and the system's read-ahead.
const LITTLE: u64 = 256 << 10;

/// A folder that counts the bytes read.
struct Counting<F> {
    folder: F,
    read: Arc<AtomicU64>,
}

struct CountingFile {
    file: Arc<dyn File>,
    read: Arc<AtomicU64>,
}

impl<F> Counting<F> {
    fn wrap(&self, file: Arc<dyn File>) -> Arc<dyn File> {
        Arc::new(CountingFile { file, read: self.read.clone() })
    }
}

impl<F: Folder> Folder for Counting<F> {
    fn list(&self) -> io::Result<Vec<String>> {
        self.folder.list()
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.folder.open(name).map(|file| self.wrap(file))
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.folder.create(name).map(|file| self.wrap(file))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.folder.remove(name)
    }
    fn sync(&self) -> io::Result<()> {
        self.folder.sync()
    }
}

impl File for CountingFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let n = self.file.read_at(buf, offset)?;
        self.read.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(bytes, offset)
    }
    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
    fn allocate(&self, len: u64) -> io::Result<()> {
        self.file.allocate(len)
    }
    fn read_ahead(&self, on: bool) {
        self.file.read_ahead(on);
    }
    fn data_in(&self, range: Range<u64>) -> io::Result<Vec<Range<u64>>> {
        self.file.data_in(range)
    }
}

/// Opens the log, and returns how many bytes that read.
fn open(folder: &(impl Folder + Clone + 'static), options: LogOptions) -> (Log, RecoveredLog, u64) {
    let read = Arc::new(AtomicU64::new(0));
    let counting = Counting { folder: folder.clone(), read: read.clone() };
    let (log, recovered) = Log::open(Arc::new(counting), options).expect("the log opens");
    (log, recovered, read.load(Ordering::Relaxed))
}

/// A new log, one that was closed, and one whose process was killed.
fn starts_read_little(folder: &(impl Folder + Clone + 'static), options: LogOptions) {
    let (mut log, _, read) = open(folder, options);
    assert!(read < LITTLE, "a new log: {read} bytes");
    append(&mut log, 0);
    log.close().expect("closed");

    let (mut log, recovered, read) = open(folder, options);
    assert_eq!((recovered.scanned_bytes, recovered.cut_bytes), (0, 0));
    assert!(read < LITTLE, "a log that was closed: {read} bytes");
    let records: Vec<NewFrame> = (1..5000).map(record).collect();
    let from = log.end();
    log.append(&records, 1, 5).expect("appended");
    log.sync().expect("synced");
    let written = log.end() - from;
    drop(log);

    // Repeatedly: bytes that one start reads are not more to read for the next one.
    for kill in 0..20 {
        let (log, recovered, read) = open(folder, options);
        let left = if kill == 0 { written } else { 0 };
        assert_eq!((recovered.scanned_bytes, recovered.cut_bytes), (left, 0));
        // Once to find the end, and once to write it again.
        assert!(read < 2 * left + 2 * LITTLE, "kill {kill}: {read} bytes for {left}");
        assert_eq!(frames(&log).len(), 5000);
    }
}

#[test]
fn a_start_reads_what_was_written_and_not_the_reserved_room() {
    starts_read_little(&MemFolder::new(), SMALLER);
    let path = tempfile::tempdir().expect("a folder");
    starts_read_little(&OsFolder::create(path.path()).expect("created"), BIG);
}

#[test]
fn what_lies_far_behind_the_end_is_found_without_reading_what_is_between() {
    let path = tempfile::tempdir().expect("a folder");
    let folder = OsFolder::create(path.path()).expect("created");
    let (mut log, ..) = open(&folder, BIG);
    let (first, len) = append(&mut log, 1);
    log.sync().expect("synced");
    let end = log.end();
    drop(log);

    // Part of a torn write: it is cut off, and the space is reserved again.
    let file = folder.open(&name(0)).expect("there");
    file.write_at(&[7; 5000], 700 << 20).expect("written");
    let (mut log, recovered, read) = open(&folder, BIG);
    assert_eq!((recovered.end, recovered.cut_bytes), (end, (700 << 20) + 5000 - end));
    let copied = 16 << 20;
    assert!(read < copied + (4 << 20), "beside the copy of the cut bytes, some chunks: {read} bytes");
    assert!(file.len().expect("measured") < 64 << 20, "and no more is reserved than a step");

    // A record that reached the disk without those before it.
    let far = NewFrame { kind: 1, body: vec![0; 600 << 10].into() };
    let before = NewFrame { kind: 1, body: vec![1; 15 << 20].into() };
    let places = log.append(&[before, far], 1, 5).expect("appended");
    log.sync().expect("synced");
    drop(log);
    file.write_at(&vec![0; 15 << 20], places[0].0).expect("damaged");
    let (log, recovered, _) = open(&folder, BIG);
    let ranges: Vec<_> = recovered.damaged.iter().map(|range| (range.position, range.until)).collect();
    assert_eq!((ranges, recovered.cut_bytes), (vec![(places[0].0, places[1].0)], 0));
    assert_eq!(Content::of(&log.reader()).positions(), [first, places[1].0]);
    assert_eq!(log.reader().read(first, len).expect("read").body, record(1).body);
}
