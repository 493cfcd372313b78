//! Carries out what the member's machine decides: inputs go in here, from whatever thread, and effects are done or handed on.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use kerolox_proto::kerolox::{GroupMember as WireMember, GroupState};
use kerolox_replication::{
    CommitStatus, DoubtLimits, GroupMember, GroupView, LogEnds, MemberEffect, MemberId, MemberInput,
    MemberRecord, PeerView, StateName, StateVerdict,
};
use kerolox_store::{Store, clock_reading};

use super::{Group, HandOverStage};

/// How long a leader without other members waits for the nameserver that it obeyed, where there are several: when each of them
/// decides alone, one that is restarted costs no election.
const LONE_PATIENCE: Duration = Duration::from_secs(60);

impl Group {
    /// Has the machine take an input and carries out its effects, but for those that only the caller can carry out: what a follower
    /// sends and does to its log, and what a leader asks the controller for.
    pub(super) fn tell(&self, input: MemberInput) -> Vec<MemberEffect> {
        let mut rest = Vec::new();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let mut saves = Vec::new();
            {
                let mut member = self.member();
                let effects = member.handle(input, clock_reading());
                for effect in effects {
                    match effect {
                        MemberEffect::Save { version, record } => saves.push((version, record)),
                        MemberEffect::Publish { status, is_barrier } => {
                            inputs.extend(self.publish(&member, status, is_barrier));
                        }
                        other => rest.extend(self.hand_on(other)),
                    }
                }
                let role = member.role();
                self.role.send_if_modified(|known| std::mem::replace(known, role.clone()) != role);
            }
            for (version, record) in saves {
                inputs.push_back(self.save(version, record));
            }
        }
        rest
    }

    /// Publishes while the machine is held: what was decided later must not take effect earlier. The answer is what the machine is to
    /// hear of a barrier.
    fn publish(&self, member: &GroupMember, status: CommitStatus, is_barrier: bool) -> Option<MemberInput> {
        let leadership = self.leadership.borrow().clone()?;
        leadership.store.confirm(status);
        leadership.count_in_sync(member.commit_status().map_or(0, |(_, in_sync)| in_sync));
        // First the stricter rule, then the look at the end: what passes in between passes by that rule.
        is_barrier.then(|| MemberInput::Published { end: leadership.store.reader().end() })
    }

    /// Passes an effect on to the task that carries it out; gives back an effect that the caller has to carry out.
    fn hand_on(&self, effect: MemberEffect) -> Option<MemberEffect> {
        match effect {
            MemberEffect::Promised(promised) => {
                self.standing.send_modify(|standing| standing.promised = promised);
            }
            MemberEffect::Order(order) => drop(self.order.send_replace(order)),
            MemberEffect::Drain => drop(self.hand_over.send_replace(HandOverStage::Drain)),
            MemberEffect::AskHandOver { epoch, me, to } => {
                self.hand_over.send_replace(HandOverStage::Ask { epoch, me, to });
            }
            MemberEffect::HandedOver(outcome) => {
                self.hand_over.send_replace(HandOverStage::Over(outcome));
            }
            other => return Some(other),
        }
        None
    }

    /// Makes a version of the record durable. What cannot be saved is not acted upon, and is tried again with the next input.
    fn save(&self, version: u64, record: MemberRecord) -> MemberInput {
        let mut file = self.file.lock();
        match file.member.save(version, record) {
            Ok(()) => {
                file.troubles.end();
                MemberInput::Saved(version)
            }
            Err(error) => {
                if file.troubles.is_due(&error.to_string(), Instant::now()) {
                    tracing::error!(%error, "member.json cannot be written; this member does not act upon what it cannot remember");
                }
                MemberInput::SaveFailed
            }
        }
    }

    /// Judges what a controller tells, and goes by it if it is to be believed.
    pub(super) fn hear_state(&self, me: MemberId, state: &GroupState) -> StateVerdict {
        let view = view(state);
        let limits = self.doubt_limits();
        let (verdict, is_anew) = {
            let mut member = self.member();
            let is_anew = member.begins_anew(&view);
            (member.judge(&view, limits, clock_reading()), is_anew)
        };
        if verdict == StateVerdict::Take {
            if is_anew {
                let StateName { lineage, version, .. } = &view.name;
                tracing::warn!(
                    lineage,
                    version,
                    "the controller's record of this group began anew: its data were lost, or are an older copy"
                );
            }
            // What only a follower or a leader can do does not follow from a state.
            drop(self.tell(MemberInput::State { me, view }));
        }
        verdict
    }

    /// Whether the machine goes by this state: it does not before it is remembered.
    pub(super) fn goes_by(&self, state: &GroupState) -> bool {
        self.member().view().is_some_and(|(_, known)| *known == view(state))
    }

    pub(super) fn doubt_limits(&self) -> DoubtLimits {
        let nameservers = self.controller.nameservers();
        let leads = self.leadership.borrow().is_some();
        let leads_alone = leads && self.member().record().is_only_member();
        let patience = if nameservers > 1 && leads_alone { LONE_PATIENCE } else { Duration::ZERO };
        DoubtLimits { nameservers, patience_ms: u64::try_from(patience.as_millis()).unwrap_or(u64::MAX) }
    }
}

/// Where a leader's log ends.
pub(super) fn log_ends(store: &Store) -> LogEnds {
    // The durable end first: records written meanwhile do not count as durable.
    let durable = store.reader().durable();
    LogEnds { durable, end: store.reader().end() }
}

/// A state of the group as the machine goes by it.
fn view(state: &GroupState) -> GroupView {
    let peer = |member: &WireMember| {
        let (incarnation, address) = (member.incarnation.clone(), member.replication_address.clone());
        (member.id, PeerView { incarnation, address, holds: member.holds })
    };
    GroupView {
        name: StateName {
            cluster_id: state.cluster_id.clone(),
            lineage: state.lineage.clone(),
            version: state.version,
        },
        tenure: state.tenure.clone(),
        origins: state.origins.iter().map(|origin| (origin.tenure.clone(), origin.version)).collect(),
        epoch: state.epoch,
        leader: state.master,
        leader_process: state.master_process.clone(),
        in_sync: state.in_sync.iter().copied().collect(),
        set_version: state.set_version,
        set_tenure: state.set_tenure.clone(),
        quorum: state.quorum,
        released: state.released,
        unclean_epoch: state.unclean_epoch,
        members: state.members.iter().map(peer).collect(),
    }
}
