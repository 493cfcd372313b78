//! The admin interface of this broker.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use kerolox_core::early_removal::LossPlace;
use kerolox_core::group_change::GroupChange;
use kerolox_core::topic::Topic;
use kerolox_core::topic_change::TopicChange;
use kerolox_core::transaction::WEBHOOK_ATTRIBUTE;
use kerolox_gateway::clients::ClientSessions;
use kerolox_gateway::telemetry::{SettingsPolicy, push_settings};
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox as pb;
use kerolox_proto::kerolox::broker_admin_server::{BrokerAdmin, BrokerAdminServer};
use tonic::{Request, Response, Status};

use super::admin_error::AdminError;
use super::counters::Counters;
use super::dead_letters;
use super::explain;
use super::groups::{self, Plan, group_config};
use super::lite_topics;
use super::query::query;
use super::timers;
use super::topics::{self, topic_config};
use crate::announce::Announcer;
use crate::delivery::DeliveryDirectory;
use crate::log_client::LogClient;
use crate::metadata::{BrokerMetadata, ChangeError};
use crate::pace::{Caller, Lookups};
use crate::tasks::check_back::WebhookHosts;
use crate::tasks::early_removal::EarlyLosses;

/// The service behind `mqadmin`.
pub(crate) struct Admin {
    pub(crate) log: LogClient,
    pub(crate) metadata: BrokerMetadata,
    pub(crate) deliveries: Arc<DeliveryDirectory>,
    pub(crate) announcer: Announcer,
    pub(crate) counters: Arc<Counters>,
    pub(crate) started: Instant,
    pub(crate) clients: Arc<ClientSessions>,
    pub(crate) policy: Arc<dyn SettingsPolicy>,
    pub(crate) lookups: Lookups,
    pub(crate) webhook_hosts: WebhookHosts,
    pub(crate) losses: EarlyLosses,
}

impl Admin {
    pub(crate) fn server(self) -> BrokerAdminServer<Self> {
        BrokerAdminServer::new(self)
    }

    async fn topics_changed(&self) {
        self.deliveries.forget_deleted();
        // Answered only when nameservers know: a client that creates a topic and then uses it finds it.
        self.announcer.announce().await;
    }

    /// Refuses a topic that is to have a webhook which would never be asked. One that it has already may stay.
    fn check_webhook(&self, before: Option<&Topic>, planned: &Topic) -> Result<(), AdminError> {
        let url = |topic: &Topic| topic.attributes.get(WEBHOOK_ATTRIBUTE).cloned();
        match url(planned) {
            Some(new) if before.and_then(url).as_ref() != Some(&new) => self
                .webhook_hosts
                .check_url(&new)
                .map_err(|error| AdminError::invalid(format!("{WEBHOOK_ATTRIBUTE}: {error}"))),
            _ => Ok(()),
        }
    }
}

#[tonic::async_trait]
impl BrokerAdmin for Admin {
    async fn update_topic(
        &self,
        request: Request<pb::UpdateTopicRequest>,
    ) -> Result<Response<pb::UpdateTopicResponse>, Status> {
        let request = request.into_inner();
        let change = TopicChange {
            name: request.name,
            read_queues: request.read_queues,
            write_queues: request.write_queues,
            perm: request.perm,
            attributes: request.attributes,
        };
        let (before, planned) = self.metadata.plan_topic(&change).map_err(AdminError::from)?;
        self.check_webhook(before.as_deref(), &planned)?;
        let topic = match request.dry_run {
            true => Arc::new(planned),
            false => self.metadata.put_topic(&change).await.map_err(AdminError::from)?.0,
        };
        let created = before.is_none();
        if !request.dry_run {
            self.topics_changed().await;
            tracing::info!(topic = topic.name, created, "topic updated");
        }
        Ok(Response::new(pb::UpdateTopicResponse {
            topic: Some(topic_config(&topic)),
            created,
            before: before.map(|before| topic_config(&before)),
        }))
    }

    async fn delete_topic(
        &self,
        request: Request<pb::DeleteTopicRequest>,
    ) -> Result<Response<pb::DeleteTopicResponse>, Status> {
        let name = request.into_inner().name;
        let deleted = self.metadata.delete_topic(&name).await;
        if matches!(deleted, Ok(true)) {
            self.topics_changed().await;
            tracing::info!(topic = name, "topic deleted");
        }
        check_deleted(deleted, || format!("there is no topic {name:?}; see mqadmin topicList"))?;
        Ok(Response::new(pb::DeleteTopicResponse {}))
    }

    async fn list_topics(
        &self,
        _request: Request<pb::ListTopicsRequest>,
    ) -> Result<Response<pb::ListTopicsResponse>, Status> {
        let topics = self.log.store().state().topics.all();
        let topics = topics.iter().map(|topic| topic_config(topic)).collect();
        Ok(Response::new(pb::ListTopicsResponse { topics }))
    }

    async fn describe_topic(
        &self,
        request: Request<pb::DescribeTopicRequest>,
    ) -> Result<Response<pb::DescribeTopicResponse>, Status> {
        let name = request.into_inner().name;
        Ok(Response::new(topics::describe(self.log.store(), &name)?))
    }

    async fn update_group(
        &self,
        request: Request<pb::UpdateGroupRequest>,
    ) -> Result<Response<pb::UpdateGroupResponse>, Status> {
        let request = request.into_inner();
        let change = GroupChange {
            name: request.name,
            consume_enable: request.consume_enable,
            fifo: request.fifo,
            retry_max_times: request.retry_max_times,
            consume_from_min: request.consume_from_min,
            attributes: request.attributes,
        };
        let (before, planned) = self.metadata.plan_group(&change).map_err(AdminError::from)?;
        let group = match request.dry_run {
            true => Arc::new(planned),
            false => self.metadata.put_group(&change).await.map_err(AdminError::from)?.0,
        };
        let created = before.is_none();
        if !request.dry_run {
            tracing::info!(group = group.name, created, "consumer group updated");
            push_settings(&self.clients, &*self.policy);
            self.announcer.announce().await;
        }
        Ok(Response::new(pb::UpdateGroupResponse {
            group: Some(group_config(&group)),
            created,
            before: before.map(|before| group_config(&before)),
        }))
    }

    async fn delete_group(
        &self,
        request: Request<pb::DeleteGroupRequest>,
    ) -> Result<Response<pb::DeleteGroupResponse>, Status> {
        let name = request.into_inner().name;
        let deleted = self.metadata.delete_group(&name).await;
        if matches!(deleted, Ok(true)) {
            self.deliveries.forget_deleted();
            tracing::info!(group = name, "consumer group deleted");
        }
        check_deleted(deleted, || format!("there is no consumer group {name:?}"))?;
        Ok(Response::new(pb::DeleteGroupResponse {}))
    }

    async fn list_groups(
        &self,
        request: Request<pb::ListGroupsRequest>,
    ) -> Result<Response<pb::ListGroupsResponse>, Status> {
        let include_members = request.get_ref().include_members;
        let groups = self.log.store().state().groups.all();
        let shown = groups.iter().filter(|group| include_members || group.parent == 0);
        let groups = shown.map(|group| group_config(group)).collect();
        Ok(Response::new(pb::ListGroupsResponse { groups }))
    }

    async fn withhold_perm(
        &self,
        request: Request<pb::WithholdPermRequest>,
    ) -> Result<Response<pb::WithholdPermResponse>, Status> {
        let perm = request.into_inner().perm;
        self.metadata.withhold(perm).await.map_err(AdminError::from)?;
        tracing::info!(perm, "permissions withheld from all topics");
        self.counters.quiet.broken();
        self.announcer.announce().await;
        Ok(Response::new(pb::WithholdPermResponse {}))
    }

    async fn describe_broker(
        &self,
        _request: Request<pb::DescribeBrokerRequest>,
    ) -> Result<Response<pb::DescribeBrokerResponse>, Status> {
        let store = self.log.store();
        let positions = store.positions();
        let (in_per_second, out_per_second) = self.counters.per_second();
        let (undecided_transactions, scheduled_messages) = {
            let index = store.state();
            (index.transactions.open_total(), index.timers.open_total())
        };
        Ok(Response::new(pb::DescribeBrokerResponse {
            broker: Some(self.announcer.info()),
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            log_end: positions.end,
            log_durable: positions.durable,
            log_applied: positions.applied,
            messages_in: self.counters.messages_in.load(Ordering::Relaxed),
            messages_out: self.counters.messages_out.load(Ordering::Relaxed),
            undecided_transactions,
            scheduled_messages,
            read_only_reason: store.failure().unwrap_or_default(),
            in_per_second,
            out_per_second,
            quiet_ms: self.metadata.withholds_writing().then(|| self.counters.quiet.elapsed_ms()),
        }))
    }

    async fn query_messages(
        &self,
        request: Request<pb::QueryMessagesRequest>,
    ) -> Result<Response<pb::QueryMessagesResponse>, Status> {
        let (log, request) = (self.log.clone(), request.into_inner());
        let answered = self.lookups.run(move |_| query(log.store(), &request)).await?;
        Ok(Response::new(answered?))
    }

    async fn describe_group(
        &self,
        request: Request<pb::DescribeGroupRequest>,
    ) -> Result<Response<pb::DescribeGroupResponse>, Status> {
        let (log, deliveries) = (self.log.clone(), self.deliveries.clone());
        let request = request.into_inner();
        let look = move |_: &Caller| groups::describe(log.store(), &deliveries, &request);
        let (group, mut queues) = self.lookups.run(look).await??;
        for status in &mut queues {
            status.removed_unread = self.losses.at(&LossPlace {
                group: group.name.clone(),
                member: status.client.clone(),
                topic: status.topic.clone(),
                queue: status.queue,
            });
        }
        Ok(Response::new(pb::DescribeGroupResponse { group: Some(group_config(&group)), queues }))
    }

    async fn reset_offsets(
        &self,
        request: Request<pb::ResetOffsetsRequest>,
    ) -> Result<Response<pb::ResetOffsetsResponse>, Status> {
        let request = request.into_inner();
        let (group, topic, dry_run) = (request.group.clone(), request.topic.clone(), request.dry_run);
        let (log, deliveries) = (self.log.clone(), self.deliveries.clone());
        let plan = move |_: &Caller| Plan::of(log.store(), &deliveries, &request);
        let plan = self.lookups.run(plan).await??;
        if !dry_run {
            plan.carry_out(&self.deliveries).await?;
            tracing::info!(group, topic, "offsets of a consumer group were reset");
        }
        Ok(Response::new(pb::ResetOffsetsResponse { queues: plan.resets() }))
    }

    async fn list_dead_letters(
        &self,
        request: Request<pb::ListDeadLettersRequest>,
    ) -> Result<Response<pb::ListDeadLettersResponse>, Status> {
        let (log, request) = (self.log.clone(), request.into_inner());
        let answered = self.lookups.run(move |_| dead_letters::list(log.store(), &request)).await?;
        Ok(Response::new(answered?))
    }

    async fn redrive_dead_letters(
        &self,
        request: Request<pb::RedriveDeadLettersRequest>,
    ) -> Result<Response<pb::RedriveDeadLettersResponse>, Status> {
        let request = request.into_inner();
        let answered = dead_letters::redrive(&self.log, &request).await;
        if let Ok(answer) = &answered {
            tracing::info!(group = request.group, redriven = answer.redriven, "dead letters sent back");
        }
        Ok(Response::new(answered?))
    }

    async fn list_timers(
        &self,
        request: Request<pb::ListTimersRequest>,
    ) -> Result<Response<pb::ListTimersResponse>, Status> {
        let (log, request) = (self.log.clone(), request.into_inner());
        let broker = self.announcer.info().group;
        let listed = self.lookups.run(move |_| timers::list(log.store(), &broker, &request)).await?;
        Ok(Response::new(listed?))
    }

    async fn end_timer(
        &self,
        request: Request<pb::EndTimerRequest>,
    ) -> Result<Response<pb::EndTimerResponse>, Status> {
        let request = request.into_inner();
        let ended = timers::end(&self.log, &self.announcer.info().group, &request).await;
        if ended.is_ok() {
            tracing::info!(?request, "scheduled message ended by an administrator");
        }
        Ok(Response::new(ended?))
    }

    async fn list_lites(
        &self,
        request: Request<pb::ListLitesRequest>,
    ) -> Result<Response<pb::ListLitesResponse>, Status> {
        let (log, deliveries) = (self.log.clone(), self.deliveries.clone());
        let request = request.into_inner();
        let list = move |_: &Caller| lite_topics::list(log.store(), &deliveries, &request);
        let listed = self.lookups.run(list).await?;
        Ok(Response::new(listed?))
    }

    async fn list_blocked(
        &self,
        request: Request<pb::ListBlockedRequest>,
    ) -> Result<Response<pb::ListBlockedResponse>, Status> {
        let (log, deliveries) = (self.log.clone(), self.deliveries.clone());
        let request = request.into_inner();
        let list = move |_: &Caller| dead_letters::blocked(log.store(), &deliveries, &request);
        let listed = self.lookups.run(list).await?;
        Ok(Response::new(listed?))
    }

    async fn list_retries(
        &self,
        request: Request<pb::ListRetriesRequest>,
    ) -> Result<Response<pb::ListRetriesResponse>, Status> {
        let (log, deliveries) = (self.log.clone(), self.deliveries.clone());
        let request = request.into_inner();
        let look = move || dead_letters::retries(log.store(), &deliveries, &request);
        let listed = tokio::task::spawn_blocking(look).await;
        let listed = listed.map_err(|error| RpcError::internal(error.to_string()))?;
        Ok(Response::new(listed?))
    }

    async fn explain_message(
        &self,
        request: Request<pb::ExplainMessageRequest>,
    ) -> Result<Response<pb::ExplainMessageResponse>, Status> {
        let (log, deliveries) = (self.log.clone(), self.deliveries.clone());
        let request = request.into_inner();
        let explain = move |_: &Caller| explain::explain(log.store(), &deliveries, &request);
        let explained = self.lookups.run(explain).await?;
        Ok(Response::new(explained?))
    }

    async fn settle_blocked(
        &self,
        request: Request<pb::SettleBlockedRequest>,
    ) -> Result<Response<pb::SettleBlockedResponse>, Status> {
        let request = request.into_inner();
        dead_letters::settle(&self.log, &self.deliveries, &request).await?;
        tracing::info!(?request, "blocked message settled");
        Ok(Response::new(pb::SettleBlockedResponse {}))
    }
}

/// Whether a deletion found something to delete.
fn check_deleted(
    deleted: Result<bool, ChangeError>,
    missing: impl FnOnce() -> String,
) -> Result<(), AdminError> {
    match deleted? {
        true => Ok(()),
        false => Err(AdminError::not_found(missing())),
    }
}
