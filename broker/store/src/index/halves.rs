//! Half messages.

use std::collections::HashMap;

use kerolox_core::transaction::{Half, Phase};
use prost::Message;

use crate::error::StoreError;
use crate::index::{Index, keys};
use crate::kv::{Family, pairs};

/// Key under which parked half messages stand in the due index: they are undecided, but never due.
const NEVER_MS: i64 = i64::MAX;

impl Index {
    /// The half message at a position.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or the value is malformed.
    pub fn half(&self, position: u64) -> Result<Option<Half>, StoreError> {
        let stored = self.overlay.get(Family::Halves, &keys::half(position))?;
        stored
            .map(|bytes| Half::decode(&*bytes).map_err(|_| StoreError::Index("half message".into())))
            .transpose()
    }

    /// Up to `limit` half messages whose check is due at or before `now_ms`, longest due first, beginning after the
    /// `(due time, position)` given.
    ///
    /// # Errors
    /// See [`Self::half`].
    pub fn due_halves(
        &self,
        now_ms: i64,
        after: Option<(i64, u64)>,
        limit: usize,
    ) -> Result<Vec<(u64, Half)>, StoreError> {
        let mut from = Vec::new();
        if let Some((due_ms, position)) = after {
            from = keys::half_due(due_ms, position);
            from.push(0);
        }
        let mut found = Vec::new();
        for (key, _) in self.overlay.scan(Family::HalfDue, &from, limit)? {
            let (due_ms, position) = keys::parse_half_due(&key)?;
            if due_ms > now_ms {
                break;
            }
            let half = self.half(position)?.ok_or_else(|| StoreError::Index("half-due entry".into()))?;
            found.push((position, half));
        }
        Ok(found)
    }

    /// When the next check is due, if any half message waits for one.
    ///
    /// # Errors
    /// See [`Self::half`].
    pub fn next_half_due_ms(&self) -> Result<Option<i64>, StoreError> {
        let first = self.overlay.scan(Family::HalfDue, &[], 1)?;
        let due = first.first().map(|(key, _)| keys::parse_half_due(key)).transpose()?;
        Ok(due.map(|(due_ms, _)| due_ms).filter(|due_ms| *due_ms != NEVER_MS))
    }

    /// Undecided half messages of a topic.
    pub fn undecided(&self, topic_id: u32) -> u64 {
        self.undecided.get(&topic_id).copied().unwrap_or(0)
    }

    /// Undecided half messages of all topics.
    pub fn undecided_total(&self) -> u64 {
        self.undecided.values().sum()
    }

    /// Replaces what is known of a half message; `old` is what was known before, if anything.
    pub(super) fn put_half(&mut self, position: u64, old: Option<&Half>, new: &Half) {
        if let Some(old) = old.filter(|old| old.is_undecided()) {
            self.overlay.delete(Family::HalfDue, keys::half_due(due_of(old), position));
            *self.undecided.entry(old.topic_id).or_default() -= 1;
        }
        if new.is_undecided() {
            self.overlay.put(Family::HalfDue, keys::half_due(due_of(new), position), Vec::new());
            *self.undecided.entry(new.topic_id).or_default() += 1;
        }
        self.overlay.put(Family::Halves, keys::half(position), new.encode_to_vec());
    }

    /// Forgets an undecided half message.
    pub(super) fn drop_half(&mut self, position: u64, half: &Half) {
        self.overlay.delete(Family::HalfDue, keys::half_due(due_of(half), position));
        self.overlay.delete(Family::Halves, keys::half(position));
        *self.undecided.entry(half.topic_id).or_default() -= 1;
    }

    /// Forgets the undecided half messages of a topic that goes away.
    pub(super) fn drop_halves_of(&mut self, topic_id: u32) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        self.each_undecided(|position, half| {
            if half.topic_id == topic_id {
                gone.push((position, half.clone()));
            }
        })?;
        for (position, half) in gone {
            self.drop_half(position, &half);
        }
        self.undecided.remove(&topic_id);
        Ok(())
    }

    /// Visits undecided half messages.
    pub(super) fn each_undecided(&self, mut visit: impl FnMut(u64, &Half)) -> Result<(), StoreError> {
        for pair in pairs(|from, limit| self.overlay.scan(Family::HalfDue, from, limit)) {
            let (_, position) = keys::parse_half_due(&pair?.0)?;
            let half = self.half(position)?.ok_or_else(|| StoreError::Index("half-due entry".into()))?;
            visit(position, &half);
        }
        Ok(())
    }

    /// Visits half messages that were first stored before a position, decided or not.
    pub(super) fn each_half_before(
        &self,
        before: u64,
        mut visit: impl FnMut(u64, &Half),
    ) -> Result<(), StoreError> {
        for pair in pairs(|from, limit| self.overlay.scan(Family::Halves, from, limit)) {
            let (key, value) = pair?;
            let position = keys::parse_half(&key)?;
            if position >= before {
                break;
            }
            let half = Half::decode(&*value).map_err(|_| StoreError::Index("half message".into()))?;
            visit(position, &half);
        }
        Ok(())
    }

    pub(super) fn count_undecided(&mut self) -> Result<(), StoreError> {
        let mut counts = HashMap::new();
        self.each_undecided(|_, half| *counts.entry(half.topic_id).or_default() += 1)?;
        self.undecided = counts;
        Ok(())
    }
}

fn due_of(half: &Half) -> i64 {
    if half.phase() == Phase::Parked { NEVER_MS } else { half.next_check_ms }
}
