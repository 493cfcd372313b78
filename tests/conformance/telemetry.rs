//! Lines 30 to 38: Telemetry, heartbeats, and clients that do without.

use std::time::Duration;

use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{
    self, ClientType, Code, FilterType, Language, TelemetryCommand, retry_policy::Strategy,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::peer::{INVISIBLE, Peer, code, filter, handle, message, receiving, resource};
use crate::world::{ConformanceWorld, Setting, eventually};

lines![
    c30_settings_are_answered_with_their_topics_and_namespace,
    c31_settings_have_all_that_sdks_need,
    c32_each_sdk_gets_a_back_off_that_it_understands,
    c33_repeated_settings_are_each_answered,
    c34_illegal_settings_end_the_stream,
    c35_a_half_closed_stream_and_any_call_keep_a_client_alive,
    c36_clients_go_on_after_a_restart_without_telemetry,
    c37_a_heartbeat_needs_no_settings,
    c38_an_unsigned_heartbeat_does_no_damage,
];

/// A client's end of a Telemetry stream.
pub(crate) struct Session {
    pub(crate) replies: Streaming<TelemetryCommand>,
    /// Dropped, the client's half is closed.
    pub(crate) requests: mpsc::Sender<TelemetryCommand>,
}

impl Session {
    /// Opens a stream and sends settings.
    pub(crate) async fn open(peer: &Peer, settings: v2::Settings) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        let request = peer.clone().with_timeout(None).request(ReceiverStream::new(receiver));
        let replies = peer.stub.clone().telemetry(request).await.expect("a stream").into_inner();
        let session = Self { replies, requests };
        session.say(settings).await;
        session
    }

    pub(crate) async fn say(&self, settings: v2::Settings) {
        let command = TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
        self.requests.send(command).await.expect("the stream is open");
    }

    /// The next settings from the server, with status OK.
    pub(crate) async fn settings(&mut self) -> v2::Settings {
        let command = self.next().await.expect("no error").expect("a reply");
        assert_eq!(code(&command.status), Code::Ok);
        match command.command {
            Some(Command::Settings(settings)) => settings,
            other => panic!("settings are expected, not {other:?}"),
        }
    }

    pub(crate) async fn next(&mut self) -> Result<Option<TelemetryCommand>, Status> {
        let limit = Duration::from_secs(15);
        tokio::time::timeout(limit, self.replies.message()).await.expect("a reply in time")
    }
}

/// What a producer says about itself.
pub(crate) fn producer(topics: &[&str]) -> v2::Settings {
    let topics = topics.iter().filter_map(|topic| resource(topic)).collect();
    v2::Settings {
        client_type: Some(ClientType::Producer.into()),
        pub_sub: Some(PubSub::Publishing(v2::Publishing { topics, ..Default::default() })),
        ..Default::default()
    }
}

/// What a push consumer says about itself.
pub(crate) fn consumer(group: &str, topic: &str, expression: v2::FilterExpression) -> v2::Settings {
    let entry = v2::SubscriptionEntry { topic: resource(topic), expression: Some(expression) };
    let subscription =
        v2::Subscription { group: resource(group), subscriptions: vec![entry], ..Default::default() };
    v2::Settings {
        client_type: Some(ClientType::PushConsumer.into()),
        pub_sub: Some(PubSub::Subscription(subscription)),
        ..Default::default()
    }
}

pub(crate) fn spoken_by(language: Language, settings: v2::Settings) -> v2::Settings {
    let user_agent = v2::Ua { language: language.into(), version: "5.0.0".to_owned(), ..Default::default() };
    v2::Settings { user_agent: Some(user_agent), ..settings }
}

fn everything() -> v2::FilterExpression {
    filter(FilterType::Tag, "*")
}

async fn c30_settings_are_answered_with_their_topics_and_namespace(setting: Setting) {
    for server in [setting.world.nameserver(), setting.world.a()] {
        let peer = Peer::connect(server, setting.transport).await;
        let named = v2::Resource { resource_namespace: "ns".to_owned(), name: "orders".to_owned() };
        let mut publishing = producer(&[]);
        publishing.request_timeout = Some(prost_types::Duration { seconds: 7, nanos: 0 });
        let Some(PubSub::Publishing(said)) = &mut publishing.pub_sub else { unreachable!() };
        said.topics.push(named.clone());
        let answer = Session::open(&peer, publishing.clone()).await.settings().await;
        let Some(PubSub::Publishing(heard)) = answer.pub_sub else { panic!("publishing") };
        assert_eq!(heard.topics, [named]);
        assert_eq!(answer.request_timeout, publishing.request_timeout);
        assert_eq!(answer.client_type, publishing.client_type);

        let subscribing = consumer("group", "orders", filter(FilterType::Tag, "a || b"));
        let answer = Session::open(&peer.other(), subscribing.clone()).await.settings().await;
        let (Some(PubSub::Subscription(said)), Some(PubSub::Subscription(heard))) =
            (subscribing.pub_sub, answer.pub_sub)
        else {
            panic!("subscription")
        };
        assert_eq!((heard.group, heard.subscriptions), (said.group, said.subscriptions));
    }
}

async fn c31_settings_have_all_that_sdks_need(setting: Setting) {
    for server in [setting.world.nameserver(), setting.world.a()] {
        let peer = Peer::connect(server, setting.transport).await;
        let answer = Session::open(&peer, producer(&["orders"])).await.settings().await;
        assert_eq!(answer.metric, Some(v2::Metric { on: false, endpoints: None }));
        assert_eq!(answer.backoff_policy.expect("a policy").max_attempts, 3);
        let Some(PubSub::Publishing(publishing)) = answer.pub_sub else { panic!("publishing") };
        assert_eq!(publishing.max_body_size, 4 * 1024 * 1024);

        let answer =
            Session::open(&peer.other(), consumer("group", "orders", everything())).await.settings().await;
        assert_eq!(answer.metric, Some(v2::Metric { on: false, endpoints: None }));
        assert!(answer.backoff_policy.expect("a policy").max_attempts > 1);
        let Some(PubSub::Subscription(subscription)) = answer.pub_sub else { panic!("subscription") };
        assert_eq!(subscription.fifo, Some(false));
        assert_eq!(subscription.receive_batch_size, Some(32));
        assert_eq!(subscription.long_polling_timeout, Some(prost_types::Duration { seconds: 20, nanos: 0 }));
        assert!(subscription.lite_subscription_quota() > 0 && subscription.max_lite_topic_size() > 0);
    }
    let group = setting.world.group(true, Some(4)).await;
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    let answer = Session::open(&peer, consumer(&group, "orders", everything())).await.settings().await;
    assert_eq!(answer.backoff_policy.expect("a policy").max_attempts, 5, "the first one and four more");
    let Some(PubSub::Subscription(subscription)) = answer.pub_sub else { panic!("subscription") };
    assert_eq!(subscription.fifo, Some(true));
}

async fn c32_each_sdk_gets_a_back_off_that_it_understands(setting: Setting) {
    let languages = [
        Language::Java,
        Language::Golang,
        Language::DotNet,
        Language::Cpp,
        Language::Python,
        Language::NodeJs,
        Language::Rust,
    ];
    for server in [setting.world.nameserver(), setting.world.a()] {
        let peer = Peer::connect(server, setting.transport).await;
        for language in languages {
            let strategy = async |settings| {
                let settings = spoken_by(language, settings);
                let answer = Session::open(&peer.other(), settings).await.settings().await;
                answer.backoff_policy.expect("a policy").strategy.expect("a strategy")
            };
            let producing = strategy(producer(&["orders"])).await;
            assert!(matches!(producing, Strategy::ExponentialBackoff(_)), "{language:?}");
            match strategy(consumer("group", "orders", everything())).await {
                Strategy::CustomizedBackoff(list) => {
                    assert!(language != Language::NodeJs && !list.next.is_empty(), "{language:?}");
                }
                // C++ ignores it, and would try again every second until its attempts are used up.
                Strategy::ExponentialBackoff(_) => assert_eq!(language, Language::NodeJs),
            }
        }
    }
}

async fn c33_repeated_settings_are_each_answered(setting: Setting) {
    for server in [setting.world.nameserver(), setting.world.a()] {
        let peer = Peer::connect(server, setting.transport).await;
        let mut session = Session::open(&peer, producer(&["orders"])).await;
        session.settings().await;
        for number in 0..5 {
            let topic = format!("orders-{number}");
            session.say(producer(&[&topic])).await;
            let Some(PubSub::Publishing(heard)) = session.settings().await.pub_sub else {
                panic!("publishing")
            };
            assert_eq!(heard.topics, [resource(&topic).expect("a topic")]);
        }
    }
}

async fn c34_illegal_settings_end_the_stream(setting: Setting) {
    let names = [
        v2::Settings::default(),
        producer(&["no/topic"]),
        consumer("no/group", "orders", everything()),
        consumer("group", "no/topic", everything()),
    ];
    let filters = [
        consumer("group", "orders", filter(FilterType::Tag, " || ")),
        consumer("group", "orders", filter(FilterType::Sql, "price >")),
    ];
    for (server, filters) in [(setting.world.nameserver(), &[][..]), (setting.world.a(), &filters)] {
        let peer = Peer::connect(server, setting.transport).await;
        for settings in names.iter().chain(filters) {
            let mut session = Session::open(&peer.other(), settings.clone()).await;
            let status = session.next().await.expect_err("the settings are illegal");
            assert_eq!(status.code(), tonic::Code::InvalidArgument, "{status}");
            assert!(!status.message().is_empty());
        }
    }
}

async fn c35_a_half_closed_stream_and_any_call_keep_a_client_alive(setting: Setting) {
    let world = ConformanceWorld::start_with(&[], &[("KEROLOX_BROKER__CLIENTS__EXPIRY", "3s")]).await;
    let (topic, group) = (world.topic("NORMAL").await, "group");
    let peer = Peer::connect(world.a(), setting.transport).await;
    let mut session = Session::open(&peer, consumer(group, &topic, everything())).await;
    session.settings().await;
    drop(session);
    peer.send(vec![message(&topic, "held")]).await;
    let mut receive = receiving(&topic, group);
    (receive.auto_renew, receive.invisible_duration) = (true, None);
    let (_, held) = peer.receive(receive).await;
    assert_eq!(held.len(), 1);
    // Longer than a silent client is remembered: the calls alone say that this one lives, and it keeps its message.
    let other = peer.other();
    for _ in 0..6 {
        assert_eq!(code(&peer.query_route(&topic).await.status), Code::Ok);
        other.receive_nothing(&topic, group, Duration::from_secs(1)).await;
    }
    assert_eq!(peer.ack(&topic, group, handle(&held[0])).await, Code::Ok);
}

async fn c36_clients_go_on_after_a_restart_without_telemetry(setting: Setting) {
    let mut world = ConformanceWorld::start().await;
    let (topic, group) = (world.topic("NORMAL").await, "group");
    let peer = Peer::connect(world.a(), setting.transport).await;
    let mut session = Session::open(&peer, producer(&[&topic])).await;
    session.settings().await;
    world.servers.brokers[0].kill().expect("a kill");
    world.servers.brokers[0].start().expect("a start");
    // The client goes on without sending its settings again.
    eventually("the client is connected again", async || {
        let request = peer.request(v2::SendMessageRequest { messages: vec![message(&topic, "after")] });
        let answer = peer.stub.clone().send_message(request).await;
        answer.is_ok_and(|answer| code(&answer.get_ref().status) == Code::Ok)
    })
    .await;
    let received = peer.receive_one(&topic, group).await;
    assert_eq!(peer.ack(&topic, group, handle(&received)).await, Code::Ok);
    assert_eq!(code(&peer.heartbeat(v2::HeartbeatRequest::default()).await.status), Code::Ok);
}

async fn c37_a_heartbeat_needs_no_settings(setting: Setting) {
    for server in [setting.world.nameserver(), setting.world.a()] {
        let peer = Peer::connect(server, setting.transport).await;
        for kind in 0..=6 {
            let request = v2::HeartbeatRequest { group: resource("group"), client_type: kind };
            assert_eq!(code(&peer.other().heartbeat(request).await.status), Code::Ok);
        }
    }
    // Rust's SDK sends one every 30 s, so a client is remembered three times as long.
    let program = kerolox_harness::built_program("broker").expect("the program was built");
    let printed = std::process::Command::new(program).arg("--print-config").output().expect("it runs");
    let config = String::from_utf8(printed.stdout).expect("text");
    let expiry = config.lines().find_map(|line| line.strip_prefix("expiry = ")).expect("clients.expiry");
    let seconds: u64 = expiry.trim_matches(['"', 's', 'm']).parse().expect("a number");
    let seconds = if expiry.ends_with("m\"") { seconds * 60 } else { seconds };
    assert!(seconds >= 90 && INVISIBLE < Duration::from_secs(seconds), "{expiry}");
}

async fn c38_an_unsigned_heartbeat_does_no_damage(setting: Setting) {
    for server in [setting.world.nameserver(), setting.world.a()] {
        let peer = Peer::connect(server, setting.transport).await;
        let mut session = Session::open(&peer, producer(&["orders"])).await;
        session.settings().await;
        // Without a client id, as Go sends it while it reconnects: an answer, and everything goes on.
        let answer = peer.clone().with_headers(&[]).heartbeat(v2::HeartbeatRequest::default()).await;
        assert_eq!(code(&answer.status), Code::ClientIdRequired);
        session.say(producer(&["orders"])).await;
        session.settings().await;
    }
}
