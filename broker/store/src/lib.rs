//! The storage engine: commit log, fold and index.
