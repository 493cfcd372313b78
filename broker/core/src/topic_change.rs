//! Changes of topics by administrators and first messages.

use kerolox_model::limits::QUEUES_PER_TOPIC_MAX;
use kerolox_model::names::{NameError, validate_topic};

use crate::attributes::{self, AttributeChange, known};
use crate::dedup;
use crate::flush::FlushRequirement;
use crate::lite;
use crate::replicas::ReplicaRequirement;
use crate::schedule;
use crate::topic::{
    AUTO_CREATED_ATTRIBUTE, FLUSH_ATTRIBUTE, MESSAGE_TYPE_ATTRIBUTE, MessageType, PERM_READ, PERM_WRITE,
    REPLICAS_ATTRIBUTE, RETENTION_ATTRIBUTE, Topic, parse_retention,
};
use crate::topic_limits;
use crate::transaction;

/// A requested change; absent fields keep their value, or get the default when the topic is new.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicChange {
    /// Name of the topic.
    pub name: String,
    /// See [`Topic::read_queues`].
    pub read_queues: Option<u32>,
    /// See [`Topic::write_queues`].
    pub write_queues: Option<u32>,
    /// See [`Topic::perm`].
    pub perm: Option<u32>,
    /// Changes in RocketMQ's syntax.
    pub attributes: Vec<String>,
}

/// Why a change of a topic is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The name is not legal.
    #[error(transparent)]
    Name(#[from] NameError),
    /// An attribute is malformed or has an invalid value.
    #[error("{0}")]
    Attribute(String),
    /// Not between 1 and the limit.
    #[error("a topic has between 1 and {QUEUES_PER_TOPIC_MAX} {which} queues, not {asked}")]
    QueueCount {
        /// "read" or "write".
        which: &'static str,
        /// The refused number.
        asked: u32,
    },
    /// Read queues must cover the write queues: messages in the others could never be read.
    #[error(
        "{read} read queues are fewer than {write} write queues: messages in the others could never be read; raise the read queues first"
    )]
    UnreadableQueues {
        /// Read queues asked for.
        read: u32,
        /// Write queues asked for.
        write: u32,
    },
    /// Not a sum of 2 (write) and 4 (read).
    #[error("perm {0} is none of 0 (none), 2 (write), 4 (read), 6 (read and write)")]
    Perm(u32),
}

/// The topic that its first messages create: it accepts messages of their type, or all types if there are several. `None` for
/// messages of lite topics, whose parents are created by administrators.
pub fn of_first_messages(name: &str, types: impl IntoIterator<Item = MessageType>) -> Option<TopicChange> {
    let mut types: Vec<MessageType> = types.into_iter().collect();
    types.sort_unstable();
    types.dedup();
    let word = match *types {
        [] => return None,
        _ if types.contains(&MessageType::Lite) || types.contains(&MessageType::Unspecified) => return None,
        [only] => only.word(),
        _ => "MIXED",
    };
    let attributes =
        vec![format!("+{MESSAGE_TYPE_ATTRIBUTE}={word}"), format!("+{AUTO_CREATED_ATTRIBUTE}=true")];
    Some(TopicChange { name: name.to_owned(), attributes, ..TopicChange::default() })
}

/// The topic after a change. `present` is absent for a new topic, which gets `default_queues` queues.
///
/// # Errors
/// [`TopicError`]; nothing is changed then.
pub fn changed(
    present: Option<&Topic>,
    change: &TopicChange,
    default_queues: u32,
) -> Result<Topic, TopicError> {
    validate_topic(&change.name)?;
    let mut topic = present.cloned().unwrap_or_else(|| Topic::new(&change.name, default_queues));
    topic.write_queues = change.write_queues.unwrap_or(topic.write_queues);
    topic.read_queues = change.read_queues.unwrap_or(topic.read_queues.max(topic.write_queues));
    topic.perm = change.perm.unwrap_or(topic.perm);
    check_queues("read", topic.read_queues)?;
    check_queues("write", topic.write_queues)?;
    if topic.read_queues < topic.write_queues {
        return Err(TopicError::UnreadableQueues { read: topic.read_queues, write: topic.write_queues });
    }
    if topic.perm & !(PERM_READ | PERM_WRITE) != 0 {
        return Err(TopicError::Perm(topic.perm));
    }
    let changes = attributes::parse(&change.attributes).map_err(TopicError::Attribute)?;
    known::check(known::OF_TOPICS, &topic.attributes, &changes).map_err(TopicError::Attribute)?;
    for change in &changes {
        match change {
            AttributeChange::Set(key, value) => match key.as_str() {
                MESSAGE_TYPE_ATTRIBUTE => topic.types = types_of(value)?,
                FLUSH_ATTRIBUTE => drop(FlushRequirement::parse(value).map_err(TopicError::Attribute)?),
                REPLICAS_ATTRIBUTE => drop(ReplicaRequirement::parse(value).map_err(TopicError::Attribute)?),
                topic_limits::BODY_ATTRIBUTE | topic_limits::PROPERTIES_ATTRIBUTE => {
                    topic_limits::check(key, value).map_err(TopicError::Attribute)?;
                }
                dedup::DEDUP_ATTRIBUTE => dedup::check_by(value).map_err(TopicError::Attribute)?,
                dedup::DEDUP_WINDOW_ATTRIBUTE => dedup::check_window(value).map_err(TopicError::Attribute)?,
                RETENTION_ATTRIBUTE => drop(parse_retention(value).map_err(TopicError::Attribute)?),
                schedule::MAX_DELAY_ATTRIBUTE => schedule::check_max(value).map_err(TopicError::Attribute)?,
                key => {
                    lite::check_attribute(key, value).map_err(TopicError::Attribute)?;
                    transaction::check_attribute(key, value).map_err(TopicError::Attribute)?;
                }
            },
            AttributeChange::Remove(key) if key == MESSAGE_TYPE_ATTRIBUTE => {
                topic.types = vec![MessageType::Normal.into()];
            }
            AttributeChange::Remove(_) => {}
        }
    }
    attributes::apply(&mut topic.attributes, changes);
    assert_eq!(
        topic.id,
        present.map_or(0, |present| present.id),
        "a change leaves the id to the state machine"
    );
    assert!(0 < topic.write_queues && topic.write_queues <= topic.read_queues, "write queues can be read");
    assert!(!topic.types.is_empty(), "a topic takes messages of some type");
    Ok(topic)
}

fn check_queues(which: &'static str, asked: u32) -> Result<(), TopicError> {
    if (1..=QUEUES_PER_TOPIC_MAX).contains(&asked) {
        Ok(())
    } else {
        Err(TopicError::QueueCount { which, asked })
    }
}

fn types_of(word: &str) -> Result<Vec<i32>, TopicError> {
    let one = |kind: MessageType| Ok(vec![kind.into()]);
    match word.to_ascii_uppercase().as_str() {
        "NORMAL" | "UNSPECIFIED" => one(MessageType::Normal),
        "FIFO" => one(MessageType::Fifo),
        "DELAY" => one(MessageType::Delay),
        "TRANSACTION" => one(MessageType::Transaction),
        "LITE" => one(MessageType::Lite),
        "PRIORITY" => one(MessageType::Priority),
        "MIXED" => Ok([
            MessageType::Normal,
            MessageType::Fifo,
            MessageType::Delay,
            MessageType::Transaction,
            MessageType::Priority,
        ]
        .map(i32::from)
        .to_vec()),
        other => Err(TopicError::Attribute(format!(
            "message.type {other:?} is unknown; use NORMAL, FIFO, DELAY, TRANSACTION, LITE, PRIORITY or MIXED"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(name: &str) -> TopicChange {
        TopicChange { name: name.to_owned(), ..TopicChange::default() }
    }

    #[test]
    fn a_new_topic_takes_the_defaults_and_normal_messages() {
        let topic = changed(None, &change("orders"), 8).expect("legal");
        assert_eq!((topic.read_queues, topic.write_queues, topic.perm), (8, 8, 6));
        assert!(topic.accepts(MessageType::Normal) && !topic.accepts(MessageType::Transaction));
    }

    #[test]
    fn absent_fields_keep_their_value() {
        let with_type =
            TopicChange { attributes: vec!["+message.type=TRANSACTION".into()], ..change("orders") };
        let topic = changed(None, &with_type, 4).expect("legal");
        let wider = changed(Some(&topic), &TopicChange { write_queues: Some(6), ..change("orders") }, 4)
            .expect("legal");
        assert_eq!((wider.read_queues, wider.write_queues), (6, 6));
        assert!(wider.accepts(MessageType::Transaction) && !wider.accepts(MessageType::Normal));
    }

    #[test]
    fn the_first_messages_say_what_a_topic_takes() {
        use MessageType::{Delay, Fifo, Lite, Normal, Transaction};
        let made = |types: &[MessageType]| {
            let change = of_first_messages("orders", types.iter().copied())?;
            Some(changed(None, &change, 4).expect("legal"))
        };
        let half = made(&[Transaction, Transaction]).expect("made");
        assert_eq!(
            (half.type_words(), half.is_auto_created(), half.write_queues),
            ("TRANSACTION".into(), true, 4)
        );
        let mixed = made(&[Fifo, Delay]).expect("made");
        assert!(mixed.accepts(Fifo) && mixed.accepts(Delay) && mixed.accepts(Normal));
        assert_eq!((made(&[]), made(&[Lite]), made(&[Normal, Lite])), (None, None, None));
    }

    #[test]
    fn a_topic_may_have_its_own_flush_mode() {
        let set = |word: &str| TopicChange { attributes: vec![format!("+flush={word}")], ..change("t") };
        let topic = changed(None, &set("async"), 4).expect("legal");
        assert_eq!(topic.flush(), Some(FlushRequirement::Async));
        let unset = TopicChange { attributes: vec!["-flush".into()], ..change("t") };
        assert_eq!(changed(Some(&topic), &unset, 4).expect("legal").flush(), None);
        let own = TopicChange { attributes: vec!["+replicas=master".into()], ..change("t") };
        let topic = changed(Some(&topic), &own, 4).expect("legal");
        assert_eq!(topic.replicas(), Some(ReplicaRequirement::Master));
        let bad = TopicChange { attributes: vec!["+replicas=two".into()], ..change("t") };
        assert!(changed(Some(&topic), &bad, 4).is_err());
        assert!(matches!(changed(None, &set("never"), 4), Err(TopicError::Attribute(_))));
    }

    #[test]
    fn a_topic_may_keep_its_messages_for_a_time_of_its_own() {
        let set =
            |text: &str| TopicChange { attributes: vec![format!("+retention.time={text}")], ..change("t") };
        let topic = changed(None, &set("90m"), 4).expect("legal");
        assert_eq!(topic.retention_ms(), Some(90 * 60_000));
        let unset = TopicChange { attributes: vec!["-retention.time".into()], ..change("t") };
        assert_eq!(changed(Some(&topic), &unset, 4).expect("legal").retention_ms(), None);
        for (bad, word) in
            [("3 weeks", "\"3 weeks\" is not a duration"), ("0s", "is 0"), ("", "retention.time")]
        {
            let refused = changed(None, &set(bad), 4).expect_err("must be refused");
            assert!(matches!(&refused, TopicError::Attribute(text) if text.contains(word)), "{refused}");
        }
    }

    #[test]
    fn senseless_changes_are_refused() {
        let refuse = |change: TopicChange| changed(None, &change, 4).expect_err("must be refused");
        assert!(matches!(refuse(change("a b")), TopicError::Name(_)));
        assert_eq!(
            refuse(TopicChange { write_queues: Some(0), ..change("t") }),
            TopicError::QueueCount { which: "write", asked: 0 }
        );
        assert_eq!(
            refuse(TopicChange { read_queues: Some(2), ..change("t") }),
            TopicError::UnreadableQueues { read: 2, write: 4 }
        );
        assert_eq!(refuse(TopicChange { perm: Some(7), ..change("t") }), TopicError::Perm(7));
        assert!(matches!(
            refuse(TopicChange { attributes: vec!["+message.type=ODD".into()], ..change("t") }),
            TopicError::Attribute(text) if text.contains("ODD")
        ));
    }
}
