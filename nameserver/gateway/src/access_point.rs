//! The access point: the SDKs' protocol as a nameserver serves it.
//!
//! Questions about routes and the conversation with clients are answered here. Whatever concerns messages is passed on
//! to the broker that owns them.

use std::sync::Arc;

use crate::access::{self, Answer, Items, answer, refused_stream};
use crate::answers::AnswerWay;
use crate::clients::Clients;
use crate::headers::ClientHeaders;
use crate::lite::sync_everywhere;
use crate::polling;
use crate::refusal::{Refusal, ok_status};
use crate::relay::{self, Relay, acks};
use crate::routes::Routes;
use crate::spread::Spread;
use crate::telemetry::{SettingsPolicy, TelemetryStream, telemetry};
use kerolox_model::limits::GRPC_DECODE_BYTES_MAX;
use kerolox_proto::v2::messaging_service_server::{MessagingService, MessagingServiceServer};
use kerolox_proto::v2::{self, Code};
use kerolox_runtime::process::Shutdown;
use tonic::{Request, Response, Streaming};

/// The SDK protocol without messages of its own.
pub struct AccessPoint {
    routes: Arc<Routes>,
    clients: Arc<Clients>,
    relay: Arc<Relay>,
    policy: Arc<dyn SettingsPolicy>,
    /// The broker group that this server belongs to, if it does.
    home: Option<String>,
    /// Which writable broker a relayed send goes to.
    spread: Spread,
}

impl AccessPoint {
    /// The gRPC service over the routes and client sessions of this process. A slave names its broker group as `home`.
    pub fn server(
        routes: Arc<Routes>,
        clients: Arc<Clients>,
        policy: Arc<dyn SettingsPolicy>,
        home: Option<String>,
        shutdown: Shutdown,
    ) -> MessagingServiceServer<Self> {
        let relay = Arc::new(Relay::new(Arc::clone(&routes), Arc::clone(&clients), shutdown));
        let access = Self { routes, clients, relay, policy, home, spread: Spread::default() };
        MessagingServiceServer::new(access)
            .max_decoding_message_size(GRPC_DECODE_BYTES_MAX)
            .max_encoding_message_size(GRPC_DECODE_BYTES_MAX)
    }

    /// The broker group for a relayed send. Whoever sends to a slave has chosen its group, even if only the master has heard of
    /// the topic yet. Elsewhere messages of one message group or lite topic always go to the same one, and others take turns.
    async fn choose_broker(&self, request: &v2::SendMessageRequest) -> Result<String, Refusal> {
        let message = request.messages.first().ok_or_else(|| {
            Refusal::new(Code::MessageCorrupted, "the request holds no message; send at least one")
        })?;
        let query = |routes: &Routes| routes.writable_groups(message.topic.as_ref());
        let groups = match &self.home {
            None => self.routes.through_election(query).await?,
            Some(home) => match query(&self.routes) {
                Ok(groups) if !groups.contains(home) => groups,
                Err(refusal) if !refusal.is_of_unknown_topic() => return Err(refusal),
                _ => return Ok(home.clone()),
            },
        };
        let mut order = self.spread.order(groups, message);
        Ok(order.swap_remove(0))
    }

    async fn pass_on_send(
        &self,
        request: Request<v2::SendMessageRequest>,
    ) -> Result<v2::SendMessageResponse, Refusal> {
        let owner = self.choose_broker(request.get_ref()).await?;
        self.relay.send_message(&owner, request).await
    }

    /// The broker group whose queue a call is about.
    fn owner_of<Q>(&self, request: &Request<Q>, queue: Option<&v2::MessageQueue>) -> Result<String, Refusal> {
        access::greet(request, &self.clients).and_then(|_| relay::owner_of_queue(queue))
    }

    async fn ack_by_owner(
        &self,
        request: Request<v2::AckMessageRequest>,
    ) -> Result<v2::AckMessageResponse, Refusal> {
        let (metadata, _, request) = request.into_parts();
        if request.entries.is_empty() {
            return Err(Refusal::invalid_receipt_handle(
                "the request acknowledges nothing; add an entry with the message's receipt handle",
            ));
        }
        let acks::AckPlan { by_owner, refused: mut results } = acks::plan(request.entries);
        let parts = (metadata, request.group, request.topic);
        results.extend(access::relay_acks(&self.relay, parts, by_owner).await);
        Ok(acks::merge(results))
    }
}

#[tonic::async_trait]
impl MessagingService for AccessPoint {
    type ReceiveMessageStream = Items<v2::ReceiveMessageResponse>;
    type PullMessageStream = Items<v2::PullMessageResponse>;
    type TelemetryStream = TelemetryStream;

    async fn query_route(&self, request: Request<v2::QueryRouteRequest>) -> Answer<v2::QueryRouteResponse> {
        access::query_route(request, &self.routes, &self.clients).await
    }

    async fn query_assignment(
        &self,
        request: Request<v2::QueryAssignmentRequest>,
    ) -> Answer<v2::QueryAssignmentResponse> {
        access::query_assignment(request, &self.routes, &self.clients).await
    }

    async fn heartbeat(&self, request: Request<v2::HeartbeatRequest>) -> Answer<v2::HeartbeatResponse> {
        access::heartbeat(request, &self.clients, &self.relay)
    }

    async fn notify_client_termination(
        &self,
        request: Request<v2::NotifyClientTerminationRequest>,
    ) -> Answer<v2::NotifyClientTerminationResponse> {
        access::notify_client_termination(request, &self.clients, &self.relay)
    }

    async fn telemetry(&self, request: Request<Streaming<v2::TelemetryCommand>>) -> Answer<TelemetryStream> {
        telemetry(request, &self.clients, &self.policy, &self.relay)
    }

    async fn send_message(
        &self,
        request: Request<v2::SendMessageRequest>,
    ) -> Answer<v2::SendMessageResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let outcome = match access::greet(&request, &self.clients) {
            Ok(_) => self.pass_on_send(request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, outcome)
    }

    async fn end_transaction(
        &self,
        request: Request<v2::EndTransactionRequest>,
    ) -> Answer<v2::EndTransactionResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let owner = access::greet(&request, &self.clients)
            .and_then(|_| relay::owner_of_transaction(&request.get_ref().transaction_id));
        let outcome = match owner {
            Ok(owner) => self.relay.end_transaction(&owner, request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, outcome)
    }

    async fn receive_message(
        &self,
        mut request: Request<v2::ReceiveMessageRequest>,
    ) -> Answer<Self::ReceiveMessageStream> {
        let headers = ClientHeaders::lenient(request.metadata());
        polling::fill_in(request.get_mut(), &headers, &self.clients);
        let outcome = match self.owner_of(&request, request.get_ref().message_queue.as_ref()) {
            Ok(owner) => {
                let way = AnswerWay::back(request.extensions());
                self.relay.receive_message(&owner, request, way).await
            }
            Err(refusal) => Err(refusal),
        };
        Ok(Response::new(match outcome {
            Ok(messages) => Box::pin(messages),
            Err(refusal) => refused_stream(&headers, &refusal),
        }))
    }

    async fn ack_message(&self, request: Request<v2::AckMessageRequest>) -> Answer<v2::AckMessageResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let outcome = match access::greet(&request, &self.clients) {
            Ok(_) => self.ack_by_owner(request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, outcome)
    }

    async fn change_invisible_duration(
        &self,
        request: Request<v2::ChangeInvisibleDurationRequest>,
    ) -> Answer<v2::ChangeInvisibleDurationResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let receipt_handle = request.get_ref().receipt_handle.clone();
        let owner =
            access::greet(&request, &self.clients).and_then(|_| relay::owner_of_receipt(&receipt_handle));
        let outcome = match owner {
            Ok(owner) => self.relay.change_invisible_duration(&owner, request).await,
            Err(refusal) => Err(refusal),
        };
        // SDKs keep the handle of the answer whatever its status, so a refusal gives back the one that they have.
        Ok(Response::new(outcome.unwrap_or_else(|refusal| v2::ChangeInvisibleDurationResponse {
            status: Some(refusal.to_status(&headers)),
            receipt_handle,
        })))
    }

    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Answer<v2::ForwardMessageToDeadLetterQueueResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let owner = access::greet(&request, &self.clients)
            .and_then(|_| relay::owner_of_receipt(&request.get_ref().receipt_handle));
        let outcome = match owner {
            Ok(owner) => self.relay.forward_message_to_dead_letter_queue(&owner, request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, outcome)
    }

    async fn recall_message(
        &self,
        request: Request<v2::RecallMessageRequest>,
    ) -> Answer<v2::RecallMessageResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let owner = access::greet(&request, &self.clients)
            .and_then(|_| relay::owner_of_recall(&request.get_ref().recall_handle));
        let outcome = match owner {
            Ok(owner) => self.relay.recall_message(&owner, request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, outcome)
    }

    async fn pull_message(
        &self,
        request: Request<v2::PullMessageRequest>,
    ) -> Answer<Self::PullMessageStream> {
        let headers = ClientHeaders::lenient(request.metadata());
        let outcome = match self.owner_of(&request, request.get_ref().message_queue.as_ref()) {
            Ok(owner) => self.relay.pull_message(&owner, request).await,
            Err(refusal) => Err(refusal),
        };
        Ok(Response::new(match outcome {
            Ok(messages) => Box::pin(messages),
            Err(refusal) => refused_stream(&headers, &refusal),
        }))
    }

    async fn update_offset(
        &self,
        request: Request<v2::UpdateOffsetRequest>,
    ) -> Answer<v2::UpdateOffsetResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let outcome = match self.owner_of(&request, request.get_ref().message_queue.as_ref()) {
            Ok(owner) => self.relay.update_offset(&owner, request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, outcome)
    }

    async fn get_offset(&self, request: Request<v2::GetOffsetRequest>) -> Answer<v2::GetOffsetResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let outcome = match self.owner_of(&request, request.get_ref().message_queue.as_ref()) {
            Ok(owner) => self.relay.get_offset(&owner, request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, outcome)
    }

    async fn query_offset(
        &self,
        request: Request<v2::QueryOffsetRequest>,
    ) -> Answer<v2::QueryOffsetResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let outcome = match self.owner_of(&request, request.get_ref().message_queue.as_ref()) {
            Ok(owner) => self.relay.query_offset(&owner, request).await,
            Err(refusal) => Err(refusal),
        };
        answer(&headers, outcome)
    }

    async fn sync_lite_subscription(
        &self,
        request: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Answer<v2::SyncLiteSubscriptionResponse> {
        let headers = ClientHeaders::lenient(request.metadata());
        let owners = access::greet(&request, &self.clients)
            .and_then(|_| self.routes.readable_groups(request.get_ref().topic.as_ref()));
        let (metadata, _, message) = request.into_parts();
        let synced = match owners {
            Ok(owners) => sync_everywhere(&self.relay, owners, metadata, &message).await,
            Err(refusal) => Err(refusal),
        };
        let done = || v2::SyncLiteSubscriptionResponse { status: Some(ok_status()) };
        answer(&headers, synced.map(|()| done()))
    }
}
