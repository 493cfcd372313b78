//! `config backup` and `config restore`: topics and consumer groups of a whole cluster.

use super::apply::{carry_out, present};
use super::file::{Config, Group, Topic};
use super::plan::{Action, Step, plan};
use crate::command::servers;
use crate::target::{Common, Target, Where};
use clap::Args;
use kerolox_client::admin::wire;
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::CommandReport;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Version of the file.
const VERSION: u32 = 1;

/// What a backup holds: topics and groups of each broker group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Backup {
    version: u32,
    /// When it was taken, as RFC 3339.
    taken: String,
    brokers: BTreeMap<String, Config>,
}

/// Write topics and consumer groups of all brokers to a file, to restore them from
///
/// Messages are not in it (see `message export`), and neither is how far groups have come.
#[derive(Debug, Args)]
pub(crate) struct BackupConfig {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
    /// The file, or a folder for `metadata.json` [default: the standard output]
    #[arg(short = 'f', long, alias = "filePath", value_name = "FILE")]
    file: Option<PathBuf>,
    /// Only topics
    #[arg(short = 't', long = "topic")]
    only_topics: bool,
    /// Only consumer groups
    #[arg(short = 'g', long = "subscription-group", alias = "subscriptionGroup")]
    only_groups: bool,
    /// Accepted and without meaning: all topics are in it that an operator can make
    #[arg(short = 's', long = "special-topic", alias = "specialTopic")]
    special: bool,
}

impl BackupConfig {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, masters) = self.place.brokers(&self.common, None).await?;
        let mut brokers = BTreeMap::new();
        for master in masters {
            let mut config = present(&admin, &master).await?.config();
            if self.only_topics && !self.only_groups {
                config.groups.clear();
            }
            if self.only_groups && !self.only_topics {
                config.topics.clear();
            }
            // With -b a broker's name is not known; it says so itself.
            let said = admin.broker(&master.address).describe_broker(wire::DescribeBrokerRequest {}).await?;
            brokers.insert(said.broker.unwrap_or_default().group, config);
        }
        let backup = Backup { version: VERSION, taken: chrono::Utc::now().to_rfc3339(), brokers };
        let (topics, groups) = backup.counts();
        let text = format!("{:#}\n", json!(backup));
        let file = match self.file {
            Some(folder) if folder.is_dir() => folder.join("metadata.json"),
            Some(file) => file,
            None => return Ok(CommandReport::ok(text, json!(backup))),
        };
        save(&file, &text)?;
        Ok(CommandReport::ok(
            format!(
                "{} with {topics} topics and {groups} groups of {} brokers",
                file.display(),
                backup.brokers.len()
            ),
            json!({ "file": file.display().to_string(), "brokers": backup.brokers.len(), "topics": topics, "groups": groups }),
        ))
    }
}

fn save(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text)
        .map_err(|error| CommandFailure::failed(format!("cannot write {}: {error}", file.display())))
}

impl Backup {
    fn load(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| CommandFailure::not_found(format!("cannot read {}: {error}", file.display())))?;
        let backup: Self = serde_json::from_str(&text)
            .map_err(|error| CommandFailure::usage(format!("{} is no backup: {error}", file.display())))?;
        if backup.version > VERSION {
            return Err(CommandFailure::usage(format!(
                "{} is of version {}, this mqadmin knows version {VERSION}; take a newer one",
                file.display(),
                backup.version
            )));
        }
        Ok(backup)
    }

    fn counts(&self) -> (usize, usize) {
        let sum = |count: fn(&Config) -> usize| self.brokers.values().map(count).sum();
        (sum(|config| config.topics.len()), sum(|config| config.groups.len()))
    }

    /// The topics and groups for a broker group: its own, or those of all groups if the backup does not know it.
    fn of(&self, broker: &str) -> Config {
        self.brokers.get(broker).cloned().unwrap_or_else(|| {
            let mut all = Config::default();
            for config in self.brokers.values() {
                all.topics.extend(config.topics.clone());
                all.groups.extend(config.groups.clone());
            }
            all
        })
    }
}

/// Restore topics and consumer groups from a backup
///
/// Each broker group gets the topics and groups that it had; one that the backup does not name gets all of them.
/// Existing ones are changed, and those that the backup does not name stay.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    /// The file
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
}

/// Create the topics of a file in RocketMQ's format: a list of topics in JSON
#[derive(Debug, Args)]
pub(crate) struct UpdateTopicList {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    /// The file: [{"topicName": "orders", "readQueueNums": 8, "writeQueueNums": 8, "perm": 6, "attributes": {"+message.type": "FIFO"}}]
    #[arg(short = 'f', long, alias = "filename", value_name = "FILE")]
    file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
}

/// Create the consumer groups of a file in RocketMQ's format: a list of groups in JSON
#[derive(Debug, Args)]
pub(crate) struct UpdateSubGroupList {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    /// The file: [{"groupName": "billing", "consumeEnable": true, "consumeMessageOrderly": true, "retryMaxTimes": 3}]
    #[arg(short = 'f', long, alias = "filename", value_name = "FILE")]
    file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
}

/// A topic in RocketMQ's format; fields without meaning here are ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ForeignTopic {
    topic_name: String,
    read_queue_nums: Option<u32>,
    write_queue_nums: Option<u32>,
    perm: Option<u32>,
    attributes: Option<BTreeMap<String, String>>,
}

/// A group in RocketMQ's format; fields without meaning here are ignored.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ForeignGroup {
    group_name: String,
    consume_enable: Option<bool>,
    consume_from_min_enable: Option<bool>,
    consume_message_orderly: Option<bool>,
    retry_max_times: Option<u32>,
    attributes: Option<BTreeMap<String, String>>,
}

fn foreign<T: serde::de::DeserializeOwned>(file: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| CommandFailure::not_found(format!("cannot read {}: {error}", file.display())))?;
    serde_json::from_str(&text).map_err(|error| CommandFailure::usage(format!("{}: {error}", file.display())))
}

/// RocketMQ's files say `+key` where ours say `key`.
fn plain(attributes: Option<BTreeMap<String, String>>) -> Option<BTreeMap<String, String>> {
    let plain = |(key, value): (String, String)| (key.trim_start_matches('+').to_owned(), value);
    attributes.map(|attributes| attributes.into_iter().map(plain).collect())
}

impl UpdateTopicList {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let topics = foreign::<ForeignTopic>(&self.file)?.into_iter().map(|topic| {
            let wanted = Topic {
                read_queues: topic.read_queue_nums,
                write_queues: topic.write_queue_nums,
                perm: topic.perm,
                attributes: plain(topic.attributes),
            };
            (topic.topic_name, wanted)
        });
        let config = Config { topics: topics.collect(), groups: BTreeMap::new() };
        restore(&self.common, &self.target, self.dry_run, |_| config.clone()).await
    }
}

impl UpdateSubGroupList {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let groups = foreign::<ForeignGroup>(&self.file)?.into_iter().map(|group| {
            let wanted = Group {
                consume_enable: group.consume_enable,
                consume_from_min_enable: group.consume_from_min_enable,
                consume_message_orderly: group.consume_message_orderly,
                retry_max_times: group.retry_max_times,
                attributes: plain(group.attributes),
            };
            (group.group_name, wanted)
        });
        let config = Config { topics: BTreeMap::new(), groups: groups.collect() };
        restore(&self.common, &self.target, self.dry_run, |_| config.clone()).await
    }
}

impl Restore {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let backup = Backup::load(&self.file)?;
        restore(&self.common, &self.target, self.dry_run, |broker| backup.of(broker)).await
    }
}

/// Makes each broker as it is wanted, and says what that changed.
async fn restore(
    common: &Common,
    target: &Target,
    dry_run: bool,
    wanted: impl Fn(&str) -> Config,
) -> Result<CommandReport> {
    let (admin, masters) = target.brokers(common).await?;
    let (mut lines, mut views, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    let mut changed = 0;
    for master in masters {
        let asked = admin.broker(&master.address);
        let name =
            asked.describe_broker(wire::DescribeBrokerRequest {}).await?.broker.unwrap_or_default().group;
        let steps = plan(&wanted(&name), &present(&admin, &master).await?, false);
        lines.push(format!("broker {name} [{}]", master.address));
        for step in steps.iter().filter(|step| step.action != Action::Unchanged) {
            lines.push(format!("  {}", step.line()));
            let done = if dry_run { Ok(()) } else { carry_out(&asked, step).await };
            match done {
                Ok(()) => changed += 1,
                Err(failure) => failures.push(failure.during(format!("{name}, {}", step.line()))),
            }
        }
        views.push(json!({ "broker": name, "steps": steps.iter().map(|step: &Step| json!(step)).collect::<Vec<Value>>() }));
    }
    let tense = if dry_run { "would change (dry run: nothing was changed)" } else { "changed" };
    lines.push(format!("{changed} {tense}"));
    let exit = match (failures.first(), changed) {
        (None, _) => ExitStatus::Ok,
        (Some(first), 0) => first.exit,
        (Some(_), _) => ExitStatus::Partial,
    };
    Ok(CommandReport {
        text: lines.join("\n"),
        json: json!({ "dryRun": dry_run, "brokers": views }),
        warnings: failures,
        exit,
    })
}

/// Write the settings that all servers run with to a file; secrets are masked
#[derive(Debug, Args)]
pub(crate) struct ExportConfigs {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Accepted and without meaning: the settings of all servers are written
    #[arg(short = 'c', long = "cluster-name", alias = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// The file, or a folder for `configs.json` [default: the standard output]
    #[arg(short = 'f', long = "file", alias = "filePath", value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Write the figures of all servers to a file
#[derive(Debug, Args)]
pub(crate) struct ExportMetrics {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Accepted and without meaning: the figures of all servers are written
    #[arg(short = 'c', long = "cluster-name", alias = "clusterName", value_name = "CLUSTER")]
    cluster: Option<String>,
    /// The file, or a folder for `metrics.json` [default: the standard output]
    #[arg(short = 'f', long = "file", alias = "filePath", value_name = "FILE")]
    file: Option<PathBuf>,
}

impl ExportConfigs {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let view = |said: &wire::DescribeServerResponse| {
            let config = toml::from_str::<toml::Table>(&said.config);
            config.map_or_else(|_| json!(said.config), |table| json!(table))
        };
        export(&self.common, self.file, "configs.json", view).await
    }
}

impl ExportMetrics {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let view = |said: &wire::DescribeServerResponse| {
            json!({
                "version": said.version, "upTimeMs": said.uptime_ms, "cpuMs": said.cpu_ms, "residentBytes": said.resident_bytes,
                "openFiles": said.open_files, "clients": said.clients, "tasks": said.tasks,
                "diskBytes": said.disk_bytes, "diskFreeBytes": said.disk_free_bytes,
            })
        };
        export(&self.common, self.file, "metrics.json", view).await
    }
}

async fn export(
    common: &Common,
    file: Option<PathBuf>,
    name: &str,
    view: impl Fn(&wire::DescribeServerResponse) -> Value,
) -> Result<CommandReport> {
    let (admin, all) = servers::all(common).await?;
    let mut said = serde_json::Map::new();
    for server in &all {
        let answer = admin
            .broker(&server.address)
            .describe_server(wire::DescribeServerRequest { in_full: true })
            .await?;
        said.insert(server.name.clone(), view(&answer));
    }
    let text = format!("{:#}\n", Value::Object(said.clone()));
    let file = match file {
        Some(folder) if folder.is_dir() => folder.join(name),
        Some(file) => file,
        None => return Ok(CommandReport::ok(text, Value::Object(said))),
    };
    save(&file, &text)?;
    Ok(CommandReport::ok(
        format!("{} with {} servers", file.display(), said.len()),
        json!({ "file": file.display().to_string(), "servers": said.len() }),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_gives_each_broker_its_own_and_new_ones_all() {
        let with = |topic: &str| Config {
            topics: BTreeMap::from([(topic.to_owned(), Topic::default())]),
            ..Default::default()
        };
        let brokers = BTreeMap::from([("a".to_owned(), with("x")), ("b".to_owned(), with("y"))]);
        let backup = Backup { version: VERSION, taken: "t".into(), brokers };
        assert_eq!(backup.of("a"), with("x"));
        assert_eq!(backup.of("c").topics.len(), 2);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("b.json");
        std::fs::write(&file, json!(backup).to_string()).unwrap();
        assert_eq!(Backup::load(&file).unwrap(), backup);
        let newer = Backup { version: VERSION + 1, ..backup };
        std::fs::write(&file, json!(newer).to_string()).unwrap();
        assert!(Backup::load(&file).unwrap_err().message.contains("take a newer one"));
    }

    #[test]
    fn rocketmqs_lists_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("t.json");
        std::fs::write(
            &file,
            r#"[{"topicName":"o","readQueueNums":2,"order":false,"attributes":{"+message.type":"FIFO"}}]"#,
        )
        .unwrap();
        let topics: Vec<ForeignTopic> = foreign(&file).unwrap();
        assert_eq!(
            (topics[0].topic_name.as_str(), topics[0].read_queue_nums, topics[0].perm),
            ("o", Some(2), None)
        );
        assert_eq!(plain(topics.into_iter().next().unwrap().attributes).unwrap()["message.type"], "FIFO");
    }
}
