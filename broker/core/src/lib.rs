//! Every decision of the broker as pure functions of (state, event, now).
//!
//! - [`record`]: what the commit log holds, and its encoding;
//! - [`topic`] and [`group`]: configuration; [`topic_change`] and [`group_change`]: how administrators change it;
//!   [`topic_limits`]: one part of it;
//! - [`lookup`]: the hashes by which messages are found again;
//! - [`publish`]: what may be sent;
//! - [`dedup`]: which messages are repeats of earlier ones;
//! - [`flush`]: when a record counts as stored;
//! - [`replicas`]: and how many members of a broker group hold it then;
//! - [`filter`]: which messages a consumer wants;
//! - [`queue_offset`]: the place of a message in its queue;
//! - [`acks`]: what a consumer group has finished in one queue;
//! - [`delivery`]: who holds which message until when;
//! - [`held`]: messages that are not visible yet;
//! - [`transaction`]: what becomes of a half message;
//! - [`slots`]: the queues of message groups, also while a topic gets another number of queues;
//! - [`schedule`]: when a message is to be delivered;
//! - [`timer`]: what becomes of a scheduled message;
//! - [`retention`]: which old segments and messages go;
//! - [`early_removal`]: what consumer groups lose when they go before their time;
//! - [`clock`]: the clock for scheduled messages;
//! - [`health`]: verdicts on the state of a broker.
//!
//! Nothing here does I/O, reads a clock, draws random numbers or starts threads: the callers pass `now` in and carry
//! the effects out. That is what makes every rule testable in microseconds and the whole replayable on a replica.

#![warn(clippy::iter_over_hash_type)]

pub mod acks;
pub mod attributes;
pub mod audit;
pub mod clock;
pub mod dedup;
pub mod delivery;
pub mod early_removal;
pub mod filter;
pub mod flush;
pub mod group;
pub mod group_change;
pub mod health;
pub mod held;
pub mod lite;
pub mod lookup;
pub mod publish;
pub mod queue_offset;
pub mod record;
pub mod replicas;
pub mod retention;
pub mod schedule;
pub mod slots;
pub mod timer;
pub mod topic;
pub mod topic_change;
pub mod topic_limits;
pub mod transaction;
