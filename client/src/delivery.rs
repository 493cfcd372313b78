//! What servers hand to applications: deliveries of consumers, half messages of check-backs.

use crate::address::Endpoints;
use crate::error::{Error, Result};
use crate::message::{Message, time_from_wire};
use crate::route::Queue;
use kerolox_proto::v2;
use std::time::SystemTime;

/// One delivery of one message. Acknowledge it before its invisible duration ends, or it is delivered again.
#[derive(Debug, Clone)]
pub struct Delivery {
    message: Message,
    message_id: String,
    attempt: u32,
    offset: i64,
    queue_id: i32,
    broker: String,
    born_host: String,
    born: Option<SystemTime>,
    stored: Option<SystemTime>,
    pub(crate) receipt_handle: String,
    pub(crate) endpoints: Endpoints,
}

impl Delivery {
    pub(crate) fn from_wire(wire: v2::Message, queue: &Queue) -> Result<Self> {
        let (message, system) = Message::from_wire(wire);
        let receipt_handle =
            system.receipt_handle.filter(|handle| !handle.is_empty()).ok_or(Error::Protocol {
                endpoint: queue.endpoints.to_string(),
                what: "a delivered message has no receipt handle",
            })?;
        Ok(Self {
            message,
            message_id: system.message_id,
            attempt: system.delivery_attempt.and_then(|attempt| attempt.try_into().ok()).unwrap_or(1),
            offset: system.queue_offset.unwrap_or(-1),
            queue_id: system.queue_id,
            broker: queue.broker.clone(),
            born_host: system.born_host,
            born: time_from_wire(system.born_timestamp),
            stored: time_from_wire(system.store_timestamp),
            receipt_handle,
            endpoints: queue.endpoints.clone(),
        })
    }

    /// The message as its producer made it.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The message without the delivery.
    pub fn into_message(self) -> Message {
        self.message
    }

    /// Id that the producer gave the message.
    pub fn message_id(&self) -> &str {
        &self.message_id
    }

    /// How often the message was delivered to the group, this time included; 1 is the first.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Offset in the queue; -1 when the server does not say.
    pub fn offset(&self) -> i64 {
        self.offset
    }

    /// Queue that the message lies in.
    pub fn queue_id(&self) -> i32 {
        self.queue_id
    }

    /// Name of the broker group that delivered it.
    pub fn broker(&self) -> &str {
        &self.broker
    }

    /// Host that produced it.
    pub fn born_host(&self) -> &str {
        &self.born_host
    }

    /// When it was produced, on the producer's clock.
    pub fn born_timestamp(&self) -> Option<SystemTime> {
        self.born
    }

    /// When it was stored, on the broker's clock.
    pub fn store_timestamp(&self) -> Option<SystemTime> {
        self.stored
    }

    /// Counts another attempt that is made without the server.
    pub(crate) fn attempt_again(&mut self) {
        self.attempt = self.attempt.saturating_add(1);
    }

    /// The right to acknowledge this delivery, opaque. It changes when the invisible duration is changed.
    pub fn receipt_handle(&self) -> &str {
        &self.receipt_handle
    }
}

/// A transactional message that nobody decided, as the transaction checker sees it.
#[derive(Debug, Clone)]
pub struct HalfMessage {
    message: Message,
    message_id: String,
    transaction_id: String,
    born: Option<SystemTime>,
}

impl HalfMessage {
    pub(crate) fn from_wire(wire: v2::Message, transaction_id: String) -> Self {
        let (message, system) = Message::from_wire(wire);
        Self {
            message,
            message_id: system.message_id,
            transaction_id,
            born: time_from_wire(system.born_timestamp),
        }
    }

    /// The message as it was sent.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Id that the producer gave the message.
    pub fn message_id(&self) -> &str {
        &self.message_id
    }

    /// Id that the broker gave the transaction.
    pub fn transaction_id(&self) -> &str {
        &self.transaction_id
    }

    /// When it was produced, on the producer's clock.
    pub fn born_timestamp(&self) -> Option<SystemTime> {
        self.born
    }
}
