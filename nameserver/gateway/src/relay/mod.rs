//! Passing calls on, one hop, to the broker that owns their subject.
//!
//! The SDKs send some calls to the server that they were configured with rather than to the owner. Receipt handles,
//! transaction ids, recall handles and `message_queue.broker.name` name the owner, so any server can pass them on.
//!
//! # Find the master
//!
//! For clients a group is one broker with the addresses of all its members (`gateway/src/routes/view.rs`), or with
//! that of the server they asked if they cannot try addresses in turn. Who passes a call on
//! (`gateway/src/relay/reach.rs`) looks for the master through an election, makes the call again when its server
//! was lost, and does not wait for one that was replaced: nameservers and members know each epoch from the
//! controller, so routes drop a deposed master at once. A slave that is taken for the master says so with
//! UNAVAILABLE. A member that no longer rules sends ReconnectEndpoints to the clients that know all members
//! (`clients/mod.rs`): the Rust client reads its routes again, the SDK for Java notes it. The others know one
//! server only and would come back to it, and Node.js 1.0.8 would leave its old stream without a listener for
//! errors, which ends the process when the connection breaks.

pub mod acks;
pub mod administration;
mod announcing;
mod channels;
mod reach;
mod stream;
mod under_way;

use std::sync::Arc;
use std::time::Duration;

use kerolox_proto::{raw, v2};
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::transport::Channel;
use tonic::{Extensions, Request, Status};
use tonic_prost::ProstCodec;

pub(crate) use channels::Channels;
pub(crate) use kerolox_runtime::listen::RELAYED;
use kerolox_runtime::process::ShutdownSignal;
pub use stream::{RelayedStream, StreamItem};
pub(crate) use under_way::CALL_NUMBER;
pub use under_way::call_number;

use crate::answers::AnswerWay;
use crate::clients::ClientSessions;
use crate::headers::ClientHeaders;
use crate::refusal::Refusal;
use crate::routes::ClusterRoutes;
use crate::sdk::SdkCall;
use under_way::UnderWay;

/// How long an owner may take for a unary call whose client sets no deadline.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Passes calls on. Every function answers with the owner's answer, or with a [`Refusal`] when the owner is not there.
#[derive(Debug)]
pub struct CallRelay {
    routes: Arc<ClusterRoutes>,
    clients: Arc<ClientSessions>,
    channels: Channels,
    shutdown: ShutdownSignal,
}

impl CallRelay {
    /// A relay to the brokers in `routes` for the clients of this process. Long polls that are under way end when `shutdown`
    /// is requested.
    pub fn new(routes: Arc<ClusterRoutes>, clients: Arc<ClientSessions>, shutdown: ShutdownSignal) -> Self {
        Self { routes, clients, channels: Channels::default(), shutdown }
    }

    /// The brokers that it reaches.
    pub(crate) fn routes(&self) -> &ClusterRoutes {
        &self.routes
    }

    /// Passes a call with one answer on to the broker group `owner`.
    ///
    /// # Errors
    /// As every function here: INTERNAL_SERVER_ERROR when the owner is not there, does not answer, or the call was passed on
    /// before; PROXY_TIMEOUT when it does not answer in time.
    pub async fn unary<C: SdkCall>(
        &self,
        owner: &str,
        mut request: Request<C>,
    ) -> Result<C::Answer, Refusal> {
        if !request.metadata().contains_key("grpc-timeout") {
            request.set_timeout(DEFAULT_TIMEOUT);
        }
        let call = |mut broker: Grpc<Channel>, request: Request<C>| async move {
            ready(&mut broker).await?;
            broker.unary(request, PathAndQuery::from_static(C::PATH), Codec::<C>::default()).await
        };
        self.reach(owner, request, call).await.map(|(_, answer)| answer)
    }

    /// Passes a ReceiveMessage on. Dropping the stream ends the long poll at the owner too, which takes back what it handed out;
    /// so it does when the answer turns out not to have arrived on its `way` to the client.
    ///
    /// # Errors
    /// As [`Self::unary`].
    pub async fn receive_message(
        self: &Arc<Self>,
        owner: &str,
        mut request: Request<v2::ReceiveMessageRequest>,
        way: AnswerWay,
    ) -> Result<RelayedStream<raw::ReceiveMessageResponse>, Refusal> {
        let under_way = UnderWay::begin(self, owner, &mut request);
        let stream = self.stream_asked(owner, request, || under_way.asked()).await?;
        Ok(stream.watched(under_way, way))
    }

    /// Passes a call that a stream answers on. Dropping the stream ends the long poll at the owner too.
    ///
    /// # Errors
    /// As [`Self::unary`].
    pub async fn stream<C: SdkCall>(
        &self,
        owner: &str,
        request: Request<C>,
    ) -> Result<RelayedStream<C::Answer>, Refusal>
    where
        C::Answer: StreamItem,
    {
        self.stream_asked(owner, request, || ()).await
    }

    /// Passes it on, and says `asked` when the owner may have heard of it.
    async fn stream_asked<C: SdkCall>(
        &self,
        owner: &str,
        request: Request<C>,
        asked: impl Fn(),
    ) -> Result<RelayedStream<C::Answer>, Refusal>
    where
        C::Answer: StreamItem,
    {
        let client = ClientHeaders::of(&request);
        let call = |mut broker: Grpc<Channel>, request: Request<C>| {
            asked();
            async move {
                ready(&mut broker).await?;
                broker
                    .server_streaming(request, PathAndQuery::from_static(C::PATH), Codec::<C>::default())
                    .await
            }
        };
        let (address, messages) = tokio::select! {
            reached = self.reach(owner, request, call) => reached?,
            () = self.shutdown.requested() => return Err(stream::shutting_down()),
        };
        self.clients.note_owner(&client.client_id, owner);
        Ok(RelayedStream::new(messages, owner.to_owned(), address, &self.shutdown))
    }

    /// Passes a SyncLiteSubscription on. From then on the client's signs of life are, too.
    ///
    /// # Errors
    /// As [`Self::unary`].
    pub async fn sync_lite_subscription(
        &self,
        owner: &str,
        request: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Result<v2::SyncLiteSubscriptionResponse, Refusal> {
        let client = ClientHeaders::of(&request);
        let answer = self.unary(owner, request).await?;
        self.clients.note_owner(&client.client_id, owner);
        Ok(answer)
    }

    /// Passes a heartbeat on, in the background, to the brokers from which the client received through this server: what it
    /// holds there is its own while it lives.
    pub fn heartbeat(self: &Arc<Self>, client_id: &str, request: Request<v2::HeartbeatRequest>) {
        let owners = self.clients.owners(client_id);
        self.tell(owners, request);
    }

    /// Passes a goodbye on in the same way, to the brokers `owners`.
    pub fn notify_client_termination(
        self: &Arc<Self>,
        owners: Vec<String>,
        request: Request<v2::NotifyClientTerminationRequest>,
    ) {
        self.tell(owners, request);
    }

    fn tell<C: SdkCall>(self: &Arc<Self>, owners: Vec<String>, request: Request<C>) {
        let (metadata, _, message) = request.into_parts();
        for owner in owners {
            let request = Request::from_parts(metadata.clone(), Extensions::new(), message.clone());
            let relay = Arc::clone(self);
            tokio::spawn(async move {
                // Nothing depends on it at once: the next one may get through.
                if let Err(refusal) = relay.unary(&owner, request).await {
                    tracing::debug!(owner, %refusal, "a sign of life was not passed on");
                }
            });
        }
    }
}

/// How the request and the answer of a call are written.
type Codec<C> = ProstCodec<C, <C as SdkCall>::Answer>;

/// Waits until the connection takes a call.
async fn ready(broker: &mut Grpc<Channel>) -> Result<(), Status> {
    broker.ready().await.map_err(|error| Status::unknown(format!("the connection is not ready: {error}")))
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
