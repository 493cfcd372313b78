//! Consumer groups: configuration, defaults, and what a change may do.

use std::collections::BTreeMap;

use kerolox_model::names::{NameError, validate_group};
use prost::Message;

use crate::attributes;

/// Redeliveries of a message before it counts as undeliverable, unless the group says otherwise (RocketMQ's default).
pub const RETRY_MAX_TIMES_DEFAULT: u32 = 16;

/// A consumer group of one broker group. Stored in `Meta` records; field numbers are part of the on-disk format.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Group {
    /// Given by the fold at creation, never used again for another group. In a request to create one: the id that its
    /// proposer expects, or 0; it counts only where the fold cannot know, behind damage.
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
    /// Whether the group starts with the oldest message of a topic that is new to it (else with the newest).
    #[prost(bool, tag = "6")]
    pub consume_from_min: bool,
    /// As set by administrators.
    #[prost(btree_map = "string, string", tag = "7")]
    pub attributes: BTreeMap<String, String>,
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
        }
    }

    /// Deliveries that a message gets in all: the first one and the retries.
    pub fn max_attempts(&self) -> u32 {
        self.retry_max_times.saturating_add(1)
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
    attributes::apply(&mut group.attributes, changes);
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;

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
