//! Lite topics: light children of a topic of type LITE. Each is a queue of its parent with a name. [`LiteSubscriptions`] knows
//! which clients subscribe to which.
//!
//! # Lite topics
//!
//! A lite topic is a queue of its parent with its own number, made by a record before its first message
//! (`store/src/state/lite.rs`), so entries, progress and trims work as for any queue. An active one has an engine
//! (`delivery/lites.rs`), the others take a few words of memory. `core/src/lite/subscriptions.rs` knows which clients
//! subscribe to which, and puts ready queues into their inboxes; `rpc/messaging/lite.rs` empties the inboxes.
//! SyncLiteSubscription is passed on to all brokers of the parent (`gateway/src/lite.rs`);
//! `tasks/lite_expiry.rs` proposes the end of idle ones. `rpc/admin/lite_topics.rs` shows them to administrators.

mod ready_queues;
mod subscriptions;

pub use ready_queues::ReadyQueues;
pub use subscriptions::{
    EvictedSubscription, FORGOTTEN_AFTER_MS, LiteSubscriptions, OverQuota, SubscriptionAction,
    SubscriptionChange, SyncOutcome,
};

use crate::group::Group;
use crate::topic::Topic;

/// First number of a queue that is a lite topic; ordinary queues have lower numbers. The state machine assigns numbers from here on in
/// sequence over all parents, and never twice: no remains of a lite topic can be mistaken for another one's.
pub const FIRST_LITE_QUEUE: u32 = 1 << 16;

/// Last number that a lite topic can get: the protocol's queue ids are signed.
pub const LAST_LITE_QUEUE: u32 = i32::MAX.cast_unsigned();

/// Longest name, in characters: SDKs are told it as `max_lite_topic_size` (RocketMQ's value).
pub const LITE_TOPIC_CHARS_MAX: usize = 64;

/// A name that users may mistake for all lite topics of a parent. Their number has no limit that a client could bear.
const WILDCARD: &str = "*";

/// Attribute of a topic of type LITE: minutes after its last message until a lite topic is removed with its remaining messages;
/// -1, the default, for never. RocketMQ's name.
pub const EXPIRATION_ATTRIBUTE: &str = "lite.topic.expiration";

/// Attribute that binds a group to the one topic of type LITE below which it consumes. RocketMQ's name.
pub const BIND_ATTRIBUTE: &str = "lite.bind.topic";

/// Attribute that decides whether several clients of a group may subscribe to one lite topic: `Shared`, the default, or
/// `Exclusive`. RocketMQ's name.
pub const MODEL_ATTRIBUTE: &str = "lite.sub.model";

/// Attribute that limits the lite topics to which one client subscribes. RocketMQ's name.
pub const CLIENT_QUOTA_ATTRIBUTE: &str = "lite.sub.client.quota";

/// Lite topics to which one client of a group subscribes unless the group says otherwise (RocketMQ's default).
pub const CLIENT_QUOTA_DEFAULT: usize = 2_000;

/// Longest time until a lite topic expires, in minutes: 30 days (RocketMQ's limit).
const EXPIRATION_MINUTES_MAX: i64 = 30 * 24 * 60;

/// Who may subscribe to a lite topic that another client of the group has subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SubscriptionModel {
    /// Every client: the subscribers share its messages.
    #[default]
    Shared,
    /// Only the newest subscriber.
    Exclusive,
}

/// When a lite topic whose last message came at `last_ms` is removed, milliseconds since the Unix epoch; `None` for
/// never.
pub fn expires_ms(topic: &Topic, last_ms: i64) -> Option<i64> {
    let minutes = topic.attributes.get(EXPIRATION_ATTRIBUTE).and_then(|text| minutes(text).ok())?;
    (minutes >= 0).then(|| last_ms.saturating_add(minutes * 60_000))
}

/// The topic below which a group consumes lite topics, if it is bound to one.
pub fn bound_to(group: &Group) -> Option<&str> {
    group.attributes.get(BIND_ATTRIBUTE).map(String::as_str)
}

/// See [`SubscriptionModel`].
pub fn model(group: &Group) -> SubscriptionModel {
    group.attributes.get(MODEL_ATTRIBUTE).and_then(|word| parse_model(word).ok()).unwrap_or_default()
}

/// How many lite topics one client of a group may subscribe to.
pub fn client_quota(group: &Group) -> usize {
    let quota = group.attributes.get(CLIENT_QUOTA_ATTRIBUTE);
    quota.and_then(|number| parse_quota(number).ok()).unwrap_or(CLIENT_QUOTA_DEFAULT)
}

/// Checks an attribute of a topic or a group, if it is one of these.
///
/// # Errors
/// A sentence that describes the wrong value.
pub fn check_attribute(key: &str, value: &str) -> Result<(), String> {
    match key {
        EXPIRATION_ATTRIBUTE => minutes(value).map(drop),
        MODEL_ATTRIBUTE => parse_model(value).map(drop),
        CLIENT_QUOTA_ATTRIBUTE => parse_quota(value).map(drop),
        BIND_ATTRIBUTE => {
            kerolox_model::names::validate_topic(value).map_err(|error| format!("{BIND_ATTRIBUTE}: {error}"))
        }
        _ => Ok(()),
    }
}

fn minutes(text: &str) -> Result<i64, String> {
    let minutes =
        text.parse().ok().filter(|minutes| *minutes == -1 || (1..=EXPIRATION_MINUTES_MAX).contains(minutes));
    minutes.ok_or_else(|| {
        format!(
            "{EXPIRATION_ATTRIBUTE} {text:?} is neither -1 (never) nor a number of minutes from 1 to {EXPIRATION_MINUTES_MAX}"
        )
    })
}

fn parse_model(word: &str) -> Result<SubscriptionModel, String> {
    match word.to_ascii_lowercase().as_str() {
        "shared" => Ok(SubscriptionModel::Shared),
        "exclusive" => Ok(SubscriptionModel::Exclusive),
        _ => Err(format!("{MODEL_ATTRIBUTE} {word:?} is neither Shared nor Exclusive")),
    }
}

fn parse_quota(number: &str) -> Result<usize, String> {
    let quota = number.parse().ok().filter(|quota| *quota > 0 && i32::try_from(*quota).is_ok());
    quota.ok_or_else(|| format!("{CLIENT_QUOTA_ATTRIBUTE} {number:?} is no number of lite topics above 0"))
}

/// Whether a queue of this number is a lite topic.
pub fn is_lite(queue: u32) -> bool {
    queue >= FIRST_LITE_QUEUE
}

/// Checks the name of a lite topic.
///
/// # Errors
/// A sentence that describes the error.
pub fn check_name(name: &str) -> Result<(), String> {
    if name == WILDCARD {
        return Err(format!(
            "{WILDCARD:?} is not the name of a lite topic, and there is no subscription to all of them; subscribe to each by its name"
        ));
    }
    let chars = name.chars().count();
    if name.trim().is_empty() {
        return Err("the name of the lite topic is blank; give it a name".to_owned());
    }
    if chars > LITE_TOPIC_CHARS_MAX {
        return Err(format!(
            "the name of the lite topic has {chars} characters, the limit is {LITE_TOPIC_CHARS_MAX}; use a shorter one"
        ));
    }
    // RocketMQ reserves '$' here.
    if let Some(bad) = name.chars().find(|c| c.is_control() || c.is_whitespace() || *c == '$') {
        return Err(format!(
            "the name of lite topic {name:?} has the character {bad:?}; use visible characters without blanks and '$'"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_say_how_long_lite_topics_stay_and_who_gets_them() {
        let mut topic = Topic::new("sessions", 1);
        assert_eq!(expires_ms(&topic, 5), None);
        topic.attributes.insert(EXPIRATION_ATTRIBUTE.into(), "-1".into());
        assert_eq!(expires_ms(&topic, 5), None);
        topic.attributes.insert(EXPIRATION_ATTRIBUTE.into(), "15".into());
        assert_eq!(expires_ms(&topic, 5), Some(15 * 60_000 + 5));
        let mut group = Group::new("agents");
        assert_eq!(
            (model(&group), client_quota(&group), bound_to(&group)),
            (SubscriptionModel::Shared, 2_000, None)
        );
        for (key, value) in
            [(MODEL_ATTRIBUTE, "Exclusive"), (CLIENT_QUOTA_ATTRIBUTE, "7"), (BIND_ATTRIBUTE, "sessions")]
        {
            assert_eq!(check_attribute(key, value), Ok(()));
            group.attributes.insert(key.into(), value.into());
        }
        assert_eq!((model(&group), client_quota(&group)), (SubscriptionModel::Exclusive, 7));
        assert_eq!(bound_to(&group), Some("sessions"));
        for (key, bad) in [
            (EXPIRATION_ATTRIBUTE, "0"),
            (EXPIRATION_ATTRIBUTE, "soon"),
            (EXPIRATION_ATTRIBUTE, "43201"),
            (MODEL_ATTRIBUTE, "Mine"),
            (CLIENT_QUOTA_ATTRIBUTE, "0"),
            (BIND_ATTRIBUTE, "a b"),
        ] {
            let refused = check_attribute(key, bad).expect_err("must be refused");
            assert!(refused.contains(key), "{refused}");
        }
    }

    #[test]
    fn names_are_short_and_visible() {
        for good in ["a", "session-4711", "Zürich/会话", &"x".repeat(64)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["*", "", " ", "a b", "a$b", "a\n", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        assert!(is_lite(FIRST_LITE_QUEUE) && !is_lite(FIRST_LITE_QUEUE - 1));
        const { assert!(FIRST_LITE_QUEUE > kerolox_model::limits::QUEUES_PER_TOPIC_MAX) };
    }
}
