//! Real servers on request, short spellings for the official SDK, and the waiting that tests need.

use std::future::Future;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rocketmq::conf::{ClientOption, LoggingFormat, ProducerOption, SimpleConsumerOption};
use rocketmq::error::ClientError;
use rocketmq::model::common::{FilterExpression, FilterType};
use rocketmq::model::message::{MessageBuilder, MessageView};
use rocketmq::model::transaction::TransactionChecker;
use rocketmq::{Producer, SimpleConsumer};
use serde_json::Value;

/// The shortest that a simple consumer may ask for.
pub const INVISIBLE: Duration = Duration::from_secs(10);
/// How long a receive waits for messages.
const POLL: Duration = Duration::from_secs(1);
const CLUSTER: &str = "DefaultCluster";

/// The server that the SDK is configured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It knows all routes and stores nothing.
    Nameserver,
    /// It answers for the cluster like a nameserver.
    Broker,
}

/// A nameserver with one broker, whose check-backs come every 2 s, or with a broker group.
#[derive(Debug)]
pub struct Cluster {
    id: u64,
    nameserver: String,
    broker: String,
}

/// One request to tests/src/cluster_server/mod.rs, which owns the servers.
fn harness(line: &str) -> Value {
    let address = std::env::var("KEROLOX_HARNESS").expect("the tests run under the program with_cluster");
    let mut stream = TcpStream::connect(address).expect("the harness listens");
    writeln!(stream, "{line}").expect("the harness reads");
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).expect("the harness answers");
    let answer: Value = serde_json::from_str(&answer).expect("the harness answers JSON");
    assert!(answer.get("error").is_none(), "harness: {line}: {answer}");
    answer
}

impl Cluster {
    /// Starts one of its own for a test that hurts it.
    #[must_use]
    pub fn start() -> Self {
        Self::request("cluster")
    }

    /// Starts a broker group, all of it in sync, for a single test.
    #[must_use]
    pub fn start_group(members: u32) -> Self {
        Self::request(&format!("group {members}"))
    }

    fn request(line: &str) -> Self {
        let started = harness(line);
        let address = |server: &str| started[server].as_str().expect("an address").to_owned();
        Self {
            id: started["id"].as_u64().expect("a number"),
            nameserver: address("nameserver"),
            broker: address("broker"),
        }
    }

    /// The one that the other tests share.
    #[must_use]
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Cluster> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// The endpoint of a server, `HOST:PORT`.
    #[must_use]
    pub fn endpoint(&self, access: Access) -> &str {
        match access {
            Access::Nameserver => &self.nameserver,
            Access::Broker => &self.broker,
        }
    }

    /// kill -9 of a server.
    pub fn kill(&self, server: Access) {
        self.control("kill", server);
    }

    /// Starts a server again on the same port and data.
    pub fn restart(&self, server: Access) {
        self.control("start", server);
    }

    /// kill -9 of the broker that rules a group.
    pub fn kill_master(&self) {
        harness(&format!("kill {} master", self.id));
    }

    /// Returns when a master rules and all members that run are in sync.
    pub fn wait_for_in_sync(&self) {
        harness(&format!("in-sync {}", self.id));
    }

    /// Stops the members of the group and starts them again, one after the other, each when all are in sync.
    pub fn restart_in_turn(&self) {
        harness(&format!("restart-in-turn {}", self.id));
    }

    fn control(&self, command: &str, server: Access) {
        let name = match server {
            Access::Nameserver => "nameserver",
            Access::Broker => "broker",
        };
        harness(&format!("{command} {} {name}", self.id));
    }

    /// Whether mqadmin does it, and what it prints, JSON.
    fn try_mqadmin(&self, arguments: &[&str]) -> Result<Value, String> {
        let folder = PathBuf::from(std::env::var_os("KEROLOX_BIN").expect("the folder of the programs"));
        let done = Command::new(folder.join("mqadmin"))
            .args(arguments)
            .args(["-n", &self.nameserver, "--output", "json"])
            .output()
            .expect("mqadmin runs");
        if !done.status.success() {
            return Err(format!("mqadmin {arguments:?}: {}", String::from_utf8_lossy(&done.stderr)));
        }
        Ok(serde_json::from_slice(&done.stdout).unwrap_or(Value::Null))
    }

    /// What mqadmin prints, JSON.
    pub fn mqadmin(&self, arguments: &[&str]) -> Value {
        self.try_mqadmin(arguments).expect("mqadmin does it")
    }

    /// A topic of a type (NORMAL, FIFO, TRANSACTION) with a name of its own, in the routes.
    pub async fn topic(&self, message_type: &str, queues: u32) -> String {
        let (topic, queues) = (new_name("topic"), queues.to_string());
        let attributes = format!("+message.type={message_type}");
        self.mqadmin(&[
            "updateTopic",
            "-c",
            CLUSTER,
            "-t",
            &topic,
            "-r",
            &queues,
            "-w",
            &queues,
            "-a",
            &attributes,
        ]);
        self.wait_for_route(&topic).await;
        topic
    }

    /// Waits until the nameserver knows where a topic is.
    pub async fn wait_for_route(&self, topic: &str) {
        let found = async || self.try_mqadmin(&["topicRoute", "-t", topic]).is_ok();
        eventually("there is a route to the topic", found).await;
    }

    /// Waits until a server that is no nameserver knows where a topic is, too.
    pub async fn wait_for_route_at(&self, access: Access, topic: &str) {
        let found = async || self.new_producer(access, topic).start().await.is_ok();
        eventually("the endpoint knows a route to the topic", found).await;
    }

    /// A consumer group with a name of its own, made with more flags of updateSubGroup.
    pub fn group(&self, flags: &[&str]) -> String {
        let group = new_name("group");
        self.mqadmin(&[&["updateSubGroup", "-c", CLUSTER, "-g", &group], flags].concat());
        group
    }

    fn client_option(&self, access: Access) -> ClientOption {
        let mut option = ClientOption::default();
        option.set_access_url(self.endpoint(access));
        option.set_long_polling_timeout(POLL);
        option
    }

    /// A producer, not started.
    pub fn new_producer(&self, access: Access, topic: &str) -> Producer {
        Producer::new(producer_option(topic), self.client_option(access)).expect("a producer")
    }

    /// A producer.
    pub async fn producer(&self, access: Access, topic: &str) -> Producer {
        let mut producer = self.new_producer(access, topic);
        producer.start().await.expect("the producer starts");
        producer
    }

    /// A producer that answers check-backs.
    pub async fn transaction_producer(
        &self,
        access: Access,
        topic: &str,
        checker: Box<TransactionChecker>,
    ) -> Producer {
        let option = self.client_option(access);
        let mut producer =
            Producer::new_transaction_producer(producer_option(topic), option, checker).expect("a producer");
        producer.start().await.expect("the producer starts");
        producer
    }

    /// A consumer of a topic.
    pub async fn consumer(&self, access: Access, topic: &str, group: &str) -> Receiver {
        let mut option = SimpleConsumerOption::default();
        option.set_logging_format(logging());
        option.set_consumer_group(group);
        option.set_topics(vec![topic]);
        let mut consumer = SimpleConsumer::new(option, self.client_option(access)).expect("a consumer");
        consumer.start().await.expect("the consumer starts");
        Receiver { consumer, topic: topic.to_owned(), filter: FilterExpression::new(FilterType::Tag, "*") }
    }
}

fn producer_option(topic: &str) -> ProducerOption {
    let mut option = ProducerOption::default();
    option.set_logging_format(logging());
    option.set_topics(vec![topic]);
    option
}

/// The SDK logs to the terminal or to logs/ of the current folder: a temporary one from the first client on.
fn logging() -> LoggingFormat {
    static FOLDER: OnceLock<tempfile::TempDir> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("logs")).expect("a folder for logs");
        std::env::set_current_dir(folder.path()).expect("the folder is there");
        folder
    });
    LoggingFormat::Json
}

fn new_name(kind: &str) -> String {
    static NAMES: AtomicUsize = AtomicUsize::new(1);
    format!("{kind}-{}", NAMES.fetch_add(1, Ordering::Relaxed))
}

/// A simple consumer of one topic with a filter.
pub struct Receiver {
    /// The SDK's consumer.
    pub consumer: SimpleConsumer,
    topic: String,
    filter: FilterExpression,
}

impl Receiver {
    /// Filters from now on.
    #[must_use]
    pub fn with_filter(mut self, kind: FilterType, expression: &str) -> Self {
        self.filter = FilterExpression::new(kind, expression);
        self
    }

    /// One receive.
    pub async fn poll(&self, batch: i32) -> Result<Vec<MessageView>, ClientError> {
        self.consumer.receive_with(&self.topic, &self.filter, batch, INVISIBLE).await
    }

    /// One receive; each message is acknowledged at once.
    pub async fn take(&self) -> Result<Vec<MessageView>, ClientError> {
        let got = self.poll(32).await?;
        for message in &got {
            self.consumer.ack(message).await?;
        }
        Ok(got)
    }

    /// Receives until `count` messages came or 20 s passed, without acknowledging.
    pub async fn hold(&self, count: usize) -> Vec<MessageView> {
        until(count, async || self.poll(32).await).await
    }

    /// Like [`Receiver::hold`], and acknowledges each.
    pub async fn receive(&self, count: usize) -> Vec<MessageView> {
        until(count, async || self.take().await).await
    }

    /// Polls for a while; what came although nothing should.
    pub async fn receive_nothing(&self, duration: Duration) -> Vec<String> {
        let (mut got, deadline) = (Vec::new(), Instant::now() + duration);
        while Instant::now() < deadline {
            got.extend(self.poll(32).await.expect("a receive"));
        }
        bodies(&got)
    }
}

async fn until(
    count: usize,
    receive: impl AsyncFn() -> Result<Vec<MessageView>, ClientError>,
) -> Vec<MessageView> {
    let (mut got, deadline) = (Vec::new(), Instant::now() + Duration::from_secs(20));
    while got.len() < count && Instant::now() < deadline {
        got.extend(receive().await.expect("a receive"));
    }
    got
}

/// The time as the SDK wants it for deliveries.
#[must_use]
pub fn seconds_since_1970() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_secs()).expect("small")
}

/// A message with a body and nothing else.
#[must_use]
pub fn message(topic: &str, body: &str) -> MessageBuilder {
    MessageBuilder::builder().set_topic(topic).set_body(body.as_bytes().to_vec())
}

/// The bodies in the order of arrival.
#[must_use]
pub fn bodies(messages: &[MessageView]) -> Vec<String> {
    messages.iter().map(|message| String::from_utf8_lossy(message.body()).into_owned()).collect()
}

/// The bodies in order.
#[must_use]
pub fn sorted(mut bodies: Vec<String>) -> Vec<String> {
    bodies.sort();
    bodies
}

/// `message-10` and so on, in order.
#[must_use]
pub fn numbered(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("message-{}", 10 + number)).collect()
}

/// Waits until the condition holds, a minute at most.
pub async fn eventually(what: &str, condition: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "after a minute still not: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a test; the SDK wants a runtime with threads.
pub fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test);
}

/// Makes of `async fn name(access: Access)` a test for each server that an SDK may be configured with.
#[macro_export]
macro_rules! each_access_point {
    ($($(#[$about:meta])* async fn $name:ident($access:ident: Access) $body:block)+) => {$(
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            $(#[$about])*
            async fn body($access: $crate::Access) $body

            #[test]
            fn nameserver() {
                $crate::run(body($crate::Access::Nameserver));
            }

            #[test]
            fn broker() {
                $crate::run(body($crate::Access::Broker));
            }
        }
    )+};
}
