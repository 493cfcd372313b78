//! The slave's side: it copies the log of its master, and says what it has on its disk.

use std::collections::VecDeque;

use kerolox_controller::MemberId;
use kerolox_log::{LogError, Salt, begin_copy, sabotage};
use kerolox_replication::handshake::{Hello, cut_at};

use super::{Ctx, Member, Note, Role, Work, disk};
use crate::message::{FromMaster, FromSlave, Message, Node, Tidings};

/// A master that says nothing for so many pings is called again.
const SILENT_PINGS: u64 = 6;

/// One reign that is followed.
pub(super) struct Follow {
    epoch: u32,
    master: MemberId,
    node: Node,
    stream: u64,
    is_streaming: bool,
    inbox: VecDeque<FromMaster>,
    /// Everything before this may be shown.
    confirmed: u64,
    /// Newest ping that was not answered.
    ping: Option<u64>,
    /// When the master was heard of.
    heard: u64,
}

impl Follow {
    pub(super) fn is_of(&self, epoch: u32, master: MemberId) -> bool {
        (self.epoch, self.master) == (epoch, master)
    }

    fn take(&mut self, tidings: Tidings) {
        self.confirmed = self.confirmed.max(tidings.confirmed);
        self.ping = self.ping.max(Some(tidings.ping));
    }
}

impl Member {
    pub(super) fn follow(
        &mut self,
        epoch: u32,
        (master, node): (MemberId, Node),
        ctx: &mut Ctx<'_>,
    ) -> Result<(), String> {
        self.role = Role::Following(Box::new(Follow {
            epoch,
            master,
            node,
            stream: 0,
            is_streaming: false,
            inbox: VecDeque::new(),
            confirmed: 0,
            ping: None,
            heard: ctx.mono_ms,
        }));
        self.connect(ctx)
    }

    /// Opens a stream to the master.
    fn connect(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        self.streams += 1;
        let stream = (self.identity.life << 20) + self.streams;
        let Role::Following(follow) = &mut self.role else { return Ok(()) };
        follow.stream = stream;
        follow.is_streaming = false;
        follow.inbox.clear();
        follow.ping = None;
        follow.heard = ctx.mono_ms;
        self.greet(ctx)
    }

    fn greet(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Role::Following(follow), Some(me)) = (&self.role, self.id()) else { return Ok(()) };
        let hello = match &self.store {
            Some(store) => {
                let mut parked = disk::parked(store)?;
                let newest = parked.newest().map_err(|error| error.to_string())?;
                Hello { salt: parked.salt(), end: parked.end(), last_epoch: newest.epoch }
            }
            None => Hello { salt: 0, end: 0, last_epoch: 0 },
        };
        let said = FromSlave::Hello { member: me, epoch: follow.epoch, hello };
        ctx.send(follow.node, Message::FromSlave(follow.stream, said));
        Ok(())
    }

    pub(super) fn watch_master(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let Role::Following(follow) = &self.role else { return Ok(()) };
        let patience = SILENT_PINGS * ctx.swarm.ping_ms + ctx.swarm.latency.1 / 200;
        if self.work.is_none() && ctx.mono_ms.saturating_sub(follow.heard) > patience {
            self.connect(ctx)?;
        }
        Ok(())
    }

    pub(super) fn hear_master(&mut self, stream: u64, said: FromMaster, ctx: &mut Ctx<'_>) {
        if let Role::Following(follow) = &mut self.role
            && follow.stream == stream
        {
            follow.heard = ctx.mono_ms;
            if let FromMaster::Refused = said {
                // It is called again when it is silent for long.
                follow.stream = 0;
            } else {
                follow.inbox.push_back(said);
            }
        }
    }

    /// Takes what the master sent, unless the log is busy.
    pub(super) fn read_stream(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let mut is_dirty = false;
        while self.work.is_none() {
            let Role::Following(follow) = &mut self.role else { return Ok(()) };
            let Some(said) = follow.inbox.pop_front() else { break };
            match said {
                FromMaster::Refused => {}
                FromMaster::Start => follow.is_streaming = true,
                FromMaster::Diverged { epoch, end } => self.cut_back(epoch, end, ctx)?,
                FromMaster::Begin { salt, base } => {
                    self.begin_anew(Some((salt, base)), ctx)?;
                }
                FromMaster::Segment { base } => {
                    let store = self.store.as_ref().ok_or("a segment before a log")?;
                    let begun = disk::parked(store)?.begin_copied_segment(base);
                    self.or_call_again(begun, ctx)?;
                }
                FromMaster::Records { position, bytes, tidings } => {
                    follow.take(tidings);
                    let store = self.store.as_ref().ok_or("records before a log")?;
                    let copied = disk::parked(store)?.append_copy(position, &bytes);
                    is_dirty |= self.or_call_again(copied.map(drop), ctx)?;
                }
                FromMaster::Tidings(tidings) => follow.take(tidings),
            }
        }
        if is_dirty {
            self.begin(Work::Copy, ctx);
            return Ok(());
        }
        if self.work.is_none() { self.say_held(None, ctx) } else { Ok(()) }
    }

    /// What does not belong where it came from has the stream opened again; says whether it was fine.
    fn or_call_again(&mut self, copied: Result<(), LogError>, ctx: &mut Ctx<'_>) -> Result<bool, String> {
        match copied {
            Ok(()) => Ok(true),
            Err(LogError::Copy { .. }) => self.connect(ctx).map(|()| false),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Gives up what the master does not have.
    fn cut_back(&mut self, epoch: u32, end: u64, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let store = self.store.as_ref().ok_or("a log that does not exist differs")?;
        let own = store.reader().end_of_epoch(epoch).map_err(|error| error.to_string())?;
        let to = cut_at((epoch, end), own);
        ctx.note(Note::Cut { to, applied: store.index().applied() });
        if sabotage::is("skip-truncation-check") {
            // It says that it cut, and keeps what it has.
            let Role::Following(follow) = &self.role else { return Ok(()) };
            let hello = Hello { salt: disk::parked(store)?.salt(), end: to, last_epoch: epoch };
            let me = self.id().ok_or("a member knows its number")?;
            let said = FromSlave::Hello { member: me, epoch: follow.epoch, hello };
            ctx.send(follow.node, Message::FromSlave(follow.stream, said));
            return Ok(());
        }
        if to <= store.log_start() {
            return self.begin_anew(None, ctx);
        }
        disk::parked(store)?.truncate(to).map_err(|error| error.to_string())?;
        self.greet(ctx)
    }

    /// Gives up the log; goes on with the segment that the master names.
    fn begin_anew(&mut self, first: Option<(u64, u64)>, ctx: &mut Ctx<'_>) -> Result<(), String> {
        if let Some(store) = self.store.take() {
            ctx.note(Note::Cut { to: store.log_start(), applied: 0 });
        }
        self.disk.empty()?;
        if let Some((salt, base)) = first {
            begin_copy(&self.disk.folder, Salt::new(salt), base).map_err(|error| error.to_string())?;
            self.store = Some(self.disk.open(&self.identity.name.group, self.identity.life, ctx.swarm)?);
        }
        self.greet(ctx)
    }

    /// What was copied is durable.
    pub(super) fn copied(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let store = self.store.as_ref().ok_or("a copy without a log")?;
        let durable = disk::parked(store)?.sync().map_err(|error| error.to_string())?;
        self.say_held(Some(durable), ctx)
    }

    /// Says what is on the disk, if the master wants to know, and shows what is confirmed.
    pub(super) fn say_held(&mut self, durable: Option<u64>, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Role::Following(follow), Some(store)) = (&mut self.role, &self.store) else { return Ok(()) };
        let is_bound = self.file.promised == follow.epoch || sabotage::is("ignore-epoch");
        if !follow.is_streaming || !is_bound {
            return Ok(());
        }
        let confirmed = if sabotage::is("fold-unconfirmed") { u64::MAX } else { follow.confirmed };
        store.fold_to(confirmed, |_, _| ()).map_err(|error| error.to_string())?;
        if self.file.granted != follow.epoch && follow.ping.is_some() {
            // A process that comes after this one must know that there may be a lease.
            self.file.granted = follow.epoch;
            return self.save(Work::Grant, ctx);
        }
        let Some(ping) = follow.ping.take() else { return Ok(()) };
        self.grants.give(ctx.swarm.policy.lease_ms, ctx.mono_ms);
        let durable = durable.map_or_else(|| disk::held(store), Ok)?;
        ctx.note(Note::Held { epoch: follow.epoch, durable });
        ctx.send(follow.node, Message::FromSlave(follow.stream, FromSlave::Held { durable, ping }));
        Ok(())
    }
}
