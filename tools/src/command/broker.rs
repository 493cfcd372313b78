//! Single brokers: what they say about themselves.

use crate::target::{Common, Done, Repeat, Where, report};
use clap::Args;
use kerolox_client::admin::wire;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, plain, short_duration, table};
use serde_json::{Value, json};

/// Show what brokers say about themselves
#[derive(Debug, Args)]
pub(crate) struct BrokerStatus {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
}

impl BrokerStatus {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.place.brokers(&self.common, None).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let asked = admin.broker(&broker.address);
            let result = async {
                let server = asked.describe_server(wire::DescribeServerRequest::default()).await?;
                match asked.describe_broker(wire::DescribeBrokerRequest {}).await {
                    Ok(broker) => Ok(figures(Some(&broker), &server)),
                    // A slave keeps no figures of messages, but tells of its process.
                    Err(_) if server.checks.iter().any(|check| check.name == "master") => {
                        Ok(figures(None, &server))
                    }
                    Err(error) => Err(error),
                }
            };
            let result = result.await.map_err(|error: kerolox_client::Error| CommandFailure::from(error));
            done.push(Done { broker, result });
        }
        let text = |broker: &kerolox_client::admin::Master, figures: &Vec<(&'static str, Value)>| {
            let line = |(name, value): &(&str, Value)| format!("  {name:24} {}", plain(value));
            let lines: Vec<String> = figures.iter().map(line).collect();
            format!("broker {} [{}]\n{}", broker.info.group, broker.address, lines.join("\n"))
        };
        let view = |figures: &Vec<(&'static str, Value)>| {
            Value::Object(figures.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
        };
        Ok(report(&done, text, view))
    }
}

/// `broker` is absent for a slave.
fn figures(
    broker: Option<&wire::DescribeBrokerResponse>,
    server: &wire::DescribeServerResponse,
) -> Vec<(&'static str, Value)> {
    let worst = |state: &str| server.checks.iter().any(|check| check.state == state);
    let state = if worst("failed") {
        "failed"
    } else if worst("warning") {
        "warning"
    } else {
        "ok"
    };
    let mut figures =
        vec![("state", json!(state)), ("role", json!(if broker.is_some() { "master" } else { "slave" }))];
    figures.extend(broker.map(of_messages).unwrap_or_default());
    let failed = server.checks.iter().filter(|check| check.state == "failed");
    let failed: Vec<String> = failed.map(|check| format!("{}: {}", check.name, check.reason)).collect();
    figures.extend([
        ("failed", json!(failed.join("; "))),
        ("version", json!(server.version)),
        ("upTime", json!(short_duration(server.uptime_ms))),
        ("upTimeMs", json!(server.uptime_ms)),
        ("clients", json!(server.clients)),
        ("residentBytes", json!(server.resident_bytes)),
        ("cpuMs", json!(server.cpu_ms)),
        ("openFiles", json!(server.open_files)),
        ("tasks", json!(server.tasks)),
        ("data", json!(server.data)),
        ("diskBytes", json!(server.disk_bytes)),
        ("diskFreeBytes", json!(server.disk_free_bytes)),
        ("logFilter", json!(server.log_filter)),
    ]);
    figures
}

fn of_messages(broker: &wire::DescribeBrokerResponse) -> Vec<(&'static str, Value)> {
    let info = broker.broker.clone().unwrap_or_default();
    vec![
        ("cluster", json!(info.cluster)),
        ("brokerName", json!(info.group)),
        ("epoch", json!(info.epoch)),
        ("putTps", json!(rounded(broker.in_per_second))),
        ("getTransferredTps", json!(rounded(broker.out_per_second))),
        ("messagesIn", json!(broker.messages_in)),
        ("messagesOut", json!(broker.messages_out)),
        ("undecidedTransactions", json!(broker.undecided_transactions)),
        ("scheduledMessages", json!(broker.scheduled_messages)),
        ("logEnd", json!(broker.log_end)),
        ("logDurable", json!(broker.log_durable)),
        ("logApplied", json!(broker.log_applied)),
        ("readOnlyReason", json!(broker.read_only_reason)),
    ]
}

fn rounded(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

/// Show the epochs of broker groups: each master rules in one of its own
#[derive(Debug, Args)]
pub(crate) struct BrokerEpoch {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Only this cluster
    #[arg(short = 'c', long = "cluster-name", alias = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Only this broker group
    #[arg(short = 'b', long = "broker-name", alias = "brokerName", value_name = "BROKER_NAME")]
    broker: Option<String>,
    #[command(flatten)]
    _repeat: Repeat,
}

impl BrokerEpoch {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let client = self.common.client()?;
        let masters = client.admin().masters(self.cluster.as_deref()).await?;
        let fits = |group: &str| self.broker.as_deref().is_none_or(|wanted| wanted == group);
        let shown: Vec<_> = masters.iter().filter(|master| fits(&master.info.group)).collect();
        if shown.is_empty() {
            return Err(CommandFailure::not_found(
                "no master broker is registered that fits; see clusterList",
            ));
        }
        let row = |master: &&&kerolox_client::admin::Master| {
            vec![
                master.info.cluster.clone(),
                master.info.group.clone(),
                master.address.to_string(),
                master.info.epoch.to_string(),
            ]
        };
        let view = |master: &&&kerolox_client::admin::Master| {
            json!({
                "cluster": master.info.cluster, "broker": master.info.group, "master": master.address.to_string(),
                "epoch": master.info.epoch,
            })
        };
        Ok(CommandReport::ok(
            table(&["Cluster Name", "Broker Name", "Master", "Epoch"], shown.iter().map(|each| row(&each))),
            json!({ "brokers": shown.iter().map(|each| view(&each)).collect::<Vec<_>>() }),
        ))
    }
}
