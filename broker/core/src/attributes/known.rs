//! Every attribute that topics and groups can have. A name that is not listed is refused: a typing error would look as if it
//! had worked. The manual lists the attributes from here.

use std::collections::BTreeMap;

use super::AttributeChange;
use crate::{dedup, group, lite, schedule, topic, topic_limits, transaction};

/// An attribute that can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KnownAttribute {
    /// Its name.
    pub name: &'static str,
    /// Accepted values.
    pub values: &'static str,
    /// What the attribute does, and the default that applies without it.
    pub meaning: &'static str,
}

const fn known(name: &'static str, values: &'static str, meaning: &'static str) -> KnownAttribute {
    KnownAttribute { name, values, meaning }
}

/// Attributes of topics.
pub const OF_TOPICS: &[KnownAttribute] = &[
    known(
        topic::MESSAGE_TYPE_ATTRIBUTE,
        "NORMAL, FIFO, DELAY, TRANSACTION, LITE, PRIORITY or MIXED",
        "the messages that it takes; MIXED is all but LITE. Without it: NORMAL",
    ),
    known(
        topic::FLUSH_ATTRIBUTE,
        "sync or async",
        "whether an acknowledgement waits for the disk or for the page cache. Without it: `log.flush` of the broker",
    ),
    known(
        topic::REPLICAS_ATTRIBUTE,
        "all, quorum or master",
        "members of the broker group that hold a message before it is acknowledged. Without it: `replication.acks` of the broker",
    ),
    known(
        topic::RETENTION_ATTRIBUTE,
        "a duration, as in 12h",
        "how long messages are kept after they became visible. Without it: `retention.time` of the broker",
    ),
    known(
        topic::AUTO_CREATED_ATTRIBUTE,
        "true",
        "set by the broker: the topic came with its first message, and the other brokers of the cluster make it likewise",
    ),
    known(
        topic_limits::BODY_ATTRIBUTE,
        "a size, as in 64KiB",
        "largest message body, below `limits.max-body-bytes` of the broker, which holds without it",
    ),
    known(
        topic_limits::PROPERTIES_ATTRIBUTE,
        "a size, as in 4KiB",
        "largest sum of keys and values, below `limits.max-properties-bytes` of the broker, which holds without it",
    ),
    known(
        schedule::MAX_DELAY_ATTRIBUTE,
        "a duration, as in 24h (RocketMQ's limit)",
        "how far ahead a delivery time may lie, below `limits.max-delay` of the broker, which holds without it",
    ),
    known(
        dedup::DEDUP_ATTRIBUTE,
        "id, key or off",
        "what makes two messages the same; the second one is answered as the first one was. Without it: off",
    ),
    known(
        dedup::DEDUP_WINDOW_ATTRIBUTE,
        "a duration from 1s to 7d",
        "how long a message is remembered for that. Without it: 10m",
    ),
    known(
        lite::EXPIRATION_ATTRIBUTE,
        "minutes, 1 to 43200, or -1",
        "of a topic of type LITE: when a lite topic without new messages is removed. Without it: -1, never",
    ),
    known(
        transaction::FIRST_CHECK_ATTRIBUTE,
        "a duration, as in 6s",
        "from storing a half message to its first check-back. Without it: `transaction.first-check` of the broker",
    ),
    known(
        transaction::CHECK_INTERVAL_ATTRIBUTE,
        "a duration, as in 30s",
        "between check-backs. Without it: `transaction.check-interval` of the broker",
    ),
    known(
        transaction::CHECK_MAX_ATTRIBUTE,
        "a number, as in 15",
        "check-backs before a half message is parked. Without it: `transaction.check-max` of the broker",
    ),
    known(
        transaction::AGE_MAX_ATTRIBUTE,
        "a duration, as in 3d",
        "age at which an undecided half message is parked. Without it: `transaction.max-age` of the broker",
    ),
    known(
        transaction::WEBHOOK_ATTRIBUTE,
        "a URL, http:// or https://",
        "the webhook that is asked about a transaction when no producer can be reached. Without it: none",
    ),
];

/// Attributes of consumer groups.
pub const OF_GROUPS: &[KnownAttribute] = &[
    known(
        group::EXHAUSTED_ATTRIBUTE,
        "dead-letter or block",
        "what becomes of a message after its last attempt. Without it: dead-letter",
    ),
    known(
        group::BACKOFF_ATTRIBUTE,
        "1s/10s/5m, or exponential/1s/2h/2 (first, longest, factor)",
        "the delays between attempts. Without it: RocketMQ's",
    ),
    known(
        group::IN_FLIGHT_ATTRIBUTE,
        "a number above 0",
        "most messages of a topic that are out with consumers or wait for another attempt. Without it: no such limit",
    ),
    known(
        group::PRIORITY_ATTRIBUTE,
        "0 to 100",
        "how strictly priorities count in topics of type PRIORITY. Without it: 100, a higher one always comes first",
    ),
    known(
        group::CONSUME_FROM_ATTRIBUTE,
        "earliest, latest, a time as in RFC 3339, or milliseconds since 1970",
        "where the group starts in a topic that is new to it. Without it: earliest",
    ),
    known(
        group::BROADCAST_ATTRIBUTE,
        "true or false",
        "whether every client of the group gets every message. Without it: false",
    ),
    known(lite::BIND_ATTRIBUTE, "a topic of type LITE", "below which the group consumes lite topics"),
    known(
        lite::MODEL_ATTRIBUTE,
        "Shared or Exclusive",
        "whether several clients of the group share a lite topic, or the newest has it alone. Without it: Shared",
    ),
    known(
        lite::CLIENT_QUOTA_ATTRIBUTE,
        "a number above 0",
        "most lite topics that one client subscribes to. Without it: 2000",
    ),
];

/// Refuses changes of attributes that are not in `known`. One that is there already (`present`), from an older version, may
/// be removed, or set to what it is.
///
/// # Errors
/// A sentence that names the unknown attribute, and the one that was probably meant.
pub fn check(
    known: &[KnownAttribute],
    present: &BTreeMap<String, String>,
    changes: &[AttributeChange],
) -> Result<(), String> {
    for change in changes {
        let (key, is_harmless) = match change {
            AttributeChange::Set(key, value) => (key, present.get(key) == Some(value)),
            AttributeChange::Remove(key) => (key, present.contains_key(key)),
        };
        if !is_harmless && !known.iter().any(|attribute| attribute.name == key) {
            return Err(unknown(known, key));
        }
    }
    Ok(())
}

fn unknown(known: &[KnownAttribute], key: &str) -> String {
    let distance = |name: &str| strsim::levenshtein(&name.to_lowercase(), &key.to_lowercase());
    let nearest = known.iter().map(|attribute| (distance(attribute.name), attribute.name)).min();
    // Further away it is no typing error but another word.
    let near = nearest.filter(|(distance, name)| *distance <= (name.len().min(key.len()) / 3).max(1));
    let hint = near.map_or_else(|| ".".to_owned(), |(_, name)| format!("; is {name} meant?"));
    let names: Vec<&str> = known.iter().map(|attribute| attribute.name).collect();
    format!("attribute {key:?} is unknown{hint} There are: {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::parse;

    fn refused(known: &[KnownAttribute], change: &str) -> Option<String> {
        check(known, &BTreeMap::new(), &parse(&[change.to_owned()]).expect("well formed")).err()
    }

    #[test]
    fn what_is_unknown_is_refused_with_what_was_meant() {
        for (change, meant) in [
            ("+dedupe=id", "is dedup meant?"),
            ("+Message.Type=FIFO", "is message.type meant?"),
            ("+retention.tim=1h", "is retention.time meant?"),
            ("-dedupe", "is dedup meant?"),
        ] {
            let text = refused(OF_TOPICS, change).unwrap_or_else(|| panic!("{change} was taken"));
            assert!(text.contains(meant), "{change}: {text}");
        }
        let text = refused(OF_GROUPS, "+retrybackoff=1s").expect("refused");
        assert!(text.contains("is retry.backoff meant?"), "{text}");
        for other in ["+x=y", "+reserve.time=7", "+queue.type=BatchCQ"] {
            let text = refused(OF_TOPICS, other).expect("refused");
            assert!(!text.contains("meant") && text.contains("message.type"), "{text}");
        }
        let text = refused(OF_GROUPS, "+dedup=id").expect("an attribute of topics is none of groups");
        assert!(text.contains("\"dedup\" is unknown"), "{text}");
        for known in OF_TOPICS {
            assert_eq!(refused(OF_TOPICS, &format!("+{}=x", known.name)), None);
        }
    }

    #[test]
    fn what_is_there_already_may_stay_or_go() {
        let present = BTreeMap::from([("old".to_owned(), "1".to_owned())]);
        let checked =
            |change: &str| check(OF_TOPICS, &present, &parse(&[change.to_owned()]).expect("well formed"));
        assert_eq!((checked("+old=1"), checked("-old")), (Ok(()), Ok(())));
        assert!(checked("+old=2").is_err());
    }
}
