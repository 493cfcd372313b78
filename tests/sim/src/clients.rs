//! Producers and consumers, each with one request at a time.

use std::collections::VecDeque;

use kerolox_core::record::{DiscardRecord, MessageHold, Record, ReleaseRecord};
use kerolox_core::replicas::ReplicaRequirement;
use kerolox_core::transaction::TransactionDecision;
use kerolox_log::fs::SeededChoices;
use kerolox_store::ApplyOutcome;

use crate::history::{History, KnownHalf, Proposed, message, topic};
use crate::invariants;
use crate::machine::START_MS;
use crate::message::{Answer, Ask};
use crate::swarm::{Swarm, below, between};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Plain,
    /// Messages of a message group, one after the other.
    Ordered,
    Transactional,
    Timed,
    Reader,
}

pub(crate) const KINDS: [Kind; 8] = [
    Kind::Plain,
    Kind::Plain,
    Kind::Ordered,
    Kind::Ordered,
    Kind::Transactional,
    Kind::Transactional,
    Kind::Timed,
    Kind::Reader,
];

#[derive(Debug, Clone)]
enum Job {
    Topic,
    Send { id: String, record: Box<Record> },
    Decide { position: u64, decision: TransactionDecision, tries: u32 },
    Read { queue: u32, from: u64, acknowledged: u64 },
}

pub(crate) struct Client {
    pub(crate) group: usize,
    kind: Kind,
    number: usize,
    /// The member that it takes for the master.
    pub(crate) target: usize,
    job: Option<Job>,
    /// Number of the request under way.
    pub(crate) request: u64,
    sent: u64,
    /// Number of the message group, and of the next message in it.
    lane: (u64, u64),
    /// Where it reads on, by queue.
    places: Vec<u64>,
}

/// Decisions of one group that clients still have to propose, with the positions of the half messages.
pub(crate) type Decisions = VecDeque<(u64, TransactionDecision)>;

/// A client's view of its world.
pub(crate) struct Sight<'a> {
    pub(crate) now: u64,
    pub(crate) swarm: &'a Swarm,
    pub(crate) chooser: &'a mut SeededChoices,
    pub(crate) history: &'a mut History,
    pub(crate) decisions: &'a mut Decisions,
    /// Nothing new is begun any more.
    pub(crate) is_ending: bool,
}

impl Client {
    pub(crate) fn new(group: usize, number: usize, queues: u32) -> Self {
        Self {
            group,
            kind: KINDS[number % KINDS.len()],
            number,
            target: 0,
            job: None,
            request: 0,
            sent: 0,
            lane: (0, 0),
            places: vec![0; queues as usize],
        }
    }

    /// Whether the client never writes.
    pub(crate) fn only_reads(&self) -> bool {
        self.kind == Kind::Reader
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.job.is_none()
    }

    /// The next request: the last one again if its outcome is open, or another one.
    pub(crate) fn ask(&mut self, sight: &mut Sight<'_>) -> Option<Ask> {
        if self.job.is_none() {
            self.job = self.choose(sight);
        }
        let replicas =
            if sight.chooser.chance(1, 2) { ReplicaRequirement::Quorum } else { ReplicaRequirement::All };
        let by = || format!("client {}", self.number);
        let record = match self.job.as_mut()? {
            Job::Read { queue, from, acknowledged } => {
                *acknowledged = sight.history.ends.get(queue).copied().unwrap_or(0);
                return Some(Ask::Read { queue: *queue, from: *from });
            }
            Job::Topic => topic(sight.swarm.queues),
            Job::Send { record, .. } => (**record).clone(),
            Job::Decide { position, decision, tries } => {
                *tries += 1;
                let held = *position;
                match decision {
                    TransactionDecision::Commit => {
                        Record::Release(ReleaseRecord { held, by: by(), ..ReleaseRecord::default() })
                    }
                    TransactionDecision::Rollback => {
                        Record::Discard(DiscardRecord { held, by: by(), ..DiscardRecord::default() })
                    }
                }
            }
        };
        Some(Ask::Propose { record: Box::new(record), replicas })
    }

    fn choose(&mut self, sight: &mut Sight<'_>) -> Option<Job> {
        if !sight.history.has_topic {
            return (self.number == 0).then_some(Job::Topic);
        }
        if self.kind == Kind::Transactional
            && let Some((position, decision)) = sight.decisions.pop_front()
        {
            if let Some(half) = sight.history.halves.get_mut(&position) {
                half.asked.push(decision);
            }
            return Some(Job::Decide { position, decision, tries: 0 });
        }
        if self.kind == Kind::Reader {
            let queue = below(sight.chooser, self.places.len());
            let from = self.places[queue];
            return Some(Job::Read { queue: queue.try_into().ok()?, from, acknowledged: 0 });
        }
        if sight.is_ending { None } else { Some(self.send(sight)) }
    }

    fn send(&mut self, sight: &mut Sight<'_>) -> Job {
        self.sent += 1;
        let id = format!("{}-{}-{}", self.group, self.number, self.sent);
        let queue = u32::try_from(below(sight.chooser, self.places.len())).expect("few queues");
        let (hold, hold_ms) = match self.kind {
            Kind::Transactional => (MessageHold::Half, 60_000),
            Kind::Timed => {
                let after = between(sight.chooser, 0, 4_000) + sight.now / 1000;
                (MessageHold::Until, START_MS + i64::try_from(after).expect("short runs"))
            }
            _ => (MessageHold::None, 0),
        };
        let lane = (self.kind == Kind::Ordered).then(|| {
            self.lane.1 += 1;
            (format!("{}-{}-{}", self.group, self.number, self.lane.0), self.lane.1)
        });
        let len = usize::try_from(between(sight.chooser, 1, sight.swarm.body)).expect("small");
        let proposed = Proposed { hold, lane, len };
        let record = Box::new(message(&id, queue, hold_ms, &proposed));
        sight.history.proposed.insert(id.clone(), proposed);
        Job::Send { id, record }
    }

    /// Gives the request up: no answer came, or its outcome is unknown. A message is not sent again; everything else is.
    pub(crate) fn give_up(&mut self) {
        if let Some(Job::Send { .. } | Job::Read { .. }) = self.job {
            self.job = None;
            // The message may come in yet, behind the next one: begin another message group.
            self.lane = (self.lane.0 + 1, 0);
        }
    }

    /// Takes an answer; says whether the next request is to go to another member.
    pub(crate) fn take(&mut self, answer: Answer, sight: &mut Sight<'_>) -> Result<bool, String> {
        match answer {
            Answer::NotMaster => return Ok(true),
            Answer::Unknown => {
                self.give_up();
                return Ok(true);
            }
            Answer::Read { messages, next } => {
                let Some(Job::Read { queue, acknowledged, .. }) = self.job.take() else {
                    return Err("a reader was told something else".to_owned());
                };
                invariants::fresh(queue, acknowledged, next)?;
                sight.history.reads += 1;
                for (offset, id) in &messages {
                    sight.history.tell((queue, *offset), id, false)?;
                }
                if let Some((newest, _)) = messages.last() {
                    self.places[queue as usize] = newest + 1;
                }
            }
            Answer::Applied { position, outcome } => self.applied(position, &outcome, sight)?,
        }
        Ok(false)
    }

    fn applied(
        &mut self,
        position: u64,
        outcome: &ApplyOutcome,
        sight: &mut Sight<'_>,
    ) -> Result<(), String> {
        let history = &mut *sight.history;
        match (self.job.take(), outcome) {
            (Some(Job::Topic), ApplyOutcome::Topic(..)) => history.has_topic = true,
            (Some(Job::Send { id, .. }), ApplyOutcome::Visible { queue, offset }) => {
                history.acked += 1;
                history.tell((*queue, *offset), &id, true)?;
            }
            (Some(Job::Send { id, .. }), ApplyOutcome::Scheduled) => {
                history.acked += 1;
                history.scheduled.push(id);
            }
            (Some(Job::Send { id, .. }), ApplyOutcome::Held) => {
                history.acked += 1;
                history.halves.insert(position, KnownHalf { id, ..KnownHalf::default() });
                let decision = if sight.chooser.chance(2, 3) {
                    TransactionDecision::Commit
                } else {
                    TransactionDecision::Rollback
                };
                if !sight.chooser.chance(1, 10) {
                    sight.decisions.push_back((position, decision));
                }
                if sight.chooser.chance(1, 8) {
                    let rival = match decision {
                        TransactionDecision::Commit => TransactionDecision::Rollback,
                        TransactionDecision::Rollback => TransactionDecision::Commit,
                    };
                    sight.decisions.push_back((position, rival));
                }
            }
            (Some(Job::Decide { position, decision, tries }), outcome) => {
                history.decided += 1;
                let half = history.halves.get_mut(&position).ok_or("a decision about nothing")?;
                let may_be_forgotten = sight.swarm.trims && (tries > 1 || half.asked.len() > 1);
                invariants::settled(half, decision, outcome, may_be_forgotten)?;
                if let ApplyOutcome::Visible { queue, offset } = outcome {
                    let id = half.id.clone();
                    history.tell((*queue, *offset), &id, true)?;
                }
            }
            (job, outcome) => return Err(format!("{job:?} was answered with {outcome:?}")),
        }
        Ok(())
    }
}
