//! Publish checks: the rules that every message passes before it is stored.

use kerolox_model::limits;
use kerolox_model::names::{NameError, validate_topic};

use crate::dedup::DedupPolicy;
use crate::lite;
use crate::topic::{MessageType, Topic};

/// Limits that an operator may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublishLimits {
    /// Largest body, in bytes.
    pub body_bytes_max: usize,
    /// Largest sum of property keys and values, tag and keys, in bytes.
    pub properties_bytes_max: usize,
    /// Most user properties.
    pub properties_max: usize,
}

impl Default for PublishLimits {
    fn default() -> Self {
        Self {
            body_bytes_max: limits::BODY_BYTES_MAX,
            properties_bytes_max: limits::PROPERTIES_BYTES_MAX,
            properties_max: limits::USER_PROPERTIES_MAX,
        }
    }
}

/// Property keys that RocketMQ reserves (its `MessageConst`): a message that carried one of them as a user property
/// would mean something else to its servers and clients.
const RESERVED_PROPERTY_KEYS: &[&str] = &[
    "1ST_POP_TIME",
    "ARRIVE_TIME",
    "BUYER_ID",
    "CLUSTER",
    "CONSUME_START_TIME",
    "CORRECTION_FLAG",
    "CORRELATION_ID",
    "DUP_INFO",
    "EXTEND_UNIQ_INFO",
    "INNER_MULTI_DISPATCH",
    "INNER_MULTI_QUEUE_OFFSET",
    "INNER_NUM",
    "INSTANCE_ID",
    "KEYS",
    "MAX_OFFSET",
    "MAX_RECONSUME_TIMES",
    "MIN_OFFSET",
    "MQ2_FLAG",
    "MSG_REGION",
    "MSG_TYPE",
    "ORIGIN_MESSAGE_ID",
    "PGROUP",
    "POP_CK",
    "POP_CK_OFFSET",
    "PUSH_REPLY_TIME",
    "REAL_QID",
    "REAL_TOPIC",
    "RECONSUME_TIME",
    "REPLY_TO_CLIENT",
    "RETRY_TOPIC",
    "TAGS",
    "TRACE_ON",
    "TRANSFER_FLAG",
    "TRAN_MSG",
    "TRAN_PREPARED_QUEUE_OFFSET",
    "TTL",
    "UNIQ_KEY",
    "WAIT",
    "__SHARDINGKEY",
    "__STARTDELIVERTIME",
    "__transactionId__",
];

/// A message as a producer sends it, reduced to the fields that the checks need.
#[derive(Debug, Clone, Default)]
pub struct MessageDraft<'a> {
    /// Topic name as the broker stores it.
    pub topic: &'a str,
    /// The producer's id for the message.
    pub message_id: &'a str,
    /// Length of the body in bytes.
    pub body_len: usize,
    /// The message type that the producer declares, if any.
    pub declared: Option<MessageType>,
    /// Tag, if any.
    pub tag: Option<&'a str>,
    /// Business keys.
    pub keys: Vec<&'a str>,
    /// User properties.
    pub properties: Vec<(&'a str, &'a str)>,
    /// Message group of a FIFO message.
    pub message_group: Option<&'a str>,
    /// Requested delivery time, milliseconds since the Unix epoch; see [`crate::schedule`].
    pub deliver_at_ms: Option<i64>,
    /// Priority, if any.
    pub priority: Option<i32>,
    /// Lite topic of the message, if any.
    pub lite_topic: Option<&'a str>,
    /// `orphaned_transaction_recovery_duration` in milliseconds, as requested.
    pub recovery_ms: Option<i64>,
}

/// Why a message is refused. Each variant has one code of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// ILLEGAL_TOPIC
    #[error(transparent)]
    Topic(#[from] NameError),
    /// ILLEGAL_MESSAGE_ID
    #[error("{0}")]
    MessageId(String),
    /// MESSAGE_BODY_EMPTY
    #[error("the message body is empty; send at least one byte")]
    BodyEmpty,
    /// MESSAGE_BODY_TOO_LARGE
    #[error(
        "the message body has {len} bytes, the limit is {max}; split it, compress it, or have the operator raise limits.max-body-bytes"
    )]
    BodyTooLarge {
        /// Bytes sent.
        len: usize,
        /// Bytes allowed.
        max: usize,
    },
    /// MESSAGE_PROPERTIES_TOO_LARGE
    #[error("{0}")]
    PropertiesTooLarge(String),
    /// ILLEGAL_MESSAGE_PROPERTY_KEY
    #[error("{0}")]
    PropertyKey(String),
    /// ILLEGAL_MESSAGE_TAG
    #[error("{0}")]
    Tag(String),
    /// ILLEGAL_MESSAGE_KEY
    #[error("{0}")]
    Key(String),
    /// ILLEGAL_MESSAGE_GROUP
    #[error("{0}")]
    MessageGroup(String),
    /// BAD_REQUEST
    #[error("orphaned_transaction_recovery_duration is {ms} ms, which is not between 0 ms and {max} ms; choose another one", max = limits::TRANSACTION_RECOVERY_MS_MAX)]
    RecoveryDuration {
        /// Milliseconds asked for.
        ms: i64,
    },
    /// ILLEGAL_LITE_TOPIC
    #[error("{0}")]
    LiteTopic(String),
    /// BAD_REQUEST
    #[error("priority {0} is below 0; the lowest priority is 0, and higher ones come first")]
    Priority(i32),
    /// BAD_REQUEST
    #[error("the request holds {len} transactional messages, and one transaction has at most {max}; send several transactions", max = limits::TRANSACTION_MESSAGES_MAX)]
    TransactionTooLarge {
        /// Messages sent.
        len: usize,
    },
    /// ILLEGAL_DELIVERY_TIME
    #[error("{0}")]
    DeliveryTime(String),
    /// MESSAGE_PROPERTY_CONFLICT_WITH_TYPE
    #[error("{0}")]
    TypeConflict(String),
    /// FORBIDDEN
    #[error(
        "topic {0} does not accept messages (its perm has no write bit); use another topic or change it with mqadmin updateTopic -p 6"
    )]
    NotWritable(String),
}

impl MessageDraft<'_> {
    /// The type that follows from the message's fields. The declared type counts only when no field implies one.
    pub fn kind(&self) -> MessageType {
        if self.declared == Some(MessageType::Transaction) {
            MessageType::Transaction
        } else if self.lite_topic.is_some() {
            MessageType::Lite
        } else if self.priority.is_some() {
            MessageType::Priority
        } else if self.deliver_at_ms.is_some() {
            MessageType::Delay
        } else if self.message_group.is_some() {
            MessageType::Fifo
        } else {
            MessageType::Normal
        }
    }

    /// All types that a topic must accept to accept the message.
    pub fn needs(&self) -> Vec<MessageType> {
        if self.priority.is_some() {
            // The priority decides the queue of a half message or a scheduled one, too.
            return vec![MessageType::Priority];
        }
        let kind = self.kind();
        let besides =
            [self.deliver_at_ms.map(|_| MessageType::Delay), self.message_group.map(|_| MessageType::Fifo)];
        let besides = besides.into_iter().flatten().filter(|besides| *besides != kind);
        std::iter::once(kind).chain(besides).collect()
    }
}

/// Checks everything about a message that does not depend on its topic.
///
/// # Errors
/// The first [`PublishError`] found, in the order of the protocol's table.
pub fn check_form(draft: &MessageDraft<'_>, limits: &PublishLimits) -> Result<(), PublishError> {
    validate_topic(draft.topic)?;
    check_message_id(draft.message_id)?;
    check_properties(draft, limits)?;
    check_labels(draft)?;
    let is_too_long = |ms: u64| ms > limits::TRANSACTION_RECOVERY_MS_MAX;
    if let Some(ms) = draft.recovery_ms.filter(|ms| u64::try_from(*ms).map_or(true, is_too_long)) {
        return Err(PublishError::RecoveryDuration { ms });
    }
    if let Some(name) = draft.lite_topic {
        lite::check_name(name).map_err(PublishError::LiteTopic)?;
    }
    if let Some(priority) = draft.priority.filter(|priority| *priority < 0) {
        return Err(PublishError::Priority(priority));
    }
    match draft.body_len {
        0 => Err(PublishError::BodyEmpty),
        len if len > limits.body_bytes_max => {
            Err(PublishError::BodyTooLarge { len, max: limits.body_bytes_max })
        }
        _ => Ok(()),
    }
}

/// Checks that the topic accepts the message, and returns the type of the message.
///
/// # Errors
/// [`PublishError::NotWritable`] or [`PublishError::TypeConflict`].
pub fn check_topic(draft: &MessageDraft<'_>, topic: &Topic) -> Result<MessageType, PublishError> {
    if !topic.is_writable() {
        return Err(PublishError::NotWritable(topic.name.clone()));
    }
    let kind = draft.kind();
    let carried = match kind {
        MessageType::Transaction => {
            draft.lite_topic.is_some() || draft.priority.is_some() && draft.message_group.is_some()
        }
        MessageType::Priority => draft.message_group.is_some() || draft.lite_topic.is_some(),
        MessageType::Lite => {
            draft.message_group.is_some() || draft.deliver_at_ms.is_some() || draft.priority.is_some()
        }
        _ => false,
    };
    if carried {
        return Err(PublishError::TypeConflict(format!(
            "a {} message may not also carry what belongs to another type (message group, lite topic, and, in a lite topic, a delivery time or priority); send them as separate messages",
            kind.word()
        )));
    }
    let needs = draft.needs();
    if needs.iter().all(|needed| topic.accepts(*needed)) {
        return Ok(kind);
    }
    let words: Vec<&str> = needs.iter().map(|needed| needed.word()).collect();
    Err(PublishError::TypeConflict(format!(
        "topic {name} accepts {accepted} messages, this one is {sent}; send to another topic or change it: mqadmin updateTopic -t {name} -a +message.type={wanted}",
        name = topic.name,
        accepted = topic.type_words(),
        sent = words.join(" and "),
        wanted = if words.len() == 1 { words[0] } else { "MIXED" },
    )))
}

/// Whether the messages of one request form one transaction: more than one, and all of them half messages. `kinds` lists
/// their types.
///
/// # Errors
/// [`PublishError::TypeConflict`] when only some of them are half messages, or when a topic with deduplication might take
/// some of them for duplicates; [`PublishError::TransactionTooLarge`].
pub fn share_transaction(topic: &Topic, kinds: &[MessageType]) -> Result<bool, PublishError> {
    let halves = kinds.iter().filter(|kind| **kind == MessageType::Transaction).count();
    if halves == 0 || kinds.len() == 1 {
        return Ok(false);
    }
    let conflict = if halves < kinds.len() {
        "the request holds transactional messages and others; send them in requests of their own"
    } else if halves > limits::TRANSACTION_MESSAGES_MAX {
        return Err(PublishError::TransactionTooLarge { len: halves });
    } else if DedupPolicy::of(topic).is_some() {
        "several messages of one transaction cannot go to a topic with dedup, where some of them might be repeats; send them one by one, each in a transaction of its own, or to another topic"
    } else {
        return Ok(true);
    };
    Err(PublishError::TypeConflict(conflict.to_owned()))
}

/// The queue of a message with a priority in a topic with `write_queues` queues: each queue is a priority, and the highest
/// one takes all priorities above it (RocketMQ's rule).
pub fn queue_of_priority(priority: u32, write_queues: u32) -> u32 {
    let queue = priority.min(write_queues.saturating_sub(1));
    assert!(queue == 0 || queue < write_queues, "a priority is one of the queues");
    queue
}

fn check_message_id(id: &str) -> Result<(), PublishError> {
    if id.trim().is_empty() {
        return Err(PublishError::MessageId(
            "the message id is blank; every message needs a unique one".into(),
        ));
    }
    if has_control(id) {
        return Err(PublishError::MessageId(format!(
            "the message id {id:?} has control characters; use visible characters"
        )));
    }
    if id.len() > limits::MESSAGE_ID_MAX {
        return Err(PublishError::MessageId(format!(
            "the message id has {} bytes, the limit is {}; use a shorter one",
            id.len(),
            limits::MESSAGE_ID_MAX
        )));
    }
    Ok(())
}

fn check_properties(draft: &MessageDraft<'_>, limits: &PublishLimits) -> Result<(), PublishError> {
    if draft.properties.len() > limits.properties_max {
        return Err(PublishError::PropertiesTooLarge(format!(
            "{} user properties, the limit is {}; move some of them into the body",
            draft.properties.len(),
            limits.properties_max
        )));
    }
    let bytes: usize = draft.properties.iter().map(|(k, v)| k.len() + v.len()).sum::<usize>()
        + draft.tag.map_or(0, str::len)
        + draft.keys.iter().map(|key| key.len()).sum::<usize>();
    if bytes > limits.properties_bytes_max {
        return Err(PublishError::PropertiesTooLarge(format!(
            "properties, tag and keys have {bytes} bytes together, the limit is {}; move some of them into the body",
            limits.properties_bytes_max
        )));
    }
    for (key, value) in &draft.properties {
        if key.trim().is_empty() || has_control(key) {
            return Err(PublishError::PropertyKey(format!(
                "user property key {key:?} is blank or has control characters; use visible characters"
            )));
        }
        if RESERVED_PROPERTY_KEYS.contains(key) {
            return Err(PublishError::PropertyKey(format!(
                "user property key {key:?} is reserved by RocketMQ; choose another name"
            )));
        }
        if has_control(value) {
            return Err(PublishError::PropertyKey(format!(
                "the value of user property {key:?} has control characters; encode it, for instance as base64"
            )));
        }
    }
    Ok(())
}

fn check_labels(draft: &MessageDraft<'_>) -> Result<(), PublishError> {
    if let Some(tag) = draft.tag
        && (tag.trim().is_empty() || tag.contains('|') || has_control(tag))
    {
        return Err(PublishError::Tag(format!(
            "tag {tag:?} is blank, contains '|' or has control characters; use a plain word"
        )));
    }
    if let Some(key) = draft.keys.iter().find(|key| key.trim().is_empty() || has_control(key)) {
        return Err(PublishError::Key(format!(
            "key {key:?} is blank or has control characters; use visible characters"
        )));
    }
    if let Some(group) = draft.message_group
        && (group.trim().is_empty() || group.len() >= limits::MESSAGE_GROUP_BYTES_MAX || has_control(group))
    {
        return Err(PublishError::MessageGroup(format!(
            "message group {group:?} is blank, has control characters or {} bytes or more; use a short name",
            limits::MESSAGE_GROUP_BYTES_MAX
        )));
    }
    Ok(())
}

/// Line and paragraph separators count: they break lines like the newline, which is a control character.
fn has_control(text: &str) -> bool {
    text.chars().any(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic_change::{TopicChange, changed};

    fn draft() -> MessageDraft<'static> {
        MessageDraft { topic: "orders", message_id: "01AB", body_len: 3, ..MessageDraft::default() }
    }

    fn check(draft: MessageDraft<'_>) -> Result<(), PublishError> {
        check_form(&draft, &PublishLimits::default())
    }

    #[test]
    fn a_plain_message_passes() {
        assert_eq!(check(draft()), Ok(()));
    }

    #[test]
    fn each_limit_has_its_error() {
        use PublishError as E;
        let big = "x".repeat(limits::PROPERTIES_BYTES_MAX);
        let id = "x".repeat(256);
        let group = "g".repeat(64);
        type Case<'a> = (MessageDraft<'a>, fn(&E) -> bool);
        let cases: Vec<Case<'_>> = vec![
            (MessageDraft { topic: "a b", ..draft() }, |e| matches!(e, E::Topic(_))),
            (MessageDraft { message_id: " ", ..draft() }, |e| matches!(e, E::MessageId(_))),
            (MessageDraft { message_id: &id, ..draft() }, |e| matches!(e, E::MessageId(_))),
            (MessageDraft { message_id: "a\u{1b}[2Jb", ..draft() }, |e| matches!(e, E::MessageId(_))),
            (MessageDraft { properties: vec![("a\nb", "v")], ..draft() }, |e| matches!(e, E::PropertyKey(_))),
            (MessageDraft { properties: vec![("a\u{2028}b", "v")], ..draft() }, |e| {
                matches!(e, E::PropertyKey(_))
            }),
            (MessageDraft { recovery_ms: Some(-1), ..draft() }, |e| {
                matches!(e, E::RecoveryDuration { ms: -1 })
            }),
            (MessageDraft { body_len: 0, ..draft() }, |e| matches!(e, E::BodyEmpty)),
            (MessageDraft { body_len: limits::BODY_BYTES_MAX + 1, ..draft() }, |e| {
                matches!(e, E::BodyTooLarge { .. })
            }),
            (MessageDraft { properties: vec![("k", &big)], ..draft() }, |e| {
                matches!(e, E::PropertiesTooLarge(_))
            }),
            (MessageDraft { properties: vec![("k", "v"); 129], ..draft() }, |e| {
                matches!(e, E::PropertiesTooLarge(_))
            }),
            (MessageDraft { properties: vec![("", "v")], ..draft() }, |e| matches!(e, E::PropertyKey(_))),
            (MessageDraft { properties: vec![("k", "\n")], ..draft() }, |e| matches!(e, E::PropertyKey(_))),
            (MessageDraft { properties: vec![("UNIQ_KEY", "v")], ..draft() }, |e| {
                matches!(e, E::PropertyKey(_))
            }),
            (MessageDraft { tag: Some("a|b"), ..draft() }, |e| matches!(e, E::Tag(_))),
            (MessageDraft { keys: vec!["ok", " "], ..draft() }, |e| matches!(e, E::Key(_))),
            (MessageDraft { lite_topic: Some("a b"), ..draft() }, |e| matches!(e, E::LiteTopic(_))),
            (MessageDraft { priority: Some(-1), ..draft() }, |e| matches!(e, E::Priority(-1))),
            (MessageDraft { message_group: Some(&group), ..draft() }, |e| matches!(e, E::MessageGroup(_))),
            (MessageDraft { recovery_ms: Some(3_600_001), ..draft() }, |e| {
                matches!(e, E::RecoveryDuration { .. })
            }),
        ];
        for (draft, is_right) in cases {
            let error = check(draft.clone()).expect_err("must be refused");
            assert!(is_right(&error), "{draft:?} gave {error}");
        }
    }

    #[test]
    fn the_type_follows_from_what_a_message_carries() {
        let kind = |d: MessageDraft<'_>| d.kind();
        assert_eq!(kind(draft()), MessageType::Normal);
        assert_eq!(kind(MessageDraft { declared: Some(MessageType::Fifo), ..draft() }), MessageType::Normal);
        assert_eq!(kind(MessageDraft { message_group: Some("g"), ..draft() }), MessageType::Fifo);
        assert_eq!(kind(MessageDraft { deliver_at_ms: Some(1), ..draft() }), MessageType::Delay);
        assert_eq!(
            kind(MessageDraft { declared: Some(MessageType::Transaction), ..draft() }),
            MessageType::Transaction
        );
    }

    #[test]
    fn a_topic_takes_its_types_only_and_says_how_to_mend_it() {
        let topic = Topic::new("orders", 1);
        assert_eq!(check_topic(&draft(), &topic), Ok(MessageType::Normal));
        let half = MessageDraft { declared: Some(MessageType::Transaction), ..draft() };
        let error = check_topic(&half, &topic).expect_err("NORMAL topic");
        assert!(error.to_string().contains("accepts NORMAL") && error.to_string().contains("TRANSACTION"));
        let mixed = TopicChange {
            name: "orders".into(),
            attributes: vec!["+message.type=MIXED".into()],
            ..TopicChange::default()
        };
        let mixed = changed(Some(&topic), &mixed, 1).expect("legal");
        assert_eq!(check_topic(&half, &mixed), Ok(MessageType::Transaction));
        let ordered_half = MessageDraft { message_group: Some("g"), ..half.clone() };
        assert_eq!(check_topic(&ordered_half, &mixed), Ok(MessageType::Transaction));
        let transactions = Topic { types: vec![MessageType::Transaction.into()], ..Topic::new("orders", 1) };
        let error =
            check_topic(&ordered_half, &transactions).expect_err("its order would get lost").to_string();
        assert!(error.contains("TRANSACTION and FIFO"), "{error}");
        let later = MessageDraft { deliver_at_ms: Some(1), ..draft() };
        let ordered_later = MessageDraft { message_group: Some("g"), ..later.clone() };
        assert_eq!(check_topic(&ordered_later, &mixed), Ok(MessageType::Delay));
        assert_eq!(
            check_topic(&MessageDraft { deliver_at_ms: Some(1), ..half }, &mixed),
            Ok(MessageType::Transaction)
        );
        let delays = Topic { types: vec![MessageType::Delay.into()], ..Topic::new("orders", 1) };
        assert_eq!(check_topic(&later, &delays), Ok(MessageType::Delay));
        let error = check_topic(&ordered_later, &delays).expect_err("its order would get lost").to_string();
        assert!(error.contains("DELAY and FIFO") && error.contains("message.type=MIXED"), "{error}");
    }

    #[test]
    fn a_message_with_a_priority_needs_a_topic_that_takes_priorities() {
        let with = |kind: MessageType| Topic { types: vec![kind.into()], ..Topic::new("orders", 4) };
        let urgent = MessageDraft { priority: Some(9), ..draft() };
        let delayed = MessageDraft { deliver_at_ms: Some(1), ..urgent.clone() };
        let half = MessageDraft { declared: Some(MessageType::Transaction), ..urgent.clone() };
        let priorities = with(MessageType::Priority);
        assert_eq!(check_topic(&urgent, &priorities), Ok(MessageType::Priority));
        assert_eq!(check_topic(&delayed, &priorities), Ok(MessageType::Priority));
        assert_eq!(check_topic(&half, &priorities), Ok(MessageType::Transaction));
        for (draft, topic) in [
            (&urgent, with(MessageType::Normal)),
            (&half, with(MessageType::Transaction)),
            (&MessageDraft { message_group: Some("g"), ..urgent.clone() }, priorities.clone()),
            (&draft(), priorities),
        ] {
            let refused = check_topic(draft, &topic).expect_err("must be refused");
            assert!(matches!(refused, PublishError::TypeConflict(_)), "{refused}");
        }
        assert_eq!([0, 3, 4, 9].map(|priority| queue_of_priority(priority, 4)), [0, 3, 3, 3]);
    }

    #[test]
    fn half_messages_of_one_request_are_one_transaction() {
        use MessageType::{Normal, Transaction};
        let topic = Topic::new("orders", 1);
        assert_eq!(share_transaction(&topic, &[Transaction]), Ok(false));
        assert_eq!(share_transaction(&topic, &[Normal, Normal]), Ok(false));
        assert_eq!(share_transaction(&topic, &[Transaction, Transaction]), Ok(true));
        assert!(share_transaction(&topic, &[Transaction, Normal]).is_err());
        let dedup = [("dedup".to_owned(), "id".to_owned())];
        let unique = Topic { attributes: dedup.into(), ..topic.clone() };
        assert!(share_transaction(&unique, &[Transaction, Transaction]).is_err());
        assert_eq!(share_transaction(&unique, &[Transaction]), Ok(false));
        let many = vec![Transaction; limits::TRANSACTION_MESSAGES_MAX + 1];
        assert_eq!(share_transaction(&topic, &many[1..]), Ok(true));
        assert!(matches!(share_transaction(&topic, &many), Err(PublishError::TransactionTooLarge { .. })));
    }

    #[test]
    fn a_parent_of_lite_topics_takes_their_messages_only() {
        let parent = Topic { types: vec![MessageType::Lite.into()], ..Topic::new("sessions", 1) };
        let lite = MessageDraft { lite_topic: Some("a"), ..draft() };
        assert_eq!(check_topic(&lite, &parent), Ok(MessageType::Lite));
        for (draft, topic) in [
            (&draft(), &parent),
            (&lite, &Topic::new("orders", 1)),
            (&MessageDraft { priority: Some(1), ..lite.clone() }, &parent),
            (&MessageDraft { message_group: Some("g"), ..lite.clone() }, &parent),
            (&MessageDraft { deliver_at_ms: Some(5), ..lite.clone() }, &parent),
            (&MessageDraft { declared: Some(MessageType::Transaction), ..lite.clone() }, &parent),
        ] {
            assert!(matches!(check_topic(draft, topic), Err(PublishError::TypeConflict(_))), "{draft:?}");
        }
    }

    #[test]
    fn a_topic_without_the_write_bit_refuses() {
        let topic = Topic { perm: crate::topic::PERM_READ, ..Topic::new("orders", 1) };
        assert!(matches!(check_topic(&draft(), &topic), Err(PublishError::NotWritable(_))));
    }
}
