//! The storage engine of one broker: a commit log, and the state that follows from it.
//!
//! [`Store`] owns three threads. The *writer* takes proposed records, appends them in batches and makes each batch durable with
//! one sync. Then the batch is applied to the [`state::StateMachine`] in log order, by the *indexer* or by an otherwise idle
//! writer, and only then is a proposal answered, with the outcome that the state machine decided: the queue offset of a message,
//! the winner of two decisions about one transaction. So only durable records are visible, and replicas that apply equal records
//! reach equal decisions. The *syncer* makes durable the records that no client waits for.
//!
//! The index keeps changes since its last flush in memory and writes them to a [`kv::Kv`] in atomic batches, each with the
//! log position that it corresponds to. After a crash the state machine continues from there; without any index it starts at
//! the beginning of the log.

mod clock;
mod damage;
mod error;
mod gate;
mod indexer;
pub mod kv;
mod leading;
mod log_records;
mod lookup;
mod opening;
mod retention;
mod standby_log;
pub mod state;
mod store;
mod tail;
mod writer;

pub use clock::GuardedClock;
pub use error::{ProposeError, StoreError};
pub use gate::{clock_reading, lets_through, mono_ms};
pub use leading::SettledSignal;
pub use log_records::LogRecords;
pub use lookup::{FoundMessage, FoundPage, LookupPage, MessageStanding, ReadMessage};
pub use opening::{RebuildProgress, StoreOpening};
pub use retention::{TrimError, TrimPoint, TrimReport};
pub use standby_log::{NewestRecord, StandbyLog};
pub use state::{
    ApplyOutcome, BLOCK as ENTRIES_PER_BLOCK, FirstMessage, QueueBounds, QueueEntry, QueueRepair, StateEvent,
};
pub use store::{AppliedRecord, BatchCompletion, LogPositions, ProposalCompletion, Store, StoreOptions};
