//! What half messages and scheduled messages have in common: a record that is held back, found by its position, and by a time
//! as long as it is open.

use std::collections::HashMap;

use kerolox_core::timer::{Timer, TimerPhase};
use kerolox_core::transaction::{Half, Phase};
use prost::Message;

use crate::error::StoreError;
use crate::kv::{Family, Pair, pairs};
use crate::state::entries::Entry;
use crate::state::{StateMachine, keys};

/// Key under which half messages stand in the due index that are undecided, but never due: parked ones, and those that are
/// decided with another one.
pub(super) const NEVER_MS: i64 = i64::MAX;

/// A message that is held back, as the index knows it.
pub(super) trait Held: Message + Default + Clone {
    /// All of them by position.
    const FAMILY: Family;
    /// The open ones by due time and position.
    const DUE: Family;
    const NAME: &'static str;

    fn queue(&self) -> (u32, u32);
    fn is_open(&self) -> bool;
    fn due_ms(&self) -> i64;
    fn carried_to(&self) -> u64;
    /// Where and since when it is visible, once that was decided.
    fn visible(&self) -> Option<Shown>;
    /// Position of the record that decided; 0 while it is open.
    fn decided_at(&self) -> u64;
    /// Its entry when it becomes visible.
    fn entry(&self, position: u64, visible_ms: i64) -> Entry;
    fn stored_ms(&self) -> i64;
    /// Its record lies at `position` now.
    fn moved(&self, position: u64, len: u32) -> Self;
    /// It became visible `by` offsets further up.
    fn shifted(&self, by: u64) -> Self;
    /// Whether it counts as one of those; messages of one transaction count once.
    fn is_counted(&self) -> bool;
    /// How many are open, by topic.
    fn counts(index: &mut StateMachine) -> &mut HashMap<u32, u64>;

    fn location(&self, position: u64) -> u64 {
        if self.carried_to() == 0 { position } else { self.carried_to() }
    }
}

/// Where a message is visible that was held back.
pub(super) struct Shown {
    pub(super) offset: u64,
    pub(super) since_ms: i64,
}

/// What [`Half`] and [`Timer`] answer alike: these fields have the same names in both.
macro_rules! common_fields {
    () => {
        fn queue(&self) -> (u32, u32) {
            (self.topic_id, self.queue)
        }

        fn carried_to(&self) -> u64 {
            self.carried_to
        }

        fn decided_at(&self) -> u64 {
            self.decided_at
        }

        fn entry(&self, position: u64, visible_ms: i64) -> Entry {
            Entry {
                position: self.location(position),
                len: self.frame_len,
                tag_hash: self.tag_hash,
                visible_ms,
            }
        }

        fn stored_ms(&self) -> i64 {
            self.stored_ms
        }

        fn moved(&self, position: u64, len: u32) -> Self {
            Self { carried_to: position, frame_len: len, ..self.clone() }
        }

        fn shifted(&self, by: u64) -> Self {
            Self { offset: self.offset + by, ..self.clone() }
        }
    };
}

impl Held for Half {
    const FAMILY: Family = Family::Halves;
    const DUE: Family = Family::HalfDue;
    const NAME: &'static str = "half message";

    common_fields!();

    fn is_open(&self) -> bool {
        self.is_undecided()
    }

    fn due_ms(&self) -> i64 {
        if self.phase() == Phase::Parked || self.joins { NEVER_MS } else { self.next_check_ms }
    }

    fn is_counted(&self) -> bool {
        !self.joins
    }

    fn visible(&self) -> Option<Shown> {
        let is_visible = self.phase() == Phase::Committed;
        is_visible.then_some(Shown { offset: self.offset, since_ms: self.decided_ms })
    }

    fn counts(index: &mut StateMachine) -> &mut HashMap<u32, u64> {
        &mut index.undecided
    }
}

impl Held for Timer {
    const FAMILY: Family = Family::Timers;
    const DUE: Family = Family::TimerDue;
    const NAME: &'static str = "scheduled message";

    common_fields!();

    fn is_open(&self) -> bool {
        self.is_pending()
    }

    fn due_ms(&self) -> i64 {
        self.due_ms
    }

    fn is_counted(&self) -> bool {
        true
    }

    fn visible(&self) -> Option<Shown> {
        let is_visible = self.phase() == TimerPhase::Delivered;
        is_visible.then_some(Shown { offset: self.offset, since_ms: self.decided_ms })
    }

    fn counts(index: &mut StateMachine) -> &mut HashMap<u32, u64> {
        &mut index.scheduled
    }
}

fn decoded<T: Held>(bytes: &[u8]) -> Result<T, StoreError> {
    T::decode(bytes).map_err(|_| StoreError::Index(T::NAME.to_owned()))
}

/// Whether a stored value says that it was decided before a position.
pub(super) fn is_over<T: Held>(value: &[u8], before: u64) -> Result<bool, StoreError> {
    let held: T = decoded(value)?;
    Ok(!held.is_open() && held.decided_at() < before)
}

fn decoded_due<T: Held>((key, value): &Pair) -> Result<(i64, u64, T), StoreError> {
    let (due_ms, position) = keys::parse_due(key)?;
    Ok((due_ms, position, decoded(value)?))
}

impl StateMachine {
    pub(super) fn held<T: Held>(&self, position: u64) -> Result<Option<T>, StoreError> {
        let stored = self.overlay.get(T::FAMILY, &keys::held(position))?;
        stored.map(|bytes| decoded(&bytes)).transpose()
    }

    /// Up to `limit` open ones that are due at or before `until_ms`, longest due first, beginning after the `(due time,
    /// position)` given.
    pub(super) fn due<T: Held>(
        &self,
        until_ms: i64,
        after: Option<(i64, u64)>,
        limit: usize,
    ) -> Result<Vec<(u64, T)>, StoreError> {
        let mut from = Vec::new();
        if let Some((due_ms, position)) = after {
            from = keys::due(due_ms, position);
            from.push(0);
        }
        let mut found = Vec::new();
        for pair in &self.overlay.scan(T::DUE, &from, limit)? {
            let (due_ms, position, held) = decoded_due(pair)?;
            if due_ms > until_ms {
                break;
            }
            found.push((position, held));
        }
        Ok(found)
    }

    /// When the next one is due, if any ever is.
    pub(super) fn next_due_ms<T: Held>(&self) -> Result<Option<i64>, StoreError> {
        let first = self.overlay.scan(T::DUE, &[], 1)?;
        let due = first.first().map(|(key, _)| keys::parse_due(key)).transpose()?;
        Ok(due.map(|(due_ms, _)| due_ms).filter(|due_ms| *due_ms != NEVER_MS))
    }

    /// Replaces what is known of one; `old` is what was known before, if anything.
    pub(super) fn put_held<T: Held>(&mut self, position: u64, old: Option<&T>, new: &T) {
        let encoded = new.encode_to_vec();
        if let Some(old) = old.filter(|old| old.is_open()) {
            self.no_longer_open(position, old);
        }
        if new.is_open() {
            self.overlay.put(T::DUE, keys::due(new.due_ms(), position), encoded.clone());
            if new.is_counted() {
                *T::counts(self).entry(new.queue().0).or_default() += 1;
            }
        }
        self.overlay.put(T::FAMILY, keys::held(position), encoded);
    }

    /// Forgets an open one.
    pub(super) fn drop_held<T: Held>(&mut self, position: u64, held: &T) {
        self.no_longer_open(position, held);
        self.overlay.delete(T::FAMILY, keys::held(position));
    }

    fn no_longer_open<T: Held>(&mut self, position: u64, held: &T) {
        self.overlay.delete(T::DUE, keys::due(held.due_ms(), position));
        if held.is_counted() {
            *T::counts(self).entry(held.queue().0).or_default() -= 1;
        }
    }

    /// Forgets the open ones of a topic that goes away.
    pub(super) fn drop_held_of<T: Held>(&mut self, topic_id: u32) -> Result<(), StoreError> {
        let mut gone = Vec::new();
        self.each_open(|position, held: T| {
            if held.queue().0 == topic_id {
                gone.push((position, held));
            }
        })?;
        for (position, held) in gone {
            self.drop_held(position, &held);
        }
        T::counts(self).remove(&topic_id);
        Ok(())
    }

    /// Visits the open ones, longest due first.
    pub(super) fn each_open<T: Held>(&self, mut visit: impl FnMut(u64, T)) -> Result<(), StoreError> {
        for pair in pairs(|from, limit| self.overlay.scan(T::DUE, from, limit)) {
            let (_, position, held) = decoded_due(&pair?)?;
            visit(position, held);
        }
        Ok(())
    }

    /// Visits those that were first stored before a position, open or not.
    pub(super) fn each_held_before<T: Held>(
        &self,
        before: u64,
        mut visit: impl FnMut(u64, T),
    ) -> Result<(), StoreError> {
        for pair in pairs(|from, limit| self.overlay.scan(T::FAMILY, from, limit)) {
            let (key, value) = pair?;
            let position = keys::parse_held(&key)?;
            if position >= before {
                break;
            }
            visit(position, decoded(&value)?);
        }
        Ok(())
    }

    pub(super) fn count_open<T: Held>(&mut self) -> Result<(), StoreError> {
        let mut counts = HashMap::new();
        self.each_open(|_, held: T| {
            if held.is_counted() {
                *counts.entry(held.queue().0).or_default() += 1;
            }
        })?;
        *T::counts(self) = counts;
        Ok(())
    }
}
