//! Ordered messages: a producer with message groups, and a simple consumer in a group that consumes in order.

use std::collections::HashMap;
use std::time::Duration;

use kerolox_sdk_tests::{Cluster, bodies, each_access_point, message, numbered};

each_access_point! {
    async fn messages_of_a_message_group_come_in_order(access: Access) {
        let cluster = Cluster::shared();
        let (topic, group) = (cluster.topic("FIFO", 4).await, cluster.group(&["-o", "true"]));
        let producer = cluster.producer(access, &topic).await;
        let consumer = cluster.consumer(access, &topic, &group).await;
        let sent = numbered(10);
        for body in &sent {
            for orders in ["a", "b", "c"] {
                let each = message(&topic, body).set_message_group(orders);
                producer.send(each.build().expect("a message")).await.expect("a send");
            }
        }
        let mut received: HashMap<String, Vec<String>> = HashMap::new();
        for each in consumer.receive(3 * sent.len()).await {
            let orders = each.message_group().expect("a message group").to_owned();
            received.entry(orders).or_default().extend(bodies(&[each]));
        }
        assert_eq!(received, ["a", "b", "c"].map(|orders| (orders.to_owned(), sent.clone())).into());
    }

    async fn the_next_message_comes_after_the_acknowledgement(access: Access) {
        let cluster = Cluster::shared();
        let (topic, group) = (cluster.topic("FIFO", 4).await, cluster.group(&["-o", "true"]));
        let producer = cluster.producer(access, &topic).await;
        let consumer = cluster.consumer(access, &topic, &group).await;
        for body in numbered(3) {
            let each = message(&topic, &body).set_message_group("orders");
            producer.send(each.build().expect("a message")).await.expect("a send");
        }
        for body in numbered(3) {
            let received = consumer.poll(1).await.expect("a receive");
            assert_eq!(bodies(&received), [body]);
            assert_eq!(consumer.receive_nothing(Duration::from_secs(1)).await, [""; 0]);
            consumer.consumer.ack(&received[0]).await.expect("an acknowledgement");
        }
    }
}
