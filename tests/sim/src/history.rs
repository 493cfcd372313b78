//! The proposals of clients, and the answers that they got.

use std::collections::BTreeMap;

use bytes::Bytes;
use kerolox_core::record::{MessageHeader, MessageHold, MessageRecord, MetaChange, MetaRecord, Record};
use kerolox_core::slots::slot_of;
use kerolox_core::topic::Topic;
use kerolox_core::transaction::TransactionDecision;

/// Number of the only topic of a group: the first one created.
pub(crate) const TOPIC: u32 = 1;

/// A proposed message.
#[derive(Debug, Clone)]
pub(crate) struct Proposed {
    pub(crate) hold: MessageHold,
    /// The message group, and the message's place in it.
    pub(crate) lane: Option<(String, u64)>,
    pub(crate) len: usize,
}

/// A half message that was acknowledged to its producer.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownHalf {
    pub(crate) id: String,
    /// All proposed decisions.
    pub(crate) asked: Vec<TransactionDecision>,
    /// The decision that stands, as far as a client was told.
    pub(crate) stands: Option<TransactionDecision>,
    /// The place where it became visible, as far as a client was told.
    pub(crate) place: Option<(u32, u64)>,
}

/// A place of a queue that a client was told of.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) id: String,
    /// Whether the message was acknowledged, not only read.
    pub(crate) is_acked: bool,
}

/// The history of one broker group.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) has_topic: bool,
    pub(crate) proposed: BTreeMap<String, Proposed>,
    pub(crate) told: BTreeMap<(u32, u64), Told>,
    /// The end of each queue: one more than its newest acknowledged offset.
    pub(crate) ends: BTreeMap<u32, u64>,
    /// Half messages by position.
    pub(crate) halves: BTreeMap<u64, KnownHalf>,
    /// Acknowledged messages that become visible later.
    pub(crate) scheduled: Vec<String>,
    /// The number of acknowledged sends and decisions.
    pub(crate) acked: u64,
    pub(crate) decided: u64,
    pub(crate) reads: u64,
}

impl History {
    /// Notes that a client was told the place of a message.
    pub(crate) fn tell(
        &mut self,
        (queue, offset): (u32, u64),
        id: &str,
        is_acked: bool,
    ) -> Result<(), String> {
        let told = self.told.entry((queue, offset));
        let told = told.or_insert_with(|| Told { id: id.to_owned(), is_acked });
        if told.id != id {
            return Err(format!("queue {queue}, offset {offset} holds {} and {id}", told.id));
        }
        told.is_acked |= is_acked;
        if is_acked {
            let end = self.ends.entry(queue).or_default();
            *end = (*end).max(offset + 1);
        }
        Ok(())
    }
}

/// The bytes of a message.
pub(crate) fn content(id: &str, len: usize) -> Bytes {
    let seed = crc32c::crc32c(id.as_bytes()).to_le_bytes();
    seed.iter().copied().cycle().take(len).collect::<Vec<u8>>().into()
}

/// The record of a message.
pub(crate) fn message(id: &str, queue: u32, hold_ms: i64, proposed: &Proposed) -> Record {
    let header = MessageHeader {
        topic_id: TOPIC,
        queue,
        hold: proposed.hold.into(),
        hold_ms,
        message_id: id.to_owned(),
        slot: proposed.lane.as_ref().map(|(lane, _)| slot_of(lane)),
        ..MessageHeader::default()
    };
    Record::Message(MessageRecord { header, system: Bytes::new(), content: content(id, proposed.len) })
}

/// The record that makes the topic.
pub(crate) fn topic(queues: u32) -> Record {
    Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("t", queues))) })
}
