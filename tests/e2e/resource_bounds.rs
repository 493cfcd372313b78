//! Bounds on what others make: each is refused with the protocol's code and says which setting it is, and nothing changes.

use std::time::{Duration, SystemTime};

use kerolox_client::admin::wire;
use kerolox_client::{Address, Message};
use kerolox_harness::{Cluster, ServerProcess};
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::registry_client::RegistryClient;
use kerolox_proto::kerolox::replication_client::ReplicationClient;
use kerolox_proto::kerolox::server_client::ServerClient;
use kerolox_proto::kerolox::{
    BrokerInfo, BrokerRole, DescribeClusterRequest, ErrorKind, FollowRequest, FromFollower, RegisterRequest,
    SetLogFilterRequest, TopicRoute, from_follower,
};
use kerolox_proto::v2::receive_message_response::Content;
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code};
use tonic::Request;
use tonic::transport::Endpoint;

use crate::support::{PATIENCE, cluster_of, group, raw, resource, server, standalone, standalone_with};

fn from<T>(client: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("x-mq-client-id", client.parse().unwrap());
    request.set_timeout(PATIENCE);
    request
}

/// The status of one receive of "orders".
async fn receive(broker: &ServerProcess, client: &str, group: &str) -> v2::Status {
    let request = v2::ReceiveMessageRequest {
        group: resource(group),
        message_queue: Some(v2::MessageQueue {
            topic: resource("orders"),
            broker: Some(v2::Broker { name: "broker-a".to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        auto_renew: true,
        batch_size: 1,
        long_polling_timeout: Some(prost_types::Duration { seconds: 0, nanos: 1_000_000 }),
        ..Default::default()
    };
    let mut answer = raw(broker).await.receive_message(from(client, request)).await.unwrap().into_inner();
    match answer.message().await.unwrap().unwrap().content {
        Some(Content::Status(status)) => status,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn assert_refused(status: &v2::Status, code: Code, says: &str) {
    assert_eq!(status.code(), code, "{status:?}");
    assert!(status.message.contains(says), "{status:?}");
}

fn broker_address(servers: &Cluster) -> Address {
    servers.brokers[0].address().unwrap().parse().unwrap()
}

async fn group_names(servers: &Cluster) -> Vec<String> {
    let request = wire::ListGroupsRequest::default();
    let listed =
        servers.client().admin().broker(&broker_address(servers)).list_groups(request).await.unwrap();
    let mut names: Vec<String> = listed.groups.into_iter().map(|group| group.name).collect();
    names.sort();
    names
}

#[tokio::test]
async fn groups_come_into_being_by_themselves_within_bounds() {
    let bounds = [
        ("KEROLOX_BROKER__GROUPS__AUTO_CREATE_MAX", "3"),
        ("KEROLOX_BROKER__GROUPS__AUTO_CREATE_MAX_PER_CLIENT", "2"),
    ];
    let servers = standalone_with(&[], &bounds);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let broker = &servers.brokers[0];
    for group in ["billing-1", "billing-2"] {
        assert_eq!(receive(broker, "host-1@greedy", group).await.code(), Code::MessageNotFound);
    }
    let third = receive(broker, "host-1@greedy", "billing-3").await;
    assert_refused(&third, Code::ConsumerGroupNotFound, "groups.auto-create-max-per-client is 2");
    assert_eq!(receive(broker, "host-2@other", "billing-3").await.code(), Code::MessageNotFound);
    let fourth = receive(broker, "host-2@other", "billing-4").await;
    assert_refused(&fourth, Code::ConsumerGroupNotFound, "groups.auto-create-max is 3");
    assert!(fourth.message.contains("mqadmin updateSubGroup -g billing-4"), "{fourth:?}");
    assert_eq!(group_names(&servers).await, ["billing-1", "billing-2", "billing-3"]);
    // Existing groups keep working, and an administrator can create more.
    assert_eq!(receive(broker, "host-1@greedy", "billing-3").await.code(), Code::MessageNotFound);
    let request = wire::UpdateGroupRequest { name: "billing-4".to_owned(), ..Default::default() };
    servers.client().admin().broker(&broker_address(&servers)).update_group(request).await.unwrap();
    assert_eq!(receive(broker, "host-2@other", "billing-4").await.code(), Code::MessageNotFound);
}

#[tokio::test]
async fn members_of_broadcast_groups_are_bounded() {
    let bounds = [("KEROLOX_BROKER__GROUPS__MEMBERS_MAX", "2")];
    let servers = standalone_with(&[], &bounds);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let request = wire::UpdateGroupRequest {
        name: "news".to_owned(),
        attributes: vec!["+broadcast=true".to_owned()],
        ..Default::default()
    };
    servers.client().admin().broker(&broker_address(&servers)).update_group(request).await.unwrap();
    let broker = &servers.brokers[0];
    for client in ["host-1@one", "host-2@two"] {
        assert_eq!(receive(broker, client, "news").await.code(), Code::MessageNotFound);
    }
    let third = receive(broker, "host-3@three", "news").await;
    assert_refused(&third, Code::TooManyRequests, "groups.members-max");
    assert_eq!(receive(broker, "host-1@one", "news").await.code(), Code::MessageNotFound);
}

async fn send(broker: &ServerProcess, client: &str, topic: &str) -> v2::Status {
    let system = v2::SystemProperties {
        message_id: format!("{client} {topic}"),
        message_type: v2::MessageType::Normal.into(),
        body_encoding: v2::Encoding::Identity.into(),
        ..Default::default()
    };
    let message = v2::Message {
        topic: resource(topic),
        system_properties: Some(system),
        body: "body".to_owned().into(),
        ..Default::default()
    };
    let request = from(client, v2::SendMessageRequest { messages: vec![message] });
    raw(broker).await.send_message(request).await.unwrap().into_inner().status.unwrap()
}

#[tokio::test]
async fn topics_come_into_being_by_themselves_within_bounds() {
    let bounds = [
        ("KEROLOX_BROKER__TOPICS__AUTO_CREATE", "on"),
        ("KEROLOX_BROKER__TOPICS__AUTO_CREATE_MAX", "3"),
        ("KEROLOX_BROKER__TOPICS__AUTO_CREATE_MAX_PER_CLIENT", "2"),
    ];
    let servers = standalone_with(&[], &bounds);
    let broker = &servers.brokers[0];
    for topic in ["orders-1", "orders-2", "orders-1"] {
        assert_eq!(send(broker, "host-1@greedy", topic).await.code(), Code::Ok);
    }
    let third = send(broker, "host-1@greedy", "orders-3").await;
    assert_refused(&third, Code::TopicNotFound, "topics.auto-create-max-per-client is 2");
    assert_eq!(send(broker, "host-2@other", "orders-3").await.code(), Code::Ok);
    let fourth = send(broker, "host-2@other", "orders-4").await;
    assert_refused(&fourth, Code::TopicNotFound, "topics.auto-create-max is 3");
    assert_eq!(send(broker, "host-1@greedy", "orders-3").await.code(), Code::Ok);
}

#[tokio::test]
async fn settings_that_say_too_much_are_refused_wherever_they_come() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    let topics = (0..1_001).filter_map(|number| resource(&format!("orders-{number}"))).collect();
    let publishing = v2::Publishing { topics, ..Default::default() };
    let entry = v2::SubscriptionEntry {
        topic: resource("orders"),
        expression: Some(v2::FilterExpression { r#type: 1, expression: "t".repeat(20 << 10) }),
    };
    let subscription =
        v2::Subscription { group: resource("billing"), subscriptions: vec![entry], ..Default::default() };
    for server in [&servers.brokers[0], &servers.nameservers[0]] {
        for (pub_sub, says) in [
            (PubSub::Publishing(publishing.clone()), "the limit is 1000"),
            (PubSub::Subscription(subscription.clone()), "20480 bytes"),
        ] {
            let settings = v2::Settings { pub_sub: Some(pub_sub), ..Default::default() };
            let command = v2::TelemetryCommand { command: Some(Command::Settings(settings)), status: None };
            let request = from("host-1@talkative", tokio_stream::once(command));
            let mut answers = raw(server).await.telemetry(request).await.unwrap().into_inner();
            let refused = answers.message().await.unwrap_err();
            assert_eq!(refused.code(), tonic::Code::InvalidArgument);
            assert!(refused.message().contains(says), "{refused:?}");
        }
    }
}

fn registration(group: &str, topics: usize) -> RegisterRequest {
    let broker = BrokerInfo {
        cluster: "somewhere".to_owned(),
        group: group.to_owned(),
        role: BrokerRole::Master.into(),
        host: "127.0.0.1".to_owned(),
        port: 1,
        incarnation: group.to_owned(),
        ..Default::default()
    };
    let topic = |number| TopicRoute { name: format!("topic-{number}"), ..Default::default() };
    RegisterRequest { broker: Some(broker), topics: (0..topics).map(topic).collect(), ..Default::default() }
}

#[tokio::test]
async fn brokers_register_within_bounds() {
    let folder = tempfile::tempdir().unwrap();
    let mut nameserver = server("nameserver-1", "nameserver", folder.path(), &[])
        .env("KEROLOX_NAMESERVER__ROUTES__MAX_BROKERS", "2")
        .env("KEROLOX_NAMESERVER__ROUTES__MAX_TOPICS_PER_BROKER", "3");
    nameserver.start().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{}", nameserver.address().unwrap())).unwrap();
    let mut registry = RegistryClient::new(endpoint.connect().await.unwrap());
    registry.register(registration("one", 3)).await.unwrap();
    registry.register(registration("two", 0)).await.unwrap();
    registry.register(registration("one", 2)).await.unwrap();
    let long = "n".repeat(600);
    for (request, says) in [
        (registration("two", 4), "raise routes.max-topics-per-broker"),
        (registration("three", 0), "raise routes.max-brokers"),
        (registration(&long, 0), "600 bytes"),
    ] {
        let refused = registry.register(request).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains(says), "{refused:?}");
    }
    let known = registry.describe_cluster(DescribeClusterRequest {}).await.unwrap().into_inner();
    let mut known: Vec<(String, usize)> =
        known.brokers.into_iter().map(|known| (known.broker.unwrap().group, known.topics.len())).collect();
    known.sort();
    assert_eq!(known, [("one".to_owned(), 2), ("two".to_owned(), 0)]);
}

#[tokio::test]
async fn a_log_filter_has_a_length() {
    let servers = standalone(&[]);
    let endpoint =
        Endpoint::from_shared(format!("http://{}", servers.brokers[0].address().unwrap())).unwrap();
    let mut server = ServerClient::new(endpoint.connect().await.unwrap());
    let mut set = async |filter: String| {
        server.set_log_filter(SetLogFilterRequest { filter }).await.unwrap().into_inner()
    };
    let refused = set("a=debug,".repeat(1_000)).await;
    assert!(refused.error.contains("8000 bytes, the limit is 4096"), "{refused:?}");
    let after = set("info,kerolox_broker=debug".to_owned()).await;
    assert_eq!((after.error.as_str(), &after.before), ("", &refused.before), "nothing had changed");
}

/// The port of clients takes no replication message that slaves do not send.
#[tokio::test]
async fn a_stranger_makes_no_member_read_a_large_message() {
    let servers = group(1, &[], &[]).await;
    let endpoint =
        Endpoint::from_shared(format!("http://{}", servers.brokers[0].address().unwrap())).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let request = |len: usize| {
        let follow = FollowRequest { cluster: "x".repeat(len), ..Default::default() };
        tokio_stream::once(FromFollower { kind: Some(from_follower::Kind::Follow(follow)) })
    };
    let refused = async |len: usize| {
        let mut client = ReplicationClient::new(channel.clone());
        match client.replicate(request(len)).await {
            Ok(stream) => stream.into_inner().message().await.unwrap_err(),
            Err(status) => status,
        }
    };
    let told = RpcError::read(&refused(1_000).await).expect("the service says why");
    assert_eq!(told.kind, ErrorKind::Foreign, "it is read, and of no group here: {told:?}");
    let status = refused(2 << 20).await;
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status:?}");
}

#[tokio::test]
async fn attributes_are_bounded() {
    let servers = standalone(&[]);
    let change = async |attributes: Vec<String>| {
        let request =
            wire::UpdateTopicRequest { name: "orders".to_owned(), attributes, ..Default::default() };
        servers.client().admin().broker(&broker_address(&servers)).update_topic(request).await
    };
    for (attributes, says) in [
        (vec![format!("+transaction.webhook=http://x/{}", "y".repeat(3_000))], "the limit is 2048"),
        (vec!["+flush=sync".to_owned(); 65], "65 changes"),
    ] {
        let refused = change(attributes).await.unwrap_err().to_string();
        assert!(refused.contains(says), "{refused}");
    }
    let request = wire::DescribeTopicRequest { name: "orders".to_owned() };
    assert!(
        servers.client().admin().broker(&broker_address(&servers)).describe_topic(request).await.is_err()
    );
}

#[tokio::test]
async fn a_delivery_time_is_bounded_by_the_broker_and_lower_by_the_topic() {
    let day = [("KEROLOX_BROKER__LIMITS__MAX_DELAY", "24h")];
    let servers = standalone_with(&[], &day);
    for topic in ["later", "soon"] {
        servers.create_topic(topic, "DELAY").await.unwrap();
    }
    let set = async |attribute: &str| {
        let request = wire::UpdateTopicRequest {
            name: "soon".to_owned(),
            attributes: vec![attribute.to_owned()],
            ..Default::default()
        };
        servers.client().admin().broker(&broker_address(&servers)).update_topic(request).await
    };
    let refused = set("+limits.max-delay=soon").await.unwrap_err().to_string();
    assert!(refused.contains("limits.max-delay"), "{refused}");
    set("+limits.max-delay=1h").await.unwrap();
    let producer = servers.client().producer().topic("later").topic("soon").start().await.unwrap();
    let send = async |topic: &str, hours: u64| {
        let due = SystemTime::now() + Duration::from_secs(hours * 3_600 - 60);
        producer.send(Message::builder(topic).body("body").delivery_timestamp(due).build()).await
    };
    send("later", 24).await.unwrap();
    send("soon", 1).await.unwrap();
    for (topic, hours, says) in [
        ("later", 25, "max is 86400000 ms, which is limits.max-delay of the broker"),
        ("soon", 25, "limits.max-delay of the broker"),
        ("soon", 2, "max is 3600000 ms, which is limits.max-delay of topic soon"),
    ] {
        let error = send(topic, hours).await.unwrap_err();
        assert_eq!(error.code(), Some(kerolox_client::Code::ILLEGAL_DELIVERY_TIME), "{error}");
        assert!(error.to_string().contains(says), "{error}");
    }
    set("-limits.max-delay").await.unwrap();
    send("soon", 2).await.unwrap();
}
