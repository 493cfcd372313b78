//! One member of a broker group: the machine of `kerolox-replication`, which decides, on a simulated disk and network.
//!
//! It takes inputs (a message, a tick, the end of a sync) and leaves effects. The world decides how long a sync takes; until then
//! the log is busy, and what needs it waits.

mod disk;
mod follower;
mod leader;

use std::collections::{BTreeMap, VecDeque};

use kerolox_controller::{GroupCommand, GroupName, GroupRecord, JoiningMember, StateMark, TenureState};
use kerolox_log::sabotage;
use kerolox_replication::{
    ClockReading, DoubtLimits, DutyOrder, GroupMember, GroupView, HandOverAnswer, LogEnds, MemberDuty,
    MemberEffect, MemberInput, MemberRecord, MemberRole, MemberSettings, PeerView, StateMemory, StateName,
    StateVerdict,
};
use kerolox_store::Store;

pub(crate) use disk::Disk;
use follower::FollowerDuty;
use leader::{Leading, Placed};

use crate::message::{Asked, Message, Node};
use crate::swarm::Swarm;

pub(crate) const CONTROLLERS: usize = 3;
/// How long an answer of the controller to a request for another in-sync set is waited for.
const CHANGE_MS: u64 = 150;
/// How long one to a hand-over is.
const HAND_OVER_MS: u64 = 2_000;

/// What a process is started with.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Group, and place in it.
    pub(crate) place: (usize, usize),
    pub(crate) name: GroupName,
    /// For a disk without a log.
    pub(crate) incarnation: String,
    /// Number of the process, over all.
    pub(crate) life: u64,
    pub(crate) wants_quorum: bool,
}

/// What happens to a member.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "most of them are messages")]
pub(crate) enum Input {
    Tick,
    /// The sync that was asked for with this token is over.
    Synced(u64),
    Message(Node, Message),
    /// An administrator wants another master.
    HandOver,
}

/// What a member does.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most of them are messages")]
pub(crate) enum Effect {
    Send(Node, Message),
    /// What was written is to be made durable; [`Input::Synced`] follows with this token.
    Sync(u64),
    Note(Note),
}

/// What those who judge want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// It follows no leadership before this one from here on.
    Promised(u32),
    /// It says to a leader of this epoch that it holds everything before a position.
    Held { epoch: u32, durable: u64 },
    /// It begins to lead.
    Opened(u32),
    /// As leader, with a log in which the record that opened its leadership ends at `opened`, it publishes what it counts.
    Published { opened: u64, high_watermark: u64 },
    /// It takes everything before this position for confirmed.
    Confirmed { epoch: u32, until: u64 },
    /// It answers a proposal.
    Acked(u32),
    /// It answers a reader.
    Served,
    /// It gives up its log from a position on; its index held everything before the other one.
    Cut { to: u64, applied: u64 },
}

/// The clocks, and where effects go.
pub(crate) struct Ctx<'a> {
    pub(crate) mono_ms: u64,
    pub(crate) wall_ms: i64,
    pub(crate) swarm: &'a Swarm,
    pub(crate) out: Vec<Effect>,
}

impl Ctx<'_> {
    fn clock(&self) -> ClockReading {
        ClockReading { mono_ms: self.mono_ms, wall_ms: self.wall_ms }
    }

    fn send(&mut self, to: Node, message: Message) {
        self.out.push(Effect::Send(to, message));
    }

    fn note(&mut self, note: Note) {
        self.out.push(Effect::Note(note));
    }
}

/// What a sync of the log under way is for.
enum LogWork {
    /// The record that opens the leadership of a duty.
    Open {
        number: u64,
        epoch: u32,
    },
    Batch(Vec<Placed>),
    Copy,
}

/// The work in progress for the duty.
enum Activity {
    Idle,
    Leading(Box<Leading>),
    Following(Box<FollowerDuty>),
}

pub(crate) struct Member {
    identity: Identity,
    process: String,
    disk: Disk,
    store: Option<Store>,
    machine: GroupMember,
    activity: Activity,
    /// A duty that begins when the log is not busy.
    ordered: Option<DutyOrder>,
    log_work: Option<(u64, LogWork)>,
    /// Versions of the record on their way to the disk, by token.
    saves: BTreeMap<u64, u64>,
    tokens: u64,
    /// When the controller was asked for another in-sync set.
    asked_change: Option<u64>,
    /// When it was asked for a hand-over, and how.
    asked_hand_over: Option<(u64, Message)>,
    /// The controller that it takes for the leader.
    controller: usize,
    reported: u64,
    answered: u64,
    flushed: u64,
    streams: u64,
}

impl Member {
    /// A process that has just been started on a disk.
    pub(crate) fn start(identity: Identity, mut disk: Disk, ctx: &Ctx<'_>) -> Result<Self, String> {
        let is_blank = kerolox_log::is_blank(&disk.folder).map_err(|error| error.to_string())?;
        let record = MemberRecord::at_start(disk.load(), is_blank, || identity.incarnation.clone());
        disk.write(&record)?;
        disk.sync_file()?;
        disk.has_lost_log = false;
        let store =
            if is_blank { None } else { Some(disk.open(&identity.name.group, identity.life, ctx.swarm)?) };
        let mut recovered = None;
        if let Some(store) = &store {
            // Records of one batch may have reached the disk in another order than they were written in.
            let mut parked = disk::parked(store)?;
            parked.cut_torn().map_err(|error| error.to_string())?;
            let epoch = parked.newest().map_err(|error| error.to_string())?.epoch;
            drop(parked);
            recovered = Some(MemberInput::Recovered { epoch, applied: store.state().applied() });
        }
        let process = format!("process {}", identity.life);
        let settings =
            MemberSettings { process: process.clone(), policy: ctx.swarm.policy, hand_over_ms: HAND_OVER_MS };
        let mut machine = GroupMember::new(settings, record, ctx.clock());
        if let Some(recovered) = recovered {
            // Nothing of it needs to be durable at once.
            drop(machine.handle(recovered, ctx.clock()));
        }
        Ok(Self {
            process,
            controller: identity.place.1 % CONTROLLERS,
            identity,
            disk,
            store,
            machine,
            activity: Activity::Idle,
            ordered: None,
            log_work: None,
            saves: BTreeMap::new(),
            tokens: 0,
            asked_change: None,
            asked_hand_over: None,
            reported: 0,
            answered: ctx.mono_ms,
            flushed: ctx.mono_ms,
            streams: 0,
        })
    }

    /// The store, unless the disk is blank.
    pub(crate) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// The largest epoch that it promised, as far as it knows.
    pub(crate) fn knows_promised(&self) -> u32 {
        self.machine.promised()
    }

    pub(crate) fn incarnation(&self) -> &str {
        &self.machine.record().incarnation
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(crate) fn handle(&mut self, input: Input, ctx: &mut Ctx<'_>) -> Result<(), String> {
        match input {
            Input::Tick => self.tick(ctx)?,
            Input::Synced(token) => self.synced(token, ctx)?,
            Input::HandOver => self.tell(MemberInput::HandOver(0), ctx)?,
            Input::Message(from, message) => self.take(from, message, ctx)?,
        }
        self.work_on(ctx)
    }

    /// Has the machine take an input, and does what it says.
    fn tell(&mut self, input: MemberInput, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            for effect in self.machine.handle(input, ctx.clock()) {
                inputs.extend(self.effect(effect, ctx)?);
            }
        }
        Ok(())
    }

    /// Does what the machine says; the answer is what the machine is to hear of it at once.
    fn effect(&mut self, effect: MemberEffect, ctx: &mut Ctx<'_>) -> Result<Option<MemberInput>, String> {
        match effect {
            MemberEffect::Save { version, record } => {
                self.disk.write(&record)?;
                let token = self.sync(ctx);
                self.saves.insert(token, version);
            }
            MemberEffect::Promised(epoch) => {
                ctx.note(Note::Promised(epoch));
                self.report(ctx)?;
            }
            MemberEffect::Order(order) => self.ordered = Some(order),
            MemberEffect::Repair(repair) => return self.repair(repair, ctx),
            MemberEffect::RefuseToFollow(_) => self.pause_following(follower::REFUSED_MS, ctx),
            MemberEffect::StartCopying => {}
            MemberEffect::SendAck { durable, ping } => self.send_ack(durable, ping, ctx),
            MemberEffect::Apply(to) => {
                let store = self.store.as_ref().ok_or("nothing can be applied")?;
                store.fold_to(to, |_, _| ()).map_err(|error| error.to_string())?;
            }
            MemberEffect::Publish { status, is_barrier } => {
                if let Activity::Leading(leading) = &mut self.activity {
                    leading.publish(status, is_barrier, ctx);
                }
            }
            MemberEffect::AskChange { epoch, me, change } => {
                self.asked_change = Some(ctx.mono_ms);
                let command = GroupCommand::ChangeInSync {
                    name: self.identity.name.clone(),
                    version: change.version,
                    epoch,
                    member: me,
                    in_sync: change.members,
                    quorum: change.quorum,
                };
                ctx.send(Node::Controller(self.controller), Message::Change(command));
            }
            MemberEffect::Drain => {
                if let Activity::Leading(leading) = &mut self.activity {
                    leading.is_draining = true;
                }
            }
            MemberEffect::AskHandOver { epoch, me, to } => {
                let message = Message::HandOver { epoch, member: me, to };
                ctx.send(Node::Controller(self.controller), message.clone());
                self.asked_hand_over = Some((ctx.mono_ms, message));
            }
            MemberEffect::HandedOver(outcome) => {
                if let Activity::Leading(leading) = &mut self.activity {
                    leading.is_draining &= outcome.is_ok();
                }
            }
        }
        Ok(None)
    }

    /// Asks for a sync, and says by which token its end is known.
    fn sync(&mut self, ctx: &mut Ctx<'_>) -> u64 {
        self.tokens += 1;
        ctx.out.push(Effect::Sync(self.tokens));
        self.tokens
    }

    fn begin(&mut self, work: LogWork, ctx: &mut Ctx<'_>) {
        assert!(self.log_work.is_none(), "one sync of the log at a time");
        let token = self.sync(ctx);
        self.log_work = Some((token, work));
    }

    fn synced(&mut self, token: u64, ctx: &mut Ctx<'_>) -> Result<(), String> {
        if let Some(version) = self.saves.remove(&token) {
            self.disk.sync_file()?;
            return self.tell(MemberInput::Saved(version), ctx);
        }
        let (_, work) =
            self.log_work.take_if(|(own, _)| *own == token).ok_or("a sync ended that was never begun")?;
        match work {
            LogWork::Open { number, epoch } => self.opened(number, epoch, ctx),
            LogWork::Batch(placed) => self.stored(placed),
            LogWork::Copy => self.copied(ctx),
        }
    }

    fn take(&mut self, from: Node, message: Message, ctx: &mut Ctx<'_>) -> Result<(), String> {
        match message {
            Message::State { group, asked, refused } => {
                self.answered = ctx.mono_ms;
                if let Some(group) = group {
                    self.on_state(&group, ctx)?;
                }
                self.on_answer(asked, refused, ctx)?;
            }
            Message::NotLeader(asked) => {
                self.controller = (self.controller + 1) % CONTROLLERS;
                self.answered = ctx.mono_ms;
                match (asked, &self.asked_hand_over) {
                    (Asked::HandOver, Some((_, message))) => {
                        ctx.send(Node::Controller(self.controller), message.clone());
                    }
                    _ => self.on_answer(asked, true, ctx)?,
                }
            }
            Message::FromSlave(stream, said) => self.hear_follower(from, stream, said, ctx)?,
            Message::FromMaster(stream, said) => self.hear_leader(stream, said, ctx),
            Message::Ask(id, ask) => self.ask(from, id, ask, ctx)?,
            other => return Err(format!("a member was sent {other:?}")),
        }
        Ok(())
    }

    fn on_state(&mut self, group: &GroupRecord, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let Some(me) = group.member_of(self.incarnation()) else { return Ok(()) };
        let view = view_of(group);
        // An answer of before a loss says nothing after it. The broker makes one call after the other and cannot get one.
        let known = self.machine.record().memory.as_ref();
        let is_late = known.is_some_and(|known| known.name.lineage != view.name.lineage)
            && view.epoch < self.machine.promised();
        let limits = DoubtLimits { nameservers: 2, patience_ms: 0 };
        if is_late || self.machine.judge(&view, limits, ctx.clock()) != StateVerdict::Take {
            return Ok(());
        }
        self.tell(MemberInput::State { me, view }, ctx)
    }

    /// The controller answered something.
    fn on_answer(&mut self, asked: Asked, is_refused: bool, ctx: &mut Ctx<'_>) -> Result<(), String> {
        match asked {
            Asked::Report => Ok(()),
            Asked::Change => {
                self.asked_change = None;
                self.tell(MemberInput::ChangeAnswered, ctx)
            }
            Asked::HandOver => {
                self.asked_hand_over = None;
                let answer = if is_refused {
                    HandOverAnswer::Refused(String::new())
                } else {
                    HandOverAnswer::Accepted
                };
                self.tell(MemberInput::HandOverAnswered(answer), ctx)
            }
        }
    }

    /// Gives up on answers that take too long.
    fn miss_answers(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let now = ctx.mono_ms;
        if self.asked_change.take_if(|since| now.saturating_sub(*since) >= CHANGE_MS).is_some() {
            self.tell(MemberInput::ChangeAnswered, ctx)?;
        }
        if self.asked_hand_over.take_if(|(since, _)| now.saturating_sub(*since) >= HAND_OVER_MS).is_some() {
            let unknown = HandOverAnswer::Unknown(String::new());
            self.tell(MemberInput::HandOverAnswered(unknown), ctx)?;
        }
        Ok(())
    }

    fn tick(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let now = ctx.mono_ms;
        if now.saturating_sub(self.reported) >= ctx.swarm.report_ms && self.log_work.is_none() {
            if now.saturating_sub(self.answered) > 3 * ctx.swarm.report_ms {
                self.controller = (self.controller + 1) % CONTROLLERS;
                self.answered = now;
            }
            self.report(ctx)?;
        }
        if now.saturating_sub(self.flushed) >= ctx.swarm.flush_ms {
            self.flushed = now;
            if let Some(store) = &self.store {
                store.flush_parked().map_err(|error| error.to_string())?;
                self.disk.persist_index(now)?;
            }
        }
        self.miss_answers(ctx)?;
        let log = self.log_ends()?;
        let wants_quorum = self.identity.wants_quorum;
        self.tell(MemberInput::Tick { log, wants_quorum }, ctx)?;
        match self.activity {
            Activity::Leading(_) => self.lead(ctx),
            Activity::Following(_) => self.watch_leader(ctx),
            Activity::Idle => Ok(()),
        }
    }

    fn log_ends(&self) -> Result<LogEnds, String> {
        let Some(store) = &self.store else { return Ok(LogEnds::default()) };
        Ok(LogEnds { durable: disk::held(store)?, end: disk::parked(store)?.end() })
    }

    /// Goes on with what waited for the log.
    fn work_on(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        while self.log_work.is_none()
            && let Some(order) = self.ordered.take()
        {
            self.begin_duty(order, ctx)?;
        }
        match self.activity {
            Activity::Leading(_) => {
                self.append(ctx)?;
                self.settle(ctx)?;
                self.drain(ctx)?;
                self.pump(ctx)
            }
            Activity::Following(_) => self.read_stream(ctx),
            Activity::Idle => Ok(()),
        }
    }

    fn begin_duty(&mut self, order: DutyOrder, ctx: &mut Ctx<'_>) -> Result<(), String> {
        if let Activity::Leading(leading) = std::mem::replace(&mut self.activity, Activity::Idle) {
            leading.end(ctx);
        }
        match order.duty {
            MemberDuty::Idle => self.tell(MemberInput::Ended(order.number), ctx),
            MemberDuty::Follow(target) => self.follow(order.number, target, ctx),
            MemberDuty::Lead { epoch, .. } => self.open_leadership(order.number, epoch, ctx),
        }
    }

    fn report(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        self.reported = ctx.mono_ms;
        let (last_epoch, end) = match &self.store {
            Some(store) => {
                let newest = disk::parked(store)?.newest().map_err(|error| error.to_string())?;
                (newest.epoch, disk::held(store)?)
            }
            None => (0, 0),
        };
        let record = self.machine.record();
        let mark = record.memory.as_ref().map(mark_of).unwrap_or_default();
        let joiner = JoiningMember {
            incarnation: record.incarnation.clone(),
            process: self.process.clone(),
            host: "host".to_owned(),
            port: 1,
            replication_address: self.identity.place.1.to_string(),
            last_epoch,
            promised: self.machine.promised(),
            end,
            known_members: record.members.iter().cloned().collect(),
            mark: Some(mark).filter(|_| !sabotage::is("trust-any-copy")),
        };
        ctx.send(Node::Controller(self.controller), Message::Report { joiner, unfit: String::new() });
        Ok(())
    }

    /// The epoch that it leads in, and whether it takes itself for the only leader at this moment.
    pub(crate) fn leading(&self, now: ClockReading) -> Option<(u32, bool)> {
        let Activity::Leading(leading) = &self.activity else { return None };
        let is_open = matches!(self.machine.role(), MemberRole::Leader { .. } | MemberRole::Resigning { .. });
        Some((leading.epoch, is_open && leading.status.holds_lease(now)))
    }
}

/// What a member is told of a group.
fn view_of(group: &GroupRecord) -> GroupView {
    let peer = |(id, member): (&u64, &kerolox_controller::GroupMemberRecord)| {
        let (incarnation, address) = (member.incarnation.clone(), member.replication_address.clone());
        (*id, PeerView { incarnation, address, holds: group.holds(*id) })
    };
    GroupView {
        name: StateName { cluster_id: String::new(), lineage: group.lineage.clone(), version: group.version },
        tenure: group.tenure.clone(),
        origins: group.origins().into_iter().map(|origin| (origin.tenure, origin.version)).collect(),
        epoch: group.epoch,
        leader: group.master,
        leader_process: group.master_process.clone(),
        in_sync: group.in_sync.clone(),
        set_version: group.set_version,
        set_tenure: group.set_tenure.clone(),
        quorum: group.quorum,
        released: group.released,
        unclean_epoch: group.unclean_epoch,
        members: group.members.iter().map(peer).collect(),
    }
}

fn mark_of(memory: &StateMemory) -> StateMark {
    StateMark {
        cluster_id: String::new(),
        lineage: memory.name.lineage.clone(),
        tenure: memory.tenure.clone(),
        version: memory.name.version,
        set_of: (memory.set_epoch, memory.set_version),
        set_tenure: memory.set_tenure.clone(),
        in_sync: memory.in_sync.clone(),
        origins: memory
            .origins
            .iter()
            .cloned()
            .map(|(tenure, version)| TenureState { tenure, version })
            .collect(),
    }
}
