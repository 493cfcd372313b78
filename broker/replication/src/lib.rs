//! Replication of a broker group as decisions: (state, event, now) in, effects out. No I/O, no clock.
//!
//! # The rules
//!
//! 1. A master appends records of its epoch only, and each epoch has one master: the controller says which. So two logs that
//!    have a record of the same epoch at the same place are the same up to there ([`handshake`]).
//! 2. A record is *confirmed* when every member of the in-sync set has it on disk, or a majority of it where the group says
//!    so ([`Master::confirmed`]). Only the controller changes the set, and only from a version that the master knows. While a
//!    change is under way, what counts is what both sets say.
//! 3. Only members of the in-sync set are elected. So whoever is elected has what was confirmed; with a majority rule the
//!    controller hears enough of them to find the one who has it.
//! 4. Who is elected refuses the records of earlier epochs, and begins its reign with a record of the new one. Nothing
//!    of before is confirmed again until the set has that record.
//! 5. A member says with every answer to a ping that it has promised nothing to a later reign. A master that has heard
//!    that of all members of the set within a lease is the only one ([`Master::rules_until`]); who is elected waits until
//!    the leases that it gave have ended ([`Grants`]). Both clocks are monotonic; a tenth of a lease is allowed for the
//!    difference of their speeds.
//! 6. A member remembers up to where it heard that its log was confirmed, and cuts nothing before that, whoever was elected,
//!    unless an operator accepted the loss ([`Known`]). No election that goes by these rules asks for such a cut; a controller that
//!    lost what it decided may.

mod allegiance;
mod clock;
pub mod handshake;
mod known;
mod lease;
mod master;
mod member;
mod sabotage;

pub use allegiance::{Allegiance, DoubtLimits, StateName, Verdict};
pub use clock::ClockReading;
pub use known::Known;
pub use lease::Grants;
pub use master::{Change, Confirmed, InSync, Master, Policy, SlaveView};
pub use member::{
    CommitStatus, CommitUpdate, DutyOrder, FollowRefusal, FollowTarget, FollowerLog, GroupMember, GroupView,
    HandOverAnswer, LeaderAnswer, LogEnds, LogRepair, MemberDuty, MemberEffect, MemberInput, MemberRecord,
    MemberRole, MemberSettings, PeerView, StateMemory,
};

/// Number of a member within its group, from 1 on.
pub type MemberId = u64;
