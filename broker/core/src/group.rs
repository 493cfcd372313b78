//! Consumer groups: configuration and defaults. [`crate::group_change`] has the rules for changes.

use std::collections::BTreeMap;

use chrono::DateTime;
use kerolox_model::backoff::Backoff;
use prost::Message;

use crate::delivery::{DeliveryPolicy, ExhaustedAction, PriorityFactor};
use crate::topic::Topic;

/// Redeliveries of a message before it counts as undeliverable, unless the group says otherwise (RocketMQ's default).
pub const RETRY_MAX_TIMES_DEFAULT: u32 = 16;

/// Attribute that decides about a message after its last attempt: `dead-letter` (the default) or `block`.
pub const EXHAUSTED_ATTRIBUTE: &str = "retry.exhausted";

/// Attribute with the delays between attempts, as in `1s/10s/5m` or `exponential/1s/2h/2`. The default is
/// [`Backoff::by_default`].
pub const BACKOFF_ATTRIBUTE: &str = "retry.backoff";

/// Attribute that limits the messages of one topic that the group's consumers hold or that wait for another attempt.
pub const IN_FLIGHT_ATTRIBUTE: &str = "inflight.max";

/// Messages of a lite topic that its engine looks at ahead of their turn: they are delivered one by one anyway, and there may
/// be very many lite topics.
const LITE_LOOKAHEAD: usize = 256;

/// Attribute that sets how strictly priorities count, 0 to 100, on topics of type PRIORITY; see [`PriorityFactor`]. Without
/// it a higher priority always comes first.
pub const PRIORITY_ATTRIBUTE: &str = "priority.factor";

/// Attribute that sets where the group starts in a topic that is new to it: `earliest`, `latest`, a time as in RFC 3339, or
/// milliseconds since the Unix epoch.
pub const CONSUME_FROM_ATTRIBUTE: &str = "consume.from";
/// Attribute that, with `true`, makes every client of the group receive every message.
pub const BROADCAST_ATTRIBUTE: &str = "broadcast";
/// Separates the name of a broadcast group from the client id of a member.
const MEMBER_SEPARATOR: char = '#';

/// A consumer group of one broker group. Stored in `Meta` records; field numbers are part of the on-disk format.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Group {
    /// Assigned by the state machine at creation, and never reused. In a request to create a group: the id that its proposer
    /// expects, or 0; it counts only behind damage, where the state machine cannot know the id.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// Unique in the broker group.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Whether the group may consume at all.
    #[prost(bool, tag = "3")]
    pub consume_enable: bool,
    /// Whether messages of one message group are delivered in order.
    #[prost(bool, tag = "4")]
    pub fifo: bool,
    /// Redeliveries after the first attempt.
    #[prost(uint32, tag = "5")]
    pub retry_max_times: u32,
    /// RocketMQ's consumeFromMinEnable, which its tools send as `false` unless told otherwise. Stored and shown, but without
    /// effect: [`Self::start`] decides where the group starts.
    #[prost(bool, tag = "6")]
    pub consume_from_min: bool,
    /// Attributes set by administrators.
    #[prost(btree_map = "string, string", tag = "7")]
    pub attributes: BTreeMap<String, String>,
    /// Id of the broadcast group of which this is one member with its own cursor; 0 for ordinary groups. The permissions of
    /// a member are those of its group: the other fields of its record do not count.
    #[prost(uint32, tag = "8")]
    pub parent: u32,
    /// Client id of the member; empty for an ordinary group.
    #[prost(string, tag = "9")]
    pub member: String,
}

/// Where a group starts in a topic that is new to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartPosition {
    /// At the oldest message.
    Earliest,
    /// At the next new message.
    Latest,
    /// At the first message that became visible at or after this time, milliseconds since the Unix epoch.
    At(i64),
}

impl Group {
    /// A group with RocketMQ's defaults.
    pub fn new(name: &str) -> Self {
        Self {
            id: 0,
            name: name.to_owned(),
            consume_enable: true,
            fifo: false,
            retry_max_times: RETRY_MAX_TIMES_DEFAULT,
            consume_from_min: true,
            attributes: BTreeMap::new(),
            parent: 0,
            member: String::new(),
        }
    }

    /// The group as its member `client` sees it: the group's configuration with its own name and id. The id is 0 until the
    /// state machine assigns one.
    pub fn as_member(&self, client: &str) -> Self {
        Self {
            id: 0,
            name: member_name(&self.name, client),
            parent: self.id,
            member: client.to_owned(),
            ..self.clone()
        }
    }

    /// Whether every client of the group gets every message.
    pub fn is_broadcast(&self) -> bool {
        self.attributes.get(BROADCAST_ATTRIBUTE).is_some_and(|value| value == "true")
    }

    /// The name that clients use: for a member, the name of its group.
    pub fn public_name(&self) -> &str {
        let suffix = if self.member.is_empty() { 0 } else { MEMBER_SEPARATOR.len_utf8() + self.member.len() };
        &self.name[..self.name.len() - suffix]
    }

    /// Where the group starts in a topic that is new to it: as `consume.from` says, otherwise at the end for a broadcast
    /// group (as in RocketMQ), otherwise at the oldest message. With [`Self::consume_from_min`] a group would miss on each
    /// broker the messages sent before it came there.
    pub fn start(&self) -> StartPosition {
        let attribute = self.attributes.get(CONSUME_FROM_ATTRIBUTE).and_then(|value| parse_start(value).ok());
        attribute.unwrap_or(if self.is_broadcast() { StartPosition::Latest } else { StartPosition::Earliest })
    }

    /// Deliveries that a message gets in all: the first one and the retries.
    pub fn max_attempts(&self) -> u32 {
        self.retry_max_times.saturating_add(1)
    }

    /// Delays between the attempts, if the group sets them.
    pub fn backoff(&self) -> Option<Backoff> {
        self.attributes.get(BACKOFF_ATTRIBUTE).and_then(|text| text.parse().ok())
    }

    /// Delivery rules for the group's receives from `topic`.
    pub fn policy(&self, topic: &Topic) -> DeliveryPolicy {
        let default = DeliveryPolicy::default();
        let value = |key| self.attributes.get(key).map(String::as_str);
        DeliveryPolicy {
            // A lite topic is one message group.
            ordered: self.fifo || topic.has_lites(),
            lookahead_max: if topic.has_lites() { LITE_LOOKAHEAD } else { default.lookahead_max },
            max_attempts: self.max_attempts(),
            exhausted: value(EXHAUSTED_ATTRIBUTE).and_then(|word| exhausted(word).ok()).unwrap_or_default(),
            in_flight_max: value(IN_FLIGHT_ATTRIBUTE)
                .and_then(|number| in_flight_max(number).ok())
                .unwrap_or(default.in_flight_max),
            priorities: topic.has_priorities().then(|| {
                let factor = value(PRIORITY_ATTRIBUTE).and_then(|number| priority_factor(number).ok());
                factor.unwrap_or(PriorityFactor::STRICT)
            }),
        }
    }
}

pub(crate) fn exhausted(word: &str) -> Result<ExhaustedAction, String> {
    match word {
        "dead-letter" => Ok(ExhaustedAction::DeadLetter),
        "block" => Ok(ExhaustedAction::Block),
        other => Err(format!("{EXHAUSTED_ATTRIBUTE} {other:?} is none of dead-letter and block")),
    }
}

pub(crate) fn in_flight_max(number: &str) -> Result<usize, String> {
    let parsed = number.parse().ok().filter(|max| *max > 0);
    parsed.ok_or_else(|| format!("{IN_FLIGHT_ATTRIBUTE} {number:?} is no number of messages above 0"))
}

pub(crate) fn priority_factor(number: &str) -> Result<PriorityFactor, String> {
    PriorityFactor::parse(number).map_err(|error| format!("{PRIORITY_ATTRIBUTE}: {error}"))
}

/// Name under which a member of a broadcast group is stored. No ordinary group can have it: the separator is not legal in
/// group names.
pub fn member_name(group: &str, client: &str) -> String {
    format!("{group}{MEMBER_SEPARATOR}{client}")
}

pub(crate) fn parse_start(value: &str) -> Result<StartPosition, String> {
    match value {
        "earliest" => return Ok(StartPosition::Earliest),
        "latest" => return Ok(StartPosition::Latest),
        _ => {}
    }
    let time_ms = value.parse().ok().filter(|ms: &i64| *ms >= 0);
    let time_ms = time_ms.or_else(|| Some(DateTime::parse_from_rfc3339(value).ok()?.timestamp_millis()));
    time_ms.map(StartPosition::At).ok_or_else(|| {
        format!(
            "{CONSUME_FROM_ATTRIBUTE} {value:?} is no place to start; write earliest, latest, a time such as 2026-01-31T08:00:00Z, or milliseconds since 1970"
        )
    })
}
