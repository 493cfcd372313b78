//! The index on RocksDB: the only crate that links it.
