//! The controller's mind: which member of each broker group is its master, in which epoch, and who is in sync with it.
//!
//! Nothing here does I/O or reads a clock. [`GroupTable`] is the state that the nameservers agree on; it changes by
//! [`GroupCommand`]s alone, and the same commands give the same state everywhere. [`MemberWatch`] is what the nameserver that leads
//! has heard of the members; it is soft. [`decide`] gives the commands that follow from both. Times are milliseconds of a clock
//! that never runs backwards; only differences count.
//!
//! # Elections
//!
//! Members of a broker group report to the controller every few hundred milliseconds, in a long poll that brings
//! home each change of the group's state. The nameserver that leads notes the reports ([`MemberWatch`],
//! soft), decides what follows from them (`decide`), and proposes it as a command; an entry that a majority of the
//! nameservers has on disk is applied everywhere (`apply`). A report that changes nothing is no entry. Commands
//! carry the version of the state that they are based on, so what overlaps is refused. An answer comes from the
//! leader after a majority has confirmed it, one confirmation for all who came before it
//! (`nameserver/src/controller/leadership.rs`); the others pass calls on, one hop. A leader begins with an entry of
//! its own: when that is through, so is everything that was decided before, also after its own restart. What it
//! could not hear (it just began, had no majority, did not get to run) it does not take for silence of a member. A
//! group of which the controller knows nothing, but whose member knows others, waits for all of them.

#![warn(clippy::iter_over_hash_type)]

mod apply;
mod command;
mod decide;
mod election;
mod history;
mod loss;
mod mark;
mod request;
mod sabotage;
mod standing;
mod state;
mod watch;

pub use command::{CommandRefusal, CommandReply, GroupCommand, JoiningMember, RefusalReason};
pub use decide::{decide, waiting_for, why_elect};
pub use history::{PastTenure, TenureState};
pub use loss::{ElectionLoss, begin_anew, election_loss};
pub use mark::StateMark;
pub use request::{change_in_sync, elect_master, hand_over, joining, remove_member};
pub use state::{ElectionWishes, GroupMemberRecord, GroupName, GroupRecord, GroupTable, MemberId};
pub use watch::{ElectionPolicy, MemberSighting, MemberWatch};

#[cfg(test)]
mod tests;
