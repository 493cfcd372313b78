//! The index on RocksDB. The only crate that links RocksDB, so that everything else builds and tests without it.
//!
//! The write-ahead log of RocksDB is off: the commit log is the truth, and entries that a crash takes from the index
//! are applied again. The rest must be a prefix of the written batches, with all families at one point; atomic flushes
//! over all column families ensure that.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};

use kerolox_store::kv::{KeyFamily, KeyValue, Kv, KvError, WriteOp};
use rocksdb::{
    BlockBasedOptions, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompactionStyle, Direction, ErrorKind,
    IteratorMode, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};
use tempfile::TempDir;

/// Bytes of changes that RocksDB keeps in memory before it writes them to a file. It bounds the records to apply again
/// after a crash: index entries are much smaller than their records.
const WRITE_BUFFER_BYTES: usize = 16 << 20;

/// Files of one size that are compacted together; more of them slow reads, fewer of them increase writes.
const FILES_TO_COMPACT: i32 = 8;

/// Bits of a Bloom filter for each key: one in a hundred look-ups of an absent key reads a file.
const BLOOM_BITS: f64 = 10.0;

/// The in-memory file system that every Linux has.
const MEMORY: &str = "/dev/shm";

/// Error texts of the system for missing files and unreadable places. Other file errors, such as a full disk and too many open files,
/// pass with their cause.
const DAMAGED_FILES: [&str; 3] = ["No such file or directory", "Not a directory", "Input/output error"];

/// Spare descriptors for files of the index: a RocksDB that cannot open a file for its data in memory writes nothing until it is
/// opened again. Files that it reads are open already: a look-up needs no descriptor.
const SPARE_FILES: usize = 64;

/// The file that the spare descriptors are open on.
const NOTHING: &str = "/dev/null";

/// An index store in a folder.
pub struct RocksKv {
    /// The database; none after it was closed.
    db: RwLock<Option<DB>>,
    path: PathBuf,
    /// See [`SPARE_FILES`].
    spare: Mutex<Vec<File>>,
}

impl RocksKv {
    /// Opens the store at `path`, or creates it.
    ///
    /// # Errors
    /// [`KvError`] with RocksDB's own text: [`KvError::Damaged`] when only [`remove`] helps, [`KvError::Failed`] for instance when another
    /// process has the store open.
    pub fn open(path: &Path) -> Result<Self, KvError> {
        if path.exists() && !path.is_dir() {
            return Err(KvError::Damaged("there is no folder, but a file in its place".to_owned()));
        }
        if is_blank(path) {
            begin(path)?;
        }
        let db = RwLock::new(Some(open_or_create(path)?));
        let kv = Self { db, path: path.to_owned(), spare: Mutex::default() };
        kv.keep_descriptors();
        Ok(kv)
    }

    /// Opens the store at `path` to read it, without changing a file. Writes are refused.
    ///
    /// # Errors
    /// [`KvError`] when there is no store, or one that lacks a family that this version knows.
    pub fn open_read_only(path: &Path) -> Result<Self, KvError> {
        let mut options = Options::default();
        let _log = quiet(&mut options)?;
        // Opening would create the folder.
        if !path.join("CURRENT").exists() {
            return Err(KvError::Failed(format!("{} holds no index", path.display())));
        }
        let failed = |error| failed(path, &error);
        let found = DB::list_cf(&options, path).map_err(failed)?;
        if let Some(family) =
            KeyFamily::ALL.iter().find(|family| !found.iter().any(|name| name == family.name()))
        {
            return Err(KvError::Failed(format!("{} has no family {:?}", path.display(), family.name())));
        }
        let families =
            KeyFamily::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), Options::default()));
        let db = DB::open_cf_descriptors_read_only(&options, path, families, false).map_err(failed)?;
        Ok(Self { db: RwLock::new(Some(db)), path: path.to_owned(), spare: Mutex::default() })
    }

    /// Releases all spare descriptors when few others are left: RocksDB may need them for the next write, on threads of its own.
    /// They are taken back when many are free.
    fn keep_descriptors(&self) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() == SPARE_FILES {
            if File::open(NOTHING).is_err() {
                spare.clear();
            }
        } else if free_descriptors().is_some_and(|free| free > 4 * SPARE_FILES) {
            spare.extend(std::iter::repeat_with(|| File::open(NOTHING).ok()).take(SPARE_FILES).flatten());
            spare.truncate(SPARE_FILES);
        }
    }

    /// Closes the files after running calls have ended; later calls fail. Blocks.
    pub fn close(&self) {
        drop(self.db.write().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn with<T>(&self, work: impl FnOnce(&DB) -> Result<T, rocksdb::Error>) -> Result<T, KvError> {
        let db = self.db.read().unwrap_or_else(PoisonError::into_inner);
        let db = db.as_ref().ok_or_else(|| KvError::Failed("it is closed".to_owned()))?;
        work(db).map_err(|error| failed(&self.path, &error))
    }

    fn file_failed(&self, error: &std::io::Error) -> KvError {
        KvError::Failed(format!("the copy that makes it durable: {error}"))
    }
}

/// Removes a store that no process has open, so that opening it creates an empty one.
///
/// # Errors
/// [`KvError::Failed`] when a file cannot be removed.
pub fn remove(path: &Path) -> Result<(), KvError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => std::fs::remove_file(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
    .map_err(|error| KvError::Failed(format!("removing the index failed: {error}")))
}

fn family_of(db: &DB, family: KeyFamily) -> &ColumnFamily {
    db.cf_handle(family.name()).expect("every family is opened with the store")
}

/// Threads for opening files. RocksDB starts that many for each family, even without files to open: for a few files that takes
/// longer than it saves.
fn opening_threads(path: &Path) -> i32 {
    const MANY_FILES: usize = 256;
    let files = std::fs::read_dir(path).map_or(0, Iterator::count);
    if files < MANY_FILES { 1 } else { 16 }
}

/// Number of files that the process may still open, if the system reports it.
fn free_descriptors() -> Option<usize> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let limit = limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
    Some(limit.saturating_sub(std::fs::read_dir("/proc/self/fd").ok()?.count()))
}

fn open_or_create(path: &Path) -> Result<DB, KvError> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_atomic_flush(true);
    options.set_max_background_jobs(2);
    options.set_max_file_opening_threads(opening_threads(path));
    let _log = quiet(&mut options)?;
    let families =
        KeyFamily::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(family)));
    DB::open_cf_descriptors(&options, path, families).map_err(|error| failed(path, &error))
}

fn is_blank(path: &Path) -> bool {
    match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_none(),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Creates an index. RocksDB creates column families one by one and syncs several files for each; creating them in memory and
/// copying the relevant files to their place takes a tenth of the time.
fn begin(path: &Path) -> Result<(), KvError> {
    let folder_failed = |error: std::io::Error| KvError::Failed(format!("beginning it: {error}"));
    let made = in_memory()?;
    drop(open_or_create(made.path())?);
    let begun = path.with_extension("new");
    copy_index(made.path(), &begun).map_err(folder_failed)?;
    std::fs::rename(&begun, path).map_err(folder_failed)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent).and_then(|parent| parent.sync_all()).map_err(folder_failed)
}

/// Copies the files of an empty index, durably.
fn copy_index(from: &Path, to: &Path) -> std::io::Result<()> {
    if to.exists() {
        std::fs::remove_dir_all(to)?;
    }
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        // The other files are created anew at each start.
        if ["CURRENT", "MANIFEST"].iter().any(|counts| name.to_string_lossy().starts_with(counts)) {
            std::fs::copy(entry.path(), to.join(&name))?;
            File::open(to.join(&name))?.sync_all()?;
        }
    }
    File::open(to)?.sync_all()
}

/// A folder in memory that exists as long as the returned handle.
fn in_memory() -> Result<TempDir, KvError> {
    let name = &mut tempfile::Builder::new();
    name.prefix("kerolox-index-");
    let folder = name.tempdir_in(MEMORY).or_else(|_| name.tempdir());
    folder.map_err(|error| KvError::Failed(format!("a folder in memory for the index: {error}")))
}

/// Puts RocksDB's unavoidable log file in memory while the store is opened; afterwards the file has no name any more. On a temporarily
/// full disk that log kills the process: a lost line leaves the file's writer in a state that an assertion of Debian's build forbids, at
/// the next line or when the store is closed. Errors are returned by the calls.
fn quiet(options: &mut Options) -> Result<TempDir, KvError> {
    let folder = in_memory()?;
    options.set_db_log_dir(folder.path());
    options.set_log_level(LogLevel::Header);
    // They would be written to it every 10 minutes.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    Ok(folder)
}

/// Families whose flushed keys cover their whole range are compacted when several files of one size exist: moving each
/// of them through all levels would rewrite everything much more often.
fn family_options(family: KeyFamily) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    if matches!(family, KeyFamily::Entries | KeyFamily::Lookups | KeyFamily::Dedup) {
        options.set_compaction_style(DBCompactionStyle::Universal);
        options.set_level_zero_file_num_compaction_trigger(FILES_TO_COMPACT);
    }
    // Nearly every look-up in this family is for an absent key.
    if family == KeyFamily::Dedup {
        let mut tables = BlockBasedOptions::default();
        tables.set_bloom_filter(BLOOM_BITS, false);
        options.set_block_based_table_factory(&tables);
    }
    options
}

impl Kv for RocksKv {
    fn get(&self, family: KeyFamily, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.with(|db| db.get_cf(family_of(db, family), key))
    }

    fn scan(&self, family: KeyFamily, from: &[u8], limit: usize) -> Result<Vec<KeyValue>, KvError> {
        self.with(|db| {
            let mode = IteratorMode::From(from, Direction::Forward);
            let pairs = db.iterator_cf_opt(family_of(db, family), ReadOptions::default(), mode);
            pairs
                .take(limit)
                .map(|pair| pair.map(|(key, value)| (key.into_vec(), value.into_vec())))
                .collect()
        })
    }

    fn scan_around(
        &self,
        family: KeyFamily,
        prefix: &[u8],
        at: &[u8],
        limit: usize,
    ) -> Result<Vec<KeyValue>, KvError> {
        self.with(|db| {
            let mut pairs = db.raw_iterator_cf(family_of(db, family));
            pairs.seek_for_prev(at);
            if !pairs.key().is_some_and(|key| key.starts_with(prefix)) {
                // No key is before it, or an entry cannot be read.
                pairs.status()?;
                pairs.seek(at);
            }
            let mut found = Vec::new();
            while found.len() < limit
                && let Some((key, value)) = pairs.item().filter(|(key, _)| key.starts_with(prefix))
            {
                found.push((key.to_vec(), value.to_vec()));
                pairs.next();
            }
            pairs.status()?;
            Ok(found)
        })
    }

    fn write(&self, ops: Vec<WriteOp>) -> Result<(), KvError> {
        self.keep_descriptors();
        self.with(|db| {
            let mut batch = WriteBatch::default();
            for op in ops {
                match op {
                    WriteOp::Put(family, key, value) => batch.put_cf(family_of(db, family), key, value),
                    WriteOp::Delete(family, key) => batch.delete_cf(family_of(db, family), key),
                    WriteOp::DeleteRange(family, from, to) => {
                        batch.delete_range_cf(family_of(db, family), from, to);
                    }
                    WriteOp::DeletePrefix(family, prefix) => delete_prefix(db, &mut batch, family, &prefix)?,
                }
            }
            let mut options = WriteOptions::default();
            options.disable_wal(true);
            db.write_opt(batch, &options)
        })
    }

    /// Making a checkpoint is the only way that this version of the bindings offers to flush all column families at one
    /// point; the checkpoint itself, a folder of links, is thrown away.
    fn persist(&self) -> Result<(), KvError> {
        let path = self.path.with_extension("flush");
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(|error| self.file_failed(&error))?;
        }
        self.with(|db| rocksdb::checkpoint::Checkpoint::new(db)?.create_checkpoint(&path))?;
        std::fs::remove_dir_all(&path).map_err(|error| self.file_failed(&error))
    }
}

fn delete_prefix(
    db: &DB,
    batch: &mut WriteBatch,
    family: KeyFamily,
    prefix: &[u8],
) -> Result<(), rocksdb::Error> {
    let cf = family_of(db, family);
    if let Some(end) = successor(prefix) {
        batch.delete_range_cf(cf, prefix, &end);
        return Ok(());
    }
    // No bound sorts behind every key with this prefix: remove up to the last key, and that one too.
    let last = db.iterator_cf(cf, IteratorMode::End).next().transpose()?;
    if let Some((last, _)) = last.filter(|(last, _)| last.starts_with(prefix)) {
        batch.delete_range_cf(cf, prefix, &last);
        batch.delete_cf(cf, last);
    }
    Ok(())
}

/// The smallest byte string that is greater than every key with `prefix`.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// RocksDB's error for the store at `path`, without the path.
fn failed(path: &Path, error: &rocksdb::Error) -> KvError {
    let text = error.as_ref().replace(&format!("{}/", path.display()), "");
    let text = text.replace(&path.display().to_string(), "the index folder");
    let is_damaged = match error.kind() {
        // The second kind: files of another version, with families that this one does not know.
        ErrorKind::Corruption | ErrorKind::InvalidArgument | ErrorKind::NotFound => true,
        ErrorKind::IOError => DAMAGED_FILES.iter().any(|said| text.contains(said)),
        _ => false,
    };
    if is_damaged { KvError::Damaged(text) } else { KvError::Failed(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_contract() {
        let folder = tempfile::tempdir().expect("a folder");
        kerolox_store::kv::check_contract(&RocksKv::open(folder.path()).expect("opens"));
    }

    /// A crash may have come in between, and the folder may exist already.
    #[test]
    fn an_index_is_begun_over_what_an_interrupted_start_left() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("index");
        std::fs::create_dir(&path).expect("created");
        std::fs::create_dir(folder.path().join("index.new")).expect("created");
        std::fs::write(folder.path().join("index.new").join("CURRENT"), "half of it").expect("written");
        let kv = RocksKv::open(&path).expect("opens");
        kv.write(vec![WriteOp::Put(KeyFamily::Audit, b"k".to_vec(), b"v".to_vec())]).expect("writes");
        drop(kv);
        let names = std::fs::read_dir(folder.path())
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name());
        assert_eq!(names.collect::<Vec<_>>(), ["index"]);
        let kv = RocksKv::open(&path).expect("opens again");
        assert_eq!(kv.get(KeyFamily::Audit, b"k").expect("reads").as_deref(), Some(&b"v"[..]));
    }

    #[test]
    fn what_was_persisted_survives_without_a_close() {
        let folder = tempfile::tempdir().expect("a folder");
        let kv = RocksKv::open(&folder.path().join("index")).expect("opens");
        kv.write(vec![WriteOp::Put(KeyFamily::State, b"k".to_vec(), b"v".to_vec())]).expect("writes");
        kv.persist().expect("persists");
        // A copy of the current files is what a crash would leave.
        let copy = folder.path().join("copy");
        std::fs::create_dir(&copy).expect("created");
        for file in std::fs::read_dir(folder.path().join("index")).expect("listed") {
            let file = file.expect("listed");
            std::fs::copy(file.path(), copy.join(file.file_name())).expect("copied");
        }
        let kv = RocksKv::open(&copy).expect("opens");
        assert_eq!(kv.get(KeyFamily::State, b"k").expect("reads").as_deref(), Some(&b"v"[..]));
    }

    #[test]
    fn a_clean_close_keeps_everything() {
        let folder = tempfile::tempdir().expect("a folder");
        let kv = RocksKv::open(folder.path()).expect("opens");
        kv.write(vec![WriteOp::Put(KeyFamily::State, b"k".to_vec(), b"v".to_vec())]).expect("writes");
        drop(kv);
        let kv = RocksKv::open(folder.path()).expect("opens again");
        assert_eq!(kv.get(KeyFamily::State, b"k").expect("reads").as_deref(), Some(&b"v"[..]));
    }

    /// Names, lengths and times of change of all files.
    fn files(path: &Path) -> Vec<(std::ffi::OsString, u64, std::time::SystemTime)> {
        let entries = std::fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry"));
        let mut files: Vec<_> = entries
            .map(|entry| {
                let meta = entry.metadata().expect("a file");
                (entry.file_name(), meta.len(), meta.modified().expect("a time"))
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn reading_only_changes_no_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let put = || vec![WriteOp::Put(KeyFamily::State, b"k".to_vec(), b"v".to_vec())];
        RocksKv::open(folder.path()).expect("opens").write(put()).expect("writes");
        let before = files(folder.path());
        let kv = RocksKv::open_read_only(folder.path()).expect("opens");
        assert_eq!(kv.scan(KeyFamily::State, b"", 9).expect("reads"), [(b"k".to_vec(), b"v".to_vec())]);
        assert_eq!(kv.scan(KeyFamily::Topics, b"", 9).expect("reads"), []);
        assert!(kv.write(put()).is_err());
        drop(kv);
        assert_eq!(files(folder.path()), before);
    }

    #[test]
    fn without_an_index_nothing_is_created() {
        let folder = tempfile::tempdir().expect("a folder");
        assert!(RocksKv::open_read_only(&folder.path().join("absent")).is_err());
        assert!(RocksKv::open_read_only(folder.path()).is_err());
        assert_eq!(files(folder.path()), []);
    }
}
