//! Who is in a broker group, and who is in sync with its master.

use clap::Args;
use kerolox_client::admin::wire;
use serde_json::{Value, json};

use super::{chosen, standalone};
use crate::target::{Common, Repeat};
use kerolox_report::outcome::Result;
use kerolox_report::output::{CommandReport, table};

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

pub(super) fn group_json(group: &wire::GroupDescription) -> Value {
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

/// A member with the state of its group, its health and its lag.
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
}
