//! Snapshots: the state as records at the beginning of a segment, so that it can be restored without earlier ones.

use bytes::Bytes;
use kerolox_core::record::SnapshotRecord;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost::{DecodeError, Message};

use crate::error::StoreError;
use crate::state::StateMachine;
use crate::state::table::StateTable;

/// A part is closed at this size, so that a snapshot of a big broker does not become one huge record.
const PART_BYTES: usize = 1 << 20;

/// How the state machine treats snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loading {
    /// Nothing was applied yet: a snapshot is loaded.
    Blank,
    /// The part with this number comes next.
    Part(u32),
    /// There is a state: snapshots are skipped.
    Never,
}

/// Fields of [`SnapshotRecord`], for items that are copied from the store unchanged.
pub(super) mod tag {
    pub(in crate::state) const TOPICS: u32 = 6;
    pub(in crate::state) const GROUPS: u32 = 7;
    pub(in crate::state) const QUEUES: u32 = 8;
    pub(in crate::state) const PROGRESS: u32 = 9;
    pub(in crate::state) const HALVES: u32 = 10;
    pub(in crate::state) const KEPT: u32 = 11;
    pub(in crate::state) const TIMERS: u32 = 13;
    pub(in crate::state) const LITES: u32 = 19;
    pub(in crate::state) const MOVING: u32 = 21;
    pub(in crate::state) const AUDIT: u32 = 30;
    /// Fields of `HeldState`.
    pub(in crate::state) const POSITION: u32 = 1;
    pub(in crate::state) const MESSAGE: u32 = 2;
}

/// Writes lists of [`SnapshotRecord`] in encoded form. There may be millions of items, and all proposals wait for them.
#[derive(Default)]
pub(super) struct SnapshotLists {
    /// Full parts.
    done: Vec<Vec<u8>>,
    current: Vec<u8>,
}

impl SnapshotLists {
    pub(super) fn message(&mut self, tag: u32, item: &impl Message) {
        let len = item.encoded_len();
        item.encode(self.begin(tag, len)).expect("a Vec grows as needed");
    }

    /// Adds an item that the store holds in the same form.
    pub(super) fn stored(&mut self, tag: u32, item: &[u8]) {
        self.begin(tag, item.len()).extend_from_slice(item);
    }

    /// Adds a held message, which the store holds without its position.
    pub(super) fn held(&mut self, tag: u32, position: u64, held: &[u8]) {
        let len = key_len(tag::POSITION)
            + encoded_len_varint(position)
            + key_len(tag::MESSAGE)
            + encoded_len_varint(held.len() as u64)
            + held.len();
        let out = self.begin(tag, len);
        encode_key(tag::POSITION, WireType::Varint, out);
        encode_varint(position, out);
        encode_key(tag::MESSAGE, WireType::LengthDelimited, out);
        encode_varint(held.len() as u64, out);
        out.extend_from_slice(held);
    }

    /// Begins an item of `len` bytes, in another part if this one is full.
    fn begin(&mut self, tag: u32, len: usize) -> &mut Vec<u8> {
        if self.current.len() + len > PART_BYTES {
            self.done.push(std::mem::take(&mut self.current));
        }
        encode_key(tag, WireType::LengthDelimited, &mut self.current);
        encode_varint(len as u64, &mut self.current);
        &mut self.current
    }

    fn finish(mut self) -> Vec<Vec<u8>> {
        self.done.push(self.current);
        self.done
    }
}

impl StateMachine {
    /// The state after everything applied so far, as bodies of snapshot records; see [`SnapshotRecord::settles`].
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn snapshot_bodies(&self, settles: bool) -> Result<Vec<Bytes>, StoreError> {
        // Walking through the store and the queues takes most of the time: two threads share it.
        let tables = self.tables();
        let (in_memory, in_store) = tables.split_at(Self::TABLES_IN_MEMORY);
        let (lists, stored) = std::thread::scope(|scope| {
            let stored = scope.spawn(|| lists_of(in_store));
            let lists = lists_of(in_memory);
            (lists, stored.join().expect("it does not panic"))
        });
        let mut lists = lists?;
        lists.extend(stored?);
        if lists.iter().map(Vec::len).sum::<usize>() <= PART_BYTES {
            lists = vec![lists.concat()];
        }
        let (only, last) = (lists.len() == 1, lists.len() - 1);
        let bodies = lists.into_iter().enumerate().map(|(number, mut body)| {
            let mut head = SnapshotRecord {
                part: u32::try_from(number).expect("parts are large"),
                last: number == last,
                settles,
                ..SnapshotRecord::default()
            };
            if number == 0 {
                tables.iter().for_each(|table| table.write_snapshot_head(&mut head));
            }
            if only {
                // In the usual order of fields, which costs nothing here.
                head.merge(body.as_slice())?;
                return Ok(head.encode_to_vec().into());
            }
            head.encode(&mut body).expect("a Vec grows as needed");
            Ok(Bytes::from(body))
        });
        let malformed = |error: DecodeError| StoreError::Index(format!("snapshot: {error}"));
        bodies.collect::<Result<_, _>>().map_err(malformed)
    }

    /// The decoded snapshot records of the current state.
    #[cfg(test)]
    pub(super) fn snapshot(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        let bodies = self.snapshot_bodies(false)?.into_iter();
        Ok(bodies.map(|body| SnapshotRecord::decode(body).expect("a snapshot")).collect())
    }

    /// Whether this part of a snapshot would be loaded.
    pub(super) fn expects_part(&self, part: u32) -> bool {
        match self.loading {
            Loading::Blank => part == 0,
            Loading::Part(next) => part == next,
            Loading::Never => false,
        }
    }

    /// Loads one part, if this state machine starts from nothing or is uncertain behind damage.
    pub(super) fn apply_snapshot(&mut self, mut part: SnapshotRecord) -> Result<(), StoreError> {
        if self.uncertainty.is_open() {
            return match self.uncertainty.collect(part)? {
                Some(whole) => self.settle_by(whole),
                None => Ok(()),
            };
        }
        let expected = match self.loading {
            Loading::Blank => 0,
            Loading::Part(number) => number,
            Loading::Never => return Ok(()),
        };
        if part.part != expected {
            return Err(StoreError::Index(format!("snapshot: part {} follows part {expected}", part.part)));
        }
        for table in self.tables_mut() {
            table.apply_snapshot(&mut part)?;
        }
        self.loading = if part.last { Loading::Never } else { Loading::Part(expected + 1) };
        Ok(())
    }
}

fn lists_of(tables: &[&dyn StateTable]) -> Result<Vec<Vec<u8>>, StoreError> {
    let mut lists = SnapshotLists::default();
    tables.iter().try_for_each(|table| table.write_snapshot(&mut lists))?;
    Ok(lists.finish())
}
