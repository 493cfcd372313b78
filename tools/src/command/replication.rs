//! Masters and slaves as they see themselves, and taking them out of service without a failed send.

use std::time::Duration;

use clap::Args;
use kerolox_client::admin::controller::{CONNECT_TIMEOUT, connection};
use kerolox_client::admin::wire;
use kerolox_proto::kerolox::replication_client::ReplicationClient;
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::command::DryRun;
use crate::command::controller::{GroupChoice, chosen, failure, standalone};
use crate::target::{Common, Repeat};
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, table};

/// How long a member may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How long it may take to hand its leadership over.
const HAND_OVER: Duration = Duration::from_secs(15);

fn client(member: &wire::GroupMember) -> Result<ReplicationClient<Channel>> {
    let channel = connection(&member.replication_address);
    Ok(ReplicationClient::new(channel.map_err(|error| CommandFailure::failed(error.to_string()))?))
}

/// Has the master of a group hand its leadership over, if it is there; `to` is 0 for any member.
///
/// # Errors
/// It cannot be reached, or no member can take over.
pub(crate) async fn step_down(state: &wire::GroupState, to: u64) -> Result<()> {
    let master = state.members.iter().find(|member| member.id == state.master);
    let master = master.ok_or_else(|| CommandFailure::failed(format!("{} has no master", state.group)))?;
    let mut client = client(master)?;
    let asked = client.step_down(wire::StepDownRequest { to });
    answered(HAND_OVER, asked).await.map(drop)
}

async fn answered<T>(
    patience: Duration,
    call: impl Future<Output = std::result::Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T> {
    match tokio::time::timeout(patience + CONNECT_TIMEOUT, call).await {
        Ok(answer) => Ok(answer.map_err(failure)?.into_inner()),
        Err(_) => Err(failure(tonic::Status::deadline_exceeded(format!("no answer within {patience:?}")))),
    }
}

/// Show what each member of a broker group says of itself, and what an acknowledgement means at the moment
#[derive(Debug, Args)]
pub(crate) struct HaStatus {
    #[command(flatten)]
    pub(crate) common: Common,
    /// This broker group only, by its name or the address of a member
    #[arg(short = 'b', long = "broker-name", alias = "brokerName", value_name = "GROUP")]
    broker: Option<String>,
    /// This cluster only
    #[arg(short = 'c', long = "cluster-name", alias = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    #[command(flatten)]
    _repeat: Repeat,
}

impl HaStatus {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        if let Some(standalone) = standalone(&self.common, &controller).await? {
            return Ok(standalone);
        }
        let groups = chosen(&controller, self.cluster.as_deref(), self.broker.as_deref()).await?;
        let (mut rows, mut sentences, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for state in groups.into_iter().filter_map(|group| group.state) {
            for member in &state.members {
                let said = match client(member) {
                    Ok(mut client) => {
                        let asked = client.describe_replication(wire::DescribeReplicationRequest {});
                        answered(ANSWER, asked).await
                    }
                    Err(failure) => Err(failure),
                };
                values.push(view(&state, member, said.as_ref().ok()));
                match said {
                    Ok(said) => {
                        if !said.promise.is_empty() {
                            sentences.push(format!("{}: {}", state.group, said.promise));
                        }
                        rows.push(row(&state, member, &said));
                    }
                    Err(failure) => {
                        sentences.push(format!(
                            "{}: member {} at {} does not answer: {}",
                            state.group, member.id, member.replication_address, failure.message
                        ));
                    }
                }
            }
        }
        let header = [
            "Broker Name",
            "MID",
            "Role",
            "Epoch",
            "InSync",
            "End",
            "Durable",
            "Applied",
            "Confirmed",
            "Drained",
        ];
        let mut lines = vec![table(&header, rows.into_iter())];
        lines.extend(sentences);
        Ok(CommandReport::ok(lines.join("\n"), json!({ "members": values })))
    }
}

fn row(
    state: &wire::GroupState,
    member: &wire::GroupMember,
    said: &wire::DescribeReplicationResponse,
) -> Vec<String> {
    let yes = |flag: bool| if flag { "yes" } else { "no" }.to_owned();
    let of_master = |position: u64| if said.role == "master" { position.to_string() } else { "-".to_owned() };
    vec![
        state.group.clone(),
        member.id.to_string(),
        said.role.to_uppercase(),
        said.epoch.to_string(),
        yes(state.in_sync.contains(&member.id)),
        said.end.to_string(),
        said.durable.to_string(),
        of_master(said.applied),
        of_master(said.confirmed),
        yes(said.drained),
    ]
}

fn view(
    state: &wire::GroupState,
    member: &wire::GroupMember,
    said: Option<&wire::DescribeReplicationResponse>,
) -> Value {
    let slaves = said.iter().flat_map(|said| &said.slaves).map(|slave| {
        json!({ "id": slave.member, "durable": slave.durable, "silentMs": slave.silent_ms, "inSync": slave.in_sync })
    });
    json!({
        "broker": state.group,
        "id": member.id,
        "address": member.replication_address,
        "inSync": state.in_sync.contains(&member.id),
        "answers": said.is_some(),
        "role": said.map(|said| said.role.clone()),
        "epoch": said.map(|said| said.epoch),
        "end": said.map(|said| said.end),
        "confirmed": said.map(|said| said.confirmed),
        "drained": said.map(|said| said.drained),
        "readForMaster": said.map(|said| said.read_for_master),
        "promise": said.map(|said| said.promise.clone()),
        "slaves": slaves.collect::<Vec<_>>(),
    })
}

/// Keep a member from being the master until it is restarted or --undo; a master hands over first, without a failed send
#[derive(Debug, Args)]
pub(crate) struct BrokerDrain {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    group: GroupChoice,
    /// Which member
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    member: u64,
    /// Let it be the master again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl BrokerDrain {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        let state = self.group.find(&controller).await?.state.unwrap_or_default();
        let member = state.members.iter().find(|member| member.id == self.member);
        let member = member.ok_or_else(|| {
            CommandFailure::not_found(format!(
                "{} has no member {}; see getSyncStateSet",
                state.group, self.member
            ))
        })?;
        if let Some(instead) = self.dry_run.instead(|| {
            let verb = if self.undo { "let" } else { "keep" };
            let end = if self.undo { "be the master again" } else { "from being the master" };
            format!("{verb} member {} of {} {end}", self.member, state.group)
        }) {
            return Ok(instead);
        }
        let mut client = client(member)?;
        let asked = client.set_drained(wire::SetDrainedRequest { drained: !self.undo });
        answered(HAND_OVER, asked).await?;
        let what = if self.undo { "may be the master again" } else { "is not the master and will not be" };
        let text = format!("member {} of {} {what}", self.member, state.group);
        Ok(CommandReport::ok(
            text,
            json!({ "broker": state.group, "member": self.member, "drained": !self.undo }),
        ))
    }
}

/// Say whether a member can be stopped now without its group stopping: exit code 0 when it can
#[derive(Debug, Args)]
pub(crate) struct BrokerRestartSafe {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    group: GroupChoice,
    /// Which member
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    member: u64,
}

impl BrokerRestartSafe {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        let state = self.group.find(&controller).await?.state.unwrap_or_default();
        let others: Vec<u64> = state.in_sync.iter().copied().filter(|id| *id != self.member).collect();
        if state.master == 0 || others.is_empty() {
            return Err(CommandFailure::failed(format!(
                "do not stop member {} of {}: no other one is in sync; see getSyncStateSet",
                self.member, state.group
            )));
        }
        let text = format!(
            "member {} of {} can be stopped: {others:?} are in sync besides; with replication.min-in-sync above {} sends wait for it",
            self.member,
            state.group,
            others.len()
        );
        Ok(CommandReport::ok(
            text,
            json!({ "broker": state.group, "member": self.member, "inSyncBesides": others }),
        ))
    }
}
