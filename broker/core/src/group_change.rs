//! Changes of consumer groups by administrators.

use kerolox_model::backoff::Backoff;
use kerolox_model::names::{NameError, validate_group};

use crate::attributes::{self, AttributeChange, known};
use crate::group::{
    BACKOFF_ATTRIBUTE, BROADCAST_ATTRIBUTE, CONSUME_FROM_ATTRIBUTE, EXHAUSTED_ATTRIBUTE, Group,
    IN_FLIGHT_ATTRIBUTE, PRIORITY_ATTRIBUTE, exhausted, in_flight_max, parse_start, priority_factor,
};
use crate::lite;

/// A requested change; absent fields keep their value, or get the default when the group is new.
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

/// Why a change of a group is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The name is not legal.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An attribute change is malformed.
    #[error("{0}")]
    Attribute(String),
}

/// The group after a change; `present` is absent for a new group.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{ExhaustedAction, PriorityFactor};
    use crate::group::StartPosition;
    use crate::topic::{MessageType, Topic};

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
            ("+consume.from=earliest", StartPosition::Earliest),
            ("+consume.from=latest", StartPosition::Latest),
            ("+consume.from=1700000000123", StartPosition::At(1_700_000_000_123)),
            ("+consume.from=1970-01-01T01:00:01+01:00", StartPosition::At(1_000)),
            ("+broadcast=true", StartPosition::Latest),
            ("+broadcast=false", StartPosition::Earliest),
            ("+broadcast=true,+consume.from=earliest", StartPosition::Earliest),
        ] {
            assert_eq!(with(attribute).map(|group| group.start()), Ok(start), "{attribute}");
        }
        for (key, value) in [("consume.from", "yesterday"), ("consume.from", "-5"), ("broadcast", "yes")] {
            let refused = with(&format!("+{key}={value}")).expect_err("must be refused");
            let GroupError::Attribute(text) = &refused else { panic!("{refused}") };
            assert!(text.contains(key) && text.contains(value), "{text}");
        }
        let as_rocketmq_makes_it = Group { consume_from_min: false, ..Group::new("billing") };
        assert_eq!(as_rocketmq_makes_it.start(), StartPosition::Earliest);
    }

    #[test]
    fn members_go_by_the_name_of_their_group() {
        let group = with("+broadcast=true").expect("legal");
        let member = group.as_member("host@1#2");
        assert_eq!((member.name.as_str(), member.public_name()), ("billing#host@1#2", "billing"));
        assert_eq!((group.public_name(), member.start()), ("billing", StartPosition::Latest));
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
