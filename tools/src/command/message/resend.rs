//! Messages that are sent once more.

use super::sent;
use crate::target::Common;
use kerolox_client::{Message, MessageBuilder, Resolution};
use kerolox_proto::v2::{self, MessageType};
use kerolox_report::outcome::Result;
use kerolox_report::output::CommandReport;

/// A message with all that its producer gave it, but its id and its delivery time.
pub(crate) fn copied(topic: &str, wire: v2::Message) -> MessageBuilder {
    let system = wire.system_properties.unwrap_or_default();
    let mut message = Message::builder(topic).body(wire.body).keys(system.keys);
    for (name, value) in wire.user_properties {
        message = message.property(name, value);
    }
    if let Some(tag) = system.tag {
        message = message.tag(tag);
    }
    if let Some(group) = system.message_group {
        message = message.message_group(group);
    }
    if let Some(name) = system.lite_topic {
        message = message.lite_topic(name);
    }
    if let Some(priority) = system.priority.and_then(|priority| u32::try_from(priority).ok()) {
        message = message.priority(priority);
    }
    message
}

/// Sends a message once more, visible at once: what was a half message is committed.
pub(crate) async fn resend(common: &Common, message: v2::Message) -> Result<CommandReport> {
    let topic = message.topic.clone().unwrap_or_default().name;
    let kind = message.system_properties.as_ref().map_or(0, |system| system.message_type);
    let producer = common.client()?.producer().topic(&topic);
    let producer = producer.transaction_checker(|_| async { Resolution::Commit }).start().await?;
    let message = copied(&topic, message).build();
    let done = if kind == i32::from(MessageType::Transaction) {
        match producer.send_in_transaction(message).await {
            Ok(half) => {
                let receipt = half.receipt().clone();
                half.commit().await.map(|()| receipt)
            }
            Err(error) => Err(error),
        }
    } else {
        producer.send(message).await
    };
    producer.shutdown().await;
    Ok(sent(&done?))
}
