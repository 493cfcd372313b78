//! What administrators see and ask of a member.

use std::sync::atomic::Ordering;
use std::time::Duration;

use kerolox_core::flush::FlushRequirement;
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::{DescribeReplicationResponse, SlaveView};
use kerolox_replication::{MemberId, MemberRole};
use tokio::sync::oneshot;

use super::{GiveUp, Group, Leadership};
use crate::config::ReplicaChoice;

/// What this member is at.
pub(super) fn describe(group: &Group) -> DescribeReplicationResponse {
    let seen = group.seen.borrow().clone();
    let (member, epoch) = seen.as_ref().map_or((0, 0), |seen| (seen.me, seen.state.epoch));
    let role = group.role();
    // One that is about to begin, or has just ended, is none.
    let leads = matches!(role, MemberRole::Leader { .. } | MemberRole::Resigning { .. });
    let leadership = group.leadership().filter(|_| leads);
    let standing = group.standing.borrow().clone();
    let described = DescribeReplicationResponse {
        group: group.name.clone(),
        member,
        role: role_word(&role).to_owned(),
        epoch,
        end: standing.end,
        durable: standing.end,
        drained: *group.drained.borrow(),
        read_for_master: group.read_for_master.load(Ordering::Relaxed),
        ..DescribeReplicationResponse::default()
    };
    match leadership {
        Some(leadership) => described_leadership(described, group, &leadership),
        None => described,
    }
}

/// What administrators are told of a role.
fn role_word(role: &MemberRole) -> &'static str {
    match role {
        MemberRole::Leader { .. } | MemberRole::Resigning { .. } => "master",
        MemberRole::Follower { .. } => "slave",
        MemberRole::Waiting | MemberRole::Candidate { .. } => "none",
    }
}

fn described_leadership(
    described: DescribeReplicationResponse,
    group: &Group,
    leadership: &Leadership,
) -> DescribeReplicationResponse {
    let positions = leadership.store.positions();
    let slaves = leadership.slaves().into_iter().map(|slave| SlaveView {
        member: slave.id,
        durable: slave.durable,
        silent_ms: slave.silent_ms,
        in_sync: slave.in_sync,
    });
    DescribeReplicationResponse {
        epoch: leadership.epoch,
        end: positions.end,
        durable: positions.durable,
        applied: positions.applied,
        confirmed: leadership.store.safe(),
        slaves: slaves.collect(),
        promise: promise(group.config.acks, group.flush, leadership.in_sync_len(), group.config.min_in_sync),
        ..described
    }
}

/// What an acknowledgement means, for people.
fn promise(acks: ReplicaChoice, flush: FlushRequirement, in_sync: usize, min_in_sync: usize) -> String {
    let here = match flush {
        FlushRequirement::Sync => "on the disk",
        FlushRequirement::Async => "in the page cache (a power cut may take the last moments)",
    };
    let members = match (acks, in_sync) {
        (_, 1) => format!("{here} of this broker, the only member in sync"),
        (ReplicaChoice::Master, _) => {
            format!("{here} of the master; what no slave has yet is lost when the master is")
        }
        (ReplicaChoice::Quorum, _) => {
            let others = in_sync / 2;
            format!("{here} of the master and on the disks of {others} of its {} slaves in sync", in_sync - 1)
        }
        (ReplicaChoice::All, _) => {
            format!("{here} of the master and on the disks of all {} slaves in sync", in_sync - 1)
        }
    };
    format!("An acknowledged message is {members}; with fewer than {min_in_sync} in sync, sends are refused.")
}

/// How long an administrator waits for a leadership that is about to begin: longer than a lease.
const OPENING: Duration = Duration::from_secs(5);

/// Has the leadership handed over to a member, 0 for any. One that is about to begin is waited for, up to [`OPENING`].
///
/// # Errors
/// NOT_ALLOWED with the reason.
pub(super) async fn give_up_leadership(group: &Group, to: MemberId) -> Result<(), RpcError> {
    let mut role = group.watch_role();
    let has_begun = role.wait_for(|role| !matches!(role, MemberRole::Candidate { .. }));
    // A leadership that takes longer refuses.
    drop(tokio::time::timeout(OPENING, has_begun).await);
    let (answer, outcome) = oneshot::channel();
    let asked = group.asked.send(GiveUp { to, answer }).await;
    asked.map_err(|_| RpcError::unavailable("the broker is shutting down"))?;
    match outcome.await {
        Ok(outcome) => outcome.map_err(RpcError::not_allowed),
        Err(_) => Err(RpcError::unavailable("the broker is shutting down")),
    }
}

/// Keeps this member from ruling, or lets it again.
///
/// # Errors
/// NOT_ALLOWED when it rules and no other member can take over.
pub(super) async fn set_drained(group: &Group, drained: bool) -> Result<(), RpcError> {
    if drained && group.leadership().is_some() {
        give_up_leadership(group, 0).await?;
    }
    group.drained.send_replace(drained);
    let unfit = group.unfit(None);
    group.standing.send_modify(|standing| standing.unfit = unfit);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_no_master_yet() {
        assert_eq!(role_word(&MemberRole::Leader { epoch: 3 }), "master");
        assert_eq!(role_word(&MemberRole::Resigning { epoch: 3 }), "master");
        assert_eq!(role_word(&MemberRole::Follower { epoch: 3, leader: 2 }), "slave");
        assert_eq!(role_word(&MemberRole::Candidate { epoch: 4 }), "none");
        assert_eq!(role_word(&MemberRole::Waiting), "none");
    }

    #[test]
    fn the_promise_is_one_plain_sentence() {
        let all = promise(ReplicaChoice::All, FlushRequirement::Sync, 3, 2);
        assert_eq!(
            all,
            "An acknowledged message is on the disk of the master and on the disks of all 2 slaves in sync; with fewer than 2 in sync, sends are refused."
        );
        assert!(
            promise(ReplicaChoice::Quorum, FlushRequirement::Sync, 5, 1).contains("of 2 of its 4 slaves")
        );
        assert!(
            promise(ReplicaChoice::Master, FlushRequirement::Async, 2, 1)
                .contains("is lost when the master is")
        );
        assert!(promise(ReplicaChoice::All, FlushRequirement::Sync, 1, 1).contains("only member in sync"));
    }
}
