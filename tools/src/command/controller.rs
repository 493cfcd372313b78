//! Masters of broker groups, and the nameservers that elect them.

use std::time::{Duration, Instant};

use clap::Args;
use kerolox_client::Address;
use kerolox_client::admin::controller::ControllerClient;
use kerolox_client::admin::wire;
use serde_json::{Value, json};
use tonic::{Code, Status};

use crate::command::replication::step_down;
use crate::command::{DryRun, confirm};
use crate::target::{Common, Repeat};
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::{CommandReport, table};

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
This broker runs alone (--standalone): it is its own nameserver, elects nobody, and has no slaves. An acknowledgement means that
the message is on its disk (with log.flush = async: in the page cache); while it is down, nobody takes its place.";

/// What a refusal by the controller means to scripts.
pub(crate) fn failure(status: Status) -> CommandFailure {
    if status.code() == Code::Unimplemented {
        return CommandFailure::failed(STANDALONE);
    }
    let exit = match status.code() {
        Code::NotFound => ExitStatus::NotFound,
        Code::PermissionDenied | Code::Unauthenticated => ExitStatus::Denied,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled => ExitStatus::Unreachable,
        _ => ExitStatus::Failed,
    };
    CommandFailure { exit, message: status.message().to_owned() }
}

/// Show the members of broker groups: who is the master, who is in sync with it, who lags
#[derive(Debug, Args)]
pub(crate) struct GetSyncStateSet {
    #[command(flatten)]
    pub(crate) common: Common,
    /// This broker group only
    #[arg(short = 'b', long = "broker-name", alias = "brokerName", value_name = "GROUP")]
    broker: Option<String>,
    /// This cluster only
    #[arg(short = 'c', long = "cluster-name", alias = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    #[command(flatten)]
    _repeat: Repeat,
}

impl GetSyncStateSet {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        if let Some(standalone) = standalone(&self.common, &controller).await? {
            return Ok(standalone);
        }
        Ok(report(&chosen(&controller, self.cluster.as_deref(), self.broker.as_deref()).await?))
    }
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

const MEMBERS_HEADER: &[&str] = &[
    "Cluster Name",
    "Broker Name",
    "Epoch",
    "MID",
    "Role",
    "InSync",
    "Addr",
    "Replication Addr",
    "LastReport",
    "LastEpoch",
    "End",
    "Lag",
];

fn report(groups: &[wire::GroupDescription]) -> CommandReport {
    let members: Vec<MemberView<'_>> = groups.iter().flat_map(MemberView::of).collect();
    let mut lines = vec![table(MEMBERS_HEADER, members.iter().map(MemberView::row))];
    lines.extend(members.iter().filter(|member| !member.health.unfit.is_empty()).map(|member| {
        let (id, group) = (member.member.id, &member.state.group);
        format!("member {id} of {group} must not be elected: {}", member.health.unfit)
    }));
    lines.extend(groups.iter().filter(|group| !group.waiting_for.is_empty()).map(|group| {
        let name = group.state.as_ref().map(|state| state.group.as_str()).unwrap_or_default();
        format!("{name}: {}", group.waiting_for)
    }));
    CommandReport::ok(
        lines.join("\n"),
        json!({ "brokers": groups.iter().map(group_json).collect::<Vec<_>>() }),
    )
}

fn group_json(group: &wire::GroupDescription) -> Value {
    let Some(state) = &group.state else { return Value::Null };
    json!({
        "cluster": state.cluster,
        "broker": state.group,
        "epoch": state.epoch,
        "master": state.master,
        "inSync": state.in_sync,
        "quorum": state.quorum,
        "version": state.version,
        "waitingFor": group.waiting_for,
        "members": MemberView::of(group).map(|member| member.json()).collect::<Vec<_>>(),
    })
}

/// A member with what is known of it.
struct MemberView<'a> {
    state: &'a wire::GroupState,
    member: &'a wire::GroupMember,
    health: wire::MemberHealth,
    /// Bytes of the master's log that it does not have.
    lag: Option<u64>,
}

impl<'a> MemberView<'a> {
    fn of(group: &'a wire::GroupDescription) -> impl Iterator<Item = Self> {
        let heard =
            |id| group.health.iter().find(move |health| health.id == id && health.silent_ms.is_some());
        let members =
            group.state.iter().flat_map(|state| state.members.iter().map(move |member| (state, member)));
        members.map(move |(state, member)| {
            let health = heard(member.id);
            let lag = heard(state.master).zip(health).map(|(master, own)| master.end.saturating_sub(own.end));
            Self { state, member, health: health.cloned().unwrap_or_default(), lag }
        })
    }

    fn is_in_sync(&self) -> bool {
        self.state.in_sync.contains(&self.member.id)
    }

    fn address(&self) -> String {
        format!("{}:{}", self.member.host, self.member.port)
    }

    fn row(&self) -> Vec<String> {
        let is_master = self.member.id == self.state.master;
        let heard = |figure: String| if self.health.silent_ms.is_some() { figure } else { "-".to_owned() };
        vec![
            self.state.cluster.clone(),
            self.state.group.clone(),
            self.state.epoch.to_string(),
            self.member.id.to_string(),
            if is_master { "MASTER" } else { "SLAVE" }.to_owned(),
            if self.is_in_sync() { "yes" } else { "no" }.to_owned(),
            self.address(),
            self.member.replication_address.clone(),
            self.health.silent_ms.map_or_else(|| "-".to_owned(), |silent| format!("{silent}ms")),
            heard(self.health.last_epoch.to_string()),
            heard(self.health.end.to_string()),
            self.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string()),
        ]
    }

    fn json(&self) -> Value {
        json!({
            "id": self.member.id,
            "address": self.address(),
            "replicationAddress": self.member.replication_address,
            "inSync": self.is_in_sync(),
            "silentMs": self.health.silent_ms,
            "promised": self.health.promised,
            "lastEpoch": self.health.last_epoch,
            "end": self.health.end,
            "lag": self.lag,
            "unfit": self.health.unfit,
        })
    }
}

/// Elect another master for a broker group, and wait for it
#[derive(Debug, Args)]
pub(crate) struct ElectMaster {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    group: GroupChoice,
    /// Who is to be the master [default: whoever is best besides the master of the moment]
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    member: Option<u64>,
    /// Also one that may lack what was acknowledged; what it lacks is lost
    #[arg(long)]
    unclean: bool,
    /// With --unclean: also one of which it is known that it lacks messages, or has none
    #[arg(long, requires = "unclean")]
    lose_messages: bool,
    /// Do not ask before that
    #[arg(short = 'y', long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl ElectMaster {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        let state = self.group.find(&controller).await?.state.unwrap_or_default();
        if let Some(instead) = self.dry_run.instead(|| {
            let who =
                self.member.map_or_else(|| "whoever is best".to_owned(), |member| format!("member {member}"));
            let loss = if self.unclean { ", even if it lacks messages" } else { "" };
            format!("elect {who} as master of {} in place of member {}{loss}", state.group, state.master)
        }) {
            return Ok(instead);
        }
        let loss = self.accepted_loss(&controller, &state).await?;
        let request = wire::ElectMasterRequest {
            cluster: state.cluster.clone(),
            group: state.group.clone(),
            member: self.member.unwrap_or_default(),
            unclean: self.unclean,
            lose_messages: self.lose_messages,
        };
        // A master that is there hands over without a failed send; one that is not is replaced.
        let is_planned = !self.unclean && self.member != Some(state.master);
        let handed_over = is_planned && step_down(&state, self.member.unwrap_or_default()).await.is_ok();
        if !handed_over {
            controller.elect_master(request).await.map_err(failure)?;
        }
        let elected = self.group.wait_for_master(&controller).await?;
        let state = elected.state.clone().unwrap_or_default();
        if let Some(wanted) = self.member.filter(|wanted| *wanted != state.master) {
            let text = format!(
                "member {} was elected in epoch {} in place of member {wanted}, which did not answer in time or lacked \
                 something; try again",
                state.master, state.epoch
            );
            return Err(CommandFailure::failed(text));
        }
        let set: Vec<String> = state.in_sync.iter().map(u64::to_string).collect();
        let mut text = format!(
            "member {} is the master of {} in epoch {}, in sync are {{{}}}",
            state.master,
            state.group,
            state.epoch,
            set.join(", ")
        );
        let mut json = json!({ "brokers": [group_json(&elected)] });
        if let Some(loss) = &loss {
            text += &format!("\nbefore: {}", loss.text);
            text += &after_text(&elected);
            json["loss"] = loss_json(loss);
        }
        Ok(CommandReport::ok(text, json))
    }

    /// What an election by force loses, when the operator accepts it; `None` of an election that loses nothing.
    async fn accepted_loss(
        &self,
        controller: &ControllerClient,
        state: &wire::GroupState,
    ) -> Result<Option<wire::ElectionLoss>> {
        if !self.unclean {
            return Ok(None);
        }
        let request = wire::DescribeLossRequest {
            cluster: state.cluster.clone(),
            group: state.group.clone(),
            member: self.member.unwrap_or_default(),
        };
        let loss = controller.describe_loss(request).await.map_err(failure)?;
        if loss.certain && !self.lose_messages {
            let text = format!(
                "nothing was changed: {}. To accept that, say --lose-messages as well as --unclean",
                loss.text
            );
            return Err(CommandFailure::failed(text));
        }
        let question = format!(
            "{}. Messages of {} that only other members hold will be lost. Go on?",
            loss.text, state.group
        );
        confirm(&question, self.yes)?;
        Ok(Some(loss))
    }
}

fn loss_json(loss: &wire::ElectionLoss) -> Value {
    let ahead = loss.ahead.iter();
    let ahead = ahead.map(|other| json!({ "id": other.id, "lastEpoch": other.last_epoch, "end": other.end }));
    json!({
        "member": loss.member,
        "lastEpoch": loss.last_epoch,
        "end": loss.end,
        "confirmed": loss.confirmed,
        "ahead": ahead.collect::<Vec<_>>(),
        "unheard": loss.unheard,
        "bytes": loss.bytes,
        "certain": loss.certain,
    })
}

/// What the others give up from then on.
fn after_text(elected: &wire::GroupDescription) -> String {
    let master = elected.state.as_ref().map(|state| state.master);
    let Some(own) = elected.health.iter().find(|member| Some(member.id) == master) else {
        return String::new();
    };
    let others = elected.health.iter().filter(|other| Some(other.id) != master && other.silent_ms.is_some());
    let behind = others.filter(|other| other.end > own.end || other.last_epoch > own.last_epoch);
    behind
        .map(|other| {
            format!(
                "\nafter: member {} ends at {}, the master at {}; what it has and the master has not it gives up when it follows, and keeps \
                 a copy beside its log",
                other.id, other.end, own.end
            )
        })
        .collect()
}

/// Let a broker group whose data folders are all gone begin without messages
#[derive(Debug, Args)]
pub(crate) struct ResetBrokerGroup {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    group: GroupChoice,
    /// All messages of the group are lost
    #[arg(long, required_unless_present = "dry_run")]
    lose_all_messages: bool,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl ResetBrokerGroup {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        let before = self.group.find(&controller).await?;
        let state = before.state.clone().unwrap_or_default();
        let lost = lost_text(&before);
        if let Some(instead) =
            self.dry_run.instead(|| format!("let {} begin without messages: {lost}", state.group))
        {
            return Ok(instead);
        }
        confirm(&format!("{lost}. Let {} begin without messages?", state.group), self.yes)?;
        let request = wire::ResetGroupRequest {
            cluster: state.cluster,
            group: state.group.clone(),
            lose_all_messages: self.lose_all_messages,
        };
        let answer = controller.reset_group(request).await.map_err(failure)?;
        let elected = self.group.wait_for_master(&controller).await?;
        let state = elected.state.clone().unwrap_or_default();
        let text = format!(
            "{lost}\nmember {} is the master of {} in epoch {}",
            state.master, state.group, state.epoch
        );
        let json = json!({ "brokers": [group_json(&elected)], "forgotten": answer.forgotten, "lost": lost });
        Ok(CommandReport::ok(text, json))
    }
}

/// What a group loses that begins without messages.
fn lost_text(group: &wire::GroupDescription) -> String {
    let holders = group.state.iter().flat_map(|state| &state.members).filter(|member| member.holds);
    let told = holders.map(|member| {
        let health = group.health.iter().find(|health| health.id == member.id && health.silent_ms.is_some());
        let held = match health {
            Some(health) => format!("held the log up to position {}", health.end),
            None => "held nobody knows how much".to_owned(),
        };
        format!("member {} ({}:{}) {held}", member.id, member.host, member.port)
    });
    let told: Vec<String> = told.collect();
    format!("all messages are lost, with topics, consumer groups and their progress: {}", told.join(", "))
}

/// Take a dead member out of its broker group for good
#[derive(Debug, Args)]
pub(crate) struct RemoveBrokerMember {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    group: GroupChoice,
    /// Who goes
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    member: u64,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl RemoveBrokerMember {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        let state = self.group.find(&controller).await?.state.unwrap_or_default();
        if let Some(instead) =
            self.dry_run.instead(|| format!("remove member {} from {}", self.member, state.group))
        {
            return Ok(instead);
        }
        let question = format!("Take member {} out of {} for good?", self.member, state.group);
        crate::command::confirm(&question, self.yes)?;
        let request = wire::RemoveMemberRequest {
            cluster: state.cluster,
            group: state.group.clone(),
            member: self.member,
        };
        let left = controller.remove_member(request).await.map_err(failure)?.state.unwrap_or_default();
        let ids: Vec<u64> = left.members.iter().map(|member| member.id).collect();
        let text = format!("member {} of {} is removed", self.member, state.group);
        Ok(CommandReport::ok(text, json!({ "broker": state.group, "removed": self.member, "members": ids })))
    }
}

/// Show the nameservers that elect masters, and which of them leads
#[derive(Debug, Args)]
pub(crate) struct ControllerStatus {
    #[command(flatten)]
    pub(crate) common: Common,
}

impl ControllerStatus {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        match standalone(&self.common, &controller).await? {
            Some(standalone) => Ok(standalone),
            None => quorum_report(&controller).await,
        }
    }
}

async fn quorum_report(controller: &ControllerClient) -> Result<CommandReport> {
    let quorum = controller.describe_quorum(wire::DescribeQuorumRequest {}).await.map_err(failure)?;
    let row = |member: &wire::NameserverMember| {
        let role = match (member.leads, member.votes) {
            (true, _) => "LEADER",
            (false, true) => "FOLLOWER",
            (false, false) => "LEARNER",
        };
        vec![
            member.id.to_string(),
            member.address.clone(),
            role.to_owned(),
            member.behind.map_or_else(|| "-".to_owned(), |behind| behind.to_string()),
        ]
    };
    let mut text = table(&["ID", "Addr", "Role", "Behind"], quorum.members.iter().map(row));
    if !quorum.members.iter().any(|member| member.leads) {
        text += &format!("\nno leader is known to nameserver {}, which answered", quorum.answered_by);
    }
    let view = |member: &wire::NameserverMember| {
        json!({
            "id": member.id,
            "address": member.address,
            "leads": member.leads,
            "votes": member.votes,
            "behind": member.behind,
        })
    };
    let members: Vec<Value> = quorum.members.iter().map(view).collect();
    let json = json!({ "nameservers": members, "answeredBy": quorum.answered_by, "term": quorum.term });
    Ok(CommandReport::ok(text, json))
}

/// Add a nameserver that was started with --join to those that elect masters, or give one another address
#[derive(Debug, Args)]
pub(crate) struct ControllerAdd {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The nameserver's --id
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Where the other nameservers reach it
    #[arg(long, value_name = "HOST:PORT")]
    address: kerolox_client::Address,
    #[command(flatten)]
    dry_run: DryRun,
}

impl ControllerAdd {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        if let Some(instead) = self
            .dry_run
            .instead(|| format!("add nameserver {} at {} to those that elect masters", self.id, self.address))
        {
            return Ok(instead);
        }
        let request = wire::AddNameserverRequest { id: self.id, address: self.address.to_string() };
        controller.add_nameserver(request).await.map_err(failure)?;
        quorum_report(&controller).await
    }
}

/// Take a nameserver out of those that elect masters
#[derive(Debug, Args)]
pub(crate) struct ControllerRemove {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The nameserver's --id
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl ControllerRemove {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        if let Some(instead) =
            self.dry_run.instead(|| format!("take nameserver {} out of those that elect masters", self.id))
        {
            return Ok(instead);
        }
        let question = format!("Take nameserver {} out of those that elect masters?", self.id);
        crate::command::confirm(&question, self.yes)?;
        let request = wire::RemoveNameserverRequest { id: self.id };
        controller.remove_nameserver(request).await.map_err(failure)?;
        let text = format!("nameserver {} elects no masters any more; it can be stopped", self.id);
        Ok(CommandReport::ok(text, json!({ "removed": self.id })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_fit_the_header_and_lag_is_counted_from_the_master() {
        let member = |id| wire::GroupMember { id, host: "h".into(), port: 1, ..Default::default() };
        let health = |id, silent_ms, end| wire::MemberHealth { id, silent_ms, end, ..Default::default() };
        let group = wire::GroupDescription {
            state: Some(wire::GroupState {
                group: "a".into(),
                epoch: 4,
                master: 2,
                in_sync: vec![1, 2],
                members: vec![member(1), member(2), member(3)],
                ..Default::default()
            }),
            health: vec![health(1, Some(5), 70), health(2, Some(6), 100), health(3, None, 0)],
            waiting_for: "a reason".into(),
        };
        let rows: Vec<Vec<String>> = MemberView::of(&group).map(|member| member.row()).collect();
        assert!(rows.iter().all(|row| row.len() == MEMBERS_HEADER.len()));
        let lags: Vec<&str> = rows.iter().map(|row| row[11].as_str()).collect();
        assert_eq!(lags, ["30", "0", "-"]);
        let report = report(std::slice::from_ref(&group));
        assert!(report.text.ends_with("a: a reason"), "{}", report.text);
        let first = &report.json["brokers"][0]["members"][0];
        assert_eq!(
            (&first["lag"], &first["inSync"], &first["silentMs"]),
            (&json!(30), &json!(true), &json!(5))
        );
    }

    #[test]
    fn refusals_map_to_exit_codes() {
        assert_eq!(failure(Status::not_found("x")).exit, ExitStatus::NotFound);
        assert_eq!(failure(Status::unavailable("x")).exit, ExitStatus::Unreachable);
        assert_eq!(failure(Status::failed_precondition("x")).exit, ExitStatus::Failed);
    }
}
