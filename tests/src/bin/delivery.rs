//! Starts a broker and prints what delivery costs it: messages received and acknowledged for each second of processor time,
//! memory of a message in flight, memory and processor time of consumers that wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use kerolox_proto::kerolox::UpdateTopicRequest;
use kerolox_proto::kerolox::broker_admin_client::BrokerAdminClient;
use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use kerolox_proto::v2::receive_message_response::Content;
use kerolox_proto::v2::{self, Code};
use kerolox_tests::process::Server;
use kerolox_tests::usage::Usage;
use tokio::task::JoinSet;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// Messages of one request when the topic is filled.
const BATCH: u64 = 500;
/// Most messages of one receive (the SDKs' limit).
const RECEIVE_MAX: i32 = 32;
/// The longest poll that a broker grants.
const POLL: Duration = Duration::from_secs(20);
/// What all pollers have to themselves of a poll: enough to see what they cost, and over before the first one ends.
const QUIET_MIN: Duration = Duration::from_secs(4);
/// Pollers of one connection; a broker takes up to 10,000 streams on each.
const POLLERS_PER_CONNECTION: u64 = 5_000;

/// Measures receive and acknowledge, messages in flight, and waiting consumers.
#[derive(Parser)]
struct Arguments {
    /// Messages that are received.
    #[arg(long, default_value_t = 200_000)]
    messages: u64,
    /// Size of a body in bytes.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// Receives under way at the same time.
    #[arg(long, default_value_t = 16)]
    consumers: u64,
    /// Consumers that wait at the same time: one figure for each number.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000")]
    pollers: Vec<u64>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    let mut server = Server::standalone(&Server::program("broker")?, folder.path(), &[]);
    server.start()?;
    let broker = Broker { pid: server.pid()?, address: format!("http://{}", server.address()?) };
    for topic in ["busy", "idle"] {
        broker.create(topic).await?;
    }
    fill(&broker, arguments.messages, arguments.bytes).await?;
    received_and_acknowledged(&broker, &arguments).await?;
    in_flight(&broker, &arguments).await?;
    for pollers in &arguments.pollers {
        waiting(&broker, *pollers).await?;
    }
    server.stop()
}

struct Broker {
    pid: u32,
    address: String,
}

type Stub = MessagingServiceClient<Channel>;

impl Broker {
    async fn channel(&self) -> Result<Channel> {
        Endpoint::from_shared(self.address.clone())?.connect().await.context("connecting to the broker")
    }

    async fn stub(&self) -> Result<Stub> {
        Ok(MessagingServiceClient::new(self.channel().await?))
    }

    fn usage(&self) -> Result<Usage> {
        Usage::of(self.pid)
    }

    async fn create(&self, topic: &str) -> Result<()> {
        let request =
            UpdateTopicRequest { name: topic.to_owned(), write_queues: Some(4), ..Default::default() };
        let answer = BrokerAdminClient::new(self.channel().await?).update_topic(request).await?.into_inner();
        ensure!(answer.error.is_none(), "{:?}", answer.error);
        Ok(())
    }
}

async fn fill(broker: &Broker, messages: u64, bytes: usize) -> Result<()> {
    let mut stub = broker.stub().await?;
    for begin in (0..messages).step_by(usize::try_from(BATCH)?) {
        let batch = (begin..messages.min(begin + BATCH)).map(|number| message(number, bytes)).collect();
        let answer =
            stub.send_message(request(v2::SendMessageRequest { messages: batch })?).await?.into_inner();
        check(answer.status.as_ref())?;
    }
    Ok(())
}

async fn received_and_acknowledged(broker: &Broker, arguments: &Arguments) -> Result<()> {
    let before = broker.usage()?;
    let started = Instant::now();
    consume(broker, arguments, "acknowledging", true).await?;
    let (seconds, cpu) = (started.elapsed().as_secs_f64(), broker.usage()?.cpu - before.cpu);
    println!(
        "received and acknowledged: {:.0} messages/s, {:.0} for each second of the broker's processor time ({} messages of {} B, {} consumers)",
        arguments.messages as f64 / seconds,
        arguments.messages as f64 / cpu.as_secs_f64(),
        arguments.messages,
        arguments.bytes,
        arguments.consumers,
    );
    Ok(())
}

async fn in_flight(broker: &Broker, arguments: &Arguments) -> Result<()> {
    let before = broker.usage()?.resident;
    consume(broker, arguments, "holding", false).await?;
    let grown = broker.usage()?.resident.saturating_sub(before);
    println!(
        "in flight: {:.0} B of memory for each of {} messages",
        grown as f64 / arguments.messages as f64,
        arguments.messages
    );
    Ok(())
}

/// Receives all messages of the topic, once; acknowledges them if wanted.
async fn consume(
    broker: &Broker,
    arguments: &Arguments,
    group: &'static str,
    acknowledge: bool,
) -> Result<()> {
    let left = Arc::new(AtomicU64::new(arguments.messages));
    let mut consumers = JoinSet::new();
    for _ in 0..arguments.consumers {
        let (mut stub, left) = (broker.stub().await?, Arc::clone(&left));
        consumers.spawn(async move {
            while left.load(Ordering::Relaxed) > 0 {
                let entries = receive(&mut stub, "busy", group, Duration::from_millis(100)).await?;
                left.fetch_sub(u64::try_from(entries.len())?, Ordering::Relaxed);
                if acknowledge && !entries.is_empty() {
                    let ack =
                        v2::AckMessageRequest { group: resource(group), topic: resource("busy"), entries };
                    check(stub.ack_message(request(ack)?).await?.into_inner().status.as_ref())?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = consumers.join_next().await {
        done??;
    }
    Ok(())
}

/// What consumers cost that wait for messages: after all have begun to wait, and before the first poll ends.
async fn waiting(broker: &Broker, pollers: u64) -> Result<()> {
    let before = broker.usage()?;
    let ended = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let mut polls = JoinSet::new();
    let mut stub = broker.stub().await?;
    for poller in 0..pollers {
        if poller % POLLERS_PER_CONNECTION == 0 {
            stub = broker.stub().await?;
        }
        let (mut stub, ended) = (stub.clone(), Arc::clone(&ended));
        polls.spawn(async move {
            let entries = receive(&mut stub, "idle", "waiting", POLL).await;
            ended.fetch_add(1, Ordering::Relaxed);
            entries.map(|entries| entries.len())
        });
    }
    let begun = settled(broker).await?;
    let end = started + POLL - Duration::from_secs(1);
    let window = end.saturating_duration_since(Instant::now());
    ensure!(window >= QUIET_MIN, "{pollers} polls took {:?} to begin; try fewer", started.elapsed());
    tokio::time::sleep(window).await;
    let after = broker.usage()?;
    ensure!(ended.load(Ordering::Relaxed) == 0, "polls ended before their time");
    println!(
        "waiting: {pollers} consumers use {:.2} % of a core and {:.0} B of memory each; to begin and end a poll takes {:.0} us of processor time",
        (after.cpu - begun.cpu).as_secs_f64() / window.as_secs_f64() * 100.0,
        after.resident.saturating_sub(before.resident) as f64 / pollers as f64,
        cost_of_a_poll(broker, &mut polls, before, begun, pollers).await?,
    );
    Ok(())
}

/// What the broker uses when it has nothing to do any more.
async fn settled(broker: &Broker) -> Result<Usage> {
    let mut usage = broker.usage()?;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let next = broker.usage()?;
        if next.cpu - usage.cpu < Duration::from_millis(50) {
            return Ok(next);
        }
        usage = next;
    }
}

/// Waits until all polls are over; microseconds that one took, from its request to its answer, without the wait.
async fn cost_of_a_poll(
    broker: &Broker,
    polls: &mut JoinSet<Result<usize>>,
    before: Usage,
    begun: Usage,
    pollers: u64,
) -> Result<f64> {
    let waited = broker.usage()?;
    while let Some(poll) = polls.join_next().await {
        ensure!(poll?? == 0, "there is nothing to receive");
    }
    let used = (begun.cpu - before.cpu) + (broker.usage()?.cpu - waited.cpu);
    Ok(used.as_secs_f64() * 1e6 / pollers as f64)
}

/// One receive; what it takes to acknowledge its messages.
async fn receive(
    stub: &mut Stub,
    topic: &str,
    group: &str,
    poll: Duration,
) -> Result<Vec<v2::AckMessageEntry>> {
    let queue = v2::MessageQueue {
        topic: resource(topic),
        id: -1,
        broker: Some(v2::Broker { name: "broker-a".to_owned(), ..Default::default() }),
        ..Default::default()
    };
    let receive = v2::ReceiveMessageRequest {
        group: resource(group),
        message_queue: Some(queue),
        batch_size: RECEIVE_MAX,
        invisible_duration: Some(Duration::from_secs(3600).try_into()?),
        long_polling_timeout: Some(poll.try_into()?),
        ..Default::default()
    };
    let mut items = stub.receive_message(request(receive)?).await?.into_inner();
    let mut entries = Vec::new();
    while let Some(item) = items.message().await? {
        match item.content {
            Some(Content::Message(message)) => {
                let system = message.system_properties.context("a message with system properties")?;
                entries.push(v2::AckMessageEntry {
                    receipt_handle: system.receipt_handle().to_owned(),
                    message_id: system.message_id,
                    lite_topic: None,
                });
            }
            Some(Content::Status(status)) if status.code() != Code::MessageNotFound => check(Some(&status))?,
            _ => {}
        }
    }
    Ok(entries)
}

fn message(number: u64, bytes: usize) -> v2::Message {
    let system = v2::SystemProperties {
        message_id: format!("{number:016X}"),
        message_type: v2::MessageType::Normal.into(),
        body_encoding: v2::Encoding::Identity.into(),
        queue_id: i32::try_from(number % 4).expect("a small number"),
        ..Default::default()
    };
    v2::Message {
        topic: resource("busy"),
        body: vec![b'.'; bytes].into(),
        system_properties: Some(system),
        ..Default::default()
    }
}

fn resource(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { resource_namespace: String::new(), name: name.to_owned() })
}

fn request<T>(message: T) -> Result<Request<T>> {
    let mut request = Request::new(message);
    for (name, value) in
        [("x-mq-client-id", "figures"), ("x-mq-language", "RUST"), ("x-mq-client-version", "5.0.0")]
    {
        request.metadata_mut().insert(name, value.parse()?);
    }
    Ok(request)
}

fn check(status: Option<&v2::Status>) -> Result<()> {
    let status = status.context("an answer has a status")?;
    ensure!(status.code() == Code::Ok, "{:?}: {}", status.code(), status.message);
    Ok(())
}
