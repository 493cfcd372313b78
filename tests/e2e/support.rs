//! Servers of one test, and what the tests do with them again and again.

use std::path::Path;
use std::time::{Duration, Instant};

use kerolox_client::admin::wire;
use kerolox_client::{Address, Client, Code, Delivery, Error, FilterExpression, Message, SimpleConsumer};
use kerolox_harness::{ServerProcess, built_program};
use kerolox_proto::v2;
use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use tempfile::TempDir;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// Longest that anything here may take that has no time limit of its own.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Invisible duration of tests that do not wait for its end.
pub(crate) const INVISIBLE: Duration = Duration::from_secs(60);
/// Shortest invisible duration that the protocol allows.
pub(crate) const INVISIBLE_MIN: Duration = Duration::from_secs(10);
/// Queues of each topic on each broker.
pub(crate) const QUEUES: u32 = 2;
/// Flag and value of a first check-back that never comes within a test.
pub(crate) const NO_CHECKS: [&str; 2] = ["--transaction-first-check", "1h"];

/// Nameservers and brokers of one test; gone with it.
pub(crate) struct Servers {
    pub(crate) nameservers: Vec<ServerProcess>,
    pub(crate) brokers: Vec<ServerProcess>,
    pub(crate) folder: TempDir,
}

impl Servers {
    /// One broker that is its own nameserver.
    pub(crate) fn standalone(flags: &[&str]) -> Self {
        let mut servers = Self::none();
        servers.start_broker("broker-a", &[&["--standalone"], flags].concat());
        servers
    }

    /// Nameservers, and one broker for each of `groups`, which gets the additional `flags`.
    pub(crate) fn cluster(nameservers: usize, groups: &[&str], flags: &[&str]) -> Self {
        let mut servers = Self::none();
        for number in 1..=nameservers {
            let name = format!("nameserver-{number}");
            let mut server = server(&name, "nameserver", servers.folder.path(), &[]);
            server.start().unwrap();
            servers.nameservers.push(server);
        }
        for group in groups {
            let nameservers = servers.access_points();
            servers.start_broker(group, &[&["--nameserver", &nameservers], flags].concat());
        }
        servers
    }

    pub(crate) fn none() -> Self {
        Self { nameservers: Vec::new(), brokers: Vec::new(), folder: tempfile::tempdir().unwrap() }
    }

    fn start_broker(&mut self, group: &str, flags: &[&str]) {
        self.start_broker_with(group, flags, &[]);
    }

    /// The same with environment variables.
    pub(crate) fn start_broker_with(&mut self, group: &str, flags: &[&str], environment: &[(&str, &str)]) {
        let broker = broker(group, self.folder.path(), flags);
        let mut broker = environment.iter().fold(broker, |broker, (name, value)| broker.env(name, value));
        broker.start().unwrap();
        self.brokers.push(broker);
    }

    /// What clients are configured with: all nameservers, or the standalone broker.
    pub(crate) fn access_points(&self) -> String {
        let servers = if self.nameservers.is_empty() { &self.brokers } else { &self.nameservers };
        let addresses: Vec<&str> = servers.iter().map(|server| server.address().unwrap()).collect();
        addresses.join(",")
    }

    pub(crate) fn client(&self) -> Client {
        Client::builder(self.access_points()).build().unwrap()
    }

    /// Makes a topic with [`QUEUES`] queues on all brokers; `kind` is a `message.type`.
    pub(crate) async fn create_topic(&self, topic: &str, kind: &str) {
        for broker in &self.brokers {
            let request = wire::UpdateTopicRequest {
                name: topic.to_owned(),
                read_queues: Some(QUEUES),
                write_queues: Some(QUEUES),
                attributes: vec![format!("+message.type={kind}")],
                ..Default::default()
            };
            let address: Address = broker.address().unwrap().parse().unwrap();
            self.client().admin().broker(&address).update_topic(request).await.unwrap();
        }
    }

    /// A consumer of all messages of `topic` that waits for half a second in each receive.
    pub(crate) async fn consumer(&self, group: &str, topic: &str) -> SimpleConsumer {
        self.client()
            .simple_consumer(group)
            .subscribe(topic, FilterExpression::all())
            .await_duration(Duration::from_millis(500))
            .start()
            .await
            .unwrap()
    }
}

impl Drop for Servers {
    /// Shows the logs of a test that failed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            for server in self.nameservers.iter().chain(&self.brokers) {
                eprintln!("--- {}:\n{}", server.data().display(), server.log_tail());
            }
        }
    }
}

/// A broker of `group`, not started yet.
pub(crate) fn broker(group: &str, folder: &Path, flags: &[&str]) -> ServerProcess {
    // Segments are reserved on disk when they are begun, and the default is 1 GiB.
    // Most tests say what becomes of topics that are not there.
    server(group, "broker", folder, &[&["--group", group], flags].concat())
        .env("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "16MiB")
        .env("KEROLOX_BROKER__TOPICS__AUTO_CREATE", "off")
}

/// A server that keeps its data and log below `folder`; not started yet.
pub(crate) fn server(name: &str, program: &str, folder: &Path, flags: &[&str]) -> ServerProcess {
    ServerProcess::new(name, &built_program(program).unwrap(), folder, flags)
}

/// A message whose body is `body`.
pub(crate) fn message(topic: &str, body: &str) -> Message {
    Message::builder(topic).body(body.to_owned()).build()
}

pub(crate) fn body(delivery: &Delivery) -> &str {
    std::str::from_utf8(delivery.message().body()).unwrap()
}

/// Bodies in the order of the alphabet.
pub(crate) fn bodies(deliveries: &[Delivery]) -> Vec<&str> {
    let mut bodies: Vec<&str> = deliveries.iter().map(body).collect();
    bodies.sort_unstable();
    bodies
}

/// Receives until there are `count` messages.
pub(crate) async fn receive(consumer: &SimpleConsumer, count: usize) -> Vec<Delivery> {
    let started = Instant::now();
    let mut received = Vec::new();
    while received.len() < count {
        assert!(started.elapsed() < PATIENCE, "only {} of {count} messages came", received.len());
        received.extend(consumer.receive(32, INVISIBLE).await.unwrap());
    }
    assert_eq!(received.len(), count, "more came than expected: {:?}", bodies(&received));
    received
}

/// Receives one message.
pub(crate) async fn receive_one(consumer: &SimpleConsumer) -> Delivery {
    receive(consumer, 1).await.remove(0)
}

/// Receives `count` messages and acknowledges them; returns their bodies in order.
pub(crate) async fn consume(consumer: &SimpleConsumer, count: usize) -> Vec<String> {
    let received = receive(consumer, count).await;
    for delivery in &received {
        consumer.ack(delivery).await.unwrap();
    }
    bodies(&received).into_iter().map(str::to_owned).collect()
}

/// Polls often enough to have asked every broker, and expects nothing.
pub(crate) async fn expect_nothing(consumer: &SimpleConsumer) {
    for _ in 0..4 {
        let received = consumer.receive(32, INVISIBLE).await.unwrap();
        assert!(received.is_empty(), "unexpected: {:?}", bodies(&received));
    }
}

/// The protocol's code of a refused call.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, Error>) -> Code {
    let error = result.unwrap_err();
    error.code().unwrap_or_else(|| panic!("no refusal by a server: {error}"))
}

/// Repeats `check` until it holds, and returns how long that took.
pub(crate) async fn eventually(
    what: &str,
    patience: Duration,
    mut check: impl AsyncFnMut() -> bool,
) -> Duration {
    let started = Instant::now();
    while !check().await {
        assert!(started.elapsed() < patience, "not within {patience:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    started.elapsed()
}

/// A client without any help: the generated code, connected to one server.
pub(crate) async fn raw(server: &ServerProcess) -> MessagingServiceClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address().unwrap())).unwrap();
    MessagingServiceClient::new(endpoint.connect().await.unwrap())
}

/// A request with the one header that is required, and a deadline.
pub(crate) fn from_client<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-mq-client-id", "e2e-raw".parse().unwrap());
    request.set_timeout(PATIENCE);
    request
}

pub(crate) fn resource(name: &str) -> Option<v2::Resource> {
    Some(v2::Resource { resource_namespace: String::new(), name: name.to_owned() })
}

/// Code of a status that must be there.
pub(crate) fn code(status: Option<v2::Status>) -> v2::Code {
    status.expect("every answer has a status").code()
}
