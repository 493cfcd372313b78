//! A member of a broker group as one state machine: inputs and the time in, effects out.
//!
//! The machine makes every decision on which the safety of replication rests: what to remember before acting on it, which role the member
//! plays, where to cut the log, which records count as held, when to grant a lease, which records are confirmed, which in-sync set to
//! request, and how a leadership ends. A driver carries out the effects on a log, a network and a controller, and reports the results.
//! The broker drives it with threads and sockets, the simulated cluster with virtual ones.
//!
//! # What a driver has to do
//!
//! - [`MemberEffect::Save`] comes before the effects that depend on it: those are given when [`MemberInput::Saved`] tells of its end.
//! - A [`DutyOrder`] replaces the previous one. The driver first ends the previous duty and only then begins. [`MemberInput::Ended`]
//!   reports the end of a duty, requested or not, by its number.
//! - [`MemberEffect::Publish`] is carried out in the order of the effects, on any thread.
//! - [`GroupMember::role`] is the member's role for others at each moment.

mod events;
mod follower;
mod inspect;
mod leadership;
mod record;
mod role;
mod view;

pub use events::{HandOverAnswer, LogEnds, MemberEffect, MemberInput, MemberSettings};
pub use follower::{CommitUpdate, FollowRefusal, FollowerLog, LeaderAnswer, LogRepair};
pub use leadership::CommitStatus;
pub use record::{MemberRecord, StateMemory};
pub use role::{DutyOrder, FollowTarget, MemberDuty, MemberRole};
pub use view::{GroupView, PeerView};

use crate::{
    ClockReading, ConfirmedMark, DoubtLimits, LeaseGrants, MemberAllegiance, MemberId, StateVerdict, sabotage,
};
use follower::{CutGuard, Follower};
use leadership::{HandOverStep, Leadership};
use record::DurableRecord;
use role::{NextStep, Standpoint, next_step};

/// Minimum time between two updates of the confirmed end in the record, in milliseconds.
const NOTE_CONFIRMED_MS: u64 = 1_000;

/// The current work of a member.
#[derive(Debug, Clone)]
enum Phase {
    Idle,
    /// The previous duty has to end.
    Ending,
    Following(Box<Follower>),
    Opening {
        epoch: u32,
        me: MemberId,
        /// End of the record that opens the leadership, once it is durable.
        opened: Option<u64>,
        is_settled: bool,
    },
    Leading(Box<Leadership>),
}

/// A state that has to be remembered before the member accepts it.
#[derive(Debug, Clone)]
struct Told {
    version: u64,
    me: MemberId,
    view: GroupView,
}

/// A member of a broker group. See the module.
#[derive(Debug, Clone)]
pub struct GroupMember {
    settings: MemberSettings,
    record: DurableRecord,
    allegiance: MemberAllegiance,
    grants: LeaseGrants,
    known: ConfirmedMark,
    known_noted: u64,
    told: Option<Told>,
    /// The member's number, and the accepted state.
    view: Option<(MemberId, GroupView)>,
    phase: Phase,
    /// The last ordered duty.
    order: DutyOrder,
    is_interrupted: bool,
    out: Vec<MemberEffect>,
}

impl GroupMember {
    /// The member of a process that was just started with this record.
    pub fn new(settings: MemberSettings, record: MemberRecord, now: ClockReading) -> Self {
        // An earlier process may have granted a lease just before it ended.
        let grants = match record.granted {
            0 => LeaseGrants::default(),
            _ => LeaseGrants::unknown(settings.policy.lease_ms, now.mono_ms),
        };
        Self {
            settings,
            allegiance: MemberAllegiance::default(),
            grants,
            known: record.confirmed,
            known_noted: now.mono_ms,
            told: None,
            view: None,
            phase: Phase::Idle,
            order: DutyOrder { number: 0, duty: MemberDuty::Idle },
            is_interrupted: false,
            record: DurableRecord::new(record),
            out: Vec::new(),
        }
    }

    /// Judges a state that a controller reports; after [`StateVerdict::Take`] the driver passes it in as [`MemberInput::State`].
    pub fn judge(&mut self, view: &GroupView, limits: DoubtLimits, now: ClockReading) -> StateVerdict {
        let known = self.record.now().memory.as_ref().map(|memory| &memory.name);
        let verdict = self.allegiance.judge(known, &view.name, limits, now.mono_ms);
        if verdict == StateVerdict::Take && self.begins_anew(view) && sabotage::is("one-lineage-for-good") {
            return StateVerdict::Overtaken;
        }
        verdict
    }

    /// Whether a controller with this state began its record of the group anew since the state that this member accepted.
    pub fn begins_anew(&self, view: &GroupView) -> bool {
        let known = self.record.now().memory.as_ref().map(|memory| &memory.name.lineage);
        known.is_some_and(|known| !known.is_empty() && *known != view.name.lineage)
    }

    /// Takes one input. The driver carries out the effects in their order.
    pub fn handle(&mut self, input: MemberInput, now: ClockReading) -> Vec<MemberEffect> {
        let is_failed_save = matches!(input, MemberInput::SaveFailed);
        self.take(input, now);
        self.advance(now);
        if !is_failed_save && let Some((version, record)) = self.record.next_save() {
            // Dependent effects follow after the save has ended, so its place in this list does not matter.
            self.out.insert(0, MemberEffect::Save { version, record });
        }
        std::mem::take(&mut self.out)
    }

    fn take(&mut self, input: MemberInput, now: ClockReading) {
        match input {
            MemberInput::Recovered { epoch, applied } if self.record.now().has_others() => {
                self.hear_confirmed(epoch, applied, now);
            }
            MemberInput::Recovered { .. } => {}
            MemberInput::State { me, view } => self.on_state(me, view),
            MemberInput::Saved(version) => self.on_saved(version),
            MemberInput::SaveFailed => self.record.save_failed(),
            MemberInput::Ended(number) => self.on_ended(number),
            MemberInput::Interrupted => self.interrupt(),
            MemberInput::Resumed => self.is_interrupted = false,
            MemberInput::Tick { log, wants_quorum } => self.on_tick(log, wants_quorum, now),
            MemberInput::NoteConfirmed => self.note_confirmed(),
            MemberInput::Greeting | MemberInput::Answered { .. } | MemberInput::Copied { .. } => {
                self.take_as_follower(input, now)
            }
            _ => self.take_as_leader(input, now),
        }
    }

    fn on_state(&mut self, me: MemberId, view: GroupView) {
        let is_known = match (&self.told, &self.view) {
            (Some(told), _) => (told.me, &told.view) == (me, &view),
            (None, Some((known_me, known))) => (*known_me, known) == (me, &view),
            (None, None) => false,
        };
        if is_known {
            return;
        }
        self.record.remember(&view);
        self.told = Some(Told { version: self.record.version(), me, view });
    }

    fn on_saved(&mut self, version: u64) {
        let promised = self.record.promised();
        self.record.saved(version);
        if self.record.promised() > promised {
            self.out.push(MemberEffect::Promised(self.record.promised()));
        }
    }

    fn on_ended(&mut self, number: u64) {
        if number == self.order.number {
            self.leave_phase();
            self.phase = Phase::Idle;
        }
    }

    fn interrupt(&mut self) {
        self.is_interrupted = true;
        if !matches!(self.phase, Phase::Idle | Phase::Ending) {
            self.end();
        }
    }

    /// Follows the state of the group as far as the durable record allows.
    fn advance(&mut self, now: ClockReading) {
        self.begin_leading(now);
        self.adopt(now);
        while !self.is_interrupted && self.take_step(now) {}
        self.look_after_following(now);
    }

    fn adopt(&mut self, now: ClockReading) {
        let Some(Told { me, view, .. }) = self.told.take_if(|told| self.record.is_durable(told.version))
        else {
            return;
        };
        if let Phase::Leading(leadership) = &mut self.phase
            && leadership.epoch == view.epoch
        {
            leadership.tracker.on_state(view.in_sync_set(), now.mono_ms);
            self.view = Some((me, view));
            self.publish();
            return;
        }
        self.view = Some((me, view));
    }

    /// Takes one step; returns whether another may follow.
    fn take_step(&mut self, now: ClockReading) -> bool {
        let Some((me, view)) = &self.view else { return false };
        if matches!(self.phase, Phase::Ending) {
            return false;
        }
        let own = Standpoint {
            me: *me,
            process: &self.settings.process,
            promised: self.record.promised(),
            grants_ms: self.grants.left(now.mono_ms),
        };
        let duty = match self.phase {
            Phase::Idle => &MemberDuty::Idle,
            _ => &self.order.duty,
        };
        match next_step(duty, own, view) {
            NextStep::Stay => false,
            NextStep::End => {
                self.end();
                false
            }
            NextStep::Promise(epoch) => {
                self.record.change(|now| now.promised = now.promised.max(epoch));
                if self.record.promised() < epoch {
                    return false;
                }
                self.out.push(MemberEffect::Promised(epoch));
                true
            }
            NextStep::Follow(target) => {
                self.phase = Phase::Following(Box::new(Follower::new(target.clone())));
                self.order(MemberDuty::Follow(target));
                false
            }
            NextStep::Lead { after_ms: 1.., .. } => false,
            NextStep::Lead { epoch, .. } => {
                let (me, is_alone) = (*me, view.in_sync.len() == 1);
                self.record.change(|now| now.granted = 0);
                if self.record.durable().granted == 0 {
                    self.phase = Phase::Opening { epoch, me, opened: None, is_settled: false };
                    self.order(MemberDuty::Lead { epoch, me, is_alone });
                }
                false
            }
        }
    }

    /// Orders the driver to end its current duty.
    fn end(&mut self) {
        self.leave_phase();
        self.phase = Phase::Ending;
        self.order(MemberDuty::Idle);
    }

    fn leave_phase(&mut self) {
        if let Phase::Leading(leadership) = &mut self.phase {
            let epoch = leadership.epoch;
            let is_succeeded = self.view.as_ref().is_some_and(|(_, view)| view.epoch > epoch);
            let outcome = leadership.end(is_succeeded);
            self.out.extend(outcome.map(MemberEffect::HandedOver));
        }
    }

    fn order(&mut self, duty: MemberDuty) {
        self.order = DutyOrder { number: self.order.number + 1, duty };
        self.out.push(MemberEffect::Order(self.order.clone()));
    }

    fn on_tick(&mut self, log: LogEnds, wants_quorum: bool, now: ClockReading) {
        let Phase::Leading(leadership) = &mut self.phase else { return };
        let is_barrier = leadership.plan(log, wants_quorum, now.mono_ms);
        let (epoch, status) = (leadership.epoch, leadership.publish());
        self.out.push(MemberEffect::Publish { status, is_barrier });
        self.hear_confirmed(epoch, status.high_watermark.min(log.durable), now);
        self.ask_for_change();
        self.hand_over_on(log, now);
    }

    /// Publishes the confirmed positions after a change.
    fn publish(&mut self) {
        if let Phase::Leading(leadership) = &mut self.phase {
            let status = leadership.publish();
            self.out.push(MemberEffect::Publish { status, is_barrier: false });
        }
    }

    /// Requests the wanted in-sync set once the record holds it: only the answer shows whether it came about, and a controller
    /// that lost its data has to ask the members of it.
    fn ask_for_change(&mut self) {
        let (Phase::Leading(leadership), Some((_, view))) = (&mut self.phase, &self.view) else { return };
        let Some(change) = leadership.wanted_change() else { return };
        let wanted = view.incarnations(|id| change.members.contains(&id));
        let remembers = |record: &MemberRecord| {
            record.memory.as_ref().is_none_or(|memory| wanted.is_subset(&memory.in_sync))
        };
        if !remembers(self.record.durable()) {
            self.record.change(|now| {
                if let Some(memory) = &mut now.memory {
                    memory.in_sync.extend(wanted);
                }
            });
            return;
        }
        leadership.is_asking = true;
        let (epoch, me) = (leadership.epoch, leadership.me);
        self.out.push(MemberEffect::AskChange { epoch, me, change });
    }

    fn hand_over_on(&mut self, log: LogEnds, now: ClockReading) {
        if let Phase::Leading(leadership) = &mut self.phase {
            let step = leadership.hand_over_step(log, now.mono_ms);
            self.on_hand_over_step(step);
        }
    }

    fn on_hand_over_step(&mut self, step: HandOverStep) {
        let Phase::Leading(leadership) = &mut self.phase else { return };
        let (epoch, me) = (leadership.epoch, leadership.me);
        match step {
            HandOverStep::Wait => {}
            HandOverStep::Ask(to) => {
                // The lease is given up before another member can be elected.
                self.publish();
                self.out.push(MemberEffect::AskHandOver { epoch, me, to });
            }
            HandOverStep::Over(outcome) => {
                self.publish();
                self.out.push(MemberEffect::HandedOver(outcome));
            }
        }
    }

    fn take_as_leader(&mut self, input: MemberInput, now: ClockReading) {
        if let MemberInput::Opened { number, end } = input {
            return self.on_opened(number, end);
        }
        if let (MemberInput::Settled, Phase::Opening { is_settled, .. }) = (&input, &mut self.phase) {
            *is_settled = true;
            return;
        }
        let Phase::Leading(leadership) = &mut self.phase else {
            if let MemberInput::HandOver(_) = input {
                let refused = Err("this member does not rule".to_owned());
                self.out.push(MemberEffect::HandedOver(refused));
            }
            return;
        };
        match input {
            MemberInput::Settled => leadership.is_open = true,
            MemberInput::Published { end } => {
                leadership.on_barrier(end);
                self.ask_for_change();
            }
            MemberInput::Follows(member) => leadership.tracker.on_follows(member),
            MemberInput::Leaves(member) => leadership.tracker.on_leaving(member),
            MemberInput::Acked { member, durable, ping, log } => {
                leadership.tracker.on_ack(member, durable, ping, log.end, now.mono_ms);
                self.publish();
                self.hand_over_on(log, now);
            }
            MemberInput::ChangeAnswered => leadership.is_asking = false,
            MemberInput::HandOver(to) => match leadership.resign(to) {
                Ok(true) => self.out.push(MemberEffect::Drain),
                Ok(false) => {}
                Err(reason) => self.out.push(MemberEffect::HandedOver(Err(reason))),
            },
            MemberInput::Drained => leadership.on_drained(now.mono_ms),
            MemberInput::HandOverAnswered(answer) => {
                let step = leadership.on_hand_over_answer(answer, now.mono_ms);
                self.on_hand_over_step(step);
            }
            _ => {}
        }
    }

    fn on_opened(&mut self, number: u64, end: u64) {
        if let Phase::Opening { opened, .. } = &mut self.phase
            && number == self.order.number
        {
            *opened = Some(end);
            self.record.change(|now| now.has_held = true);
        }
    }

    /// Begins to lead when the log is opened and the record shows that there is a log: before that, no record counts as
    /// held.
    fn begin_leading(&mut self, now: ClockReading) {
        let (Phase::Opening { epoch, me, opened: Some(end), is_settled }, Some((_, view))) =
            (&self.phase, &self.view)
        else {
            return;
        };
        if !self.record.durable().has_held {
            return;
        }
        // The state may have changed meanwhile; the leadership then ends at once.
        let MemberSettings { policy, hand_over_ms, .. } = self.settings;
        let mut leadership = Leadership::new((*epoch, *me), policy, hand_over_ms, view, (*end, now));
        leadership.is_open = *is_settled;
        self.phase = Phase::Leading(Box::new(leadership));
        self.publish();
    }

    fn take_as_follower(&mut self, input: MemberInput, now: ClockReading) {
        let (Phase::Following(follower), Some((me, view))) = (&mut self.phase, &self.view) else { return };
        match input {
            MemberInput::Greeting => follower.greet(),
            MemberInput::Answered { answer: LeaderAnswer::Start, .. } => {
                follower.is_streaming = true;
                let epoch = follower.target.epoch;
                // A later process must know that there may be a lease.
                self.record.change(|now| (now.granted, now.has_held) = (epoch, true));
                self.out.push(MemberEffect::StartCopying);
            }
            MemberInput::Answered { answer, log, salt } => {
                let guard = CutGuard {
                    known: self.known,
                    accepted: view.unclean_epoch,
                    is_in_sync: view.in_sync.contains(me),
                };
                self.out.extend(match guard.repair(&answer, log.as_ref(), salt) {
                    Ok(repair) => repair.map(MemberEffect::Repair),
                    Err(refusal) => Some(MemberEffect::RefuseToFollow(refusal)),
                });
            }
            MemberInput::Copied { durable, update } => {
                follower.on_copied(durable, update);
                let (epoch, to) = (follower.target.epoch, follower.may_apply());
                let high_watermark = follower.high_watermark();
                self.out.push(MemberEffect::Apply(to));
                if update.is_some() {
                    self.hear_confirmed(epoch, high_watermark, now);
                }
            }
            _ => {}
        }
    }

    /// Answers the leader's ping once the answer may bind this member: the grant is remembered, and nothing is promised to a
    /// later epoch.
    fn look_after_following(&mut self, now: ClockReading) {
        let Phase::Following(follower) = &mut self.phase else { return };
        let epoch = follower.target.epoch;
        let is_bound = self.record.now().promised == epoch || sabotage::is("ignore-epoch");
        let remembered = self.record.durable();
        if !is_bound || !remembered.has_held || remembered.granted != epoch {
            return;
        }
        if let Some((durable, ping)) = follower.take_ack() {
            self.grants.give(self.settings.policy.lease_ms, now.mono_ms);
            self.out.push(MemberEffect::SendAck { durable, ping });
        }
    }

    fn hear_confirmed(&mut self, epoch: u32, position: u64, now: ClockReading) {
        self.known.hear(epoch, position, self.accepted());
        if now.mono_ms.saturating_sub(self.known_noted) >= NOTE_CONFIRMED_MS {
            self.known_noted = now.mono_ms;
            self.note_confirmed();
        }
    }

    fn note_confirmed(&mut self) {
        let known = self.known;
        self.record.change(|now| now.confirmed = known);
    }

    /// Newest epoch for which an operator accepted loss.
    fn accepted(&self) -> u32 {
        self.view.as_ref().map_or(0, |(_, view)| view.unclean_epoch)
    }
}

#[cfg(test)]
mod tests;
