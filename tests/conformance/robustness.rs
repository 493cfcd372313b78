//! Lines 71 to 75: unsupported calls, old clients, silence, and restarts.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kerolox_proto::v2::{self, Code};

use crate::peer::{Peer, body, code, handle, message, receiving_at, resource, with_system};
use crate::world::{A, B, ConformanceWorld, Setting, eventually};

lines![
    c71_what_is_not_offered_says_so,
    c72_codes_that_the_rust_sdk_knows,
    c73_the_end_of_an_unknown_client_is_fine,
    c74_traffic_after_five_minutes_of_silence,
    c75_a_rolling_restart_loses_nothing,
];

async fn c71_what_is_not_offered_says_so(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.nameserver(), setting.world.a()] {
        let peer = Peer::connect(server, setting.transport).await;
        let unknown = tonic::codegen::http::uri::PathAndQuery::from_static(
            "/apache.rocketmq.v2.MessagingService/Invent",
        );
        let mut grpc = tonic::client::Grpc::new(peer.channel());
        grpc.ready().await.expect("a connection");
        let codec = tonic_prost::ProstCodec::<v2::HeartbeatRequest, v2::HeartbeatResponse>::default();
        let refused = grpc.unary(peer.request(v2::HeartbeatRequest::default()), unknown, codec).await;
        assert_eq!(refused.expect_err("no such call").code(), tonic::Code::Unimplemented);
        assert_eq!(code(&peer.query_route(&topic).await.status), Code::Ok, "and everything goes on");
    }
}

async fn c72_codes_that_the_rust_sdk_knows(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.a(), setting.world.nameserver()] {
        let rust = Peer::connect(server, setting.transport).await;
        let rust = rust.and_header("x-mq-language", "RUST").and_header("x-mq-client-version", "5.0.0");
        // MESSAGE_BODY_EMPTY is younger than that SDK.
        assert_eq!(rust.send_code(message(&topic, "")).await, Code::MessageCorrupted);
        let other = rust.other();
        assert_eq!(other.send_code(message(&topic, "")).await, Code::MessageBodyEmpty);
    }
}

async fn c73_the_end_of_an_unknown_client_is_fine(setting: Setting) {
    for server in [setting.world.nameserver(), setting.world.a()] {
        let peer = Peer::connect(server, setting.transport).await;
        for group in [None, resource("group")] {
            let request = v2::NotifyClientTerminationRequest { group };
            assert_eq!(code(&peer.notify_client_termination(request).await.status), Code::Ok);
        }
    }
}

async fn c74_traffic_after_five_minutes_of_silence(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    let at_broker = Peer::connect(setting.world.a(), setting.transport).await;
    let at_nameserver = Peer::connect(setting.world.nameserver(), setting.transport).await;
    for silence in [Duration::ZERO, Duration::from_secs(300)] {
        tokio::time::sleep(silence).await;
        for peer in [&at_broker, &at_nameserver] {
            peer.send(vec![message(&topic, "body")]).await;
            let received = peer.receive_one(&topic, "group").await;
            assert_eq!(peer.ack(&topic, "group", handle(&received)).await, Code::Ok);
        }
    }
}

async fn c75_a_rolling_restart_loses_nothing(setting: Setting) {
    let mut world = ConformanceWorld::start().await;
    let topic = world.topic_on(&[world.a(), world.b()], "NORMAL", 6).await;
    let at_a = Peer::connect(world.a(), setting.transport).await.with_timeout(Some(Duration::from_secs(3)));
    let at_b = Peer::connect(world.b(), setting.transport).await.with_timeout(Some(Duration::from_secs(3)));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let producing = {
        let (peers, topic) = ([at_a.clone(), at_b.clone()], topic.clone());
        tokio::spawn(async move {
            let mut sent = BTreeSet::new();
            for number in 0.. {
                if *stopped.borrow() {
                    break;
                }
                let text = number.to_string();
                // An SDK tries the other broker, with the same id.
                let built = with_system(message(&topic, &text), |system| {
                    system.message_id = format!("rolling-{number}")
                });
                for attempt in 0.. {
                    let request = v2::SendMessageRequest { messages: vec![built.clone()] };
                    let peer = &peers[(number + attempt) % 2];
                    let answer = peer.stub.clone().send_message(peer.request(request)).await;
                    if answer.is_ok_and(|answer| code(&answer.get_ref().status) == Code::Ok) {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                sent.insert(text);
            }
            sent
        })
    };
    for server in &mut world.servers.brokers {
        server.stop().expect("a clean stop");
        server.start().expect("a start");
    }
    stop.send(true).expect("the producer listens");
    let sent = producing.await.expect("no panic");
    assert!(!sent.is_empty());
    let mut received = BTreeSet::new();
    let started = Instant::now();
    while received.len() < sent.len() && started.elapsed() < Duration::from_secs(40) {
        for (peer, name) in [(&at_a, A), (&at_b, B)] {
            let mut request = receiving_at(name, &topic, "group");
            request.long_polling_timeout = crate::peer::duration(Duration::from_millis(200));
            let (_, messages) = peer.receive(request).await;
            for each in &messages {
                received.insert(body(each).to_owned());
                assert_eq!(peer.ack(&topic, "group", handle(each)).await, Code::Ok);
            }
        }
    }
    assert_eq!(received, sent);
    eventually("both brokers are in the route", async || {
        at_a.query_route(&topic).await.message_queues.len() == 6
    })
    .await;
}
