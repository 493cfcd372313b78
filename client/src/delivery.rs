//! What servers hand to applications: deliveries of consumers, messages that were read, half messages of check-backs.

use crate::address::Endpoints;
use crate::body::BodyError;
use crate::error::{Error, Result};
use crate::message::{Message, time_from_wire};
use crate::queue::MessageQueue;
use crate::route::Queue;
use kerolox_proto::v2;
use std::time::SystemTime;

/// A message with what the broker says about where and when it was stored.
#[derive(Debug, Clone)]
struct Stored {
    message: Message,
    message_id: String,
    damage: Option<BodyError>,
    offset: i64,
    queue: MessageQueue,
    born_host: String,
    born: Option<SystemTime>,
    stored: Option<SystemTime>,
}

impl Stored {
    /// The message, and what of its system properties is not part of it.
    fn from_wire(wire: v2::Message, broker: &str) -> (Self, v2::SystemProperties) {
        let (message, mut system, damage) = Message::from_wire(wire);
        let stored = Self {
            queue: MessageQueue::new(message.topic(), broker, system.queue_id),
            message,
            message_id: std::mem::take(&mut system.message_id),
            damage,
            offset: system.queue_offset.unwrap_or(-1),
            born_host: std::mem::take(&mut system.born_host),
            born: time_from_wire(system.born_timestamp.take()),
            stored: time_from_wire(system.store_timestamp.take()),
        };
        (stored, system)
    }
}

/// What deliveries and messages that were read have in common; `self.stored` is a [`Stored`].
macro_rules! stored_message {
    () => {
        /// The message as its producer made it.
        pub fn message(&self) -> &Message {
            &self.stored.message
        }

        /// The message alone.
        pub fn into_message(self) -> Message {
            self.stored.message
        }

        /// Id that the producer gave the message.
        pub fn message_id(&self) -> &str {
            &self.stored.message_id
        }

        /// Why the body differs from the producer's, if it does; the body is as it came then.
        pub fn damage(&self) -> Option<&BodyError> {
            self.stored.damage.as_ref()
        }

        /// Offset in the queue; -1 when the server does not say.
        pub fn offset(&self) -> i64 {
            self.stored.offset
        }

        /// Queue that the message lies in.
        pub fn queue(&self) -> &MessageQueue {
            &self.stored.queue
        }

        /// Number of that queue on its broker.
        pub fn queue_id(&self) -> i32 {
            self.stored.queue.id()
        }

        /// Name of the broker group that it came from.
        pub fn broker(&self) -> &str {
            self.stored.queue.broker()
        }

        /// Host that produced it.
        pub fn born_host(&self) -> &str {
            &self.stored.born_host
        }

        /// When it was produced, on the producer's clock.
        pub fn born_timestamp(&self) -> Option<SystemTime> {
            self.stored.born
        }

        /// When it was stored, on the broker's clock.
        pub fn store_timestamp(&self) -> Option<SystemTime> {
            self.stored.stored
        }
    };
}

/// One delivery of one message. Acknowledge it before its invisible duration ends, or it is delivered again.
#[derive(Debug, Clone)]
pub struct Delivery {
    stored: Stored,
    attempt: u32,
    pub(crate) receipt_handle: String,
    pub(crate) endpoints: Endpoints,
}

impl Delivery {
    pub(crate) fn from_wire(wire: v2::Message, queue: &Queue) -> Result<Self> {
        let (stored, system) = Stored::from_wire(wire, &queue.broker);
        let receipt_handle =
            system.receipt_handle.filter(|handle| !handle.is_empty()).ok_or(Error::Protocol {
                endpoint: queue.endpoints.to_string(),
                what: "a delivered message has no receipt handle",
            })?;
        Ok(Self {
            stored,
            attempt: system.delivery_attempt.and_then(|attempt| attempt.try_into().ok()).unwrap_or(1),
            receipt_handle,
            endpoints: queue.endpoints.clone(),
        })
    }

    /// A message that an administrator shows to a listener. It is not in flight, so nothing can be acknowledged.
    pub(crate) fn shown(wire: v2::Message, endpoints: Endpoints) -> Self {
        let (stored, system) = Stored::from_wire(wire, "");
        let attempt = system.delivery_attempt.and_then(|attempt| attempt.try_into().ok()).unwrap_or(1);
        Self { stored, attempt, receipt_handle: String::new(), endpoints }
    }

    stored_message!();

    /// How often the message was delivered to the group, this time included; 1 is the first.
    pub fn attempt(&self) -> u32 {
        self.attempt
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

/// A message that a [`PullConsumer`](crate::PullConsumer) read. It needs no acknowledgement.
#[derive(Debug, Clone)]
pub struct PulledMessage {
    stored: Stored,
}

impl PulledMessage {
    pub(crate) fn from_wire(wire: v2::Message, broker: &str) -> Self {
        Self { stored: Stored::from_wire(wire, broker).0 }
    }

    stored_message!();
}

/// An undecided transactional message, as the transaction checker sees it.
#[derive(Debug, Clone)]
pub struct HalfMessage {
    message: Message,
    message_id: String,
    transaction_id: String,
    born: Option<SystemTime>,
    damage: Option<BodyError>,
}

impl HalfMessage {
    pub(crate) fn from_wire(wire: v2::Message, transaction_id: String) -> Self {
        let (message, system, damage) = Message::from_wire(wire);
        Self {
            message,
            message_id: system.message_id,
            transaction_id,
            born: time_from_wire(system.born_timestamp),
            damage,
        }
    }

    /// The message as it was sent.
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Why the body differs from the producer's, if it does; the body is as it came then.
    pub fn damage(&self) -> Option<&BodyError> {
        self.damage.as_ref()
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
