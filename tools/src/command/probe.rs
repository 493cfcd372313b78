//! Single messages that measure how brokers answer: `checkMsgSendRT`, `sendMsgStatus`, `clusterRT`.

use crate::target::Common;
use clap::Args;
use kerolox_client::admin::{Master, wire};
use kerolox_client::{Client, Message};
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, table};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Topic of messages that only measure. It stays, but its messages are deleted soon.
const PROBE_TOPIC: &str = "mqadmin-probe";
/// How long nameservers may take to hear of it.
const ROUTE_WAIT: Duration = Duration::from_secs(2);

/// How many messages of which size.
#[derive(Debug, Args)]
struct Amount {
    /// Messages, one after the other
    #[arg(short = 'a', long, aliases = ["count"], default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    amount: u32,
    /// Bytes of each
    #[arg(short = 's', long, aliases = ["message-size", "messageSize"], default_value_t = 128, value_name = "BYTES")]
    size: usize,
}

/// Measure how long sending a message takes, one after the other
#[derive(Debug, Args)]
pub(crate) struct CheckMsgSendRt {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    #[command(flatten)]
    amount: Amount,
}

/// Measure how long a broker takes to store a message
#[derive(Debug, Args)]
pub(crate) struct SendMsgStatus {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the broker group
    #[arg(short = 'b', long = "broker-name", alias = "brokerName", value_name = "BROKER_NAME")]
    broker: String,
    /// Messages, one after the other
    #[arg(short = 'c', long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    count: u32,
    /// Bytes of each
    #[arg(
        short = 's',
        long = "message-size",
        alias = "messageSize",
        default_value_t = 128,
        value_name = "BYTES"
    )]
    size: usize,
}

/// Measure how long each broker takes to store a message
#[derive(Debug, Args)]
pub(crate) struct ClusterRt {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    amount: Amount,
    /// Only this cluster
    #[arg(short = 'c', long, aliases = ["cluster-name", "clusterName"], value_name = "CLUSTER")]
    cluster: Option<String>,
    /// Accepted and without meaning: the result is printed
    #[arg(short = 'p', long = "print-log", alias = "printLog", value_name = "BOOL")]
    print: Option<String>,
    /// Accepted and without meaning
    #[arg(short = 'm', long = "machine-room", alias = "machineRoom", value_name = "NAME")]
    room: Option<String>,
    /// Accepted and without meaning: it measures once
    #[arg(short = 'i', long, value_name = "SECONDS")]
    interval: Option<String>,
}

/// Where one message went, and how long it took; or why it did not.
type Probe = (std::result::Result<String, String>, Duration);

impl CheckMsgSendRt {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let client = self.common.client()?;
        let probes = probe(&client, &self.topic, None, self.amount.amount, self.amount.size).await?;
        let row = |(number, (outcome, took)): (usize, &Probe)| {
            let (broker, result) = match outcome {
                Ok(broker) => (broker.clone(), "true".to_owned()),
                Err(reason) => ("-".to_owned(), format!("false: {reason}")),
            };
            vec![(number + 1).to_string(), broker, result, format!("{:.2}", millis(*took))]
        };
        let text =
            table(&["Number", "Broker Name", "Send Result", "RT(ms)"], probes.iter().enumerate().map(row));
        let (average, summary) = sum_up(&self.topic, &probes);
        Ok(finish(format!("{text}\n\nAvg RT: {average:.2} ms"), json!({ "probes": [summary] }), &probes))
    }
}

impl SendMsgStatus {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let client = self.common.client()?;
        let mut masters = client.admin().masters(None).await?;
        masters.retain(|master| master.info.group == self.broker);
        let of = |master: &Master| (self.count, self.size, master.clone());
        measure(&client, masters.iter().map(of).collect()).await
    }
}

impl ClusterRt {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let client = self.common.client()?;
        let masters = client.admin().masters(self.cluster.as_deref()).await?;
        let of = |master: &Master| (self.amount.amount, self.amount.size, master.clone());
        measure(&client, masters.iter().map(of).collect()).await
    }
}

async fn measure(client: &Client, brokers: Vec<(u32, usize, Master)>) -> Result<CommandReport> {
    if brokers.is_empty() {
        return Err(CommandFailure::not_found("no master broker is registered that fits; see clusterList"));
    }
    let admin = client.admin();
    for (_, _, master) in &brokers {
        let request = wire::UpdateTopicRequest {
            name: PROBE_TOPIC.to_owned(),
            read_queues: Some(1),
            write_queues: Some(1),
            attributes: vec!["+retention.time=1h".to_owned()],
            ..Default::default()
        };
        admin.broker(&master.address).update_topic(request).await?;
    }
    let started = Instant::now();
    while started.elapsed() < ROUTE_WAIT {
        let snapshot = admin.cluster().await?;
        let has =
            |broker: &&wire::RegisteredBroker| broker.topics.iter().any(|topic| topic.name == PROBE_TOPIC);
        if snapshot.brokers.iter().filter(has).count() >= brokers.len() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let (mut rows, mut views, mut all) = (Vec::new(), Vec::new(), Vec::new());
    for (count, size, master) in brokers {
        let probes = probe(client, PROBE_TOPIC, Some(&master.info.group), count, size).await?;
        let (average, view) = sum_up(&master.info.group, &probes);
        let failed = probes.iter().filter(|(outcome, _)| outcome.is_err()).count();
        rows.push(vec![
            master.info.cluster.clone(),
            master.info.group.clone(),
            format!("{average:.2}"),
            (probes.len() - failed).to_string(),
            failed.to_string(),
        ]);
        views.push(view);
        all.extend(probes);
    }
    let text = table(&["Cluster Name", "Broker Name", "RT(ms)", "successCount", "failCount"], rows);
    Ok(finish(text, json!({ "probes": views }), &all))
}

fn finish(text: String, json: Value, probes: &[Probe]) -> CommandReport {
    let failed = probes.iter().filter(|(outcome, _)| outcome.is_err()).count();
    let exit = match (failed, probes.len() - failed) {
        (0, _) => kerolox_report::outcome::ExitStatus::Ok,
        (_, 0) => kerolox_report::outcome::ExitStatus::Failed,
        _ => kerolox_report::outcome::ExitStatus::Partial,
    };
    CommandReport { exit, ..CommandReport::ok(text, json) }
}

async fn probe(
    client: &Client,
    topic: &str,
    broker: Option<&str>,
    count: u32,
    size: usize,
) -> Result<Vec<Probe>> {
    let producer = client.producer().topic(topic).start().await?;
    let mut probes = Vec::new();
    for _ in 0..count {
        let message = Message::builder(topic).body(vec![b'a'; size]).build();
        let begun = Instant::now();
        let sent = match broker {
            Some(broker) => producer.send_to(broker, None, message).await,
            None => producer.send(message).await,
        };
        let outcome = sent.map(|receipt| receipt.broker).map_err(|error| error.to_string());
        probes.push((outcome, begun.elapsed()));
    }
    producer.shutdown().await;
    Ok(probes)
}

/// The mean in milliseconds, and all figures.
fn sum_up(name: &str, probes: &[Probe]) -> (f64, Value) {
    let good: Vec<f64> =
        probes.iter().filter(|(outcome, _)| outcome.is_ok()).map(|(_, took)| millis(*took)).collect();
    #[allow(clippy::cast_precision_loss, reason = "there are few of them")]
    let average = if good.is_empty() { 0.0 } else { good.iter().sum::<f64>() / good.len() as f64 };
    let most = good.iter().copied().fold(0.0, f64::max);
    let view = json!({
        "name": name, "sent": good.len(), "failed": probes.len() - good.len(), "averageMs": average, "maxMs": most,
    });
    (average, view)
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_do_not_count_as_fast() {
        let took = Duration::from_millis(4);
        let probes =
            [(Ok("a".to_owned()), took), (Err("no".to_owned()), Duration::ZERO), (Ok("a".to_owned()), took)];
        let (average, view) = sum_up("a", &probes);
        assert!((average - 4.0).abs() < 0.01);
        assert_eq!((&view["sent"], &view["failed"]), (&json!(2), &json!(1)));
    }
}
