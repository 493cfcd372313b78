//! The SDKs' calls about data of this broker, one file for each family; this one routes.

mod ack;
mod auto_create;
mod batch;
mod handed;
mod lite;
mod offsets;
mod other_groups;
mod pass_on;
mod pull;
mod recall;
mod receive;
mod receiver;
mod send;
mod transaction;

use std::sync::Arc;

use kerolox_core::filter::Filter;
use kerolox_core::group::Group;
use kerolox_core::lite::client_quota;
use kerolox_core::publish::PublishLimits;
use kerolox_core::schedule::DelayPolicy;
use kerolox_core::topic::Topic;
use kerolox_core::transaction::CheckPolicy;
use kerolox_gateway::access::ItemStream;
use kerolox_gateway::access_point::{AccessParts, AccessPoint, AccessServer};
use kerolox_gateway::answers::{AnswerWay, PassedAnswers};
use kerolox_gateway::clients::ClientSessions;
use kerolox_gateway::headers::ClientHeaders;
use kerolox_gateway::producers::ClientReach;
use kerolox_gateway::refusal::Refusal;
use kerolox_gateway::relay::{self, CallRelay};
use kerolox_gateway::routes::{ClusterRoutes, stored_topic};
use kerolox_gateway::sdk::{OwnCalls, PlacedEntries};
use kerolox_gateway::spread::GroupRotation;
use kerolox_gateway::telemetry::{GroupPolicy, RegisteredPolicy, SettingsPolicy};
use kerolox_model::names::{in_namespace, validate_group};
use kerolox_proto::raw;
use kerolox_proto::v2::{self, Code};
use kerolox_runtime::process::ShutdownSignal;
use tonic::Request;

use crate::config::LiteConfig;
use crate::dedup_gate::Underway;
use crate::delivery::DeliveryDirectory;
use crate::log_client::LogClient;
use crate::message_reader::MessageReader;
use crate::metadata::BrokerMetadata;
use crate::pace::Scans;
use crate::rpc::Counters;
use crate::wire;
use kerolox_store::GuardedClock;

pub(crate) use auto_create::AutoTopics;
pub(crate) use other_groups::Turns;
pub(in crate::rpc) use recall::{end_timer, pending};

/// Dependencies of the calls.
pub(crate) struct Context {
    /// Name of this broker group.
    pub(crate) broker: String,
    /// Address that clients use.
    pub(crate) address: String,
    pub(crate) log: LogClient,
    pub(crate) metadata: BrokerMetadata,
    pub(crate) reader: MessageReader,
    /// Messages being stored in topics with deduplication.
    pub(crate) underway: Underway,
    pub(crate) deliveries: Arc<DeliveryDirectory>,
    pub(crate) routes: Arc<ClusterRoutes>,
    pub(crate) clients: Arc<ClientSessions>,
    /// Access to clients that are connected to other servers.
    pub(crate) reach: Arc<ClientReach>,
    pub(crate) relay: Arc<CallRelay>,
    /// Rotation over the groups that take passed-on sends.
    pub(crate) spread: GroupRotation,
    pub(crate) limits: PublishLimits,
    /// Rules for creating topics with their first message, if enabled.
    pub(crate) auto_topics: Option<AutoTopics>,
    pub(crate) delays: DelayPolicy,
    pub(crate) clock: Arc<GuardedClock>,
    pub(crate) lite: LiteConfig,
    pub(crate) checks: CheckPolicy,
    pub(crate) counters: Arc<Counters>,
    /// The share of scans over many messages.
    pub(crate) scans: Scans,
    /// The turns of broker groups of lite topics.
    pub(crate) turns: Turns,
    /// Messages handed out to calls that other servers passed on.
    pub(crate) passed: Arc<PassedAnswers>,
    /// Length of one renewable lease, in milliseconds.
    pub(crate) auto_renew_ms: u64,
    pub(crate) shutdown: ShutdownSignal,
}

impl Context {
    /// The path of the answer to the client.
    fn way_back<T>(&self, request: &Request<T>) -> AnswerWay {
        let number = relay::call_number(request.metadata());
        AnswerWay::back(request.extensions()).through(number, &self.passed)
    }

    /// Whether a call for `owner` belongs to another broker.
    fn is_foreign(&self, owner: &str) -> bool {
        owner != self.broker
    }

    /// The topic that a client names.
    fn topic(&self, resource: Option<&v2::Resource>) -> Result<Arc<Topic>, Refusal> {
        let name = stored_topic(resource)?;
        let topic = self.log.store().state().topics.get(&name);
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

/// The filter that a consumer requests; none means every message.
fn parse_filter(filter: Option<&v2::FilterExpression>) -> Result<Filter, Refusal> {
    let parsed = filter.map_or(Ok(Filter::All), wire::filter);
    parsed.map_err(|reason| Refusal::new(Code::IllegalFilterExpression, reason))
}

/// Settings that this broker sends to clients.
pub(crate) struct Policy {
    pub(crate) log: LogClient,
    pub(crate) limits: PublishLimits,
    /// Groups that only other broker groups have.
    pub(crate) elsewhere: RegisteredPolicy,
}

impl SettingsPolicy for Policy {
    fn max_body_bytes(&self) -> usize {
        self.limits.body_bytes_max
    }

    fn group(&self, stored_group: &str) -> Option<GroupPolicy> {
        match self.log.store().state().groups.get(stored_group) {
            Some(group) => Some(GroupPolicy {
                max_attempts: group.max_attempts(),
                fifo: group.fifo,
                backoff: group.backoff(),
                lite_quota: client_quota(&group),
            }),
            None => self.elsewhere.group(stored_group),
        }
    }

    fn check_filter(&self, filter: &v2::FilterExpression) -> Result<(), Refusal> {
        parse_filter(Some(filter)).map(drop)
    }
}

/// The protocol's calls about messages of this broker group.
pub(crate) struct Messaging {
    context: Arc<Context>,
}

impl Messaging {
    /// The protocol's server for the master of this group.
    pub(crate) fn server(context: Arc<Context>, policy: Arc<dyn SettingsPolicy>) -> AccessServer {
        let parts = AccessParts {
            routes: context.routes.clone(),
            clients: context.clients.clone(),
            relay: context.relay.clone(),
            policy,
        };
        AccessPoint::of_master(parts, Arc::new(Self { context }))
    }
}

#[tonic::async_trait]
impl OwnCalls for Messaging {
    fn group(&self) -> &str {
        &self.context.broker
    }

    fn client_left(&self, client_id: &str) {
        self.context.deliveries.client_left(client_id);
    }

    fn call_broke(&self, number: &str) {
        self.context.passed.broke(number);
    }

    async fn send_message(
        &self,
        request: Request<raw::SendMessageRequest>,
    ) -> Result<v2::SendMessageResponse, Refusal> {
        if let Some(answer) = pass_on::pass_on(&self.context, &request).await {
            return Ok(answer);
        }
        let client = ClientHeaders::of(&request);
        send::send_message(&self.context, &client, request.into_inner()).await
    }

    async fn end_transaction(
        &self,
        request: Request<v2::EndTransactionRequest>,
    ) -> Result<v2::EndTransactionResponse, Refusal> {
        let client = ClientHeaders::of(&request);
        transaction::end_transaction(&self.context, &client, &request.into_inner()).await
    }

    async fn receive_message(
        &self,
        request: Request<v2::ReceiveMessageRequest>,
    ) -> Result<ItemStream<raw::ReceiveMessageResponse>, Refusal> {
        let (client, way) = (ClientHeaders::of(&request), self.context.way_back(&request));
        let (metadata, _, message) = request.into_parts();
        let call = receive::Call { client: &client, metadata: &metadata, way };
        receive::receive_message(&self.context, &call, message).await
    }

    async fn ack_message(
        &self,
        client: &ClientHeaders,
        group: Option<&v2::Resource>,
        topic: Option<&v2::Resource>,
        entries: PlacedEntries<v2::AckMessageEntry>,
    ) -> Result<PlacedEntries<v2::AckMessageResultEntry>, Refusal> {
        ack::ack_message(&self.context, client, (group, topic), entries).await
    }

    async fn change_invisible_duration(
        &self,
        request: Request<v2::ChangeInvisibleDurationRequest>,
    ) -> Result<v2::ChangeInvisibleDurationResponse, Refusal> {
        let client = ClientHeaders::of(&request);
        ack::change_invisible_duration(&self.context, &client, request.into_inner()).await
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<v2::ForwardMessageToDeadLetterQueueResponse, Refusal> {
        let client = ClientHeaders::of(&request);
        ack::forward_to_dead_letter_queue(&self.context, &client, &request.into_inner()).await
    }

    async fn recall_message(
        &self,
        request: Request<v2::RecallMessageRequest>,
    ) -> Result<v2::RecallMessageResponse, Refusal> {
        let client = ClientHeaders::of(&request);
        recall::recall_message(&self.context, &client, &request.into_inner()).await
    }

    async fn pull_message(
        &self,
        request: Request<v2::PullMessageRequest>,
    ) -> Result<ItemStream<raw::PullMessageResponse>, Refusal> {
        let client = ClientHeaders::of(&request);
        pull::pull_message(&self.context, &client, request.into_inner()).await
    }

    async fn update_offset(
        &self,
        request: Request<v2::UpdateOffsetRequest>,
    ) -> Result<v2::UpdateOffsetResponse, Refusal> {
        let client = ClientHeaders::of(&request);
        offsets::update_offset(&self.context, &client, request.get_ref()).await
    }

    async fn get_offset(
        &self,
        request: Request<v2::GetOffsetRequest>,
    ) -> Result<v2::GetOffsetResponse, Refusal> {
        offsets::get_offset(&self.context, request.get_ref())
    }

    async fn query_offset(
        &self,
        request: Request<v2::QueryOffsetRequest>,
    ) -> Result<v2::QueryOffsetResponse, Refusal> {
        offsets::query_offset(&self.context, request.get_ref())
    }

    async fn sync_lite_subscription(
        &self,
        request: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Result<v2::SyncLiteSubscriptionResponse, Refusal> {
        let client = ClientHeaders::of(&request);
        lite::sync_lite_subscription(&self.context, &client, request).await
    }
}
