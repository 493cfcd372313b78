//! Members of a consumer group with different subscriptions: one that is connected counts before it has ever polled, on every broker
//! and wherever it is connected. Made without the help of a client library, which would poll by itself.

use std::time::Duration;

use kerolox_client::admin::wire;
use kerolox_client::{Address, Message, Producer};
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::v2::receive_message_response::Content;
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Streaming};

use crate::support::{INVISIBLE, PATIENCE, cluster_of, create, eventually, group, master, raw, resource};

const OWNERS: [&str; 2] = ["warehouse-east", "warehouse-west"];
const TOPIC: &str = "customer-orders";
const WEST: usize = 1;

/// Two broker groups that know each other. They wait for no members: their topic is new.
async fn two_owners(kind: &str) -> Cluster {
    let servers = cluster_of(1, &OWNERS, &[]);
    servers.create_topic(TOPIC, kind).await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    servers
}

/// A member of a group with an open stream, which polls when it is told to.
struct Connected<'a> {
    id: String,
    group: String,
    tag: &'static str,
    server: &'a ServerProcess,
    /// Open as long as the member is.
    _settings: mpsc::Sender<v2::TelemetryCommand>,
    _commands: Streaming<v2::TelemetryCommand>,
}

fn filter(tag: &str) -> Option<v2::FilterExpression> {
    Some(v2::FilterExpression { r#type: v2::FilterType::Tag.into(), expression: tag.to_owned() })
}

fn from<T>(id: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-mq-client-id", id.parse().unwrap());
    request.set_timeout(PATIENCE);
    request
}

impl<'a> Connected<'a> {
    /// Connects to `server`, and returns when that has taken note.
    async fn to(server: &'a ServerProcess, group: &str, id: &str, tag: &'static str) -> Self {
        let entry = v2::SubscriptionEntry { topic: resource(TOPIC), expression: filter(tag) };
        let subscription =
            v2::Subscription { group: resource(group), subscriptions: vec![entry], ..Default::default() };
        let settings = v2::Settings {
            client_type: Some(v2::ClientType::SimpleConsumer.into()),
            pub_sub: Some(PubSub::Subscription(subscription)),
            ..Default::default()
        };
        let (sender, receiver) = mpsc::channel(1);
        let command = v2::TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
        sender.send(command).await.unwrap();
        let mut request = Request::new(ReceiverStream::new(receiver));
        request.metadata_mut().insert("x-mq-client-id", id.parse().unwrap());
        let mut commands = raw(server).await.telemetry(request).await.unwrap().into_inner();
        let answer = commands.message().await.unwrap().unwrap();
        assert!(matches!(answer.command, Some(Command::Settings(_))), "{answer:?}");
        Self {
            id: id.to_owned(),
            group: group.to_owned(),
            tag,
            server,
            _settings: sender,
            _commands: commands,
        }
    }

    /// One poll of an owner; the bodies of what came, which is acknowledged. Fails while the owner has no master.
    async fn poll(&self, owner: &str) -> Option<Vec<String>> {
        let receive = v2::ReceiveMessageRequest {
            group: resource(&self.group),
            message_queue: Some(v2::MessageQueue {
                topic: resource(TOPIC),
                broker: Some(v2::Broker { name: owner.to_owned(), ..Default::default() }),
                ..Default::default()
            }),
            filter_expression: filter(self.tag),
            batch_size: 32,
            invisible_duration: prost_types::Duration::try_from(INVISIBLE).ok(),
            long_polling_timeout: Some(prost_types::Duration { seconds: 0, nanos: 50_000_000 }),
            ..Default::default()
        };
        let mut server = raw(self.server).await;
        let mut stream = server.receive_message(from(&self.id, receive)).await.ok()?.into_inner();
        let (mut bodies, mut entries) = (Vec::new(), Vec::new());
        while let Some(item) = stream.message().await.ok()? {
            match item.content.unwrap() {
                Content::Message(message) => {
                    let system = message.system_properties.unwrap();
                    entries.push(v2::AckMessageEntry {
                        message_id: system.message_id.clone(),
                        receipt_handle: system.receipt_handle().to_owned(),
                        ..Default::default()
                    });
                    bodies.push(String::from_utf8(message.body.to_vec()).unwrap());
                }
                Content::Status(status) if ![Code::Ok, Code::MessageNotFound].contains(&status.code()) => {
                    return None;
                }
                _ => {}
            }
        }
        if !entries.is_empty() {
            let ack = v2::AckMessageRequest { group: resource(&self.group), topic: resource(TOPIC), entries };
            let answer = server.ack_message(from(&self.id, ack)).await.ok()?.into_inner();
            assert_eq!(answer.status.unwrap().code(), Code::Ok);
        }
        Some(bodies)
    }

    /// Polls until `count` messages have come and no more do.
    async fn drain(&self, owners: &[&str], count: usize) -> Vec<String> {
        let mut found = Vec::new();
        let what = format!("{count} messages for {}", self.id);
        eventually(&what, PATIENCE, async || {
            for owner in owners {
                found.extend(self.poll(owner).await.unwrap_or_default());
            }
            found.len() >= count
        })
        .await;
        for owner in owners.iter().cycle().take(3 * owners.len()) {
            found.extend(self.poll(owner).await.unwrap_or_default());
        }
        found.sort();
        found
    }

    /// Leaves in good order.
    async fn leave(self) {
        let goodbye = v2::NotifyClientTerminationRequest { group: resource(&self.group) };
        raw(self.server).await.notify_client_termination(from(&self.id, goodbye)).await.unwrap();
    }
}

/// Sends messages with these tags to each owner; their bodies by tag.
async fn send(producer: &Producer, owners: &[&str], round: &str, tags: &[&str]) -> Vec<Vec<String>> {
    let mut sent = vec![Vec::new(); tags.len()];
    for owner in owners {
        for number in 0..6 {
            let place = number % tags.len();
            let body = format!("{round} {owner} {number}");
            let message = || Message::builder(TOPIC).body(body.clone()).tag(tags[place]).build();
            let is_sent = async || producer.send_to(owner, None, message()).await.is_ok();
            eventually("it is sent", PATIENCE, is_sent).await;
            sent[place].push(body);
        }
    }
    sent.iter_mut().for_each(|bodies| bodies.sort());
    sent
}

/// What a group has not finished at a broker.
async fn lag(servers: &Cluster, broker: usize, group: &str) -> u64 {
    let address: Address = servers.brokers[broker].address().unwrap().parse().unwrap();
    let request = wire::DescribeGroupRequest { name: group.to_owned(), topic: TOPIC.to_owned() };
    let described = servers.client().admin().broker(&address).describe_group(request).await.unwrap();
    described.queues.iter().map(|queue| queue.lag).sum()
}

/// The member with the wider filter polls last; it is connected to a nameserver only, to the one broker, or to the other.
#[tokio::test]
async fn a_member_counts_everywhere_from_its_announcement() {
    let servers = two_owners("NORMAL").await;
    let producer = servers.client().producer().topic(TOPIC).start().await.unwrap();
    let access = [&servers.nameservers[0], &servers.brokers[0], &servers.brokers[WEST]];
    for (round, server) in access.into_iter().enumerate() {
        let group = format!("billing-service-{round}");
        let narrow = Connected::to(&servers.nameservers[0], &group, "host-1@narrow", "created").await;
        assert_eq!(narrow.drain(&OWNERS, 0).await.len(), 4 * round, "what was sent before");
        let wide = Connected::to(server, &group, "host-2@wide", "paid || refunded").await;
        let sent = send(&producer, &OWNERS, &group, &["created", "paid", "other"]).await;
        let all = narrow.drain(&OWNERS, sent[0].len()).await;
        assert!(all.iter().all(|body| sent[0].contains(body)) && all.len() == sent[0].len(), "{all:?}");
        assert_eq!(
            lag(&servers, 0, &group).await,
            2,
            "the two of {} that only the other one wants",
            OWNERS[0]
        );
        let late = wide.drain(&OWNERS, sent[1].len()).await;
        assert_eq!(late, sent[1], "connected to {}", server.address().unwrap());
    }
}

/// Messages kept for a member that leaves without ever having polled are dropped, as are later ones that only it wanted.
#[tokio::test]
async fn a_member_that_left_is_waited_for_no_longer() {
    let servers = two_owners("NORMAL").await;
    let producer = servers.client().producer().topic(TOPIC).start().await.unwrap();
    let narrow = Connected::to(&servers.brokers[0], "billing-service", "host-1@narrow", "created").await;
    narrow.drain(&OWNERS, 0).await;
    let wide = Connected::to(&servers.nameservers[0], "billing-service", "host-2@wide", "*").await;
    let sent = send(&producer, &OWNERS, "first", &["created", "paid"]).await;
    assert_eq!(narrow.drain(&OWNERS, sent[0].len()).await, sent[0]);
    assert_ne!(lag(&servers, WEST, "billing-service").await, 0);
    wide.leave().await;
    let is_done = async || {
        for owner in OWNERS {
            narrow.poll(owner).await;
        }
        lag(&servers, 0, "billing-service").await + lag(&servers, WEST, "billing-service").await == 0
    };
    eventually("nothing waits for a member that left", PATIENCE, is_done).await;
}

/// In an ordered group, hundreds of messages wait for a member that is connected and does not poll. The others get theirs, and that
/// member everything in order once it polls.
#[tokio::test]
async fn a_member_that_does_not_poll_holds_nobody_up() {
    let servers = two_owners("FIFO").await;
    let address = |broker: &ServerProcess| -> Address { broker.address().unwrap().parse().unwrap() };
    for broker in &servers.brokers {
        let request = wire::UpdateGroupRequest {
            name: "billing-service".to_owned(),
            fifo: Some(true),
            ..Default::default()
        };
        servers.client().admin().broker(&address(broker)).update_group(request).await.unwrap();
    }
    let producer = servers.client().producer().topic(TOPIC).start().await.unwrap();
    let narrow = Connected::to(&servers.nameservers[0], "billing-service", "host-1@narrow", "created").await;
    narrow.drain(&OWNERS, 0).await;
    let idle = Connected::to(&servers.brokers[WEST], "billing-service", "host-2@idle", "paid").await;
    let east = &OWNERS[..1];
    let mut expected = (Vec::new(), Vec::new());
    for number in 0..240 {
        let (tag, bodies) =
            if number % 2 == 0 { ("paid", &mut expected.1) } else { ("created", &mut expected.0) };
        let body = format!("{number:03}");
        bodies.push(body.clone());
        let customer = format!("customer-{tag}-{}", number % 8);
        let message = Message::builder(TOPIC).body(body).tag(tag).message_group(customer).build();
        producer.send_to(OWNERS[0], None, message).await.unwrap();
    }
    assert_eq!(narrow.drain(east, 120).await, expected.0);
    assert_eq!(idle.drain(east, 120).await, expected.1);
}

/// The master is lost with all that it knew of members. One is connected to a nameserver, which tells the next master; the other
/// one was connected to the lost one, and comes back seconds later. Neither polls before the narrow member has.
#[tokio::test]
async fn a_new_master_passes_nothing_over_before_it_knows_the_members() {
    let servers = group(3, &[], &[]).await;
    create(&servers, TOPIC, "NORMAL").await;
    let owner = ["broker-a"];
    // The first epoch has waited for members for long enough.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let old = master(&servers).await;
    let slave = (0..3).find(|broker| *broker != old).unwrap();
    let producer = servers.client().producer().topic(TOPIC).start().await.unwrap();
    let group = "billing-service";
    let narrow = Connected::to(&servers.nameservers[0], group, "host-1@narrow", "created").await;
    narrow.drain(&owner, 0).await;
    let through = Connected::to(&servers.nameservers[0], group, "host-2@nameserver", "paid").await;
    let slaves = Connected::to(&servers.brokers[slave], group, "host-3@slave", "shipped").await;
    let direct = Connected::to(&servers.brokers[old], group, "host-4@master", "refunded").await;
    let tags = ["created", "paid", "refunded", "shipped"];
    let before = send(&producer, &owner, "before", &tags).await;
    assert_eq!(narrow.drain(&owner, before[0].len()).await, before[0]);
    servers.brokers[old].signal("KILL").unwrap();
    let after = send(&producer, &owner, "after", &tags).await;
    assert_eq!(narrow.drain(&owner, after[0].len()).await, after[0]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(direct);
    let direct = Connected::to(&servers.nameservers[0], group, "host-4@master", "refunded").await;
    // Whatever was held back is decided by now.
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(narrow.drain(&owner, 0).await, [""; 0]);
    for (member, place) in [(through, 1), (direct, 2), (slaves, 3)] {
        let mut all = [before[place].clone(), after[place].clone()].concat();
        all.sort();
        assert_eq!(member.drain(&owner, all.len()).await, all, "{}", member.id);
    }
}
