//! The state machine: everything that follows from the log, held so that it can be looked up.
//!
//! The state is a fold of the log: [`StateMachine::apply`] takes one record after the other, and the same log gives the same
//! state on every member and after every restart. It consists of tables, one in one file each, behind one small trait
//! (`table.rs`). What has to be done for all of them goes over `StateMachine::tables`: a new table is a file, and a line in
//! the list below (`state_tables!`). What a table holds lies in the key-value store, as the *index* on disk, but for what changed since
//! the last flush: the store gets that in one atomic batch with the position up to which it stands.
//!
//! | family | key (integers big-endian) | value |
//! |---|---|---|
//! | state | name | `applied`, `trimmed`: u64 log position; `unsettled`: u64 position of damage; `joining`: u64 positions of half messages that wait for the last one of their transaction; `format`, `epoch` of the newest record, `next-topic`, `next-group`, `next-lite`, `withheld` permissions: u32; `store-ms`: i64 time of the newest record; `broker`: text |
//! | topics | u32 id | [`kerolox_core::topic::Topic`] |
//! | groups | u32 id | [`kerolox_core::group::Group`] |
//! | queues | u32 topic, u32 queue | u64 min offset, u64 next offset, i64 time of the newest entry |
//! | entries | u32 topic, u32 queue, u64 first offset | 256 entries of 24 bytes, see [`QueueEntry`]; fewer in the pieces of a queue's last block |
//! | halves | u64 position | [`kerolox_core::transaction::HalfMessage`] |
//! | half-due | i64 due time (sign bit flipped), u64 position | the same, of undecided ones |
//! | timers | u64 position | [`kerolox_core::timer::ScheduledMessage`] |
//! | timer-due | i64 due time (sign bit flipped), u64 position | the same, of pending ones |
//! | progress | u32 group, u32 topic, u32 queue | [`kerolox_core::acks::QueueAcks`] |
//! | kept | u32 topic, u32 queue, u64 offset | [`QueueEntry`] of a message whose record was carried forward |
//! | dedup | u32 topic, i64 time (sign bit flipped), u8 bits, u128 hash | u64 position, i64 time, and u32 queue, u64 offset of what was visible at once, see [`dedup`] |
//! | dedup | u32 0, u64 position of a record that repeats another one | u64 position of that one |
//! | audit | u64 position | [`kerolox_core::audit::AuditEntry`], at most [`kerolox_core::audit::AUDIT_MAX`] |
//! | lookups | u32 GiB of the log, u16 bucket, u64 first position | hashes and places of 8 bytes, see [`lookup`] |
//! | moving | u32 topic | [`kerolox_core::slots::MovingSlots`] |
//! | lites | u32 topic, name | [`kerolox_core::record::LiteTopic`] |
//!
//! Format version 3. An index of another version is thrown away and rebuilt from the log.

mod apply;
mod audit;
mod carried;
mod carry;
pub mod check;
mod dedup;
#[cfg(test)]
mod dedup_test;
mod groups;
mod head;
mod held;
mod keys;
mod lite;
mod lookup;
mod ordering;
mod outcome;
mod overlay;
mod progress;
mod queues;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod timers;
mod topics;
mod transactions;
mod uncertainty;

use std::collections::BTreeMap;
use std::sync::Arc;

use kerolox_core::acks::QueueAcks;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::timer::TimerPhase;
use kerolox_core::topic::Topic;
use kerolox_core::transaction::TransactionPhase;

use crate::error::StoreError;
use crate::kv::{KeyFamily, Kv, WriteOp};

pub use audit::AuditTable;
pub use carried::CarriedTable;
pub use carry::ToCarry;
pub use dedup::{DedupTable, FirstMessage};
pub use groups::GroupTable;
pub use held::{HeldKind, HeldTable};
pub use lite::LiteTable;
pub use lookup::{LookupTable, MessagePositions};
pub use ordering::OrderingTable;
pub use outcome::{ApplyOutcome, StateEvent};
pub use progress::ProgressTable;
pub use queues::{BLOCK, QueueBounds, QueueEntry, QueueTable};
pub use timers::TimerTable;
pub use topics::TopicTable;
pub use transactions::TransactionTable;
pub use uncertainty::{DamageUncertainty, QueueRepair};

use head::LogHead;
use progress::ProgressId;
use snapshot::Loading;
use table::StateTable;

const FORMAT: u32 = 3;

/// Declares the state machine, each table by one line, in the order in which a snapshot lists what they hold. The tables of the first
/// list have everything in memory that a snapshot needs of them.
macro_rules! state_tables {
    (
        in_memory { $($(#[$memory_doc:meta])* $memory_access:vis $memory:ident: $MemoryTable:ty,)* }
        in_store { $($(#[$store_doc:meta])* $store_access:vis $store:ident: $StoreTable:ty,)* }
    ) => {
        /// What follows from the log. One owner applies records; others read under a lock, each table through its own methods.
        pub struct StateMachine {
            kv: Arc<dyn Kv>,
            loading: Loading,
            $($(#[$memory_doc])* $memory_access $memory: $MemoryTable,)*
            $($(#[$store_doc])* $store_access $store: $StoreTable,)*
        }

        impl StateMachine {
            /// How many tables there are in the first list.
            const TABLES_IN_MEMORY: usize = [$(stringify!($memory)),*].len();
            const TABLES: usize = Self::TABLES_IN_MEMORY + [$(stringify!($store)),*].len();

            fn new(kv: Arc<dyn Kv>, loading: Loading) -> Self {
                Self {
                    $($memory: <$MemoryTable>::new(&kv),)*
                    $($store: <$StoreTable>::new(&kv),)*
                    loading,
                    kv,
                }
            }

            /// Every table.
            fn tables(&self) -> [&dyn StateTable; Self::TABLES] {
                [$(&self.$memory,)* $(&self.$store,)*]
            }

            /// [`Self::tables`], to change them.
            fn tables_mut(&mut self) -> [&mut dyn StateTable; Self::TABLES] {
                [$(&mut self.$memory,)* $(&mut self.$store,)*]
            }
        }
    };
}

state_tables! {
    in_memory {
        /// Where in the log the state stands.
        head: LogHead,
        /// Topics.
        pub topics: TopicTable,
        /// Consumer groups.
        pub groups: GroupTable,
        /// Queues and their messages.
        pub queues: QueueTable,
    }
    in_store {
        /// What groups have finished.
        pub progress: ProgressTable,
        /// Half messages.
        pub transactions: TransactionTable,
        /// Scheduled messages.
        pub timers: TimerTable,
        /// Names of lite topics.
        pub lites: LiteTable,
        /// Message groups that are on their way to other queues.
        pub ordering: OrderingTable,
        /// Records that were carried forward.
        pub carried: CarriedTable,
        /// What administrators decided.
        pub audit: AuditTable,
        /// Messages by what makes others their repeats.
        pub dedup: DedupTable,
        /// Messages by id and key.
        pub lookups: LookupTable,
        /// What damage left uncertain.
        pub uncertainty: DamageUncertainty,
    }
}

impl StateMachine {
    /// The table that has a family; [`KeyFamily::State`] has values of several.
    fn table_of(&self, family: KeyFamily) -> Option<&dyn StateTable> {
        self.tables().into_iter().find(|table| table.families().contains(&family))
    }

    /// Loads the state from `kv`; an empty one, one of another format, and one that was left while it was uncertain behind
    /// damage start from nothing.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn load(kv: Arc<dyn Kv>) -> Result<Self, StoreError> {
        let is_uncertain = kv.get(KeyFamily::State, keys::UNSETTLED)?.is_some();
        if keys::state_u32(&*kv, keys::FORMAT)? != Some(FORMAT) || is_uncertain {
            return Self::empty(kv);
        }
        let mut state = Self::new(kv, Loading::Never);
        state.tables_mut().into_iter().try_for_each(StateTable::load)?;
        Ok(state)
    }

    /// Throws away whatever `kv` holds, for good when this returns: if a crash brought it back, it would be taken for the state of a
    /// log that was cut in between, and has grown again.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub fn empty(kv: Arc<dyn Kv>) -> Result<Self, StoreError> {
        kv.write(KeyFamily::ALL.map(|family| WriteOp::DeletePrefix(family, Vec::new())).to_vec())?;
        kv.persist()?;
        Ok(Self::new(kv, Loading::Blank))
    }

    /// Everything before this log position is applied.
    pub fn applied(&self) -> u64 {
        self.head.applied
    }

    /// Everything before this log position was given up.
    pub fn trimmed(&self) -> u64 {
        self.head.trimmed
    }

    /// Store time of the newest record applied, milliseconds since the Unix epoch.
    pub fn store_ms(&self) -> i64 {
        self.head.store_ms
    }

    /// Epoch of the newest record applied; 0 when there was none.
    pub fn epoch(&self) -> u32 {
        self.head.epoch
    }

    /// Broker group that the log belongs to; empty before the first record.
    pub fn broker(&self) -> &str {
        &self.head.broker
    }

    /// Changes since the last flush, to be written as one batch; then call [`Self::flushed`]. In between nothing may be
    /// applied.
    pub fn changes(&self) -> Vec<WriteOp> {
        let mut ops = Vec::new();
        self.tables().iter().for_each(|table| table.changes(&mut ops));
        ops
    }

    /// What [`Self::changes`] returned is in the store.
    pub fn flushed(&mut self) {
        self.tables_mut().into_iter().for_each(StateTable::flushed);
        assert!(self.tables().iter().all(|table| table.pending_len() == 0), "a flush leaves nothing behind");
    }

    /// Roughly how much waits to be flushed, in keys.
    pub fn pending_len(&self) -> usize {
        if matches!(self.loading, Loading::Part(_)) {
            // Half of a snapshot is no state to start from.
            return 0;
        }
        self.tables().iter().map(|table| table.pending_len()).sum()
    }
}

/// What concerns several tables.
impl StateMachine {
    /// What a group has finished in a queue, what expired included; `None` if it never finished or failed anything there.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails.
    pub fn acks(&self, group_id: u32, topic_id: u32, queue: u32) -> Result<Option<QueueAcks>, StoreError> {
        let mut acks = self.progress.logged(ProgressId { group_id, topic_id, queue })?;
        if let Some(acks) = &mut acks {
            acks.expire_below(QueueOffset::new(self.queues.bounds(topic_id, queue).min));
        }
        Ok(acks)
    }

    /// The lite topics in which a group has progress, by queue, from queue `from` on; about `max` of them, and none only when
    /// there are no more.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn lites_with_progress(
        &self,
        group_id: u32,
        topic_id: u32,
        from: u32,
        max: usize,
    ) -> Result<BTreeMap<u32, QueueAcks>, StoreError> {
        let mut page = self.progress.of_lites(group_id, topic_id, from, max)?;
        for (queue, acks) in &mut page {
            acks.expire_below(QueueOffset::new(self.queues.bounds(topic_id, *queue).min));
        }
        Ok(page)
    }

    /// The message of which one with this hash (see [`kerolox_core::dedup::DedupPolicy::hash`]) would be a repeat if it were stored
    /// in the topic at `now_ms`, milliseconds since the Unix epoch. One that was rolled back or recalled makes none.
    ///
    /// # Errors
    /// [`StoreError`] when the store fails or holds something malformed.
    pub fn first_of(
        &self,
        topic: &Topic,
        hash: u128,
        now_ms: i64,
    ) -> Result<Option<FirstMessage>, StoreError> {
        self.dedup.first_of(topic, hash, now_ms, self.trimmed(), |first| self.is_taken_back(first))
    }

    /// Whether it never became and never becomes visible.
    fn is_taken_back(&self, first: &FirstMessage) -> Result<bool, StoreError> {
        if first.place.is_some() {
            return Ok(false);
        }
        let recalled =
            self.timers.get(first.position)?.is_some_and(|timer| timer.phase == TimerPhase::Recalled);
        Ok(recalled
            || self
                .transactions
                .get(first.position)?
                .is_some_and(|half| half.phase == TransactionPhase::RolledBack))
    }

    /// Where messages lie that have this hash, newest first, as far as they lie before `before` and behind what was
    /// trimmed. Other messages may have the same hash.
    pub fn positions_of(&self, hash: u64, before: u64) -> MessagePositions {
        self.lookups.positions(hash, before, self.trimmed()..self.applied())
    }
}
