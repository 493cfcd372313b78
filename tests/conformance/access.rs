//! Lines 24 to 29: the nameserver as access point, and brokers that pass on calls for other brokers.

use std::time::Duration;

use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code, LiteSubscriptionAction, TransactionResolution};

use crate::peer::{
    Peer, acking, bodies, code, delayed, handle, in_lite, message, receiving, receiving_at, resource,
};
use crate::telemetry::{Session, producer};
use crate::world::{A, B, ConformanceWorld, Setting, eventually};

lines![
    c24_the_nameserver_answers_settings_and_keeps_the_stream,
    c25_the_nameserver_takes_heartbeats_and_terminations,
    c26_calls_reach_their_owner_through_any_server,
    c26_subscriptions_to_lite_topics_reach_their_brokers_through_the_nameserver,
    c27_a_recall_reaches_its_owner_through_any_server,
    c28_a_check_back_reaches_a_producer_at_the_nameserver,
    c29_brokers_go_on_without_the_nameserver,
];

async fn c24_the_nameserver_answers_settings_and_keeps_the_stream(setting: Setting) {
    let peer = Peer::connect(setting.world.nameserver(), setting.transport).await;
    let mut session = Session::open(&peer, producer(&["orders"])).await;
    session.settings().await;
    let more = tokio::time::timeout(Duration::from_secs(3), session.replies.message()).await;
    assert!(more.is_err(), "the stream stays open and silent: {more:?}");
}

async fn c25_the_nameserver_takes_heartbeats_and_terminations(setting: Setting) {
    let peer = Peer::connect(setting.world.nameserver(), setting.transport).await;
    let heartbeat = v2::HeartbeatRequest { group: resource("group"), client_type: 3 };
    assert_eq!(code(&peer.heartbeat(heartbeat).await.status), Code::Ok);
    let termination = v2::NotifyClientTerminationRequest { group: resource("group") };
    assert_eq!(code(&peer.notify_client_termination(termination).await.status), Code::Ok);
}

async fn c26_calls_reach_their_owner_through_any_server(setting: Setting) {
    let world = &setting.world;
    for server in [world.nameserver(), world.a()] {
        let (topic, group) =
            (world.topic_on(&[world.b()], "NORMAL", 6).await, world.group(false, None).await);
        let peer = Peer::connect(server, setting.transport).await;
        // Sends and receives name their broker: a nameserver passes them on, another broker has no business with them.
        let is_broker = std::ptr::eq(server, world.a());
        let at_owner = Peer::connect(if is_broker { world.b() } else { server }, setting.transport).await;
        at_owner.send(vec![message(&topic, "1"), message(&topic, "2"), message(&topic, "3")]).await;
        let (code_of_receive, messages) = at_owner.receive(receiving_at(B, &topic, &group)).await;
        assert_eq!((code_of_receive, messages.len()), (Code::Ok, 3));
        let answer = peer.ack_message(acking(&topic, &group, &[handle(&messages[0])])).await;
        assert_eq!(code(&answer.status), Code::Ok);
        let changed = peer.change_invisible(&topic, &group, handle(&messages[1]), Duration::ZERO).await;
        assert_eq!(code(&changed.status), Code::Ok);
        let (_, again) = at_owner.receive(receiving_at(B, &topic, &group)).await;
        assert_eq!(again.len(), 1);
        let dead = v2::ForwardMessageToDeadLetterQueueRequest {
            group: resource(&group),
            topic: resource(&topic),
            receipt_handle: handle(&messages[2]).to_owned(),
            ..Default::default()
        };
        let answer = peer.forward_message_to_dead_letter_queue(dead).await;
        assert_eq!(code(&answer.status), Code::Ok, "{answer:?}");

        let payments = world.topic_on(&[world.b()], "TRANSACTION", 6).await;
        let half = at_owner.send_half(&payments, "half").await;
        assert_eq!(peer.end(&payments, &half.transaction_id, TransactionResolution::Commit).await, Code::Ok);
        let (_, committed) = at_owner.receive(receiving_at(B, &payments, &group)).await;
        assert_eq!(bodies(&committed), ["half"]);
    }
}

async fn c26_subscriptions_to_lite_topics_reach_their_brokers_through_the_nameserver(setting: Setting) {
    let world = &setting.world;
    let (topic, group) =
        (world.topic_on(&[world.a(), world.b()], "LITE", 6).await, world.group(false, None).await);
    let peer = Peer::connect(world.nameserver(), setting.transport).await;
    let sync =
        |topic: &str, names: &[&str], action: LiteSubscriptionAction| v2::SyncLiteSubscriptionRequest {
            action: action.into(),
            topic: resource(topic),
            group: resource(&group),
            lite_topic_set: names.iter().map(|&name| name.to_owned()).collect(),
            ..Default::default()
        };
    let synced =
        peer.sync_lite_subscription(sync(&topic, &["mine"], LiteSubscriptionAction::CompleteAdd)).await;
    assert_eq!(code(&synced.status), Code::Ok);
    for (name, server) in [(A, world.a()), (B, world.b())] {
        let owner = Peer::connect(server, setting.transport).await;
        let sent = ["mine", "other"].map(|lite| in_lite(message(&topic, lite), lite));
        owner.send(sent.to_vec()).await;
        let (received, messages) = peer.receive(receiving_at(name, &topic, &group)).await;
        assert_eq!((received, bodies(&messages)), (Code::Ok, vec!["mine"]));
        let answer = peer.ack_message(acking(&topic, &group, &[handle(&messages[0])])).await;
        assert_eq!(code(&answer.status), Code::Ok);
    }
    // SDKs send what they have every 30 s, also when that is nothing.
    let nothing = peer.sync_lite_subscription(sync(&topic, &[], LiteSubscriptionAction::CompleteAdd)).await;
    assert_eq!(code(&nothing.status), Code::Ok);
    let unknown = sync("no-such-topic", &["mine"], LiteSubscriptionAction::PartialAdd);
    assert_eq!(code(&peer.sync_lite_subscription(unknown).await.status), Code::TopicNotFound);
    let bad = sync(&topic, &["a b"], LiteSubscriptionAction::PartialAdd);
    assert_eq!(code(&peer.sync_lite_subscription(bad).await.status), Code::IllegalLiteTopic);
}

async fn c27_a_recall_reaches_its_owner_through_any_server(setting: Setting) {
    let world = &setting.world;
    let topic = world.topic_on(&[world.b()], "DELAY", 6).await;
    let owner = Peer::connect(world.b(), setting.transport).await;
    for server in [world.nameserver(), world.a(), world.b()] {
        let peer = Peer::connect(server, setting.transport).await;
        let sent = owner.send(vec![delayed(message(&topic, "later"), 3600)]).await.remove(0);
        let recall = |topic: &str, recall_handle: &str| v2::RecallMessageRequest {
            topic: resource(topic),
            recall_handle: recall_handle.to_owned(),
        };
        let bad = peer.recall_message(recall(&topic, "no handle")).await;
        assert_eq!(code(&bad.status), Code::BadRequest, "{bad:?}");
        let other = peer.recall_message(recall("other", &sent.recall_handle)).await;
        assert_eq!(code(&other.status), Code::BadRequest, "{other:?}");
        let recalled = peer.recall_message(recall(&topic, &sent.recall_handle)).await;
        assert_eq!((code(&recalled.status), &recalled.message_id), (Code::Ok, &sent.message_id));
        let again = peer.recall_message(recall(&topic, &sent.recall_handle)).await;
        assert_eq!(code(&again.status), Code::NotFound, "{again:?}");
    }
}

async fn c28_a_check_back_reaches_a_producer_at_the_nameserver(setting: Setting) {
    let world = &setting.world;
    let topic = world.topic("TRANSACTION").await;
    let at_nameserver = Peer::connect(world.nameserver(), setting.transport).await;
    let mut session = Session::open(&at_nameserver, producer(&[&topic])).await;
    session.settings().await;
    let at_broker = Peer::connect(world.a(), setting.transport).await;
    let half = at_broker.send_half(&topic, "order").await;
    let Some(Command::RecoverOrphanedTransactionCommand(asked)) =
        session.next().await.expect("no error").expect("a command").command
    else {
        panic!("a check-back is expected");
    };
    assert_eq!(asked.transaction_id, half.transaction_id);
    let commit = TransactionResolution::Commit;
    assert_eq!(at_nameserver.end(&topic, &asked.transaction_id, commit).await, Code::Ok);
    assert_eq!(bodies(&[at_broker.receive_one(&topic, "group").await]), ["order"]);
}

async fn c29_brokers_go_on_without_the_nameserver(setting: Setting) {
    let mut world = ConformanceWorld::start().await;
    let topic = world.topic("NORMAL").await;
    let peer = Peer::connect(world.a(), setting.transport).await;
    world.servers.nameservers[0].kill().expect("a kill");
    for number in 0..10 {
        peer.send(vec![message(&topic, &number.to_string())]).await;
        let received = peer.receive_one(&topic, "group").await;
        assert_eq!(peer.ack(&topic, "group", handle(&received)).await, Code::Ok);
    }
    // Another client starts at the broker, which knows the routes.
    let other = Peer::connect(world.a(), setting.transport).await;
    assert_eq!(code(&other.query_route(&topic).await.status), Code::Ok);
    world.servers.nameservers[0].start().expect("a start");
    let back = Peer::connect(world.nameserver(), setting.transport).await;
    eventually("the nameserver knows the routes", async || {
        code(&back.query_route(&topic).await.status) == Code::Ok
    })
    .await;
    let (code, _) = back.receive(receiving(&topic, "group")).await;
    assert_eq!(code, Code::MessageNotFound, "and passes calls on");
}
