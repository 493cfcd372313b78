//! What consumers are told about their group, and when.

use std::time::Duration;

use kerolox_client::Address;
use kerolox_client::admin::wire;
use kerolox_harness::ServerProcess;
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, retry_policy::Strategy};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::support::{PATIENCE, cluster_of, group, in_sync, master, raw, resource};

/// A consumer's Telemetry stream.
struct Told {
    answers: Streaming<v2::TelemetryCommand>,
    _open: mpsc::Sender<v2::TelemetryCommand>,
}

impl Told {
    async fn open(server: &ServerProcess, client: &str) -> Self {
        let subscription = v2::Subscription { group: resource("billing"), ..Default::default() };
        let settings = v2::Settings {
            client_type: Some(v2::ClientType::PushConsumer.into()),
            pub_sub: Some(PubSub::Subscription(subscription)),
            ..Default::default()
        };
        let (open, commands) = mpsc::channel(4);
        let command = Some(Command::Settings(settings));
        open.send(v2::TelemetryCommand { status: None, command }).await.unwrap();
        let mut request = tonic::Request::new(ReceiverStream::new(commands));
        request.metadata_mut().insert("x-mq-client-id", client.parse().unwrap());
        let answers = raw(server).await.telemetry(request).await.unwrap().into_inner();
        Self { answers, _open: open }
    }

    /// Order, attempts, and the first delay in seconds, as told next.
    async fn next(&mut self) -> (bool, i32, i64) {
        let command = tokio::time::timeout(PATIENCE, self.answers.next()).await;
        let command = command.expect("settings come").unwrap().unwrap();
        let Some(Command::Settings(settings)) = command.command else { panic!("{command:?}") };
        let Some(PubSub::Subscription(subscription)) = settings.pub_sub else { panic!("no consumer") };
        let policy = settings.backoff_policy.unwrap();
        let first = match policy.strategy.unwrap() {
            Strategy::ExponentialBackoff(backoff) => backoff.initial,
            Strategy::CustomizedBackoff(backoff) => backoff.next.first().copied(),
        };
        (subscription.fifo(), policy.max_attempts, first.unwrap().seconds)
    }
}

fn change(fifo: bool, retries: u32, backoff: &str) -> wire::UpdateGroupRequest {
    wire::UpdateGroupRequest {
        name: "billing".to_owned(),
        fifo: Some(fifo),
        retry_max_times: Some(retries),
        attributes: vec![format!("+retry.backoff={backoff}")],
        ..Default::default()
    }
}

/// A consumer of an ordered group that is told otherwise, if only for a second, mixes up its messages.
#[tokio::test]
async fn no_server_tells_defaults_of_a_group_that_another_one_has() {
    let mut servers = group(2, &[], &[]).await;
    let ruling = master(&servers).await;
    let admin = servers.client().admin().broker(&servers.broker_address(ruling));
    admin.update_group(change(true, 7, "exponential/2s/1m/3")).await.unwrap();
    let slave = &servers.brokers[1 - ruling];
    let mut at_slave = Told::open(slave, "at-slave").await;
    assert_eq!(at_slave.next().await, (true, 8, 2), "the slave");
    admin.update_group(change(true, 9, "exponential/2s/1m/3")).await.unwrap();
    assert_eq!(at_slave.next().await, (true, 10, 2), "a slave tells what the master changed");
    admin.update_group(change(true, 7, "exponential/2s/1m/3")).await.unwrap();
    assert_eq!(at_slave.next().await, (true, 8, 2));
    servers.nameservers[0].kill().unwrap();
    servers.nameservers[0].start().unwrap();
    let mut told = Told::open(&servers.nameservers[0], "at-nameserver").await;
    assert_eq!(told.next().await, (true, 8, 2), "the nameserver");
    in_sync(&servers, 2).await;
    servers.brokers[ruling].kill().unwrap();
    servers.brokers[ruling].start().unwrap();
    for turn in 0..5 {
        let mut told = Told::open(&servers.brokers[ruling], &format!("at-broker-{turn}")).await;
        assert_eq!(told.next().await, (true, 8, 2), "the broker at once, turn {turn}");
    }
}

#[tokio::test]
async fn a_changed_group_is_told_to_its_consumers_at_once_wherever_they_are_connected() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    let broker: Address = servers.brokers[0].address().unwrap().parse().unwrap();
    let admin = servers.client().admin().broker(&broker);
    admin.update_group(change(false, 3, "5s/30s")).await.unwrap();
    let mut at_broker = Told::open(&servers.brokers[0], "at-broker").await;
    let mut at_nameserver = Told::open(&servers.nameservers[0], "at-nameserver").await;
    for told in [&mut at_broker, &mut at_nameserver] {
        assert_eq!(told.next().await, (false, 4, 5));
    }
    admin.update_group(change(true, 7, "exponential/2s/1m/3")).await.unwrap();
    for told in [&mut at_broker, &mut at_nameserver] {
        assert_eq!(told.next().await, (true, 8, 2));
    }
    // Nothing changed, so no client is told anything.
    admin.update_group(change(true, 7, "exponential/2s/1m/3")).await.unwrap();
    let silence = tokio::time::timeout(Duration::from_secs(2), at_broker.answers.next()).await;
    assert!(silence.is_err(), "{silence:?}");
}
