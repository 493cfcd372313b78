//! Limits for the messages of one topic, below those of the broker.

use kerolox_model::units::ByteSize;

use crate::publish::PublishLimits;
use crate::topic::Topic;

/// Attribute with the largest body of a message, as in `64KiB`. A lower broker setting of this name takes precedence.
pub const BODY_ATTRIBUTE: &str = "limits.max-body-bytes";
/// Attribute with the largest sum of property keys and values, tag and keys. A lower broker setting of this name takes
/// precedence.
pub const PROPERTIES_ATTRIBUTE: &str = "limits.max-properties-bytes";

/// The limits of a topic on a broker with the limits `broker`; `None` when the topic lowers none.
pub fn of(topic: &Topic, broker: &PublishLimits) -> Option<PublishLimits> {
    let own = |key| topic.attributes.get(key).and_then(|text| parse(key, text).ok());
    let own = |key, limit: usize| own(key).map_or(limit, |own| own.min(limit));
    let limits = PublishLimits {
        body_bytes_max: own(BODY_ATTRIBUTE, broker.body_bytes_max),
        properties_bytes_max: own(PROPERTIES_ATTRIBUTE, broker.properties_bytes_max),
        ..*broker
    };
    Some(limits).filter(|limits| limits != broker)
}

/// Checks a value of one of the attributes.
///
/// # Errors
/// A sentence that describes the expected form.
pub fn check(key: &str, value: &str) -> Result<(), String> {
    parse(key, value).map(drop)
}

fn parse(key: &str, value: &str) -> Result<usize, String> {
    let size: ByteSize = value.parse().map_err(|error| format!("{key}: {error}"))?;
    match size.as_usize() {
        0 => Err(format!(
            "{key} is 0, which no message fits; remove it with -{key} to have the broker's limit"
        )),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic_change::{TopicChange, changed};

    fn topic(change: &str) -> Result<Topic, String> {
        let change =
            TopicChange { name: "t".into(), attributes: vec![change.to_owned()], ..TopicChange::default() };
        changed(None, &change, 1).map_err(|error| error.to_string())
    }

    #[test]
    fn a_topic_lowers_the_brokers_limits_and_never_raises_them() {
        let broker = PublishLimits::default();
        let body = |change| of(&topic(change).expect("legal"), &broker).map(|limits| limits.body_bytes_max);
        assert_eq!(body("+limits.max-body-bytes=64KiB"), Some(64 << 10));
        assert_eq!(body("+limits.max-body-bytes=1GiB"), None);
        assert_eq!(body("+flush=sync"), None);
        let lower = of(&topic("+limits.max-properties-bytes=100B").expect("legal"), &broker).expect("lower");
        assert_eq!((lower.properties_bytes_max, lower.body_bytes_max), (100, broker.body_bytes_max));
        for bad in ["+limits.max-body-bytes=0B", "+limits.max-body-bytes=big"] {
            assert!(topic(bad).is_err_and(|text| text.contains("limits.max-body-bytes")), "{bad}");
        }
    }
}
