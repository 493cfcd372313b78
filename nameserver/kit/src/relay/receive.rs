//! The stream of a relayed ReceiveMessage.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use kerolox_proto::v2::{Code, ReceiveMessageResponse, receive_message_response::Content};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use crate::process::Shutdown;
use crate::refusal::{Refusable, Refusal};
use crate::routes::BrokerAddress;

/// Passes the owner's items through. Whatever happens to the owner, the client gets a status item and a clean end.
pub struct ReceiveStream {
    /// `None` once the stream is over.
    messages: Option<Streaming<ReceiveMessageResponse>>,
    owner: String,
    address: BrokerAddress,
    has_status: bool,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl ReceiveStream {
    pub(super) fn new(
        messages: Streaming<ReceiveMessageResponse>,
        owner: String,
        address: BrokerAddress,
        shutdown: &Shutdown,
    ) -> Self {
        let shutdown = Box::pin(shutdown.requested());
        Self { messages: Some(messages), owner, address, has_status: false, shutdown }
    }

    /// Ends the stream, with the refusal as its status when it had none yet.
    fn end_with(&mut self, refusal: Refusal) -> Option<Result<ReceiveMessageResponse, Status>> {
        self.messages = None;
        (!self.has_status).then(|| Ok(ReceiveMessageResponse::refused(refusal.into())))
    }
}

impl Stream for ReceiveStream {
    type Item = Result<ReceiveMessageResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(messages) = &mut self.messages else { return Poll::Ready(None) };
        match Pin::new(messages).poll_next(cx) {
            Poll::Ready(Some(Ok(item))) => {
                self.has_status |= matches!(item.content, Some(Content::Status(_)));
                Poll::Ready(Some(Ok(item)))
            }
            Poll::Ready(Some(Err(status))) => {
                let refusal = super::no_answer(&self.owner, &self.address, &status);
                Poll::Ready(self.end_with(refusal))
            }
            Poll::Ready(None) => {
                self.messages = None;
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(self.shutdown.as_mut().poll(cx));
                Poll::Ready(self.end_with(shutting_down()))
            }
        }
    }
}

/// An empty poll, so that the client simply polls again, elsewhere if it can.
pub(super) fn shutting_down() -> Refusal {
    Refusal::new(Code::MessageNotFound, "this server is shutting down; poll again")
}
