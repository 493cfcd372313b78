//! The fold's state as records: what a segment begins with, so that an index can be rebuilt without what came before.

use std::collections::BTreeMap;

use bytes::Bytes;
use kerolox_core::acks::Acks;
use kerolox_core::lite::FIRST_LITE_QUEUE;
use kerolox_core::record::{GroupProgress, HeldHalf, KeptMessage, QueueState, SnapshotRecord};
use kerolox_core::timer::Timer;
use kerolox_core::transaction::Half;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use prost::{DecodeError, Message};

use crate::error::StoreError;
use crate::kv::{Family, pairs};
use crate::state::held::Held;
use crate::state::{Progress, StateMachine, decode_acks, keys};

/// A part is closed when it reaches this size, so that a snapshot of a big broker does not become one huge record.
const PART_BYTES: usize = 1 << 20;

/// What an index takes from a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loading {
    /// Nothing was applied yet: a snapshot is taken up.
    Blank,
    /// The part of this number comes next.
    Part(u32),
    /// The index has a state of its own: snapshots are skipped.
    Never,
}

/// Fields of [`SnapshotRecord`], for what is written as it lies in the store.
mod tag {
    pub(super) const TOPICS: u32 = 6;
    pub(super) const GROUPS: u32 = 7;
    pub(super) const QUEUES: u32 = 8;
    pub(super) const PROGRESS: u32 = 9;
    pub(super) const HALVES: u32 = 10;
    pub(super) const KEPT: u32 = 11;
    pub(super) const TIMERS: u32 = 13;
    pub(super) const LITES: u32 = 19;
    pub(super) const MOVING: u32 = 21;
    pub(super) const AUDIT: u32 = 30;
    /// Fields of `HeldHalf` and `HeldTimer`.
    pub(super) const POSITION: u32 = 1;
    pub(super) const HELD: u32 = 2;
}

/// Writes lists of [`SnapshotRecord`] as they lie in the log. There may be millions of items, and everything waits for them.
#[derive(Default)]
struct Lists {
    /// Parts that are full.
    done: Vec<Vec<u8>>,
    current: Vec<u8>,
}

impl Lists {
    fn message(&mut self, tag: u32, item: &impl Message) {
        let len = item.encoded_len();
        item.encode(self.begin(tag, len)).expect("a Vec grows as needed");
    }

    /// An item that the store holds in the same form.
    fn stored(&mut self, tag: u32, item: &[u8]) {
        self.begin(tag, item.len()).extend_from_slice(item);
    }

    /// A message that is held back, which the store holds without its position.
    fn held(&mut self, tag: u32, position: u64, held: &[u8]) {
        let len = key_len(tag::POSITION)
            + encoded_len_varint(position)
            + key_len(tag::HELD)
            + encoded_len_varint(held.len() as u64)
            + held.len();
        let out = self.begin(tag, len);
        encode_key(tag::POSITION, WireType::Varint, out);
        encode_varint(position, out);
        encode_key(tag::HELD, WireType::LengthDelimited, out);
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
        // What takes time is walking through the store and through the queues: two threads share that.
        let (mut lists, stored) = std::thread::scope(|scope| {
            let stored = scope.spawn(|| self.stored_lists());
            let lists = self.queue_lists();
            (lists, stored.join().expect("it does not panic"))
        });
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
                head.broker.clone_from(&self.broker);
                head.next_topic = self.meta.next_topic;
                head.next_group = self.meta.next_group;
                head.withheld = self.meta.withheld;
                // Absent before the first one: logs without lite topics look as they always did.
                head.next_lite = if self.lites.next == FIRST_LITE_QUEUE { 0 } else { self.lites.next };
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

    /// The same, decoded.
    #[cfg(test)]
    pub(super) fn snapshot(&self) -> Result<Vec<SnapshotRecord>, StoreError> {
        let bodies = self.snapshot_bodies(false)?.into_iter();
        Ok(bodies.map(|body| SnapshotRecord::decode(body).expect("a snapshot")).collect())
    }

    fn queue_lists(&self) -> Vec<Vec<u8>> {
        let mut lists = Lists::default();
        self.topics().iter().for_each(|topic| lists.message(tag::TOPICS, &**topic));
        self.groups().iter().for_each(|group| lists.message(tag::GROUPS, &**group));
        self.queues.states().iter().for_each(|state| lists.message(tag::QUEUES, state));
        lists.finish()
    }

    fn stored_lists(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut lists = Lists::default();
        self.progress_list(&mut lists)?;
        self.each_open(|position, half: Half| {
            // What one waits for would have been stored next to it.
            if !half.joins || half.leader != 0 {
                lists.message(tag::HALVES, &HeldHalf { position, half });
            }
        })?;
        self.held_list::<Timer>(tag::TIMERS, &mut lists)?;
        for pair in pairs(|from, limit| self.overlay.scan(Family::Lites, from, limit)) {
            lists.stored(tag::LITES, &pair?.1);
        }
        self.moving.all().for_each(|moving| lists.message(tag::MOVING, &moving));
        self.each_kept(|kept| lists.message(tag::KEPT, &kept))?;
        self.all_audited()?.iter().for_each(|audited| lists.message(tag::AUDIT, audited));
        Ok(lists.finish())
    }

    fn held_list<T: Held>(&self, tag: u32, lists: &mut Lists) -> Result<(), StoreError> {
        for pair in pairs(|from, limit| self.overlay.scan(T::DUE, from, limit)) {
            let (key, held) = pair?;
            let (_, position) = keys::parse_due(&key)?;
            lists.held(tag, position, &held);
        }
        Ok(())
    }

    /// Progress of all groups, as it is in memory or in the store.
    fn progress_list(&self, lists: &mut Lists) -> Result<(), StoreError> {
        let item = |(group_id, topic_id, queue), acks| GroupProgress { group_id, topic_id, queue, acks };
        for pair in pairs(|from, limit| self.kv.scan(Family::Progress, from, limit)) {
            let (key, acks) = pair?;
            let key = keys::parse_progress(&key)?;
            if !self.progress.contains_key(&key) && !self.is_progress_gone(key) {
                lists.message(tag::PROGRESS, &item(key, acks));
            }
        }
        let mut in_memory: Vec<_> = self.progress.iter().collect();
        in_memory.sort_unstable_by_key(|(key, _)| **key);
        for (key, progress) in in_memory {
            lists.message(tag::PROGRESS, &item(*key, progress.acks.encode()));
        }
        Ok(())
    }

    /// Whether this part of a snapshot would be taken up.
    pub(super) fn expects_part(&self, part: u32) -> bool {
        match self.loading {
            Loading::Blank => part == 0,
            Loading::Part(next) => part == next,
            Loading::Never => false,
        }
    }

    /// Takes up one part, if this index starts from nothing or is uncertain behind damage.
    pub(super) fn apply_snapshot(&mut self, part: SnapshotRecord) -> Result<(), StoreError> {
        if self.is_unsettled() {
            return self.collect_snapshot(part);
        }
        let expected = match self.loading {
            Loading::Blank => 0,
            Loading::Part(number) => number,
            Loading::Never => return Ok(()),
        };
        if part.part != expected {
            return Err(StoreError::Index(format!("snapshot: part {} follows part {expected}", part.part)));
        }
        if part.part == 0 {
            self.broker = part.broker;
            self.meta.next_topic = part.next_topic;
            self.meta.next_group = part.next_group;
            self.meta.withheld = part.withheld;
            self.lites.next = self.lites.next.max(part.next_lite);
        }
        for topic in part.topics {
            self.overlay.put(Family::Topics, keys::id(topic.id), topic.encode_to_vec());
            self.meta.insert_topic(topic);
        }
        for group in part.groups {
            self.overlay.put(Family::Groups, keys::id(group.id), group.encode_to_vec());
            self.meta.insert_group(group);
        }
        for state in &part.queues {
            self.queues.restore(state);
        }
        for progress in part.progress {
            let acks = Acks::decode(&progress.acks)
                .map_err(|error| StoreError::Index(format!("snapshot: {error}")))?;
            let key = (progress.group_id, progress.topic_id, progress.queue);
            self.progress.insert(key, Progress { acks, dirty: true });
        }
        for held in part.halves {
            self.put_held(held.position, None, &held.half);
        }
        for held in part.timers {
            self.put_held(held.position, None, &held.timer);
        }
        part.moving.into_iter().for_each(|moving| self.moving.restore(moving));
        for kept in part.kept {
            self.put_kept(&kept);
        }
        for audited in &part.audit {
            self.put_audited(audited);
        }
        part.lites.iter().for_each(|lite| self.restore_lite(lite));
        if part.last {
            self.count_lites();
        }
        self.loading = if part.last { Loading::Never } else { Loading::Part(expected + 1) };
        Ok(())
    }

    /// Progress of all groups, as it is in memory or in the store.
    pub(super) fn all_progress(&self) -> Result<BTreeMap<(u32, u32, u32), Acks>, StoreError> {
        let mut all = BTreeMap::new();
        for pair in pairs(|from, limit| self.kv.scan(Family::Progress, from, limit)) {
            let (key, value) = pair?;
            let key = keys::parse_progress(&key)?;
            if !self.is_progress_gone(key) {
                all.insert(key, decode_acks(&value)?);
            }
        }
        all.extend(self.progress.iter().map(|(key, progress)| (*key, progress.acks.clone())));
        Ok(all)
    }

    pub(super) fn all_kept(&self) -> Result<Vec<KeptMessage>, StoreError> {
        let mut all = Vec::new();
        self.each_kept(|kept| all.push(kept))?;
        Ok(all)
    }
}

/// The state of a queue for a snapshot.
pub(super) fn queue_state(topic_id: u32, queue: u32, next: u64, newest_ms: i64) -> QueueState {
    QueueState { topic_id, queue, next, newest_ms }
}
