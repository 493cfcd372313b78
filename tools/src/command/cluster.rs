//! Clusters and their brokers.

use crate::target::{Common, Repeat};
use clap::Args;
use kerolox_client::admin::{Admin, address_of, wire};
use kerolox_report::outcome::{CommandFailure, Result, combined};
use kerolox_report::output::{CommandReport, short_duration, table};
use serde_json::{Value, json};

/// List the clusters with their brokers and the brokers' figures
#[derive(Debug, Args)]
pub(crate) struct ClusterList {
    #[command(flatten)]
    pub(crate) common: Common,
    /// This cluster only
    #[arg(short = 'c', long = "cluster-name", alias = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    #[command(flatten)]
    _repeat: Repeat,
}

/// A registered broker, and what it says when asked.
struct Listed {
    info: wire::BrokerInfo,
    topics: usize,
    answer: Result<wire::DescribeBrokerResponse>,
}

impl ClusterList {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let client = self.common.client()?;
        let snapshot = self.common.snapshot(&client).await?;
        let admin = client.admin();
        let mut brokers = Vec::new();
        for registered in snapshot.brokers {
            let info = registered.broker.unwrap_or_default();
            if self.cluster.as_ref().is_none_or(|cluster| info.cluster == *cluster) {
                let answer = describe(&admin, &info).await;
                brokers.push(Listed { info, topics: registered.topics.len(), answer });
            }
        }
        if let (Some(cluster), true) = (&self.cluster, brokers.is_empty()) {
            return Err(CommandFailure::not_found(format!(
                "no broker of cluster {cluster} is registered; check its name"
            )));
        }
        brokers.sort_by(|a, b| order(&a.info).cmp(&order(&b.info)));
        Ok(CommandReport {
            text: table(HEADER, brokers.iter().map(Listed::row)),
            json: json!({ "brokers": brokers.iter().map(Listed::json).collect::<Vec<_>>() }),
            warnings: brokers.iter().filter_map(|broker| broker.answer.as_ref().err().cloned()).collect(),
            // The list itself is complete, so an unreachable broker makes it a partial success even if all are.
            exit: combined(
                std::iter::once(None).chain(brokers.iter().map(|broker| broker.answer.as_ref().err())),
            ),
        })
    }
}

/// A slave keeps no figures of its own: it says how long it has been up.
async fn describe(admin: &Admin, info: &wire::BrokerInfo) -> Result<wire::DescribeBrokerResponse> {
    let address = address_of(info)?;
    if info.role() == wire::BrokerRole::Slave {
        let said = admin.broker(&address).describe_server(wire::DescribeServerRequest::default()).await;
        return match said {
            Ok(said) => Ok(wire::DescribeBrokerResponse { uptime_ms: said.uptime_ms, ..Default::default() }),
            Err(error) => Err(CommandFailure::from(error).during(format!("broker {}", info.group))),
        };
    }
    admin
        .broker(&address)
        .describe_broker(wire::DescribeBrokerRequest {})
        .await
        .map_err(|error| CommandFailure::from(error).during(format!("broker {}", info.group)))
}

fn order(info: &wire::BrokerInfo) -> (&str, &str, u32) {
    (&info.cluster, &info.group, info.id)
}

const HEADER: &[&str] = &[
    "Cluster Name",
    "Broker Name",
    "BID",
    "MID",
    "Addr",
    "Version",
    "Role",
    "Topics",
    "InTotal",
    "OutTotal",
    "Undecided",
    "Up",
    "State",
];

impl Listed {
    fn address(&self) -> String {
        format!("{}:{}", self.info.host, self.info.port)
    }

    fn role(&self) -> &'static str {
        match self.info.role() {
            wire::BrokerRole::Master => "MASTER",
            wire::BrokerRole::Slave => "SLAVE",
            wire::BrokerRole::Unspecified => "-",
        }
    }

    fn state(&self) -> &'static str {
        match &self.answer {
            Err(_) => "UNREACHABLE",
            Ok(answer) if !answer.read_only_reason.is_empty() => "READ_ONLY",
            Ok(_) if self.info.withheld != 0 => "NO_SENDS",
            Ok(_) => "OK",
        }
    }

    fn row(&self) -> Vec<String> {
        let figure = |pick: fn(&wire::DescribeBrokerResponse) -> String| {
            self.answer.as_ref().map_or_else(|_| "-".to_owned(), pick)
        };
        vec![
            self.info.cluster.clone(),
            self.info.group.clone(),
            self.info.id.to_string(),
            super::servers::member(&self.info).to_string(),
            self.address(),
            self.info.version.clone(),
            self.role().to_owned(),
            self.topics.to_string(),
            figure(|answer| answer.messages_in.to_string()),
            figure(|answer| answer.messages_out.to_string()),
            figure(|answer| answer.undecided_transactions.to_string()),
            figure(|answer| short_duration(answer.uptime_ms)),
            self.state().to_owned(),
        ]
    }

    fn json(&self) -> Value {
        let mut entry = json!({
            "cluster": self.info.cluster,
            "broker": self.info.group,
            "id": self.info.id,
            "member": super::servers::member(&self.info),
            "address": self.address(),
            "version": self.info.version,
            "role": self.role(),
            "topics": self.topics,
            "state": self.state(),
            "withheld": self.info.withheld,
        });
        match &self.answer {
            Ok(answer) => {
                entry["uptimeMs"] = answer.uptime_ms.into();
                entry["messagesIn"] = answer.messages_in.into();
                entry["messagesOut"] = answer.messages_out.into();
                entry["undecidedTransactions"] = answer.undecided_transactions.into();
                entry["scheduledMessages"] = answer.scheduled_messages.into();
                entry["logEnd"] = answer.log_end.into();
                entry["logDurable"] = answer.log_durable.into();
                entry["logApplied"] = answer.log_applied.into();
                entry["readOnlyReason"] = answer.read_only_reason.clone().into();
            }
            Err(failure) => entry["error"] = failure.message.clone().into(),
        }
        entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(answer: Result<wire::DescribeBrokerResponse>) -> Listed {
        let info = wire::BrokerInfo { host: "h".into(), port: 8081, group: "a".into(), ..Default::default() };
        Listed { info, topics: 3, answer }
    }

    #[test]
    fn rows_fit_the_header_in_every_state() {
        let read_only =
            wire::DescribeBrokerResponse { read_only_reason: "disk full".into(), ..Default::default() };
        let states = [
            listed(Ok(wire::DescribeBrokerResponse::default())),
            listed(Ok(read_only)),
            listed(Err(CommandFailure::failed("refused"))),
        ];
        let names: Vec<&str> = states.iter().map(Listed::state).collect();
        assert_eq!(names, ["OK", "READ_ONLY", "UNREACHABLE"]);
        for broker in &states {
            assert_eq!(broker.row().len(), HEADER.len());
        }
        assert_eq!(states[1].json()["readOnlyReason"], "disk full");
        assert_eq!(states[2].json()["error"], "refused");
    }
}
