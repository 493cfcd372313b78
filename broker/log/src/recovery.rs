//! Finding the end of the log after a crash, and telling a torn tail from damage.
//!
//! The *watermark* is a position up to which everything is known to have been durable: the checkpoint's, or the
//! beginning of the newest segment, because a segment is sealed and synced before the next one is created. Recovery
//! reads everything behind it. At a place that holds no frame it searches for the next intact one:
//!
//! - One follows: the bytes between are damaged, or a write that reached the disk in parts. Either way they stay, and
//!   the log continues behind them, since the frames that follow may have been acknowledged.
//! - None follows: a torn tail, an unfinished write that was never acknowledged. It is copied to a file and cut off.
//! - None follows, but some bytes cannot be read: they may have been a frame. The start is refused.
//! - The file ends before the watermark: its end was lost. The log continues in a new segment at the watermark, so that
//!   no position is ever reused.
//!
//! # Damage
//!
//! A damaged range is reported with file and position, and skipped; a torn tail is cut, with a copy kept. An index that
//! is made over damage takes offsets, topics and acknowledgements from the snapshot behind it, and uncertain messages
//! are delivered again rather than lost (`store/src/state/uncertainty/`). The checksum of a frame includes a number
//! that clients do not know, so that nothing in a message passes for a record (`log/src/salt.rs`).

use std::io;
use std::sync::Arc;

use crate::begin;
use crate::checkpoint::Slot;
use crate::cut;
use crate::error::{DamagedRange, LogError};
use crate::fs::{Folder, is_bad_place};
use crate::last::{self, LastFrame};
use crate::log::{LogOptions, RecoveredLog};
use crate::reader::LogReader;
use crate::resync;
use crate::sabotage;
use crate::salt;
use crate::segment::{self, HEADER_LEN, Segment, SegmentRoom, Shared};

/// Bytes that are rewritten at a time.
const REWRITE_LEN: usize = 1 << 20;

/// A recovered log.
pub(crate) struct Ready {
    /// All segments; the last one takes appended records.
    pub(crate) segments: Vec<Segment>,
    pub(crate) recovered: RecoveredLog,
    /// The last frame before the end, if known.
    pub(crate) last: Option<LastFrame>,
}

/// Recovers the log in `folder`, starting from the checkpoint.
///
/// If it is interrupted, the next try reaches an equal result: it changes only bytes behind the end.
pub(crate) fn recover(folder: &dyn Folder, options: LogOptions, checkpoint: Slot) -> Result<Ready, LogError> {
    let (new_salt, room) = (options.salt, options.new_segment(0));
    // A full disk must not prevent reading the log to its end.
    let room = SegmentRoom { needed: HEADER_LEN, ..room };
    let durable = checkpoint.durable;
    let mut segments = open_segments(folder)?;
    if segments.is_empty() {
        refuse_lost_log(durable)?;
        begin::note(folder, 0)?;
        segments.push(Segment::create(folder, 0, new_salt, room)?);
    }
    let salt = salt::find(&segments, checkpoint.salt)?.unwrap_or(new_salt);
    segments.iter_mut().for_each(|segment| segment.salt = salt);
    let damaged_last = last::check(&segments, checkpoint.watermark())?;
    finish_newest(folder, &mut segments, room, durable)?;
    let mut damaged = known_damage(&segments)?;
    damaged.extend(damaged_last);
    let newest = segments.last().expect("there is one at least").clone();
    // Holes in a file are reported reliably only when no write is pending.
    newest.file.sync().map_err(LogError::io(format!("syncing {}", newest.name())))?;
    let file_end = newest.base + len(&newest)?;
    let from = durable.max(newest.base + HEADER_LEN);
    if from > file_end {
        damaged.push(DamagedRange {
            file: newest.name(),
            position: file_end.max(newest.base + HEADER_LEN),
            until: from,
            reason: format!("the file ends here, but the log was durable up to {from}"),
        });
        segments.push(Segment::create(folder, from, salt, room)?);
        let recovered = RecoveredLog { end: from + HEADER_LEN, damaged, ..RecoveredLog::default() };
        return Ok(Ready { segments, recovered, last: Some(LastFrame::HEADER) });
    }
    // Reserved space counts as data once it was read: read as little of it as possible.
    newest.file.read_ahead(false);
    let before = if from == durable { checkpoint.watermark().last } else { Some(LastFrame::HEADER) };
    let (end, last_len) = find_end(&segments, from, file_end, &mut damaged)?;
    let last = match last_len {
        0 => before,
        len => Some(LastFrame::read(&newest, end - u64::from(len), len).map_err(reading(&newest))?),
    };
    assert!(from <= end && end <= file_end, "the end lies in the searched range");
    let written = cut::written_until(&newest, end, file_end)?;
    assert!(written >= end, "written bytes reach the end");
    let cut_file = if written > end { cut::set_aside(folder, &newest, end, written) } else { None };
    settle_tail(&newest, end, written)?;
    make_durable(folder, &newest, durable, end, &damaged)?;
    newest.file.read_ahead(true);
    let recovered =
        RecoveredLog { end, cut_bytes: written - end, cut_file, scanned_bytes: end - from, damaged };
    Ok(Ready { segments, recovered, last })
}

fn reading(segment: &Segment) -> impl FnOnce(io::Error) -> LogError + use<> {
    LogError::io(format!("reading {}", segment.name()))
}

fn len(segment: &Segment) -> Result<u64, LogError> {
    segment.file.len().map_err(LogError::io(format!("measuring {}", segment.name())))
}

/// Opens all segments. A gap between them is damage; an overlap is an error.
fn open_segments(folder: &dyn Folder) -> Result<Vec<Segment>, LogError> {
    let mut segments: Vec<Segment> = Vec::new();
    for base in segment::bases(folder)? {
        if let Some(before) = segments.last() {
            let end = before.base + len(before)?;
            if end > base {
                return Err(LogError::Misplaced {
                    file: segment::file_name(base),
                    reason: format!(
                        "it begins at {base}, but {} ends at {end}; move the one away that does not belong here",
                        before.name()
                    ),
                });
            }
        }
        segments.push(Segment::open_any(folder, base)?);
    }
    Ok(segments)
}

/// Refuses to begin a log anew that existed once: its positions would be used twice.
fn refuse_lost_log(durable: u64) -> Result<(), LogError> {
    if durable == 0 {
        return Ok(());
    }
    Err(LogError::Damaged(DamagedRange {
        file: segment::file_name(0),
        position: 0,
        until: durable,
        reason: format!(
            "all segments are missing, but the log was durable up to {durable}; to begin a new log, empty the folder"
        ),
    }))
}

/// Creates the newest segment anew if its creation was interrupted: it never held a record then.
fn finish_newest(
    folder: &dyn Folder,
    segments: &mut Vec<Segment>,
    room: SegmentRoom,
    durable: u64,
) -> Result<(), LogError> {
    let is_only = segments.len() == 1;
    let newest = segments.last_mut().expect("there is one at least");
    let first = newest.base + HEADER_LEN;
    let file_end = newest.base + len(newest)?;
    if (newest.header.is_ok() && file_end >= first) || durable > first {
        return Ok(());
    }
    if resync::next_in_segment(newest, first, file_end)?.is_none() {
        let written = cut::written_until(newest, newest.base, file_end)?;
        if written > first {
            cut::set_aside(folder, newest, newest.base, written);
        }
        match Segment::recreate(folder, newest.base, newest.salt, room) {
            // Without space for its header, the log continues in the segment before it.
            Err(error) if error.is_full() && !is_only => {
                let newest = segments.pop().expect("looked at just now");
                let removed = folder.remove(&newest.name()).and_then(|()| folder.sync());
                removed.map_err(LogError::io(format!("removing {}", newest.name())))?;
            }
            begun => *newest = begun?,
        }
    }
    Ok(())
}

/// Damage that shows without reading records: headers, and segments that end too early or are missing.
fn known_damage(segments: &[Segment]) -> Result<Vec<DamagedRange>, LogError> {
    let mut damaged = Vec::new();
    for (i, segment) in segments.iter().enumerate() {
        damaged.extend(segment.damaged_header());
        let end = segment.base + len(segment)?;
        if let Some(next) = segments.get(i + 1)
            && end < next.base
        {
            damaged.push(DamagedRange {
                file: segment.name(),
                position: end.max(segment.base + HEADER_LEN),
                until: next.base + HEADER_LEN,
                reason: format!(
                    "the file ends here, but the next one begins at {}: it was cut off, or one is missing",
                    next.base
                ),
            });
        }
    }
    Ok(damaged)
}

/// Position behind the last intact frame at `from` or later, and the length of that frame; 0 without one.
fn find_end(
    segments: &[Segment],
    from: u64,
    file_end: u64,
    damaged: &mut Vec<DamagedRange>,
) -> Result<(u64, u32), LogError> {
    let newest = segments.last().expect("there is one at least");
    let data = newest.data_in(from..file_end);
    let data = data.map_err(LogError::io(format!("looking for data in {}", newest.name())))?;
    let data_end = data.last().map_or(from, |data| data.end);
    let reader = LogReader::new(Arc::new(Shared::new(segments.to_vec(), file_end)));
    let (mut end, mut last_len) = (from, 0);
    for frame in reader.scan(from).reading_ahead_until(data_end) {
        match frame {
            Ok(frame) => (end, last_len) = (frame.end(), frame.len),
            // No intact frame follows: this is the end.
            Err(LogError::Damaged(range)) if range.until == file_end => {}
            Err(LogError::Damaged(_)) if sabotage::is("truncate-at-first-bad-record") => break,
            // The header is known already.
            Err(LogError::Damaged(range)) if range.until <= from => {}
            Err(LogError::Damaged(range)) => damaged.push(range),
            Err(error) => return Err(error),
        }
    }
    Ok((end, last_len))
}

/// Removes a torn tail, so that its bytes can never be taken for records later.
fn settle_tail(newest: &Segment, end: u64, written: u64) -> Result<(), LogError> {
    if written > end && !sabotage::is("tail-not-zeroed") {
        let cut = newest.file.set_len(end - newest.base);
        cut.map_err(LogError::io(format!("preparing {}", newest.name())))?;
    }
    Ok(())
}

/// Makes everything behind the durable position durable. Syncing alone would not suffice: where a sync failed in an
/// earlier run of the process, the system may show the bytes and have forgotten to write them. So they are written again
/// unchanged.
fn make_durable(
    folder: &dyn Folder,
    newest: &Segment,
    durable: u64,
    end: u64,
    damaged: &[DamagedRange],
) -> Result<(), LogError> {
    // Nothing was ever synced behind the header: the header and the name are in doubt as well.
    let from = if durable <= newest.base + HEADER_LEN { newest.base } else { durable };
    let is_known = |position| damaged.iter().any(|range| (range.position..range.until).contains(&position));
    let rewrite = || {
        let mut buf = vec![0; REWRITE_LEN];
        let mut position = from;
        while position < end && !sabotage::is("no-rewrite-at-recovery") {
            let wanted = usize::try_from(end - position).map_or(REWRITE_LEN, |left| left.min(REWRITE_LEN));
            let n = match newest.read(&mut buf[..wanted], position) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(error) if is_bad_place(&error) && is_known(position) => {
                    position = newest.behind_bad_place(position);
                    continue;
                }
                Err(error) => return Err(error),
            };
            newest.file.write_at(&buf[..n], position - newest.base)?;
            position += n as u64;
        }
        newest.file.sync()?;
        folder.sync()
    };
    rewrite().map_err(LogError::io(format!("making the end of {} durable", newest.name())))
}
