//! The content of a simulated file: the readers' view, the bytes that surely survive a power cut, and the changes in
//! between.

use std::collections::HashSet;
use std::io;
use std::ops::Range;

use super::faults;

/// Writes are torn at multiples of this many bytes.
const SECTOR: usize = 512;

/// A change since the last sync.
#[derive(Debug, Clone)]
enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Length(usize),
}

/// A change that a sync has not made durable yet.
#[derive(Debug, Clone)]
struct Pending {
    change: Change,
    /// Set when a sync of it failed: the system has forgotten to write it, and later syncs do not help.
    forgotten: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    /// Unreadable ranges.
    bad: Vec<Range<usize>>,
}

impl Content {
    pub(super) fn give_up(&mut self, range: Range<usize>) {
        self.bad.push(range);
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: usize) -> io::Result<usize> {
        let start = offset.min(self.bytes.len());
        let n = buf.len().min(self.bytes.len() - start);
        if self.bad.iter().any(|bad| bad.start < start + n && start < bad.end) {
            return Err(faults::bad_place());
        }
        buf[..n].copy_from_slice(&self.bytes[start..start + n]);
        Ok(n)
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.change(Change::Write { offset, bytes: bytes.to_vec() });
        }
    }

    pub(super) fn set_len(&mut self, len: usize) {
        self.change(Change::Length(len));
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.bytes, &change);
        self.pending.push(Pending { change, forgotten: false });
    }

    pub(super) fn sync(&mut self) {
        for Pending { change, forgotten } in self.pending.drain(..) {
            // The file system's journal keeps lengths in order; only bytes are forgotten.
            if !forgotten || matches!(change, Change::Length(_)) {
                apply(&mut self.durable, &change);
            }
        }
    }

    /// The effect of a failed sync: the changes stay visible, but are never written.
    pub(super) fn forget(&mut self) {
        self.pending.iter_mut().for_each(|pending| pending.forgotten = true);
    }

    /// Loses power. `survives` is asked for every length change and every sector of a write. Writes to one sector reach
    /// the disk in order; sectors do not wait for each other.
    pub(super) fn crash(&mut self, mut survives: impl FnMut(Survivor) -> bool) {
        let mut lost = HashSet::new();
        for Pending { change, .. } in std::mem::take(&mut self.pending) {
            match change {
                Change::Length(len) => {
                    if survives(Survivor::Length(len)) {
                        self.durable.resize(len, 0);
                    }
                }
                Change::Write { offset, bytes } => {
                    for (at, piece) in sectors(offset, &bytes) {
                        let sector = at / SECTOR;
                        if !lost.contains(&sector)
                            && survives(Survivor::Write { offset: at, len: piece.len() })
                        {
                            put(&mut self.durable, at, piece);
                        } else {
                            lost.insert(sector);
                        }
                    }
                }
            }
        }
        self.bytes.clone_from(&self.durable);
    }

    /// The parts of `range` that lie in sectors with something other than zeros.
    pub(super) fn data_in(&self, range: Range<usize>) -> Vec<Range<usize>> {
        let until = range.end.min(self.bytes.len());
        let mut found: Vec<Range<usize>> = Vec::new();
        let mut at = range.start;
        while at < until {
            let sector = at / SECTOR * SECTOR;
            let next = (sector + SECTOR).min(until);
            let is_data =
                self.bytes[sector..(sector + SECTOR).min(self.bytes.len())].iter().any(|byte| *byte != 0);
            match found.last_mut() {
                Some(last) if is_data && last.end == at => last.end = next,
                _ if is_data => found.push(at..next),
                _ => {}
            }
            at = next;
        }
        found
    }

    /// Changes the bytes on disk directly, bypassing the file operations.
    pub(super) fn tamper(&mut self, change: impl Fn(&mut Vec<u8>)) {
        change(&mut self.bytes);
        change(&mut self.durable);
    }
}

/// A piece that may survive a power cut.
pub(super) enum Survivor {
    Length(usize),
    Write { offset: usize, len: usize },
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { offset, bytes: written } => put(bytes, *offset, written),
        Change::Length(len) => bytes.resize(*len, 0),
    }
}

fn put(bytes: &mut Vec<u8>, offset: usize, written: &[u8]) {
    if bytes.len() < offset + written.len() {
        bytes.resize(offset + written.len(), 0);
    }
    bytes[offset..offset + written.len()].copy_from_slice(written);
}

/// The parts of a write, split where sectors begin.
fn sectors(offset: usize, bytes: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = offset;
    let end = offset + bytes.len();
    std::iter::from_fn(move || {
        let next = ((at / SECTOR + 1) * SECTOR).min(end);
        let piece = (at < end).then(|| (at, &bytes[at - offset..next - offset]));
        at = next;
        piece
    })
}
