//! Servers of one test, and what the tests do with them again and again.

use std::path::Path;
use std::time::{Duration, Instant};

use kerolox_client::{Code, Delivery, Error, Message, RetryPolicy, SimpleConsumer};
use kerolox_harness::{Cluster, ClusterPlan, ServerProcess, built_program};
use kerolox_proto::kerolox::GroupState;
use kerolox_proto::v2;
use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use kerolox_proto::v2::receive_message_response::Content;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

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

/// The broker group of tests that have one.
pub(crate) const GROUP: &str = "broker-a";
/// What all brokers are told. Segments are reserved on disk when they are begun, and the default is 1 GiB. Most tests say what becomes
/// of topics that are not there.
const SETTINGS: [(&str, &str); 2] =
    [("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "16MiB"), ("KEROLOX_BROKER__TOPICS__AUTO_CREATE", "off")];

/// A cluster with one nameserver, if nothing else is said.
pub(crate) fn plan() -> ClusterPlan {
    ClusterPlan::new("e2e").queues(QUEUES).settings(&SETTINGS)
}

/// One broker that is its own nameserver.
pub(crate) fn standalone(flags: &[&str]) -> Cluster {
    standalone_with(flags, &[])
}

/// Starts a standalone broker with `flags` and with `settings`, which are environment variables and their values.
pub(crate) fn standalone_with(flags: &[&str], settings: &[(&str, &str)]) -> Cluster {
    plan().nameservers(0).group(GROUP, 1).flags(flags).settings(settings).start().unwrap()
}

/// Nameservers, and one broker for each of `groups`, which gets the additional `flags`.
pub(crate) fn cluster_of(nameservers: usize, groups: &[&str], flags: &[&str]) -> Cluster {
    let plan = groups.iter().fold(plan(), |plan, group| plan.group(group, 1));
    plan.nameservers(nameservers).flags(flags).start().unwrap()
}

/// One nameserver and `members` members of [`GROUP`], all in sync.
pub(crate) async fn group(members: usize, flags: &[&str], settings: &[(&str, &str)]) -> Cluster {
    let servers = plan().group(GROUP, members).flags(flags).settings(settings).start().unwrap();
    in_sync(&servers, members).await;
    servers
}

/// Adds a broker to a cluster, which gets these flags alone.
pub(crate) fn start_broker(servers: &mut Cluster, group: &str, flags: &[&str]) {
    let mut broker = broker(group, servers.folder(), flags);
    broker.start().unwrap();
    servers.brokers.push(broker);
}

/// A broker of `group` with files of that name, not started yet.
pub(crate) fn broker(group: &str, folder: &Path, flags: &[&str]) -> ServerProcess {
    let broker = server(group, "broker", folder, &[&["--group", group], flags].concat());
    SETTINGS.iter().fold(broker, |broker, (variable, value)| broker.env(variable, value))
}

/// A server that keeps its data and log below `folder`; not started yet.
pub(crate) fn server(name: &str, program: &str, folder: &Path, flags: &[&str]) -> ServerProcess {
    ServerProcess::new(name, &built_program(program).unwrap(), folder, flags)
}

/// Of a client that goes on trying while a master is elected.
pub(crate) fn patient() -> RetryPolicy {
    RetryPolicy::default().pauses(Duration::from_millis(10), Duration::from_millis(100))
}

/// The controller's state of [`GROUP`]; the default one when no nameserver answers, as during an election of a leader.
pub(crate) async fn state(servers: &Cluster) -> GroupState {
    servers.group_state(GROUP).await.unwrap_or_default()
}

/// Waits until so many members of [`GROUP`] are in sync, and tells which broker of `servers` is the master.
pub(crate) async fn in_sync(servers: &Cluster, members: usize) -> usize {
    servers.wait_until_in_sync(GROUP, members).await.unwrap();
    master(servers).await
}

/// The master of [`GROUP`], when there is one.
pub(crate) async fn master(servers: &Cluster) -> usize {
    servers.wait_for_master(GROUP).await.unwrap()
}

/// Makes a topic on the master of [`GROUP`].
pub(crate) async fn create(servers: &Cluster, topic: &str, kind: &str) {
    servers.create_topic_at(master(servers).await, topic, kind).await.unwrap();
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

/// What a raw receive brought: its status and its messages.
pub(crate) async fn received(
    call: Result<Response<Streaming<v2::ReceiveMessageResponse>>, Status>,
) -> (v2::Code, Vec<v2::Message>) {
    let mut stream = call.unwrap().into_inner();
    let (mut status, mut messages) = (None, Vec::new());
    while let Some(item) = stream.message().await.unwrap() {
        match item.content.unwrap() {
            Content::Status(found) => status = Some(found),
            Content::Message(message) => messages.push(message),
            Content::DeliveryTimestamp(_) => {}
        }
    }
    (code(status), messages)
}

/// Code of a status that must be there.
pub(crate) fn code(status: Option<v2::Status>) -> v2::Code {
    status.expect("every answer has a status").code()
}
