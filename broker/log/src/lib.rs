//! The commit log as bytes on disk.
