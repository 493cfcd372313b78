//! Records in plain words, and as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kerolox_core::group::Group;
use kerolox_core::record::{
    MessageHold, MessageRecord, MetaChange, ProgressItem, ProgressRecord, QueueProgress, QueueState, Record,
    RecordKind, SnapshotRecord, TimerDecision,
};
use kerolox_core::topic::Topic;
use kerolox_core::transaction::DecisionSource;
use kerolox_proto::v2::{Message, SystemProperties};
use prost::Message as _;
use serde_json::{Map, Value, json};

/// How a message body is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum BodyForm {
    /// As UTF-8, with replacements for bytes that are not text
    Text,
    /// Two digits per byte
    Hex,
    /// Base64 with padding
    Base64,
}

/// Names of the kinds, as `dump --kind` takes them and every command prints them.
pub(crate) const KINDS: [(RecordKind, &str); 8] = [
    (RecordKind::Message, "message"),
    (RecordKind::Release, "release"),
    (RecordKind::Discard, "discard"),
    (RecordKind::Progress, "progress"),
    (RecordKind::Meta, "meta"),
    (RecordKind::Epoch, "epoch"),
    (RecordKind::Snapshot, "snapshot"),
    (RecordKind::Trim, "trim"),
];

/// Name of a kind number.
pub(crate) fn kind_name(kind: u8) -> String {
    let known = KINDS.iter().find(|(known, _)| *known as u8 == kind);
    known.map_or_else(|| format!("kind {kind}"), |(_, name)| (*name).to_owned())
}

/// Kind number of a name.
///
/// # Errors
/// A sentence with the names that there are.
pub(crate) fn parse_kind(word: &str) -> Result<u8, String> {
    let known = KINDS.iter().find(|(_, name)| *name == word);
    known.map(|(kind, _)| *kind as u8).ok_or_else(|| {
        let names: Vec<&str> = KINDS.iter().map(|(_, name)| *name).collect();
        format!("unknown kind; use one of {}", names.join(", "))
    })
}

/// Fields of a record, in the order in which people want to read them.
pub(crate) type Fields = Vec<(&'static str, Value)>;

/// The fields of a record, with their values.
///
/// # Errors
/// The reason when the stored bytes of a message do not match the format.
pub(crate) fn fields(record: &Record, body: Option<BodyForm>) -> Result<Fields, String> {
    Ok(match record {
        Record::Message(message) => message_fields(message, body)?,
        Record::Release(record) => decision_fields(record.held, &record.by, record.source(), &record.reason),
        Record::Discard(record) => decision_fields(record.held, &record.by, record.source(), &record.reason),
        Record::Progress(progress) => vec![("items", progress_items(progress))],
        Record::Meta(meta) => match &meta.change {
            Some(change) => meta_fields(change),
            None => vec![("change", json!("unknown to this version"))],
        },
        Record::Epoch(epoch) => vec![("number", json!(epoch.epoch)), ("broker", json!(epoch.broker))],
        Record::Snapshot(snapshot) => snapshot_fields(snapshot),
        Record::Trim(trim) => {
            let queues = trim.queues.iter().map(queue_state).collect();
            vec![("before", json!(trim.before)), ("queues", queues)]
        }
    })
}

/// Fields as one line of text.
pub(crate) fn words(fields: &Fields) -> String {
    let word = |(name, value): &(&str, Value)| match value {
        Value::String(text) if !text.is_empty() && !text.contains(char::is_whitespace) => {
            format!("{name}={text}")
        }
        value => format!("{name}={value}"),
    };
    fields.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Fields as a JSON object.
pub(crate) fn object(fields: Fields) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn message_fields(record: &MessageRecord, form: Option<BodyForm>) -> Result<Fields, String> {
    let header = &record.header;
    let content = Message::decode(record.content.clone()).map_err(|error| format!("content: {error}"))?;
    let system = SystemProperties::decode(record.system.clone())
        .map_err(|error| format!("system properties: {error}"))?;
    let topic = content.topic.unwrap_or_default();
    let mut fields = vec![
        ("topic", json!(topic.name)),
        ("topicId", json!(header.topic_id)),
        ("queue", json!(header.queue)),
        ("id", json!(header.message_id)),
    ];
    let mut add = |name, value: Value, present: bool| {
        if present {
            fields.push((name, value));
        }
    };
    add("slot", json!(header.slot), header.slot.is_some());
    add("namespace", json!(topic.resource_namespace), !topic.resource_namespace.is_empty());
    match header.hold() {
        MessageHold::None => {}
        MessageHold::Half => {
            add("hold", json!("half"), true);
            add("firstCheckAfterMs", json!(header.hold_ms), true);
        }
        MessageHold::Until => {
            add("hold", json!("until"), true);
            add("dueMs", json!(header.hold_ms), true);
        }
    }
    add("deliverAtMs", json!(header.deliver_at_ms), header.deliver_at_ms != 0);
    if let Some(hash) = header.dedup() {
        add("dedup", json!(format!("{hash:032x}")), true);
    }
    if let Some(carried) = &header.carried {
        add("carriedFrom", json!(carried.position), true);
        add("offset", json!(carried.offset), carried.offset.is_some());
        add("firstStoreMs", json!(carried.store_ms), true);
    }
    if let Some(dead) = &header.dead {
        add(
            "deadLetterOf",
            json!({
                "groupId": dead.group_id, "topic": dead.topic, "topicId": dead.topic_id, "queue": dead.queue,
                "offset": dead.offset, "attempts": dead.attempts, "reason": format!("{:?}", dead.reason()),
            }),
            true,
        );
    }
    add("producer", json!(header.producer), !header.producer.is_empty());
    add("tag", json!(system.tag), system.tag.is_some());
    add("keys", json!(system.keys), !system.keys.is_empty());
    let mut properties: Vec<_> = content.user_properties.into_iter().collect();
    properties.sort();
    let properties: Map<String, Value> =
        properties.into_iter().map(|(key, value)| (key, Value::String(value))).collect();
    add("properties", Value::Object(properties.clone()), !properties.is_empty());
    add("bodyBytes", json!(content.body.len()), true);
    if let Some(form) = form {
        add("body", json!(encode(&content.body, form)), true);
    }
    Ok(fields)
}

fn encode(body: &[u8], form: BodyForm) -> String {
    match form {
        BodyForm::Text => String::from_utf8_lossy(body).into_owned(),
        BodyForm::Hex => body.iter().map(|byte| format!("{byte:02x}")).collect(),
        BodyForm::Base64 => STANDARD.encode(body),
    }
}

fn decision_fields(held: u64, by: &str, source: DecisionSource, reason: &str) -> Fields {
    let mut fields = vec![("held", json!(held)), ("by", json!(by)), ("source", json!(source.word()))];
    if !reason.is_empty() {
        fields.push(("reason", json!(reason)));
    }
    fields
}

fn progress_items(progress: &ProgressRecord) -> Value {
    let items = progress.clone().into_items().map(|item| match item {
        ProgressItem::Queue(queue) => queue_progress(&queue),
        ProgressItem::Checked(checked) => json!({
            "checked": checked.held, "checks": checked.checks, "nextCheckMs": checked.next_check_ms,
            "asked": checked.asked, "by": checked.by, "reason": checked.reason,
        }),
        ProgressItem::Undecided(said) => json!({ "undecided": said.held, "by": said.by }),
        ProgressItem::Finished(finished) => json!({
            "finishedBefore": finished.floor, "topicId": finished.topic_id, "queue": finished.queue,
        }),
        ProgressItem::Fired(fired) => json!({ "delivered": fired.held }),
        ProgressItem::TimerEnded(ended) => {
            let word = match ended.decision() {
                TimerDecision::Recall => "recalled",
                TimerDecision::Deliver => "deliveredEarly",
            };
            json!({ word: ended.held, "by": ended.by })
        }
        ProgressItem::Redriven(redriven) => json!({
            "redriven": { "topicId": redriven.dead_topic_id, "queue": redriven.dead_queue, "offset": redriven.dead_offset },
            "groupId": redriven.group_id, "topicId": redriven.topic_id, "queue": redriven.queue,
            "offset": redriven.offset,
        }),
    });
    items.collect()
}

fn queue_progress(queue: &QueueProgress) -> Value {
    let acked: Vec<_> = queue.acked.iter().map(|range| [range.start, range.end]).collect();
    let attempted = queue.attempted.iter().map(|attempted| {
        json!({ "offset": attempted.offset, "attempts": attempted.attempts, "visibleMs": attempted.visible_ms })
    });
    let mut item = json!({ "groupId": queue.group_id, "topicId": queue.topic_id, "queue": queue.queue });
    if let Some(offset) = queue.reset_to {
        item["resetTo"] = json!(offset);
    }
    if !acked.is_empty() {
        item["acked"] = json!(acked);
    }
    if !queue.attempted.is_empty() {
        item["attempted"] = attempted.collect();
    }
    item
}

fn meta_fields(change: &MetaChange) -> Fields {
    let (change, value) = match change {
        MetaChange::PutTopic(topic) => ("putTopic", topic_value(topic)),
        MetaChange::DeleteTopic(topic) => ("deleteTopic", json!(topic.name)),
        MetaChange::PutGroup(group) => ("putGroup", group_value(group)),
        MetaChange::DeleteGroup(group) => ("deleteGroup", json!(group.name)),
        MetaChange::PutLite(lite) => {
            ("putLite", json!({"topicId": lite.topic_id, "queue": lite.queue, "name": lite.name}))
        }
        MetaChange::DropLites(drop) => {
            let names: Vec<&str> = drop.lites.iter().map(|lite| lite.name.as_str()).collect();
            ("dropLites", json!({"topicId": drop.topic_id, "names": names}))
        }
        MetaChange::Withhold(withhold) => ("withhold", json!(withhold.perm)),
    };
    vec![(change, value)]
}

/// A snapshot repeats values that other records show; its size says enough.
fn snapshot_fields(snapshot: &SnapshotRecord) -> Fields {
    vec![
        ("part", json!(snapshot.part)),
        ("last", json!(snapshot.last)),
        ("broker", json!(snapshot.broker)),
        ("topics", json!(snapshot.topics.len())),
        ("groups", json!(snapshot.groups.len())),
        ("queues", json!(snapshot.queues.len())),
        ("progress", json!(snapshot.progress.len())),
        ("halves", json!(snapshot.halves.len())),
        ("timers", json!(snapshot.timers.len())),
        ("kept", json!(snapshot.kept.len())),
        ("lites", json!(snapshot.lites.len())),
        ("audit", json!(snapshot.audit.len())),
    ]
}

fn queue_state(state: &QueueState) -> Value {
    json!({ "topicId": state.topic_id, "queue": state.queue, "from": state.next })
}

fn topic_value(topic: &Topic) -> Value {
    json!({
        "name": topic.name, "readQueues": topic.read_queues, "writeQueues": topic.write_queues,
        "perm": topic.perm, "types": topic.type_words(), "attributes": topic.attributes,
    })
}

fn group_value(group: &Group) -> Value {
    json!({
        "name": group.name, "consumeEnable": group.consume_enable, "fifo": group.fifo,
        "retryMaxTimes": group.retry_max_times, "consumeFromMin": group.consume_from_min,
        "attributes": group.attributes,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_names_both_ways() {
        for (kind, name) in KINDS {
            assert_eq!((kind_name(kind as u8), parse_kind(name)), (name.to_owned(), Ok(kind as u8)));
        }
        assert_eq!(kind_name(200), "kind 200");
        assert!(parse_kind("massage").is_err_and(|text| text.contains("message, release")));
    }

    #[test]
    fn bodies_are_shown_as_asked() {
        let body = b"a\xff";
        assert_eq!(encode(body, BodyForm::Text), "a\u{fffd}");
        assert_eq!(encode(body, BodyForm::Hex), "61ff");
        assert_eq!(encode(body, BodyForm::Base64), "Yf8=");
    }

    #[test]
    fn words_stay_apart() {
        let fields = vec![("a", json!(1)), ("b", json!("x y")), ("c", json!("z")), ("d", json!(""))];
        assert_eq!(words(&fields), r#"a=1 b="x y" c=z d="""#);
    }
}
