//! What the simulation proposes.

use bytes::Bytes;
use kerolox_core::flush::Flush;
use kerolox_core::group::Group;
use kerolox_core::record::{
    AckRange, DeleteTopic, DiscardRecord, Hold, MessageHeader, MessageRecord, MetaChange, MetaRecord,
    ProgressItem, ProgressRecord, QueueProgress, Record, ReleaseRecord, TimerDecision, TimerEnded,
};
use kerolox_core::topic::Topic;
use kerolox_log::fs::Chooser;

use crate::observe::{GROUP, Place, QUEUES_MAX, View};

/// One proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    Message {
        id: String,
        topic_id: u32,
        queue: u32,
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
        hold: Hold,
    },
    /// A held message never becomes visible: a rollback, or a recall.
    Hide {
        position: u64,
        hold: Hold,
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
    pub(crate) fn random(chooser: &mut Chooser, view: &View, id: String) -> Self {
        let topic = nth(chooser, view.topics.values());
        let put = |chooser: &mut Chooser| {
            let name = ["a", "b", "c"][usize::try_from(chooser.below(3)).expect("below 3")].to_owned();
            Self::PutTopic { name, queues: below(chooser, QUEUES_MAX) + 1 }
        };
        let Some((topic_id, queues)) = topic.copied() else { return put(chooser) };
        let queue = below(chooser, queues);
        match chooser.below(40) {
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
            _ if view.topics.contains_key("c") && chooser.chance(1, 3) => {
                Self::DeleteTopic { name: "c".to_owned() }
            }
            _ => put(chooser),
        }
    }

    pub(crate) fn record(&self, chooser: &mut Chooser) -> Record {
        let by = "producer".to_owned();
        match self {
            Self::Message { id, topic_id, queue } => message(id, *topic_id, *queue, Hold::None, chooser),
            Self::Half { id, topic_id, queue } => message(id, *topic_id, *queue, Hold::Half, chooser),
            Self::Scheduled { id, topic_id, queue } => message(id, *topic_id, *queue, Hold::Until, chooser),
            Self::Show { position, hold: Hold::Until } => end_timer(*position, TimerDecision::Deliver, by),
            Self::Hide { position, hold: Hold::Until } => end_timer(*position, TimerDecision::Recall, by),
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
            Self::PutTopic { name, queues } => meta(MetaChange::PutTopic(Topic::new(name, *queues))),
            Self::DeleteTopic { name } => meta(MetaChange::DeleteTopic(DeleteTopic { name: name.clone() })),
            Self::PutGroup => meta(MetaChange::PutGroup(Group::new("g"))),
        }
    }

    /// Three of four proposals wait for their sync.
    pub(crate) fn flush(chooser: &mut Chooser) -> Flush {
        if chooser.chance(3, 4) { Flush::Sync } else { Flush::Async }
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

fn message(id: &str, topic_id: u32, queue: u32, hold: Hold, chooser: &mut Chooser) -> Record {
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

fn below(chooser: &mut Chooser, limit: u32) -> u32 {
    u32::try_from(chooser.below(limit.into())).expect("below a u32")
}

fn nth<T>(chooser: &mut Chooser, items: impl ExactSizeIterator<Item = T>) -> Option<T> {
    let len = items.len();
    let mut items = items;
    (len > 0).then(|| items.nth(usize::try_from(chooser.below(len as u64)).expect("below len"))).flatten()
}
