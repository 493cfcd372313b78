//! A leader hands its leadership over: what its machine waits for, step by step.
//!
//! # Hand over
//!
//! A broker that is stopped lets nobody in (`rpc/admission.rs` holds the calls), waits until everything is
//! confirmed, gives its reign up, follows the new master, and passes on the calls that it held. Slaves are access
//! points: they pass everything on to their master.

use kerolox_proto::kerolox::HandOverRequest;
use kerolox_replication::{HandOverAnswer, MemberId, MemberInput};
use tonic::{Code, Status};

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
        let is_certain = |status: &Status| {
            matches!(status.code(), Code::FailedPrecondition | Code::NotFound | Code::InvalidArgument)
        };
        match self.group.controller.hand_over(request).await {
            Ok(_) => HandOverAnswer::Accepted,
            Err(status) if is_certain(&status) => HandOverAnswer::Refused(status.message().to_owned()),
            Err(status) => HandOverAnswer::Unknown(status.message().to_owned()),
        }
    }
}
