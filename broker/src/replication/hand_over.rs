//! A leader hands its leadership over: what its machine waits for, step by step.
//!
//! # Hand over
//!
//! A broker that is stopped admits no call (`rpc/admission.rs` holds them), waits until everything is
//! confirmed, gives up its leadership, follows the new master, and passes on the calls that it held. Slaves are access
//! points: they pass everything on to their master.

use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::{ErrorKind, HandOverRequest};
use kerolox_replication::{HandOverAnswer, MemberId, MemberInput};
use tonic::Status;

use super::HandOverStage;
use super::roles::Member;

impl Member {
    /// Lets no client in, waits until everything that was let in is done and confirmed, and hands the leadership over, to a certain member if
    /// `to` is not 0. Why that cannot be is told in words.
    pub(super) async fn give_up_leadership(&self, to: MemberId) -> Result<(), String> {
        let mut stages = self.group.hand_over.subscribe();
        self.group.hand_over.send_replace(HandOverStage::Machine);
        self.tell(MemberInput::HandOver(to));
        loop {
            let stage = stages.borrow_and_update().clone();
            match stage {
                HandOverStage::Machine => {}
                HandOverStage::Drain => {
                    // The role that the machine has by now lets no client in.
                    self.parts.done().await;
                    self.tell(MemberInput::Drained);
                }
                HandOverStage::Ask { epoch, me, to } => {
                    let answer = self.ask_hand_over(epoch, me, to).await;
                    self.tell(MemberInput::HandOverAnswered(answer));
                }
                HandOverStage::Over(outcome) => return outcome,
            }
            if stages.changed().await.is_err() {
                return Err("this member is gone".into());
            }
        }
    }

    async fn ask_hand_over(&self, epoch: u32, me: MemberId, to: MemberId) -> HandOverAnswer {
        let request = HandOverRequest {
            cluster: self.group.cluster.clone(),
            group: self.group.name.clone(),
            epoch,
            member: me,
            to,
        };
        match self.group.controller.hand_over(request).await {
            Ok(_) => HandOverAnswer::Accepted,
            Err(status) => failed(&status),
        }
    }
}

/// A controller that refused has done nothing. One that could not answer, or an answer that was lost, leaves that open.
fn failed(status: &Status) -> HandOverAnswer {
    let reason = status.message().to_owned();
    match RpcError::read(status).map(|refusal| refusal.kind) {
        None | Some(ErrorKind::Unavailable | ErrorKind::Internal | ErrorKind::Unspecified) => {
            HandOverAnswer::Unknown(reason)
        }
        Some(
            ErrorKind::Invalid
            | ErrorKind::NotFound
            | ErrorKind::NotAllowed
            | ErrorKind::Stale
            | ErrorKind::Foreign,
        ) => HandOverAnswer::Refused(reason),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_controller_refused_is_certain() {
        let told = |status: Status| matches!(failed(&status), HandOverAnswer::Refused(_));
        assert!(told(RpcError::not_allowed("no other member").into()));
        assert!(told(RpcError::stale("another epoch").into()));
        assert!(!told(RpcError::unavailable("no majority").into()));
        assert!(!told(Status::failed_precondition("a proxy on the way")));
        assert!(!told(Status::deadline_exceeded("no answer")));
    }
}
