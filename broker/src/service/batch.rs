//! The messages of one ReceiveMessage answer on their way to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use kerolox_core::delivery::Picked;
use kerolox_kit::process::now_ms;
use kerolox_kit::refusal::ok_status;
use kerolox_proto::raw::{self, receive_message_response::Content};
use tokio_stream::Stream;
use tonic::Status;

use super::Context;
use crate::delivery::Subscription;
use crate::wire;

/// An answer as a stream. What was not sent when the client goes away is given back, so that it need not wait for its
/// invisible duration to end.
pub(super) struct Batch {
    context: Arc<Context>,
    messages: Vec<(Arc<Subscription>, Picked, Bytes)>,
    sent: usize,
    /// The item that comes next, before any more messages.
    head: Option<Content>,
}

impl Batch {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context, messages: Vec::new(), sent: 0, head: Some(Content::Status(ok_status())) }
    }

    /// Adds messages that a subscription handed out.
    pub(super) fn add(&mut self, subscription: &Arc<Subscription>, messages: Vec<(Picked, Bytes)>) {
        let with_owner = |(picked, bytes)| (subscription.clone(), picked, bytes);
        self.messages.extend(messages.into_iter().map(with_owner));
    }

    pub(super) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

impl Stream for Batch {
    type Item = Result<raw::ReceiveMessageResponse, Status>;

    /// The protocol's order: status, messages, time of delivery.
    fn poll_next(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let item = |content| Poll::Ready(Some(Ok(raw::ReceiveMessageResponse { content: Some(content) })));
        if let Some(head) = self.head.take() {
            return item(head);
        }
        let next = self.sent;
        if let Some((_, _, message)) = self.messages.get_mut(next) {
            let message = std::mem::take(message);
            self.sent += 1;
            self.context.counters.messages_out.fetch_add(1, Ordering::Relaxed);
            return item(Content::Message(message));
        }
        if next == self.messages.len() {
            self.sent += 1;
            return item(Content::DeliveryTimestamp(wire::timestamp(now_ms())));
        }
        Poll::Ready(None)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let unsent = self.messages.get(self.sent..).unwrap_or_default();
        for of_one in unsent.chunk_by(|(a, ..), (b, ..)| Arc::ptr_eq(a, b)) {
            let picked: Vec<Picked> = of_one.iter().map(|(_, picked, _)| picked.clone()).collect();
            of_one[0].0.give_back(now_ms(), &picked);
        }
    }
}
