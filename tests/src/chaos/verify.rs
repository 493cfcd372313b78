//! What must hold when everything runs again and has come to rest.

use kerolox_harness::verdict::CheckedProperty;
use kerolox_harness::{MessageHistory, properties};

use super::clients::OFFICIAL_SENDER;
use super::label::Kind;
use super::{ORDERED_GROUP, ORDERED_TOPIC, READERS_GROUP, TOPIC, TX_TOPIC};

/// Who gets which topic.
pub(super) const READINGS: [(&str, &str); 3] =
    [(READERS_GROUP, TOPIC), (READERS_GROUP, TX_TOPIC), (ORDERED_GROUP, ORDERED_TOPIC)];

/// Holds what the clients know against each other, and against what stands in the queues.
pub(super) fn check(history: &MessageHistory) -> Vec<CheckedProperty> {
    vec![
        ("every acknowledged message was received", properties::nothing_lost(history, &READINGS)),
        ("every acknowledged message stands in a queue", properties::everything_stands(history)),
        ("nothing else was received", properties::nothing_else_received(history)),
        ("nothing else stands in a queue", properties::nothing_else_stands(history)),
        ("message groups came in order", properties::groups_in_order(history, ORDERED_GROUP)),
        ("every offset has one message", properties::offsets_are_whole(history)),
    ]
}

/// Acknowledged messages of the official SDK.
pub(super) fn official(history: &MessageHistory) -> usize {
    let prefix = format!("{}-{OFFICIAL_SENDER}-", Kind::Normal.word());
    let acknowledged = history.sent.iter().filter(|(_, sent)| sent.is_acknowledged);
    acknowledged.filter(|(label, _)| label.starts_with(&prefix)).count()
}

/// Whether the official SDK had more messages acknowledged than in `earlier` rounds.
pub(super) fn went_on(history: &MessageHistory, earlier: usize) -> Result<String, String> {
    match official(history) {
        count if count > earlier => Ok(format!("{count} messages")),
        count => Err(format!("none in this round, {count} before")),
    }
}
