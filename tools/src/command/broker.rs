//! Single brokers: what they say about themselves, and their settings.

use super::DryRun;
use crate::outcome::{Failure, Result, combined};
use crate::output::{Report, short_duration, table};
use crate::target::{Common, Done, Repeat, Where, report};
use clap::Args;
use kerolox_client::admin::wire;
use serde_json::{Map, Value, json};

/// Show what brokers say about themselves
#[derive(Debug, Args)]
pub(crate) struct BrokerStatus {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
}

impl BrokerStatus {
    pub(crate) async fn run(self) -> Result<Report> {
        let (admin, brokers) = self.place.brokers(&self.common, None).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let asked = admin.broker(&broker.address);
            let result = async {
                let broker = asked.describe_broker(wire::DescribeBrokerRequest {}).await?;
                let server = asked.describe_server(wire::DescribeServerRequest::default()).await?;
                Ok(figures(&broker, &server))
            };
            let result = result.await.map_err(|error: kerolox_client::Error| Failure::from(error));
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

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn figures(
    broker: &wire::DescribeBrokerResponse,
    server: &wire::DescribeServerResponse,
) -> Vec<(&'static str, Value)> {
    let info = broker.broker.clone().unwrap_or_default();
    let worst = |state: &str| server.checks.iter().any(|check| check.state == state);
    let state = if worst("failed") {
        "failed"
    } else if worst("warning") {
        "warning"
    } else {
        "ok"
    };
    vec![
        ("state", json!(state)),
        ("cluster", json!(info.cluster)),
        ("brokerName", json!(info.group)),
        ("version", json!(info.version)),
        ("epoch", json!(info.epoch)),
        ("upTime", json!(short_duration(broker.uptime_ms))),
        ("upTimeMs", json!(broker.uptime_ms)),
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
        ("clients", json!(server.clients)),
        ("residentBytes", json!(server.resident_bytes)),
        ("cpuMs", json!(server.cpu_ms)),
        ("openFiles", json!(server.open_files)),
        ("tasks", json!(server.tasks)),
        ("data", json!(server.data)),
        ("diskBytes", json!(server.disk_bytes)),
        ("diskFreeBytes", json!(server.disk_free_bytes)),
        ("logFilter", json!(server.log_filter)),
    ]
}

fn rounded(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

/// Show the settings that brokers run with; secrets are masked
#[derive(Debug, Args)]
pub(crate) struct GetBrokerConfig {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
}

impl GetBrokerConfig {
    pub(crate) async fn run(self) -> Result<Report> {
        let (admin, brokers) = self.place.brokers(&self.common, None).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let request = wire::DescribeServerRequest { in_full: true };
            let result = admin.broker(&broker.address).describe_server(request).await.map_err(Failure::from);
            done.push(Done { broker, result: result.map(|said| said.config) });
        }
        Ok(report(
            &done,
            |broker, config| {
                format!("# broker {} [{}]\n{}", broker.info.group, broker.address, flat_text(config))
            },
            |config| json!({ "config": parsed(config) }),
        ))
    }
}

/// Show the settings that nameservers run with; secrets are masked
#[derive(Debug, Args)]
pub(crate) struct GetNamesrvConfig {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Nameservers, where RocketMQ has controllers
    #[arg(short = 'a', long = "controller-address", alias = "controllerAddress", value_name = "ADDRS")]
    controllers: Option<String>,
}

impl GetNamesrvConfig {
    pub(crate) async fn run(self) -> Result<Report> {
        let (profile, addresses) = match self.controllers {
            Some(addresses) => (self.common.profile()?, addresses),
            None => self.common.nameservers()?,
        };
        let admin = profile.client(&addresses)?.admin();
        let (mut texts, mut views, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for address in addresses.split([';', ',']).map(str::trim).filter(|address| !address.is_empty()) {
            let address = address.parse().map_err(|error| Failure::usage(format!("{error}")))?;
            let request = wire::DescribeServerRequest { in_full: true };
            match admin.broker(&address).describe_server(request).await {
                Ok(said) => {
                    texts.push(format!("# {} {address}\n{}", said.kind, flat_text(&said.config)));
                    views.push(json!({ "address": address.to_string(), "kind": said.kind, "config": parsed(&said.config) }));
                    failures.push(None);
                }
                Err(error) => failures.push(Some(Failure::from(error))),
            }
        }
        Ok(Report {
            text: texts.join("\n\n"),
            json: json!({ "nameservers": views }),
            exit: combined(failures.iter().map(Option::as_ref)),
            warnings: failures.into_iter().flatten().collect(),
        })
    }
}

fn parsed(config: &str) -> Value {
    toml::from_str::<toml::Table>(config).map_or_else(|_| json!(config), |table| json!(table))
}

/// `section.key = value`, a line each, as in RocketMQ's properties.
fn flat_text(config: &str) -> String {
    let Value::Object(root) = parsed(config) else { return config.to_owned() };
    let mut lines = Vec::new();
    flatten("", &root, &mut lines);
    lines.join("\n")
}

fn flatten(prefix: &str, table: &Map<String, Value>, lines: &mut Vec<String>) {
    for (key, value) in table {
        let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        match value {
            Value::Object(inner) => flatten(&name, inner, lines),
            value => lines.push(format!("{name} = {}", plain(value))),
        }
    }
}

/// What can be changed while a server runs.
const LOG_KEYS: [&str; 2] = ["log-level", "log-filter"];

/// Change a setting of running brokers: log-level (error, warn, info, debug, trace), or log-filter (levels by module, as in RUST_LOG)
///
/// It holds until the broker is restarted. All other settings are read when a broker starts: change its file or flags, and restart it.
#[derive(Debug, Args)]
pub(crate) struct UpdateBrokerConfig {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
    /// The setting
    #[arg(short = 'k', long)]
    key: String,
    /// Its value
    #[arg(short = 'v', long)]
    value: String,
    #[command(flatten)]
    dry_run: DryRun,
}

impl UpdateBrokerConfig {
    pub(crate) async fn run(self) -> Result<Report> {
        if !LOG_KEYS.contains(&self.key.as_str()) {
            return Err(Failure::usage(format!(
                "{:?} cannot be changed while a broker runs, only {} can: change it in the broker's file or flags and restart it, slaves first (`mqadmin broker restart-safe` says when)",
                self.key,
                LOG_KEYS.join(" and ")
            )));
        }
        let (admin, brokers) = self.place.brokers(&self.common, None).await?;
        let would = || format!("set {} to {} on {}", self.key, self.value, super::names(&brokers));
        if let Some(instead) = self.dry_run.instead(would) {
            return Ok(instead);
        }
        let filter =
            if self.key == "log-level" { format!("{},openraft=off", self.value) } else { self.value.clone() };
        let mut done = Vec::new();
        for broker in brokers {
            let request = wire::SetLogFilterRequest { filter: filter.clone() };
            let result = match admin.broker(&broker.address).set_log_filter(request).await {
                Ok(answer) if answer.error.is_empty() => Ok(answer.before),
                Ok(answer) => Err(Failure::usage(answer.error)),
                Err(error) => Err(Failure::from(error)),
            };
            done.push(Done { broker, result });
        }
        Ok(report(
            &done,
            |broker, before| {
                format!("update broker config success, {}: {} was {before:?}", broker.address, self.key)
            },
            |before| json!({ "key": self.key, "value": self.value, "before": before }),
        ))
    }
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
    pub(crate) async fn run(self) -> Result<Report> {
        let client = self.common.client()?;
        let masters = client.admin().masters(self.cluster.as_deref()).await?;
        let fits = |group: &str| self.broker.as_deref().is_none_or(|wanted| wanted == group);
        let shown: Vec<_> = masters.iter().filter(|master| fits(&master.info.group)).collect();
        if shown.is_empty() {
            return Err(Failure::not_found("no master broker is registered that fits; see clusterList"));
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
        Ok(Report::ok(
            table(&["Cluster Name", "Broker Name", "Master", "Epoch"], shown.iter().map(|each| row(&each))),
            json!({ "brokers": shown.iter().map(|each| view(&each)).collect::<Vec<_>>() }),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_shown_flat() {
        let config = "group = \"a\"\n[log]\nflush = \"sync\"\n[log.segment]\nbytes = 7";
        assert_eq!(flat_text(config), "group = a\nlog.flush = sync\nlog.segment.bytes = 7");
        assert_eq!(flat_text("no toml"), "no toml");
    }
}
