//! The commit log as bytes on disk: append, sync, read, recover. It knows frames, not what is inside them.
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
//! Beside the segments lie `checkpoint`, which says how far the log was durable at the least and what it held last there, and
//! repeats the salt; `<position>.begin`, empty, which says where the log begins; and `cut-<position>`: what recovery cut off
//! behind the end, kept for whoever wants to look at it (at most 8 files of at most 16 MiB; delete them as you like).
//!
//! # Recovery and damage
//!
//! Where a frame should be and none is, the log is searched for the next intact one (length, checksum and position all
//! fit). What lies before that one is a *damaged range*: it is never cut off, never written to, and its positions are
//! never used again. A scan reports it once, as [`LogError::Damaged`] with file and range, and goes on behind it; reading
//! one record in it gives the same error. Bytes behind the last intact frame are an unfinished write that was never
//! acknowledged: they are cut off when the log is opened. If they lie before the position that is known to have been
//! durable, they are damage as well, and the log goes on behind that position. A damaged segment header, a segment that
//! ends too early and one that is missing count as damaged ranges.
//!
//! A place that the device cannot read is damage like any other, as long as an intact frame lies behind it. Without one
//! nobody can tell where the log ends: then it is not opened at all ([`LogError::Unreadable`]), and nothing is changed.
//!
//! A log whose oldest segments are missing, or in which another file lies in the place of the newest one, is not opened
//! ([`LogError::Missing`], [`LogError::Misplaced`]): whatever were appended, the right files could not be put back.
//!
//! One case cannot be told from a torn tail by any checksum: damage to the very last record before the log was closed
//! or the checkpoint written. It is cut, and the copy in `cut-<position>` is what is left of it.
//!
//! Opening reads what was written behind the checkpoint, not the whole log and not the room that is reserved behind it:
//! damage before the checkpoint is found by whoever reads it.
//!
//! # Who may do what
//!
//! One [`Log`] appends; any number of [`LogReader`]s read what was appended. After a failed write or sync the log refuses
//! everything that follows: the kernel may have dropped the dirty pages, and trying again would report success for
//! data that is gone. For the same reason there is one sync at a time: a failure is reported once for a file, and only
//! to whoever asked first, so the log waits for a [`SyncTask`] before it syncs the file itself or leaves it.

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

pub use copy::{CopiedLog, Piece, begin_copy, is_blank, remove_log};
pub use elsewhere::SyncTask;
pub use error::{DamagedRange, LogError};
pub use frame::{Frame, NewFrame};
pub use log::{Log, LogOptions, RecoveredLog};
pub use reader::LogReader;
pub use salt::FrameSalt;
pub use segment::HEADER_LEN as SEGMENT_HEADER_LEN;
pub use trim::SegmentInfo;
