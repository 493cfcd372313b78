//! The fold: what one record of the log changes. Deterministic, and the same on master and slave.

use std::sync::Arc;

use kerolox_core::acks::Acks;
use kerolox_core::dedup::Dedup;
use kerolox_core::group::Group;
use kerolox_core::record::{
    Hold, Kind, MessageRecord, MetaChange, MetaRecord, ProgressItem, QueueProgress, Record, RecordError,
    Routing,
};
use kerolox_core::timer::{Timer, TimerPhase};
use kerolox_core::topic::Topic;
use kerolox_core::transaction::Half;
use kerolox_log::Frame;
use prost::Message;

use crate::error::StoreError;
use crate::kv::{Family, Op};
use crate::state::dead::REDRIVEN;
use crate::state::entries::Entry;
use crate::state::snapshot::Loading;
use crate::state::transactions::Settling;
use crate::state::{First, Progress, StateMachine, keys};

/// What a record did; whoever proposed it waits for this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A message is visible at this offset: it was sent, its transaction was committed, or it was delivered before its time
    /// just now.
    Visible {
        /// Queue of its topic.
        queue: u32,
        /// Offset in the queue.
        offset: u64,
    },
    /// A half message waits for its decision.
    Held,
    /// A message waits for its delivery time: it was sent, or its transaction was committed just now.
    Scheduled,
    /// The message repeats this one and was not made visible.
    Duplicate(First),
    /// The transaction was rolled back, or the scheduled message recalled just now.
    Discarded,
    /// The transaction had ended the same way before.
    Repeated,
    /// The transaction had ended the other way before; that stands.
    Contradicted,
    /// There is no half message at that position.
    NoSuchHalf,
    /// The scheduled message was delivered or recalled before; that stands.
    TimerOver(TimerPhase),
    /// There is no scheduled message at that position.
    NoSuchTimer,
    /// The topic was deleted before the record was applied.
    TopicGone,
    /// The topic as it is now, and whether it is new.
    Topic(Arc<Topic>, bool),
    /// The group as it is now, and whether it is new.
    Group(Arc<Group>, bool),
    /// The queue of a lite topic, and whether that is new.
    Lite {
        /// Its number.
        queue: u32,
        /// Whether it was created just now.
        is_new: bool,
    },
    /// Whether there was something to delete.
    Deleted(bool),
    /// The log was not trimmed: a record behind the place says something about one before it.
    Hangs,
    /// Nothing to report.
    Done,
}

/// What the rest of the broker may want to know after a record was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A message became visible; `end` is one past its offset.
    Arrived {
        /// The topic.
        topic_id: u32,
        /// The queue.
        queue: u32,
        /// One past the newest offset.
        end: u64,
    },
    /// Messages before an offset expired.
    Trimmed {
        /// The topic.
        topic_id: u32,
        /// The queue.
        queue: u32,
        /// The first offset that is kept.
        min: u64,
    },
    /// A message that a group had finished is to be delivered to it once more.
    Reopened {
        /// The group.
        group_id: u32,
        /// The topic.
        topic_id: u32,
        /// The queue.
        queue: u32,
        /// Its offset.
        offset: u64,
    },
    /// A lite topic was created.
    LiteCreated {
        /// Its parent.
        topic_id: u32,
        /// Its queue.
        queue: u32,
        /// Its name.
        name: String,
    },
    /// A lite topic was removed.
    LiteDropped {
        /// Its parent.
        topic_id: u32,
        /// Its queue, which is never used again.
        queue: u32,
        /// Its name.
        name: String,
    },
    /// Topics were created, changed or deleted.
    TopicsChanged,
    /// Groups were created, changed or deleted.
    GroupsChanged,
    /// A half message is due for a check at this time.
    HalfDue {
        /// Milliseconds since the Unix epoch.
        due_ms: i64,
    },
    /// A message waits for this delivery time.
    TimerDue {
        /// Milliseconds since the Unix epoch.
        due_ms: i64,
    },
}

pub(super) fn malformed(frame: &Frame) -> impl Fn(RecordError) -> StoreError {
    let position = frame.position;
    move |source| StoreError::Record { position, source }
}

impl StateMachine {
    /// Applies the next record of the log. `events` takes what others may want to know.
    ///
    /// # Errors
    /// [`StoreError`] when the record cannot be understood or the store fails; the index must not be used any more
    /// then, since a record is missing in it.
    pub fn apply(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<Outcome, StoreError> {
        let joining = self.joining.len();
        let outcome = if frame.kind == Kind::Message as u8 {
            self.apply_message(frame, events)?
        } else {
            self.apply_other(frame, events)?
        };
        if joining > 0 && self.joining.len() == joining {
            self.drop_joining()?;
        }
        if frame.kind != Kind::Snapshot as u8 {
            self.loading = Loading::Never;
            self.forget_parts();
        }
        self.store_ms = self.store_ms.max(frame.store_ms);
        self.epoch = frame.epoch;
        self.applied = frame.end();
        Ok(outcome)
    }

    fn apply_other(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<Outcome, StoreError> {
        let record = Record::decode(frame.kind, frame.body.clone()).map_err(malformed(frame))?;
        match record {
            Record::Message(_) => return self.apply_message(frame, events),
            Record::Release(record) => return self.settle(frame, &Settling::from(record), events),
            Record::Discard(record) => return self.settle(frame, &Settling::from(record), events),
            Record::Meta(MetaRecord { change }) => return self.apply_meta(change, events),
            Record::Progress(progress) => {
                let mut outcome = Outcome::Done;
                for item in progress.into_items() {
                    match item {
                        ProgressItem::Queue(progress) => self.apply_progress(&progress)?,
                        ProgressItem::Checked(checked) => self.apply_checked(frame, &checked, events)?,
                        ProgressItem::Undecided(said) => self.apply_undecided(frame, &said)?,
                        ProgressItem::Redriven(redriven) => {
                            outcome = self.apply_redriven(&redriven, frame.store_ms, events)?;
                        }
                        ProgressItem::Finished(finished) => self.apply_finished(&finished),
                        ProgressItem::Fired(fired) => self.apply_fired(frame, &fired, events)?,
                        ProgressItem::TimerEnded(ended) => {
                            outcome = self.apply_timer_ended(frame, ended, events)?;
                        }
                    }
                }
                return Ok(outcome);
            }
            Record::Epoch(epoch) => self.broker = epoch.broker,
            Record::Snapshot(part) => self.apply_snapshot(*part)?,
            Record::Trim(trim) => {
                if !self.apply_trim(&trim)? {
                    return Ok(Outcome::Hangs);
                }
                events.extend(trim.queues.iter().map(|state| Event::Trimmed {
                    topic_id: state.topic_id,
                    queue: state.queue,
                    min: state.next,
                }));
            }
        }
        Ok(Outcome::Done)
    }

    fn apply_message(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<Outcome, StoreError> {
        let routing = Routing::decode_from(frame.body.clone()).map_err(malformed(frame))?;
        if self.is_topic_gone(routing.topic_id) || self.is_lite_gone(routing.topic_id, routing.queue) {
            return Ok(Outcome::TopicGone);
        }
        self.note_topic(routing.topic_id);
        let known_by = routing.dedup().filter(|_| routing.carried.is_none());
        let known_by = known_by.and_then(|hash| Some((self.topic_by_id(routing.topic_id)?, hash)));
        if let Some((topic, hash)) = &known_by
            && let Some(first) = self.repeated(topic, *hash, frame.position, frame.store_ms)?
        {
            return Ok(Outcome::Duplicate(first));
        }
        let outcome = self.take_message(frame, &routing, events)?;
        if let Some((topic, hash)) = &known_by {
            let place = match outcome {
                Outcome::Visible { queue, offset } => Some((queue, offset)),
                _ => None,
            };
            self.remember(topic, *hash, First { position: frame.position, store_ms: frame.store_ms, place });
        }
        Ok(outcome)
    }

    fn take_message(
        &mut self,
        frame: &Frame,
        routing: &Routing,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, StoreError> {
        self.lookups.add(frame.position, &routing.lookups);
        let entry = |visible_ms: i64| Entry {
            position: frame.position,
            len: frame.len,
            tag_hash: routing.tag_hash,
            visible_ms,
        };
        if let Some(carried) = &routing.carried {
            self.apply_carried(routing.topic_id, routing.queue, carried, entry(carried.visible_ms))?;
            return Ok(Outcome::Done);
        }
        match Hold::try_from(routing.hold) {
            Ok(Hold::None) => {
                if let Some(origin) = &routing.dead {
                    self.bury(origin)?;
                }
                let queue = self.place(routing.topic_id, routing.slot, routing.queue);
                Ok(self.make_visible(routing.topic_id, queue, entry(frame.store_ms), events))
            }
            Ok(Hold::Half) => self.hold_half(frame, events),
            Ok(Hold::Until) => self.hold_until(frame, events),
            // Taking an unknown hold for none would show what nobody may see.
            Err(_) => {
                let reason = format!("hold {}, which this version does not support", routing.hold);
                Err(malformed(frame)(RecordError::Malformed { kind: "message", reason }))
            }
        }
    }

    fn hold_until(&mut self, frame: &Frame, events: &mut Vec<Event>) -> Result<Outcome, StoreError> {
        let header = MessageRecord::decode(frame.body.clone()).map_err(malformed(frame))?.header;
        let timer = Timer {
            topic_id: header.topic_id,
            queue: header.queue,
            frame_len: frame.len,
            tag_hash: header.tag_hash,
            message_id_crc: crc32c::crc32c(header.message_id.as_bytes()),
            stored_ms: frame.store_ms,
            due_ms: header.hold_ms,
            slot: header.slot,
            ..Timer::default()
        };
        Ok(self.schedule(frame.position, &timer, events))
    }

    pub(super) fn make_visible(
        &mut self,
        topic_id: u32,
        queue: u32,
        entry: Entry,
        events: &mut Vec<Event>,
    ) -> Outcome {
        let offset = self.queues.push(topic_id, queue, entry);
        events.push(Event::Arrived { topic_id, queue, end: offset + 1 });
        Outcome::Visible { queue, offset }
    }

    pub(super) fn apply_progress(&mut self, change: &QueueProgress) -> Result<(), StoreError> {
        let (group_id, topic_id, queue) = (change.group_id, change.topic_id, change.queue);
        let is_gone = self.topic_by_id(topic_id).is_none() || self.is_lite_gone(topic_id, queue);
        if is_gone || !self.meta.group_ids.contains(&group_id) {
            return Ok(());
        }
        let mut acks = self.logged_acks(group_id, topic_id, queue)?.unwrap_or_else(Acks::default);
        if self.is_unsettled() {
            acks.apply(&self.certain(change));
            self.reopen_uncertain(topic_id, queue, &mut acks);
        } else {
            acks.apply(change);
        }
        self.progress.insert((group_id, topic_id, queue), Progress { acks, dirty: true });
        Ok(())
    }

    fn apply_meta(
        &mut self,
        change: Option<MetaChange>,
        events: &mut Vec<Event>,
    ) -> Result<Outcome, StoreError> {
        match change {
            Some(MetaChange::PutTopic(topic)) => {
                events.push(Event::TopicsChanged);
                Ok(self.put_topic(topic))
            }
            Some(MetaChange::DeleteTopic(delete)) => {
                events.push(Event::TopicsChanged);
                self.delete_topic(&delete.name)
            }
            Some(MetaChange::PutGroup(group)) => {
                events.push(Event::GroupsChanged);
                Ok(self.put_group(group))
            }
            Some(MetaChange::DeleteGroup(delete)) => {
                events.push(Event::GroupsChanged);
                self.delete_group(&delete.name)
            }
            Some(MetaChange::PutLite(lite)) => self.put_lite(lite, events),
            Some(MetaChange::DropLites(drop)) => self.drop_lites(drop, events),
            Some(MetaChange::Withhold(withhold)) => {
                events.push(Event::TopicsChanged);
                self.meta.withheld = withhold.perm;
                Ok(Outcome::Done)
            }
            None => Ok(Outcome::Done),
        }
    }

    fn put_topic(&mut self, mut topic: Topic) -> Outcome {
        let present = self.topic(&topic.name);
        topic.id = present.as_ref().map_or(self.new_topic_id(topic.id), |present| present.id);
        self.meta.next_topic = self.meta.next_topic.max(topic.id + 1);
        if let Some(present) = &present {
            self.resize(present, &topic);
        }
        if Dedup::of(&topic).is_none() {
            self.seen.drop_topic(topic.id);
        }
        self.overlay.put(Family::Topics, keys::id(topic.id), topic.encode_to_vec());
        Outcome::Topic(self.meta.insert_topic(topic), present.is_none())
    }

    fn put_group(&mut self, mut group: Group) -> Outcome {
        let present = self.group(&group.name);
        group.id = present.as_ref().map_or(self.new_group_id(group.id), |present| present.id);
        self.meta.next_group = self.meta.next_group.max(group.id + 1);
        self.overlay.put(Family::Groups, keys::id(group.id), group.encode_to_vec());
        Outcome::Group(self.meta.insert_group(group), present.is_none())
    }

    fn delete_topic(&mut self, name: &str) -> Result<Outcome, StoreError> {
        let Some(topic) = self.meta.topics.remove(name) else { return Ok(Outcome::Deleted(false)) };
        self.meta.topics_by_id.remove(&topic.id);
        self.note_deleted_topic(topic.id);
        self.drop_held_of::<Half>(topic.id)?;
        self.drop_held_of::<Timer>(topic.id)?;
        self.seen.drop_topic(topic.id);
        self.moving.remove(topic.id);
        self.progress.retain(|(_, topic_id, _), _| *topic_id != topic.id);
        self.overlay.delete(Family::Topics, keys::id(topic.id));
        let mut ops = self.queues.remove_topic(topic.id);
        self.forget_lites(topic.id)?;
        for group_id in self.meta.groups.values().map(|group| group.id).chain([REDRIVEN]) {
            let prefix = keys::queue(group_id, topic.id);
            ops.push(Op::DeletePrefix(Family::Progress, prefix));
        }
        self.gone.extend(ops);
        Ok(Outcome::Deleted(true))
    }

    fn delete_group(&mut self, name: &str) -> Result<Outcome, StoreError> {
        let Some(group) = self.meta.groups.remove(name) else { return Ok(Outcome::Deleted(false)) };
        self.meta.group_ids.remove(&group.id);
        self.progress.retain(|(group_id, _, _), _| *group_id != group.id);
        self.overlay.delete(Family::Groups, keys::id(group.id));
        self.gone.push(Op::DeletePrefix(Family::Progress, keys::id(group.id)));
        Ok(Outcome::Deleted(true))
    }
}
