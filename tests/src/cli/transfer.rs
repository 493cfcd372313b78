//! Messages of all kinds are exported, and imported into an empty cluster; both are killed on the way and go on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use kerolox_client::{Batcher, Batching, Client, Message, Resolution};
use serde_json::Value;

use super::CliSuiteOptions;
use super::cluster::{CliCluster, said};
use kerolox_harness::ClusterPlan;

/// Topics with their types and their share of the messages, in hundredths.
const TOPICS: [(&str, &str, usize); 6] = [
    ("move-normal", "NORMAL", 60),
    ("move-fifo", "FIFO", 20),
    ("move-delay", "DELAY", 5),
    ("move-tx", "TRANSACTION", 5),
    ("move-priority", "PRIORITY", 5),
    ("move-lite", "LITE", 5),
];
/// Message groups and lite topics.
const LANES: usize = 20;
/// How long a command may take.
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) async fn move_all(cluster: &CliCluster, options: &CliSuiteOptions) -> Result<String> {
    let names = TOPICS.map(|(name, ..)| name).join(",");
    for (name, kind, _) in TOPICS {
        cluster.ok(&format!("updateTopic -c DefaultCluster -t {name} -a +message.type={kind}"))?;
    }
    let sent = fill(&cluster.servers.client(), options.messages).await?;
    let started = Instant::now();
    let interrupted = export(cluster, cluster.address()?, &names, "all.bin", true)?;
    let exported = started.elapsed();

    let folder = cluster.servers.folder();
    let empty = tokio::task::block_in_place(|| ClusterPlan::standalone("cli-import").start())?;
    let target = empty.access_points();
    for (name, kind, _) in TOPICS {
        let mut command = cluster.command(&target);
        command.args(["updateTopic", "-b", &target, "-t", name, "-a", &format!("+message.type={kind}")]);
        ensure!(said(command, "")?.code == 0, "topic {name} cannot be made");
    }
    let started = Instant::now();
    let killed = import(cluster, &target, "all.bin")?;
    let imported = started.elapsed();

    export(cluster, cluster.address()?, &names, "before.jsonl", false)?;
    export(cluster, &target, &names, "after.jsonl", false)?;
    let before = contents(&folder.join("before.jsonl"))?;
    let after = contents(&folder.join("after.jsonl"))?;
    ensure!(before.len() == sent, "{} messages were exported, {sent} were sent", before.len());
    let lost: Vec<&String> = before.keys().filter(|id| !after.contains_key(*id)).take(3).collect();
    ensure!(
        lost.is_empty() && after.len() == before.len(),
        "{} became {}; such as {lost:?}",
        before.len(),
        after.len()
    );
    let changed = before.iter().find(|(id, message)| after[*id] != **message);
    ensure!(changed.is_none(), "{:?} became {:?}", changed, changed.map(|(id, _)| &after[id]));
    in_order(&folder.join("after.jsonl"))?;
    #[allow(clippy::cast_precision_loss, reason = "a rate")]
    let rate = |took: Duration| sent as f64 / took.as_secs_f64();
    Ok(format!(
        "{sent} messages of six kinds are equal by content and in order; exported at {:.0}/s ({interrupted} kills), imported and looked up at {:.0}/s ({killed} kills)",
        rate(exported),
        rate(imported),
    ))
}

/// Sends messages of all kinds; returns how many.
async fn fill(client: &Client, messages: usize) -> Result<usize> {
    let mut sent = 0;
    for (topic, kind, share) in TOPICS {
        let producer = client.producer().topic(topic).transaction_checker(|_| async { Resolution::Unknown });
        let producer = Arc::new(producer.start().await?);
        let batcher = Batcher::new(Arc::clone(&producer), Batching::default())?;
        let count = messages * share / 100;
        let mut pending = Vec::new();
        let mut halves = Vec::new();
        for number in 0..count {
            let mut message = Message::builder(topic)
                .body(body(number))
                .keys([format!("key-{number}"), "all".to_owned()])
                .property("number", number.to_string());
            if number % 3 == 0 {
                message = message.tag("third");
            }
            let lane = number % LANES;
            let message = match kind {
                "FIFO" => message.message_group(format!("lane-{lane}")),
                "LITE" => message.lite_topic(format!("lite-{lane}")),
                "PRIORITY" => message.priority(u32::try_from(number % 4)?),
                // Some are there already, some come in an hour.
                "DELAY" if number % 2 == 0 => message.deliver_after(Duration::from_millis(5)),
                "DELAY" => message.delivery_timestamp(SystemTime::now() + Duration::from_secs(3600)),
                _ => message,
            };
            if kind == "TRANSACTION" {
                halves.push(message.build());
            } else {
                pending.push(batcher.send(message.build()).await?);
            }
        }
        batcher.flush().await;
        for answer in pending {
            answer.await?;
        }
        for some in halves.chunks(64) {
            let transactions = some
                .iter()
                .map(|message| async { producer.send_in_transaction(message.clone()).await?.commit().await });
            for done in futures_util::future::join_all(transactions).await {
                done?;
            }
        }
        sent += count;
    }
    Ok(sent)
}

/// Text, now and then a single byte, and bytes that are no text.
fn body(number: usize) -> Vec<u8> {
    match number % 10 {
        0 => vec![0xff, 0xfe, (number % 251) as u8],
        1 => vec![b' '],
        _ => format!("message {number} \"with\" quotes,\nlines and ümläuts").into_bytes(),
    }
}

/// Exports, if `killed` with interruptions; returns how many.
fn export(cluster: &CliCluster, nameserver: &str, topics: &str, file: &str, killed: bool) -> Result<u32> {
    let words = ["message", "export", "-t", topics, "-f", file, "--scheduled", "--verify", "--resume"];
    let path = cluster.servers.folder().join(file);
    let grown = |bytes: u64| std::fs::metadata(&path).is_ok_and(|file| file.len() > bytes);
    repeat(cluster, nameserver, &words, if killed { 3 } else { 0 }, |kill| {
        grown(u64::from(kill) * 1_000_000 + 200_000)
    })
}

fn import(cluster: &CliCluster, nameserver: &str, file: &str) -> Result<u32> {
    let words = ["message", "import", "-f", file, "--verify"];
    let progress = cluster.servers.folder().join(format!("{file}.imported"));
    let done = |most: u64| {
        let text = std::fs::read_to_string(&progress).unwrap_or_default();
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        value["done"].as_u64().is_some_and(|done| done >= most)
    };
    repeat(cluster, nameserver, &words, 3, |kill| done(u64::from(kill) * 2_000 + 1_000))
}

/// Runs a command to its end, and kills it before when `now` says so, up to `kills` times.
fn repeat(
    cluster: &CliCluster,
    nameserver: &str,
    words: &[&str],
    kills: u32,
    now: impl Fn(u32) -> bool,
) -> Result<u32> {
    let mut killed = 0;
    loop {
        let mut command = cluster.command(nameserver);
        command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let started = Instant::now();
        let is_killed = loop {
            if child.try_wait()?.is_some() {
                break false;
            }
            if killed < kills && now(killed) {
                child.kill()?;
                break true;
            }
            ensure!(started.elapsed() < PATIENCE, "mqadmin {} takes too long", words.join(" "));
            std::thread::sleep(Duration::from_millis(2));
        };
        let output = child.wait_with_output()?;
        if is_killed {
            killed += 1;
            continue;
        }
        if !output.status.success() {
            bail!("mqadmin {}: {}", words.join(" "), String::from_utf8_lossy(&output.stderr));
        }
        ensure!(killed == kills, "mqadmin {} was over before it was killed {kills} times", words.join(" "));
        return Ok(killed);
    }
}

/// The messages of a file by their ids, without their places and times.
fn contents(file: &Path) -> Result<BTreeMap<String, Value>> {
    let mut found = BTreeMap::new();
    for message in lines(file)? {
        let mut message = message;
        let id = message["messageId"].as_str().context("a message without id")?.to_owned();
        let fields = message.as_object_mut().context("no object")?;
        for name in ["broker", "queue", "offset", "storeMs", "bornMs"] {
            fields.remove(name);
        }
        ensure!(found.insert(id.clone(), message).is_none(), "{id} is there twice in {}", file.display());
    }
    Ok(found)
}

fn lines(file: &Path) -> Result<Vec<Value>> {
    let text = std::fs::read_to_string(file)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Message groups and lite topics are in order.
fn in_order(file: &Path) -> Result<()> {
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    let mut lanes = BTreeSet::new();
    for message in lines(file)? {
        let lane = message["messageGroup"].as_str().or(message["liteTopic"].as_str());
        let Some(lane) = lane.map(str::to_owned) else { continue };
        let number: u64 = message["properties"]["number"].as_str().unwrap_or_default().parse()?;
        ensure!(
            last.get(&lane).is_none_or(|last| *last < number),
            "{lane}: {number} after {:?}",
            last.get(&lane)
        );
        last.insert(lane.clone(), number);
        lanes.insert(lane);
    }
    ensure!(lanes.len() == 2 * LANES, "{} message groups and lite topics", lanes.len());
    Ok(())
}
