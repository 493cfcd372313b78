//! Where consumer groups stand, and setting where they go on.

use super::lag::{self, GroupQueue, Standings};
use crate::target::{Common, Where};
use chrono::{DateTime, Local, NaiveDateTime, Utc};
use clap::Args;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result, combined};
use kerolox_report::output::{CommandReport, table};
use serde_json::{Value, json};
use std::str::FromStr;
use wire::reset_offsets_request::To;

/// Show the progress and the lag of consumer groups
#[derive(Debug, Args)]
pub(crate) struct ConsumerProgress {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
    /// Name of the consumer group; without it, all groups in one line each
    #[arg(short = 'g', long = "group-name", alias = "groupName")]
    group: Option<String>,
    /// Only this topic
    #[arg(short = 't', long = "topic-name", alias = "topicName", requires = "group")]
    topic: Option<String>,
    /// Whether to name the consumers that are connected, with their addresses
    #[arg(
        short = 's',
        long = "show-client-ip",
        alias = "showClientIP",
        requires = "group",
        value_name = "BOOL"
    )]
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    show_clients: Option<bool>,
}

impl ConsumerProgress {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.place.brokers(&self.common, self.topic.as_deref()).await?;
        match &self.group {
            Some(group) => {
                let mut report = self.of_group(&admin, &brokers, group).await?;
                if self.show_clients == Some(true) {
                    let clients = super::client::of_group(&self.common, group).await?;
                    let listed = if clients.is_empty() { "none".to_owned() } else { clients.join(", ") };
                    report.text = format!("{}\nClients: {listed}", report.text);
                    report.json["clients"] = json!(clients);
                }
                Ok(report)
            }
            None => self.overview(&admin, &brokers).await,
        }
    }

    async fn of_group(&self, admin: &Admin, brokers: &[Master], group: &str) -> Result<CommandReport> {
        let Standings { queues: rows, failures, answered } =
            lag::standings(admin, brokers, Some(group), self.topic.as_deref()).await;
        let failures: Vec<CommandFailure> =
            failures.into_iter().map(|(broker, failure)| failure.during(broker.info.group)).collect();
        if rows.is_empty() && answered > 0 && !self.is_known(admin, brokers, group).await? {
            let text =
                format!("consumer group {group} does not exist; it comes into being when it first receives");
            return Err(CommandFailure::not_found(text));
        }
        let total = |number: fn(&wire::GroupQueueStatus) -> u64| {
            rows.iter().map(|queue| number(&queue.status)).sum::<u64>()
        };
        let (lag, in_flight) = (total(|row| row.lag), total(|row| row.in_flight));
        let text = format!(
            "{}\n\nConsume Diff Total: {lag}\nConsume Inflight Total: {in_flight}",
            progress_table(&rows)
        );
        let removed = total(|row| row.removed_unread);
        let text = match removed {
            0 => text,
            _ => format!("{text}\nRemoved unread, for lack of room: {removed}"),
        };
        let done = std::iter::repeat_n(None, answered);
        Ok(CommandReport {
            text: if rows.is_empty() { String::new() } else { text },
            json: json!({
                "group": group,
                "diffTotal": lag,
                "inflightTotal": in_flight,
                "removedUnreadTotal": removed,
                "queues": rows.iter().map(progress_json).collect::<Vec<_>>(),
            }),
            exit: combined(done.chain(failures.iter().map(Some))),
            warnings: failures,
        })
    }

    /// Whether any of the brokers knows the group.
    async fn is_known(&self, admin: &Admin, brokers: &[Master], group: &str) -> Result<bool> {
        for broker in brokers {
            let listed =
                admin.broker(&broker.address).list_groups(wire::ListGroupsRequest::default()).await?;
            if listed.groups.iter().any(|known| known.name == group) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn overview(&self, admin: &Admin, brokers: &[Master]) -> Result<CommandReport> {
        let mut totals = std::collections::BTreeMap::<String, wire::GroupQueueStatus>::new();
        for broker in brokers {
            for group in
                admin.broker(&broker.address).list_groups(wire::ListGroupsRequest::default()).await?.groups
            {
                totals.entry(group.name).or_default();
            }
        }
        for queue in lag::queues(admin, brokers, None).await? {
            let (total, status) = (totals.entry(queue.group).or_default(), queue.status);
            total.lag += status.lag;
            total.in_flight += status.in_flight;
            total.retrying += status.retrying;
            total.ready += status.ready;
            total.blocked += status.blocked;
        }
        let numbers = |total: &wire::GroupQueueStatus| {
            [total.lag, total.in_flight, total.retrying, total.ready, total.blocked]
        };
        let row = |(name, total): (&String, _)| {
            std::iter::once(name.clone()).chain(numbers(total).map(|number| number.to_string())).collect()
        };
        let groups: Vec<Value> = totals
            .iter()
            .map(|(name, total)| {
                let [lag, in_flight, retrying, ready, blocked] = numbers(total);
                json!({ "group": name, "diff": lag, "inflight": in_flight, "retrying": retrying, "ready": ready, "blocked": blocked })
            })
            .collect();
        let text = table(
            &["Group", "Diff Total", "Inflight", "Retrying", "Ready", "Blocked"],
            totals.iter().map(row),
        );
        Ok(CommandReport::ok(text, json!({ "groups": groups })))
    }
}

fn progress_table(rows: &[GroupQueue]) -> String {
    let mut header = vec![
        "Topic",
        "Broker Name",
        "QID",
        "Broker Offset",
        "Consumer Offset",
        "Diff",
        "Inflight",
        "Retrying",
        "Ready",
        "Blocked",
    ];
    let has_members = rows.iter().any(|queue| !queue.status.client.is_empty());
    if has_members {
        header.push("Client");
    }
    table(
        &header,
        rows.iter().map(|GroupQueue { broker, status: row, .. }| {
            let place = match row.lite_topics {
                None => [u64::from(row.queue), row.broker_offset, row.consumer_offset].map(|n| n.to_string()),
                Some(count) => [format!("{count} lite"), "-".to_owned(), "-".to_owned()],
            };
            let numbers = [row.lag, row.in_flight, row.retrying, row.ready, row.blocked];
            let mut cells = vec![row.topic.clone(), broker.clone()];
            cells.extend(place);
            cells.extend(numbers.map(|number| number.to_string()));
            cells.extend(has_members.then(|| row.client.clone()));
            cells
        }),
    )
}

fn progress_json(GroupQueue { broker, status: row, .. }: &GroupQueue) -> Value {
    let mut entry = json!({
        "topic": row.topic,
        "broker": broker,
        "diff": row.lag,
        "inflight": row.in_flight,
        "retrying": row.retrying,
        "ready": row.ready,
        "blocked": row.blocked,
        "client": row.client,
        "removedUnread": row.removed_unread,
    });
    match row.lite_topics {
        Some(count) => entry["liteTopics"] = json!(count),
        None => {
            entry["queue"] = json!(row.queue);
            entry["brokerOffset"] = json!(row.broker_offset);
            entry["consumerOffset"] = json!(row.consumer_offset);
        }
    }
    entry
}

/// The place where a group is to go on.
#[derive(Debug, Clone, PartialEq)]
struct Goal(To);

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is no offset"));
        Ok(Self(match text.split_once(':') {
            _ if text == "earliest" => To::Earliest(true),
            _ if text == "latest" || text == "now" => To::Latest(true),
            Some(("offset", offset)) => To::Offset(number(offset)?),
            Some(("id", id)) if !id.is_empty() => To::MessageId(id.to_owned()),
            _ => To::TimeMs(parse_time(text)?),
        }))
    }
}

/// A time: milliseconds since 1970, RFC 3339, or RocketMQ's `2026-01-31#08:00:00:000` in local time.
pub(crate) fn parse_time(text: &str) -> std::result::Result<i64, String> {
    if let Ok(millis) = text.parse() {
        return Ok(millis);
    }
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_millis());
    }
    let local = NaiveDateTime::parse_from_str(text, "%Y-%m-%d#%H:%M:%S:%3f").ok();
    let time = local.and_then(|time| time.and_local_timezone(Local).earliest());
    time.map(|time| time.with_timezone(&Utc).timestamp_millis()).ok_or_else(|| {
        format!(
            "{text:?} is no time; write now, milliseconds since 1970, 2026-01-31T08:00:00Z, or 2026-01-31#08:00:00:000 for local time"
        )
    })
}

/// Set where a consumer group goes on, also while it consumes
#[derive(Debug, Args)]
pub(crate) struct ResetOffset {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    reset: Reset,
    /// earliest, latest, a time (milliseconds since 1970, 2026-01-31T08:00:00Z), offset:N, or id:MESSAGE-ID, which brings
    /// back that message and those that became visible later on the broker that has it
    #[arg(long, value_name = "PLACE")]
    to: Goal,
}

/// Set where a consumer group goes on; resetOffset can do more
#[derive(Debug, Args)]
pub(crate) struct ResetOffsetByTime {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    reset: Reset,
    /// now or -1 (messages from now on), milliseconds since 1970, or yyyy-MM-dd#HH:mm:ss:SSS
    #[arg(short = 's', long, allow_hyphen_values = true, value_name = "TIME")]
    timestamp: String,
    /// Accepted and without meaning: a reset always counts
    #[arg(short = 'f', long, value_name = "BOOL")]
    force: Option<bool>,
    /// Go to this offset instead of a time; only with -q
    #[arg(short = 'o', long, requires = "queues")]
    offset: Option<u64>,
}

/// Have a consumer group skip its backlog: it goes on with messages from now on
#[derive(Debug, Args)]
pub(crate) struct SkipAccumulated {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    reset: Reset,
    /// Accepted and without meaning: a reset always counts
    #[arg(short = 'f', long, value_name = "BOOL")]
    force: Option<bool>,
}

impl SkipAccumulated {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        self.reset.run(&self.common, To::Latest(true)).await
    }
}

/// What the reset commands have in common.
#[derive(Debug, Args)]
struct Reset {
    #[command(flatten)]
    place: Where,
    /// Name of the consumer group
    #[arg(short = 'g', long = "group", alias = "group-name", alias = "groupName")]
    group: String,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Only this queue; several separated by ','
    #[arg(short = 'q', long = "queue", value_delimiter = ',', value_name = "QUEUE")]
    queues: Vec<u32>,
    /// Only show what would happen
    #[arg(long)]
    dry_run: bool,
}

impl ResetOffset {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        self.reset.run(&self.common, self.to.0.clone()).await
    }
}

impl ResetOffsetByTime {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let to = self.to()?;
        self.reset.run(&self.common, to).await
    }

    fn to(&self) -> Result<To> {
        Ok(match (self.offset, self.timestamp.as_str()) {
            (Some(offset), _) => To::Offset(offset),
            (None, "now" | "-1") => To::Latest(true),
            (None, time) => To::TimeMs(parse_time(time).map_err(CommandFailure::usage)?),
        })
    }
}

impl Reset {
    async fn run(&self, common: &Common, to: To) -> Result<CommandReport> {
        let (admin, brokers) = self.place.brokers(common, Some(&self.topic)).await?;
        let (mut rows, mut failures) = (Vec::new(), Vec::new());
        for broker in &brokers {
            let request = wire::ResetOffsetsRequest {
                group: self.group.clone(),
                topic: self.topic.clone(),
                queues: self.queues.clone(),
                to: Some(to.clone()),
                dry_run: self.dry_run,
            };
            match admin.broker(&broker.address).reset_offsets(request).await.map_err(CommandFailure::from) {
                Ok(answer) => {
                    rows.extend(answer.queues.into_iter().map(|reset| (broker.info.group.clone(), reset)));
                    failures.push(None);
                }
                Err(failure) => failures.push(Some(failure)),
            }
        }
        // The group consumes from some brokers only, or one of them has the message.
        if failures.iter().any(Option::is_none) {
            failures.retain(|failure| {
                failure.as_ref().is_none_or(|failure| failure.exit != ExitStatus::NotFound)
            });
        }
        let exit = combined(failures.iter().map(Option::as_ref));
        let done = if self.dry_run { "nothing was changed (--dry-run)" } else { "reset" };
        Ok(CommandReport {
            text: if rows.is_empty() { String::new() } else { format!("{}\n\n{done}", reset_table(&rows)) },
            json: json!({
                "dryRun": self.dry_run,
                "queues": rows.iter().map(|(broker, reset)| reset_json(broker, reset)).collect::<Vec<_>>(),
            }),
            warnings: failures.into_iter().flatten().collect(),
            exit,
        })
    }
}

fn reset_table(rows: &[(String, wire::QueueReset)]) -> String {
    let mut header = vec![
        "Broker Name",
        "QID",
        "From Offset",
        "To Offset",
        "Diff Before",
        "Diff After",
        "Inflight Dropped",
        "Retrying Dropped",
    ];
    let has_members = rows.iter().any(|(_, reset)| !reset.client.is_empty());
    if has_members {
        header.push("Client");
    }
    table(
        &header,
        rows.iter().map(|(broker, reset)| {
            let numbers =
                [reset.from, reset.to, reset.lag_before, reset.lag_after, reset.in_flight, reset.retrying];
            let mut cells = vec![broker.clone(), reset.queue.to_string()];
            cells.extend(numbers.map(|number| number.to_string()));
            cells.extend(has_members.then(|| reset.client.clone()));
            cells
        }),
    )
}

fn reset_json(broker: &str, reset: &wire::QueueReset) -> Value {
    json!({
        "broker": broker,
        "queue": reset.queue,
        "from": reset.from,
        "to": reset.to,
        "diffBefore": reset.lag_before,
        "diffAfter": reset.lag_after,
        "inflightDropped": reset.in_flight,
        "retryingDropped": reset.retrying,
        "client": reset.client,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_are_read() {
        for (text, to) in [
            ("earliest", To::Earliest(true)),
            ("latest", To::Latest(true)),
            ("now", To::Latest(true)),
            ("offset:12", To::Offset(12)),
            ("id:01F2", To::MessageId("01F2".into())),
            ("1700000000123", To::TimeMs(1_700_000_000_123)),
            ("1970-01-01T00:00:01.5Z", To::TimeMs(1_500)),
        ] {
            assert_eq!(text.parse(), Ok(Goal(to)), "{text}");
        }
        for bad in ["", "offset:", "offset:-1", "id:", "yesterday", "2026-01-31"] {
            assert!(Goal::from_str(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rocketmqs_times_are_local() {
        let millis = parse_time("2026-01-31#08:00:00:250").unwrap();
        let shown = kerolox_report::output::local_time(millis);
        assert_eq!(shown, "2026-01-31 08:00:00,250");
    }

    #[test]
    fn members_are_shown_where_there_are_any() {
        let row = |client: &str| {
            let status = wire::GroupQueueStatus { client: client.to_owned(), ..Default::default() };
            GroupQueue { broker: "broker-a".to_owned(), group: "billing".to_owned(), status }
        };
        assert!(!progress_table(&[row("")]).contains("Client"));
        assert!(progress_table(&[row(""), row("c1")]).contains("#Client"));
    }
}
