//! Consumer groups: configuration, defaults, and what a change may do.

use std::collections::BTreeMap;

use chrono::DateTime;
use kerolox_model::backoff::Backoff;
use kerolox_model::names::{NameError, validate_group};
use prost::Message;

use crate::attributes::{self, AttributeChange, known};
use crate::delivery::{DeliveryPolicy, ExhaustedAction, PriorityFactor};
use crate::lite;
use crate::topic::Topic;

/// Redeliveries of a message before it counts as undeliverable, unless the group says otherwise (RocketMQ's default).
pub const RETRY_MAX_TIMES_DEFAULT: u32 = 16;

/// Attribute that says what becomes of a message after its last attempt: `dead-letter` (the default) or `block`.
pub const EXHAUSTED_ATTRIBUTE: &str = "retry.exhausted";

/// Attribute with the delays between attempts, as in `1s/10s/5m` or `exponential/1s/2h/2`. Without it those
/// of [`Backoff::by_default`] hold.
pub const BACKOFF_ATTRIBUTE: &str = "retry.backoff";

/// Attribute that limits the messages of one topic that may be out with the group's consumers or wait for another attempt.
pub const IN_FLIGHT_ATTRIBUTE: &str = "inflight.max";

/// Messages of a lite topic that its engine looks at ahead of their turn: they come one after the other anyway, and there may
/// be very many lite topics.
const LITE_LOOKAHEAD: usize = 256;

/// Attribute that says how strictly priorities count, 0 to 100, on topics of type PRIORITY; see [`PriorityFactor`]. Without
/// it a higher priority always comes first.
pub const PRIORITY_ATTRIBUTE: &str = "priority.factor";

/// Attribute that says where the group starts in a topic that is new to it: `earliest`, `latest`, a time as in RFC 3339, or
/// milliseconds since the Unix epoch.
pub const CONSUME_FROM_ATTRIBUTE: &str = "consume.from";
/// Attribute that says, with `true`, that every client of the group gets every message.
pub const BROADCAST_ATTRIBUTE: &str = "broadcast";
/// Between the name of a broadcast group and the client id of a member.
const MEMBER_SEPARATOR: char = '#';

/// A consumer group of one broker group. Stored in `Meta` records; field numbers are part of the on-disk format.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Group {
    /// Given by the state machine at creation, never used again for another group. In a request to create one: the id that its
    /// proposer expects, or 0; it counts only where the state machine cannot know, behind damage.
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
    /// RocketMQ's consumeFromMinEnable, which its tools send as `false` unless told otherwise. Kept and shown; where the group
    /// starts is up to [`Self::start`].
    #[prost(bool, tag = "6")]
    pub consume_from_min: bool,
    /// As set by administrators.
    #[prost(btree_map = "string, string", tag = "7")]
    pub attributes: BTreeMap<String, String>,
    /// Id of the broadcast group of which this is one member with a cursor of its own; 0 for the groups that administrators
    /// know. What a member may do is up to its group: the other fields of its record do not count.
    #[prost(uint32, tag = "8")]
    pub parent: u32,
    /// Client id of a member.
    #[prost(string, tag = "9")]
    pub member: String,
}

/// Where a group starts in a topic that is new to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the oldest message.
    Earliest,
    /// With the first message that comes.
    Latest,
    /// With the first message that became visible at or after this time, milliseconds since the Unix epoch.
    At(i64),
}

/// What an administrator asks for; absent fields keep their value, or get the default when the group is new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupChange {
    /// Name of the group.
    pub name: String,
    /// See [`Group::consume_enable`].
    pub consume_enable: Option<bool>,
    /// See [`Group::fifo`].
    pub fifo: Option<bool>,
    /// See [`Group::retry_max_times`].
    pub retry_max_times: Option<u32>,
    /// See [`Group::consume_from_min`].
    pub consume_from_min: Option<bool>,
    /// Changes in RocketMQ's syntax.
    pub attributes: Vec<String>,
}

/// Why a group cannot become what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The name is not legal.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An attribute change is malformed.
    #[error("{0}")]
    Attribute(String),
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

    /// The group as its member `client` sees it: the same configuration, under a name and with an id of its own. The id is
    /// 0 as long as nobody gave one.
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

    /// The name that clients use: for a member, that of its group.
    pub fn public_name(&self) -> &str {
        let suffix = if self.member.is_empty() { 0 } else { MEMBER_SEPARATOR.len_utf8() + self.member.len() };
        &self.name[..self.name.len() - suffix]
    }

    /// Where it starts in a topic that is new to it: as `consume.from` says, otherwise with what comes if it is a broadcast
    /// group (as in RocketMQ), otherwise with the oldest message. By [`Self::consume_from_min`] a group would miss on each
    /// broker what was sent before it came there.
    pub fn start(&self) -> Start {
        let attribute = self.attributes.get(CONSUME_FROM_ATTRIBUTE).and_then(|value| parse_start(value).ok());
        attribute.unwrap_or(if self.is_broadcast() { Start::Latest } else { Start::Earliest })
    }

    /// Deliveries that a message gets in all: the first one and the retries.
    pub fn max_attempts(&self) -> u32 {
        self.retry_max_times.saturating_add(1)
    }

    /// Delays between the attempts, if the group says so.
    pub fn backoff(&self) -> Option<Backoff> {
        self.attributes.get(BACKOFF_ATTRIBUTE).and_then(|text| text.parse().ok())
    }

    /// What the group asks of the delivery engine where it receives from `topic`.
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

/// What a group becomes by a change; `present` is absent for a new group.
///
/// # Errors
/// [`GroupError`]; nothing is changed then.
pub fn changed(present: Option<&Group>, change: &GroupChange) -> Result<Group, GroupError> {
    validate_group(&change.name)?;
    let mut group = present.cloned().unwrap_or_else(|| Group::new(&change.name));
    group.consume_enable = change.consume_enable.unwrap_or(group.consume_enable);
    group.fifo = change.fifo.unwrap_or(group.fifo);
    group.retry_max_times = change.retry_max_times.unwrap_or(group.retry_max_times);
    group.consume_from_min = change.consume_from_min.unwrap_or(group.consume_from_min);
    let changes = attributes::parse(&change.attributes).map_err(GroupError::Attribute)?;
    known::check(known::OF_GROUPS, &group.attributes, &changes).map_err(GroupError::Attribute)?;
    for change in &changes {
        let AttributeChange::Set(key, value) = change else { continue };
        match key.as_str() {
            EXHAUSTED_ATTRIBUTE => drop(exhausted(value).map_err(GroupError::Attribute)?),
            IN_FLIGHT_ATTRIBUTE => drop(in_flight_max(value).map_err(GroupError::Attribute)?),
            BACKOFF_ATTRIBUTE => {
                let parsed: Result<Backoff, _> = value.parse();
                parsed.map_err(|error| GroupError::Attribute(format!("{BACKOFF_ATTRIBUTE}: {error}")))?;
            }
            PRIORITY_ATTRIBUTE => drop(priority_factor(value).map_err(GroupError::Attribute)?),
            CONSUME_FROM_ATTRIBUTE => drop(parse_start(value).map_err(GroupError::Attribute)?),
            BROADCAST_ATTRIBUTE if !["true", "false"].contains(&value.as_str()) => {
                let text = format!("{BROADCAST_ATTRIBUTE} {value:?} is neither true nor false");
                return Err(GroupError::Attribute(text));
            }
            key => lite::check_attribute(key, value).map_err(GroupError::Attribute)?,
        }
    }
    attributes::apply(&mut group.attributes, changes);
    assert_eq!(
        group.id,
        present.map_or(0, |present| present.id),
        "a change leaves the id to the state machine"
    );
    Ok(group)
}

fn exhausted(word: &str) -> Result<ExhaustedAction, String> {
    match word {
        "dead-letter" => Ok(ExhaustedAction::DeadLetter),
        "block" => Ok(ExhaustedAction::Block),
        other => Err(format!("{EXHAUSTED_ATTRIBUTE} {other:?} is none of dead-letter and block")),
    }
}

fn in_flight_max(number: &str) -> Result<usize, String> {
    let parsed = number.parse().ok().filter(|max| *max > 0);
    parsed.ok_or_else(|| format!("{IN_FLIGHT_ATTRIBUTE} {number:?} is no number of messages above 0"))
}

fn priority_factor(number: &str) -> Result<PriorityFactor, String> {
    PriorityFactor::parse(number).map_err(|error| format!("{PRIORITY_ATTRIBUTE}: {error}"))
}

/// Name under which a member of a broadcast group is stored. No group of administrators can have it: the separator is not
/// legal in their names.
pub fn member_name(group: &str, client: &str) -> String {
    format!("{group}{MEMBER_SEPARATOR}{client}")
}

fn parse_start(value: &str) -> Result<Start, String> {
    match value {
        "earliest" => return Ok(Start::Earliest),
        "latest" => return Ok(Start::Latest),
        _ => {}
    }
    let time_ms = value.parse().ok().filter(|ms: &i64| *ms >= 0);
    let time_ms = time_ms.or_else(|| Some(DateTime::parse_from_rfc3339(value).ok()?.timestamp_millis()));
    time_ms.map(Start::At).ok_or_else(|| {
        format!(
            "{CONSUME_FROM_ATTRIBUTE} {value:?} is no place to start; write earliest, latest, a time such as 2026-01-31T08:00:00Z, or milliseconds since 1970"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic::MessageType;

    fn with(attribute: &str) -> Result<Group, GroupError> {
        let change = GroupChange {
            name: "billing".into(),
            attributes: vec![attribute.to_owned()],
            ..GroupChange::default()
        };
        changed(None, &change)
    }

    #[test]
    fn groups_start_where_they_are_told() {
        for (attribute, start) in [
            ("+consume.from=earliest", Start::Earliest),
            ("+consume.from=latest", Start::Latest),
            ("+consume.from=1700000000123", Start::At(1_700_000_000_123)),
            ("+consume.from=1970-01-01T01:00:01+01:00", Start::At(1_000)),
            ("+broadcast=true", Start::Latest),
            ("+broadcast=false", Start::Earliest),
            ("+broadcast=true,+consume.from=earliest", Start::Earliest),
        ] {
            assert_eq!(with(attribute).map(|group| group.start()), Ok(start), "{attribute}");
        }
        for (key, value) in [("consume.from", "yesterday"), ("consume.from", "-5"), ("broadcast", "yes")] {
            let refused = with(&format!("+{key}={value}")).expect_err("must be refused");
            let GroupError::Attribute(text) = &refused else { panic!("{refused}") };
            assert!(text.contains(key) && text.contains(value), "{text}");
        }
        let as_rocketmq_makes_it = Group { consume_from_min: false, ..Group::new("billing") };
        assert_eq!(as_rocketmq_makes_it.start(), Start::Earliest);
    }

    #[test]
    fn members_go_by_the_name_of_their_group() {
        let group = with("+broadcast=true").expect("legal");
        let member = group.as_member("host@1#2");
        assert_eq!((member.name.as_str(), member.public_name()), ("billing#host@1#2", "billing"));
        assert_eq!((group.public_name(), member.start()), ("billing", Start::Latest));
        assert!(validate_group(&member.name).is_err());
    }

    #[test]
    fn attributes_say_what_becomes_of_messages_that_fail() {
        let set = |text: &str| GroupChange {
            name: "billing".into(),
            attributes: vec![format!("+{text}")],
            ..GroupChange::default()
        };
        let topic = Topic::new("orders", 1);
        let group = changed(None, &set("retry.exhausted=block")).expect("legal");
        assert_eq!(group.policy(&topic).exhausted, ExhaustedAction::Block);
        let group = changed(Some(&group), &set("inflight.max=5")).expect("legal");
        assert_eq!(
            (group.policy(&topic).in_flight_max, group.policy(&topic).exhausted),
            (5, ExhaustedAction::Block)
        );
        assert_eq!(group.backoff(), None);
        let group = changed(Some(&group), &set("retry.backoff=1s/2s")).expect("legal");
        assert_eq!(group.backoff().map(|backoff| backoff.delay(9).as_secs()), Some(2));
        for bad in ["retry.exhausted=drop", "inflight.max=0", "inflight.max=many", "retry.backoff=soon"] {
            let key = bad.split('=').next().expect("a key");
            let refused = changed(None, &set(bad)).expect_err("must be refused");
            assert!(matches!(&refused, GroupError::Attribute(text) if text.contains(key)), "{refused}");
        }
    }

    #[test]
    fn priorities_count_on_topics_that_carry_them() {
        let priorities = Topic { types: vec![MessageType::Priority.into()], ..Topic::new("orders", 4) };
        let group = with("+priority.factor=40").expect("legal");
        assert_eq!(group.policy(&priorities).priorities, PriorityFactor::parse("40").ok());
        assert_eq!(Group::new("g").policy(&priorities).priorities, Some(PriorityFactor::STRICT));
        assert_eq!(group.policy(&Topic::new("orders", 4)).priorities, None);
        for bad in ["101", "-1", "high", "0.5", ""] {
            let refused = with(&format!("+priority.factor={bad}")).expect_err("must be refused");
            assert!(refused.to_string().starts_with("priority.factor: "), "{refused}");
        }
    }

    #[test]
    fn a_change_touches_only_what_it_names() {
        let first =
            GroupChange { name: "billing".into(), retry_max_times: Some(3), ..GroupChange::default() };
        let group = changed(None, &first).expect("legal");
        assert_eq!((group.max_attempts(), group.fifo, group.consume_from_min), (4, false, true));
        let second = GroupChange { name: "billing".into(), fifo: Some(true), ..GroupChange::default() };
        let group = changed(Some(&group), &second).expect("legal");
        assert_eq!((group.max_attempts(), group.fifo), (4, true));
        assert!(changed(None, &GroupChange { name: "a b".into(), ..GroupChange::default() }).is_err());
    }
}
