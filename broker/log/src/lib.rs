//! The commit log as bytes on disk: append, sync, read, recover. It knows frames, not their contents.
//!
//! # On-disk format, version 1
//!
//! A log is a folder of segments named by the position of their first byte, 20 decimal digits and `.log`. A position
//! is a byte address in the whole log: a segment's file offset plus its base. Every segment but the last has exactly
//! the length that its last record needs, so the next base follows from the file length; the last one is preallocated
//! and zero beyond its end.
//!
//! | bytes | segment header (64 bytes, little-endian) |
//! |---|---|
//! | 0..8 | `KEROLOG` and the format version (1) |
//! | 8..16 | base position |
//! | 16..24 | salt of the log |
//! | 24..28 | CRC-32C of bytes 0..24 |
//! | 28..64 | zero |
//!
//! | bytes | frame header (32 bytes, little-endian) |
//! |---|---|
//! | 0..4 | length of the frame, header included |
//! | 4..8 | CRC-32C of bytes 0..4 and 8..length, begun with the two halves of the salt, XORed |
//! | 8 | frame format version (1) |
//! | 9 | kind of the record |
//! | 10 | bytes of padding behind the body, 0 to 7 |
//! | 11 | zero |
//! | 12..16 | epoch |
//! | 16..24 | position of the frame: a frame that sits where it was not written is not taken for a record |
//! | 24..32 | store time, milliseconds since the Unix epoch |
//!
//! The record body follows, then zeros up to a multiple of 8. A length of zero ends the log. The salt is a random number
//! of the log that no client knows: bytes in a message are never taken for a frame. It is the same in all segments.
//!
//! Beside the segments lie `checkpoint`, which records at least how far the log was durable and its last frame there, and
//! repeats the salt; `<position>.begin`, empty, which marks the beginning of the log; and `cut-<position>`: the bytes that
//! recovery cut off behind the end, kept for inspection (at most 8 files of at most 16 MiB; delete them as you like).
//!
//! # Recovery and damage
//!
//! Where a frame should be and none is, the log is searched for the next intact one (valid length, checksum and
//! position). The bytes before that one are a *damaged range*: it is never cut off, never overwritten, and its positions
//! are never reused. A scan reports it once, as [`LogError::Damaged`] with file and range, and continues behind it;
//! reading one record in it returns an equal error. Bytes behind the last intact frame are an unfinished write that was
//! never acknowledged: they are cut off when the log is opened. If they lie before the position that is known to have
//! been durable, they are damage as well, and the log continues behind that position. A damaged segment header, a segment
//! that ends too early and a missing one count as damaged ranges.
//!
//! A place that the device cannot read is damage like any other, as long as an intact frame lies behind it. Without one
//! the end of the log is unknown: then it is not opened at all ([`LogError::Unreadable`]), and nothing is changed.
//!
//! A log whose oldest segments are missing, or whose newest one was replaced by another file, is not opened
//! ([`LogError::Missing`], [`LogError::Misplaced`]): once anything was appended, the right files could not be put back.
//!
//! No checksum can tell one case from a torn tail: damage to the very last record before the log was closed or the
//! checkpoint written. It is cut, and only the copy in `cut-<position>` remains.
//!
//! Opening reads the bytes written behind the checkpoint, not the whole log and not the space reserved behind them:
//! damage before the checkpoint is found when it is read.
//!
//! # Who may do what
//!
//! One [`Log`] appends; any number of [`LogReader`]s read the appended records. After a failed write or sync the log
//! refuses everything that follows: the kernel may have dropped the dirty pages, and trying again would report success
//! for data that is gone. For that reason syncs run one at a time, too: a failure is reported once for a file, and only
//! to the first caller, so the log waits for a [`SyncTask`] before it syncs the file itself or leaves it.

mod begin;
mod checkpoint;
mod copy;
mod cut;
mod elsewhere;
mod error;
pub mod frame;
pub mod fs;
pub mod inspect;
mod last;
mod log;
mod reader;
mod recovery;
mod resync;
pub mod sabotage;
mod salt;
mod segment;
mod trim;

pub use copy::{CopiedLog, LogEpochEnd, Piece, begin_copy, is_blank, remove_log};
pub use elsewhere::SyncTask;
pub use error::{DamagedRange, LogError};
pub use frame::{Frame, NewFrame};
pub use log::{Log, LogOptions, RecoveredLog};
pub use reader::LogReader;
pub use salt::FrameSalt;
pub use segment::HEADER_LEN as SEGMENT_HEADER_LEN;
pub use trim::SegmentInfo;
