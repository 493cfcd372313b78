//! The steps that make a broker match a file.

use super::file::{Config, Group, Topic};
use kerolox_client::admin::wire;
use kerolox_model::names::DEAD_LETTER_PREFIX;
use serde::Serialize;
use std::collections::BTreeMap;

/// The topics and groups of a broker, by name, without those that it made by itself.
#[derive(Debug, Clone, Default)]
pub(super) struct Present {
    pub(super) topics: BTreeMap<String, Topic>,
    pub(super) groups: BTreeMap<String, Group>,
}

/// One topic or group and what becomes of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Step {
    pub(super) action: Action,
    pub(super) kind: Kind,
    pub(super) name: String,
    /// What changes; all that is given for a new one.
    pub(super) changes: Vec<Change>,
    #[serde(skip)]
    pub(super) request: Option<Request>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Action {
    Create,
    Change,
    Unchanged,
    Delete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Kind {
    Topic,
    Group,
}

/// One field or attribute.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Change {
    pub(super) field: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) from: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) to: Option<String>,
}

/// What a broker is asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Request {
    PutTopic(wire::UpdateTopicRequest),
    PutGroup(wire::UpdateGroupRequest),
    DeleteTopic(wire::DeleteTopicRequest),
    DeleteGroup(wire::DeleteGroupRequest),
}

impl Present {
    pub(super) fn of(topics: &[wire::TopicConfig], groups: &[wire::GroupConfig]) -> Self {
        let topics = topics.iter().filter(|topic| !topic.name.contains(DEAD_LETTER_PREFIX));
        Self {
            topics: topics.map(|topic| (topic.name.clone(), Topic::of(topic))).collect(),
            groups: groups.iter().map(|group| (group.name.clone(), Group::of(group))).collect(),
        }
    }

    /// The topics and groups in the form of a file.
    pub(super) fn config(self) -> Config {
        Config { topics: self.topics, groups: self.groups }
    }
}

/// The steps that make a broker like `wanted`: topics first, groups then, and with `prune` what `wanted` does not name is
/// deleted at last.
pub(super) fn plan(wanted: &Config, present: &Present, prune: bool) -> Vec<Step> {
    let topics = wanted.topics.iter().map(|(name, topic)| topic_step(name, topic, present.topics.get(name)));
    let groups = wanted.groups.iter().map(|(name, group)| group_step(name, group, present.groups.get(name)));
    let mut steps: Vec<Step> = topics.chain(groups).collect();
    if prune {
        let gone = present.groups.keys().filter(|name| !wanted.groups.contains_key(*name));
        steps.extend(gone.map(|name| {
            let request = Request::DeleteGroup(wire::DeleteGroupRequest { name: name.clone() });
            delete(Kind::Group, name, request)
        }));
        let gone = present.topics.keys().filter(|name| !wanted.topics.contains_key(*name));
        steps.extend(gone.map(|name| {
            let request = Request::DeleteTopic(wire::DeleteTopicRequest { name: name.clone() });
            delete(Kind::Topic, name, request)
        }));
    }
    steps
}

fn delete(kind: Kind, name: &str, request: Request) -> Step {
    Step { action: Action::Delete, kind, name: name.to_owned(), changes: Vec::new(), request: Some(request) }
}

fn topic_step(name: &str, wanted: &Topic, present: Option<&Topic>) -> Step {
    let old = present.cloned().unwrap_or_default();
    let mut changes = Vec::new();
    field(&mut changes, "readQueues", old.read_queues, wanted.read_queues);
    field(&mut changes, "writeQueues", old.write_queues, wanted.write_queues);
    field(&mut changes, "perm", old.perm, wanted.perm);
    let attributes = attributes(&mut changes, old.attributes.as_ref(), wanted.attributes.as_ref());
    let request = Request::PutTopic(wire::UpdateTopicRequest {
        name: name.to_owned(),
        read_queues: wanted.read_queues,
        write_queues: wanted.write_queues,
        perm: wanted.perm,
        attributes,
        dry_run: false,
    });
    step(Kind::Topic, name, present.is_some(), changes, request)
}

fn group_step(name: &str, wanted: &Group, present: Option<&Group>) -> Step {
    let old = present.cloned().unwrap_or_default();
    let mut changes = Vec::new();
    field(&mut changes, "consumeEnable", old.consume_enable, wanted.consume_enable);
    field(&mut changes, "consumeFromMinEnable", old.consume_from_min_enable, wanted.consume_from_min_enable);
    field(&mut changes, "consumeMessageOrderly", old.consume_message_orderly, wanted.consume_message_orderly);
    field(&mut changes, "retryMaxTimes", old.retry_max_times, wanted.retry_max_times);
    let attributes = attributes(&mut changes, old.attributes.as_ref(), wanted.attributes.as_ref());
    let request = Request::PutGroup(wire::UpdateGroupRequest {
        name: name.to_owned(),
        consume_enable: wanted.consume_enable,
        fifo: wanted.consume_message_orderly,
        retry_max_times: wanted.retry_max_times,
        consume_from_min: wanted.consume_from_min_enable,
        attributes,
        dry_run: false,
    });
    step(Kind::Group, name, present.is_some(), changes, request)
}

fn step(kind: Kind, name: &str, is_present: bool, changes: Vec<Change>, request: Request) -> Step {
    let action = match (is_present, changes.is_empty()) {
        (false, _) => Action::Create,
        (true, false) => Action::Change,
        (true, true) => Action::Unchanged,
    };
    let request = Some(request).filter(|_| action != Action::Unchanged);
    Step { action, kind, name: name.to_owned(), changes, request }
}

fn field<T: ToString + PartialEq>(changes: &mut Vec<Change>, name: &str, from: Option<T>, to: Option<T>) {
    if to.is_some() && from != to {
        let text = |value: Option<T>| value.map(|value| value.to_string());
        changes.push(Change { field: name.to_owned(), from: text(from), to: text(to) });
    }
}

/// Notes what changes, and returns that in RocketMQ's syntax.
fn attributes(
    changes: &mut Vec<Change>,
    from: Option<&BTreeMap<String, String>>,
    to: Option<&BTreeMap<String, String>>,
) -> Vec<String> {
    let Some(to) = to else { return Vec::new() };
    let mut words = Vec::new();
    let mut note = |field: &String, from: Option<&String>, to: Option<&String>| {
        words.push(to.map_or_else(|| format!("-{field}"), |value| format!("+{field}={value}")));
        changes.push(Change { field: field.clone(), from: from.cloned(), to: to.cloned() });
    };
    for (key, value) in to {
        let old = from.and_then(|from| from.get(key));
        if old != Some(value) {
            note(key, old, Some(value));
        }
    }
    for (key, value) in from.into_iter().flatten().filter(|(key, _)| !to.contains_key(*key)) {
        // Every topic has a type, also one whose file says nothing about it.
        if key != kerolox_core::topic::MESSAGE_TYPE_ATTRIBUTE {
            note(key, Some(value), None);
        }
    }
    words
}

impl Step {
    /// One line for people.
    pub(super) fn line(&self) -> String {
        let sign = match self.action {
            Action::Create => '+',
            Action::Change => '~',
            Action::Unchanged => '=',
            Action::Delete => '-',
        };
        let kind = match self.kind {
            Kind::Topic => "topic",
            Kind::Group => "group",
        };
        let change = |change: &Change| match (&change.from, &change.to) {
            (None, Some(to)) if self.action == Action::Create => format!("{} {to}", change.field),
            (from, to) => {
                let shown = |value: &Option<String>| value.clone().unwrap_or_else(|| "(none)".to_owned());
                format!("{} {} -> {}", change.field, shown(from), shown(to))
            }
        };
        let changes: Vec<String> = self.changes.iter().map(change).collect();
        let colon = if changes.is_empty() { "" } else { ": " };
        format!("{sign} {kind} {}{colon}{}", self.name, changes.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::Language;
    use super::*;

    fn present() -> Present {
        let attributes =
            [("message.type".to_owned(), "FIFO".to_owned()), ("flush".to_owned(), "async".to_owned())];
        let topic = |name: &str| wire::TopicConfig {
            name: name.to_owned(),
            read_queues: 4,
            write_queues: 4,
            perm: 6,
            message_types: vec![2],
            attributes: attributes.clone().into(),
        };
        let group = wire::GroupConfig { name: "billing".into(), retry_max_times: 16, ..Default::default() };
        Present::of(&[topic("orders"), topic("old"), topic("%DLQ%billing")], &[group])
    }

    fn lines(text: &str, prune: bool) -> Vec<String> {
        let wanted = Config::parse(text, Language::Yaml).unwrap();
        plan(&wanted, &present(), prune).iter().map(Step::line).collect()
    }

    #[test]
    fn steps_say_what_changes_and_nothing_else() {
        assert_eq!(lines("topics: { orders: { writeQueues: 4 } }", false), ["= topic orders"]);
        assert_eq!(
            lines("topics: { orders: { writeQueues: 8, attributes: { dedup: id } } }", false),
            ["~ topic orders: writeQueues 4 -> 8, dedup (none) -> id, flush async -> (none)"]
        );
        assert_eq!(
            lines("topics: { pay: { perm: 6 } }\ngroups: { billing: { retryMaxTimes: 3 } }", false),
            ["+ topic pay: perm 6", "~ group billing: retryMaxTimes 16 -> 3"]
        );
    }

    #[test]
    fn only_pruning_deletes_and_dead_letters_stay() {
        assert_eq!(
            lines("topics: { orders: {} }", true),
            ["= topic orders", "- group billing", "- topic old"]
        );
    }

    #[test]
    fn a_request_names_what_changes() {
        let text = "topics: { orders: { writeQueues: 8, attributes: { message.type: NORMAL } } }";
        let steps = plan(&Config::parse(text, Language::Yaml).unwrap(), &present(), false);
        let Some(Request::PutTopic(request)) = &steps[0].request else { panic!("{steps:?}") };
        assert_eq!((request.read_queues, request.write_queues), (None, Some(8)));
        assert_eq!(request.attributes, ["+message.type=NORMAL", "-flush"]);
    }
}
