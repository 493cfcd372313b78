//! Clients that are connected to another server than the broker they deal with: a nameserver, or another broker. Made without
//! the help of a client library.

use std::time::{Duration, Instant};

use kerolox_client::admin::wire;
use kerolox_client::{Address, Resolution};
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::v2::receive_message_response::Content;
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code, TransactionResolution};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use crate::relayed_calls::{A, B, Raw, end, end_of, send};
use crate::support::{
    NO_CHECKS, PATIENCE, cluster_of, code, consume, eventually, expect_nothing, from_client, raw, resource,
};
use crate::transactions::{CHECKS_EVERY_SECOND, producer, undecided};

/// The Telemetry stream of a producer of "payments".
pub(crate) struct Listener {
    _settings: mpsc::Sender<v2::TelemetryCommand>,
    commands: Streaming<v2::TelemetryCommand>,
}

impl Listener {
    /// Opens a stream to `server`, and waits until it knows what the producer publishes to.
    async fn open(server: &mut Raw) -> Self {
        Self::open_as("", server).await
    }

    /// Opens a session as a client that reports `language` as its language.
    pub(crate) async fn open_as(language: &str, server: &mut Raw) -> Self {
        let publishing =
            v2::Publishing { topics: resource("payments").into_iter().collect(), ..Default::default() };
        let settings = v2::Settings {
            client_type: Some(v2::ClientType::Producer.into()),
            pub_sub: Some(PubSub::Publishing(publishing)),
            ..Default::default()
        };
        let (sender, receiver) = mpsc::channel(1);
        let command = v2::TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
        sender.send(command).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.metadata_mut().insert("x-mq-client-id", format!("e2e-listener{language}").parse().unwrap());
        request.metadata_mut().insert("x-mq-language", language.parse().unwrap());
        let commands = server.telemetry(request).await.unwrap().into_inner();
        let mut listener = Self { _settings: sender, commands };
        assert!(matches!(listener.next().await, Command::Settings(_)));
        listener
    }

    pub(crate) async fn next(&mut self) -> Command {
        let command = tokio::time::timeout(PATIENCE, self.commands.message()).await;
        command.expect("a command comes").unwrap().expect("the stream stays open").command.unwrap()
    }

    /// Waits for a check: message id and transaction id.
    async fn check(&mut self) -> (String, String) {
        let Command::RecoverOrphanedTransactionCommand(check) = self.next().await else {
            panic!("no check");
        };
        let message = check.message.unwrap();
        assert_eq!(message.topic, resource("payments"));
        (message.system_properties.unwrap().message_id, check.transaction_id)
    }

    pub(crate) async fn is_silent_for(&mut self, duration: Duration) -> bool {
        tokio::time::timeout(duration, self.commands.message()).await.is_err()
    }
}

async fn two_brokers(flags: &[&str]) -> Cluster {
    let servers = cluster_of(1, &[A, B], flags);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    servers
}

#[tokio::test]
async fn a_producer_is_asked_wherever_it_listens() {
    let servers = two_brokers(&CHECKS_EVERY_SECOND).await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    let mut a = raw(&servers.brokers[0]).await;
    for (server, id) in
        [(&servers.nameservers[0], "1"), (&servers.brokers[1], "2"), (&servers.brokers[0], "3")]
    {
        let mut server = raw(server).await;
        let mut listener = Listener::open(&mut server).await;
        let half = send(&mut a, "payments", id, v2::MessageType::Transaction).await;
        let (message_id, transaction_id) = listener.check().await;
        assert_eq!((&message_id, &transaction_id), (&half.message_id, &half.transaction_id));
        let committed = end_of(&message_id, &transaction_id, TransactionResolution::Commit);
        assert_eq!(end(&mut server, committed).await, Code::Ok);
        assert_eq!(consume(&consumer, 1).await, [id]);
    }
    expect_nothing(&consumer).await;
}

#[tokio::test]
async fn only_a_check_that_somebody_took_counts() {
    let flags = [&CHECKS_EVERY_SECOND[..], &["--transaction-check-max", "1"]].concat();
    let servers = two_brokers(&flags).await;
    let (mut nameserver, mut a) = (raw(&servers.nameservers[0]).await, raw(&servers.brokers[0]).await);
    let first = send(&mut a, "payments", "1", v2::MessageType::Transaction).await;
    let second = send(&mut a, "payments", "2", v2::MessageType::Transaction).await;
    // Several checks fall due, but no producer is connected.
    tokio::time::sleep(Duration::from_millis(3500)).await;

    let mut listener = Listener::open(&mut nameserver).await;
    let mut asked = [listener.check().await.0, listener.check().await.0];
    asked.sort();
    assert_eq!(asked, [first.message_id, second.message_id]);
    assert!(listener.is_silent_for(Duration::from_millis(2500)).await, "they were asked about once");
    assert_eq!(undecided(&servers).await, 2);
}

#[tokio::test]
async fn a_producer_that_comes_back_to_its_broker_is_asked_at_once() {
    let servers = cluster_of(1, &[A], &CHECKS_EVERY_SECOND);
    servers.create_topic("payments", "TRANSACTION").await.unwrap();
    let mut a = raw(&servers.brokers[0]).await;
    let half = send(&mut a, "payments", "1", v2::MessageType::Transaction).await;
    // Long enough for the pauses between two tries to grow.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut listener = Listener::open(&mut a).await;
    assert_eq!(listener.check().await.1, half.transaction_id);
}

#[tokio::test]
async fn the_rust_client_answers_a_broker_that_it_does_not_know() {
    let servers = cluster_of(1, &[A, B], &CHECKS_EVERY_SECOND);
    let create = async |broker: &ServerProcess| {
        let request = wire::UpdateTopicRequest {
            name: "payments".to_owned(),
            attributes: vec!["+message.type=TRANSACTION".to_owned()],
            ..Default::default()
        };
        let address: Address = broker.address().unwrap().parse().unwrap();
        servers.client().admin().broker(&address).update_topic(request).await.unwrap();
    };
    create(&servers.brokers[0]).await;
    // Its route names broker A only, and it has no reason to read it again soon.
    let _producer = producer(&servers, |_| Resolution::Commit).await;
    create(&servers.brokers[1]).await;
    let mut b = raw(&servers.brokers[1]).await;
    send(&mut b, "payments", "1", v2::MessageType::Transaction).await;
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["1"]);
}

fn by<T>(client: &str, message: T) -> Request<T> {
    let mut request = from_client(message);
    request.metadata_mut().insert("x-mq-client-id", client.parse().unwrap());
    request
}

/// One ReceiveMessage of "orders" at broker A that holds what it gets for as long as the client lives.
async fn receive_and_hold(server: &mut Raw, client: &str) -> usize {
    let request = v2::ReceiveMessageRequest {
        group: resource("billing"),
        message_queue: Some(v2::MessageQueue {
            topic: resource("orders"),
            id: -1,
            broker: Some(v2::Broker { name: A.to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        batch_size: 16,
        auto_renew: true,
        long_polling_timeout: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    };
    let mut items = server.receive_message(by(client, request)).await.unwrap().into_inner();
    let mut messages = 0;
    while let Some(item) = items.message().await.unwrap() {
        messages += usize::from(matches!(item.content, Some(Content::Message(_))));
    }
    messages
}

async fn heartbeat(server: &mut Raw, client: &str) {
    let request =
        v2::HeartbeatRequest { group: resource("billing"), client_type: v2::ClientType::PushConsumer.into() };
    assert_eq!(code(server.heartbeat(by(client, request)).await.unwrap().into_inner().status), Code::Ok);
}

/// A nameserver and a broker that forgets silent clients after `expiry`; "orders" holds one message, which "holder" received
/// through the nameserver.
async fn one_message_held(folder: &tempfile::TempDir, expiry: &str) -> Cluster {
    let config = folder.path().join("broker.toml");
    std::fs::write(&config, format!("[clients]\nexpiry = {expiry:?}\n")).unwrap();
    let flags = [&NO_CHECKS[..], &["--config", config.to_str().unwrap()]].concat();
    let servers = cluster_of(1, &[A], &flags);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let mut nameserver = raw(&servers.nameservers[0]).await;
    send(&mut nameserver, "orders", "1", v2::MessageType::Normal).await;
    assert_eq!(receive_and_hold(&mut nameserver, "holder").await, 1);
    servers
}

#[tokio::test]
async fn heartbeats_at_the_nameserver_keep_what_a_broker_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    let servers = one_message_held(&folder, "3s").await;
    let (mut nameserver, mut a) = (raw(&servers.nameservers[0]).await, raw(&servers.brokers[0]).await);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(7) {
        heartbeat(&mut nameserver, "holder").await;
        assert_eq!(receive_and_hold(&mut a, "other").await, 0, "after {:?}", begin.elapsed());
    }
    // The holder has been silent for long enough.
    eventually("the other one gets it", PATIENCE, || {
        let mut a = a.clone();
        async move { receive_and_hold(&mut a, "other").await == 1 }
    })
    .await;
}

#[tokio::test]
async fn a_goodbye_at_the_nameserver_gives_back_what_a_broker_handed_out() {
    let folder = tempfile::tempdir().unwrap();
    let servers = one_message_held(&folder, "1h").await;
    let (mut nameserver, a) = (raw(&servers.nameservers[0]).await, raw(&servers.brokers[0]).await);
    let goodbye = v2::NotifyClientTerminationRequest { group: resource("billing") };
    let answer = nameserver.notify_client_termination(by("holder", goodbye)).await.unwrap().into_inner();
    assert_eq!(code(answer.status), Code::Ok);
    eventually("the other one gets it", PATIENCE, || {
        let mut a = a.clone();
        async move { receive_and_hold(&mut a, "other").await == 1 }
    })
    .await;
}

#[tokio::test]
async fn clients_without_a_stream_go_on_after_a_restart_of_their_broker() {
    let mut servers = cluster_of(1, &[A], &CHECKS_EVERY_SECOND);
    for (topic, kind) in [("orders", "NORMAL"), ("payments", "TRANSACTION")] {
        servers.create_topic(topic, kind).await.unwrap();
    }
    let mut a = raw(&servers.brokers[0]).await;
    let listener = Listener::open(&mut a).await;
    send(&mut a, "orders", "1", v2::MessageType::Normal).await;
    servers.brokers[0].kill().unwrap();
    servers.brokers[0].start().unwrap();
    drop(listener);

    // The clients keep their ids and announce no settings.
    let mut a = raw(&servers.brokers[0]).await;
    heartbeat(&mut a, "holder").await;
    send(&mut a, "orders", "2", v2::MessageType::Normal).await;
    let half = send(&mut a, "payments", "3", v2::MessageType::Transaction).await;
    let committed = end_of(&half.message_id, &half.transaction_id, TransactionResolution::Commit);
    assert_eq!(end(&mut a, committed).await, Code::Ok);
    let mut received = 0;
    while received < 2 {
        heartbeat(&mut a, "holder").await;
        received += receive_and_hold(&mut a, "holder").await;
    }
    assert_eq!(received, 2);
    let consumer = servers.consumer("ledger", "payments").await.unwrap();
    assert_eq!(consume(&consumer, 1).await, ["3"]);
}
