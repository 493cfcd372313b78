//! Delivery times: the time that a producer sets, or a delay level of classic RocketMQ.

use kerolox_model::units::TimeSpan;

use crate::publish::{MessageDraft, PublishError};
use crate::topic::Topic;

/// Attribute of a topic: how far ahead a delivery time may lie, as in `24h`. A lower broker setting of this name takes precedence.
pub const MAX_DELAY_ATTRIBUTE: &str = "limits.max-delay";

/// User property with a delay level, as classic clients and tools send it.
pub const DELAY_LEVEL: &str = "DELAY";

/// The delays of levels 1 to 18 in milliseconds, RocketMQ's `messageDelayLevel`.
pub const CLASSIC_LEVELS_MS: [u64; 18] = {
    const S: u64 = 1_000;
    const M: u64 = 60 * S;
    const H: u64 = 60 * M;
    [
        S,
        5 * S,
        10 * S,
        30 * S,
        M,
        2 * M,
        3 * M,
        4 * M,
        5 * M,
        6 * M,
        7 * M,
        8 * M,
        9 * M,
        10 * M,
        20 * M,
        30 * M,
        H,
        2 * H,
    ]
};

/// The operator's limits for delivery times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelayPolicy {
    /// A delivery time may lie this far ahead, in milliseconds.
    pub max_ms: u64,
    /// Delays of the levels from 1 on, in milliseconds.
    pub levels_ms: Vec<u64>,
}

/// When a message is to be delivered, milliseconds since the Unix epoch; `None` for at once. The time may have passed.
///
/// # Errors
/// [`PublishError::DeliveryTime`] when the time is too far ahead or the level does not exist,
/// [`PublishError::TypeConflict`] when the message carries both a time and a level.
pub fn delivery_time(
    draft: &MessageDraft<'_>,
    policy: &DelayPolicy,
    now_ms: i64,
) -> Result<Option<i64>, PublishError> {
    let level = draft.properties.iter().find(|(key, _)| *key == DELAY_LEVEL).map(|(_, level)| *level);
    let by_level = level.map(|level| delay_of(level, policy)).transpose()?.flatten();
    let due_ms = match (draft.deliver_at_ms, by_level) {
        (Some(_), Some(_)) => {
            return Err(PublishError::TypeConflict(format!(
                "the message carries a delivery timestamp and user property {DELAY_LEVEL}; send one of the two"
            )));
        }
        (at_ms, delay_ms) => at_ms.or(delay_ms.map(|delay_ms| now_ms.saturating_add_unsigned(delay_ms))),
    };
    let Some(due_ms) = due_ms else { return Ok(None) };
    check_ahead(due_ms, now_ms, policy.max_ms, || {
        "which is limits.max-delay of the broker; choose an earlier one, or have the operator raise that"
            .to_owned()
    })?;
    Ok(Some(due_ms))
}

/// Checks a delivery time against the topic's own limit, if it has one.
///
/// # Errors
/// [`PublishError::DeliveryTime`].
pub fn check_topic(due_ms: i64, topic: &Topic, now_ms: i64) -> Result<(), PublishError> {
    let own = topic.attributes.get(MAX_DELAY_ATTRIBUTE).and_then(|text| parse_max(text).ok());
    let Some(max_ms) = own else { return Ok(()) };
    check_ahead(due_ms, now_ms, max_ms, || {
        format!(
            "which is {MAX_DELAY_ATTRIBUTE} of topic {name}; choose an earlier one, or raise that: mqadmin updateTopic -t {name} -a \
             +{MAX_DELAY_ATTRIBUTE}=...",
            name = topic.name
        )
    })
}

/// Checks a value of [`MAX_DELAY_ATTRIBUTE`].
///
/// # Errors
/// A sentence that describes the expected form.
pub fn check_max(text: &str) -> Result<(), String> {
    parse_max(text).map(drop)
}

/// Reads a limit, in milliseconds.
fn parse_max(text: &str) -> Result<u64, String> {
    let span: TimeSpan = text.parse().map_err(|error| format!("{MAX_DELAY_ATTRIBUTE}: {error}"))?;
    match span.as_millis() {
        0 => Err(format!(
            "{MAX_DELAY_ATTRIBUTE} is 0, so that no message could be scheduled; let the topic take no messages of type DELAY, or \
             remove it with -{MAX_DELAY_ATTRIBUTE} to have the broker's limit"
        )),
        ms => Ok(ms),
    }
}

/// The words of RocketMQ, for which clients and their tests look, and ours.
fn check_ahead(
    due_ms: i64,
    now_ms: i64,
    max_ms: u64,
    whose: impl FnOnce() -> String,
) -> Result<(), PublishError> {
    let ahead_ms = u64::try_from(due_ms.saturating_sub(now_ms)).unwrap_or(0);
    if ahead_ms <= max_ms {
        return Ok(());
    }
    Err(PublishError::DeliveryTime(format!(
        "the max delay time of message is too large, max is {max_ms} ms, {}; the delivery time is {ahead_ms} ms ahead",
        whose()
    )))
}

/// The delay of a level; `None` for level 0. As in RocketMQ, a level beyond the last one is the last one.
fn delay_of(level: &str, policy: &DelayPolicy) -> Result<Option<u64>, PublishError> {
    let last = policy.levels_ms.len();
    let number: usize = level.parse().map_err(|_| {
        PublishError::DeliveryTime(format!(
            "user property {DELAY_LEVEL} is {level:?}, which is no delay level; use a number from 1 to {last}, or a delivery timestamp"
        ))
    })?;
    let index = number.min(last).checked_sub(1);
    Ok(index.and_then(|index| policy.levels_ms.get(index).copied()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic_change::{TopicChange, changed};

    const NOW: i64 = 1_700_000_000_000;

    fn time(at_ms: Option<i64>, level: Option<&str>) -> Result<Option<i64>, PublishError> {
        let policy = DelayPolicy { max_ms: 86_400_000, levels_ms: CLASSIC_LEVELS_MS.to_vec() };
        let properties = level.map(|level| (DELAY_LEVEL, level)).into_iter().collect();
        delivery_time(
            &MessageDraft { deliver_at_ms: at_ms, properties, ..MessageDraft::default() },
            &policy,
            NOW,
        )
    }

    #[test]
    fn a_delivery_time_is_taken_as_it_is_up_to_the_limit() {
        assert_eq!(time(None, None), Ok(None));
        assert_eq!(time(Some(5), None), Ok(Some(5)), "it has passed, which is fine");
        assert_eq!(time(Some(NOW + 86_400_000), None), Ok(Some(NOW + 86_400_000)));
        let error = time(Some(NOW + 86_400_001), None).expect_err("beyond the limit");
        assert!(matches!(&error, PublishError::DeliveryTime(text) if text.contains("limits.max-delay")));
        assert!(time(Some(i64::MAX), None).is_err());
        assert_eq!(time(Some(i64::MIN), None), Ok(Some(i64::MIN)));
    }

    #[test]
    fn a_topic_may_allow_less_than_its_broker() {
        let topic = |value: &str| {
            let attributes = vec![format!("+{MAX_DELAY_ATTRIBUTE}={value}")];
            let change = TopicChange { name: "later".into(), attributes, ..TopicChange::default() };
            changed(None, &change, 1).map_err(|error| error.to_string())
        };
        let day = topic("24h").expect("legal");
        assert_eq!(check_topic(NOW + 86_400_000, &day, NOW), Ok(()));
        assert_eq!(check_topic(5, &day, NOW), Ok(()));
        let error = check_topic(NOW + 86_400_001, &day, NOW).expect_err("beyond the limit");
        let PublishError::DeliveryTime(text) = error else { panic!("{error}") };
        for part in ["too large, max is 86400000 ms", "topic later", "+limits.max-delay"] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(check_topic(i64::MAX, &Topic::new("later", 1), NOW), Ok(()), "the broker's limit counts");
        for bad in ["0s", "long", "-1h"] {
            assert!(topic(bad).is_err_and(|text| text.contains("limits.max-delay")), "{bad}");
        }
    }

    #[test]
    fn a_classic_level_is_a_delay() {
        assert_eq!(time(None, Some("1")), Ok(Some(NOW + 1_000)));
        assert_eq!(time(None, Some("14")), Ok(Some(NOW + 600_000)));
        assert_eq!(time(None, Some("18")), Ok(Some(NOW + 7_200_000)));
        assert_eq!(time(None, Some("99")), Ok(Some(NOW + 7_200_000)), "as in RocketMQ");
        assert_eq!(time(None, Some("0")), Ok(None));
        for wrong in ["", "-1", "1.5", "soon"] {
            assert!(matches!(time(None, Some(wrong)), Err(PublishError::DeliveryTime(_))), "{wrong}");
        }
        assert!(matches!(time(Some(NOW), Some("3")), Err(PublishError::TypeConflict(_))));
        assert_eq!(time(Some(NOW), Some("0")), Ok(Some(NOW)));
    }
}
