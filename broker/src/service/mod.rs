//! The SDK protocol and the admin interface as this broker serves them. One file per family of calls; this one routes.

mod ack;
mod admin;
mod auto_create;
mod batch;
mod closed;
mod dead_letters;
mod desk;
mod desk_server;
mod explain;
mod failure;
mod groups;
mod handed;
mod lite;
mod lite_list;
mod offsets;
mod other_groups;
mod pass_on;
mod pull;
mod query;
mod rates;
mod recall;
mod receive;
mod send;
mod timers;
mod transaction;

use std::sync::Arc;

use kerolox_core::filter::Filter;
use kerolox_core::group::Group;
use kerolox_core::lite::client_quota;
use kerolox_core::publish::PublishLimits;
use kerolox_core::schedule::DelayPolicy;
use kerolox_core::topic::Topic;
use kerolox_core::transaction::CheckPolicy;
use kerolox_gateway::access::{self, Answer, Items, answer, refused_stream};
use kerolox_gateway::answers::{AnswerWay, PassedAnswers};
use kerolox_gateway::clients::Clients;
use kerolox_gateway::headers::ClientHeaders;
use kerolox_gateway::polling;
use kerolox_gateway::producers::Reach;
use kerolox_gateway::refusal::{Refusable as _, Refusal, ok_status};
use kerolox_gateway::relay::{self, Relay};
use kerolox_gateway::routes::{Routes, stored_topic};
use kerolox_gateway::spread::Spread;
use kerolox_gateway::telemetry::{GroupPolicy, SettingsPolicy, TelemetryStream, telemetry};
use kerolox_model::limits::GRPC_DECODE_BYTES_MAX;
use kerolox_model::names::{in_namespace, validate_group};
use kerolox_proto::raw::{
    self,
    messaging_service_server::{MessagingService, MessagingServiceServer},
};
use kerolox_proto::v2::{self, Code};
use kerolox_runtime::process::Shutdown;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::config::LiteConfig;
use crate::delivery::Deliveries;
use crate::engine::Engine;
use crate::pace::Scans;
use crate::wire;
use kerolox_store::GuardedClock;

pub(crate) use admin::{Admin, Counters};
pub(crate) use auto_create::AutoTopics;
pub(crate) use closed::Door;
pub(crate) use desk_server::DeskServer;
pub(crate) use other_groups::Turns;

/// What the calls need of the broker.
pub(crate) struct Context {
    /// Name of this broker group.
    pub(crate) broker: String,
    /// Address that clients are told.
    pub(crate) address: String,
    pub(crate) engine: Engine,
    pub(crate) deliveries: Arc<Deliveries>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) clients: Arc<Clients>,
    /// The way to clients that are connected to other servers.
    pub(crate) reach: Arc<Reach>,
    pub(crate) relay: Arc<Relay>,
    /// Which group takes what this one passes on.
    pub(crate) spread: Spread,
    pub(crate) limits: PublishLimits,
    /// How topics come into being with their first message, if they do.
    pub(crate) auto_topics: Option<AutoTopics>,
    pub(crate) delays: DelayPolicy,
    pub(crate) clock: Arc<GuardedClock>,
    pub(crate) lite: LiteConfig,
    pub(crate) checks: CheckPolicy,
    pub(crate) counters: Arc<Counters>,
    /// The share of those who look through many messages.
    pub(crate) scans: Scans,
    /// Whose turn it is among the broker groups of lite topics.
    pub(crate) turns: Turns,
    /// What was handed out to calls that other servers passed on.
    pub(crate) passed: Arc<PassedAnswers>,
    /// For how long messages stay at a time with consumers that have them renewed, in milliseconds.
    pub(crate) auto_renew_ms: u64,
    pub(crate) shutdown: Shutdown,
}

impl Context {
    /// Reads the headers and counts the call as a sign of life.
    fn greet<T>(&self, request: &Request<T>) -> Result<ClientHeaders, Refusal> {
        let headers = ClientHeaders::from_metadata(request.metadata())?;
        self.clients.touch(&headers.client_id);
        Ok(headers)
    }

    /// How the answer goes to the client.
    fn way_back<T>(&self, request: &Request<T>) -> AnswerWay {
        let number = relay::call_number(request.metadata());
        AnswerWay::back(request.extensions()).through(number, &self.passed)
    }

    /// Whether a call for `owner` belongs to another broker.
    fn is_foreign(&self, owner: &str) -> bool {
        owner != self.broker
    }

    /// The broker group whose queue a call is about; `None` when it is this one.
    fn owner_of<T>(
        &self,
        request: &Request<T>,
        queue: Option<&v2::MessageQueue>,
    ) -> Result<Option<String>, Refusal> {
        self.greet(request)?;
        let owner = relay::owner_of_queue(queue)?;
        Ok(Some(owner).filter(|owner| self.is_foreign(owner)))
    }

    /// The topic that a client names.
    fn topic(&self, resource: Option<&v2::Resource>) -> Result<Arc<Topic>, Refusal> {
        let name = stored_topic(resource)?;
        let topic = self.engine.store().state().topics.get(&name);
        topic.ok_or_else(|| {
            Refusal::new(
                Code::TopicNotFound,
                format!(
                    "broker {} has no topic {name:?}; create it with `mqadmin updateTopic -t {name}`, or have topics created with their first message (topics.auto-create = \"on\")",
                    self.broker
                ),
            )
        })
    }

    /// The consumer group that a client names.
    async fn group(&self, resource: Option<&v2::Resource>, client: &str) -> Result<Arc<Group>, Refusal> {
        self.deliveries.group(&stored_group(resource)?, client).await
    }
}

/// The stored name of the consumer group that a client names.
fn stored_group(resource: Option<&v2::Resource>) -> Result<String, Refusal> {
    let blank = v2::Resource::default();
    let resource = resource.unwrap_or(&blank);
    validate_group(&resource.name).map_err(|error| Refusal::illegal_group(&error))?;
    Ok(in_namespace(&resource.resource_namespace, &resource.name))
}

/// The filter that a consumer asks for; none means every message.
fn parse_filter(filter: Option<&v2::FilterExpression>) -> Result<Filter, Refusal> {
    let parsed = filter.map_or(Ok(Filter::All), wire::filter);
    parsed.map_err(|reason| Refusal::new(Code::IllegalFilterExpression, reason))
}

/// Answers made by code that knows messages decoded, in the form in which this service sends them.
fn still_encoded<T, E>(items: impl Stream<Item = Result<T, Status>> + Send + 'static) -> Items<E>
where
    E: From<T> + 'static,
{
    Box::pin(items.map(|item| item.map(E::from)))
}

/// What this broker tells clients about themselves.
pub(crate) struct Policy {
    pub(crate) engine: Engine,
    pub(crate) limits: PublishLimits,
}

impl SettingsPolicy for Policy {
    fn max_body_bytes(&self) -> usize {
        self.limits.body_bytes_max
    }

    fn group(&self, stored_group: &str) -> GroupPolicy {
        let group = self.engine.store().state().groups.get(stored_group);
        group.map_or_else(GroupPolicy::default, |group| GroupPolicy {
            max_attempts: group.max_attempts(),
            fifo: group.fifo,
            backoff: group.backoff(),
            lite_quota: client_quota(&group),
        })
    }

    fn check_filter(&self, filter: &v2::FilterExpression) -> Result<(), Refusal> {
        parse_filter(Some(filter)).map(drop)
    }
}

/// The SDK protocol.
pub(crate) struct Messaging {
    context: Arc<Context>,
    policy: Arc<dyn SettingsPolicy>,
}

impl Messaging {
    pub(crate) fn server(
        context: Arc<Context>,
        policy: Arc<dyn SettingsPolicy>,
    ) -> MessagingServiceServer<Self> {
        MessagingServiceServer::new(Self { context, policy })
            .max_decoding_message_size(GRPC_DECODE_BYTES_MAX)
            .max_encoding_message_size(GRPC_DECODE_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl MessagingService for Messaging {
    type ReceiveMessageStream = Items<raw::ReceiveMessageResponse>;
    type PullMessageStream = Items<raw::PullMessageResponse>;
    type TelemetryStream = TelemetryStream;

    async fn query_route(&self, request: Request<v2::QueryRouteRequest>) -> Answer<v2::QueryRouteResponse> {
        access::query_route(request, &self.context.routes, &self.context.clients).await
    }

    async fn query_assignment(
        &self,
        request: Request<v2::QueryAssignmentRequest>,
    ) -> Answer<v2::QueryAssignmentResponse> {
        access::query_assignment(request, &self.context.routes, &self.context.clients).await
    }

    async fn heartbeat(&self, request: Request<v2::HeartbeatRequest>) -> Answer<v2::HeartbeatResponse> {
        access::heartbeat(request, &self.context.clients, &self.context.relay)
    }

    async fn notify_client_termination(
        &self,
        request: Request<v2::NotifyClientTerminationRequest>,
    ) -> Answer<v2::NotifyClientTerminationResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        self.context.deliveries.client_left(&headers.client_id);
        access::notify_client_termination(request, &self.context.clients, &self.context.relay)
    }

    async fn telemetry(&self, request: Request<Streaming<v2::TelemetryCommand>>) -> Answer<TelemetryStream> {
        telemetry(request, &self.context.clients, &self.policy, &self.context.relay)
    }

    async fn send_message(
        &self,
        request: Request<raw::SendMessageRequest>,
    ) -> Answer<v2::SendMessageResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let sent = match self.context.greet(&request) {
            Ok(client) => match pass_on::pass_on(&self.context, &request).await {
                Some(answer) => Ok(answer),
                None => send::send_message(&self.context, &client, request.into_inner()).await,
            },
            Err(refusal) => Err(refusal),
        };
        answer(&headers, sent)
    }

    async fn end_transaction(
        &self,
        request: Request<v2::EndTransactionRequest>,
    ) -> Answer<v2::EndTransactionResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let ended = match self.context.greet(&request) {
            Ok(client) => transaction::end_transaction(&self.context, &client, request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, ended)
    }

    async fn receive_message(
        &self,
        mut request: Request<v2::ReceiveMessageRequest>,
    ) -> Answer<Self::ReceiveMessageStream> {
        let headers = ClientHeaders::lenient(request.metadata());
        polling::fill_in(request.get_mut(), &headers, &self.context.clients);
        let received = match self.context.owner_of(&request, request.get_ref().message_queue.as_ref()) {
            Ok(Some(owner)) => {
                let way = self.context.way_back(&request);
                self.context.relay.receive_message(&owner, request, way).await.map(still_encoded)
            }
            Ok(None) => {
                let way = self.context.way_back(&request);
                let (metadata, _, message) = request.into_parts();
                let call = receive::Call { client: &headers, metadata: &metadata, way };
                receive::receive_message(&self.context, &call, message).await
            }
            Err(refusal) => Err(refusal),
        };
        let refused =
            |refusal| still_encoded(refused_stream::<v2::ReceiveMessageResponse>(&headers, &refusal));
        Ok(Response::new(received.unwrap_or_else(refused)))
    }

    async fn ack_message(&self, request: Request<v2::AckMessageRequest>) -> Answer<v2::AckMessageResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        if let (Some(call), true) =
            (relay::call_number(request.metadata()), request.get_ref().entries.is_empty())
        {
            // No sign of life of the client: it may have gone with the call.
            self.context.passed.broke(call);
            return answer(&headers, Ok(v2::AckMessageResponse::refused(ok_status())));
        }
        let acked = match self.context.greet(&request) {
            Ok(_) => ack::ack_message(&self.context, request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, acked)
    }

    async fn change_invisible_duration(
        &self,
        request: Request<v2::ChangeInvisibleDurationRequest>,
    ) -> Answer<v2::ChangeInvisibleDurationResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let receipt_handle = request.get_ref().receipt_handle.clone();
        let changed = match self.context.greet(&request) {
            Ok(_) => ack::change_invisible_duration(&self.context, request).await,
            Err(refusal) => Err(refusal),
        };
        // SDKs keep the handle of the answer whatever its status, so a refusal gives back the one that they have.
        Ok(Response::new(changed.unwrap_or_else(|refusal| v2::ChangeInvisibleDurationResponse {
            status: Some(refusal.to_status(&headers)),
            receipt_handle,
        })))
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Answer<v2::ForwardMessageToDeadLetterQueueResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let forwarded = match self.context.greet(&request) {
            Ok(_) => ack::forward_to_dead_letter_queue(&self.context, request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, forwarded)
    }

    async fn recall_message(
        &self,
        request: Request<v2::RecallMessageRequest>,
    ) -> Answer<v2::RecallMessageResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let recalled = match self.context.greet(&request) {
            Ok(client) => recall::recall_message(&self.context, &client, request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, recalled)
    }

    async fn pull_message(
        &self,
        request: Request<v2::PullMessageRequest>,
    ) -> Answer<Self::PullMessageStream> {
        let headers = ClientHeaders::lenient(request.metadata());
        let pulled = match self.context.owner_of(&request, request.get_ref().message_queue.as_ref()) {
            Ok(Some(owner)) => self.context.relay.pull_message(&owner, request).await.map(still_encoded),
            Ok(None) => pull::pull_message(&self.context, &headers, request.into_inner()).await,
            Err(refusal) => Err(refusal),
        };
        let refused = |refusal| still_encoded(refused_stream::<v2::PullMessageResponse>(&headers, &refusal));
        Ok(Response::new(pulled.unwrap_or_else(refused)))
    }

    async fn update_offset(
        &self,
        request: Request<v2::UpdateOffsetRequest>,
    ) -> Answer<v2::UpdateOffsetResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let outcome = match self.context.owner_of(&request, request.get_ref().message_queue.as_ref()) {
            Ok(Some(owner)) => self.context.relay.update_offset(&owner, request).await,
            Ok(None) => offsets::update_offset(&self.context, &headers, &request.into_inner()).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, outcome)
    }

    async fn get_offset(&self, request: Request<v2::GetOffsetRequest>) -> Answer<v2::GetOffsetResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let outcome = match self.context.owner_of(&request, request.get_ref().message_queue.as_ref()) {
            Ok(Some(owner)) => self.context.relay.get_offset(&owner, request).await,
            Ok(None) => offsets::get_offset(&self.context, request.get_ref()),
            Err(refusal) => Err(refusal),
        };
        answer(&headers, outcome)
    }

    async fn query_offset(
        &self,
        request: Request<v2::QueryOffsetRequest>,
    ) -> Answer<v2::QueryOffsetResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let outcome = match self.context.owner_of(&request, request.get_ref().message_queue.as_ref()) {
            Ok(Some(owner)) => self.context.relay.query_offset(&owner, request).await,
            Ok(None) => offsets::query_offset(&self.context, request.get_ref()),
            Err(refusal) => Err(refusal),
        };
        answer(&headers, outcome)
    }

    async fn sync_lite_subscription(
        &self,
        request: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Answer<v2::SyncLiteSubscriptionResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let synced = match self.context.greet(&request) {
            Ok(client) => lite::sync_lite_subscription(&self.context, &client, request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, synced)
    }
}
