//! The leader's side: it takes proposals, sends its log to the followers, and answers confirmed requests.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use kerolox_controller::MemberId;
use kerolox_core::record::{
    CarriedOrigin, EpochRecord, FiredRecord, ProgressItem, ProgressRecord, Record, TrimRecord,
};
use kerolox_core::replicas::ReplicaRequirement;
use kerolox_log::Piece;
use kerolox_log::frame::frame_len;
use kerolox_replication::handshake::{self, HandshakeAnswer, LeaderLog};
use kerolox_replication::{CommitStatus, CommitUpdate, MemberInput, MemberRole};
use kerolox_store::{ApplyOutcome, LogRecords, Store, lets_through};

use super::{Activity, Ctx, LogWork, Member, Note, disk};
use crate::message::{Answer, Ask, FromMaster, FromSlave, Message, Node};

/// Proposals that are written together at the most.
const BATCH_MAX: usize = 16;
/// Bytes that a slave is sent at once.
const PIECE_BYTES: usize = 3_000;
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
    replicas: ReplicaRequirement,
    asker: Option<Asker>,
}

/// A record in the log that was not applied.
pub(super) struct Placed {
    position: u64,
    end: u64,
    replicas: ReplicaRequirement,
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

/// The work for one duty.
pub(super) struct Leading {
    pub(super) epoch: u32,
    /// End of the record that opened the leadership.
    opened: u64,
    /// What answers go by.
    pub(super) status: CommitStatus,
    /// What they are to go by from this moment on, because a stricter rule takes its time to get there.
    published: Option<(u64, CommitStatus)>,
    streams: BTreeMap<MemberId, Stream>,
    proposals: VecDeque<Proposal>,
    waiting: VecDeque<Placed>,
    pinged: u64,
    trimmed: u64,
    fired: BTreeSet<u64>,
    /// No client is let in.
    pub(super) is_draining: bool,
}

impl Leading {
    /// Tells every client that waits that the outcome is not known.
    pub(super) fn end(self: Box<Self>, ctx: &mut Ctx<'_>) {
        for Asker { node, id } in self.proposals.iter().filter_map(|proposal| proposal.asker) {
            ctx.send(node, Message::Answer(id, Answer::NotMaster));
        }
        for Asker { node, id } in self.waiting.iter().filter_map(|placed| placed.asker) {
            ctx.send(node, Message::Answer(id, Answer::Unknown));
        }
    }

    pub(super) fn publish(&mut self, status: CommitStatus, is_barrier: bool, ctx: &mut Ctx<'_>) {
        ctx.note(Note::Published { opened: self.opened, high_watermark: status.high_watermark });
        match &mut self.published {
            Some((_, published)) => *published = status,
            None if is_barrier => self.published = Some((ctx.mono_ms + ctx.swarm.publish_ms, status)),
            None => self.status = status,
        }
    }

    fn update(&self, own: u64, ctx: &Ctx<'_>) -> CommitUpdate {
        self.status.update(own, ctx.clock())
    }
}

impl Member {
    pub(super) fn open_leadership(
        &mut self,
        number: u64,
        epoch: u32,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), String> {
        if self.store.is_none() {
            self.store = Some(self.disk.open(&self.identity.name.group, self.identity.life, ctx.swarm)?);
        }
        let store = self.store.as_ref().expect("opened above");
        let record = Record::Epoch(EpochRecord { epoch, broker: self.identity.name.group.clone() });
        let appended = disk::parked(store)?.append(&[record], epoch, ctx.wall_ms);
        appended.map_err(|error| error.to_string())?;
        self.begin(LogWork::Open { number, epoch }, ctx);
        Ok(())
    }

    /// The record that opens the leadership of a duty is durable.
    pub(super) fn opened(&mut self, number: u64, epoch: u32, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let store = self.store.as_ref().ok_or("a leadership without a log")?;
        let end = {
            let mut parked = disk::parked(store)?;
            parked.sync().map_err(|error| error.to_string())?;
            parked.end()
        };
        ctx.note(Note::Opened(epoch));
        self.activity = Activity::Leading(Box::new(Leading {
            epoch,
            opened: end,
            status: CommitStatus::UNHEARD,
            published: None,
            streams: BTreeMap::new(),
            proposals: VecDeque::new(),
            waiting: VecDeque::new(),
            pinged: 0,
            trimmed: ctx.mono_ms,
            fired: BTreeSet::new(),
            is_draining: false,
        }));
        self.tell(MemberInput::Opened { number, end }, ctx)
    }

    /// Does the leader's periodic work.
    pub(super) fn lead(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let now = ctx.mono_ms;
        let (Activity::Leading(leading), Some(store)) = (&mut self.activity, &self.store) else {
            return Ok(());
        };
        if let Some((_, status)) = leading.published.take_if(|(at, _)| now >= *at) {
            leading.status = status;
            let end = disk::parked(store)?.end();
            self.tell(MemberInput::Published { end }, ctx)?;
        }
        self.ping(ctx)?;
        self.fire(ctx)?;
        self.trim(ctx)
    }

    fn ping(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Activity::Leading(leading), Some(store)) = (&mut self.activity, &self.store) else {
            return Ok(());
        };
        if ctx.mono_ms.saturating_sub(leading.pinged) >= ctx.swarm.ping_ms {
            leading.pinged = ctx.mono_ms;
            let update = leading.update(disk::held(store)?, ctx);
            for stream in leading.streams.values().filter(|stream| stream.next.is_some()) {
                ctx.send(stream.node, Message::FromMaster(stream.number, FromMaster::Update(update)));
            }
        }
        Ok(())
    }

    /// Ends draining once all accepted proposals are in the log.
    pub(super) fn drain(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        match &self.activity {
            Activity::Leading(leading)
                if leading.is_draining && leading.proposals.is_empty() && self.log_work.is_none() =>
            {
                self.tell(MemberInput::Drained, ctx)
            }
            _ => Ok(()),
        }
    }

    pub(super) fn hear_follower(
        &mut self,
        node: Node,
        number: u64,
        said: FromSlave,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), String> {
        let (Activity::Leading(leading), Some(store)) = (&mut self.activity, &self.store) else {
            ctx.send(node, Message::FromMaster(number, FromMaster::Refused));
            return Ok(());
        };
        match said {
            FromSlave::Hello { epoch, .. } if epoch != leading.epoch => {
                ctx.send(node, Message::FromMaster(number, FromMaster::Refused));
            }
            FromSlave::Hello { member, hello, .. } => {
                let own = LeaderLog { salt: disk::parked(store)?.salt(), base: store.log_start() };
                let answer = handshake::answer(&hello, &own, &LogRecords(store.reader()))
                    .map_err(|error| error.to_string())?;
                let mut next = None;
                let answer = match answer {
                    HandshakeAnswer::Start => {
                        next = Some(hello.end);
                        FromMaster::Start
                    }
                    HandshakeAnswer::Diverged(end) => FromMaster::Diverged(end),
                    HandshakeAnswer::Begin => match store.reader().copy(own.base, 1) {
                        Ok(Piece::Segment { base, .. }) => FromMaster::Begin { salt: own.salt, base },
                        other => return Err(format!("a log that begins with {other:?}")),
                    },
                    HandshakeAnswer::Foreign => FromMaster::Refused,
                };
                leading.streams.insert(member, Stream { node, number, next, acked: hello.end });
                ctx.send(node, Message::FromMaster(number, answer));
                if next.is_some() {
                    self.tell(MemberInput::Follows(member), ctx)?;
                }
            }
            FromSlave::Held { durable, ping } => {
                let stream = leading.streams.iter_mut().find(|(_, stream)| stream.number == number);
                if let Some((member, stream)) = stream
                    && stream.next.is_some()
                {
                    stream.acked = durable;
                    let member = *member;
                    let log = self.log_ends()?;
                    self.tell(MemberInput::Acked { member, durable, ping, log }, ctx)?;
                }
            }
        }
        Ok(())
    }

    pub(super) fn ask(&mut self, node: Node, id: u64, ask: Ask, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let serves = matches!(self.machine.role(), MemberRole::Leader { .. });
        let is_sure = self.leading(ctx.clock()).is_some_and(|(_, is_sure)| is_sure);
        let (Activity::Leading(leading), Some(store)) = (&mut self.activity, &self.store) else {
            ctx.send(node, Message::Answer(id, Answer::NotMaster));
            return Ok(());
        };
        match ask {
            Ask::Propose { record, replicas } if serves => {
                let asker = Some(Asker { node, id });
                leading.proposals.push_back(Proposal { record: *record, replicas, asker });
            }
            Ask::Read { queue, from } if is_sure => {
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
        let (Activity::Leading(leading), Some(store), None) =
            (&mut self.activity, &self.store, &self.log_work)
        else {
            return Ok(());
        };
        let count = leading.proposals.len().min(BATCH_MAX);
        if count == 0 {
            return Ok(());
        }
        let lens = leading.proposals.iter().take(count).map(|proposal| proposal.record.encode().len());
        let needed: u64 = lens.map(|len| frame_len(len) as u64).sum();
        let mut parked = disk::parked(store)?;
        let mut placed = Vec::new();
        if needed > parked.room() {
            // A segment begins with the state of the fold, which has to have caught up.
            if store.state().applied() != parked.end() {
                return Ok(());
            }
            let position = parked.end();
            parked.begin_segment(leading.epoch, ctx.wall_ms).map_err(|error| error.to_string())?;
            let end = parked.end();
            placed.push(Placed { position, end, replicas: ReplicaRequirement::Quorum, asker: None });
        }
        let batch: Vec<Proposal> = leading.proposals.drain(..count).collect();
        let records: Vec<Record> = batch.iter().map(|proposal| proposal.record.clone()).collect();
        let places =
            parked.append(&records, leading.epoch, ctx.wall_ms).map_err(|error| error.to_string())?;
        drop(parked);
        placed.extend(batch.into_iter().zip(places).map(|(proposal, (position, len))| Placed {
            position,
            end: position + u64::from(len),
            replicas: proposal.replicas,
            asker: proposal.asker,
        }));
        self.begin(LogWork::Batch(placed), ctx);
        Ok(())
    }

    pub(super) fn stored(&mut self, placed: Vec<Placed>) -> Result<(), String> {
        let (Activity::Leading(leading), Some(store)) = (&mut self.activity, &self.store) else {
            return Err("a batch without a leadership".to_owned());
        };
        disk::parked(store)?.sync().map_err(|error| error.to_string())?;
        leading.waiting.extend(placed);
        Ok(())
    }

    /// Applies confirmed records and answers them, in the order of the log.
    pub(super) fn settle(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Activity::Leading(leading), Some(store)) = (&mut self.activity, &self.store) else {
            return Ok(());
        };
        let own = disk::held(store)?;
        if matches!(self.machine.role(), MemberRole::Candidate { .. }) {
            if leading.status.high_watermark.min(own) < leading.opened {
                return Ok(());
            }
            ctx.note(Note::Confirmed { epoch: leading.epoch, until: leading.opened });
            store.fold_to(leading.opened, |_, _| ()).map_err(|error| error.to_string())?;
            return self.tell(MemberInput::Settled, ctx);
        }
        let (status, clock) = (leading.status, ctx.clock());
        let is_through = |placed: &&Placed| {
            own >= placed.end && lets_through(&status, placed.replicas, placed.end, Some(clock))
        };
        let through = leading.waiting.iter().take_while(is_through).count();
        let Some(to) = through.checked_sub(1).and_then(|last| leading.waiting.get(last)).map(|last| last.end)
        else {
            return Ok(());
        };
        ctx.note(Note::Confirmed { epoch: leading.epoch, until: to });
        let mut outcomes: HashMap<u64, ApplyOutcome> = HashMap::new();
        store
            .fold_to(to, |frame, outcome| drop(outcomes.insert(frame.position, outcome)))
            .map_err(|error| error.to_string())?;
        for placed in leading.waiting.drain(..through) {
            let Some(Asker { node, id }) = placed.asker else { continue };
            let position = placed.position;
            let outcome = outcomes.remove(&position).ok_or("an answered record was not applied")?;
            ctx.note(Note::Acked(leading.epoch));
            ctx.send(node, Message::Answer(id, Answer::Applied { position, outcome }));
        }
        Ok(())
    }

    /// Sends the slaves what they lack.
    pub(super) fn pump(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let (Activity::Leading(leading), Some(store)) = (&mut self.activity, &self.store) else {
            return Ok(());
        };
        let update = leading.update(disk::held(store)?, ctx);
        for stream in leading.streams.values_mut() {
            while let Some(next) = stream.next
                && next.saturating_sub(stream.acked) < ctx.swarm.window
            {
                let (said, behind) = match store.reader().copy(next, PIECE_BYTES) {
                    Ok(Piece::End) => break,
                    Ok(Piece::Segment { base, .. }) => (FromMaster::Segment { base }, base + SEGMENT_HEADER),
                    Ok(Piece::Frames(bytes)) => {
                        let behind = next + bytes.len() as u64;
                        (FromMaster::Records { position: next, bytes, update }, behind)
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
        let serves = matches!(self.machine.role(), MemberRole::Leader { .. });
        let (Activity::Leading(leading), Some(store)) = (&mut self.activity, &self.store) else {
            return Ok(());
        };
        if !serves {
            return Ok(());
        }
        let due = store.state().timers.due(ctx.wall_ms, None, 64).map_err(|error| error.to_string())?;
        let due: Vec<u64> =
            due.into_iter().map(|(position, _)| position).filter(|due| leading.fired.insert(*due)).collect();
        if !due.is_empty() {
            let record = ProgressRecord::new([ProgressItem::Fired(FiredRecord { held: due })]);
            leading.propose_own(Record::Progress(record));
        }
        Ok(())
    }

    /// Gives up old segments now and then.
    fn trim(&mut self, ctx: &mut Ctx<'_>) -> Result<(), String> {
        let serves = matches!(self.machine.role(), MemberRole::Leader { .. });
        let (Activity::Leading(leading), Some(store)) = (&mut self.activity, &self.store) else {
            return Ok(());
        };
        let is_own = |asker: &Option<Asker>| asker.is_none();
        let is_at_it = leading.proposals.iter().any(|proposal| is_own(&proposal.asker))
            || leading.waiting.iter().any(|placed| is_own(&placed.asker))
            || self.log_work.is_some();
        let is_due = !is_at_it && ctx.swarm.trims && ctx.mono_ms.saturating_sub(leading.trimmed) >= TRIM_MS;
        if !is_due || !serves {
            return Ok(());
        }
        leading.trimmed = ctx.mono_ms;
        let points: Result<Vec<_>, _> = store.trim_points().collect();
        let points = points.map_err(|error| error.to_string())?;
        let Some(point) = points.len().checked_sub(SEGMENTS_KEPT).and_then(|at| points.get(at)) else {
            return Ok(());
        };
        let needed = store.state().to_carry(point.before).map_err(|error| error.to_string())?;
        for carry in needed {
            let (frame, mut message) =
                store.read_message(carry.location, carry.len).map_err(|error| error.to_string())?;
            message.header.carried = Some(CarriedOrigin { store_ms: frame.store_ms, ..carry.carried });
            (message.header.topic_id, message.header.queue) = (carry.topic_id, carry.queue);
            leading.propose_own(Record::Message(message));
        }
        let trim = TrimRecord { before: point.before, queues: point.queues.clone() };
        leading.propose_own(Record::Trim(trim));
        Ok(())
    }
}

/// Bytes before the first record of a segment.
const SEGMENT_HEADER: u64 = 64;

impl Leading {
    /// A record that the master makes by itself.
    fn propose_own(&mut self, record: Record) {
        self.proposals.push_back(Proposal { record, replicas: ReplicaRequirement::Quorum, asker: None });
    }
}

/// What a queue of the one topic shows from an offset on.
fn read(store: &Store, queue: u32, from: u64) -> Result<Answer, String> {
    let index = store.state();
    let bounds = index.queues.bounds(crate::history::TOPIC, queue);
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
