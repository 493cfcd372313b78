//! How late scheduled messages become visible while very many others wait, and what a waiting one costs: sends them with the
//! Rust client to a broker of its own, and reads in the log when each was delivered.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use clap::Parser;
use kerolox_client::admin::{Admin, wire};
use kerolox_client::{Address, Client, Message, Producer};
use kerolox_core::record::{MessageHold, ProgressItem, Record, RecordKind};
use kerolox_harness::ProcessUsage;
use kerolox_harness::{ClusterPlan, ServerProcess};
use kerolox_log::fs::OsFolder;
use kerolox_log::inspect::{InspectMode, LogFinding, LogInspector};

/// Messages of one request.
const BATCH: u64 = 500;
const TOPIC: &str = "scheduled";
/// The waiting messages come due long after the run.
const FAR: Duration = Duration::from_secs(30 * 86_400);

/// Measures the lateness of scheduled messages and what a waiting one costs.
#[derive(Parser)]
struct Arguments {
    /// Number of messages that wait all the time.
    #[arg(long, default_value_t = 1_000_000)]
    pending: u64,
    /// Number of messages that come due each second.
    #[arg(long, default_value_t = 10_000)]
    rate: u64,
    /// Seconds during which messages come due.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Size of a body in bytes.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut cluster = ClusterPlan::standalone("lateness").start()?;
    let server = &mut cluster.brokers[0];
    let client = Client::builder(server.address()?).build()?;
    let address: Address = server.address()?.parse()?;
    let admin = client.admin();
    let topic = wire::UpdateTopicRequest {
        name: TOPIC.to_owned(),
        attributes: vec!["+message.type=DELAY".to_owned()],
        ..Default::default()
    };
    admin.broker(&address).update_topic(topic).await?;
    let producer = client.producer().topic(TOPIC).start().await?;

    let before = ProcessUsage::of(server.pid()?)?.resident;
    let far = SystemTime::now() + FAR;
    send(&producer, &arguments, arguments.pending, |_| far).await?;
    let grown = ProcessUsage::of(server.pid()?)?.resident.saturating_sub(before);
    println!(
        "{} pending: the broker grew by {} MiB, {:.1} bytes for each",
        arguments.pending,
        grown >> 20,
        grown as f64 / arguments.pending as f64
    );

    let due = arguments.rate * arguments.seconds;
    // Long enough to send them all.
    let first = SystemTime::now() + Duration::from_secs(10 + arguments.seconds);
    let gap = Duration::from_nanos(1_000_000_000 / arguments.rate);
    send(&producer, &arguments, due, |number| first + gap * u32::try_from(number).unwrap_or(u32::MAX))
        .await?;
    ensure!(SystemTime::now() < first, "the sends took longer than the time that was left for them");
    while scheduled(&admin, &address).await? > arguments.pending {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    server.stop()?;
    let mut late = lateness(server)?;
    ensure!(late.len() as u64 == due, "{} of {due} messages were delivered", late.len());
    ensure!(late.iter().all(|ms| *ms >= 0), "a message came early");
    late.sort_unstable();
    let at = |part: f64| late[((late.len() - 1) as f64 * part) as usize];
    println!(
        "{} a second due for {} s: late by {} ms (p50), {} ms (p99), {} ms (max), until the record that delivers",
        arguments.rate,
        arguments.seconds,
        at(0.5),
        at(0.99),
        at(1.0)
    );
    Ok(())
}

async fn send(
    producer: &Producer,
    arguments: &Arguments,
    count: u64,
    due: impl Fn(u64) -> SystemTime,
) -> Result<()> {
    for start in (0..count).step_by(usize::try_from(BATCH)?) {
        let messages = (start..count.min(start + BATCH)).map(|number| {
            let body = vec![b'.'; arguments.bytes];
            Message::builder(TOPIC).body(body).delivery_timestamp(due(number)).build()
        });
        for sent in producer.send_batch(messages.collect()).await {
            sent?;
        }
    }
    Ok(())
}

async fn scheduled(admin: &Admin, address: &Address) -> Result<u64> {
    let request = wire::DescribeTopicRequest { name: TOPIC.to_owned() };
    Ok(admin.broker(address).describe_topic(request).await?.scheduled_messages)
}

/// Milliseconds from the delivery time of each delivered message to the record that delivered it.
fn lateness(server: &ServerProcess) -> Result<Vec<i64>> {
    let folder = OsFolder::create(&server.data().join("log"))?;
    let (mut due, mut late) = (HashMap::new(), Vec::new());
    for finding in LogInspector::open(&folder, InspectMode::Offline)? {
        let LogFinding::Record(frame) = finding? else { continue };
        if ![RecordKind::Message as u8, RecordKind::Progress as u8].contains(&frame.kind) {
            continue;
        }
        match Record::decode(frame.kind, frame.body.clone())? {
            Record::Message(message) if message.header.hold() == MessageHold::Until => {
                due.insert(frame.position, message.header.hold_ms);
            }
            Record::Progress(progress) => {
                for item in progress.into_items() {
                    let ProgressItem::Fired(fired) = item else { continue };
                    late.extend(fired.held.iter().filter_map(|held| Some(frame.store_ms - due.get(held)?)));
                }
            }
            _ => {}
        }
    }
    Ok(late)
}
