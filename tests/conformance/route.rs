//! Lines 16 to 23: routes and assignments.

use std::collections::BTreeSet;
use std::time::Duration;

use kerolox_proto::v2::{self, AddressScheme, Code, MessageType, Permission};

use crate::peer::{Peer, code, resource};
use crate::world::{A, B, ConformanceWorld, QUEUES, Setting, eventually};

lines![
    c16_route_lists_masters_with_all_fields,
    c17_accepted_types_are_those_of_the_topic,
    c18_unknown_and_illegal_topics,
    c19_endpoints_say_what_they_are,
    c20_a_dead_broker_leaves_the_route_and_comes_back,
    c21_routes_are_stable,
    c22_every_server_answers_for_all_topics,
    c23_an_assignment_is_one_queue_per_broker,
];

async fn c16_route_lists_masters_with_all_fields(setting: Setting) {
    let world = &setting.world;
    let topic = world.topic_on(&[world.a(), world.b()], "NORMAL", 6).await;
    let peer = Peer::connect(world.nameserver(), setting.transport).await;
    let queues = route(&peer, &topic).await;
    let ids = |name: &str| -> Vec<i32> {
        queues.iter().filter(|queue| broker(queue).name == name).map(|queue| queue.id).collect()
    };
    let all: Vec<i32> = (0..QUEUES.cast_signed()).collect();
    assert_eq!((ids(A), ids(B)), (all.clone(), all));
    for queue in &queues {
        assert_eq!(queue.topic, resource(&topic));
        assert_eq!(queue.permission(), Permission::ReadWrite);
        assert_eq!(queue.accept_message_types, [i32::from(MessageType::Normal)]);
        let broker = broker(queue);
        assert_eq!(broker.id, 0, "masters only");
        let server = if broker.name == A { world.a() } else { world.b() };
        assert_eq!(addresses(broker), [server.address().expect("it serves")]);
    }
    // A namespace is a part of the name, and comes back as it was asked for.
    let missing = v2::Resource { resource_namespace: "ns".to_owned(), name: topic.clone() };
    let request = peer.request(v2::QueryRouteRequest { topic: Some(missing), endpoints: None });
    let answer = peer.stub.clone().query_route(request).await.expect("query_route").into_inner();
    assert_eq!(code(&answer.status), Code::TopicNotFound);
}

async fn c17_accepted_types_are_those_of_the_topic(setting: Setting) {
    let world = &setting.world;
    let peer = Peer::connect(world.nameserver(), setting.transport).await;
    let mixed = [
        MessageType::Normal,
        MessageType::Fifo,
        MessageType::Delay,
        MessageType::Transaction,
        MessageType::Priority,
    ];
    for (kind, types) in [
        ("NORMAL", &[MessageType::Normal][..]),
        ("FIFO", &[MessageType::Fifo]),
        ("DELAY", &[MessageType::Delay]),
        ("TRANSACTION", &[MessageType::Transaction]),
        ("PRIORITY", &[MessageType::Priority]),
        ("MIXED", &mixed),
    ] {
        let topic = world.topic(kind).await;
        let expected: BTreeSet<i32> = types.iter().map(|&kind| kind.into()).collect();
        for queue in route(&peer, &topic).await {
            assert_eq!(
                queue.accept_message_types.iter().copied().collect::<BTreeSet<_>>(),
                expected,
                "{kind}"
            );
        }
    }
}

async fn c18_unknown_and_illegal_topics(setting: Setting) {
    for server in [setting.world.nameserver(), setting.world.a()] {
        let peer = Peer::connect(server, setting.transport).await;
        let longest = "t".repeat(127);
        for name in ["no-such-topic", "%DLQ%absent", longest.as_str()] {
            let answer = peer.query_route(name).await;
            assert_eq!(
                (code(&answer.status), answer.message_queues.len()),
                (Code::TopicNotFound, 0),
                "{name}"
            );
        }
        let long = "t".repeat(128);
        for name in ["", " ", "a b", "a/b", "ö", "rmq_sys_trace", long.as_str()] {
            let answer = peer.query_route(name).await;
            assert_eq!(
                (code(&answer.status), answer.message_queues.len()),
                (Code::IllegalTopic, 0),
                "{name}"
            );
        }
    }
}

async fn c19_endpoints_say_what_they_are(setting: Setting) {
    for (host, scheme) in [
        ("broker.example", AddressScheme::DomainName),
        ("192.0.2.7", AddressScheme::IPv4),
        ("2001:db8::7", AddressScheme::IPv6),
    ] {
        let world = ConformanceWorld::start_with(&["--advertise", host], &[]).await;
        let topic = world.topic("NORMAL").await;
        let peer = Peer::connect(world.nameserver(), setting.transport).await;
        for queue in route(&peer, &topic).await {
            let endpoints = broker(&queue).endpoints.clone().expect("endpoints");
            assert_eq!((endpoints.scheme(), endpoints.addresses.len()), (scheme, 1));
            assert_eq!(endpoints.addresses[0].host, host);
        }
    }
}

async fn c20_a_dead_broker_leaves_the_route_and_comes_back(setting: Setting) {
    let mut world = ConformanceWorld::start().await;
    let topic = world.topic_on(&[world.a(), world.b()], "NORMAL", 6).await;
    let servers = [world.nameserver(), world.a()];
    let mut peers = Vec::new();
    for server in servers {
        peers.push(Peer::connect(server, setting.transport).await);
    }
    world.servers.brokers[1].kill().expect("a kill");
    for peer in &peers {
        let took =
            eventually("the route is without it", async || names(&route(peer, &topic).await) == [A]).await;
        // Ten seconds after its last sign of life, and what a busy machine needs to see that.
        assert!(took < Duration::from_secs(12), "{took:?}");
    }
    world.servers.brokers[1].start().expect("a start");
    for peer in &peers {
        eventually("the route is with it", async || names(&route(peer, &topic).await) == [A, B]).await;
    }
}

async fn c21_routes_are_stable(setting: Setting) {
    let world = &setting.world;
    let topic = world.topic_on(&[world.a(), world.b()], "NORMAL", 6).await;
    let mut seen = Vec::new();
    for server in [world.nameserver(), world.a(), world.b()] {
        let peer = Peer::connect(server, setting.transport).await;
        for _ in 0..5 {
            seen.push(route(&peer, &topic).await);
        }
    }
    assert!(seen.iter().all(|route| *route == seen[0]), "the same queues, addresses and order everywhere");
}

async fn c22_every_server_answers_for_all_topics(setting: Setting) {
    let world = &setting.world;
    for (owner, name) in [(world.a(), A), (world.b(), B)] {
        let topic = world.topic_on(&[owner], "NORMAL", 6).await;
        for server in [world.nameserver(), world.a(), world.b()] {
            let peer = Peer::connect(server, setting.transport).await;
            assert_eq!(names(&route(&peer, &topic).await), [name]);
            let answer = peer.assignment(&topic, "group").await;
            assert_eq!((code(&answer.status), answer.assignments.len()), (Code::Ok, 1));
        }
    }
}

async fn c23_an_assignment_is_one_queue_per_broker(setting: Setting) {
    let world = &setting.world;
    let fifo = world.group(true, None).await;
    for (kind, group) in [("NORMAL", "group"), ("FIFO", fifo.as_str())] {
        let topic = world.topic_on(&[world.a(), world.b()], kind, 6).await;
        for server in [world.nameserver(), world.a()] {
            let peer = Peer::connect(server, setting.transport).await;
            let answer = peer.assignment(&topic, group).await;
            let queues: Vec<v2::MessageQueue> =
                answer.assignments.into_iter().map(|each| each.message_queue.expect("a queue")).collect();
            let found: Vec<(&str, i32)> =
                queues.iter().map(|queue| (broker(queue).name.as_str(), queue.id)).collect();
            assert_eq!((code(&answer.status), found), (Code::Ok, vec![(A, -1), (B, -1)]));
        }
    }
    let unreadable = world.topic_on(&[world.a()], "NORMAL", 2).await;
    let peer = Peer::connect(world.nameserver(), setting.transport).await;
    let answer = peer.assignment(&unreadable, "group").await;
    assert_eq!((code(&answer.status), answer.assignments.len()), (Code::Forbidden, 0));
}

async fn route(peer: &Peer, topic: &str) -> Vec<v2::MessageQueue> {
    let answer = peer.query_route(topic).await;
    assert_eq!(code(&answer.status), Code::Ok);
    assert!(!answer.message_queues.is_empty(), "never OK without queues");
    answer.message_queues
}

fn broker(queue: &v2::MessageQueue) -> &v2::Broker {
    queue.broker.as_ref().expect("a broker")
}

fn addresses(broker: &v2::Broker) -> Vec<String> {
    let endpoints = broker.endpoints.as_ref().expect("endpoints");
    assert_eq!(endpoints.scheme(), AddressScheme::IPv4);
    endpoints.addresses.iter().map(|address| format!("{}:{}", address.host, address.port)).collect()
}

fn names(queues: &[v2::MessageQueue]) -> Vec<&str> {
    let names: BTreeSet<&str> = queues.iter().map(|queue| broker(queue).name.as_str()).collect();
    names.into_iter().collect()
}
