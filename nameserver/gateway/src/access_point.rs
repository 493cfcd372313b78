//! The access point: the SDKs' protocol as nameservers, brokers, and brokers that are not serving yet answer
//! it.
//!
//! Questions about routes and the conversation with clients are answered here. What concerns messages is answered by the broker
//! group that owns it: by this process, if it has [`OwnCalls`] of that group, else it is passed on.
//!
//! # Access points
//!
//! One implementation of the SDKs' protocol (`gateway/src/access_point.rs`) serves nameservers, masters, slaves,
//! and brokers that are not serving yet. `gateway/src/stack.rs` shows what every call passes on its way, in order;
//! `gateway/src/sdk/calls.rs` is the one list of calls, with the owner of each. Receipt handles, recall handles,
//! transaction ids and queues name the broker group that owns a call, so no look-up is needed: a master answers
//! its own calls (`sdk::OwnCalls`, `broker/src/rpc/messaging/mod.rs`), and passes on all others, one hop
//! (`gateway/src/relay/`). Headers are read once per call (`sdk/layers.rs`), and each call is one sign of life;
//! those are passed on to the brokers from which a client received through the relay. Brokers register with every
//! nameserver every two seconds and get the routes of the cluster back.

use std::sync::Arc;

use kerolox_model::limits::GRPC_DECODE_BYTES_MAX;
use kerolox_proto::raw;
use kerolox_proto::raw::messaging_service_server::{MessagingService, MessagingServiceServer};
use kerolox_proto::v2::{self, Code};
use kerolox_runtime::process::ShutdownSignal;
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};
use tower::Layer as _;

use crate::access::{self, Answer, ItemStream, refused_stream};
use crate::answers::AnswerWay;
use crate::clients::ClientSessions;
use crate::headers::ClientHeaders;
use crate::lite::sync_everywhere;
use crate::polling;
use crate::refusal::{Refusable as _, Refusal, ok_status};
use crate::relay::{CallRelay, acks, call_number};
use crate::routes::ClusterRoutes;
use crate::sdk::layers::{SessionLayer, SessionService};
use crate::sdk::{OwnCalls, OwnedCall, SdkCall};
use crate::spread::GroupRotation;
use crate::telemetry::{SettingsPolicy, TelemetryStream, telemetry};

/// The gRPC service, behind the layer that keeps sessions.
pub type AccessServer = SessionService<MessagingServiceServer<AccessPoint>>;

/// The SDKs' protocol.
pub struct AccessPoint {
    /// Either the service for clients, or the reason why there is none.
    serving: Result<Arc<Serving>, Why>,
}

/// Gives the reason why no client is served.
type Why = Box<dyn Fn() -> String + Send + Sync>;

/// What an access point is made of.
pub struct AccessParts {
    /// The routes to the brokers.
    pub routes: Arc<ClusterRoutes>,
    /// The clients that are connected to this server.
    pub clients: Arc<ClientSessions>,
    /// The way to the owners of calls.
    pub relay: Arc<CallRelay>,
    /// The settings that clients get.
    pub policy: Arc<dyn SettingsPolicy>,
}

struct Serving {
    parts: AccessParts,
    /// The broker group that this server belongs to without owning its messages: a slave's.
    home: Option<String>,
    /// What this process answers itself, if it is the master of a broker group.
    own: Option<Arc<dyn OwnCalls>>,
    /// Which writable broker a relayed send goes to.
    spread: GroupRotation,
}

impl AccessPoint {
    /// The service of a server that owns no messages. A slave names its broker group as `home`.
    pub fn server(
        routes: Arc<ClusterRoutes>,
        clients: Arc<ClientSessions>,
        policy: Arc<dyn SettingsPolicy>,
        home: Option<String>,
        shutdown: ShutdownSignal,
    ) -> AccessServer {
        let relay = Arc::new(CallRelay::new(Arc::clone(&routes), Arc::clone(&clients), shutdown));
        Self::serving(AccessParts { routes, clients, relay, policy }, home, None)
    }

    /// The service of the master of a broker group.
    pub fn of_master(parts: AccessParts, own: Arc<dyn OwnCalls>) -> AccessServer {
        Self::serving(parts, None, Some(own))
    }

    /// The service of a broker that does not serve for the time being. It refuses all calls with the sentence
    /// that `why` gives, in a code that makes SDKs try again elsewhere or later.
    pub fn refusing(why: impl Fn() -> String + Send + Sync + 'static) -> MessagingServiceServer<Self> {
        MessagingServiceServer::new(Self { serving: Err(Box::new(why)) })
            .max_decoding_message_size(GRPC_DECODE_BYTES_MAX)
    }

    fn serving(parts: AccessParts, home: Option<String>, own: Option<Arc<dyn OwnCalls>>) -> AccessServer {
        let sessions = SessionLayer::new(Arc::clone(&parts.clients));
        let serving = Ok(Arc::new(Serving { parts, home, own, spread: GroupRotation::default() }));
        let service = MessagingServiceServer::new(Self { serving })
            .max_decoding_message_size(GRPC_DECODE_BYTES_MAX)
            .max_encoding_message_size(GRPC_DECODE_BYTES_MAX);
        sessions.layer(service)
    }

    /// Lets a call in whose client says who it is.
    fn enter(&self, client: &ClientHeaders) -> Result<Arc<Serving>, Refusal> {
        let serving = self.serving.as_ref().map_err(|why| Refusal::new(Code::InternalServerError, why()))?;
        client.identified()?;
        Ok(Arc::clone(serving))
    }

    /// A call with one answer.
    async fn unary<C: SdkCall, F>(
        &self,
        request: Request<C>,
        handle: impl FnOnce(Arc<Serving>, Arc<ClientHeaders>, Request<C>) -> F + Send,
    ) -> Answer<C::Answer>
    where
        F: Future<Output = Result<C::Answer, Refusal>> + Send,
    {
        let client = ClientHeaders::of(&request);
        let repeated = request.get_ref().repeated();
        let outcome = match self.enter(&client) {
            Ok(serving) => handle(serving, Arc::clone(&client), request).await,
            Err(refusal) => Err(refusal),
        };
        let refused = |refusal: Refusal| C::refused(refusal.to_status(&client), repeated);
        Ok(Response::new(outcome.unwrap_or_else(refused)))
    }

    /// A call with one answer, by the owner of its subject.
    async fn owned<C: OwnedCall, F>(
        &self,
        request: Request<C>,
        here: impl FnOnce(Arc<dyn OwnCalls>, Request<C>) -> F + Send,
    ) -> Answer<C::Answer>
    where
        F: Future<Output = Result<C::Answer, Refusal>> + Send,
    {
        let handle = |serving: Arc<Serving>, _, request: Request<C>| async move {
            match serving.owner_of(request.get_ref())? {
                Owner::Own(own) => here(own, request).await,
                Owner::Other(group) => serving.parts.relay.unary(&group, request).await,
            }
        };
        self.unary(request, handle).await
    }

    /// A call that a stream answers.
    async fn streamed<C: SdkCall, F>(
        &self,
        request: Request<C>,
        handle: impl FnOnce(Arc<Serving>, Arc<ClientHeaders>, Request<C>) -> F + Send,
    ) -> Answer<ItemStream<C::Answer>>
    where
        F: Future<Output = Result<ItemStream<C::Answer>, Refusal>> + Send,
    {
        let client = ClientHeaders::of(&request);
        let outcome = match self.enter(&client) {
            Ok(serving) => handle(serving, Arc::clone(&client), request).await,
            Err(refusal) => Err(refusal),
        };
        Ok(Response::new(outcome.unwrap_or_else(|refusal| refused_stream(&client, &refusal))))
    }
}

/// Whose business a call is.
enum Owner {
    /// This process answers it.
    Own(Arc<dyn OwnCalls>),
    /// The master of this broker group does.
    Other(String),
}

impl Serving {
    fn owner_of(&self, call: &impl OwnedCall) -> Result<Owner, Refusal> {
        let group = call.owner()?;
        Ok(match &self.own {
            Some(own) if own.group() == group => Owner::Own(Arc::clone(own)),
            _ => Owner::Other(group),
        })
    }

    /// The broker group for a relayed send. A send to a slave has chosen the slave's group, even if only the master has heard of
    /// the topic yet. Elsewhere messages of one message group or lite topic always go to the same one, and others take turns.
    async fn choose_broker(&self, request: &raw::SendMessageRequest) -> Result<String, Refusal> {
        let message = request.messages.first().ok_or_else(|| {
            Refusal::new(Code::MessageCorrupted, "the request holds no message; send at least one")
        })?;
        let message = v2::Message::decode(message.clone()).map_err(|error| {
            Refusal::new(Code::MessageCorrupted, format!("the message cannot be decoded: {error}"))
        })?;
        let query = |routes: &ClusterRoutes| routes.writable_groups(message.topic.as_ref());
        let groups = match &self.home {
            None => self.parts.routes.through_election(query).await?,
            Some(home) => match query(&self.parts.routes) {
                Ok(groups) if !groups.contains(home) => groups,
                Err(refusal) if !refusal.is_of_unknown_topic() => return Err(refusal),
                _ => return Ok(home.clone()),
            },
        };
        let mut order = self.spread.order(groups, &message);
        Ok(order.swap_remove(0))
    }

    async fn send(
        &self,
        request: Request<raw::SendMessageRequest>,
    ) -> Result<v2::SendMessageResponse, Refusal> {
        match &self.own {
            Some(own) => own.send_message(request).await,
            None => {
                let owner = self.choose_broker(request.get_ref()).await?;
                self.parts.relay.unary(&owner, request).await
            }
        }
    }

    async fn receive(
        &self,
        client: &ClientHeaders,
        mut request: Request<v2::ReceiveMessageRequest>,
    ) -> Result<ItemStream<raw::ReceiveMessageResponse>, Refusal> {
        polling::fill_in(request.get_mut(), client, &self.parts.clients);
        match self.owner_of(request.get_ref())? {
            Owner::Own(own) => own.receive_message(request).await,
            Owner::Other(group) => {
                let way = AnswerWay::back(request.extensions());
                Ok(Box::pin(self.parts.relay.receive_message(&group, request, way).await?))
            }
        }
    }

    /// The entries of an acknowledgement go to their owners, and the results come back in the order of the request.
    async fn acknowledge(
        &self,
        client: &ClientHeaders,
        request: Request<v2::AckMessageRequest>,
    ) -> Result<v2::AckMessageResponse, Refusal> {
        let (metadata, _, v2::AckMessageRequest { group, topic, entries }) = request.into_parts();
        if entries.is_empty() {
            return match (&self.own, call_number(&metadata)) {
                (Some(own), Some(number)) => {
                    own.call_broke(number);
                    Ok(v2::AckMessageResponse::refused(ok_status()))
                }
                _ => Err(Refusal::invalid_receipt_handle(
                    "the request acknowledges nothing; add an entry with the message's receipt handle",
                )),
            };
        }
        let acks::AckPlan { mut by_owner, refused: mut results } = acks::plan(entries);
        let own = self.own.as_ref().and_then(|own| Some((own, by_owner.remove(own.group())?)));
        if !by_owner.is_empty() {
            let parts = (metadata, group.clone(), topic.clone());
            results.extend(access::relay_acks(&self.parts.relay, parts, by_owner).await);
        }
        if let Some((own, entries)) = own {
            results.extend(own.ack_message(client, group.as_ref(), topic.as_ref(), entries).await?);
        }
        Ok(acks::merge(results))
    }

    async fn sync_lite(
        &self,
        request: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Result<v2::SyncLiteSubscriptionResponse, Refusal> {
        if let Some(own) = &self.own {
            return own.sync_lite_subscription(request).await;
        }
        let owners = self.parts.routes.readable_groups(request.get_ref().topic.as_ref())?;
        let (metadata, _, message) = request.into_parts();
        sync_everywhere(&self.parts.relay, owners, metadata, &message).await?;
        Ok(v2::SyncLiteSubscriptionResponse { status: Some(ok_status()) })
    }
}

#[tonic::async_trait]
impl MessagingService for AccessPoint {
    type ReceiveMessageStream = ItemStream<raw::ReceiveMessageResponse>;
    type PullMessageStream = ItemStream<raw::PullMessageResponse>;
    type TelemetryStream = TelemetryStream;

    async fn query_route(&self, request: Request<v2::QueryRouteRequest>) -> Answer<v2::QueryRouteResponse> {
        let handle = |serving: Arc<Serving>, client: Arc<ClientHeaders>, request: Request<_>| async move {
            access::query_route(&client, request.into_inner(), &serving.parts.routes).await
        };
        self.unary(request, handle).await
    }

    async fn query_assignment(
        &self,
        request: Request<v2::QueryAssignmentRequest>,
    ) -> Answer<v2::QueryAssignmentResponse> {
        let handle = |serving: Arc<Serving>, client: Arc<ClientHeaders>, request: Request<_>| async move {
            access::query_assignment(&client, request.into_inner(), &serving.parts.routes).await
        };
        self.unary(request, handle).await
    }

    /// A heartbeat counts whether or not the client ever sent settings: after a restart of this server some never do again.
    async fn heartbeat(&self, request: Request<v2::HeartbeatRequest>) -> Answer<v2::HeartbeatResponse> {
        let handle = |serving: Arc<Serving>, client: Arc<ClientHeaders>, request| async move {
            serving.parts.relay.heartbeat(&client.client_id, request);
            Ok(v2::HeartbeatResponse { status: Some(ok_status()) })
        };
        self.unary(request, handle).await
    }

    /// A goodbye of a client that is not known is fine.
    async fn notify_client_termination(
        &self,
        request: Request<v2::NotifyClientTerminationRequest>,
    ) -> Answer<v2::NotifyClientTerminationResponse> {
        let handle = |serving: Arc<Serving>, client: Arc<ClientHeaders>, request| async move {
            if let Some(own) = &serving.own {
                own.client_left(&client.client_id);
            }
            let AccessParts { clients, relay, .. } = &serving.parts;
            let owners = clients.owners(&client.client_id);
            clients.terminate(&client.client_id);
            relay.notify_client_termination(owners, request);
            Ok(v2::NotifyClientTerminationResponse { status: Some(ok_status()) })
        };
        self.unary(request, handle).await
    }

    async fn telemetry(&self, request: Request<Streaming<v2::TelemetryCommand>>) -> Answer<TelemetryStream> {
        match &self.serving {
            Ok(serving) => {
                let AccessParts { clients, policy, relay, .. } = &serving.parts;
                telemetry(request, clients, policy, relay)
            }
            Err(why) => Err(Status::unavailable(why())),
        }
    }

    async fn send_message(
        &self,
        request: Request<raw::SendMessageRequest>,
    ) -> Answer<v2::SendMessageResponse> {
        self.unary(request, |serving, _, request| async move { serving.send(request).await }).await
    }

    async fn end_transaction(
        &self,
        request: Request<v2::EndTransactionRequest>,
    ) -> Answer<v2::EndTransactionResponse> {
        self.owned(request, |own, request| async move { own.end_transaction(request).await }).await
    }

    async fn receive_message(
        &self,
        request: Request<v2::ReceiveMessageRequest>,
    ) -> Answer<Self::ReceiveMessageStream> {
        let handle = |serving: Arc<Serving>, client: Arc<ClientHeaders>, request| async move {
            serving.receive(&client, request).await
        };
        self.streamed(request, handle).await
    }

    async fn ack_message(&self, request: Request<v2::AckMessageRequest>) -> Answer<v2::AckMessageResponse> {
        let handle = |serving: Arc<Serving>, client: Arc<ClientHeaders>, request| async move {
            serving.acknowledge(&client, request).await
        };
        self.unary(request, handle).await
    }

    async fn change_invisible_duration(
        &self,
        request: Request<v2::ChangeInvisibleDurationRequest>,
    ) -> Answer<v2::ChangeInvisibleDurationResponse> {
        self.owned(request, |own, request| async move { own.change_invisible_duration(request).await }).await
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Answer<v2::ForwardMessageToDeadLetterQueueResponse> {
        let here = |own: Arc<dyn OwnCalls>, request| async move {
            own.forward_message_to_dead_letter_queue(request).await
        };
        self.owned(request, here).await
    }

    async fn recall_message(
        &self,
        request: Request<v2::RecallMessageRequest>,
    ) -> Answer<v2::RecallMessageResponse> {
        self.owned(request, |own, request| async move { own.recall_message(request).await }).await
    }

    async fn pull_message(
        &self,
        request: Request<v2::PullMessageRequest>,
    ) -> Answer<Self::PullMessageStream> {
        let handle = |serving: Arc<Serving>, _, request: Request<v2::PullMessageRequest>| async move {
            let pulled: ItemStream<_> = match serving.owner_of(request.get_ref())? {
                Owner::Own(own) => own.pull_message(request).await?,
                Owner::Other(group) => Box::pin(serving.parts.relay.stream(&group, request).await?),
            };
            Ok(pulled)
        };
        self.streamed(request, handle).await
    }

    async fn update_offset(
        &self,
        request: Request<v2::UpdateOffsetRequest>,
    ) -> Answer<v2::UpdateOffsetResponse> {
        self.owned(request, |own, request| async move { own.update_offset(request).await }).await
    }

    async fn get_offset(&self, request: Request<v2::GetOffsetRequest>) -> Answer<v2::GetOffsetResponse> {
        self.owned(request, |own, request| async move { own.get_offset(request).await }).await
    }

    async fn query_offset(
        &self,
        request: Request<v2::QueryOffsetRequest>,
    ) -> Answer<v2::QueryOffsetResponse> {
        self.owned(request, |own, request| async move { own.query_offset(request).await }).await
    }

    async fn sync_lite_subscription(
        &self,
        request: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Answer<v2::SyncLiteSubscriptionResponse> {
        self.unary(request, |serving, _, request| async move { serving.sync_lite(request).await }).await
    }
}
