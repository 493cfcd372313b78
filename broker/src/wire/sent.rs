//! Messages as producers send them: decoded by one scan over their bytes, which are kept unchanged.

use bytes::Bytes;
use kerolox_core::publish::MessageDraft;
use kerolox_core::topic::MessageType;
use kerolox_proto::v2::{self, Encoding};
use prost::Message as _;

use super::fields::{Fields, Irregular};
use super::numbers::{message, system};
use super::{signed_ms, timestamp_ms};

/// The content of a message's bytes.
#[derive(Default)]
pub(crate) struct Sent<'a> {
    /// Namespace and name of the topic, if present.
    pub(crate) topic: Option<(&'a str, &'a str)>,
    /// The input of the checks; without the topic, which has another name when it is stored.
    pub(crate) draft: MessageDraft<'a>,
    /// Queue that the producer wants; 0 also when it has no preference.
    pub(crate) queue_id: i32,
    pub(super) body: &'a [u8],
    /// The fields before and after the system properties.
    pub(super) content: [&'a [u8]; 2],
    /// The encoded system properties before and after the message id; none of them is reserved for the broker.
    pub(super) system: [&'a [u8]; 2],
    pub(super) message_type: i32,
    pub(super) has_encoding: bool,
    pub(super) has_born_timestamp: bool,
    pub(super) has_delivery_timestamp: bool,
}

/// Decodes the messages of one request.
///
/// # Errors
/// [`Irregular`] when one of them cannot be passed on byte for byte; see [`normalize`].
pub(crate) fn scan(messages: &[Bytes]) -> Result<Vec<Sent<'_>>, Irregular> {
    messages.iter().map(|message| Sent::scan(message)).collect()
}

/// Converts messages into the form that [`scan`] accepts, by decoding and encoding them. Fields that are reserved for
/// the broker or unknown to this version are dropped.
///
/// # Errors
/// The protobuf error when one of them is not a message.
pub(crate) fn normalize(messages: &[Bytes]) -> Result<Vec<Bytes>, prost::DecodeError> {
    let normalized = |message: &Bytes| {
        let mut message = v2::Message::decode(message.clone())?;
        if let Some(system) = &mut message.system_properties {
            system.body_digest = None;
            system.store_timestamp = None;
            system.store_host.clear();
            system.receipt_handle = None;
            system.queue_offset = None;
            system.invisible_duration = None;
            system.delivery_attempt = None;
            system.dead_letter_queue = None;
        }
        Ok(Bytes::from(message.encode_to_vec()))
    };
    messages.iter().map(normalized).collect()
}

impl<'a> Sent<'a> {
    fn scan(bytes: &'a [u8]) -> Result<Self, Irregular> {
        let mut sent = Self { content: [bytes, &[]], ..Self::default() };
        let mut fields = Fields::of(bytes);
        while let Some(field) = fields.next()? {
            match field.number {
                message::USER_PROPERTIES => sent.draft.properties.push(field.pair()?),
                // A repeated field would replace the first one in some libraries, and be merged with it in others.
                message::TOPIC | message::SYSTEM_PROPERTIES | message::BODY if field.repeated => {
                    return Err(Irregular);
                }
                message::TOPIC => sent.topic = Some(field.pair()?),
                message::BODY => sent.body = field.bytes()?,
                message::SYSTEM_PROPERTIES => {
                    sent.content = [&bytes[..field.at.start], &bytes[field.at.end..]];
                    sent.scan_system(field.bytes()?)?;
                }
                _ => {}
            }
        }
        sent.draft.body_len = sent.body.len();
        sent.draft.declared =
            MessageType::try_from(sent.message_type).ok().filter(|kind| *kind != MessageType::Unspecified);
        Ok(sent)
    }

    fn scan_system(&mut self, bytes: &'a [u8]) -> Result<(), Irregular> {
        self.system = [bytes, &[]];
        let draft = &mut self.draft;
        let mut fields = Fields::of(bytes);
        while let Some(field) = fields.next()? {
            match field.number {
                system::KEYS => draft.keys.push(field.text()?),
                system::TAG..=system::LAST if field.repeated => return Err(Irregular),
                system::TAG => draft.tag = Some(field.text()?),
                system::MESSAGE_ID => {
                    self.system = [&bytes[..field.at.start], &bytes[field.at.end..]];
                    draft.message_id = field.text()?;
                }
                system::BODY_ENCODING => {
                    let encoding = Encoding::try_from(field.int32()?).unwrap_or_default();
                    self.has_encoding = encoding != Encoding::Unspecified;
                }
                system::MESSAGE_TYPE => self.message_type = field.int32()?,
                system::BORN_TIMESTAMP => {
                    field.time()?;
                    self.has_born_timestamp = true;
                }
                system::DELIVERY_TIMESTAMP => {
                    draft.deliver_at_ms = Some(timestamp_ms(&field.time()?));
                    self.has_delivery_timestamp = true;
                }
                system::QUEUE_ID => self.queue_id = field.int32()?,
                system::MESSAGE_GROUP => draft.message_group = Some(field.text()?),
                system::ORPHANED_TRANSACTION_RECOVERY_DURATION => {
                    draft.recovery_ms = Some(signed_ms(&field.time()?));
                }
                system::LITE_TOPIC => draft.lite_topic = Some(field.text()?),
                system::PRIORITY => draft.priority = Some(field.int32()?),
                system::BORN_HOST | system::TRACE_CONTEXT => drop(field.text()?),
                // A field of a newer protocol; it is passed on.
                number if number > system::LAST => {}
                // Fields reserved for the broker; SDKs do not send them, and no client may forge them.
                _ => return Err(Irregular),
            }
        }
        Ok(())
    }
}
