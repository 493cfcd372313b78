//! Answers that break on their way to a consumer: what was in them comes again within seconds, and to a consumer that goes on
//! under the name of the one that did not get it.

use std::time::{Duration, Instant};

use kerolox_client::Message;
use kerolox_client::admin::wire;
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_harness::{CuttingProxy, ProxyCut};
use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use kerolox_proto::v2::{self, Code, LiteSubscriptionAction, receive_message_response::Content};
use tonic::transport::{Channel, Endpoint};

use crate::relayed_calls::{A, B};
use crate::support::{
    PATIENCE, QUEUES, cluster_of, code, eventually, from_client, group, master, plan, raw, resource,
};

/// In every message.
const MARKER: &str = "interrupted";
const MESSAGES: usize = 5;
/// The shortest lease of all consumers here is 60 s.
const SOON: Duration = Duration::from_secs(15);

/// What sort of consumer receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Simple,
    Push,
    PushInOrder,
    LiteSimple,
    LitePush,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Simple, Self::Push, Self::PushInOrder, Self::LiteSimple, Self::LitePush];

    fn is_lite(self) -> bool {
        matches!(self, Self::LiteSimple | Self::LitePush)
    }

    fn message_type(self) -> &'static str {
        match self {
            Self::Simple | Self::Push => "NORMAL",
            Self::PushInOrder => "FIFO",
            Self::LiteSimple | Self::LitePush => "LITE",
        }
    }

    /// Of the topic, and of the group.
    fn name(self) -> String {
        format!("{self:?}")
    }

    /// A receive at broker A, as the SDKs make it.
    fn receive(self, attempt_id: &str) -> v2::ReceiveMessageRequest {
        let is_simple = matches!(self, Self::Simple | Self::LiteSimple);
        let minute = prost_types::Duration { seconds: 60, nanos: 0 };
        v2::ReceiveMessageRequest {
            group: resource(&self.name()),
            message_queue: Some(v2::MessageQueue {
                topic: resource(&self.name()),
                id: -1,
                broker: Some(v2::Broker { name: A.to_owned(), ..Default::default() }),
                ..Default::default()
            }),
            batch_size: 32,
            auto_renew: !is_simple,
            invisible_duration: is_simple.then_some(minute),
            attempt_id: (!is_simple).then(|| attempt_id.to_owned()),
            long_polling_timeout: Some(prost_types::Duration { seconds: 2, nanos: 0 }),
            ..Default::default()
        }
    }
}

type Raw = MessagingServiceClient<Channel>;

/// The bodies of a whole answer and what acknowledges them; an error for one that broke.
async fn receive(
    server: &mut Raw,
    request: v2::ReceiveMessageRequest,
) -> Result<Vec<(String, String)>, tonic::Status> {
    let mut answer = server.receive_message(from_client(request)).await?.into_inner();
    let (mut status, mut messages) = (None, Vec::new());
    while let Some(item) = answer.message().await? {
        match item.content.unwrap() {
            Content::Status(found) => status = Some(found),
            Content::Message(message) => {
                let handle = message.system_properties.unwrap().receipt_handle.unwrap();
                messages.push((String::from_utf8(message.body.to_vec()).unwrap(), handle));
            }
            Content::DeliveryTimestamp(_) => {}
        }
    }
    match code(status) {
        Code::Ok | Code::MessageNotFound => Ok(messages),
        code => Err(tonic::Status::unavailable(format!("{code:?}"))),
    }
}

async fn ack(server: &mut Raw, kind: Kind, handle: &str) {
    let lite_topic = kind.is_lite().then(|| "one".to_owned());
    let entry = v2::AckMessageEntry { receipt_handle: handle.to_owned(), lite_topic, ..Default::default() };
    let request = v2::AckMessageRequest {
        group: resource(&kind.name()),
        topic: resource(&kind.name()),
        entries: vec![entry],
    };
    let answer = server.ack_message(from_client(request)).await.unwrap().into_inner();
    assert_eq!(code(answer.status), Code::Ok);
}

async fn connect(address: &str) -> Raw {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    MessagingServiceClient::new(endpoint.connect().await.unwrap())
}

/// Makes the topics and groups at these brokers.
async fn prepare(servers: &Cluster, brokers: &[usize]) {
    for broker in brokers {
        let server = &servers.brokers[*broker];
        let address = server.address().unwrap().parse().unwrap();
        let client = servers.client();
        for kind in Kind::ALL {
            let topic = wire::UpdateTopicRequest {
                name: kind.name(),
                read_queues: Some(QUEUES),
                write_queues: Some(QUEUES),
                attributes: vec![format!("+message.type={}", kind.message_type())],
                ..Default::default()
            };
            client.admin().broker(&address).update_topic(topic).await.unwrap();
            let fifo = Some(kind == Kind::PushInOrder);
            let group = wire::UpdateGroupRequest { name: kind.name(), fifo, ..Default::default() };
            client.admin().broker(&address).update_group(group).await.unwrap();
            if kind.is_lite() {
                let request = v2::SyncLiteSubscriptionRequest {
                    action: LiteSubscriptionAction::CompleteAdd.into(),
                    topic: resource(&kind.name()),
                    group: resource(&kind.name()),
                    lite_topic_set: vec!["one".to_owned()],
                    ..Default::default()
                };
                let answer = raw(server).await.sync_lite_subscription(from_client(request)).await;
                assert_eq!(code(answer.unwrap().into_inner().status), Code::Ok);
            }
        }
    }
}

/// Sends five messages for a kind of consumer, in one message group where order counts.
async fn send(servers: &Cluster, owner: &str, kind: Kind, run: &str) -> Vec<String> {
    let topic = kind.name();
    let producer = servers.client().producer().topic(&topic).start().await.unwrap();
    let bodies: Vec<String> = (0..MESSAGES).map(|number| format!("{run} {MARKER} {number}")).collect();
    for body in &bodies {
        let message = Message::builder(&topic).body(body.clone());
        let message = match kind {
            Kind::Simple | Kind::Push => message,
            Kind::PushInOrder => message.message_group("one"),
            Kind::LiteSimple | Kind::LitePush => message.lite_topic("one"),
        };
        producer.send_to(owner, None, message.build()).await.unwrap();
    }
    bodies
}

/// Receives until everything has come, under a new attempt id each time as after UNAVAILABLE, and acknowledges it.
async fn comes_again(server: &mut Raw, kind: Kind, expected: &[String], what: &str) {
    let (started, mut came) = (Instant::now(), Vec::new());
    for attempt in 0.. {
        let missing = expected.len() - came.len();
        assert!(started.elapsed() < SOON, "{what}: after {SOON:?} {missing} messages have not come again");
        let Ok(messages) = receive(server, kind.receive(&format!("{what} {attempt}"))).await else {
            // As the SDKs do after an error.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        };
        for (body, handle) in messages {
            came.push(body);
            ack(server, kind, &handle).await;
        }
        if came.len() >= expected.len() {
            break;
        }
    }
    if kind != Kind::PushInOrder {
        came.sort_unstable();
    }
    assert_eq!(came, expected, "{what}");
}

/// Every kind of consumer has its answer cut in every place on its way through a proxy in front of `asked`; it goes on without the
/// proxy.
async fn all_come_again(servers: &Cluster, asked: &ServerProcess, way: &str) {
    let proxy = CuttingProxy::to(asked.address().unwrap(), MARKER).await.unwrap();
    let mut direct = raw(asked).await;
    for kind in Kind::ALL {
        for cut in ProxyCut::ALL {
            let what = format!("{kind:?} {way} {cut:?}");
            let expected = send(servers, A, kind, &what).await;
            let mut cutting = connect(&proxy.address()).await;
            proxy.cut_next(cut);
            let broken = async || receive(&mut cutting, kind.receive(&what)).await.is_err();
            eventually("an answer was cut", PATIENCE, broken).await;
            assert!(proxy.has_cut());
            comes_again(&mut direct, kind, &expected, &what).await;
        }
    }
}

#[tokio::test]
async fn what_a_cut_answer_held_comes_again_within_seconds() {
    let servers = cluster_of(1, &[A], &[]);
    prepare(&servers, &[0]).await;
    all_come_again(&servers, &servers.brokers[0], "direct").await;
}

#[tokio::test]
async fn what_a_cut_answer_held_comes_again_through_a_nameserver() {
    let servers = cluster_of(1, &[A], &[]);
    prepare(&servers, &[0]).await;
    all_come_again(&servers, &servers.nameservers[0], "through a nameserver").await;
}

#[tokio::test]
async fn what_a_cut_answer_held_comes_again_through_a_slave() {
    let servers = group(2, &[], &[]).await;
    let master = master(&servers).await;
    prepare(&servers, &[master]).await;
    all_come_again(&servers, &servers.brokers[1 - master], "through a slave").await;
}

/// The consumer waits at A for what B has: A asks in its place, and a nameserver passes its call on to A.
#[tokio::test]
async fn what_a_cut_answer_held_of_another_broker_group_comes_again() {
    let servers = cluster_of(1, &[A, B], &[]);
    prepare(&servers, &[0, 1]).await;
    for (asked, way) in [(&servers.brokers[0], "at A"), (&servers.nameservers[0], "through a nameserver")] {
        let proxy = CuttingProxy::to(asked.address().unwrap(), MARKER).await.unwrap();
        let mut direct = raw(asked).await;
        for kind in [Kind::Simple, Kind::LiteSimple] {
            let what = format!("{kind:?} of B {way}");
            let expected = send(&servers, B, kind, &what).await;
            let mut cutting = connect(&proxy.address()).await;
            proxy.cut_next(ProxyCut::BeforeTrailers);
            let broken = async || receive(&mut cutting, kind.receive(&what)).await.is_err();
            eventually("an answer was cut", PATIENCE, broken).await;
            comes_again(&mut direct, kind, &expected, &what).await;
        }
    }
}

#[tokio::test]
async fn what_a_relay_had_passed_on_comes_again_when_it_dies() {
    let mut servers = cluster_of(1, &[A], &[]);
    prepare(&servers, &[0]).await;
    let mut sent = Vec::new();
    for kind in Kind::ALL {
        sent.push((kind, send(&servers, A, kind, "relay").await));
    }
    for (kind, expected) in sent {
        let mut got = Vec::new();
        let all = async || {
            let mut relayed = raw(&servers.nameservers[0]).await;
            got.extend(receive(&mut relayed, kind.receive("first")).await.unwrap_or_default());
            got.len() >= MESSAGES
        };
        eventually("all came through the nameserver", PATIENCE, all).await;
        // Who knows whether it reached the client: the nameserver cannot say any more.
        servers.nameservers[0].kill().unwrap();
        let mut direct = raw(&servers.brokers[0]).await;
        comes_again(&mut direct, kind, &expected, &format!("{kind:?} after the death of a relay")).await;
        servers.nameservers[0].start().unwrap();
    }
}

/// The line between a nameserver and the broker is cut: the client's call breaks, too. A part of an answer is no answer.
#[tokio::test]
async fn an_answer_that_breaks_behind_a_relay_breaks_for_the_client() {
    let servers = cluster_of(1, &[A], &["--advertise", "127.0.0.2"]);
    let broker = servers.brokers[0].address().unwrap().to_owned();
    let (_, port) = broker.rsplit_once(':').unwrap();
    let proxy = CuttingProxy::at(&format!("127.0.0.2:{port}"), &broker, MARKER).await.unwrap();
    prepare(&servers, &[0]).await;
    let mut relayed = raw(&servers.nameservers[0]).await;
    for kind in Kind::ALL {
        for cut in [ProxyCut::InMessage, ProxyCut::BeforeTrailers] {
            let what = format!("{kind:?} {cut:?} behind a relay");
            let expected = send(&servers, A, kind, &what).await;
            proxy.cut_next(cut);
            let mut broken = false;
            let is_cut = async || {
                let answer = receive(&mut relayed, kind.receive(&what)).await;
                broken = answer.is_err();
                proxy.has_cut()
            };
            eventually("an answer was cut", PATIENCE, is_cut).await;
            assert!(broken, "{what}: a part of an answer went for an answer");
            comes_again(&mut relayed, kind, &expected, &what).await;
        }
    }
}

/// A client that acts on a message has the whole answer, and so has one that closes its connection in good order.
#[tokio::test]
async fn what_a_client_is_known_to_have_does_not_come_again() {
    let servers = cluster_of(1, &[A], &[]);
    prepare(&servers, &[0]).await;
    let proxy = CuttingProxy::to(servers.brokers[0].address().unwrap(), MARKER).await.unwrap();
    let (kind, mut other) = (Kind::Push, raw(&servers.brokers[0]).await);
    for says_goodbye in [true, false] {
        send(&servers, A, kind, &format!("{says_goodbye}")).await;
        let mut client = connect(&proxy.address()).await;
        let mut got = receive(&mut client, kind.receive(&format!("got {says_goodbye}"))).await.unwrap();
        assert!(got.len() > 1, "several messages in one answer: {got:?}");
        if says_goodbye {
            drop(client);
        } else {
            ack(&mut client, kind, &got.pop().unwrap().1).await;
            proxy.cut_now();
        }
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(6) {
            let attempt = format!("{says_goodbye} {:?}", started.elapsed());
            for (body, handle) in receive(&mut other, kind.receive(&attempt)).await.unwrap() {
                assert!(got.iter().all(|(had, _)| *had != body), "{body} came twice");
                ack(&mut other, kind, &handle).await;
            }
        }
        for (_, handle) in &got {
            ack(&mut other, kind, handle).await;
        }
    }
}

/// Leases of two seconds, and work that takes ten of them.
#[tokio::test]
async fn a_consumer_that_works_for_long_gets_no_second_copy() {
    let short = plan().group(A, 1).setting("KEROLOX_BROKER__GROUPS__AUTO_RENEW", "2s");
    let servers = short.start().unwrap();
    prepare(&servers, &[0]).await;
    for kind in [Kind::Push, Kind::PushInOrder, Kind::LitePush] {
        send(&servers, A, kind, "long").await;
    }
    let (mut direct, mut relayed) = (raw(&servers.brokers[0]).await, raw(&servers.nameservers[0]).await);
    let mut held = Vec::new();
    for kind in [Kind::Push, Kind::PushInOrder, Kind::LitePush] {
        for server in [&mut direct, &mut relayed] {
            let got =
                receive(server, v2::ReceiveMessageRequest { batch_size: 1, ..kind.receive("one") }).await;
            held.extend(got.unwrap().into_iter().map(|(body, handle)| (kind, body, handle)));
        }
    }
    assert!(held.len() >= 4, "{held:?}");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(20) {
        for kind in [Kind::Push, Kind::PushInOrder, Kind::LitePush] {
            let attempt = format!("{:?}", started.elapsed());
            for (body, handle) in receive(&mut direct, kind.receive(&attempt)).await.unwrap() {
                assert!(held.iter().all(|(_, had, _)| *had != body), "{kind:?}: {body} came twice");
                ack(&mut direct, kind, &handle).await;
            }
        }
    }
    for (kind, _, handle) in &held {
        ack(&mut direct, *kind, handle).await;
    }
}
