//! The durable state of a nameserver, in one redb file: its vote, the log of the consensus and the newest snapshot.
//!
//! Values are JSON. Every change is durable when its function returns.

use kerolox_runtime::process::private_folder;
use std::ops::RangeBounds;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Name of the file in the data folder.
pub(crate) const FILE: &str = "controller.redb";
/// Version of the format; later ones are refused, earlier ones are read.
const FORMAT: u32 = 3;

/// Single values.
const VALUES: TableDefinition<&str, &[u8]> = TableDefinition::new("values");
/// The log: entries by index.
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");

/// Keys of [`VALUES`].
pub(super) mod key {
    /// Version of the format.
    pub(super) const FORMAT: &str = "format";
    /// Number of the nameserver that the file belongs to.
    pub(super) const NODE: &str = "node";
    /// Its vote.
    pub(crate) const VOTE: &str = "vote";
    /// Last entry that was removed from the log because a snapshot holds it.
    pub(crate) const PURGED: &str = "purged";
    /// The extent of the snapshot.
    pub(crate) const SNAPSHOT_META: &str = "snapshot-meta";
    /// The groups at that point.
    pub(crate) const SNAPSHOT: &str = "snapshot";
}

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder cannot be made.
    #[error("cannot create the folder {}: {source}; choose another one with --data", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file cannot be opened.
    #[error(
        "cannot open {}: {source}; each nameserver needs a data folder of its own, on a disk that works", path.display()
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// The database's error.
        source: Box<redb::DatabaseError>,
    },
    /// A program of another version wrote it.
    #[error(
        "{} has format version {found}, this program reads versions up to {FORMAT}; start a nameserver of the version that wrote it",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// Another nameserver wrote it.
    #[error(
        "{} belongs to nameserver {found}, but this one has the id {id}; give each nameserver a data folder of its own, \
         and always the same --id", path.display()
    )]
    Node {
        /// The file.
        path: PathBuf,
        /// Number of its nameserver.
        found: u64,
        /// Number of this one.
        id: u64,
    },
    /// Reading or writing failed.
    #[error("the controller's file failed: {0}")]
    Io(#[from] Box<redb::Error>),
    /// A value is damaged.
    #[error("the controller's file holds a damaged value: {0}")]
    Damaged(#[from] serde_json::Error),
}

/// The database's errors come in several kinds that are all one to us.
fn io(error: impl Into<redb::Error>) -> StoreError {
    StoreError::Io(Box::new(error.into()))
}

/// The open file.
pub(super) struct Store {
    db: Database,
}

impl Store {
    /// Opens the file in the folder `data` or makes it, for the nameserver `id`.
    pub(super) fn open(data: &Path, id: u64) -> Result<Self, StoreError> {
        private_folder(data).map_err(|source| StoreError::Folder { path: data.to_owned(), source })?;
        let path = data.join(FILE);
        let db = Database::create(&path)
            .map_err(|source| StoreError::Open { path: path.clone(), source: Box::new(source) })?;
        let store = Self { db };
        store.write(|change| {
            change.open_table(LOG).map_err(io)?;
            let mut values = change.open_table(VALUES).map_err(io)?;
            let format = read_value(&values, key::FORMAT)?;
            if let Some(found) = format.filter(|found| *found > FORMAT) {
                return Err(StoreError::Format { path: path.clone(), found });
            }
            let node = read_value(&values, key::NODE)?;
            if let Some(found) = node.filter(|found| *found != id) {
                return Err(StoreError::Node { path: path.clone(), found, id });
            }
            for (key, value) in [(key::FORMAT, u64::from(FORMAT)), (key::NODE, id)] {
                values.insert(key, serde_json::to_vec(&value)?.as_slice()).map_err(io)?;
            }
            Ok(())
        })?;
        Ok(store)
    }

    /// Makes changes durable, all or none.
    fn write(
        &self,
        change: impl FnOnce(&WriteTransaction) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let transaction = self.db.begin_write().map_err(io)?;
        change(&transaction)?;
        transaction.commit().map_err(io)
    }

    /// The value of a key, if there is one.
    pub(super) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, StoreError> {
        let transaction = self.db.begin_read().map_err(io)?;
        read_value(&transaction.open_table(VALUES).map_err(io)?, key)
    }

    /// Sets the value of a key.
    pub(super) fn put<T: Serialize>(&self, key: &str, value: &T) -> Result<(), StoreError> {
        let value = serde_json::to_vec(value)?;
        self.write(|change| {
            change.open_table(VALUES).map_err(io)?.insert(key, value.as_slice()).map_err(io)?;
            Ok(())
        })
    }

    /// The newest snapshot: its extent, and its bytes.
    pub(super) fn snapshot<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<u8>)>, StoreError> {
        let transaction = self.db.begin_read().map_err(io)?;
        let values = transaction.open_table(VALUES).map_err(io)?;
        let Some(meta) = read_value(&values, key::SNAPSHOT_META)? else { return Ok(None) };
        let bytes = ReadableTable::get(&values, key::SNAPSHOT).map_err(io)?;
        Ok(bytes.map(|bytes| (meta, bytes.value().to_vec())))
    }

    /// Replaces the snapshot.
    pub(super) fn put_snapshot<T: Serialize>(&self, meta: &T, bytes: &[u8]) -> Result<(), StoreError> {
        let meta = serde_json::to_vec(meta)?;
        self.write(|change| {
            let mut values = change.open_table(VALUES).map_err(io)?;
            values.insert(key::SNAPSHOT_META, meta.as_slice()).map_err(io)?;
            values.insert(key::SNAPSHOT, bytes).map_err(io)?;
            Ok(())
        })
    }

    /// Entries with an index in `range`.
    pub(super) fn entries<T: DeserializeOwned>(
        &self,
        range: impl RangeBounds<u64>,
    ) -> Result<Vec<T>, StoreError> {
        let transaction = self.db.begin_read().map_err(io)?;
        let log = transaction.open_table(LOG).map_err(io)?;
        let mut entries = Vec::new();
        for entry in ReadableTable::range(&log, range).map_err(io)? {
            let (_, value) = entry.map_err(io)?;
            entries.push(serde_json::from_slice(value.value())?);
        }
        Ok(entries)
    }

    /// The entry with the largest index.
    pub(super) fn last_entry<T: DeserializeOwned>(&self) -> Result<Option<T>, StoreError> {
        let transaction = self.db.begin_read().map_err(io)?;
        let log = transaction.open_table(LOG).map_err(io)?;
        let last = log.last().map_err(io)?;
        Ok(last.map(|(_, value)| serde_json::from_slice(value.value())).transpose()?)
    }

    /// Adds entries with their indexes.
    pub(super) fn append(&self, entries: &[(u64, Vec<u8>)]) -> Result<(), StoreError> {
        self.write(|change| {
            let mut log = change.open_table(LOG).map_err(io)?;
            for (index, value) in entries {
                log.insert(index, value.as_slice()).map_err(io)?;
            }
            Ok(())
        })
    }

    /// Removes the entries from `index` on.
    pub(super) fn truncate(&self, index: u64) -> Result<(), StoreError> {
        self.write(|change| remove(change, index..))
    }

    /// Removes the entries up to `index` and notes `purged`.
    pub(super) fn purge<T: Serialize>(&self, index: u64, purged: &T) -> Result<(), StoreError> {
        let purged = serde_json::to_vec(purged)?;
        self.write(|change| {
            remove(change, ..=index)?;
            change.open_table(VALUES).map_err(io)?.insert(key::PURGED, purged.as_slice()).map_err(io)?;
            Ok(())
        })
    }
}

fn read_value<T: DeserializeOwned>(
    values: &impl ReadableTable<&'static str, &'static [u8]>,
    key: &str,
) -> Result<Option<T>, StoreError> {
    let bytes = values.get(key).map_err(io)?;
    Ok(bytes.map(|bytes| serde_json::from_slice(bytes.value())).transpose()?)
}

fn remove(change: &WriteTransaction, range: impl RangeBounds<u64>) -> Result<(), StoreError> {
    let mut log = change.open_table(LOG).map_err(io)?;
    log.retain_in(range, |_, _| false).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_stored_is_there_when_it_is_opened_again() {
        let data = tempfile::tempdir().unwrap();
        {
            let store = Store::open(data.path(), 3).unwrap();
            store.put(key::VOTE, &7_u64).unwrap();
            let entries: Vec<_> = (1..=5_u64).map(|index| (index, index.to_string().into_bytes())).collect();
            store.append(&entries).unwrap();
            store.truncate(5).unwrap();
            store.purge(2, &2_u64).unwrap();
            store.put_snapshot(&2_u64, b"groups").unwrap();
        }
        let store = Store::open(data.path(), 3).unwrap();
        assert_eq!(store.get::<u64>(key::VOTE).unwrap(), Some(7));
        assert_eq!(store.get::<u64>(key::PURGED).unwrap(), Some(2));
        assert_eq!(store.entries::<u64>(..).unwrap(), [3, 4]);
        assert_eq!(store.last_entry::<u64>().unwrap(), Some(4));
        assert_eq!(store.snapshot::<u64>().unwrap(), Some((2, b"groups".to_vec())));
    }

    #[test]
    fn a_file_of_another_nameserver_or_version_is_refused() {
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(data.path(), 1).unwrap();
        store.put(key::FORMAT, &(FORMAT + 1)).unwrap();
        drop(store);
        let newer = Store::open(data.path(), 1).err().expect("a newer format").to_string();
        assert!(newer.contains("format version 4") && newer.contains(FILE), "{newer}");

        let data = tempfile::tempdir().unwrap();
        drop(Store::open(data.path(), 1).unwrap());
        let other = Store::open(data.path(), 2).err().expect("another id").to_string();
        assert!(other.contains("nameserver 1") && other.contains("id 2"), "{other}");
        let _first = Store::open(data.path(), 1).unwrap();
        let twice = Store::open(data.path(), 1).err().expect("it is open").to_string();
        assert!(twice.contains("data folder of its own"), "{twice}");
    }
}
