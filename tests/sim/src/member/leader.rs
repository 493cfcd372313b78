//! The master's side: it takes proposals, sends its log to the slaves, and answers what is confirmed.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use kerolox_controller::{Command, Group, MemberId};
use kerolox_core::record::{Carried, EpochRecord, Fired, ProgressItem, ProgressRecord, Record, TrimRecord};
use kerolox_core::replicas::Replicas;
use kerolox_log::frame::frame_len;
use kerolox_log::{Piece, sabotage};
use kerolox_replication::handshake::{self, OwnLog};
use kerolox_replication::{InSync, Master};
use kerolox_store::{Outcome, Store};

use super::{Ctx, Member, Note, Role, Work, disk};
use crate::message::{Answer, Ask, FromMaster, FromSlave, Message, Node, Tidings};

/// Proposals that are written together at the most.
const BATCH_MAX: usize = 16;
/// Bytes that a slave is sent at once.
const PIECE_BYTES: usize = 3_000;
/// A request to the controller is repeated after this time.
const ASK_MS: u64 = 150;
/// No request to a controller is under way for longer.
const REQUEST_LIFE_MS: u64 = 4_000;
/// A log is trimmed this often, if it is trimmed at all.
const TRIM_MS: u64 = 4_000;
/// Segments that stay when a log is trimmed.
const SEGMENTS_KEPT: usize = 4;
/// Messages that a reader gets at once.
const READ_MAX: usize = 16;

/// Who waits for a record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    node: Node,
    id: u64,
}

struct Proposal {
    record: Record,
    replicas: Replicas,
    asker: Option<Asker>,
}

/// A record in the log that was not applied.
pub(super) struct Placed {
    position: u64,
    end: u64,
    replicas: Replicas,
    asker: Option<Asker>,
}

/// A slave that copies.
struct Stream {
    node: Node,
    number: u64,
    /// What it is to be sent next; `None` before the logs agree.
    next: Option<u64>,
    acked: u64,
}

/// What is confirmed, as who answers knows it.
#[derive(Debug, Clone, Copy, Default)]
struct Standing {
    all: u64,
    safe: u64,
    /// `None` for good.
    rules_until: Option<u64>,
}

pub(super) struct Reign {
    pub(super) epoch: u32,
    me: MemberId,
    opened: u64,
    master: Master,
    standing: Standing,
    /// What the lease comes to on the wall clock, for a broken master that goes by it.
    wall_until: i64,
    /// When what is confirmed by a change of the set reaches who answers.
    publish_at: Option<u64>,
    streams: BTreeMap<MemberId, Stream>,
    proposals: VecDeque<Proposal>,
    waiting: VecDeque<Placed>,
    /// Everything up to the record that opened it is applied.
    is_open: bool,
    asked: u64,
    pinged: u64,
    trimmed: u64,
    fired: BTreeSet<u64>,
    leaving: Leaving,
}

/// How far the master is with giving its reign up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    /// It takes nothing any more, and waits until all is confirmed.
    Draining,
    /// It asks the controller.
    Asking,
    /// The controller refuses; it goes on at this moment, when no older request can be on its way any more.
    Refused(u64),
}

fn set_of(group: &Group) -> InSync {
    InSync { members: group.in_sync.clone(), quorum: group.quorum, version: group.version }
}

impl Reign {
    pub(super) fn adopt(&mut self, group: &Group, ctx: &Ctx<'_>) {
        self.master.on_state(set_of(group), ctx.mono_ms);
    }

    /// Tells everybody who waits that nobody knows.
    pub(super) fn end(self: Box<Self>, ctx: &mut Ctx<'_>) {
        for Asker { node, id } in self.proposals.iter().filter_map(|proposal| proposal.asker) {
            ctx.send(node, Message::Answer(id, Answer::NotMaster));
        }
        for Asker { node, id } in self.waiting.iter().filter_map(|placed| placed.asker) {
            ctx.send(node, Message::Answer(id, Answer::Unknown));
        }
    }

    fn serves(&self) -> bool {
        self.is_open && matches!(self.leaving, Leaving::No | Leaving::Draining)
    }

    /// Whether nobody else rules.
    fn rules(&self, mono_ms: u64, wall_ms: i64) -> bool {
        let is_sure = match self.standing.rules_until {
            None => true,
            Some(_) if sabotage::is("lease-on-wall-clock") => wall_ms < self.wall_until,
            Some(until) => mono_ms < until,
        };
        self.serves() && (is_sure || sabotage::is("no-lease"))
    }

    fn tidings(&self, own: u64, ctx: &Ctx<'_>) -> Tidings {
        Tidings { confirmed: own.min(self.standing.safe), ping: ctx.mono_ms }
    }

    fn lets_through(&self, placed: &Placed, own: u64) -> bool {
        let others = match placed.replicas {
            Replicas::All => self.standing.all,
            Replicas::Quorum | Replicas::Master => self.standing.safe,
        };
        own >= placed.end && (others >= placed.end || sabotage::is("ack-before-slaves"))
    }

    /// Takes what is confirmed to who answers, unless a stricter rule is on its way there.
    fn publish(&mut self, end: u64, mono_ms: u64) {
        if self.publish_at.is_some_and(|at| mono_ms < at) {
            return;
        }
        let confirmed = self.master.confirmed();
        let rules_until = self.master.rules_until();
        self.standing = Standing { all: confirmed.all, safe: confirmed.safe, rules_until };
        if self.publish_at.take().is_some() {
            self.master.arm(end);
        }
    }
}

impl Member {
    /// The epoch that it rules in, and whether it takes itself for the only one at this moment.
    pub(crate) fn ruling(&self, mono_ms: u64, wall_ms: i64) -> Option<(u32, bool)> {
        match &self.role {
            Role::Ruling(reign) => Some((reign.epoch, reign.rules(mono_ms, wall_ms))),
            _ => None,
        }
    }

    pub(super) fn open_reign(&mut self, epoch: u32, ctx: &mut Ctx<'_>) -> Result<(), String> {
        if self.store.is_none() {
            self.store = Some(self.disk.open(&self.identity.name.group, self.identity.life, ctx.swarm)?);
        }
        let store = self.store.as_ref().expect("opened above");
        let record = Record::Epoch(EpochRecord { epoch, broker: self.identity.name.group.clone() });
        let appended = disk::parked(store)?.append(&[record], epoch, ctx.wall_ms);
        appended.map_err(|error| error.to_string())?;
        self.begin(Work::OpenReign(epoch), ctx);
        Ok(())
    }

    pub(super) fn begin_reign(&mut self, epoch: u32, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Some(store), Some(group), Some(me)) = (&self.store, &self.state, self.id()) else {
            return Err("a reign without a log or a group".to_owned());
        };
        let mut parked = disk::parked(store)?;
        parked.sync().map_err(|error| error.to_string())?;
        let opened = parked.end();
        drop(parked);
        ctx.note(Note::Opened(epoch));
        // The state may have gone on meanwhile; the reign ends at once then.
        let counts_from = if sabotage::is("confirm-without-epoch-record") { 0 } else { opened };
        let mut master = Master::new(me, ctx.swarm.policy, set_of(group), counts_from, ctx.mono_ms);
        master.want_quorum(self.identity.wants_quorum);
        self.role = Role::Ruling(Box::new(Reign {
            epoch,
            me,
            opened: counts_from,
            master,
            standing: Standing { rules_until: Some(0), ..Standing::default() },
            wall_until: 0,
            publish_at: None,
            streams: BTreeMap::new(),
            proposals: VecDeque::new(),
            waiting: VecDeque::new(),
            is_open: false,
            asked: 0,
            pinged: 0,
            trimmed: ctx.mono_ms,
            fired: BTreeSet::new(),
            leaving: Leaving::No,
        }));
        Ok(())
    }

    /// What is to be done again and again.
    pub(super) fn rule(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Role::Ruling(reign), Some(store)) = (&mut self.role, &self.store) else { return Ok(()) };
        let (now, own, end) = (ctx.mono_ms, disk::held(store)?, disk::parked(store)?.end());
        if reign.publish_at.is_none() && reign.master.plan(own, now) {
            reign.publish_at = Some(now + ctx.swarm.publish_ms);
            if sabotage::is("newcomer-without-barrier") {
                reign.master.arm(0);
            }
        }
        reign.publish(end, now);
        if now.saturating_sub(reign.pinged) >= ctx.swarm.ping_ms {
            reign.pinged = now;
            let tidings = reign.tidings(own, ctx);
            for stream in reign.streams.values().filter(|stream| stream.next.is_some()) {
                ctx.send(stream.node, Message::FromMaster(stream.number, FromMaster::Tidings(tidings)));
            }
        }
        self.ask_controller(ctx);
        self.fire(ctx)?;
        self.trim(ctx)
    }

    fn ask_controller(&mut self, ctx: &mut Ctx<'_>) {
        let Role::Ruling(reign) = &mut self.role else { return };
        if ctx.mono_ms.saturating_sub(reign.asked) < ASK_MS {
            return;
        }
        if matches!(reign.leaving, Leaving::Refused(until) if ctx.mono_ms >= until) {
            reign.leaving = Leaving::No;
        }
        let is_drained = reign.waiting.is_empty() && self.work.is_none();
        let message = match reign.leaving {
            Leaving::Draining if is_drained => {
                reign.leaving = Leaving::Asking;
                Message::HandOver { epoch: reign.epoch, member: reign.me }
            }
            Leaving::Asking => Message::HandOver { epoch: reign.epoch, member: reign.me },
            _ => {
                let Some(change) = reign.master.request() else { return };
                let Some(group) = &self.state else { return };
                let wanted = super::incarnations(group, &change.members);
                if !wanted.is_subset(&self.file.mark.in_sync) {
                    // Whether that came about shows only in the answer.
                    self.file.mark.in_sync.extend(wanted);
                    self.is_unsaved = true;
                    return;
                }
                Message::Change(Command::ChangeInSync {
                    name: self.identity.name.clone(),
                    version: change.version,
                    epoch: reign.epoch,
                    member: reign.me,
                    in_sync: change.members,
                    quorum: change.quorum,
                })
            }
        };
        reign.asked = ctx.mono_ms;
        ctx.send(Node::Controller(self.controller), message);
    }

    /// A controller answered something.
    pub(super) fn on_reply(&mut self, refused: bool, now: u64) {
        if let Role::Ruling(reign) = &mut self.role
            && refused
            && reign.leaving == Leaving::Asking
        {
            // An older request that takes effect yet makes somebody rule who does not wait for the lease to end.
            reign.leaving = Leaving::Refused(now + REQUEST_LIFE_MS);
        }
    }

    pub(super) fn begin_hand_over(&mut self) {
        if let Role::Ruling(reign) = &mut self.role
            && reign.is_open
            && reign.leaving == Leaving::No
        {
            reign.leaving = Leaving::Draining;
        }
    }

    pub(super) fn hear_slave(
        &mut self,
        node: Node,
        number: u64,
        said: FromSlave,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), String> {
        let (Role::Ruling(reign), Some(store)) = (&mut self.role, &self.store) else {
            ctx.send(node, Message::FromMaster(number, FromMaster::Refused));
            return Ok(());
        };
        match said {
            FromSlave::Hello { epoch, .. } if epoch != reign.epoch => {
                ctx.send(node, Message::FromMaster(number, FromMaster::Refused));
            }
            FromSlave::Hello { member, hello, .. } => {
                let own = OwnLog { salt: disk::parked(store)?.salt(), base: store.log_start() };
                let end_of_epoch = |epoch| store.reader().end_of_epoch(epoch);
                let answer =
                    handshake::answer(&hello, &own, end_of_epoch).map_err(|error| error.to_string())?;
                let mut next = None;
                let answer = match answer {
                    handshake::Answer::Start => {
                        next = Some(hello.end);
                        FromMaster::Start
                    }
                    handshake::Answer::Diverged { epoch, end } => FromMaster::Diverged { epoch, end },
                    handshake::Answer::Begin => match store.reader().copy(own.base, 1) {
                        Ok(Piece::Segment { base, .. }) => FromMaster::Begin { salt: own.salt, base },
                        other => return Err(format!("a log that begins with {other:?}")),
                    },
                    handshake::Answer::Foreign => FromMaster::Refused,
                };
                reign.streams.insert(member, Stream { node, number, next, acked: hello.end });
                ctx.send(node, Message::FromMaster(number, answer));
            }
            FromSlave::Held { durable, ping } => {
                let stream = reign.streams.iter_mut().find(|(_, stream)| stream.number == number);
                if let Some((member, stream)) = stream
                    && stream.next.is_some()
                {
                    stream.acked = durable;
                    let end = disk::parked(store)?.end();
                    reign.master.on_held(*member, durable, ping, end, ctx.mono_ms);
                    if let Some(until) = reign.master.rules_until() {
                        let left = i64::try_from(until.saturating_sub(ctx.mono_ms)).unwrap_or(0);
                        reign.wall_until = ctx.wall_ms + left;
                    }
                    reign.publish(end, ctx.mono_ms);
                }
            }
        }
        Ok(())
    }

    pub(super) fn ask(&mut self, node: Node, id: u64, ask: Ask, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Role::Ruling(reign), Some(store)) = (&mut self.role, &self.store) else {
            ctx.send(node, Message::Answer(id, Answer::NotMaster));
            return Ok(());
        };
        match ask {
            Ask::Propose { record, replicas } if reign.is_open && reign.leaving == Leaving::No => {
                let asker = Some(Asker { node, id });
                reign.proposals.push_back(Proposal { record: *record, replicas, asker });
            }
            Ask::Read { queue, from } if reign.rules(ctx.mono_ms, ctx.wall_ms) => {
                ctx.note(Note::Served);
                let answer = read(store, queue, from)?;
                ctx.send(node, Message::Answer(id, answer));
            }
            _ => ctx.send(node, Message::Answer(id, Answer::NotMaster)),
        }
        Ok(())
    }

    /// Writes what was proposed, unless the log is busy.
    pub(super) fn append(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Role::Ruling(reign), Some(store), None) = (&mut self.role, &self.store, &self.work) else {
            return Ok(());
        };
        let count = reign.proposals.len().min(BATCH_MAX);
        if count == 0 {
            return Ok(());
        }
        let lens = reign.proposals.iter().take(count).map(|proposal| proposal.record.encode().len());
        let needed: u64 = lens.map(|len| frame_len(len) as u64).sum();
        let mut parked = disk::parked(store)?;
        let mut placed = Vec::new();
        if needed > parked.room() {
            // A segment begins with the state of the fold, which has to have caught up.
            if store.index().applied() != parked.end() {
                return Ok(());
            }
            let position = parked.end();
            parked.begin_segment(reign.epoch, ctx.wall_ms).map_err(|error| error.to_string())?;
            let end = parked.end();
            placed.push(Placed { position, end, replicas: Replicas::Quorum, asker: None });
        }
        let batch: Vec<Proposal> = reign.proposals.drain(..count).collect();
        let records: Vec<Record> = batch.iter().map(|proposal| proposal.record.clone()).collect();
        let places = parked.append(&records, reign.epoch, ctx.wall_ms).map_err(|error| error.to_string())?;
        drop(parked);
        placed.extend(batch.into_iter().zip(places).map(|(proposal, (position, len))| Placed {
            position,
            end: position + u64::from(len),
            replicas: proposal.replicas,
            asker: proposal.asker,
        }));
        self.begin(Work::Batch(placed), ctx);
        Ok(())
    }

    pub(super) fn stored(&mut self, placed: Vec<Placed>) -> Result<(), String> {
        let (Role::Ruling(reign), Some(store)) = (&mut self.role, &self.store) else {
            return Err("a batch without a reign".to_owned());
        };
        disk::parked(store)?.sync().map_err(|error| error.to_string())?;
        reign.waiting.extend(placed);
        Ok(())
    }

    /// Applies and answers what is confirmed, in the order of the log.
    pub(super) fn settle(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Role::Ruling(reign), Some(store)) = (&mut self.role, &self.store) else { return Ok(()) };
        let own = disk::held(store)?;
        if !reign.is_open {
            if reign.standing.safe.min(own) < reign.opened {
                return Ok(());
            }
            ctx.note(Note::Confirmed { epoch: reign.epoch, until: reign.opened });
            store.fold_to(reign.opened, |_, _| ()).map_err(|error| error.to_string())?;
            reign.is_open = true;
        }
        let through = reign.waiting.iter().take_while(|placed| reign.lets_through(placed, own)).count();
        let Some(to) = through.checked_sub(1).and_then(|last| reign.waiting.get(last)).map(|last| last.end)
        else {
            return Ok(());
        };
        ctx.note(Note::Confirmed { epoch: reign.epoch, until: to });
        let mut outcomes: HashMap<u64, Outcome> = HashMap::new();
        store
            .fold_to(to, |frame, outcome| drop(outcomes.insert(frame.position, outcome)))
            .map_err(|error| error.to_string())?;
        for placed in reign.waiting.drain(..through) {
            let Some(Asker { node, id }) = placed.asker else { continue };
            let position = placed.position;
            let outcome = outcomes.remove(&position).ok_or("an answered record was not applied")?;
            ctx.note(Note::Acked(reign.epoch));
            ctx.send(node, Message::Answer(id, Answer::Applied { position, outcome }));
        }
        Ok(())
    }

    /// Sends the slaves what they lack.
    pub(super) fn pump(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Role::Ruling(reign), Some(store)) = (&mut self.role, &self.store) else { return Ok(()) };
        let tidings = reign.tidings(disk::held(store)?, ctx);
        for stream in reign.streams.values_mut() {
            while let Some(next) = stream.next
                && next.saturating_sub(stream.acked) < ctx.swarm.window
            {
                let (said, behind) = match store.reader().copy(next, PIECE_BYTES) {
                    Ok(Piece::End) => break,
                    Ok(Piece::Segment { base, .. }) => (FromMaster::Segment { base }, base + SEGMENT_HEADER),
                    Ok(Piece::Frames(bytes)) => {
                        let behind = next + bytes.len() as u64;
                        (FromMaster::Records { position: next, bytes, tidings }, behind)
                    }
                    // It was trimmed: the slave has to call again.
                    Err(_) => {
                        stream.next = None;
                        break;
                    }
                };
                stream.next = Some(behind);
                ctx.send(stream.node, Message::FromMaster(stream.number, said));
            }
        }
        Ok(())
    }

    /// Proposes that messages become visible whose time has come.
    fn fire(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Role::Ruling(reign), Some(store)) = (&mut self.role, &self.store) else { return Ok(()) };
        if !reign.is_open || reign.leaving != Leaving::No {
            return Ok(());
        }
        let due = store.index().due_timers(ctx.wall_ms, None, 64).map_err(|error| error.to_string())?;
        let due: Vec<u64> =
            due.into_iter().map(|(position, _)| position).filter(|due| reign.fired.insert(*due)).collect();
        if !due.is_empty() {
            let record = ProgressRecord::new([ProgressItem::Fired(Fired { held: due })]);
            reign.propose_own(Record::Progress(record));
        }
        Ok(())
    }

    /// Gives up old segments now and then.
    fn trim(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Role::Ruling(reign), Some(store)) = (&mut self.role, &self.store) else { return Ok(()) };
        let is_own = |asker: &Option<Asker>| asker.is_none();
        let is_at_it = reign.proposals.iter().any(|proposal| is_own(&proposal.asker))
            || reign.waiting.iter().any(|placed| is_own(&placed.asker))
            || self.work.is_some();
        let is_due = !is_at_it && ctx.swarm.trims && ctx.mono_ms.saturating_sub(reign.trimmed) >= TRIM_MS;
        if !is_due || !reign.is_open || reign.leaving != Leaving::No {
            return Ok(());
        }
        reign.trimmed = ctx.mono_ms;
        let points: Result<Vec<_>, _> = store.trim_points().collect();
        let points = points.map_err(|error| error.to_string())?;
        let Some(point) = points.len().checked_sub(SEGMENTS_KEPT).and_then(|at| points.get(at)) else {
            return Ok(());
        };
        let needed = store.index().to_carry(point.before).map_err(|error| error.to_string())?;
        for carry in needed {
            let (frame, mut message) =
                store.read_message(carry.location, carry.len).map_err(|error| error.to_string())?;
            message.header.carried = Some(Carried { store_ms: frame.store_ms, ..carry.carried });
            (message.header.topic_id, message.header.queue) = (carry.topic_id, carry.queue);
            reign.propose_own(Record::Message(message));
        }
        let trim = TrimRecord { before: point.before, queues: point.queues.clone() };
        reign.propose_own(Record::Trim(trim));
        Ok(())
    }
}

/// Bytes before the first record of a segment.
const SEGMENT_HEADER: u64 = 64;

impl Reign {
    /// A record that the master makes by itself.
    fn propose_own(&mut self, record: Record) {
        self.proposals.push_back(Proposal { record, replicas: Replicas::Quorum, asker: None });
    }
}

/// What a queue of the one topic shows from an offset on.
fn read(store: &Store, queue: u32, from: u64) -> Result<Answer, String> {
    let index = store.index();
    let bounds = index.queue_bounds(crate::history::TOPIC, queue);
    let mut messages = Vec::new();
    for offset in (from.max(bounds.min)..bounds.next).take(READ_MAX) {
        let entry = index.entry(crate::history::TOPIC, queue, offset).map_err(|error| error.to_string())?;
        let entry =
            entry.ok_or_else(|| format!("the index has no entry for queue {queue}, offset {offset}"))?;
        let (_, message) =
            store.read_message(entry.position, entry.len).map_err(|error| error.to_string())?;
        messages.push((offset, message.header.message_id));
    }
    Ok(Answer::Read { messages, next: bounds.next })
}
