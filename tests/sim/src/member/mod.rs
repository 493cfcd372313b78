//! One member of a broker group as a state machine: what the broker's rim does around the real store and the real rules.
//!
//! It takes inputs (a message, a tick, the end of a sync) and leaves effects. Whoever drives it decides how long a sync
//! takes; until then the log is busy, and inputs wait.

mod disk;
mod follow;
mod reign;

use std::collections::BTreeSet;

use kerolox_controller::{Group, GroupName, Joiner, MemberId};
use kerolox_log::sabotage;
use kerolox_replication::{Allegiance, DoubtLimits, Grants, StateName, Verdict};
use kerolox_store::Store;

pub(crate) use disk::{Disk, MemberFile};
use follow::Follow;
use reign::{Placed, Reign};

use crate::message::{Message, Node};
use crate::swarm::Swarm;

pub(crate) const CONTROLLERS: usize = 3;

/// What a process is started with.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    /// Group, and place in it.
    pub(crate) place: (usize, usize),
    pub(crate) name: GroupName,
    /// Of the disk.
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
    /// The sync that was asked for is over.
    Synced,
    Message(Node, Message),
    /// An administrator wants another master.
    HandOver,
}

/// What a member does.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most of them are messages")]
pub(crate) enum Effect {
    Send(Node, Message),
    /// What was written is to be made durable; [`Input::Synced`] follows.
    Sync,
    Note(Note),
}

/// What those who judge want to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// It follows no reign before this one from here on.
    Promised(u32),
    /// It says to a master of this epoch that it holds everything before a position.
    Held { epoch: u32, durable: u64 },
    /// It begins to rule.
    Opened(u32),
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
    fn send(&mut self, to: Node, message: Message) {
        self.out.push(Effect::Send(to, message));
    }

    fn note(&mut self, note: Note) {
        self.out.push(Effect::Note(note));
    }
}

/// What a sync under way is for.
enum Work {
    Promise,
    /// The file says which state it goes by.
    Note,
    /// The file says from then on that a master was granted a lease.
    Grant,
    OpenReign(u32),
    Batch(Vec<Placed>),
    Copy,
}

enum Role {
    Fenced,
    Ruling(Box<Reign>),
    Following(Box<Follow>),
}

pub(crate) struct Member {
    identity: Identity,
    process: String,
    disk: Disk,
    store: Option<Store>,
    file: MemberFile,
    state: Option<Group>,
    allegiance: Allegiance,
    /// The file is to be written before anything goes by the state.
    is_unsaved: bool,
    grants: Grants,
    role: Role,
    work: Option<Work>,
    /// The controller that it takes for the leader.
    controller: usize,
    reported: u64,
    answered: u64,
    flushed: u64,
    streams: u64,
}

impl Member {
    /// A process that has just been started on a disk.
    pub(crate) fn start(identity: Identity, disk: Disk, ctx: &Ctx<'_>) -> Result<Self, String> {
        let file = disk.load();
        let is_blank = kerolox_log::is_blank(&disk.folder).map_err(|error| error.to_string())?;
        let store =
            if is_blank { None } else { Some(disk.open(&identity.name.group, identity.life, ctx.swarm)?) };
        if let Some(store) = &store {
            // Records of one batch may have reached the disk in another order than they were written in.
            disk::parked(store)?.cut_torn().map_err(|error| error.to_string())?;
        }
        let (lease_ms, now) = (ctx.swarm.policy.lease_ms, ctx.mono_ms);
        let grants = if file.granted == 0 { Grants::default() } else { Grants::unknown(lease_ms, now) };
        Ok(Self {
            process: format!("process {}", identity.life),
            controller: identity.place.1 % CONTROLLERS,
            identity,
            disk,
            store,
            file,
            state: None,
            allegiance: Allegiance::default(),
            is_unsaved: false,
            grants,
            role: Role::Fenced,
            work: None,
            reported: 0,
            answered: now,
            flushed: now,
            streams: 0,
        })
    }

    /// The store, unless the disk is blank.
    pub(crate) fn store(&self) -> Option<&Store> {
        self.store.as_ref()
    }

    /// The largest epoch that it promised, as far as it knows.
    pub(crate) fn knows_promised(&self) -> u32 {
        self.file.promised
    }

    pub(crate) fn disk(&self) -> &Disk {
        &self.disk
    }

    pub(crate) fn handle(&mut self, input: Input, ctx: &mut Ctx<'_>) -> Result<(), String> {
        match input {
            Input::Tick => self.tick(ctx)?,
            Input::Synced => self.synced(ctx)?,
            Input::HandOver => self.begin_hand_over(),
            Input::Message(from, message) => self.take(from, message, ctx)?,
        }
        self.advance(ctx)?;
        self.work_on(ctx)
    }

    fn take(&mut self, from: Node, message: Message, ctx: &mut Ctx<'_>) -> Result<(), String> {
        match message {
            Message::State { group, refused } => {
                self.answered = ctx.mono_ms;
                self.on_state(group);
                self.on_reply(refused, ctx.mono_ms);
            }
            Message::NotLeader => {
                self.controller = (self.controller + 1) % CONTROLLERS;
                self.answered = ctx.mono_ms;
            }
            Message::FromSlave(stream, said) => self.hear_slave(from, stream, said, ctx)?,
            Message::FromMaster(stream, said) => self.hear_master(stream, said, ctx),
            Message::Ask(id, ask) => self.ask(from, id, ask, ctx)?,
            other => return Err(format!("a member was sent {other:?}")),
        }
        Ok(())
    }

    fn on_state(&mut self, group: Option<Group>) {
        let Some(group) = group else { return };
        let named =
            StateName { cluster_id: String::new(), lineage: group.lineage.clone(), version: group.version };
        let mark = &self.file.mark;
        let known =
            StateName { cluster_id: String::new(), lineage: mark.lineage.clone(), version: mark.version };
        // An answer of before a loss says nothing after it.
        let is_late = known.lineage != named.lineage && group.epoch < self.file.promised;
        let verdict =
            self.allegiance.judge(Some(&known), &named, DoubtLimits { nameservers: 2, patience_ms: 0 }, 0);
        if is_late || verdict != Verdict::Take || self.state.as_ref() == Some(&group) {
            return;
        }
        self.file.known = group.members.values().map(|member| member.incarnation.clone()).collect();
        self.note(&group);
        self.state = Some(group);
        self.is_unsaved = !sabotage::is("forget-members");
    }

    /// What a controller that lost its data has to know.
    fn note(&mut self, group: &Group) {
        let mark = &mut self.file.mark;
        (mark.lineage, mark.tenure, mark.version) =
            (group.lineage.clone(), group.tenure.clone(), group.version);
        let in_sync = incarnations(group, &group.in_sync);
        if !in_sync.is_empty() && (group.epoch, &in_sync) != (mark.set_of.0, &mark.in_sync) {
            (mark.set_of, mark.in_sync) = ((group.epoch, group.set_version), in_sync);
        }
    }

    fn id(&self) -> Option<MemberId> {
        self.state.as_ref()?.member_of(&self.identity.incarnation)
    }

    /// Follows what the controller says, when the log is not busy.
    fn advance(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        if self.work.is_none() && std::mem::take(&mut self.is_unsaved) {
            return self.save(Work::Note, ctx);
        }
        let (None, Some(group), Some(me)) = (&self.work, &self.state, self.id()) else { return Ok(()) };
        let (epoch, master) = (group.epoch, group.master);
        if epoch > self.file.promised {
            // Whatever it did for an earlier reign ends before anybody hears of the promise.
            if !(sabotage::is("ignore-epoch") && matches!(self.role, Role::Following(_))) {
                self.fence(ctx);
            }
            self.file.promised = epoch;
            if sabotage::is("promise-not-persisted") {
                return self.promised(ctx);
            }
            return self.save(Work::Promise, ctx);
        }
        let is_elected = master == me
            && (group.master_process == self.process || sabotage::is("resume-old-reign"))
            && epoch == self.file.promised;
        let leader = group.members.get(&master).filter(|_| master != me && epoch == self.file.promised);
        match &mut self.role {
            Role::Ruling(reign) if is_elected && reign.epoch == epoch => {
                reign.adopt(group, ctx);
                Ok(())
            }
            Role::Following(follow) if leader.is_some() && follow.is_of(epoch, master) => Ok(()),
            Role::Following(_) if sabotage::is("ignore-epoch") && master == 0 => Ok(()),
            _ if is_elected => {
                if self.grants.left(ctx.mono_ms) == 0 || group.released {
                    self.fence(ctx);
                    self.open_reign(epoch, ctx)
                } else {
                    self.fence(ctx);
                    Ok(())
                }
            }
            _ => {
                let node = leader.map(|leader| Node::Member(self.identity.place.0, slot(leader)));
                self.fence(ctx);
                if let Some(node) = node {
                    self.follow(epoch, (master, node), ctx)?;
                }
                Ok(())
            }
        }
    }

    /// Neither rules nor follows from here on.
    fn fence(&mut self, ctx: &mut Ctx<'_>) {
        if let Role::Ruling(reign) = std::mem::replace(&mut self.role, Role::Fenced) {
            reign.end(ctx);
        }
    }

    /// Has the file written and synced.
    fn save(&mut self, work: Work, ctx: &mut Ctx<'_>) -> Result<(), String> {
        self.disk.write(&self.file)?;
        self.begin(work, ctx);
        Ok(())
    }

    fn begin(&mut self, work: Work, ctx: &mut Ctx<'_>) {
        self.work = Some(work);
        ctx.out.push(Effect::Sync);
    }

    fn synced(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        match self.work.take().ok_or("a sync ended that nobody asked for")? {
            Work::Promise => {
                self.disk.sync_file()?;
                self.promised(ctx)
            }
            Work::Note => self.disk.sync_file(),
            Work::Grant => {
                self.disk.sync_file()?;
                self.say_held(None, ctx)
            }
            Work::OpenReign(epoch) => self.begin_reign(epoch, ctx),
            Work::Batch(placed) => self.stored(placed),
            Work::Copy => self.copied(ctx),
        }
    }

    fn promised(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        ctx.note(Note::Promised(self.file.promised));
        self.report(ctx)
    }

    fn tick(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let now = ctx.mono_ms;
        if now.saturating_sub(self.reported) >= ctx.swarm.report_ms && self.work.is_none() {
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
        match self.role {
            Role::Ruling(_) => self.rule(ctx),
            Role::Following(_) => self.watch_master(ctx),
            Role::Fenced => Ok(()),
        }
    }

    /// Goes on with what waited for the log.
    fn work_on(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        match self.role {
            Role::Ruling(_) => {
                self.append(ctx)?;
                self.settle(ctx)?;
                self.pump(ctx)
            }
            Role::Following(_) => self.read_stream(ctx),
            Role::Fenced => Ok(()),
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
        let joiner = Joiner {
            incarnation: self.identity.incarnation.clone(),
            process: self.process.clone(),
            host: "host".to_owned(),
            port: 1,
            replication_address: self.identity.place.1.to_string(),
            last_epoch,
            promised: self.file.promised,
            end,
            known_members: self.file.known.clone(),
            mark: Some(self.file.mark.clone()).filter(|_| !sabotage::is("trust-any-copy")),
        };
        ctx.send(Node::Controller(self.controller), Message::Report { joiner, unfit: String::new() });
        Ok(())
    }
}

/// Incarnations of members of a group.
pub(crate) fn incarnations(group: &Group, ids: &BTreeSet<MemberId>) -> BTreeSet<String> {
    let members = ids.iter().filter_map(|id| group.members.get(id));
    members.map(|member| member.incarnation.clone()).collect()
}

/// The place of a member in its group: that is its address here.
fn slot(member: &kerolox_controller::Member) -> usize {
    member.replication_address.parse().expect("reports say so")
}
