//! What the answers of the store amount to, and what must be there after a power cut.

use std::collections::{BTreeSet, HashMap, HashSet};

use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::MessageHold;
use kerolox_core::timer::TimerPhase;
use kerolox_store::{AppliedRecord, ApplyOutcome, Store};

use crate::observe::{End, HeldMessage, View, Visible, end_of};
use crate::once::Once;
use crate::plan::Plan;

/// An answered proposal.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) plan: Plan,
    pub(crate) flush: FlushRequirement,
    pub(crate) applied: AppliedRecord,
}

#[derive(Default)]
pub(crate) struct Model {
    /// As of the last answer.
    pub(crate) live: View,
    /// What a power cut must not take.
    durable: View,
    /// Answers behind the durable end.
    open: Vec<Answer>,
    /// Messages that were ever proposed, with topic and queue.
    proposed: HashMap<String, (u32, u32)>,
    /// Held messages that were ever to become visible.
    show_proposed: HashSet<String>,
    /// Offsets whose end was ever proposed.
    finish_proposed: BTreeSet<(u32, u32, u64)>,
    /// Messages of this life, which a power cut may take.
    fresh: Vec<String>,
    /// Messages that were not there after a start: they must never come back.
    gone: HashSet<String>,
    /// Topics that were touched by a proposal of this life.
    touched: HashSet<String>,
    /// Held messages of which this life proposed the end.
    ended: HashSet<u64>,
    /// Where the log was given up at the most.
    trimmed: u64,
    /// Where queues were made to begin at the most.
    expired: HashMap<(u32, u32), u64>,
    /// Lite topics that were touched by a proposal of this life, and the queues of which it proposed the end.
    touched_lites: HashSet<(u32, String)>,
    dropped: HashSet<(u32, u32)>,
    once: Once,
}

impl Model {
    /// To be told before a proposal is made.
    pub(crate) fn propose(&mut self, plan: &Plan) {
        self.once.propose(plan);
        match plan {
            Plan::PutLite { topic_id, name } => {
                self.touched_lites.insert((*topic_id, (*name).to_owned()));
            }
            Plan::DropLite { topic_id, name, queue, .. } => {
                self.touched_lites.insert((*topic_id, (*name).to_owned()));
                self.dropped.insert((*topic_id, *queue));
            }
            Plan::Message { id, topic_id, queue }
            | Plan::Once { id, topic_id, queue, .. }
            | Plan::Half { id, topic_id, queue }
            | Plan::Scheduled { id, topic_id, queue } => {
                self.proposed.insert(id.clone(), (*topic_id, *queue));
                self.fresh.push(id.clone());
            }
            Plan::Show { position, .. } => {
                self.ended.insert(*position);
                if let Some(held) = self.live.held.get(position) {
                    self.show_proposed.insert(held.id.clone());
                }
            }
            Plan::Hide { position, .. } => drop(self.ended.insert(*position)),
            Plan::Finish { place } => drop(self.finish_proposed.insert(*place)),
            Plan::PutTopic { name, .. } | Plan::DeleteTopic { name } => {
                self.touched.insert(name.clone());
            }
            Plan::PutGroup => {}
        }
    }

    /// To be told before a trim.
    pub(crate) fn trim(&mut self, before: u64) {
        self.trimmed = self.trimmed.max(before);
    }

    /// To be told before messages of a queue expire.
    pub(crate) fn expire(&mut self, queue: (u32, u32), before: u64) {
        let expired = self.expired.entry(queue).or_default();
        *expired = before.max(*expired);
    }

    /// To be told after a trim or an expiry that went through: what a queue holds now.
    pub(crate) fn trimmed(&mut self, store: &Store) {
        let Self { live, .. } = self;
        for ((topic_id, queue), (min, _)) in &mut live.bounds {
            *min = store.state().queues.bounds(*topic_id, *queue).min;
        }
        let expired = |(topic_id, queue, offset): &(u32, u32, u64)| {
            live.bounds.get(&(*topic_id, *queue)).is_some_and(|(min, _)| offset < min)
        };
        live.visible.retain(|place, _| !expired(place));
        live.done.retain(|place| !expired(place));
    }

    /// Takes the answers to a batch; `all_there` says that a power cut cannot take them.
    pub(crate) fn answer(&mut self, store: &Store, mut answers: Vec<Answer>) -> Result<(), String> {
        answers.sort_by_key(|answer| answer.applied.position);
        for answer in answers {
            let told = |wrong| format!("{:?} was answered with {:?}: {wrong}", answer.plan, answer.applied);
            self.once.check(store, &self.live, &answer, self.trimmed).map_err(told)?;
            take(&mut self.live, &answer, self.trimmed).map_err(|wrong| {
                format!("{:?} was answered with {:?}: {wrong}", answer.plan, answer.applied)
            })?;
            self.open.push(answer);
        }
        // What was written before a synced record is synced with it.
        let synced = self
            .open
            .iter()
            .rposition(|answer| answer.flush == FlushRequirement::Sync)
            .map_or(0, |at| at + 1);
        for answer in self.open.drain(..synced) {
            take(&mut self.durable, &answer, self.trimmed)?;
        }
        Ok(())
    }

    /// Everything answered must be there from now on: the process died, the machine lives.
    pub(crate) fn keep_all(&mut self) {
        self.durable = self.live.clone();
        self.open.clear();
    }

    /// Compares what a started store shows with what must and may be there, and takes it up.
    pub(crate) fn restart(&mut self, store: &Store) -> Result<(), String> {
        let mut view = View::of(store)?;
        self.check_topics(&view)?;
        self.check_messages(store, &view)?;
        self.check_done(&view)?;
        self.check_nothing_else(&view)?;
        self.check_lites(&view)?;
        self.once.check_all(&view)?;
        self.take_held(store, &mut view)?;
        let kept: HashSet<&str> = view
            .visible
            .values()
            .map(|visible| visible.id.as_str())
            .chain(view.held.values().map(|held| held.id.as_str()))
            .collect();
        let lost = self.fresh.drain(..).filter(|id| !kept.contains(id.as_str()));
        self.gone.extend(lost.collect::<Vec<_>>());
        self.touched.clear();
        self.touched_lites.clear();
        self.dropped.clear();
        self.ended.clear();
        self.open.clear();
        for (place, visible) in &mut view.visible {
            visible.at = match self.live.visible.get(place) {
                Some(known) if known.id == visible.id => known.at,
                // It came with this start; whether a trim may take it cannot be told.
                _ => 0,
            };
        }
        self.live = view.clone();
        self.durable = view;
        Ok(())
    }

    fn check_topics(&self, view: &View) -> Result<(), String> {
        for (name, topic) in &self.durable.topics {
            if !self.touched.contains(name) && view.topics.get(name) != Some(topic) {
                return Err(format!("topic {name} {topic:?} is {:?} now", view.topics.get(name)));
            }
        }
        let ghost = view
            .topics
            .keys()
            .find(|name| !self.touched.contains(*name) && !self.durable.topics.contains_key(*name));
        ghost.map_or(Ok(()), |name| Err(format!("topic {name} came from nowhere")))
    }

    /// Lite topics keep their queues, and none comes or goes by itself.
    fn check_lites(&self, view: &View) -> Result<(), String> {
        for (lite, queue) in &self.durable.lites {
            let found = view.lites.get(lite);
            if found != Some(queue) && view.has_topic(lite.0) && !self.touched_lites.contains(lite) {
                return Err(format!("the lite topic {lite:?} with queue {queue} has queue {found:?} now"));
            }
        }
        let ghost = view
            .lites
            .keys()
            .find(|lite| !self.touched_lites.contains(lite) && !self.durable.lites.contains_key(*lite));
        ghost.map_or(Ok(()), |lite| Err(format!("the lite topic {lite:?} came from nowhere")))
    }

    /// Whether a lite topic may be gone because this life proposed it.
    fn may_be_dropped(&self, view: &View, topic_id: u32, queue: u32) -> bool {
        self.dropped.contains(&(topic_id, queue)) && !view.has_queue(topic_id, queue)
    }

    /// Every message that must be there is there, at its offset.
    fn check_messages(&self, store: &Store, view: &View) -> Result<(), String> {
        for (place @ (topic_id, queue, offset), known) in &self.durable.visible {
            if !view.has_topic(*topic_id) || self.may_be_dropped(view, *topic_id, *queue) {
                continue;
            }
            let Some(found) = view.visible.get(place) else {
                let min = store.state().queues.bounds(*topic_id, *queue).min;
                let expired = self.expired.get(&(*topic_id, *queue)).copied().unwrap_or(0);
                if *offset < min && (known.at < self.trimmed || *offset < expired) {
                    continue;
                }
                return Err(format!(
                    "the message {} at {place:?} is gone (trimmed {})",
                    known.id, self.trimmed
                ));
            };
            if found.id != known.id {
                return Err(format!("at {place:?} is {} instead of {}", found.id, known.id));
            }
        }
        for (queue, (_, next)) in &self.durable.bounds {
            let now = view.bounds.get(queue).map_or(0, |bounds| bounds.1);
            let may_go = !view.has_topic(queue.0) || self.may_be_dropped(view, queue.0, queue.1);
            if now < *next && !may_go {
                return Err(format!(
                    "queue {queue:?} goes on at {now}, not {next}: offsets would be used twice"
                ));
            }
        }
        Ok(())
    }

    fn check_done(&self, view: &View) -> Result<(), String> {
        let missing = self
            .durable
            .done
            .iter()
            .find(|place| view.visible.contains_key(place) && !view.done.contains(place));
        if let Some(place) = missing {
            return Err(format!("the acknowledgement of {place:?} is gone"));
        }
        let ghost = view.done.iter().find(|place| !self.finish_proposed.contains(place));
        ghost.map_or(Ok(()), |place| Err(format!("{place:?} is done without an acknowledgement")))
    }

    /// Nothing is visible that was never sent, that was rolled back, that had gone before, or that is there already.
    fn check_nothing_else(&self, view: &View) -> Result<(), String> {
        let mut seen = HashSet::new();
        let ends: HashMap<&str, End> =
            self.durable.held.values().map(|held| (held.id.as_str(), held.end)).collect();
        for (place @ (topic_id, queue, _), Visible { id, .. }) in &view.visible {
            let wrong = if !seen.insert(id) {
                "is visible twice"
            } else if self.gone.contains(id) {
                "came back after it was gone"
            } else if self.proposed.get(id) != Some(&(*topic_id, *queue)) {
                "was never sent there"
            } else if !id.starts_with('m') && !self.show_proposed.contains(id) {
                "was never committed or delivered"
            } else if matches!(ends.get(id.as_str()), Some(End::Hidden(_))) {
                "was rolled back or recalled"
            } else {
                continue;
            };
            return Err(format!("the message {id} at {place:?} {wrong}"));
        }
        for held in view.held.values() {
            if self.gone.contains(&held.id) || !self.proposed.contains_key(&held.id) {
                return Err(format!("the held message {} came from nowhere", held.id));
            }
        }
        Ok(())
    }

    /// Transactions and timers stand as they stood, or have ended as this life proposed. Adds those that have ended to `view`.
    fn take_held(&self, store: &Store, view: &mut View) -> Result<(), String> {
        for (position, known) in &self.durable.held {
            if !view.has_topic(known.topic_id) {
                continue;
            }
            let found = end_of(store, *position, known.hold)?;
            let fine = match (known.end, found) {
                (known, Some(found)) if known == found => true,
                (End::Open, Some(_)) => self.ended.contains(position),
                // A trim made the decision of this life durable, and it was forgotten with its segment.
                (End::Open, None) => {
                    let ended = self.live.held.get(position).map(|live| live.end);
                    matches!(ended, Some(End::Shown(_, at) | End::Hidden(at)) if at < self.trimmed)
                }
                // Forgotten with the segment of its decision.
                (End::Shown(_, at) | End::Hidden(at), None) => at < self.trimmed,
                (_, Some(_)) => false,
            };
            if !fine {
                return Err(format!("{} was {:?} and is {found:?}", known.id, known.end));
            }
            if let Some(end) = found {
                view.held.entry(*position).or_insert_with(|| HeldMessage { end, ..known.clone() });
            }
        }
        // What was answered without a sync, and is there all the same.
        for (position, known) in &self.live.held {
            if !view.held.contains_key(position)
                && view.has_topic(known.topic_id)
                && let Some(end) = end_of(store, *position, known.hold)?
            {
                view.held.insert(*position, HeldMessage { end, ..known.clone() });
            }
        }
        Ok(())
    }
}

/// What an answer changes, if it is one that can be given.
fn take(view: &mut View, answer: &Answer, trimmed: u64) -> Result<(), String> {
    let position = answer.applied.position;
    let at = (position, answer.applied.store_ms);
    match (&answer.plan, &answer.applied.outcome) {
        (
            Plan::Message { id, topic_id, queue } | Plan::Once { id, topic_id, queue, .. },
            ApplyOutcome::Visible { queue: found, offset },
        ) if found == queue => show(view, (*topic_id, *queue, *offset), id, at),
        (Plan::Message { topic_id, queue, .. }, ApplyOutcome::TopicGone)
            if !view.has_queue(*topic_id, *queue) =>
        {
            Ok(())
        }
        (Plan::Once { .. }, ApplyOutcome::Duplicate(_)) => Ok(()),
        (Plan::PutLite { topic_id, name }, ApplyOutcome::Lite { queue, is_new }) => {
            let known = view.lites.insert((*topic_id, (*name).to_owned()), *queue);
            let is_taken = view.lites.values().filter(|other| *other == queue).count() > 1;
            let right = known.map_or(*is_new && !is_taken, |known| !*is_new && known == *queue);
            view.bounds.entry((*topic_id, *queue)).or_insert((0, 0));
            if right { Ok(()) } else { Err(format!("it was {known:?} before")) }
        }
        (Plan::PutLite { topic_id, .. }, ApplyOutcome::TopicGone) if !view.has_topic(*topic_id) => Ok(()),
        (Plan::DropLite { topic_id, name, queue, next }, ApplyOutcome::Deleted(went)) => {
            let is_there = view.lites.get(&(*topic_id, (*name).to_owned())) == Some(queue);
            let is_as_seen = view.bounds.get(&(*topic_id, *queue)).map_or(0, |bounds| bounds.1) == *next;
            if *went {
                view.forget_lite(*topic_id, *queue);
            }
            if *went == (is_there && is_as_seen) {
                Ok(())
            } else {
                Err("it is not as it was seen".to_owned())
            }
        }
        (
            Plan::Once { topic_id, .. } | Plan::Half { topic_id, .. } | Plan::Scheduled { topic_id, .. },
            ApplyOutcome::TopicGone,
        ) if !view.has_topic(*topic_id) => Ok(()),
        (Plan::Half { id, topic_id, queue }, ApplyOutcome::Held) => {
            view.held.insert(position, open(id, *topic_id, *queue, MessageHold::Half));
            Ok(())
        }
        (Plan::Scheduled { id, topic_id, queue }, ApplyOutcome::Scheduled) => {
            view.held.insert(position, open(id, *topic_id, *queue, MessageHold::Until));
            Ok(())
        }
        (Plan::Show { position: held, .. }, outcome) => settle(view, *held, true, outcome, at, trimmed),
        (Plan::Hide { position: held, .. }, outcome) => settle(view, *held, false, outcome, at, trimmed),
        (Plan::Finish { place }, ApplyOutcome::Done) => {
            if view.group && view.visible.contains_key(place) {
                view.done.insert(*place);
            }
            Ok(())
        }
        (Plan::PutTopic { name, queues }, ApplyOutcome::Topic(topic, new)) => {
            let known = view.topics.insert(name.clone(), (topic.id, *queues));
            let right = known.map_or(*new, |(id, _)| !*new && id == topic.id);
            if right { Ok(()) } else { Err(format!("it was {known:?} before")) }
        }
        (Plan::DeleteTopic { name }, ApplyOutcome::Deleted(found)) => {
            let known = view.topics.get(name).copied();
            if let Some((id, _)) = known {
                view.forget_topic(id);
            }
            if known.is_some() == *found { Ok(()) } else { Err(format!("it was {known:?} before")) }
        }
        (Plan::PutGroup, ApplyOutcome::Group(..)) => {
            view.group = true;
            Ok(())
        }
        _ => Err("that is no answer to it".to_owned()),
    }
}

fn show(view: &mut View, place: (u32, u32, u64), id: &str, (at, ms): (u64, i64)) -> Result<(), String> {
    let (topic_id, queue, offset) = place;
    let (_, next) = view.bounds.entry((topic_id, queue)).or_insert((0, 0));
    if *next != offset {
        return Err(format!("the next offset is {next}"));
    }
    *next += 1;
    view.visible.insert(place, Visible { id: id.to_owned(), at, ms, is_carried: false });
    Ok(())
}

fn open(id: &str, topic_id: u32, queue: u32, hold: MessageHold) -> HeldMessage {
    HeldMessage { hold, id: id.to_owned(), topic_id, queue, end: End::Open }
}

/// The first decision stands.
fn settle(
    view: &mut View,
    position: u64,
    is_shown: bool,
    outcome: &ApplyOutcome,
    (at, ms): (u64, i64),
    trimmed: u64,
) -> Result<(), String> {
    let Some(held) = view.held.get(&position).cloned() else {
        // It went with its topic. The store may remember how it had ended, but nothing can happen to it.
        let happened = matches!(outcome, ApplyOutcome::Visible { .. } | ApplyOutcome::Discarded);
        return if happened { Err("there is no such message".to_owned()) } else { Ok(()) };
    };
    let end = match (held.end, outcome) {
        (End::Open, ApplyOutcome::Visible { queue, offset }) if is_shown && *queue == held.queue => {
            show(view, (held.topic_id, *queue, *offset), &held.id, (at, ms))?;
            End::Shown(*offset, at)
        }
        (End::Open, ApplyOutcome::Discarded) if !is_shown => End::Hidden(at),
        (End::Shown(..), ApplyOutcome::Repeated) if is_shown => held.end,
        (End::Hidden(_), ApplyOutcome::Repeated) if !is_shown => held.end,
        (End::Shown(..), ApplyOutcome::Contradicted) if !is_shown => held.end,
        (End::Hidden(_), ApplyOutcome::Contradicted) if is_shown => held.end,
        (End::Shown(..), ApplyOutcome::TimerOver(TimerPhase::Delivered)) => held.end,
        (End::Hidden(_), ApplyOutcome::TimerOver(TimerPhase::Recalled)) => held.end,
        (
            End::Shown(_, decided) | End::Hidden(decided),
            ApplyOutcome::NoSuchHalf | ApplyOutcome::NoSuchTimer,
        ) if decided < trimmed => held.end,
        _ => return Err(format!("it is {:?}", held.end)),
    };
    view.held.insert(position, HeldMessage { end, ..held });
    Ok(())
}
