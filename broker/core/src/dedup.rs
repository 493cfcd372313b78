//! Deduplication: which messages of a topic are repeats of earlier ones.
//!
//! A topic with the attribute `dedup` accepts a message once within a time, its window. Two messages are duplicates when they
//! have the same id (`dedup=id`: a producer's retry) or the same business keys (`dedup=key`: the same order from any sender).
//! All keys of a message count together and in any order, so messages that share a customer but not an order stay apart; a
//! message without keys is identified by its id.

use kerolox_model::units::TimeSpan;
use twox_hash::XxHash3_128;

use crate::topic::Topic;

/// Attribute that selects how the topic identifies duplicates: `id`, `key` or `off`, which is the default.
pub const DEDUP_ATTRIBUTE: &str = "dedup";
/// Attribute that sets how long a message is remembered, as in `2h`. Without it, [`WINDOW_MS_DEFAULT`].
pub const DEDUP_WINDOW_ATTRIBUTE: &str = "dedup.window";
/// Ten minutes: longer than SDKs and most callers retry.
pub const WINDOW_MS_DEFAULT: i64 = 10 * 60 * 1000;
/// A second.
pub const WINDOW_MS_MIN: i64 = 1_000;
/// A week. Each message takes some 50 bytes of the index for up to three times its window.
pub const WINDOW_MS_MAX: i64 = 7 * 24 * 3600 * 1000;

/// How two messages are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DedupKey {
    /// The producer's id for the message.
    Id,
    /// All its business keys.
    Key,
}

/// How a topic detects duplicates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DedupPolicy {
    /// The property that is compared.
    pub by: DedupKey,
    /// How long a message is remembered, in milliseconds from its store time.
    pub window_ms: i64,
}

impl DedupPolicy {
    /// The policy that the topic's attributes define; `None` when the topic accepts every message.
    pub fn of(topic: &Topic) -> Option<Self> {
        let by = parse_by(topic.attributes.get(DEDUP_ATTRIBUTE)?).ok()??;
        let window = topic.attributes.get(DEDUP_WINDOW_ATTRIBUTE);
        let window_ms = window.and_then(|text| parse_window(text).ok()).unwrap_or(WINDOW_MS_DEFAULT);
        assert!((WINDOW_MS_MIN..=WINDOW_MS_MAX).contains(&window_ms), "a window is within its limits");
        Some(Self { by, window_ms })
    }

    /// The identity of a message: equal for duplicates. Part of the log format: XXH3 with 128 bits and without a seed,
    /// over the byte 1 and the id, or over the byte 2 and, sorted, each key behind its length (u32, little-endian).
    pub fn hash(self, message_id: &str, keys: &[&str]) -> u128 {
        let mut bytes = Vec::with_capacity(64);
        if self.by == DedupKey::Id || keys.is_empty() {
            bytes.push(1);
            bytes.extend_from_slice(message_id.as_bytes());
        } else {
            let mut keys = keys.to_vec();
            keys.sort_unstable();
            keys.dedup();
            bytes.push(2);
            for key in keys {
                let len = u32::try_from(key.len()).expect("bounded by the request limit");
                bytes.extend_from_slice(&len.to_le_bytes());
                bytes.extend_from_slice(key.as_bytes());
            }
        }
        XxHash3_128::oneshot(&bytes)
    }

    /// Whether a message that was stored at `first_ms` is still remembered at `now_ms`. Only the distance between the
    /// two times counts: a clock that was set back does not make messages duplicates for years.
    pub fn remembers(self, first_ms: i64, now_ms: i64) -> bool {
        now_ms.abs_diff(first_ms) < self.window_ms.unsigned_abs()
    }
}

/// Checks a value of [`DEDUP_ATTRIBUTE`].
///
/// # Errors
/// A sentence that names the accepted words.
pub fn check_by(word: &str) -> Result<(), String> {
    parse_by(word).map(drop)
}

/// Checks a value of [`DEDUP_WINDOW_ATTRIBUTE`].
///
/// # Errors
/// A sentence that describes the expected form.
pub fn check_window(text: &str) -> Result<(), String> {
    parse_window(text).map(drop)
}

fn parse_by(word: &str) -> Result<Option<DedupKey>, String> {
    match word.to_ascii_lowercase().as_str() {
        "id" => Ok(Some(DedupKey::Id)),
        "key" => Ok(Some(DedupKey::Key)),
        "off" => Ok(None),
        _ => Err(format!("{DEDUP_ATTRIBUTE} {word:?} is unknown; use id, key or off")),
    }
}

fn parse_window(text: &str) -> Result<i64, String> {
    let span: TimeSpan = text.parse().map_err(|error| format!("{DEDUP_WINDOW_ATTRIBUTE}: {error}"))?;
    let window_ms = i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
    if (WINDOW_MS_MIN..=WINDOW_MS_MAX).contains(&window_ms) {
        Ok(window_ms)
    } else {
        Err(format!("{DEDUP_WINDOW_ATTRIBUTE} is {text}; choose between 1s and 7d"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topic_change::{TopicChange, changed};

    fn topic(attributes: &[&str]) -> Result<Topic, String> {
        let attributes = attributes.iter().map(|&change| change.to_owned()).collect();
        let change = TopicChange { name: "t".into(), attributes, ..TopicChange::default() };
        changed(None, &change, 1).map_err(|error| error.to_string())
    }

    fn dedup(attributes: &[&str]) -> Option<DedupPolicy> {
        DedupPolicy::of(&topic(attributes).expect("legal"))
    }

    #[test]
    fn attributes_say_what_and_for_how_long() {
        assert_eq!(dedup(&[]), None);
        assert_eq!(dedup(&["+dedup=off", "+dedup.window=1h"]), None);
        assert_eq!(
            dedup(&["+dedup=id"]),
            Some(DedupPolicy { by: DedupKey::Id, window_ms: WINDOW_MS_DEFAULT })
        );
        let key = DedupPolicy { by: DedupKey::Key, window_ms: 7_200_000 };
        assert_eq!(dedup(&["+dedup=KEY", "+dedup.window=2h"]), Some(key));
        for (bad, word) in
            [("dedup=yes", "id, key or off"), ("dedup.window=8d", "7d"), ("dedup.window=0s", "1s")]
        {
            assert!(topic(&[&format!("+{bad}")]).is_err_and(|text| text.contains(word)), "{bad}");
        }
    }

    /// Stored in logs: these numbers may never change.
    #[test]
    fn hashes_are_those_of_version_1() {
        let [id, key] =
            [DedupKey::Id, DedupKey::Key].map(|by| DedupPolicy { by, window_ms: WINDOW_MS_DEFAULT });
        assert_eq!(id.hash("01AB", &["order-1"]), HASH_OF_ID);
        assert_eq!(key.hash("01AB", &[]), HASH_OF_ID, "without keys, the id counts");
        assert_eq!(key.hash("01AB", &["order-1", "customer-7"]), HASH_OF_KEYS);
        assert_eq!(key.hash("02CD", &["customer-7", "order-1", "order-1"]), HASH_OF_KEYS, "as a set");
        assert_ne!(key.hash("01AB", &["order-1"]), HASH_OF_KEYS, "all keys count");
        assert_ne!(key.hash("01AB", &["ab", "c"]), key.hash("01AB", &["a", "bc"]));
    }

    const HASH_OF_ID: u128 = 30_876_747_209_515_410_874_756_772_625_408_887_492;
    const HASH_OF_KEYS: u128 = 189_378_071_158_183_013_857_253_344_847_877_080_871;

    #[test]
    fn the_window_ends_with_its_last_millisecond() {
        let dedup = DedupPolicy { by: DedupKey::Id, window_ms: 1_000 };
        assert!(dedup.remembers(5_000, 5_000) && dedup.remembers(5_000, 5_999));
        assert!(!dedup.remembers(5_000, 6_000));
        assert!(dedup.remembers(5_000, 4_001) && !dedup.remembers(5_000, 4_000), "the clock was set back");
    }
}
