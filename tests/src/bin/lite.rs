//! What very many lite topics cost a broker: memory, the time until it serves again after a stop and after a kill, how long the
//! way of a message through one of them takes while the others exist, and how long sends wait when a segment of the log begins,
//! with all of them in its snapshot. That wait is also measured for scheduled messages.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Parser;
use kerolox_harness::ProcessUsage;
use kerolox_harness::raw_calls::{
    MessagingStub, POLL_MAX, acknowledge, check, create_topic, message, request, resource, send, stub,
};
use kerolox_harness::{ClusterPlan, ServerProcess};
use kerolox_proto::v2;
use tokio::task::JoinSet;

/// Messages of one request when lite topics are made.
const BATCH: u64 = 500;
/// Requests under way at the same time.
const SENDERS: u64 = 4;
/// Lite topics that the consumer subscribes to.
const SUBSCRIBED: u64 = 1_000;
const PARENT: &str = "sessions";
const LATER: &str = "reminders";
const GROUP: &str = "agents";
/// Scheduled messages come due long after the run.
const FAR: Duration = Duration::from_secs(30 * 86_400);

/// Measures memory, start-up, latency and the wait at the beginning of a segment, with very many lite topics or timers.
#[derive(Parser)]
struct Arguments {
    /// Number of lite topics, with one message each.
    #[arg(long, default_value_t = 1_000_000)]
    lites: u64,
    /// Number of scheduled messages that wait, in a second broker; 0 skips that part.
    #[arg(long, default_value_t = 1_000_000)]
    timers: u64,
    /// Number of messages whose latency is measured.
    #[arg(long, default_value_t = 2_000)]
    samples: u64,
    /// Segment of the log, as in `--log-segment-size`. The default is that of the broker's.
    #[arg(long, default_value = "1GiB")]
    segment: String,
    /// Number of segments that begin while sends are timed.
    #[arg(long, default_value_t = 2)]
    segments: u64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    with_lites(&arguments).await?;
    if arguments.timers > 0 { with_timers(&arguments).await } else { Ok(()) }
}

async fn with_lites(arguments: &Arguments) -> Result<()> {
    let mut cluster = ClusterPlan::standalone("lite").segments_of(&arguments.segment).start()?;
    let server = &mut cluster.brokers[0];
    create_topic(server.address()?, PARENT, "LITE").await?;
    let before = settled(server).await?;
    let begun = Instant::now();
    fill(server, arguments.lites, |number| lite(&name(number), number)).await?;
    let seconds = begun.elapsed().as_secs_f64();
    let grown = settled(server).await?.saturating_sub(before);
    println!(
        "{} lite topics: made in {seconds:.1} s ({:.0}/s); the broker grew by {} MiB, {:.0} B for each",
        arguments.lites,
        arguments.lites as f64 / seconds,
        grown >> 20,
        grown as f64 / arguments.lites as f64
    );
    through_one(server, arguments, "after they were made").await?;
    server.stop()?;
    let stopped = server.start()?;
    server.kill()?;
    let killed = server.start()?;
    println!(
        "start-up: {:.2} s after a stop, {:.2} s after a kill; {:.0} B of memory for each lite topic then",
        stopped.as_secs_f64(),
        killed.as_secs_f64(),
        settled(server).await?.saturating_sub(before) as f64 / arguments.lites as f64
    );
    through_one(server, arguments, "after the start").await?;
    segment_starts(server, arguments, "lite topics", |number| lite(&name(0), number)).await?;
    server.kill()?;
    std::fs::remove_dir_all(server.data().join("index"))?;
    println!("start-up without an index: {:.2} s", server.start()?.as_secs_f64());
    server.stop()
}

async fn with_timers(arguments: &Arguments) -> Result<()> {
    let mut cluster = ClusterPlan::standalone("lite").segments_of(&arguments.segment).start()?;
    let server = &mut cluster.brokers[0];
    create_topic(server.address()?, LATER, "DELAY").await?;
    create_topic(server.address()?, "orders", "NORMAL").await?;
    let due = std::time::SystemTime::now() + FAR;
    fill(server, arguments.timers, move |number| scheduled(number, due)).await?;
    segment_starts(server, arguments, "scheduled messages", |number| message("orders", number, 900)).await?;
    server.stop()?;
    let stopped = server.start()?;
    server.kill()?;
    let killed = server.start()?;
    println!(
        "start-up with {} scheduled messages: {:.2} s after a stop, {:.2} s after a kill",
        arguments.timers,
        stopped.as_secs_f64(),
        killed.as_secs_f64()
    );
    server.stop()
}

/// Sends `count` messages in large requests.
async fn fill(
    server: &ServerProcess,
    count: u64,
    make: impl Fn(u64) -> v2::Message + Copy + Send + 'static,
) -> Result<()> {
    let mut senders = JoinSet::new();
    for sender in 0..SENDERS {
        let mut stub = stub(server.address()?).await?;
        senders.spawn(async move {
            let (from, until) = (sender * count / SENDERS, (sender + 1) * count / SENDERS);
            for begin in (from..until).step_by(usize::try_from(BATCH)?) {
                let messages = (begin..until.min(begin + BATCH)).map(make).collect();
                send(&mut stub, messages).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = senders.join_next().await {
        done??;
    }
    Ok(())
}

/// Resident memory in bytes once the broker is idle.
async fn settled(server: &ServerProcess) -> Result<u64> {
    let mut usage = ProcessUsage::of(server.pid()?)?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let next = ProcessUsage::of(server.pid()?)?;
        if next.cpu - usage.cpu < Duration::from_millis(50) {
            return Ok(next.resident);
        }
        usage = next;
    }
}

/// Times from before a send until the message was received, one message after the other, each through another of the lite topics
/// that the consumer subscribes to.
async fn through_one(server: &ServerProcess, arguments: &Arguments, when: &str) -> Result<()> {
    let (mut producer, mut consumer) = (stub(server.address()?).await?, stub(server.address()?).await?);
    let subscribed = SUBSCRIBED.min(arguments.lites);
    let begun = Instant::now();
    let sync = v2::SyncLiteSubscriptionRequest {
        action: v2::LiteSubscriptionAction::CompleteAdd.into(),
        topic: resource(PARENT),
        group: resource(GROUP),
        lite_topic_set: (0..subscribed).map(name).collect(),
        ..Default::default()
    };
    let answer = consumer.sync_lite_subscription(request(sync)?).await?.into_inner();
    check(answer.status.as_ref())?;
    let took = begun.elapsed();
    // What was sent before goes first.
    while receive(&mut consumer, Duration::from_millis(200)).await? > 0 {}
    let mut times = Vec::new();
    for sample in 0..arguments.samples {
        let begun = Instant::now();
        send(&mut producer, vec![lite(&name(sample % subscribed), sample)]).await?;
        ensure!(receive(&mut consumer, POLL_MAX).await? == 1, "the message did not come");
        times.push(begun.elapsed());
    }
    println!(
        "send to receive in one of {} lite topics, {when}: {} ({subscribed} subscribed to, in {:.0} ms)",
        arguments.lites,
        spread(times),
        took.as_secs_f64() * 1e3
    );
    Ok(())
}

/// Times sends, one after the other, while the log is filled; the slowest ones have met the beginning of a segment.
async fn segment_starts(
    server: &ServerProcess,
    arguments: &Arguments,
    what: &str,
    make: impl Fn(u64) -> v2::Message,
) -> Result<()> {
    let segments = || Ok::<_, anyhow::Error>(log_files(server)?.len() as u64);
    let mut stub = stub(server.address()?).await?;
    let wanted = segments()? + arguments.segments;
    let mut filler = JoinSet::new();
    let mut filling = self::stub(server.address()?).await?;
    create_topic(server.address()?, "filler", "NORMAL").await?;
    filler.spawn(async move {
        loop {
            let messages = (0..16).map(|number| message("filler", number, 250_000)).collect();
            if send(&mut filling, messages).await.is_err() {
                return;
            }
        }
    });
    let mut times = Vec::new();
    while segments()? < wanted {
        let begun = Instant::now();
        send(&mut stub, vec![make(times.len() as u64)]).await?;
        times.push(begun.elapsed());
    }
    filler.abort_all();
    println!(
        "sends while segments of {} begin, with very many {what}: {}; the beginning of a segment makes the longest wait",
        arguments.segment,
        spread(times)
    );
    Ok(())
}

fn log_files(server: &ServerProcess) -> Result<Vec<std::fs::DirEntry>> {
    let mut files = std::fs::read_dir(server.data().join("log"))?.collect::<std::io::Result<Vec<_>>>()?;
    files.retain(|file| file.path().extension().is_some_and(|extension| extension == "log"));
    Ok(files)
}

fn spread(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |part: f64| times[((times.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    format!("{:.2} ms (p50), {:.2} ms (p99), {:.0} ms (max)", at(0.5), at(0.99), at(1.0))
}

/// Receives and acknowledges; how many messages came.
async fn receive(stub: &mut MessagingStub, poll: Duration) -> Result<usize> {
    let entries = kerolox_harness::raw_calls::receive(stub, PARENT, GROUP, poll).await?;
    let count = entries.len();
    if count > 0 {
        acknowledge(stub, PARENT, GROUP, entries).await?;
    }
    Ok(count)
}

fn name(number: u64) -> String {
    format!("session-{number:08}")
}

fn lite(name: &str, number: u64) -> v2::Message {
    let mut message = message(PARENT, number, 100);
    if let Some(system) = &mut message.system_properties {
        system.lite_topic = Some(name.to_owned());
        system.message_type = v2::MessageType::Lite.into();
    }
    message
}

fn scheduled(number: u64, due: std::time::SystemTime) -> v2::Message {
    let mut message = message(LATER, number, 100);
    if let Some(system) = &mut message.system_properties {
        system.delivery_timestamp = Some(due.into());
        system.message_type = v2::MessageType::Delay.into();
    }
    message
}
