//! Masters of broker groups, and the nameservers that elect them.

mod elections;
mod members;
mod nameservers;

use std::time::{Duration, Instant};

use clap::Args;
use kerolox_client::Address;
use kerolox_client::admin::controller::ControllerClient;
use kerolox_client::admin::wire;
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::ErrorKind;
use serde_json::json;
use tonic::{Code, Status};

use crate::target::Common;
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::{CommandReport, table};

pub(crate) use elections::{ElectMaster, RemoveBrokerMember, ResetBrokerGroup};
pub(crate) use members::GetSyncStateSet;
pub(crate) use nameservers::{ControllerAdd, ControllerRemove, ControllerStatus};

/// How long `electMaster` waits for the master.
const ELECTION_PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks at it.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// One broker group.
#[derive(Debug, Args)]
pub(crate) struct GroupChoice {
    /// The broker group
    #[arg(short = 'b', long = "broker-name", alias = "brokerName", value_name = "GROUP")]
    broker: String,
    /// Its cluster, when groups of several clusters have the same name
    #[arg(short = 'c', long = "cluster-name", alias = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
}

impl GroupChoice {
    pub(crate) async fn find(&self, controller: &ControllerClient) -> Result<wire::GroupDescription> {
        let mut groups = described(controller, &self.broker).await?;
        if let Some(cluster) = &self.cluster {
            groups.retain(|group| group.state.as_ref().is_some_and(|state| state.cluster == *cluster));
        }
        if groups.len() > 1 {
            let text = format!("several clusters have a broker group {}; name one with -c", self.broker);
            return Err(CommandFailure::usage(text));
        }
        groups
            .pop()
            .ok_or_else(|| CommandFailure::not_found(format!("no broker group {} is known", self.broker)))
    }

    /// Waits until the group has a master.
    async fn wait_for_master(&self, controller: &ControllerClient) -> Result<wire::GroupDescription> {
        let begin = Instant::now();
        loop {
            let group = self.find(controller).await?;
            if group.state.as_ref().is_some_and(|state| state.master != 0) {
                return Ok(group);
            }
            if begin.elapsed() > ELECTION_PATIENCE {
                let reason = match group.waiting_for.as_str() {
                    "" => "no member in sync has answered; see getSyncStateSet",
                    reason => reason,
                };
                return Err(CommandFailure::failed(format!(
                    "no master after {ELECTION_PATIENCE:?}: {reason}"
                )));
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}

pub(crate) async fn described(
    controller: &ControllerClient,
    group: &str,
) -> Result<Vec<wire::GroupDescription>> {
    let request = wire::DescribeGroupsRequest { group: group.to_owned() };
    Ok(controller.describe_groups(request).await.map_err(failure)?.groups)
}

/// What there is to say about the master and the slaves of a broker that is its own nameserver; `None` where there is a controller.
pub(crate) async fn standalone(
    common: &Common,
    controller: &ControllerClient,
) -> Result<Option<CommandReport>> {
    match controller.describe_groups(wire::DescribeGroupsRequest::default()).await {
        Err(status) if status.code() == Code::Unimplemented => {}
        _ => return Ok(None),
    }
    let snapshot = common.snapshot(&common.client()?).await?;
    let brokers: Vec<&wire::BrokerInfo> =
        snapshot.brokers.iter().filter_map(|registered| registered.broker.as_ref()).collect();
    let row = |info: &&wire::BrokerInfo| {
        let address = format!("{}:{}", info.host, info.port);
        vec![info.cluster.clone(), info.group.clone(), "MASTER".to_owned(), "yes".to_owned(), address]
    };
    let view = |info: &&wire::BrokerInfo| {
        json!({
            "cluster": info.cluster, "broker": info.group, "standalone": true, "role": "MASTER",
            "address": format!("{}:{}", info.host, info.port),
        })
    };
    let text = format!(
        "{}\n{STANDALONE}",
        table(&["Cluster Name", "Broker Name", "Role", "InSync", "Addr"], brokers.iter().map(row))
    );
    Ok(Some(CommandReport::ok(
        text,
        json!({ "standalone": true, "brokers": brokers.iter().map(view).collect::<Vec<_>>() }),
    )))
}

const STANDALONE: &str = "\
This broker runs alone (--standalone): it is its own nameserver, holds no elections, and has no slaves. An acknowledgement means
that the message is on its disk (with log.flush = async: in the page cache); while it is down, no other broker takes over.";

/// What a refusal by the controller means to scripts.
pub(crate) fn failure(status: Status) -> CommandFailure {
    if status.code() == Code::Unimplemented {
        return CommandFailure::failed(STANDALONE);
    }
    let exit = match RpcError::read(&status).map(|refusal| refusal.kind) {
        Some(ErrorKind::NotFound) => ExitStatus::NotFound,
        Some(ErrorKind::Unavailable) => ExitStatus::Unreachable,
        Some(_) => ExitStatus::Failed,
        None => match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => ExitStatus::Denied,
            Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => ExitStatus::Unreachable,
            _ => ExitStatus::Failed,
        },
    };
    CommandFailure { exit, message: status.message().to_owned() }
}

/// The broker groups of a cluster, or of all; of these the one with this name, or with this address of a member.
///
/// # Errors
/// When there is none that was asked for.
pub(crate) async fn chosen(
    controller: &ControllerClient,
    cluster: Option<&str>,
    broker: Option<&str>,
) -> Result<Vec<wire::GroupDescription>> {
    let address = broker.filter(|broker| broker.parse::<Address>().is_ok());
    let name = if address.is_some() { "" } else { broker.unwrap_or_default() };
    let mut groups = described(controller, name).await?;
    groups.retain(|group| {
        let state = group.state.clone().unwrap_or_default();
        let is_at = |address: &str| {
            state.members.iter().any(|member| format!("{}:{}", member.host, member.port) == address)
        };
        cluster.is_none_or(|cluster| state.cluster == cluster) && address.is_none_or(is_at)
    });
    match (broker, cluster) {
        (Some(broker), _) if groups.is_empty() => {
            Err(CommandFailure::not_found(format!("no broker group {broker} is known; check its name")))
        }
        (None, Some(cluster)) if groups.is_empty() => Err(CommandFailure::not_found(format!(
            "no broker group of cluster {cluster} is known; check its name"
        ))),
        _ => Ok(groups),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_map_to_exit_codes() {
        let exit = |refusal: RpcError| failure(refusal.into()).exit;
        assert_eq!(exit(RpcError::not_found("x")), ExitStatus::NotFound);
        assert_eq!(exit(RpcError::unavailable("x")), ExitStatus::Unreachable);
        assert_eq!(exit(RpcError::not_allowed("x")), ExitStatus::Failed);
        assert_eq!(failure(Status::unavailable("x")).exit, ExitStatus::Unreachable);
        assert_eq!(failure(Status::permission_denied("x")).exit, ExitStatus::Denied);
    }
}
