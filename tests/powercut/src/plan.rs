//! What the simulation proposes.

use std::collections::BTreeMap;

use bytes::Bytes;
use kerolox_core::dedup::{DEDUP_ATTRIBUTE, DEDUP_WINDOW_ATTRIBUTE};
use kerolox_core::flush::FlushRequirement;
use kerolox_core::group::Group;
use kerolox_core::record::{
    AckRange, DeleteTopic, DiscardRecord, DropLite, DropLites, LiteTopic, MessageHeader, MessageHold,
    MessageRecord, MetaChange, MetaRecord, ProgressItem, ProgressRecord, QueueProgress, Record,
    ReleaseRecord, TimerDecision, TimerEnded,
};
use kerolox_core::topic::{MessageType, Topic};
use kerolox_log::fs::SeededChoices;

use crate::observe::{GROUP, Place, QUEUES_MAX, View};
use crate::once::rules;

/// The topic without duplicates, the one with lite topics, and the one that may be deleted.
pub(crate) const ONCE: &str = "d";
const LITE: &str = "l";
const DELETED: &str = "c";
/// Names of all topics.
const TOPICS: [&str; 5] = ["a", "b", DELETED, ONCE, LITE];
/// Keys of messages that may come again.
pub(crate) const KEYS: [&str; 6] = ["k0", "k1", "k2", "k3", "k4", "k5"];
const LITES: [&str; 4] = ["x", "y", "z", "w"];

/// Attributes of the topic of this name.
pub(crate) fn attributes_of(name: &str) -> BTreeMap<String, String> {
    let pairs: &[(&str, &str)] = match name {
        ONCE => &[(DEDUP_ATTRIBUTE, "key"), (DEDUP_WINDOW_ATTRIBUTE, "1s")],
        _ => &[],
    };
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// One proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    Message {
        id: String,
        topic_id: u32,
        queue: u32,
    },
    /// A message that is a repeat if one with this key was stored within the window.
    Once {
        id: String,
        key: &'static str,
        topic_id: u32,
        queue: u32,
    },
    PutLite {
        topic_id: u32,
        name: &'static str,
    },
    DropLite {
        topic_id: u32,
        name: &'static str,
        queue: u32,
        next: u64,
    },
    Half {
        id: String,
        topic_id: u32,
        queue: u32,
    },
    Scheduled {
        id: String,
        topic_id: u32,
        queue: u32,
    },
    /// A held message becomes visible: a commit, or a delivery.
    Show {
        position: u64,
        hold: MessageHold,
    },
    /// A held message never becomes visible: a rollback, or a recall.
    Hide {
        position: u64,
        hold: MessageHold,
    },
    Finish {
        place: Place,
    },
    PutTopic {
        name: String,
        queues: u32,
    },
    DeleteTopic {
        name: String,
    },
    PutGroup,
}

impl Plan {
    /// A random proposal in the state of `view`; `id` is for a message.
    pub(crate) fn random(chooser: &mut SeededChoices, view: &View, id: String) -> Self {
        let topic = nth(chooser, view.topics.iter());
        let put = |chooser: &mut SeededChoices| {
            let name = one_of(chooser, &TOPICS).to_owned();
            Self::PutTopic { name, queues: below(chooser, QUEUES_MAX) + 1 }
        };
        let Some((topic, (topic_id, queues))) = topic else { return put(chooser) };
        let (topic_id, queue) = (*topic_id, below(chooser, *queues));
        match chooser.below(40) {
            0..16 if topic == ONCE => {
                let key = one_of(chooser, &KEYS);
                Self::Once { id, key, topic_id, queue }
            }
            0..16 if topic == LITE => Self::below_lite(chooser, view, id, topic_id),
            0..18 => Self::Message { id, topic_id, queue },
            18..22 => Self::Half { id, topic_id, queue },
            22..26 => Self::Scheduled { id, topic_id, queue },
            26..34 => match nth(chooser, view.held.iter()).map(|(position, held)| (*position, held.hold)) {
                Some((position, hold)) if chooser.chance(1, 2) => Self::Show { position, hold },
                Some((position, hold)) => Self::Hide { position, hold },
                None => Self::Half { id, topic_id, queue },
            },
            34..38 => match nth(chooser, view.visible.keys()).copied() {
                Some(place) => Self::Finish { place },
                None => Self::Message { id, topic_id, queue },
            },
            38 => put(chooser),
            _ if view.topics.contains_key(DELETED) && chooser.chance(1, 3) => {
                Self::DeleteTopic { name: DELETED.to_owned() }
            }
            _ if view.topics.contains_key(LITE) && chooser.chance(1, 8) => {
                Self::DeleteTopic { name: LITE.to_owned() }
            }
            _ => put(chooser),
        }
    }

    /// Something with a random lite topic: it is made, gets a message, or goes.
    fn below_lite(chooser: &mut SeededChoices, view: &View, id: String, topic_id: u32) -> Self {
        let name = one_of(chooser, &LITES);
        match view.lites.get(&(topic_id, name.to_owned())).copied() {
            None => Self::PutLite { topic_id, name },
            Some(_) if chooser.chance(1, 10) => Self::PutLite { topic_id, name },
            Some(queue) if chooser.chance(1, 6) => {
                let (_, seen) = view.bounds.get(&(topic_id, queue)).copied().unwrap_or_default();
                // Now and then a message came that was not seen.
                let next = if chooser.chance(1, 4) { seen.saturating_sub(1) } else { seen };
                Self::DropLite { topic_id, name, queue, next }
            }
            Some(queue) => Self::Message { id, topic_id, queue },
        }
    }

    pub(crate) fn record(&self, chooser: &mut SeededChoices) -> Record {
        let by = "producer".to_owned();
        match self {
            Self::Message { id, topic_id, queue } => {
                message(id, *topic_id, *queue, MessageHold::None, chooser)
            }
            Self::Once { id, key, topic_id, queue } => {
                let Record::Message(mut once) = message(id, *topic_id, *queue, MessageHold::None, chooser)
                else {
                    unreachable!("it is a message")
                };
                once.header.set_dedup(Some(rules().hash(id, &[key])));
                Record::Message(once)
            }
            Self::PutLite { topic_id, name } => meta(MetaChange::PutLite(LiteTopic {
                topic_id: *topic_id,
                queue: 0,
                name: (*name).to_owned(),
                created_ms: 1,
            })),
            Self::DropLite { topic_id, name, queue, next } => meta(MetaChange::DropLites(DropLites {
                topic_id: *topic_id,
                lites: vec![DropLite { name: (*name).to_owned(), queue: *queue, next: *next }],
            })),
            Self::Half { id, topic_id, queue } => message(id, *topic_id, *queue, MessageHold::Half, chooser),
            Self::Scheduled { id, topic_id, queue } => {
                message(id, *topic_id, *queue, MessageHold::Until, chooser)
            }
            Self::Show { position, hold: MessageHold::Until } => {
                end_timer(*position, TimerDecision::Deliver, by)
            }
            Self::Hide { position, hold: MessageHold::Until } => {
                end_timer(*position, TimerDecision::Recall, by)
            }
            Self::Show { position, .. } => {
                Record::Release(ReleaseRecord { held: *position, by, ..ReleaseRecord::default() })
            }
            Self::Hide { position, .. } => {
                Record::Discard(DiscardRecord { held: *position, by, ..DiscardRecord::default() })
            }
            Self::Finish { place: (topic_id, queue, offset) } => {
                let acked = vec![AckRange { start: *offset, end: offset + 1 }];
                Record::Progress(ProgressRecord::new([ProgressItem::Queue(QueueProgress {
                    group_id: GROUP,
                    topic_id: *topic_id,
                    queue: *queue,
                    reset_to: None,
                    void_leases: 0,
                    acked,
                    attempted: Vec::new(),
                })]))
            }
            Self::PutTopic { name, queues } => {
                let mut topic = Topic { attributes: attributes_of(name), ..Topic::new(name, *queues) };
                if name == LITE {
                    topic.types = vec![MessageType::Lite.into()];
                }
                meta(MetaChange::PutTopic(topic))
            }
            Self::DeleteTopic { name } => meta(MetaChange::DeleteTopic(DeleteTopic { name: name.clone() })),
            Self::PutGroup => meta(MetaChange::PutGroup(Group::new("g"))),
        }
    }

    /// Three of four proposals wait for their sync.
    pub(crate) fn flush(chooser: &mut SeededChoices) -> FlushRequirement {
        if chooser.chance(3, 4) { FlushRequirement::Sync } else { FlushRequirement::Async }
    }
}

/// A record that changes nothing.
pub(crate) fn nothing() -> Record {
    Record::Progress(ProgressRecord::new([]))
}

fn end_timer(held: u64, decision: TimerDecision, by: String) -> Record {
    let ended = TimerEnded { held, decision: decision.into(), by };
    Record::Progress(ProgressRecord::new([ProgressItem::TimerEnded(ended)]))
}

fn meta(change: MetaChange) -> Record {
    Record::Meta(MetaRecord { change: Some(change) })
}

fn message(id: &str, topic_id: u32, queue: u32, hold: MessageHold, chooser: &mut SeededChoices) -> Record {
    let header = MessageHeader {
        topic_id,
        queue,
        hold: hold.into(),
        hold_ms: 1,
        message_id: id.to_owned(),
        ..MessageHeader::default()
    };
    // Some end within a sector of the disk, some go over several.
    let len = if chooser.chance(1, 6) { 3000 } else { 200 };
    let content = vec![7; usize::try_from(chooser.below(len)).expect("small")];
    Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::from(content) })
}

fn below(chooser: &mut SeededChoices, limit: u32) -> u32 {
    u32::try_from(chooser.below(limit.into())).expect("below a u32")
}

fn one_of(chooser: &mut SeededChoices, items: &[&'static str]) -> &'static str {
    items[usize::try_from(chooser.below(items.len() as u64)).expect("below the length")]
}

fn nth<T>(chooser: &mut SeededChoices, items: impl ExactSizeIterator<Item = T>) -> Option<T> {
    let len = items.len();
    let mut items = items;
    (len > 0).then(|| items.nth(usize::try_from(chooser.below(len as u64)).expect("below len"))).flatten()
}
