//! The controller's mind: which member of each broker group is its master, in which epoch, and who is in sync with it.
//!
//! Nothing here does I/O or reads a clock. [`GroupTable`] is the state that the nameservers agree on; it changes by
//! [`GroupCommand`]s alone, and the same commands give the same state everywhere. [`MemberWatch`] is what the nameserver that leads
//! has heard of the members; it is soft. [`decide`] says from both what is to be done. Times are milliseconds of a clock
//! that never runs backwards; only differences count.

#![warn(clippy::iter_over_hash_type)]

mod apply;
mod command;
mod decide;
mod election;
mod loss;
mod mark;
mod request;
mod sabotage;
mod state;
mod watch;

pub use command::{CommandRefusal, CommandReply, GroupCommand, JoiningMember, RefusalReason};
pub use decide::{decide, waiting_for, why_elect};
pub use loss::{ElectionLoss, begin_anew, election_loss};
pub use mark::{PastTenure, StateMark};
pub use request::{change_in_sync, elect_master, hand_over, joining, remove_member};
pub use state::{ElectionWishes, GroupMemberRecord, GroupName, GroupRecord, GroupTable, MemberId};
pub use watch::{ElectionPolicy, MemberSighting, MemberWatch};

#[cfg(test)]
mod tests;
