//! The index on RocksDB. The only crate that links RocksDB, so that everything else builds and tests without it.
//!
//! The write-ahead log of RocksDB is off: the commit log is the truth, and what a crash takes from the index is folded
//! again. What remains must be a prefix of the batches written, with all families at the same point; atomic flushes
//! over all column families see to that.

use std::path::Path;

use kerolox_store::kv::{Family, Kv, KvError, Op, Pair};
use rocksdb::{
    BlockBasedOptions, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompactionStyle, Direction, IteratorMode,
    LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};
use tempfile::TempDir;

/// Bytes of changes that RocksDB keeps in memory before it writes them to a file. It bounds what has to be folded again
/// after a crash: index entries are much smaller than the records that they stand for.
const WRITE_BUFFER_BYTES: usize = 16 << 20;

/// Files of one size that are compacted together; more make reading slower, fewer make writing more.
const FILES_TO_COMPACT: i32 = 8;

/// Bits of a Bloom filter for each key: one in a hundred look-ups of what is not there reads a file.
const BLOOM_BITS: f64 = 10.0;

/// The file system in memory that every Linux has.
const MEMORY: &str = "/dev/shm";

/// An index store in a folder.
pub struct RocksKv {
    db: DB,
}

impl RocksKv {
    /// Opens the store at `path`, or creates it.
    ///
    /// # Errors
    /// [`KvError`] with RocksDB's own text, for instance when another process has it open.
    pub fn open(path: &Path) -> Result<Self, KvError> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_atomic_flush(true);
        options.set_max_background_jobs(2);
        let _log = quiet(&mut options)?;
        let families =
            Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), family_options(family)));
        let db = DB::open_cf_descriptors(&options, path, families).map_err(failed)?;
        Ok(Self { db })
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
            return Err(KvError(format!("{} holds no index", path.display())));
        }
        let found = DB::list_cf(&options, path).map_err(failed)?;
        if let Some(family) =
            Family::ALL.iter().find(|family| !found.iter().any(|name| name == family.name()))
        {
            return Err(KvError(format!("{} has no family {:?}", path.display(), family.name())));
        }
        let families =
            Family::ALL.map(|family| ColumnFamilyDescriptor::new(family.name(), Options::default()));
        let db = DB::open_cf_descriptors_read_only(&options, path, families, false).map_err(failed)?;
        Ok(Self { db })
    }

    fn family(&self, family: Family) -> &ColumnFamily {
        self.db.cf_handle(family.name()).expect("every family is opened with the store")
    }
}

/// Where RocksDB keeps the log that it insists on: in memory, for as long as it takes to open the store; then the file has no name
/// any more. On a disk that is full for a while that log kills the process: a line that was lost leaves the file's writer in a state that
/// an assertion of Debian's build forbids, at the next line or when the store is closed. Errors come with the calls.
fn quiet(options: &mut Options) -> Result<TempDir, KvError> {
    let name = &mut tempfile::Builder::new();
    name.prefix("kerolox-index-");
    let folder = name.tempdir_in(MEMORY).or_else(|_| name.tempdir());
    let folder = folder.map_err(|error| KvError(format!("a folder for the log of RocksDB: {error}")))?;
    options.set_db_log_dir(folder.path());
    options.set_log_level(LogLevel::Header);
    // They would be written to it every 10 minutes.
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    Ok(folder)
}

/// Families whose keys come from all over their range with every flush are compacted when several files of one size have
/// come together: moving each of them through all levels would write everything much more often.
fn family_options(family: Family) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(WRITE_BUFFER_BYTES);
    if matches!(family, Family::Entries | Family::Lookups | Family::Dedup) {
        options.set_compaction_style(DBCompactionStyle::Universal);
        options.set_level_zero_file_num_compaction_trigger(FILES_TO_COMPACT);
    }
    // Nearly every look-up there is for a key that is not there.
    if family == Family::Dedup {
        let mut tables = BlockBasedOptions::default();
        tables.set_bloom_filter(BLOOM_BITS, false);
        options.set_block_based_table_factory(&tables);
    }
    options
}

impl Kv for RocksKv {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.db.get_cf(self.family(family), key).map_err(failed)
    }

    fn scan(&self, family: Family, from: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        let mode = IteratorMode::From(from, Direction::Forward);
        let pairs = self.db.iterator_cf_opt(self.family(family), ReadOptions::default(), mode);
        pairs
            .take(limit)
            .map(|pair| pair.map(|(key, value)| (key.into_vec(), value.into_vec())).map_err(failed))
            .collect()
    }

    fn scan_around(
        &self,
        family: Family,
        prefix: &[u8],
        at: &[u8],
        limit: usize,
    ) -> Result<Vec<Pair>, KvError> {
        let mut pairs = self.db.raw_iterator_cf(self.family(family));
        pairs.seek_for_prev(at);
        if !pairs.key().is_some_and(|key| key.starts_with(prefix)) {
            pairs.seek(at);
        }
        let mut found = Vec::new();
        while found.len() < limit
            && let Some((key, value)) = pairs.item().filter(|(key, _)| key.starts_with(prefix))
        {
            found.push((key.to_vec(), value.to_vec()));
            pairs.next();
        }
        pairs.status().map_err(failed)?;
        Ok(found)
    }

    fn write(&self, ops: Vec<Op>) -> Result<(), KvError> {
        let mut batch = WriteBatch::default();
        for op in ops {
            match op {
                Op::Put(family, key, value) => batch.put_cf(self.family(family), key, value),
                Op::Delete(family, key) => batch.delete_cf(self.family(family), key),
                Op::DeleteRange(family, from, to) => batch.delete_range_cf(self.family(family), from, to),
                Op::DeletePrefix(family, prefix) => self.delete_prefix(&mut batch, family, &prefix)?,
            }
        }
        let mut options = WriteOptions::default();
        options.disable_wal(true);
        self.db.write_opt(batch, &options).map_err(failed)
    }

    /// Making a checkpoint is the one way to flush all column families at one point that this version of the bindings
    /// offers; the checkpoint itself, a folder of links, is thrown away.
    fn persist(&self) -> Result<(), KvError> {
        let path = self.db.path().with_extension("flush");
        let folder_failed = |error: std::io::Error| KvError(format!("{}: {error}", path.display()));
        if path.exists() {
            std::fs::remove_dir_all(&path).map_err(folder_failed)?;
        }
        let checkpoint = rocksdb::checkpoint::Checkpoint::new(&self.db).map_err(failed)?;
        checkpoint.create_checkpoint(&path).map_err(failed)?;
        std::fs::remove_dir_all(&path).map_err(folder_failed)
    }
}

impl RocksKv {
    fn delete_prefix(&self, batch: &mut WriteBatch, family: Family, prefix: &[u8]) -> Result<(), KvError> {
        let cf = self.family(family);
        if let Some(end) = successor(prefix) {
            batch.delete_range_cf(cf, prefix, &end);
            return Ok(());
        }
        // Nothing sorts behind every key with this prefix: remove up to the last key, and that one too.
        let last = self.db.iterator_cf(cf, IteratorMode::End).next().transpose().map_err(failed)?;
        if let Some((last, _)) = last.filter(|(last, _)| last.starts_with(prefix)) {
            batch.delete_range_cf(cf, prefix, &last);
            batch.delete_cf(cf, last);
        }
        Ok(())
    }
}

/// The smallest byte string that is greater than everything that begins with `prefix`.
fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

#[allow(clippy::needless_pass_by_value, reason = "used as a function in map_err")]
fn failed(error: rocksdb::Error) -> KvError {
    KvError(error.into_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_contract() {
        let folder = tempfile::tempdir().expect("a folder");
        kerolox_store::kv::check_contract(&RocksKv::open(folder.path()).expect("opens"));
    }

    #[test]
    fn what_was_persisted_survives_without_a_close() {
        let folder = tempfile::tempdir().expect("a folder");
        let kv = RocksKv::open(&folder.path().join("index")).expect("opens");
        kv.write(vec![Op::Put(Family::State, b"k".to_vec(), b"v".to_vec())]).expect("writes");
        kv.persist().expect("persists");
        // A copy of the files as they are now is what a crash would leave.
        let copy = folder.path().join("copy");
        std::fs::create_dir(&copy).expect("created");
        for file in std::fs::read_dir(folder.path().join("index")).expect("listed") {
            let file = file.expect("listed");
            std::fs::copy(file.path(), copy.join(file.file_name())).expect("copied");
        }
        let kv = RocksKv::open(&copy).expect("opens");
        assert_eq!(kv.get(Family::State, b"k").expect("reads").as_deref(), Some(&b"v"[..]));
    }

    #[test]
    fn a_clean_close_keeps_everything() {
        let folder = tempfile::tempdir().expect("a folder");
        let kv = RocksKv::open(folder.path()).expect("opens");
        kv.write(vec![Op::Put(Family::State, b"k".to_vec(), b"v".to_vec())]).expect("writes");
        drop(kv);
        let kv = RocksKv::open(folder.path()).expect("opens again");
        assert_eq!(kv.get(Family::State, b"k").expect("reads").as_deref(), Some(&b"v"[..]));
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
        let put = || vec![Op::Put(Family::State, b"k".to_vec(), b"v".to_vec())];
        RocksKv::open(folder.path()).expect("opens").write(put()).expect("writes");
        let before = files(folder.path());
        let kv = RocksKv::open_read_only(folder.path()).expect("opens");
        assert_eq!(kv.scan(Family::State, b"", 9).expect("reads"), [(b"k".to_vec(), b"v".to_vec())]);
        assert_eq!(kv.scan(Family::Topics, b"", 9).expect("reads"), []);
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
