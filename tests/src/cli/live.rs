//! What takes two: messages that are shown to a consumer, and a topic that is watched.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kerolox_client::{FilterExpression, Message};
use kerolox_proto::v2::admin_client::AdminClient;
use kerolox_proto::v2::{Code, PrintThreadStackTraceRequest, VerifyMessageRequest};
use tokio::task::block_in_place;

use super::cluster::CliCluster;
use kerolox_harness::raw_calls::{connect, resource};

const TOPIC: &str = "shown";
/// How long something may take to show.
const PATIENCE: Duration = Duration::from_secs(20);

/// A push consumer's listener says what it makes of a message, and the group's place stays where it was.
pub(super) async fn verify(cluster: &CliCluster) -> Result<String> {
    cluster.ok(&format!("updateTopic -c DefaultCluster -t {TOPIC} -w 1 -r 1"))?;
    cluster.ok("updateSubGroup -c DefaultCluster -g showers")?;
    cluster.ok("updateSubGroup -c DefaultCluster -g showers-in-order -o true")?;
    let client = cluster.servers.client();
    let (count, fails) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
    let listener = {
        let (count, fails) = (Arc::clone(&count), Arc::clone(&fails));
        move |_| {
            count.fetch_add(1, Ordering::SeqCst);
            let outcome = if fails.load(Ordering::SeqCst) { Err("as the test wants") } else { Ok(()) };
            async move { outcome }
        }
    };
    let consumer = client.push_consumer("showers").subscribe(TOPIC, FilterExpression::all());
    let consumer = consumer.start(listener.clone()).await?;
    let in_order = client.push_consumer("showers-in-order").subscribe(TOPIC, FilterExpression::all());
    let in_order = in_order.start(|_| async { Ok::<(), String>(()) }).await?;
    let producer = client.producer().topic(TOPIC).start().await?;
    let id = producer.send(Message::builder(TOPIC).body("look").build()).await?.message_id;
    let started = Instant::now();
    while count.load(Ordering::SeqCst) == 0 || consumer.cached_messages() > 0 {
        ensure!(started.elapsed() < PATIENCE, "the message was not delivered");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let who = consumer.client_id().to_owned();
    let text = block_in_place(|| cluster.ok(&format!("message verify {id} -d {who} -g showers")))?;
    ensure!(text.contains("consumed message"), "{text}");
    block_in_place(|| cluster.ok(&format!("queryMsgById -t {TOPIC} -i {id} -d {who} -g showers")))?;
    ensure!(count.load(Ordering::SeqCst) == 3, "the listener had it {} times", count.load(Ordering::SeqCst));
    let words = |line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    fails.store(true, Ordering::SeqCst);
    let failed = block_in_place(|| cluster.run(&words(format!("message verify {id} -d {who}")), ""))?;
    ensure!(failed.code == 1 && failed.err.contains("failed on message"), "{} {}", failed.code, failed.err);
    let other = in_order.client_id().to_owned();
    let ordered = block_in_place(|| cluster.run(&words(format!("message verify {id} -d {other}")), ""))?;
    ensure!(ordered.code == 1 && ordered.err.contains("in order"), "{} {}", ordered.code, ordered.err);
    let unknown = block_in_place(|| cluster.run(&words(format!("message verify {id} -d absent")), ""))?;
    ensure!(unknown.code == 4 && unknown.err.contains("client list"), "{} {}", unknown.code, unknown.err);
    let stack = block_in_place(|| cluster.ok(&format!("consumerStatus -g showers -i {who} -s true")))?;
    ensure!(stack.contains("a Rust process does not know"), "{stack}");

    // The administration of the SDKs' protocol gives these answers as well.
    let mut admin = AdminClient::new(connect(cluster.address()?).await?);
    for (fails_now, code) in [(false, Code::Ok), (true, Code::FailedToConsumeMessage)] {
        fails.store(fails_now, Ordering::SeqCst);
        let request = VerifyMessageRequest {
            topic: resource(TOPIC),
            message_id: id.clone(),
            client_id: who.clone(),
            ..Default::default()
        };
        let status = admin.verify_message(request).await?.into_inner().status.unwrap_or_default();
        ensure!(status.code == i32::from(code), "{status:?}");
    }
    let request = PrintThreadStackTraceRequest { client_id: who.clone(), ..Default::default() };
    let status = admin.print_thread_stack_trace(request).await?.into_inner().status.unwrap_or_default();
    ensure!(status.code == i32::from(Code::Unsupported), "{status:?}");

    let progress = block_in_place(|| cluster.json("consumerProgress -g showers"))?;
    consumer.shutdown(PATIENCE).await;
    in_order.shutdown(PATIENCE).await;
    ensure!(progress["diffTotal"] == 0, "{progress:#}");
    let seen = count.load(Ordering::SeqCst);
    ensure!(seen == 6, "the listener had it {seen} times");
    Ok("shown five times to a listener, and never settled".to_owned())
}

/// Ends its process when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command that goes on, and the lines that it writes.
fn begin(cluster: &CliCluster, words: &[&str]) -> Result<(Running, mpsc::Receiver<String>)> {
    let mut command = cluster.command(cluster.address()?);
    let mut child = Running(command.args(words).stdout(Stdio::piped()).spawn()?);
    let lines = BufReader::new(child.0.stdout.take().context("it is piped")?).lines();
    let (sender, said) = mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    Ok((child, said))
}

/// With `--interval` a list is shown again and again.
pub(super) fn repeat(cluster: &CliCluster) -> Result<String> {
    let (_running, said) = begin(cluster, &["clusterList", "-i", "1"])?;
    let (mut times, mut lines) = (0, Vec::new());
    while times < 3 {
        let line = block_in_place(|| said.recv_timeout(PATIENCE)).context("it stopped")?;
        times += u32::from(line.starts_with("#Cluster Name"));
        lines.push(line);
    }
    ensure!(lines.iter().filter(|line| line.contains("broker-b")).count() >= 4, "{lines:?}");
    Ok("shown three times".to_owned())
}

/// `tail` shows what comes, and nothing of before.
pub(super) async fn tail(cluster: &CliCluster) -> Result<String> {
    let topic = "tailed";
    block_in_place(|| cluster.ok(&format!("updateTopic -c DefaultCluster -t {topic} -w 2 -r 2")))?;
    let producer = cluster.servers.client().producer().topic(topic).start().await?;
    producer.send(Message::builder(topic).body("before").build()).await?;
    let (_running, said) = begin(cluster, &["tail", "-t", topic, "--output", "json"])?;
    // One that was sent before it looked is not seen, so they are sent until one is.
    let mut sent = Vec::new();
    let started = Instant::now();
    let first = loop {
        let body = format!("message-{}", sent.len());
        producer.send(Message::builder(topic).body(body.clone()).build()).await?;
        sent.push(body);
        if let Ok(line) = block_in_place(|| said.recv_timeout(Duration::from_millis(500))) {
            break line;
        }
        ensure!(started.elapsed() < PATIENCE, "tail shows nothing");
    };
    let last = format!("message-{}", sent.len());
    producer.send(Message::builder(topic).body(last.clone()).build()).await?;
    let mut shown = vec![first];
    while !shown.iter().any(|line| line.contains(&last)) {
        shown.push(block_in_place(|| said.recv_timeout(PATIENCE)).context("tail stopped showing")?);
    }
    ensure!(shown.iter().all(|line| !line.contains("before")), "{shown:?}");
    for line in &shown {
        let message: serde_json::Value = serde_json::from_str(line).with_context(|| line.clone())?;
        ensure!(message["topic"] == topic, "{message:#}");
    }
    Ok(format!("{} messages seen as they came", shown.len()))
}
