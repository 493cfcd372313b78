//! `debug bundle`: one file with everything that helps to find a fault.

use super::{lag, servers};
use crate::target::Common;
use clap::Args;
use kerolox_client::admin::wire;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;
use serde_json::{Value, json};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Gather what the servers know about themselves in one archive (.tar.gz), to inspect or to pass on
///
/// Of each server: version, settings with secrets masked, checks, figures, threads, files of the data folder, clients.
/// Of the cluster: routes, topics, groups with their lag, broker groups with their members. It contains no message and
/// no key.
#[derive(Debug, Args)]
pub(crate) struct Bundle {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The archive [default: kerolox-debug-TIME.tar.gz in the current folder]
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
}

impl Bundle {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, all) = servers::all(&self.common).await?;
        let mut parts: Vec<(String, String)> = Vec::new();
        let mut failures = Vec::new();
        for server in &all {
            let name = server.name.replace([' ', '/', ':'], "-");
            let asked = admin.broker(&server.address);
            match asked.describe_server(wire::DescribeServerRequest { in_full: true }).await {
                Ok(said) => {
                    parts.push((format!("{name}/config.toml"), said.config.clone()));
                    parts.push((format!("{name}/server.json"), pretty(&server_view(&said))));
                    let files: Vec<String> =
                        said.files.iter().map(|file| format!("{:>14} {}", file.bytes, file.path)).collect();
                    parts.push((format!("{name}/files.txt"), files.join("\n")));
                }
                Err(error) => failures.push(CommandFailure::from(error).during(&server.name)),
            }
            if server.name.starts_with("broker")
                && let Ok(said) = asked.describe_broker(wire::DescribeBrokerRequest {}).await
            {
                parts.push((format!("{name}/broker.json"), pretty(&broker_view(&said))));
            }
            if let Ok(said) = asked.list_clients(wire::ListClientsRequest::default()).await {
                let clients: Vec<Value> = said
                    .clients
                    .iter()
                    .map(|client| {
                        json!({
                            "clientId": client.client_id, "address": client.address, "knownMs": client.known_ms,
                            "silentMs": client.silent_ms, "reachable": client.reachable,
                        })
                    })
                    .collect();
                parts.push((format!("{name}/clients.json"), pretty(&json!(clients))));
            }
        }
        self.cluster(&mut parts).await?;
        let failed: Vec<&str> = failures.iter().map(|failure| failure.message.as_str()).collect();
        let about = json!({ "mqadmin": env!("CARGO_PKG_VERSION"), "time": chrono::Utc::now().to_rfc3339(), "failures": failed });
        parts.push(("bundle.json".to_owned(), pretty(&about)));
        let file = self.file.unwrap_or_else(|| {
            PathBuf::from(format!("kerolox-debug-{}.tar.gz", chrono::Utc::now().format("%Y%m%d-%H%M%S")))
        });
        let bytes = archive(&file, &parts)?;
        Ok(CommandReport {
            text: format!("{} with {} files, {bytes} bytes", file.display(), parts.len()),
            json: json!({
                "file": file.display().to_string(), "bytes": bytes,
                "contents": parts.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
            }),
            exit: if failures.is_empty() {
                kerolox_report::outcome::ExitStatus::Ok
            } else {
                kerolox_report::outcome::ExitStatus::Partial
            },
            warnings: failures,
        })
    }

    async fn cluster(&self, parts: &mut Vec<(String, String)>) -> Result<()> {
        let client = self.common.client()?;
        let snapshot = self.common.snapshot(&client).await?;
        let brokers: Vec<Value> = snapshot
            .brokers
            .iter()
            .map(|registered| {
                let info = registered.broker.clone().unwrap_or_default();
                let topics: Vec<Value> = registered
                    .topics
                    .iter()
                    .map(|topic| {
                        json!({
                            "name": topic.name, "readQueues": topic.read_queues, "writeQueues": topic.write_queues,
                            "perm": topic.perm, "types": topic.message_types,
                        })
                    })
                    .collect();
                json!({
                    "cluster": info.cluster, "group": info.group, "id": info.id, "role": info.role().as_str_name(),
                    "address": format!("{}:{}", info.host, info.port), "epoch": info.epoch, "withheld": info.withheld,
                    "topics": topics,
                })
            })
            .collect();
        parts.push(("cluster/routes.json".to_owned(), pretty(&json!(brokers))));
        let admin = client.admin();
        let masters = admin.masters(None).await?;
        let queues = lag::queues(&admin, &masters, None).await?;
        let lags: Vec<Value> = queues
            .iter()
            .map(|queue| {
                let status = &queue.status;
                json!({
                    "group": queue.group, "topic": status.topic, "queue": status.queue, "brokerOffset": status.broker_offset,
                    "consumerOffset": status.consumer_offset, "lag": status.lag, "inFlight": status.in_flight,
                    "retrying": status.retrying, "blocked": status.blocked,
                })
            })
            .collect();
        parts.push(("cluster/groups.json".to_owned(), pretty(&json!(lags))));
        if let Ok(controller) = self.common.controller()
            && let Ok(answer) = controller.describe_groups(wire::DescribeGroupsRequest::default()).await
        {
            parts.push(("cluster/members.txt".to_owned(), format!("{:#?}", answer.groups)));
        }
        Ok(())
    }
}

fn server_view(said: &wire::DescribeServerResponse) -> Value {
    let checks: Vec<Value> = said
        .checks
        .iter()
        .map(|check| json!({ "name": check.name, "state": check.state, "reason": check.reason }))
        .collect();
    let threads: Vec<Value> = said
        .threads
        .iter()
        .map(|thread| json!({ "name": thread.name, "state": thread.state, "cpuMs": thread.cpu_ms }))
        .collect();
    json!({
        "kind": said.kind, "version": said.version, "pid": said.pid, "upTimeMs": said.uptime_ms, "cpuMs": said.cpu_ms,
        "residentBytes": said.resident_bytes, "openFiles": said.open_files, "clients": said.clients,
        "logFilter": said.log_filter, "data": said.data, "diskBytes": said.disk_bytes,
        "diskFreeBytes": said.disk_free_bytes, "tasks": said.tasks, "tasksWaiting": said.tasks_waiting,
        "checks": checks, "threads": threads,
    })
}

fn broker_view(said: &wire::DescribeBrokerResponse) -> Value {
    json!({
        "upTimeMs": said.uptime_ms, "logEnd": said.log_end, "logDurable": said.log_durable, "logApplied": said.log_applied,
        "messagesIn": said.messages_in, "messagesOut": said.messages_out, "inPerSecond": said.in_per_second,
        "outPerSecond": said.out_per_second, "undecidedTransactions": said.undecided_transactions,
        "scheduledMessages": said.scheduled_messages, "readOnlyReason": said.read_only_reason, "quietMs": said.quiet_ms,
    })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

/// Writes an archive; returns its size.
fn archive(file: &Path, parts: &[(String, String)]) -> Result<u64> {
    let write = || -> std::io::Result<u64> {
        let zipped =
            flate2::write::GzEncoder::new(std::fs::File::create_new(file)?, flate2::Compression::default());
        let mut tar = tar::Builder::new(zipped);
        for (name, text) in parts {
            let mut header = tar::Header::new_gnu();
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            header.set_mtime(u64::try_from(chrono::Utc::now().timestamp()).unwrap_or(0));
            tar.append_data(&mut header, format!("kerolox-debug/{name}"), text.as_bytes())?;
        }
        let mut done = tar.into_inner()?.finish()?;
        done.flush()?;
        Ok(done.metadata()?.len())
    };
    write().map_err(|error| CommandFailure::failed(format!("cannot write {}: {error}", file.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_holds_its_parts() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bundle.tar.gz");
        let parts = [("a/b.txt".to_owned(), "hello".to_owned())];
        assert!(archive(&file, &parts).unwrap() > 0);
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(std::fs::File::open(&file).unwrap()));
        let mut entries = tar.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().to_str(), Some("kerolox-debug/a/b.txt"));
        let mut text = String::new();
        std::io::Read::read_to_string(&mut entry, &mut text).unwrap();
        assert_eq!(text, "hello");
        assert!(archive(&file, &parts).is_err(), "nothing is overwritten");
    }
}
