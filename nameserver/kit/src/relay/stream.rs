//! The stream of a relayed ReceiveMessage or PullMessage.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use kerolox_proto::v2::{Code, PullMessageResponse, ReceiveMessageResponse};
use kerolox_proto::v2::{pull_message_response as pull, receive_message_response as receive};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use crate::process::Shutdown;
use crate::refusal::{Refusable, Refusal};
use crate::routes::BrokerAddress;

/// An item of such a stream.
pub trait Item: Refusable + Unpin {
    /// Whether it is the status that every stream must have.
    fn is_status(&self) -> bool;
}

impl Item for ReceiveMessageResponse {
    fn is_status(&self) -> bool {
        matches!(self.content, Some(receive::Content::Status(_)))
    }
}

impl Item for PullMessageResponse {
    fn is_status(&self) -> bool {
        matches!(self.content, Some(pull::Content::Status(_)))
    }
}

/// Passes the owner's items through. Whatever happens to the owner, the client gets a status item and a clean end.
pub struct RelayedStream<T> {
    /// `None` once the stream is over.
    messages: Option<Streaming<T>>,
    owner: String,
    address: BrokerAddress,
    has_status: bool,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<T: Item> RelayedStream<T> {
    pub(super) fn new(
        messages: Streaming<T>,
        owner: String,
        address: BrokerAddress,
        shutdown: &Shutdown,
    ) -> Self {
        let shutdown = Box::pin(shutdown.requested());
        Self { messages: Some(messages), owner, address, has_status: false, shutdown }
    }

    /// Ends the stream, with the refusal as its status when it had none yet.
    fn end_with(&mut self, refusal: Refusal) -> Option<Result<T, Status>> {
        self.messages = None;
        (!self.has_status).then(|| Ok(T::refused(refusal.into())))
    }
}

impl<T: Item> Stream for RelayedStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(messages) = &mut self.messages else { return Poll::Ready(None) };
        match Pin::new(messages).poll_next(cx) {
            Poll::Ready(Some(Ok(item))) => {
                self.has_status |= item.is_status();
                Poll::Ready(Some(Ok(item)))
            }
            Poll::Ready(Some(Err(status))) => {
                let refusal = super::reach::no_answer(&self.owner, &self.address, &status);
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
