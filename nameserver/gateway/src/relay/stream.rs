//! The stream of a relayed ReceiveMessage or PullMessage.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use kerolox_proto::raw::{PullMessageResponse, ReceiveMessageResponse};
use kerolox_proto::raw::{pull_message_response as pull, receive_message_response as receive};
use kerolox_proto::v2::{Code, Status as BodyStatus};
use kerolox_runtime::process::ShutdownSignal;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::under_way::UnderWay;
use crate::answers::AnswerWay;
use crate::refusal::{Refusable, Refusal};
use crate::routes::BrokerAddress;

/// An item of such a stream.
pub trait StreamItem: Refusable + Unpin {
    /// The status that every stream must have.
    fn status(&self) -> Option<&BodyStatus>;
    /// Whether it is a message.
    fn is_message(&self) -> bool;
}

impl StreamItem for ReceiveMessageResponse {
    fn status(&self) -> Option<&BodyStatus> {
        match &self.content {
            Some(receive::Content::Status(status)) => Some(status),
            _ => None,
        }
    }

    fn is_message(&self) -> bool {
        matches!(self.content, Some(receive::Content::Message(_)))
    }
}

impl StreamItem for PullMessageResponse {
    fn status(&self) -> Option<&BodyStatus> {
        match &self.content {
            Some(pull::Content::Status(status)) => Some(status),
            _ => None,
        }
    }

    fn is_message(&self) -> bool {
        matches!(self.content, Some(pull::Content::Message(_)))
    }
}

/// Passes the owner's items through. When the owner is lost before it gave a status, the client gets one and a clean end. When it
/// is lost in the middle of an answer, so is the client's call: the owner takes back what it handed out, and the client is to
/// forget what it has of that.
pub struct RelayedStream<T> {
    /// `None` once the stream is over.
    messages: Option<Streaming<T>>,
    owner: String,
    address: BrokerAddress,
    /// The status that the owner answered.
    status: Option<Code>,
    /// Messages that were passed on.
    passed: usize,
    shutdown: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The owner is told when this does not reach the client on its way.
    under_way: Option<(UnderWay, AnswerWay)>,
}

impl<T: StreamItem> RelayedStream<T> {
    pub(super) fn new(
        messages: Streaming<T>,
        owner: String,
        address: BrokerAddress,
        shutdown: &ShutdownSignal,
    ) -> Self {
        let shutdown = Box::pin(shutdown.requested());
        Self { messages: Some(messages), owner, address, status: None, passed: 0, shutdown, under_way: None }
    }

    /// From here on the owner is told when the stream does not reach the client on its way.
    pub(super) fn watched(mut self, under_way: UnderWay, way: AnswerWay) -> Self {
        self.under_way = Some((under_way, way));
        self
    }

    fn note(&mut self, item: &T) {
        self.passed += usize::from(item.is_message());
        let Some(status) = item.status() else { return };
        self.status = Some(status.code());
        if status.code() != Code::Ok
            && let Some((under_way, _)) = self.under_way.take()
        {
            drop(under_way.settle());
        }
    }

    /// The owner's answer has come to its end.
    fn end(&mut self) {
        self.messages = None;
        let Some((under_way, way)) = self.under_way.take() else { return };
        if let Some(call) = under_way.settle()
            && self.passed > 0
        {
            way.sent(self.passed, || call.tell());
        }
    }

    /// Ends the stream in the middle, with the refusal as its status when it had none yet.
    fn break_off(&mut self, refusal: Refusal) -> Option<Result<T, Status>> {
        self.messages = None;
        self.under_way = None;
        match self.status {
            None => Some(Ok(T::refused(refusal.into()))),
            Some(Code::Ok) => Some(Err(Status::unavailable(refusal.message))),
            Some(_) => None,
        }
    }
}

impl<T: StreamItem> Stream for RelayedStream<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(messages) = &mut self.messages else { return Poll::Ready(None) };
        match Pin::new(messages).poll_next(cx) {
            Poll::Ready(Some(Ok(item))) => {
                self.note(&item);
                Poll::Ready(Some(Ok(item)))
            }
            Poll::Ready(Some(Err(status))) => {
                let refusal = super::reach::no_answer(&self.owner, &self.address, &status);
                Poll::Ready(self.break_off(refusal))
            }
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending => {
                ready!(self.shutdown.as_mut().poll(cx));
                Poll::Ready(self.break_off(shutting_down()))
            }
        }
    }
}

/// An empty poll, so that the client simply polls again, elsewhere if it can.
pub(super) fn shutting_down() -> Refusal {
    Refusal::new(Code::MessageNotFound, "this server is shutting down; poll again")
}
