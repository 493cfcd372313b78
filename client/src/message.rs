//! Messages as applications see them.

use crate::body::{self, BodyError};
use bytes::Bytes;
use kerolox_proto::v2;
use std::collections::HashMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A message to send, or the application's part of one that was received.
///
/// ```
/// use kerolox_client::Message;
///
/// let message = Message::builder("orders")
///     .body("order 4711")
///     .tag("created")
///     .key("4711")
///     .property("region", "eu")
///     .build();
/// assert_eq!(message.tag(), Some("created"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    topic: String,
    body: Bytes,
    tag: Option<String>,
    keys: Vec<String>,
    properties: HashMap<String, String>,
    message_group: Option<String>,
    delivery_timestamp: Option<SystemTime>,
    priority: Option<u32>,
    lite_topic: Option<String>,
    id: Option<String>,
}

impl Message {
    /// Starts a message for `topic`.
    pub fn builder(topic: impl Into<String>) -> MessageBuilder {
        MessageBuilder {
            message: Message {
                topic: topic.into(),
                body: Bytes::new(),
                tag: None,
                keys: Vec::new(),
                properties: HashMap::new(),
                message_group: None,
                delivery_timestamp: None,
                priority: None,
                lite_topic: None,
                id: None,
            },
        }
    }

    /// Topic, without the namespace.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The payload.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Tag that consumers may filter by.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Keys that the message can be found by.
    pub fn keys(&self) -> &[String] {
        &self.keys
    }

    /// User properties.
    pub fn properties(&self) -> &HashMap<String, String> {
        &self.properties
    }

    /// FIFO group: messages of one group are delivered in order.
    pub fn message_group(&self) -> Option<&str> {
        self.message_group.as_deref()
    }

    /// When a delayed message becomes visible.
    pub fn delivery_timestamp(&self) -> Option<SystemTime> {
        self.delivery_timestamp
    }

    /// Its priority; the higher, the earlier.
    pub fn priority(&self) -> Option<u32> {
        self.priority
    }

    /// The lite topic that it belongs to, below its topic.
    pub fn lite_topic(&self) -> Option<&str> {
        self.lite_topic.as_deref()
    }

    /// Messages with the same word go to the same queue: they are in order, or of one lite topic.
    pub(crate) fn together(&self) -> Option<&str> {
        self.message_group().or(self.lite_topic())
    }

    /// What kind of message this is, apart from transactions: those are made by how a message is sent.
    fn message_type(&self) -> v2::MessageType {
        if self.lite_topic.is_some() {
            v2::MessageType::Lite
        } else if self.priority.is_some() {
            v2::MessageType::Priority
        } else if self.delivery_timestamp.is_some() {
            v2::MessageType::Delay
        } else if self.message_group.is_some() {
            v2::MessageType::Fifo
        } else {
            v2::MessageType::Normal
        }
    }

    /// The message as it goes over the wire; the queue is filled in when one is chosen.
    pub(crate) fn into_wire(self, stamp: Stamp<'_>) -> v2::Message {
        let message_type =
            if stamp.transactional { v2::MessageType::Transaction } else { self.message_type() };
        let packed = match stamp.compress_from {
            Some(bytes) if self.body.len() >= bytes => body::compress(&self.body),
            _ => None,
        };
        let (encoding, body) = match packed {
            Some(packed) => (v2::Encoding::Gzip, packed),
            None => (v2::Encoding::Identity, self.body),
        };
        let system_properties = v2::SystemProperties {
            tag: self.tag,
            keys: self.keys,
            message_id: self.id.unwrap_or(stamp.message_id),
            body_encoding: encoding.into(),
            message_type: message_type.into(),
            born_timestamp: Some(stamp.born.into()),
            born_host: stamp.host.to_owned(),
            delivery_timestamp: self.delivery_timestamp.map(Into::into),
            message_group: self.message_group,
            priority: self.priority.map(|priority| i32::try_from(priority).unwrap_or(i32::MAX)),
            lite_topic: self.lite_topic,
            ..Default::default()
        };
        v2::Message {
            topic: Some(v2::Resource { resource_namespace: stamp.namespace.to_owned(), name: self.topic }),
            user_properties: self.properties,
            system_properties: Some(system_properties),
            body,
        }
    }

    /// The application's part of a message from the wire, the rest, and why the body is not as it was sent.
    pub(crate) fn from_wire(wire: v2::Message) -> (Self, v2::SystemProperties, Option<BodyError>) {
        let mut system = wire.system_properties.unwrap_or_default();
        let (body, damage) = match body::decode(wire.body, &system) {
            Ok(body) => (body, None),
            Err((body, damage)) => (body, Some(damage)),
        };
        let message = Message {
            topic: wire.topic.unwrap_or_default().name,
            body,
            tag: system.tag.take(),
            keys: std::mem::take(&mut system.keys),
            properties: wire.user_properties,
            message_group: system.message_group.take(),
            delivery_timestamp: time_from_wire(system.delivery_timestamp.take()),
            lite_topic: system.lite_topic.take(),
            priority: system.priority.take().and_then(|priority| priority.try_into().ok()),
            id: None,
        };
        (message, system, damage)
    }
}

/// What the producer adds to a message when it is sent.
pub(crate) struct Stamp<'a> {
    pub(crate) message_id: String,
    pub(crate) namespace: &'a str,
    pub(crate) host: &'a str,
    pub(crate) born: SystemTime,
    pub(crate) transactional: bool,
    /// Bodies of so many bytes or more are compressed.
    pub(crate) compress_from: Option<usize>,
}

/// A time of the protocol; `None` when absent or out of range.
pub(crate) fn time_from_wire(timestamp: Option<prost_types::Timestamp>) -> Option<SystemTime> {
    timestamp.and_then(|timestamp| timestamp.try_into().ok())
}

/// Milliseconds since the Unix epoch; 0 for times before it.
pub(crate) fn unix_ms(time: SystemTime) -> i64 {
    let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    i64::try_from(since_epoch).unwrap_or(i64::MAX)
}

/// Builds a [`Message`]. The server checks the rules (sizes, characters) and answers with a code of its own for each.
#[derive(Debug, Clone)]
#[must_use]
pub struct MessageBuilder {
    message: Message,
}

impl MessageBuilder {
    /// Sets the payload.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.message.body = body.into();
        self
    }

    /// Sets the tag that consumers may filter by.
    pub fn tag(mut self, tag: impl Into<String>) -> Self {
        self.message.tag = Some(tag.into());
        self
    }

    /// Adds a key that the message can be found by.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.message.keys.push(key.into());
        self
    }

    /// Adds several keys.
    pub fn keys<K: Into<String>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.message.keys.extend(keys.into_iter().map(Into::into));
        self
    }

    /// Adds a user property; a later value of the same name wins.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.message.properties.insert(name.into(), value.into());
        self
    }

    /// Makes it a FIFO message: messages of one group are delivered in order.
    pub fn message_group(mut self, group: impl Into<String>) -> Self {
        self.message.message_group = Some(group.into());
        self
    }

    /// Makes it a delayed message that becomes visible at `time`, at once when that has passed.
    pub fn delivery_timestamp(mut self, time: SystemTime) -> Self {
        self.message.delivery_timestamp = Some(time);
        self
    }

    /// Makes it a delayed message that becomes visible after `delay`, by this machine's clock.
    pub fn deliver_after(self, delay: Duration) -> Self {
        self.delivery_timestamp(SystemTime::now() + delay)
    }

    /// Gives it a priority, 0 or higher: on topics of type PRIORITY the highest is delivered first. Each queue of a topic is
    /// a priority, and the last one takes whatever is above it.
    pub fn priority(mut self, priority: u32) -> Self {
        self.message.priority = Some(priority);
        self
    }

    /// Id of the message in place of a new one, for restoring a stored message. Ids of other messages must not be used
    /// again: they identify a message, and in topics with `dedup=id` they tell a second copy.
    pub fn message_id(mut self, id: impl Into<String>) -> Self {
        self.message.id = Some(id.into());
        self
    }

    /// Puts it into a lite topic below its topic, which is of type LITE. The first message makes the lite topic.
    pub fn lite_topic(mut self, name: impl Into<String>) -> Self {
        self.message.lite_topic = Some(name.into());
        self
    }

    /// The finished message.
    pub fn build(self) -> Message {
        self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(transactional: bool) -> Stamp<'static> {
        Stamp {
            message_id: "01".into(),
            namespace: "ns",
            host: "h",
            born: UNIX_EPOCH,
            transactional,
            compress_from: Some(100),
        }
    }

    fn wire_type(message: MessageBuilder, transactional: bool) -> v2::MessageType {
        message.build().into_wire(stamp(transactional)).system_properties.unwrap().message_type()
    }

    #[test]
    fn the_type_follows_from_the_properties() {
        let plain = Message::builder("t");
        let fifo = plain.clone().message_group("g");
        let delay = fifo.clone().delivery_timestamp(UNIX_EPOCH);
        assert_eq!(wire_type(plain.clone(), false), v2::MessageType::Normal);
        assert_eq!(wire_type(fifo.clone(), false), v2::MessageType::Fifo);
        assert_eq!(wire_type(delay.clone(), false), v2::MessageType::Delay);
        assert_eq!(wire_type(delay, true), v2::MessageType::Transaction);
    }

    #[test]
    fn messages_survive_the_wire() {
        let message = Message::builder("t")
            .body(vec![7; 1000])
            .tag("tag")
            .keys(["a", "b"])
            .property("p", "v")
            .message_group("g")
            .delivery_timestamp(UNIX_EPOCH + Duration::from_millis(1_700_000_000_123))
            .build();
        let wire = message.clone().into_wire(stamp(false));
        assert_eq!(wire.topic.as_ref().unwrap().resource_namespace, "ns");
        assert!(wire.body.len() < 100, "it is compressed");
        let (back, system, damage) = Message::from_wire(wire);
        assert_eq!((back, damage), (message, None));
        assert_eq!(system.message_id, "01");
    }
}
