//! The messages of one ReceiveMessage answer on their way to the client.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use kerolox_core::delivery::DeliveredMessage;
use kerolox_gateway::answers::AnswerWay;
use kerolox_gateway::refusal::ok_status;
use kerolox_proto::raw::{self, receive_message_response::Content};
use kerolox_runtime::process::now_ms;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;

use super::Context;
use super::handed::HandedOut;
use crate::delivery::TopicSubscription;
use crate::wire;

/// An answer as a stream. When the call breaks before its end, all of its messages are given back: clients drop a partial
/// answer.
pub(super) struct Batch {
    context: Arc<Context>,
    way: AnswerWay,
    /// When the client gives up on the call.
    deadline: Option<Instant>,
    messages: Vec<(Arc<TopicSubscription>, DeliveredMessage, Bytes)>,
    sent: usize,
    /// The next item, before any more messages.
    head: Option<Content>,
    /// Whether the transport has accepted the whole answer.
    is_over: bool,
}

impl Batch {
    pub(super) fn new(context: Arc<Context>, way: AnswerWay, deadline: Option<Instant>) -> Self {
        let head = Some(Content::Status(ok_status()));
        Self { context, way, deadline, messages: Vec::new(), sent: 0, head, is_over: false }
    }

    /// Adds messages that a subscription handed out.
    pub(super) fn add(
        &mut self,
        subscription: &Arc<TopicSubscription>,
        messages: Vec<(DeliveredMessage, Bytes)>,
    ) {
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

    /// The protocol's order: status, messages, delivery timestamp.
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
        self.is_over = true;
        Poll::Ready(None)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let mut handed = HandedOut::default();
        for of_one in self.messages.chunk_by(|(a, ..), (b, ..)| Arc::ptr_eq(a, b)) {
            handed.add(&of_one[0].0, of_one.iter().map(|(_, picked, _)| picked.clone()).collect());
        }
        let is_late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        if self.is_over && !is_late {
            self.way.sent(self.messages.len(), move || handed.may_not_have_come());
        } else {
            handed.never_came();
        }
    }
}
