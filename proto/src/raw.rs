//! [`v2`]'s service for a server that hands messages on as they are: its `Message`s are bytes, still encoded.
//!
//! The types are generated from the same `.proto` files, with `bytes` in place of `Message`, which has the same form on
//! the wire. Whatever holds no message is the type of `v2`.

tonic::include_proto!("raw/apache.rocketmq.v2");

use crate::v2;

impl From<v2::ReceiveMessageResponse> for ReceiveMessageResponse {
    fn from(answer: v2::ReceiveMessageResponse) -> Self {
        use {receive_message_response::Content as Raw, v2::receive_message_response::Content};
        let content = answer.content.map(|content| match content {
            Content::Status(status) => Raw::Status(status),
            Content::Message(message) => Raw::Message(prost::Message::encode_to_vec(&message).into()),
            Content::DeliveryTimestamp(time) => Raw::DeliveryTimestamp(time),
        });
        Self { content }
    }
}

impl From<v2::PullMessageResponse> for PullMessageResponse {
    fn from(answer: v2::PullMessageResponse) -> Self {
        use {pull_message_response::Content as Raw, v2::pull_message_response::Content};
        let content = answer.content.map(|content| match content {
            Content::Status(status) => Raw::Status(status),
            Content::Message(message) => Raw::Message(prost::Message::encode_to_vec(&message).into()),
            Content::NextOffset(offset) => Raw::NextOffset(offset),
        });
        Self { content }
    }
}
