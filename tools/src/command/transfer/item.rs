//! A message of a file: as a payload of the binary form, and as a line of JSON.

use crate::command::message::read::Read as Found;
use crate::command::message::show;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kerolox_proto::v2::{self, MessageType};
use serde_json::Value;

/// Queue and offset of scheduled messages, which are in no queue yet.
pub(super) const SCHEDULED: (u32, u64) = (u32::MAX, u64::MAX);

/// A message in a file, and where it stood.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Item {
    #[prost(string, tag = "1")]
    pub(super) broker: String,
    #[prost(uint32, tag = "2")]
    pub(super) queue: u32,
    #[prost(uint64, tag = "3")]
    pub(super) offset: u64,
    /// Milliseconds since the Unix epoch.
    #[prost(int64, tag = "4")]
    pub(super) store_ms: i64,
    #[prost(message, optional, tag = "5")]
    pub(super) message: Option<v2::Message>,
}

impl Item {
    pub(super) fn new(found: Found) -> Self {
        let Found { broker, queue, offset, store_ms, message } = found;
        Self { broker, queue, offset, store_ms, message: Some(message) }
    }

    pub(super) fn topic(&self) -> &str {
        self.message
            .as_ref()
            .and_then(|message| message.topic.as_ref())
            .map_or("", |topic| topic.name.as_str())
    }

    pub(super) fn system(&self) -> v2::SystemProperties {
        self.message.as_ref().and_then(|message| message.system_properties.clone()).unwrap_or_default()
    }

    pub(super) fn is_scheduled(&self) -> bool {
        (self.queue, self.offset) == SCHEDULED
    }

    pub(super) fn to_json(&self) -> Value {
        let message = self.message.clone().unwrap_or_default();
        let crc = crc32c::crc32c(&message.body);
        let kind = MessageType::try_from(self.system().message_type).unwrap_or_default().as_str_name();
        let found = Found {
            broker: self.broker.clone(),
            queue: self.queue,
            offset: self.offset,
            store_ms: self.store_ms,
            message,
        };
        let mut value = show::json(&found);
        if let Value::Object(fields) = &mut value {
            fields.insert("type".to_owned(), kind.into());
            fields.insert("crc".to_owned(), crc.into());
            if self.is_scheduled() {
                fields.insert("queue".to_owned(), Value::Null);
                fields.insert("offset".to_owned(), Value::Null);
            }
        }
        value
    }

    pub(super) fn from_json(value: &Value) -> std::result::Result<Self, String> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let number = |name: &str| value[name].as_i64();
        let time = |name: &str| {
            let millis = number(name)?;
            let nanos = i32::try_from(millis.rem_euclid(1000) * 1_000_000).ok()?;
            Some(prost_types::Timestamp { seconds: millis.div_euclid(1000), nanos })
        };
        let body = match (value["body"].as_str(), value["bodyBase64"].as_str()) {
            (Some(body), _) => body.as_bytes().to_vec(),
            (None, Some(encoded)) => {
                STANDARD.decode(encoded).map_err(|error| format!("bodyBase64: {error}"))?
            }
            (None, None) => Vec::new(),
        };
        if let Some(crc) = value["crc"].as_u64()
            && crc != u64::from(crc32c::crc32c(&body))
        {
            return Err("the body does not fit its crc: the file is damaged".to_owned());
        }
        let kind = text("type").and_then(|kind| MessageType::from_str_name(&kind)).unwrap_or_default();
        let strings = |name: &str| {
            value[name]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        let properties = value["properties"].as_object().into_iter().flatten();
        let properties =
            properties.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        let system = v2::SystemProperties {
            message_id: text("messageId").unwrap_or_default(),
            tag: text("tag"),
            keys: strings("keys"),
            message_group: text("messageGroup"),
            lite_topic: text("liteTopic"),
            priority: number("priority").and_then(|priority| i32::try_from(priority).ok()),
            delivery_timestamp: time("deliveryMs"),
            born_timestamp: time("bornMs"),
            message_type: kind.into(),
            ..Default::default()
        };
        let message = v2::Message {
            topic: text("topic").map(|name| v2::Resource { name, ..Default::default() }),
            user_properties: properties.collect(),
            system_properties: Some(system),
            body: body.into(),
        };
        let place = value["queue"].as_u64().zip(value["offset"].as_u64());
        let (queue, offset) = match place {
            Some((queue, offset)) => (u32::try_from(queue).map_err(|_| "queue: too large")?, offset),
            None => SCHEDULED,
        };
        Ok(Self {
            broker: text("broker").unwrap_or_default(),
            queue,
            offset,
            store_ms: number("storeMs").unwrap_or_default(),
            message: Some(message),
        })
    }
}
