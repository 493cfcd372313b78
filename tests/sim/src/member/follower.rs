//! The follower's side: it copies the log of its leader, and says what it has on its disk.

use std::collections::VecDeque;

use kerolox_log::{FrameSalt, LogError, begin_copy};
use kerolox_replication::handshake::{self, FollowRequest};
use kerolox_replication::{
    CommitUpdate, FollowTarget, FollowerLog, GroupMember, LeaderAnswer, LogRepair, MemberInput,
};
use kerolox_store::{LogRecords, Store};

use super::{Activity, Ctx, Identity, LogWork, Member, Note, disk};
use crate::message::{FromMaster, FromSlave, Message, Node};

/// A leader that says nothing for so many pings is called again.
const SILENT_PINGS: u64 = 6;
/// Pause before a leader that was lost is called again.
const RETRY_MS: u64 = 50;
/// Pause after this member refused to follow.
pub(super) const REFUSED_MS: u64 = 1_000;

/// The work for one duty.
pub(super) struct FollowerDuty {
    number: u64,
    target: FollowTarget,
    node: Node,
    stream: u64,
    inbox: VecDeque<FromMaster>,
    /// The newest update that was not told.
    update: Option<CommitUpdate>,
    /// When the leader was heard of.
    heard: u64,
    /// When the duty ends by itself.
    ends_at: Option<u64>,
}

impl FollowerDuty {
    fn take(&mut self, update: CommitUpdate) {
        self.update = Some(self.update.map_or(update, |before| before.merge(update)));
    }
}

impl Member {
    pub(super) fn follow(
        &mut self,
        number: u64,
        target: FollowTarget,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), String> {
        self.streams += 1;
        let slot = target.address.parse().map_err(|_| "a member without an address")?;
        self.activity = Activity::Following(Box::new(FollowerDuty {
            number,
            node: Node::Member(self.identity.place.0, slot),
            target,
            stream: (self.identity.life << 20) + self.streams,
            inbox: VecDeque::new(),
            update: None,
            heard: ctx.mono_ms,
            ends_at: None,
        }));
        self.tell(MemberInput::Greeting, ctx)?;
        self.greet(None, ctx)
    }

    /// Says what it has, or pretends to have.
    fn greet(&self, pretended: Option<FollowRequest>, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let Activity::Following(following) = &self.activity else { return Ok(()) };
        let hello = match pretended {
            Some(hello) => hello,
            None => GroupMember::hello(self.log_found()?),
        };
        let FollowTarget { epoch, me, .. } = following.target;
        let said = FromSlave::Hello { member: me, epoch, hello };
        ctx.send(following.node, Message::FromSlave(following.stream, said));
        Ok(())
    }

    /// The log with its salt, if there is one.
    fn log_found(&self) -> Result<Option<(u64, FollowerLog)>, String> {
        let Some(store) = &self.store else { return Ok(None) };
        let mut parked = disk::parked(store)?;
        let last = parked.last_record().map_err(|error| error.to_string())?;
        let last_epoch = parked.newest().map_err(|error| error.to_string())?.epoch;
        let log = FollowerLog { start: store.log_start(), end: parked.end(), last_epoch, last };
        Ok(Some((parked.salt(), log)))
    }

    /// Has the duty end by itself after so long.
    pub(super) fn pause_following(&mut self, pause_ms: u64, ctx: &Ctx<'_>) {
        if let Activity::Following(following) = &mut self.activity {
            following.stream = 0;
            following.ends_at = Some(ctx.mono_ms + pause_ms);
        }
    }

    pub(super) fn watch_leader(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let Activity::Following(following) = &self.activity else { return Ok(()) };
        let patience = SILENT_PINGS * ctx.swarm.ping_ms + ctx.swarm.latency.1 / 200;
        let is_silent = ctx.mono_ms.saturating_sub(following.heard) > patience;
        let is_over = following.ends_at.map_or(is_silent, |at| ctx.mono_ms >= at);
        if self.log_work.is_none() && is_over {
            let number = following.number;
            self.activity = Activity::Idle;
            self.tell(MemberInput::Ended(number), ctx)?;
        }
        Ok(())
    }

    pub(super) fn hear_leader(&mut self, stream: u64, said: FromMaster, ctx: &Ctx<'_>) {
        if let Activity::Following(following) = &mut self.activity
            && following.stream == stream
        {
            following.heard = ctx.mono_ms;
            if let FromMaster::Refused = said {
                self.pause_following(RETRY_MS, ctx);
            } else {
                following.inbox.push_back(said);
            }
        }
    }

    /// Takes what the leader sent, unless the log is busy.
    pub(super) fn read_stream(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let mut is_dirty = false;
        while self.log_work.is_none() {
            let Activity::Following(following) = &mut self.activity else { return Ok(()) };
            let Some(said) = following.inbox.pop_front() else { break };
            match said {
                FromMaster::Refused => {}
                FromMaster::Start => self.answered(LeaderAnswer::Start, ctx)?,
                FromMaster::Diverged(theirs) => {
                    let cut = |store: &Store| handshake::cut_at(&theirs, &LogRecords(store.reader()));
                    let to = self.store.as_ref().map(cut).transpose().map_err(|error| error.to_string())?;
                    let answer = LeaderAnswer::Diverged { epoch: theirs.epoch, to: to.unwrap_or(0) };
                    self.answered(answer, ctx)?;
                }
                FromMaster::Begin { salt, base } => self.answered(LeaderAnswer::Begin { salt, base }, ctx)?,
                FromMaster::Segment { base } => {
                    let store = self.store.as_ref().ok_or("a segment before a log")?;
                    let begun = disk::parked(store)?.begin_copied_segment(base);
                    self.or_call_again(begun, ctx)?;
                }
                FromMaster::Records { position, bytes, update } => {
                    following.take(update);
                    let store = self.store.as_ref().ok_or("records before a log")?;
                    let copied = disk::parked(store)?.append_copy(position, &bytes);
                    is_dirty |= self.or_call_again(copied.map(drop), ctx)?;
                }
                FromMaster::Update(update) => following.take(update),
            }
        }
        if is_dirty {
            self.begin(LogWork::Copy, ctx);
            return Ok(());
        }
        if self.log_work.is_none() { self.tell_copied(None, ctx) } else { Ok(()) }
    }

    fn answered(&mut self, answer: LeaderAnswer, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (salt, log) = self.log_found()?.unzip();
        self.tell(MemberInput::Answered { answer, log, salt: salt.unwrap_or(0) }, ctx)
    }

    /// What does not belong where it came from has the leader called again; says whether it was fine.
    fn or_call_again(&mut self, copied: Result<(), LogError>, ctx: &Ctx<'_>) -> Result<bool, String> {
        match copied {
            Ok(()) => Ok(true),
            Err(LogError::Copy { .. }) => {
                self.pause_following(RETRY_MS, ctx);
                Ok(false)
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Does to the log what the machine says, and says hello again.
    pub(super) fn repair(
        &mut self,
        repair: LogRepair,
        ctx: &mut Ctx<'_>,
    ) -> Result<Option<MemberInput>, String> {
        match repair {
            LogRepair::Pretend(hello) => {
                self.greet(Some(hello), ctx)?;
                return Ok(None);
            }
            LogRepair::Truncate(to) => {
                let store = self.store.as_ref().ok_or("a log that does not exist differs")?;
                ctx.note(Note::Cut { to, applied: store.state().applied() });
                disk::parked(store)?.truncate(to).map_err(|error| error.to_string())?;
            }
            LogRepair::Discard => self.discard(ctx)?,
            LogRepair::BeginAnew { salt, base } => {
                self.discard(ctx)?;
                begin_copy(&self.disk.folder, FrameSalt::new(salt), base)
                    .map_err(|error| error.to_string())?;
                let Identity { name, life, .. } = &self.identity;
                self.store = Some(self.disk.open(&name.group, *life, ctx.swarm)?);
            }
        }
        self.greet(None, ctx)?;
        Ok(None)
    }

    /// Gives up the log.
    fn discard(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        if let Some(store) = self.store.take() {
            ctx.note(Note::Cut { to: store.log_start(), applied: 0 });
        }
        self.disk.empty()
    }

    /// What was copied is to be durable.
    pub(super) fn copied(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let store = self.store.as_ref().ok_or("a copy without a log")?;
        let durable = disk::parked(store)?.sync().map_err(|error| error.to_string())?;
        self.tell_copied(Some(durable), ctx)
    }

    /// Reports the durable end and the master's last update to the member, if either is new.
    fn tell_copied(&mut self, durable: Option<u64>, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Activity::Following(following), Some(store)) = (&mut self.activity, &self.store) else {
            return Ok(());
        };
        let update = following.update.take();
        if durable.is_none() && update.is_none() {
            return Ok(());
        }
        let durable = durable.map_or_else(|| disk::held(store), Ok)?;
        self.tell(MemberInput::Copied { durable, update }, ctx)
    }

    pub(super) fn send_ack(&self, durable: u64, ping: u64, ctx: &mut Ctx<'_>) {
        if let Activity::Following(following) = &self.activity {
            ctx.note(Note::Held { epoch: following.target.epoch, durable });
            let said = FromSlave::Held { durable, ping };
            ctx.send(following.node, Message::FromSlave(following.stream, said));
        }
    }
}
