//! The settings that servers run with.

use super::DryRun;
use crate::target::{Common, Done, Where, alone, report};
use clap::Args;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_report::outcome::{CommandFailure, Result, combined};
use kerolox_report::output::{CommandReport, plain};
use serde_json::{Map, Value, json};

/// Show the settings that brokers run with; secrets are masked
#[derive(Debug, Args)]
pub(crate) struct GetBrokerConfig {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
}

impl GetBrokerConfig {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.place.brokers(&self.common, None).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let request = wire::DescribeServerRequest { in_full: true };
            let result =
                admin.broker(&broker.address).describe_server(request).await.map_err(CommandFailure::from);
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
}

impl GetNamesrvConfig {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (profile, addresses) = self.common.nameserver_addresses()?;
        let admin = profile.client_of(&addresses)?.admin();
        let (mut texts, mut views, mut failures) = (Vec::new(), Vec::new(), Vec::new());
        for address in addresses {
            let request = wire::DescribeServerRequest { in_full: true };
            match admin.broker(&address).describe_server(request).await {
                Ok(said) => {
                    texts.push(format!("# {} {address}\n{}", said.kind, flat_text(&said.config)));
                    views.push(json!({ "address": address.to_string(), "kind": said.kind, "config": parsed(&said.config) }));
                    failures.push(None);
                }
                Err(error) => failures.push(Some(CommandFailure::from(error))),
            }
        }
        Ok(CommandReport {
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

/// A setting and its value.
#[derive(Debug, Args)]
struct Change {
    /// The setting
    #[arg(short = 'k', long)]
    key: String,
    /// Its value
    #[arg(short = 'v', long)]
    value: String,
    #[command(flatten)]
    dry_run: DryRun,
}

/// Change a setting of running brokers: log-level (error, warn, info, debug, trace), or log-filter (levels by module, as in RUST_LOG)
///
/// It holds until the broker is restarted. All other settings are read when a broker starts: change its file or flags, and restart it.
#[derive(Debug, Args)]
pub(crate) struct UpdateBrokerConfig {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    change: Change,
}

impl UpdateBrokerConfig {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        self.change.check("broker", "slaves first (`mqadmin broker restart-safe` says when)")?;
        let (admin, brokers) = self.place.brokers(&self.common, None).await?;
        self.change.make("broker", &admin, brokers).await
    }
}

/// Change a setting of running nameservers: log-level (error, warn, info, debug, trace), or log-filter (levels by module, as in RUST_LOG)
///
/// It holds until the nameserver is restarted. All other settings are read when it starts: change its file or flags, and restart it.
#[derive(Debug, Args)]
pub(crate) struct UpdateNamesrvConfig {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    change: Change,
}

impl UpdateNamesrvConfig {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        self.change.check("nameserver", "one after the other")?;
        let (profile, addresses) = self.common.nameserver_addresses()?;
        let admin = profile.client_of(&addresses)?.admin();
        self.change.make("name server", &admin, addresses.iter().map(alone).collect()).await
    }
}

impl Change {
    /// # Errors
    /// When the setting cannot be changed while a server runs.
    fn check(&self, kind: &str, order: &str) -> Result<()> {
        if LOG_KEYS.contains(&self.key.as_str()) {
            return Ok(());
        }
        Err(CommandFailure::usage(format!(
            "{:?} cannot be changed while a {kind} runs, only {} can: change it in the {kind}'s file or flags and restart it, {order}",
            self.key,
            LOG_KEYS.join(" and ")
        )))
    }

    async fn make(&self, kind: &str, admin: &Admin, servers: Vec<Master>) -> Result<CommandReport> {
        let would = || format!("set {} to {} on {}", self.key, self.value, super::names(&servers));
        if let Some(instead) = self.dry_run.instead(would) {
            return Ok(instead);
        }
        let filter =
            if self.key == "log-level" { format!("{},openraft=off", self.value) } else { self.value.clone() };
        let mut done = Vec::new();
        for server in servers {
            let request = wire::SetLogFilterRequest { filter: filter.clone() };
            let result = match admin.broker(&server.address).set_log_filter(request).await {
                Ok(answer) if answer.error.is_empty() => Ok(answer.before),
                Ok(answer) => Err(CommandFailure::usage(answer.error)),
                Err(error) => Err(CommandFailure::from(error)),
            };
            done.push(Done { broker: server, result });
        }
        Ok(report(
            &done,
            |server, before| {
                format!("update {kind} config success, {}: {} was {before:?}", server.address, self.key)
            },
            |before| json!({ "key": self.key, "value": self.value, "before": before }),
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
