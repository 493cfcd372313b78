//! Members of a broadcast group.

use crate::{INVISIBLE, bodies, message, producer};
use kerolox_client::admin::wire::UpdateGroupRequest;
use kerolox_client::{Error, FilterExpression, SimpleConsumer};
use kerolox_testkit::{TestBroker, TopicType};
use std::time::Duration;

async fn member(broker: &TestBroker, id: &str) -> SimpleConsumer {
    let consumer = broker.client().simple_consumer("readers").subscribe("news", FilterExpression::all());
    consumer.client_id(id).await_duration(Duration::from_millis(200)).start().await.unwrap()
}

#[tokio::test]
async fn every_member_gets_everything_and_keeps_its_place_under_its_name() {
    let broker = TestBroker::start().unwrap();
    broker.create_topic("news", TopicType::Normal).await.unwrap();
    let attributes = ["+broadcast=true", "+consume.from=earliest"].map(str::to_owned).to_vec();
    let request = UpdateGroupRequest { name: "readers".to_owned(), attributes, ..Default::default() };
    broker.admin().update_group(request).await.unwrap();
    let producer = producer(&broker, "news").await;
    producer.send(message("news", "1")).await.unwrap();
    for id in ["node-1", "node-2"] {
        let member = member(&broker, id).await;
        assert_eq!(member.client_id(), id);
        let received = member.receive(8, INVISIBLE).await.unwrap();
        assert_eq!(bodies(&received), ["1"]);
        member.ack(&received[0]).await.unwrap();
        member.shutdown().await;
    }
    producer.send(message("news", "2")).await.unwrap();
    let again = member(&broker, "node-1").await.receive(8, INVISIBLE).await.unwrap();
    assert_eq!(bodies(&again), ["2"], "it goes on where it was");

    let consumer = broker.client().simple_consumer("readers").subscribe("news", FilterExpression::all());
    assert!(matches!(consumer.client_id("a b").start().await, Err(Error::Invalid(_))));
}
