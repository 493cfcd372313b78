//! Passing calls on, one hop, to the broker that owns what they are about.
//!
//! The SDKs send some calls to the server that they were configured with rather than to the owner. Receipt handles,
//! transaction ids, recall handles and `message_queue.broker.name` name the owner, so any server can pass them on.

pub mod acks;
pub mod administration;
mod announcing;
mod channels;
mod reach;
mod stream;
mod under_way;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use kerolox_model::token::{RecallHandle, ReceiptHandle, TransactionId};
use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use kerolox_proto::v2::{self, Code};
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::transport::Channel;
use tonic::{Extensions, Request, Response, Status, Streaming};

pub(crate) use channels::Channels;
pub(crate) use kerolox_runtime::listen::RELAYED;
use kerolox_runtime::process::Shutdown;
pub use stream::RelayedStream;
pub use under_way::call_number;

use crate::answers::AnswerWay;
use crate::clients::Clients;
use crate::headers::ClientHeaders;
use crate::refusal::Refusal;
use crate::routes::Routes;
use under_way::UnderWay;

/// How long an owner may take for a unary call whose client sets no deadline.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The broker group that handed out a receipt handle.
///
/// # Errors
/// INVALID_RECEIPT_HANDLE.
pub fn owner_of_receipt(handle: &str) -> Result<String, Refusal> {
    let handle = ReceiptHandle::from_text(handle).map_err(|error| Refusal::invalid_receipt_handle(&error))?;
    Ok(handle.broker)
}

/// The broker group that stores a half message.
///
/// # Errors
/// INVALID_TRANSACTION_ID.
pub fn owner_of_transaction(id: &str) -> Result<String, Refusal> {
    let id = TransactionId::from_text(id).map_err(|error| Refusal::invalid_transaction_id(&error))?;
    Ok(id.broker)
}

/// The broker group that stores a scheduled message.
///
/// # Errors
/// BAD_REQUEST.
pub fn owner_of_recall(handle: &str) -> Result<String, Refusal> {
    let handle = RecallHandle::from_text(handle).map_err(|error| Refusal::invalid_recall_handle(&error))?;
    Ok(handle.broker)
}

/// The broker group whose queue a request names.
///
/// # Errors
/// BAD_REQUEST when it names none.
pub fn owner_of_queue(queue: Option<&v2::MessageQueue>) -> Result<String, Refusal> {
    let broker = queue.and_then(|queue| queue.broker.as_ref());
    match broker {
        Some(broker) if !broker.name.is_empty() => Ok(broker.name.clone()),
        _ => Err(Refusal::new(
            Code::BadRequest,
            "the request does not say which broker it is for; set message_queue.broker.name as QueryRoute gives it",
        )),
    }
}

/// Passes calls on. Every function answers with the owner's answer, or with a [`Refusal`] when the owner is not there.
#[derive(Debug)]
pub struct Relay {
    routes: Arc<Routes>,
    clients: Arc<Clients>,
    channels: Channels,
    shutdown: Shutdown,
}

impl Relay {
    /// A relay to the brokers in `routes` for the clients of this process. Long polls that are under way end when `shutdown`
    /// is requested.
    pub fn new(routes: Arc<Routes>, clients: Arc<Clients>, shutdown: Shutdown) -> Self {
        Self { routes, clients, channels: Channels::default(), shutdown }
    }

    /// Passes a SendMessage on to the broker group `owner`.
    ///
    /// # Errors
    /// As every function here: INTERNAL_SERVER_ERROR when the owner is not there, does not answer, or the call was passed on
    /// before; PROXY_TIMEOUT when it does not answer in time.
    pub async fn send_message(
        &self,
        owner: &str,
        request: Request<v2::SendMessageRequest>,
    ) -> Result<v2::SendMessageResponse, Refusal> {
        self.unary(owner, request, |mut broker, request| async move { broker.send_message(request).await })
            .await
    }

    /// Passes an EndTransaction on.
    ///
    /// # Errors
    /// See [`Self::send_message`].
    pub async fn end_transaction(
        &self,
        owner: &str,
        request: Request<v2::EndTransactionRequest>,
    ) -> Result<v2::EndTransactionResponse, Refusal> {
        self.unary(owner, request, |mut broker, request| async move { broker.end_transaction(request).await })
            .await
    }

    /// Passes an AckMessage on; all its entries must belong to `owner` (see [`acks`]).
    ///
    /// # Errors
    /// See [`Self::send_message`].
    pub async fn ack_message(
        &self,
        owner: &str,
        request: Request<v2::AckMessageRequest>,
    ) -> Result<v2::AckMessageResponse, Refusal> {
        self.unary(owner, request, |mut broker, request| async move { broker.ack_message(request).await })
            .await
    }

    /// Passes a ChangeInvisibleDuration on.
    ///
    /// # Errors
    /// See [`Self::send_message`].
    pub async fn change_invisible_duration(
        &self,
        owner: &str,
        request: Request<v2::ChangeInvisibleDurationRequest>,
    ) -> Result<v2::ChangeInvisibleDurationResponse, Refusal> {
        self.unary(owner, request, |mut broker, request| async move {
            broker.change_invisible_duration(request).await
        })
        .await
    }

    /// Passes a ForwardMessageToDeadLetterQueue on.
    ///
    /// # Errors
    /// See [`Self::send_message`].
    pub async fn forward_message_to_dead_letter_queue(
        &self,
        owner: &str,
        request: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<v2::ForwardMessageToDeadLetterQueueResponse, Refusal> {
        self.unary(owner, request, |mut broker, request| async move {
            broker.forward_message_to_dead_letter_queue(request).await
        })
        .await
    }

    /// Passes a RecallMessage on.
    ///
    /// # Errors
    /// See [`Self::send_message`].
    pub async fn recall_message(
        &self,
        owner: &str,
        request: Request<v2::RecallMessageRequest>,
    ) -> Result<v2::RecallMessageResponse, Refusal> {
        self.unary(owner, request, |mut broker, request| async move { broker.recall_message(request).await })
            .await
    }

    /// Passes a ReceiveMessage on. Dropping the stream ends the long poll at the owner too, which takes back what it handed out;
    /// so it does when the answer turns out not to have arrived on its `way` to the client.
    ///
    /// # Errors
    /// See [`Self::send_message`].
    pub async fn receive_message(
        self: &Arc<Self>,
        owner: &str,
        mut request: Request<v2::ReceiveMessageRequest>,
        way: AnswerWay,
    ) -> Result<RelayedStream<v2::ReceiveMessageResponse>, Refusal> {
        let under_way = UnderWay::begin(self, owner, &mut request);
        let receive = |mut broker: MessagingServiceClient<Channel>, request| {
            under_way.asked();
            async move { broker.receive_message(request).await }
        };
        let stream = self.stream(owner, request, receive).await?;
        Ok(stream.watched(under_way, way))
    }

    /// Passes a PullMessage on. Dropping the stream ends the long poll at the owner too.
    ///
    /// # Errors
    /// See [`Self::send_message`].
    pub async fn pull_message(
        &self,
        owner: &str,
        request: Request<v2::PullMessageRequest>,
    ) -> Result<RelayedStream<v2::PullMessageResponse>, Refusal> {
        self.stream(owner, request, |mut broker, request| async move { broker.pull_message(request).await })
            .await
    }

    /// Passes an UpdateOffset on.
    ///
    /// # Errors
    /// See [`Self::send_message`].
    pub async fn update_offset(
        &self,
        owner: &str,
        request: Request<v2::UpdateOffsetRequest>,
    ) -> Result<v2::UpdateOffsetResponse, Refusal> {
        self.unary(owner, request, |mut broker, request| async move { broker.update_offset(request).await })
            .await
    }

    /// Passes a GetOffset on.
    ///
    /// # Errors
    /// See [`Self::send_message`].
    pub async fn get_offset(
        &self,
        owner: &str,
        request: Request<v2::GetOffsetRequest>,
    ) -> Result<v2::GetOffsetResponse, Refusal> {
        self.unary(owner, request, |mut broker, request| async move { broker.get_offset(request).await })
            .await
    }

    /// Passes a QueryOffset on.
    ///
    /// # Errors
    /// See [`Self::send_message`].
    pub async fn query_offset(
        &self,
        owner: &str,
        request: Request<v2::QueryOffsetRequest>,
    ) -> Result<v2::QueryOffsetResponse, Refusal> {
        self.unary(owner, request, |mut broker, request| async move { broker.query_offset(request).await })
            .await
    }

    /// Passes a SyncLiteSubscription on. From then on the client's signs of life are, too.
    ///
    /// # Errors
    /// See [`Self::send_message`].
    pub async fn sync_lite_subscription(
        &self,
        owner: &str,
        request: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Result<v2::SyncLiteSubscriptionResponse, Refusal> {
        let client = ClientHeaders::lenient(request.metadata());
        let answer = self
            .unary(owner, request, |mut broker, request| async move {
                broker.sync_lite_subscription(request).await
            })
            .await?;
        self.clients.note_owner(&client.client_id, owner);
        Ok(answer)
    }

    async fn stream<Q, T, F>(
        &self,
        owner: &str,
        request: Request<Q>,
        call: impl Fn(MessagingServiceClient<Channel>, Request<Q>) -> F,
    ) -> Result<RelayedStream<T>, Refusal>
    where
        Q: Clone,
        T: stream::Item,
        F: Future<Output = Result<Response<Streaming<T>>, Status>>,
    {
        let client = ClientHeaders::lenient(request.metadata());
        let (address, messages) = tokio::select! {
            reached = self.reach(owner, request, call) => reached?,
            () = self.shutdown.requested() => return Err(stream::shutting_down()),
        };
        self.clients.note_owner(&client.client_id, owner);
        Ok(RelayedStream::new(messages, owner.to_owned(), address, &self.shutdown))
    }

    /// Passes a heartbeat on, in the background, to the brokers from which the client received through this server: what it
    /// holds there is its own while it lives.
    pub fn heartbeat(self: &Arc<Self>, client_id: &str, request: Request<v2::HeartbeatRequest>) {
        let owners = self.clients.owners(client_id);
        self.tell(owners, request, |mut broker, request| async move { broker.heartbeat(request).await });
    }

    /// Passes a goodbye on in the same way, to the brokers `owners`.
    pub fn notify_client_termination(
        self: &Arc<Self>,
        owners: Vec<String>,
        request: Request<v2::NotifyClientTerminationRequest>,
    ) {
        self.tell(owners, request, |mut broker, request| async move {
            broker.notify_client_termination(request).await
        });
    }

    fn tell<Q, R, F>(
        self: &Arc<Self>,
        owners: Vec<String>,
        request: Request<Q>,
        call: impl Fn(MessagingServiceClient<Channel>, Request<Q>) -> F + Copy + Send + Sync + 'static,
    ) where
        Q: Clone + Send + Sync + 'static,
        R: Send + 'static,
        F: Future<Output = Result<Response<R>, Status>> + Send + 'static,
    {
        let (metadata, _, message) = request.into_parts();
        for owner in owners {
            let request = Request::from_parts(metadata.clone(), Extensions::new(), message.clone());
            let relay = Arc::clone(self);
            tokio::spawn(async move {
                // Nothing depends on it at once: the next one may get through.
                if let Err(refusal) = relay.unary(&owner, request, call).await {
                    tracing::debug!(owner, %refusal, "a sign of life was not passed on");
                }
            });
        }
    }

    async fn unary<Q, R, F>(
        &self,
        owner: &str,
        mut request: Request<Q>,
        call: impl Fn(MessagingServiceClient<Channel>, Request<Q>) -> F,
    ) -> Result<R, Refusal>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        if !request.metadata().contains_key("grpc-timeout") {
            request.set_timeout(DEFAULT_TIMEOUT);
        }
        self.reach(owner, request, call).await.map(|(_, answer)| answer)
    }
}

/// Whether a call was passed on before.
pub fn is_relayed(metadata: &MetadataMap) -> bool {
    metadata.contains_key(RELAYED)
}

/// Makes the headers of a call those of a call of this server's own, which may be relayed. It has to see to it that such calls end.
pub fn own_call(metadata: &mut MetadataMap) {
    metadata.remove(RELAYED);
}

/// For a server that cannot answer for the group: refuses calls that were passed on to it with UNAVAILABLE and `why`. Who passed
/// them on looks for another master then, and does not take a refusal for the answer.
pub fn refuse_relayed(why: impl Fn() -> String + Clone) -> impl Interceptor + Clone {
    move |request: Request<()>| match is_relayed(request.metadata()) {
        true => Err(Status::unavailable(why())),
        false => Ok(request),
    }
}

#[cfg(test)]
mod tests;
