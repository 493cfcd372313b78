use std::sync::Arc;
use std::time::Duration;

use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code, Language, TelemetryCommand, retry_policy::Strategy};
use tokio_stream::StreamExt;
use tonic::Request;

use super::*;
use crate::clients::{ClientSessions, DEFAULT_EXPIRY};

struct Policy;

impl SettingsPolicy for Policy {
    fn max_body_bytes(&self) -> usize {
        4 << 20
    }

    fn group(&self, stored_group: &str) -> Option<GroupPolicy> {
        let fifo = match stored_group {
            "ns%g" => true,
            "ns%unordered" => false,
            other => panic!("{other}"),
        };
        let (initial, max) = (Duration::from_secs(2), Duration::from_secs(5));
        let backoff = Backoff::Exponential { initial, max, multiplier: 2.0 };
        Some(GroupPolicy { max_attempts: 4, fifo, backoff: Some(backoff), lite_quota: 7 })
    }
}

fn resource(name: &str) -> v2::Resource {
    v2::Resource { resource_namespace: "ns".into(), name: name.into() }
}

fn settings(language: Language, pub_sub: PubSub) -> v2::Settings {
    let user_agent = v2::Ua { language: language.into(), version: "5.1.2".into(), ..v2::Ua::default() };
    v2::Settings { user_agent: Some(user_agent), pub_sub: Some(pub_sub), ..v2::Settings::default() }
}

fn publishing(topic: &str) -> PubSub {
    PubSub::Publishing(v2::Publishing { topics: vec![resource(topic)], ..v2::Publishing::default() })
}

fn subscription(topic: &str, group: &str) -> PubSub {
    let entry = v2::SubscriptionEntry { topic: Some(resource(topic)), expression: None };
    PubSub::Subscription(v2::Subscription {
        group: Some(resource(group)),
        subscriptions: vec![entry],
        ..v2::Subscription::default()
    })
}

fn seconds(seconds: i64) -> prost_types::Duration {
    prost_types::Duration { seconds, nanos: 0 }
}

#[test]
fn producers_get_their_topics_back_and_an_exponential_backoff() {
    for language in [Language::Java, Language::Python, Language::NodeJs] {
        let answer = answer_settings(&settings(language, publishing("t")), &Policy).unwrap();
        let Some(PubSub::Publishing(publishing)) = answer.pub_sub else { panic!("not a producer") };
        assert_eq!(publishing.topics, [resource("t")]);
        assert_eq!((publishing.max_body_size, publishing.validate_message_type), (4 << 20, true));
        assert_eq!(answer.metric, Some(v2::Metric { on: false, endpoints: None }));
        let retry = answer.backoff_policy.unwrap();
        let Some(Strategy::ExponentialBackoff(backoff)) = retry.strategy else { panic!("not exponential") };
        assert_eq!((retry.max_attempts, backoff.multiplier), (3, 2.0));
        assert_eq!(backoff.initial, Some(prost_types::Duration { seconds: 0, nanos: 10_000_000 }));
        assert_eq!(backoff.max, Some(seconds(1)));
    }
}

#[test]
fn consumers_get_the_strategy_that_their_sdk_understands() {
    for number in 0..=i32::from(Language::Kotlin) {
        let language = Language::try_from(number).unwrap();
        let answer = answer_settings(&settings(language, subscription("t", "g")), &Policy).unwrap();
        let Some(PubSub::Subscription(subscription)) = answer.pub_sub else { panic!("not a consumer") };
        assert_eq!(subscription.group, Some(resource("g")));
        assert_eq!(subscription.subscriptions[0].topic, Some(resource("t")));
        assert_eq!((subscription.fifo, subscription.receive_batch_size), (Some(true), Some(32)));
        assert_eq!(subscription.long_polling_timeout, Some(seconds(20)));
        let retry = answer.backoff_policy.unwrap();
        assert_eq!(retry.max_attempts, 4);
        match (language, retry.strategy.unwrap()) {
            (Language::NodeJs, Strategy::ExponentialBackoff(backoff)) => {
                assert_eq!((backoff.initial, backoff.max), (Some(seconds(2)), Some(seconds(5))));
            }
            (language, Strategy::CustomizedBackoff(list)) if language != Language::NodeJs => {
                assert_eq!(list.next, [seconds(2), seconds(4), seconds(5)]);
            }
            (_, other) => panic!("{language:?} got {other:?}"),
        }
    }
}

/// A policy that knows one group.
struct Unconfigured;

impl SettingsPolicy for Unconfigured {
    fn max_body_bytes(&self) -> usize {
        4 << 20
    }

    fn group(&self, stored_group: &str) -> Option<GroupPolicy> {
        (stored_group == "ns%ordered").then(|| GroupPolicy { fifo: true, ..GroupPolicy::default() })
    }
}

#[test]
fn ordered_consumers_are_told_to_try_again_sooner() {
    let delays = |group: &str, language, client_type: v2::ClientType| {
        let mut told = settings(language, subscription("t", group));
        told.client_type = Some(client_type.into());
        match answer_settings(&told, &Unconfigured).unwrap().backoff_policy.unwrap().strategy.unwrap() {
            Strategy::CustomizedBackoff(list) => list.next[..4].iter().map(|delay| delay.seconds).collect(),
            Strategy::ExponentialBackoff(backoff) => vec![backoff.initial.unwrap().seconds],
        }
    };
    let push = v2::ClientType::PushConsumer;
    assert_eq!(delays("ordered", Language::Java, push), [1, 5, 10, 30]);
    assert_eq!(delays("ordered", Language::NodeJs, push), [1]);
    assert_eq!(delays("other", Language::Java, push), [10, 30, 60, 120]);
    assert_eq!(delays("other", Language::Java, v2::ClientType::LitePushConsumer), [1, 5, 10, 30]);
}

#[tokio::test]
async fn the_language_is_taken_from_the_headers_where_the_settings_have_none() {
    for (header, in_settings, is_list) in [
        ("DOTNET", Language::Unspecified, true),
        ("HTTP", Language::Unspecified, false),
        // What the settings say counts more: others say HTTP, too.
        ("HTTP", Language::Java, true),
    ] {
        let clients = Arc::new(ClientSessions::new(DEFAULT_EXPIRY));
        let (frames, receiver) = tokio::sync::mpsc::channel(8);
        let mut request = Request::new(Frames::new(receiver));
        request.metadata_mut().insert("x-mq-client-id", "p".parse().unwrap());
        request.metadata_mut().insert("x-mq-language", header.parse().unwrap());
        let policy: Arc<dyn SettingsPolicy> = Arc::new(Policy);
        let mut stream = telemetry(request, &clients, &policy, &relay(&clients)).unwrap().into_inner();
        frames.send(Ok(frame(settings(in_settings, subscription("t", "g"))))).await.unwrap();
        let Some(Command::Settings(answer)) = stream.next().await.unwrap().unwrap().command else { panic!() };
        let strategy = answer.backoff_policy.unwrap().strategy.unwrap();
        assert_eq!(matches!(strategy, Strategy::CustomizedBackoff(_)), is_list, "{header} {in_settings:?}");
    }
}

#[test]
fn lite_consumers_are_told_to_consume_in_order_whatever_their_group_says() {
    for (client_type, fifo) in [
        (v2::ClientType::PushConsumer, false),
        (v2::ClientType::SimpleConsumer, false),
        (v2::ClientType::LitePushConsumer, true),
        (v2::ClientType::LiteSimpleConsumer, true),
    ] {
        let mut told = settings(Language::Java, subscription("t", "unordered"));
        told.client_type = Some(client_type.into());
        let answer = answer_settings(&told, &Policy).unwrap();
        let Some(PubSub::Subscription(subscription)) = answer.pub_sub else { panic!("not a consumer") };
        assert_eq!((subscription.fifo, subscription.lite_subscription_quota), (Some(fifo), Some(7)));
    }
}

#[test]
fn listed_delays_have_an_exponential_form_and_both_are_bounded() {
    let classic = Backoff::classic();
    assert_eq!(classic.delay(1), Duration::from_secs(10));
    assert_eq!(classic.delay(16), Duration::from_secs(7200));
    assert_eq!(classic.delay(u32::MAX), Duration::from_secs(7200));
    let exponential = super::policy::to_exponential(&classic, 16);
    assert_eq!((exponential.initial, exponential.max), (Some(seconds(10)), Some(seconds(7200))));
    assert_eq!(super::policy::to_customized(&classic, 0).next, [seconds(10)]);
    let (initial, max) = (Duration::from_secs(1), Duration::from_secs(60));
    let growing = Backoff::Exponential { initial, max, multiplier: 10.0 };
    assert_eq!((growing.delay(2), growing.delay(u32::MAX)), (Duration::from_secs(10), max));
}

#[test]
fn illegal_settings_are_refused_with_the_code_of_the_fault() {
    let code = |pub_sub| answer_settings(&settings(Language::Java, pub_sub), &Policy).unwrap_err().code;
    assert_eq!(code(publishing("bad topic")), Code::IllegalTopic);
    assert_eq!(code(subscription("bad topic", "g")), Code::IllegalTopic);
    assert_eq!(code(subscription("t", "bad group")), Code::IllegalConsumerGroup);
    let without = v2::Settings::default();
    assert_eq!(answer_settings(&without, &Policy).unwrap_err().code, Code::BadRequest);
}

#[test]
fn what_a_client_tells_of_itself_is_limited() {
    let told = |properties: &[(String, String)]| {
        let mut settings = settings(Language::Java, publishing("t"));
        settings.client_properties = properties.iter().cloned().collect();
        answer_settings(&settings, &Policy).map(|answer| answer.client_properties.len())
    };
    let many = |count: usize, key: usize, value: usize| -> Vec<(String, String)> {
        (0..count).map(|number| (format!("{number:0>key$}"), "v".repeat(value))).collect()
    };
    for good in [many(32, 2, 2), many(1, 64, 256), many(32, 28, 100)] {
        assert_eq!(told(&good), Ok(good.len()));
    }
    for bad in [many(33, 2, 2), many(1, 65, 1), many(1, 1, 257), many(32, 29, 100), many(1, 0, 0)] {
        let bad =
            if bad.len() == 1 && bad[0].1.is_empty() { vec![(" ".to_owned(), String::new())] } else { bad };
        assert_eq!(told(&bad).unwrap_err().code, Code::InvalidClientProperties, "{bad:?}");
    }
}

#[test]
fn what_a_client_subscribes_and_publishes_to_is_limited() {
    let topic = |number: usize| v2::Resource { name: format!("{number:0>100}"), ..Default::default() };
    let publishing = |count: usize| {
        let topics = (0..count).map(topic).collect();
        settings(Language::Java, PubSub::Publishing(v2::Publishing { topics, ..Default::default() }))
    };
    let subscribing = |count: usize, len: usize| {
        let filter = v2::FilterExpression { r#type: 1, expression: "t".repeat(len) };
        let entry =
            |number| v2::SubscriptionEntry { topic: Some(topic(number)), expression: Some(filter.clone()) };
        let PubSub::Subscription(mut subscription) = subscription("t", "g") else { panic!() };
        subscription.subscriptions = (0..count).map(entry).collect();
        settings(Language::Java, PubSub::Subscription(subscription))
    };
    for good in [publishing(1_000), subscribing(1_000, 100), subscribing(30, 16 << 10)] {
        assert!(answer_settings(&good, &Policy).is_ok());
    }
    for (bad, code, says) in [
        (publishing(1_001), Code::BadRequest, "1001 topics"),
        (subscribing(1_001, 1), Code::BadRequest, "1001 subscriptions"),
        (subscribing(1, (16 << 10) + 1), Code::IllegalFilterExpression, "16385 bytes"),
        (subscribing(40, 16 << 10), Code::BadRequest, "the limit is 524288"),
    ] {
        let refusal = answer_settings(&bad, &Policy).unwrap_err();
        assert_eq!(refusal.code, code);
        assert!(refusal.message.contains(says), "{refusal}");
    }
}

type Frames = tokio_stream::wrappers::ReceiverStream<Result<TelemetryCommand, Status>>;

fn call(
    clients: &Arc<ClientSessions>,
) -> (tokio::sync::mpsc::Sender<Result<TelemetryCommand, Status>>, TelemetryStream) {
    let (frames, receiver) = tokio::sync::mpsc::channel(8);
    let mut request = Request::new(Frames::new(receiver));
    request.metadata_mut().insert("x-mq-client-id", "p".parse().unwrap());
    let policy: Arc<dyn SettingsPolicy> = Arc::new(Policy);
    (frames, telemetry(request, clients, &policy, &relay(clients)).unwrap().into_inner())
}

fn relay(clients: &Arc<ClientSessions>) -> Arc<CallRelay> {
    let routes = Arc::new(crate::routes::ClusterRoutes::new(crate::routes::DEFAULT_LEASE));
    Arc::new(CallRelay::new(routes, Arc::clone(clients), kerolox_runtime::process::ShutdownSignal::new()))
}

fn frame(settings: v2::Settings) -> TelemetryCommand {
    TelemetryCommand { status: None, command: Some(Command::Settings(settings)) }
}

#[tokio::test]
async fn every_settings_frame_is_answered_and_the_stream_outlives_a_half_close() {
    let clients = Arc::new(ClientSessions::new(DEFAULT_EXPIRY));
    let (frames, mut stream) = call(&clients);
    for _ in 0..2 {
        frames.send(Ok(frame(settings(Language::Python, publishing("t"))))).await.unwrap();
        let answer = stream.next().await.unwrap().unwrap();
        assert_eq!(answer.status.unwrap().code, i32::from(Code::Ok));
        assert!(matches!(answer.command, Some(Command::Settings(_))));
    }
    drop(frames);
    tokio::time::sleep(Duration::from_millis(20)).await;
    let producers = clients.producers_of("ns%t");
    assert!(producers[0].try_send(TelemetryCommand::default()));
    assert_eq!(stream.next().await.unwrap().unwrap(), TelemetryCommand::default());
    drop(stream);
    assert!(clients.producers_of("ns%t").is_empty());
}

#[tokio::test]
async fn illegal_settings_end_the_stream() {
    let clients = Arc::new(ClientSessions::new(DEFAULT_EXPIRY));
    let (frames, mut stream) = call(&clients);
    frames.send(Ok(frame(v2::Settings::default()))).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap_err().code(), tonic::Code::InvalidArgument);
    assert_eq!(clients.settings("p"), None);
    let policy: Arc<dyn SettingsPolicy> = Arc::new(Policy);
    let (_, receiver) = tokio::sync::mpsc::channel(1);
    let anonymous = telemetry(Request::new(Frames::new(receiver)), &clients, &policy, &relay(&clients));
    assert_eq!(anonymous.unwrap_err().code(), tonic::Code::InvalidArgument);
}
