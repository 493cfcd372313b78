//! The administration that the SDKs' protocol defines (`apache.rocketmq.v2.Admin`), for the whole cluster at any of its servers:
//! whatever concerns messages is asked of the masters, whatever concerns clients of all servers.

mod accumulation;
mod clients;
mod messages;
mod route;
mod servers;
mod subscriptions;

use std::sync::Arc;

use kerolox_proto::v2::admin_server::{Admin, AdminServer};
use kerolox_proto::v2::change_log_level_request::Level;
use kerolox_proto::v2::{self, Code};
use kerolox_runtime::process;
use tonic::transport::Channel;
use tonic::{Request, Response};

use crate::access::Answer;
use crate::clients::ClientSessions;
use crate::refusal::{Refusable, Refusal, ok_status};
use crate::relay::CallRelay;
use crate::routes::ClusterRoutes;
use servers::Servers;

/// Messages a second that came to this server and went from it.
pub type MessageRates = Arc<dyn Fn() -> (f64, f64) + Send + Sync>;

/// The parts of the service.
pub struct AdminParts {
    /// Name of this server.
    pub name: String,
    /// Version of this server.
    pub version: &'static str,
    /// The routes to the brokers.
    pub routes: Arc<ClusterRoutes>,
    /// The clients that are connected to this server.
    pub clients: Arc<ClientSessions>,
    /// The way of messages to their brokers.
    pub relay: Arc<CallRelay>,
    /// Nameservers that this server knows, if it is a broker.
    pub nameservers: Vec<(String, Channel)>,
    /// What goes through this server.
    pub rates: MessageRates,
}

/// The service, for the whole cluster.
pub struct AdminService {
    name: String,
    version: &'static str,
    servers: Servers,
    relay: Arc<CallRelay>,
    rates: MessageRates,
}

impl AdminService {
    /// The gRPC service.
    pub fn server(parts: AdminParts) -> AdminServer<Self> {
        let AdminParts { name, version, routes, clients, relay, nameservers, rates } = parts;
        AdminServer::new(Self {
            name,
            version,
            servers: Servers::new(routes, clients, nameservers),
            relay,
            rates,
        })
    }

    fn change_log_level(level: Level) -> String {
        let (before, wanted) = (process::log_filter(), level.as_str_name().to_lowercase());
        // No more than that of the consensus library is ever useful.
        match process::set_log_filter(&format!("{wanted},openraft=off")) {
            Ok(()) => format!("the level is {wanted} from now on; it was {before:?}"),
            Err(reason) => format!("nothing was changed: {reason}"),
        }
    }
}

/// The answer, or the refusal in its body.
fn answer<T: Refusable>(outcome: Result<T, Refusal>) -> Answer<T> {
    Ok(Response::new(outcome.unwrap_or_else(|refusal| T::refused(refusal.into()))))
}

/// The stored name of a topic or group.
fn stored(resource: Option<&v2::Resource>, what: &str) -> Result<String, Refusal> {
    let resource = resource.filter(|resource| !resource.name.is_empty()).ok_or_else(|| {
        Refusal::new(Code::BadRequest, format!("the request does not name the {what}; set it"))
    })?;
    Ok(kerolox_model::names::in_namespace(&resource.resource_namespace, &resource.name))
}

/// The stored name of a topic or group; `None` when the request does not name it.
fn stored_if_any(resource: Option<&v2::Resource>) -> Option<String> {
    stored(resource, "").ok()
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn change_log_level(
        &self,
        request: Request<v2::ChangeLogLevelRequest>,
    ) -> Answer<v2::ChangeLogLevelResponse> {
        let remark = Self::change_log_level(request.into_inner().level());
        Ok(Response::new(v2::ChangeLogLevelResponse { remark }))
    }

    async fn describe_topic_status(
        &self,
        request: Request<v2::DescribeTopicStatusRequest>,
    ) -> Answer<v2::DescribeTopicStatusResponse> {
        answer(route::describe_topic(&self.servers, &request.into_inner()).await)
    }

    async fn list_subscription(
        &self,
        request: Request<v2::ListSubscriptionRequest>,
    ) -> Answer<v2::ListSubscriptionResponse> {
        answer(subscriptions::list(&self.servers, &request.into_inner()).await)
    }

    async fn describe_subscription(
        &self,
        request: Request<v2::DescribeSubscriptionRequest>,
    ) -> Answer<v2::DescribeSubscriptionResponse> {
        answer(subscriptions::describe(&self.servers, &request.into_inner()).await)
    }

    async fn delete_subscription(
        &self,
        request: Request<v2::DeleteSubscriptionRequest>,
    ) -> Answer<v2::DeleteSubscriptionResponse> {
        answer(subscriptions::delete(&self.servers, &request.into_inner()).await)
    }

    async fn describe_group_accumulation(
        &self,
        request: Request<v2::DescribeGroupAccumulationRequest>,
    ) -> Answer<v2::DescribeGroupAccumulationResponse> {
        answer(accumulation::describe(&self.servers, &request.into_inner()).await)
    }

    async fn list_consumer_connection(
        &self,
        request: Request<v2::ListConsumerConnectionRequest>,
    ) -> Answer<v2::ListConsumerConnectionResponse> {
        answer(clients::list(&self.servers, &request.into_inner()).await)
    }

    async fn reset_group_offset(
        &self,
        request: Request<v2::ResetGroupOffsetRequest>,
    ) -> Answer<v2::ResetGroupOffsetResponse> {
        answer(accumulation::reset(&self.servers, &request.into_inner()).await)
    }

    async fn query_message(
        &self,
        request: Request<v2::ListMessageRequest>,
    ) -> Answer<v2::ListMessageResponse> {
        answer(messages::query(&self.servers, &request.into_inner()).await)
    }

    async fn print_thread_stack_trace(
        &self,
        request: Request<v2::PrintThreadStackTraceRequest>,
    ) -> Answer<v2::PrintThreadStackTraceResponse> {
        answer(clients::stack_trace(&self.servers, &request.into_inner()).await)
    }

    async fn verify_message(
        &self,
        request: Request<v2::VerifyMessageRequest>,
    ) -> Answer<v2::VerifyMessageResponse> {
        answer(clients::verify(&self.servers, &request.into_inner()).await)
    }

    async fn admin_send_message(
        &self,
        request: Request<v2::AdminSendMessageRequest>,
    ) -> Answer<v2::AdminSendMessageResponse> {
        answer(messages::send(&self.servers, &self.relay, request.into_inner()).await)
    }

    async fn get_consumer_running_info(
        &self,
        request: Request<v2::GetConsumerRunningInfoRequest>,
    ) -> Answer<v2::GetConsumerRunningInfoResponse> {
        answer(clients::running_info(&self.servers, &request.into_inner()).await)
    }

    async fn get_topic_route(
        &self,
        request: Request<v2::GetTopicRouteRequest>,
    ) -> Answer<v2::GetTopicRouteResponse> {
        answer(route::topic_route(&self.servers, &request.into_inner()))
    }

    async fn query_time_span(
        &self,
        request: Request<v2::QueryTimeSpanRequest>,
    ) -> Answer<v2::QueryTimeSpanResponse> {
        answer(accumulation::time_span(&self.servers, &request.into_inner()).await)
    }

    async fn get_proxy_runtime_stats(
        &self,
        _request: Request<v2::GetProxyRuntimeStatsRequest>,
    ) -> Answer<v2::GetProxyRuntimeStatsResponse> {
        let (in_tps, out_tps) = (self.rates)();
        let (connections, producers, consumers) = self.servers.count_own_clients();
        Ok(Response::new(v2::GetProxyRuntimeStatsResponse {
            status: Some(ok_status()),
            proxy_name: self.name.clone(),
            version: self.version.to_owned(),
            in_tps,
            out_tps,
            connections,
            producers,
            consumers,
        }))
    }
}
