//! Topics: configuration and defaults. [`crate::topic_change`] has the rules for changes.

use std::collections::BTreeMap;

use kerolox_model::units::TimeSpan;
use prost::Message;

use crate::flush::FlushRequirement;
use crate::replicas::ReplicaRequirement;

/// The type of a message, numbered as `apache.rocketmq.v2.MessageType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum MessageType {
    /// Never stored.
    Unspecified = 0,
    /// An ordinary message.
    Normal = 1,
    /// Ordered within its message group.
    Fifo = 2,
    /// Visible from a given time on.
    Delay = 3,
    /// A half message until its transaction ends.
    Transaction = 4,
    /// Belongs to a lite topic below its topic.
    Lite = 5,
    /// Carries a priority.
    Priority = 6,
}

impl MessageType {
    /// RocketMQ's word for the type, as in `+message.type=FIFO`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Unspecified => "UNSPECIFIED",
            Self::Normal => "NORMAL",
            Self::Fifo => "FIFO",
            Self::Delay => "DELAY",
            Self::Transaction => "TRANSACTION",
            Self::Lite => "LITE",
            Self::Priority => "PRIORITY",
        }
    }
}

/// `perm` bit: clients may send.
pub const PERM_WRITE: u32 = 2;
/// `perm` bit: clients may receive.
pub const PERM_READ: u32 = 4;

/// Attribute that names the message type.
pub const MESSAGE_TYPE_ATTRIBUTE: &str = "message.type";

/// Attribute that sets when a message of the topic counts as stored: `sync` or `async`. The default is the broker's
/// setting.
pub const FLUSH_ATTRIBUTE: &str = "flush";
/// Attribute that sets how many members of a broker group hold a message of the topic before it is acknowledged: `all`,
/// `quorum` or `master`.
pub const REPLICAS_ATTRIBUTE: &str = "replicas";

/// Attribute that sets how long messages of the topic are kept after they became visible, as in `12h`. The default is
/// the broker's setting.
pub const RETENTION_ATTRIBUTE: &str = "retention.time";

/// Attribute of a topic that its first message created: the other brokers of the cluster create it likewise. Without it, the
/// topic stays with the brokers that have it.
pub const AUTO_CREATED_ATTRIBUTE: &str = "auto.created";

/// A topic of one broker group. Stored in `Meta` records; field numbers are part of the on-disk format.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Topic {
    /// Assigned by the state machine at creation, and never reused. In a request to create a topic: the id that its proposer
    /// expects, or 0; it counts only behind damage, where the state machine cannot know the id.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// Unique in the broker group.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Queues `0 .. read_queues` can be consumed.
    #[prost(uint32, tag = "3")]
    pub read_queues: u32,
    /// Queues `0 .. write_queues` take new messages.
    #[prost(uint32, tag = "4")]
    pub write_queues: u32,
    /// [`PERM_READ`] and [`PERM_WRITE`].
    #[prost(uint32, tag = "5")]
    pub perm: u32,
    /// Accepted message types.
    #[prost(enumeration = "MessageType", repeated, tag = "6")]
    pub types: Vec<i32>,
    /// Attributes set by administrators, `message.type` included.
    #[prost(btree_map = "string, string", tag = "7")]
    pub attributes: BTreeMap<String, String>,
}

impl Topic {
    /// A new topic with `queues` read and write queues that accepts NORMAL messages.
    pub fn new(name: &str, queues: u32) -> Self {
        Self {
            id: 0,
            name: name.to_owned(),
            read_queues: queues,
            write_queues: queues,
            perm: PERM_READ | PERM_WRITE,
            types: vec![MessageType::Normal.into()],
            attributes: BTreeMap::new(),
        }
    }

    /// Whether messages of `kind` may be sent to it.
    pub fn accepts(&self, kind: MessageType) -> bool {
        self.types.contains(&i32::from(kind))
    }

    /// The accepted types in RocketMQ's words, for texts.
    pub fn type_words(&self) -> String {
        self.types().map(MessageType::word).collect::<Vec<_>>().join(", ")
    }

    /// Whether its queues are priorities: it accepts only messages with a priority.
    pub fn has_priorities(&self) -> bool {
        self.types == [i32::from(MessageType::Priority)]
    }

    /// Whether it is the parent of lite topics: it accepts only their messages.
    pub fn has_lites(&self) -> bool {
        self.types == [i32::from(MessageType::Lite)]
    }

    /// Whether its first message created it, so that other brokers create it likewise.
    pub fn is_auto_created(&self) -> bool {
        self.attributes.contains_key(AUTO_CREATED_ATTRIBUTE)
    }

    /// When its messages count as stored, if the topic sets it.
    pub fn flush(&self) -> Option<FlushRequirement> {
        self.attributes.get(FLUSH_ATTRIBUTE).and_then(|word| FlushRequirement::parse(word).ok())
    }

    /// How many members hold a message of this topic before it is acknowledged, if the topic sets it.
    pub fn replicas(&self) -> Option<ReplicaRequirement> {
        self.attributes.get(REPLICAS_ATTRIBUTE).and_then(|word| ReplicaRequirement::parse(word).ok())
    }

    /// How long its messages are kept, in milliseconds, if the topic sets it.
    pub fn retention_ms(&self) -> Option<i64> {
        self.attributes.get(RETENTION_ATTRIBUTE).and_then(|text| parse_retention(text).ok())
    }

    /// Whether clients may send to it.
    pub fn is_writable(&self) -> bool {
        self.perm & PERM_WRITE != 0
    }

    /// Whether clients may receive from it.
    pub fn is_readable(&self) -> bool {
        self.perm & PERM_READ != 0
    }
}

pub(crate) fn parse_retention(text: &str) -> Result<i64, String> {
    let span: TimeSpan = text.parse().map_err(|error| format!("{RETENTION_ATTRIBUTE}: {error}"))?;
    match span.as_millis() {
        0 => Err(format!(
            "{RETENTION_ATTRIBUTE} is 0, which keeps no message long enough to be received; remove it with -{RETENTION_ATTRIBUTE} to keep messages as long as the broker does"
        )),
        milliseconds => Ok(i64::try_from(milliseconds).unwrap_or(i64::MAX)),
    }
}
