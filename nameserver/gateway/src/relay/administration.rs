//! What administrators ask of a slave is answered by its master, one hop further, as long as nothing changes by it.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::http::HeaderValue;
use axum::response::Response;
use kerolox_proto::kerolox::{broker_admin_server, transactions_server};
use kerolox_proto::path::service_and_method;
use tonic::Status;
use tonic::client::GrpcService as _;
use tonic::service::AxumRouter;

use super::{Channels, RELAYED};
use crate::routes::ClusterRoutes;

/// How calls begin that only look. `DescribeBroker` is not meant: it tells of the broker itself.
const READS: [&str; 5] = ["List", "Describe", "Query", "Explain", "Count"];
const OWN: &str = "DescribeBroker";
/// Services of a master that a slave has no answers of its own for.
const SERVICES: [&str; 2] = [broker_admin_server::SERVICE_NAME, transactions_server::SERVICE_NAME];
/// How long the master may take to begin its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Answers whatever no service of a slave of `group` does: reads of administration by its master, everything else with
/// FAILED_PRECONDITION.
pub fn of_slave(group: String, routes: Arc<ClusterRoutes>) -> AxumRouter {
    let channels = Arc::new(Channels::default());
    AxumRouter::new().fallback(move |request: Request| {
        let (group, routes, channels) = (group.clone(), Arc::clone(&routes), Arc::clone(&channels));
        async move {
            let answer = ask_master(&group, &routes, &channels, request).await;
            answer.unwrap_or_else(|status| status.into_http())
        }
    })
}

/// Whether a call only looks.
fn is_read(path: &str) -> bool {
    let (service, method) = service_and_method(path);
    SERVICES.contains(&service) && method != OWN && READS.iter().any(|read| method.starts_with(read))
}

async fn ask_master(
    group: &str,
    routes: &ClusterRoutes,
    channels: &Channels,
    mut request: Request,
) -> Result<Response, Status> {
    if !is_read(request.uri().path()) {
        return Err(Status::failed_precondition(format!(
            "this broker is a slave of group {group:?}; ask its master, which the nameservers name"
        )));
    }
    // Two slaves that take each other for the master would go on for ever.
    if request.headers().contains_key(RELAYED) {
        return Err(Status::unavailable(format!(
            "this broker is a slave of group {group:?}, not its master"
        )));
    }
    let master = routes.master(group).ok_or_else(|| {
        Status::unavailable(format!(
            "this broker is a slave of group {group:?}, which has no master; see getSyncStateSet"
        ))
    })?;
    let channel = channels.channel(&master.address, routes);
    let mut channel = channel.map_err(|refusal| Status::unavailable(refusal.to_string()))?;
    request.headers_mut().insert(RELAYED, HeaderValue::from_static("1"));
    let asked = async {
        poll_fn(|context| channel.poll_ready(context)).await?;
        channel.call(request.map(tonic::body::Body::new)).await
    };
    let failed = |why: String| {
        Status::unavailable(format!("the master of group {group:?} at {} {why}", master.address))
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Ok(answer.map(axum::body::Body::new)),
        Ok(Err(error)) => Err(failed(format!("cannot be asked: {error}"))),
        Err(_) => Err(failed(format!("did not answer within {PATIENCE:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_is_passed_on() {
        for path in ["/kerolox.v1.BrokerAdmin/ListTopics", "/kerolox.v1.Transactions/CountTransactions"] {
            assert!(is_read(path), "{path}");
        }
        for path in [
            "/kerolox.v1.BrokerAdmin/DeleteTopic",
            "/kerolox.v1.BrokerAdmin/DescribeBroker",
            "/kerolox.v1.Transactions/SettleTransaction",
            "/kerolox.v1.Replication/DescribeReplication",
            "/",
        ] {
            assert!(!is_read(path), "{path}");
        }
    }
}
