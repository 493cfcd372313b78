//! The calls that every access point answers alike, whether it is a nameserver or a broker.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use kerolox_model::names::validate_group;
use kerolox_proto::v2::{self, AckMessageEntry, AckMessageResultEntry};
use kerolox_runtime::process::ShutdownSignal;
use tokio_stream::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request, Response, Status};

use crate::clients::ClientSessions;
use crate::headers::ClientHeaders;
use crate::refusal::{Refusable, Refusal, ok_status};
use crate::relay::{CallRelay, acks};
use crate::routes::{ClusterRoutes, stored_topic};

/// Answer of a call.
pub type Answer<T> = Result<Response<T>, Status>;
/// Stream of a streaming call.
pub type ItemStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A stream of one item, the refusal.
pub fn refused_stream<T: Refusable + Send + 'static>(
    headers: &ClientHeaders,
    refusal: &Refusal,
) -> ItemStream<T> {
    Box::pin(tokio_stream::once(Ok(refusal.answer(headers))))
}

/// QueryRoute.
///
/// # Errors
/// The refusal of a topic that no broker has, or of which nothing is known at the moment.
pub async fn query_route(
    client: &ClientHeaders,
    request: v2::QueryRouteRequest,
    routes: &ClusterRoutes,
) -> Result<v2::QueryRouteResponse, Refusal> {
    let v2::QueryRouteRequest { topic, endpoints } = request;
    stored_topic(topic.as_ref())?;
    let instead = endpoints.as_ref().filter(|_| !client.tries_each_address());
    let topic = topic.unwrap_or_default();
    let message_queues = routes.through_election(|routes| routes.message_queues(&topic, instead)).await?;
    Ok(v2::QueryRouteResponse { status: Some(ok_status()), message_queues })
}

/// QueryAssignment: one answer for all members of a group, since any of them may receive from any queue.
///
/// # Errors
/// As [`query_route`]; a group name that cannot be used.
pub async fn query_assignment(
    client: &ClientHeaders,
    request: v2::QueryAssignmentRequest,
    routes: &ClusterRoutes,
) -> Result<v2::QueryAssignmentResponse, Refusal> {
    let v2::QueryAssignmentRequest { topic, group, endpoints } = request;
    stored_topic(topic.as_ref())?;
    let group = group.as_ref().map_or("", |group| group.name.as_str());
    validate_group(group).map_err(|error| Refusal::illegal_group(&error))?;
    let instead = endpoints.as_ref().filter(|_| !client.tries_each_address());
    let topic = topic.unwrap_or_default();
    let assignments = routes.through_election(|routes| routes.assignments(&topic, instead)).await?;
    Ok(v2::QueryAssignmentResponse { status: Some(ok_status()), assignments })
}

/// Completes `limit` after `shutdown` is requested, and until then keeps ending the streams that would hold it up.
pub async fn drain(shutdown: &ShutdownSignal, clients: &ClientSessions, limit: Duration) {
    shutdown.requested().await;
    let end_streams = async {
        loop {
            clients.close_streams();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    // The timeout is what ends this.
    let _: Result<(), _> = tokio::time::timeout(limit, end_streams).await;
}

/// Passes acknowledgements on to the brokers that they belong to, and gathers the results with their places.
pub async fn relay_acks(
    relay: &CallRelay,
    (metadata, group, topic): (MetadataMap, Option<v2::Resource>, Option<v2::Resource>),
    by_owner: BTreeMap<String, Vec<(usize, AckMessageEntry)>>,
) -> Vec<(usize, AckMessageResultEntry)> {
    let mut results = Vec::new();
    for (owner, entries) in by_owner {
        let part = v2::AckMessageRequest {
            group: group.clone(),
            topic: topic.clone(),
            entries: entries.iter().map(|(_, entry)| entry.clone()).collect(),
        };
        let part = Request::from_parts(metadata.clone(), Extensions::new(), part);
        let answer = relay.unary(&owner, part).await;
        let answer = answer.unwrap_or_else(|refusal| v2::AckMessageResponse::refused(refusal.into()));
        results.extend(acks::results(&entries, answer));
    }
    results
}
