//! What one producer process and one consumer process of the Rust client do with one broker: messages a second, and the processor
//! time that each side takes for a message. `tests/run.sh figures` runs it.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::{Parser, ValueEnum};
use kerolox_client::{Batcher, Batching, Client, FilterExpression, Message};
use kerolox_harness::ClusterPlan;
use kerolox_harness::ProcessUsage;
use kerolox_harness::raw_calls::create_topic;
use tokio::task::JoinSet;

const TOPIC: &str = "measured";
/// Longer than a measurement.
const INVISIBLE: Duration = Duration::from_secs(600);
/// Messages of a receive: the protocol's limit.
const RECEIVE: usize = 32;

/// Measures the client in processes of its own.
#[derive(Parser)]
struct Arguments {
    /// Messages of each measurement.
    #[arg(long, default_value_t = 200_000)]
    messages: u32,
    /// Size of a body in bytes.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Requests under way, where they are made one by one.
    #[arg(long, default_value_t = 64)]
    concurrent: u32,
    /// What an acknowledgement waits for: sync or async.
    #[arg(long, default_value = "sync")]
    flush: String,
    /// Is one of the processes that are measured.
    #[arg(long, hide = true, requires = "address")]
    role: Option<Role>,
    #[arg(long, hide = true)]
    address: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Role {
    OneByOne,
    Batched,
    ReceiveAck,
    Push,
}

impl Role {
    const ALL: [Self; 4] = [Self::OneByOne, Self::ReceiveAck, Self::Batched, Self::Push];

    fn name(self) -> &'static str {
        match self {
            Self::OneByOne => "produce, a request each",
            Self::Batched => "produce, automatic batches",
            Self::ReceiveAck => "receive and acknowledge, simple consumer",
            Self::Push => "receive and acknowledge, push consumer",
        }
    }

    /// As the command line has it.
    fn word(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    match (arguments.role, &arguments.address) {
        (Some(role), Some(address)) => {
            let seconds = play(role, address, &arguments).await?;
            let cpu = ProcessUsage::of(std::process::id())?.cpu;
            println!("{seconds} {}", cpu.as_secs_f64());
            Ok(())
        }
        _ => measure(&arguments).await,
    }
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let cluster = ClusterPlan::standalone("client-rate").flags(&["--flush", &arguments.flush]).start()?;
    let broker = &cluster.brokers[0];
    create_topic(broker.address()?, TOPIC, "NORMAL").await?;
    println!("{} messages of {} bytes, flush {}", arguments.messages, arguments.bytes, arguments.flush);
    // A consumer role reads the messages of the producer role before it.
    for role in Role::ALL {
        let before = ProcessUsage::of(broker.pid()?)?.cpu;
        let (seconds, cpu) = in_a_process(role, broker.address()?, arguments)?;
        let of_broker = ProcessUsage::of(broker.pid()?)?.cpu - before;
        let count = f64::from(arguments.messages);
        println!(
            "{}: {:.0} messages/s; CPU for a message: {:.1} us of the client, {:.1} us of the broker",
            role.name(),
            count / seconds,
            cpu / count * 1e6,
            of_broker.as_secs_f64() / count * 1e6,
        );
    }
    Ok(())
}

/// Plays the role in a process of its own; returns seconds, and those of its processor time.
fn in_a_process(role: Role, address: &str, arguments: &Arguments) -> Result<(f64, f64)> {
    let output = Command::new(std::env::current_exe()?)
        .args(["--role", &role.word(), "--address", address])
        .args(["--messages", &arguments.messages.to_string(), "--bytes", &arguments.bytes.to_string()])
        .args(["--concurrent", &arguments.concurrent.to_string()])
        .stderr(Stdio::inherit())
        .output()?;
    ensure!(output.status.success(), "{} ended with {}", role.name(), output.status);
    let text = String::from_utf8(output.stdout)?;
    let (seconds, cpu) = text.trim().split_once(' ').context("no figures")?;
    Ok((seconds.parse()?, cpu.parse()?))
}

/// Returns how many seconds it took.
async fn play(role: Role, address: &str, arguments: &Arguments) -> Result<f64> {
    let client = Client::builder(address).build()?;
    match role {
        Role::OneByOne => one_by_one(&client, arguments).await,
        Role::Batched => batched(&client, arguments).await,
        Role::ReceiveAck => receive_and_ack(&client, arguments).await,
        Role::Push => push(&client, arguments).await,
    }
}

fn message(arguments: &Arguments) -> Message {
    Message::builder(TOPIC).body(vec![b'x'; arguments.bytes]).build()
}

async fn one_by_one(client: &Client, arguments: &Arguments) -> Result<f64> {
    let producer = Arc::new(client.producer().topic(TOPIC).start().await?);
    let left = Arc::new(AtomicU32::new(arguments.messages));
    let started = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..arguments.concurrent {
        let (producer, left, message) = (Arc::clone(&producer), Arc::clone(&left), message(arguments));
        senders.spawn(async move {
            while take(&left) {
                producer.send(message.clone()).await?;
            }
            anyhow::Ok(())
        });
    }
    finish(senders).await?;
    Ok(started.elapsed().as_secs_f64())
}

/// One less, if there is one.
fn take(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

async fn finish(mut tasks: JoinSet<Result<()>>) -> Result<()> {
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(())
}

async fn batched(client: &Client, arguments: &Arguments) -> Result<f64> {
    let producer = Arc::new(client.producer().topic(TOPIC).start().await?);
    let batcher = Batcher::new(producer, Batching::default())?;
    let message = message(arguments);
    let started = Instant::now();
    let (answers, mut waiting) = tokio::sync::mpsc::unbounded_channel();
    let failures = tokio::spawn(async move {
        let mut failures = 0;
        while let Some(pending) = waiting.recv().await {
            let pending: kerolox_client::Pending = pending;
            failures += u32::from(pending.await.is_err());
        }
        failures
    });
    for _ in 0..arguments.messages {
        answers.send(batcher.send(message.clone()).await?)?;
    }
    drop(answers);
    let failures = failures.await?;
    if failures > 0 {
        bail!("{failures} messages were not stored");
    }
    Ok(started.elapsed().as_secs_f64())
}

async fn receive_and_ack(client: &Client, arguments: &Arguments) -> Result<f64> {
    let consumer = client.simple_consumer("simple").subscribe(TOPIC, FilterExpression::all());
    let consumer = Arc::new(consumer.await_duration(Duration::from_secs(1)).start().await?);
    let left = Arc::new(AtomicU32::new(arguments.messages));
    let started = Instant::now();
    let mut receivers = JoinSet::new();
    for _ in 0..4 {
        let (consumer, left) = (Arc::clone(&consumer), Arc::clone(&left));
        receivers.spawn(async move {
            while left.load(Ordering::Relaxed) > 0 {
                let received = consumer.receive(RECEIVE, INVISIBLE).await?;
                let mut acks = JoinSet::new();
                for delivery in received {
                    let consumer = Arc::clone(&consumer);
                    acks.spawn(async move { Ok(consumer.ack(&delivery).await?) });
                    take(&left);
                }
                finish(acks).await?;
            }
            anyhow::Ok(())
        });
    }
    finish(receivers).await?;
    Ok(started.elapsed().as_secs_f64())
}

async fn push(client: &Client, arguments: &Arguments) -> Result<f64> {
    let done = Arc::new(tokio::sync::Semaphore::new(0));
    let heard = Arc::clone(&done);
    let started = Instant::now();
    let consumer = client
        .push_consumer("push")
        .subscribe(TOPIC, FilterExpression::all())
        .concurrency(64)
        .start(move |_| {
            heard.add_permits(1);
            std::future::ready(kerolox_client::Verdict::Done)
        })
        .await?;
    drop(done.acquire_many(arguments.messages).await?);
    let left = consumer.shutdown(INVISIBLE).await;
    ensure!(left == 0, "{left} messages are not settled");
    Ok(started.elapsed().as_secs_f64())
}
