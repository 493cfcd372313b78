//! Names of topics and consumer groups: which are legal, which are reserved.

use crate::limits::{GROUP_NAME_MAX, TOPIC_NAME_MAX};

/// Prefix of dead-letter topics; the group's name follows.
pub const DEAD_LETTER_PREFIX: &str = "%DLQ%";

/// Why a name is refused. The text is meant for the user.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing but white space.
    #[error("the {kind} name is blank; give it a name")]
    Blank {
        /// "topic" or "consumer group".
        kind: &'static str,
    },
    /// Longer than the protocol allows.
    #[error("the {kind} name has {length} characters; at most {max} are allowed")]
    TooLong {
        /// "topic" or "consumer group".
        kind: &'static str,
        /// Length in characters.
        length: usize,
        /// The limit.
        max: usize,
    },
    /// A character outside `[%|a-zA-Z0-9_-]`.
    #[error("the {kind} name {name:?} contains {bad:?}; use letters, digits, '_', '-', '%' and '|' only")]
    BadCharacter {
        /// "topic" or "consumer group".
        kind: &'static str,
        /// The refused name.
        name: String,
        /// The first bad character.
        bad: char,
    },
    /// Kept for the broker's own use.
    #[error("the {kind} name {name:?} is reserved for the system; choose another one")]
    Reserved {
        /// "topic" or "consumer group".
        kind: &'static str,
        /// The refused name.
        name: String,
    },
}

/// Topics that RocketMQ keeps for itself; clients may not use them (source: RocketMQ's `TopicValidator`).
const SYSTEM_TOPICS: &[&str] = &[
    "SCHEDULE_TOPIC_XXXX",
    "BenchmarkTest",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "RMQ_SYS_TRACE_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
];

/// Checks a topic name as clients and administrators give it.
///
/// # Errors
/// A [`NameError`] that says what to change. Dead-letter topics (`%DLQ%group`) are legal names.
pub fn validate_topic(name: &str) -> Result<(), NameError> {
    validate("topic", name, TOPIC_NAME_MAX)?;
    if SYSTEM_TOPICS.contains(&name) || name.starts_with("rmq_sys_") {
        return Err(NameError::Reserved { kind: "topic", name: name.to_owned() });
    }
    Ok(())
}

/// Whether a topic of this name (without its namespace) may come into being with its first message. Names with `%` at the
/// beginning, such as those of dead-letter topics, are for brokers.
pub fn may_be_auto_created(name: &str) -> bool {
    !name.starts_with('%')
}

/// Checks a consumer group name.
///
/// # Errors
/// A [`NameError`] that says what to change.
pub fn validate_group(name: &str) -> Result<(), NameError> {
    validate("consumer group", name, GROUP_NAME_MAX)?;
    if name.starts_with("CID_RMQ_SYS_") {
        return Err(NameError::Reserved { kind: "consumer group", name: name.to_owned() });
    }
    Ok(())
}

/// The stored name of the topic that takes the dead letters of a group, which is given by its stored name. It lies in the
/// namespace of the group.
pub fn dead_letter_topic(stored_group: &str) -> String {
    let (namespace, group) = split_namespace(stored_group);
    in_namespace(namespace, &format!("{DEAD_LETTER_PREFIX}{group}"))
}

/// Namespace and name of a stored name: the reverse of [`in_namespace`]. The namespace is empty if there is none.
pub fn split_namespace(stored: &str) -> (&str, &str) {
    match stored.split_once('%') {
        Some((namespace, name)) if !namespace.is_empty() => (namespace, name),
        _ => ("", stored),
    }
}

/// The name under which a broker stores a resource of a namespace: `namespace%name`, or the bare name without one.
/// `%` separates because it cannot be mistaken for a part of an ordinary name (RocketMQ does the same).
pub fn in_namespace(namespace: &str, name: &str) -> String {
    if namespace.is_empty() { name.to_owned() } else { format!("{namespace}%{name}") }
}

fn validate(kind: &'static str, name: &str, max: usize) -> Result<(), NameError> {
    if name.trim().is_empty() {
        return Err(NameError::Blank { kind });
    }
    let length = name.chars().count();
    if length > max {
        return Err(NameError::TooLong { kind, length, max });
    }
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '%' | '|');
    match name.chars().find(|c| !legal(*c)) {
        Some(bad) => Err(NameError::BadCharacter { kind, name: name.to_owned(), bad }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ordinary_and_dead_letter_names_are_legal() {
        for name in ["orders", "Order_Events-2", "%DLQ%billing", "ns%orders", &"t".repeat(127)] {
            assert_eq!(validate_topic(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn each_fault_is_named() {
        assert_eq!(validate_topic("  "), Err(NameError::Blank { kind: "topic" }));
        assert!(matches!(validate_topic(&"t".repeat(128)), Err(NameError::TooLong { length: 128, .. })));
        assert!(matches!(validate_topic("a b"), Err(NameError::BadCharacter { bad: ' ', .. })));
        assert!(matches!(validate_topic("rmq_sys_x"), Err(NameError::Reserved { .. })));
        assert!(matches!(validate_group("CID_RMQ_SYS_x"), Err(NameError::Reserved { .. })));
        assert!(matches!(validate_group(&"g".repeat(121)), Err(NameError::TooLong { max: 120, .. })));
    }
}
