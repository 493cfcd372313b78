//! Filters on the broker: which messages pass, and what becomes of expressions that are wrong.

use std::time::Duration;

use kerolox_client::{FilterExpression, Message, SimpleConsumer};
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code, FilterType};
use tokio_stream::StreamExt as _;

use kerolox_harness::Cluster;

use crate::support::{
    body, cluster_of, code, consume, expect_nothing, from_client, raw, receive, resource, standalone,
};

async fn selective(servers: &Cluster, group: &str, filter: FilterExpression) -> SimpleConsumer {
    servers
        .client()
        .simple_consumer(group)
        .subscribe("orders", filter)
        .await_duration(Duration::from_millis(500))
        .start()
        .await
        .unwrap()
}

fn order(body: &str, amount: &str, country: &str) -> Message {
    Message::builder("orders")
        .body(body.to_owned())
        .tag("paid")
        .keys([body])
        .property("amount", amount)
        .property("country", country)
        .build()
}

#[tokio::test]
async fn sql_filters_choose_by_properties() {
    let servers = cluster_of(1, &["broker-a"], &[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let producer = servers.client().producer().topic("orders").start().await.unwrap();
    for (body, amount, country) in
        [("small", "5", "de"), ("large", "1500.50", "de"), ("foreign", "90", "fr"), ("odd", "many", "de")]
    {
        producer.send(order(body, amount, country)).await.unwrap();
    }
    producer.send(Message::builder("orders").body("bare").build()).await.unwrap();
    for (group, sql, expected) in [
        ("numbers", "amount > 5 and amount <= 1500.5", vec!["foreign", "large"]),
        ("texts", "country = 'de' AND NOT KEYS CONTAINS 'd'", vec!["large", "small"]),
        ("absent", "TAGS IS NULL OR country IN ('fr', 'it')", vec!["bare", "foreign"]),
    ] {
        let consumer = selective(&servers, group, FilterExpression::sql(sql)).await;
        assert_eq!(consume(&consumer, expected.len()).await, expected, "{sql}");
        expect_nothing(&consumer).await;
    }
    // What passes later is delivered as well, and a filter may change with the next request.
    let consumer = selective(&servers, "numbers", FilterExpression::sql("amount < 5")).await;
    producer.send(order("tiny", "-1e-3", "de")).await.unwrap();
    assert_eq!(body(&receive(&consumer, 1).await[0]), "tiny");
}

#[tokio::test]
async fn a_wrong_expression_is_refused_with_its_place() {
    let servers = standalone(&[]);
    servers.create_topic("orders", "NORMAL").await.unwrap();
    let mut client = raw(&servers.brokers[0]).await;
    for (kind, expression, place) in
        [(FilterType::Sql, "amount > 'x'", "position 9"), (FilterType::Tag, " || || ", "no tag")]
    {
        let wrong = v2::FilterExpression { r#type: kind.into(), expression: expression.to_owned() };
        let request = v2::ReceiveMessageRequest {
            group: resource("billing"),
            message_queue: Some(v2::MessageQueue {
                topic: resource("orders"),
                broker: Some(v2::Broker { name: "broker-a".to_owned(), ..Default::default() }),
                ..Default::default()
            }),
            filter_expression: Some(wrong.clone()),
            auto_renew: true,
            batch_size: 1,
            ..Default::default()
        };
        let mut answer = client.receive_message(from_client(request)).await.unwrap().into_inner();
        let first = answer.next().await.unwrap().unwrap();
        let Some(v2::receive_message_response::Content::Status(status)) = first.content else {
            panic!("{first:?}")
        };
        assert!(status.message.contains(place), "{status:?}");
        assert_eq!(code(Some(status)), Code::IllegalFilterExpression);

        let entry = v2::SubscriptionEntry { topic: resource("orders"), expression: Some(wrong) };
        let subscription =
            v2::Subscription { group: resource("billing"), subscriptions: vec![entry], ..Default::default() };
        let settings = v2::Settings {
            client_type: Some(v2::ClientType::SimpleConsumer.into()),
            pub_sub: Some(PubSub::Subscription(subscription)),
            ..Default::default()
        };
        let command = v2::TelemetryCommand { command: Some(Command::Settings(settings)), status: None };
        let stream = client.telemetry(from_client(tokio_stream::once(command))).await.unwrap();
        let refused = stream.into_inner().next().await.unwrap().unwrap_err();
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains(place), "{refused:?}");
    }
}
