//! Replication of a broker group as decisions: (state, event, now) in, effects out. No I/O, no clock.
//!
//! [`GroupMember`] composes the rules into the machine of one member; the other modules are its parts.
//!
//! # The rules
//!
//! 1. A leader appends only records of its epoch, and each epoch has one leader: the controller chooses it. So two logs that
//!    have a record of one epoch at one place are equal up to there ([`handshake`]).
//! 2. A record is *confirmed* when every member of the in-sync set has it on disk, or a majority of the set where the group's rule
//!    allows it ([`InSyncTracker::confirmed`]). Only the controller changes the set, and only from a version that the leader knows.
//!    While a change is under way, a record is confirmed when both sets confirm it.
//! 3. Only members of the in-sync set are elected. So a new leader has every confirmed record; with a majority rule the
//!    controller hears enough of them to find the member that has it.
//! 4. A new leader refuses the records of earlier epochs, and begins its leadership with a record of the new one. No
//!    earlier record is newly confirmed until the set has that record.
//! 5. With every answer to a ping, a member states that it has promised nothing to a later epoch. A leader that has heard this
//!    from all members of the set within a lease is the only one ([`InSyncTracker::lease_until`]); a new leader waits until the
//!    leases that it granted have ended ([`LeaseGrants`]). Both clocks are monotonic; a tenth of a lease is allowed for the
//!    difference of their speeds.
//! 6. A member remembers up to where its log is confirmed, and never cuts before that, whichever leader was elected, unless an
//!    operator accepted the loss ([`ConfirmedMark`]). No election by these rules requires such a cut; a controller that lost its
//!    decisions may.
//!
//! # Elect
//!
//! Brokers report to the controller in the nameservers several times a second (`replication/reports.rs`), and hear
//! of changes at once. `nameserver/controller` decides: when the master is silent, the group's epoch grows; members
//! promise it, durably, and say how far their logs go; the best one in sync is appointed. Before it rules it waits
//! until the leases that it gave have ended, unless the old master handed over. A process that was started since
//! does not go on leading. Members remember the newest state and in-sync set that they went by, and report
//! them (`controller/src/mark.rs`): a controller that does not know that state, because its data were lost or are
//! an older copy, asks all members of the newest set before it goes on, above what they know. Which state a member
//! takes is decided in `broker/replication/src/allegiance.rs`; what an election by force loses is in
//! `controller/src/loss.rs`.

#![warn(clippy::iter_over_hash_type)]

mod allegiance;
mod clock;
mod confirmed_mark;
pub mod handshake;
mod in_sync;
mod lease;
mod member;
mod sabotage;

pub use allegiance::{DoubtLimits, MemberAllegiance, StateName, StateVerdict};
pub use clock::ClockReading;
pub use confirmed_mark::ConfirmedMark;
pub use in_sync::{
    ConfirmedPositions, FollowerView, InSyncChange, InSyncSet, InSyncTracker, ReplicationPolicy,
};
pub use lease::LeaseGrants;
pub use member::{
    CommitStatus, CommitUpdate, DutyOrder, FollowRefusal, FollowTarget, FollowerLog, GroupMember, GroupView,
    HandOverAnswer, LeaderAnswer, LogEnds, LogRepair, MemberDuty, MemberEffect, MemberInput, MemberRecord,
    MemberRole, MemberSettings, PeerView, StateMemory,
};

/// Number of a member within its group, from 1 on.
pub type MemberId = u64;
