//! Normal messages: send, receive, acknowledge, redelivery.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kerolox_sdk_tests::{Cluster, INVISIBLE, bodies, each_access_point, message, numbered, sorted};
use rocketmq::model::message::MessageBuilder;

each_access_point! {
    async fn a_message_arrives_as_it_was_sent(access: Access) {
        let cluster = Cluster::shared();
        let (topic, group) = (cluster.topic("NORMAL", 1).await, cluster.group(&[]));
        let producer = cluster.producer(access, &topic).await;
        let consumer = cluster.consumer(access, &topic, &group).await;
        let body: Vec<u8> = (0..=255).cycle().take(5000).collect();
        let before = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let sent = MessageBuilder::builder()
            .set_topic(&topic)
            .set_body(body.clone())
            .set_tag("paid")
            .set_keys(vec!["order-1", "order-2"])
            .set_properties(HashMap::from([("city", "Zürich")]));
        let receipt = producer.send(sent.build().expect("a message")).await.expect("a send");
        let [received] = &consumer.receive(1).await[..] else { panic!("one message") };
        assert_eq!(received.body(), body);
        assert_eq!(received.topic(), topic);
        assert_eq!(received.tag(), Some("paid"));
        assert_eq!(received.keys(), ["order-1", "order-2"]);
        assert_eq!(received.properties().get("city").map(String::as_str), Some("Zürich"));
        assert_eq!(received.message_id(), receipt.message_id());
        assert_eq!(received.delivery_attempt(), 1);
        assert!(!received.born_host().is_empty());
        assert!(received.born_timestamp().unsigned_abs() >= before);
    }

    async fn nothing_is_left_after_the_acknowledgement(access: Access) {
        let cluster = Cluster::shared();
        let (topic, group) = (cluster.topic("NORMAL", 4).await, cluster.group(&[]));
        let producer = cluster.producer(access, &topic).await;
        let consumer = cluster.consumer(access, &topic, &group).await;
        let sent = numbered(50);
        for body in &sent {
            producer.send(message(&topic, body).build().expect("a message")).await.expect("a send");
        }
        assert_eq!(sorted(bodies(&consumer.receive(sent.len()).await)), sent);
        // Longer than the invisible duration: whatever was not acknowledged would come back.
        assert_eq!(consumer.receive_nothing(INVISIBLE + Duration::from_secs(3)).await, [""; 0]);
    }

    async fn a_batch_arrives_whole(access: Access) {
        let cluster = Cluster::shared();
        let (topic, group) = (cluster.topic("NORMAL", 4).await, cluster.group(&[]));
        let producer = cluster.producer(access, &topic).await;
        let consumer = cluster.consumer(access, &topic, &group).await;
        let sent = numbered(20);
        let batch = sent.iter().map(|body| message(&topic, body).build().expect("a message")).collect();
        assert_eq!(producer.batch_send(batch).await.expect("a send").len(), sent.len());
        assert_eq!(sorted(bodies(&consumer.receive(sent.len()).await)), sent);
    }

    async fn two_groups_each_get_every_message(access: Access) {
        let cluster = Cluster::shared();
        let topic = cluster.topic("NORMAL", 1).await;
        let producer = cluster.producer(access, &topic).await;
        let sent = numbered(10);
        for body in &sent {
            producer.send(message(&topic, body).build().expect("a message")).await.expect("a send");
        }
        for group in [cluster.group(&[]), cluster.group(&[])] {
            let consumer = cluster.consumer(access, &topic, &group).await;
            assert_eq!(sorted(bodies(&consumer.receive(sent.len()).await)), sent);
        }
    }

    async fn an_unacknowledged_message_comes_back_with_a_higher_attempt(access: Access) {
        let cluster = Cluster::shared();
        let (topic, group) = (cluster.topic("NORMAL", 1).await, cluster.group(&[]));
        let producer = cluster.producer(access, &topic).await;
        let consumer = cluster.consumer(access, &topic, &group).await;
        producer.send(message(&topic, "again").build().expect("a message")).await.expect("a send");

        let first = consumer.hold(1).await.remove(0);
        let received = Instant::now();
        assert_eq!(first.delivery_attempt(), 1);
        let second = consumer.hold(1).await.remove(0);
        assert!(received.elapsed() > INVISIBLE - Duration::from_secs(1), "before its invisible duration was over");
        assert_eq!((second.message_id(), second.delivery_attempt()), (first.message_id(), 2));

        let refused = consumer.consumer.ack(&first).await.expect_err("the first handle is void");
        assert!(refused.to_string().contains("INVALID_RECEIPT_HANDLE"), "{refused}");
        consumer.consumer.ack(&second).await.expect("an acknowledgement");
        // Repeated by a client that missed the answer: no error.
        consumer.consumer.ack(&second).await.expect("an acknowledgement");
        assert_eq!(consumer.receive_nothing(INVISIBLE + Duration::from_secs(3)).await, [""; 0]);
    }

    async fn what_is_never_acknowledged_becomes_a_dead_letter(access: Access) {
        let cluster = Cluster::shared();
        let (topic, group) = (cluster.topic("NORMAL", 1).await, cluster.group(&["-r", "1"]));
        let producer = cluster.producer(access, &topic).await;
        let consumer = cluster.consumer(access, &topic, &group).await;
        let poison = message(&topic, "poison").set_tag("bad").set_keys(vec!["order-1"]);
        producer.send(poison.build().expect("a message")).await.expect("a send");
        for attempt in [1, 2] {
            assert_eq!(consumer.hold(1).await.iter().map(|each| each.delivery_attempt()).collect::<Vec<_>>(), [attempt]);
        }
        let dead_letters = format!("%DLQ%{group}");
        cluster.wait_for_route_at(access, &dead_letters).await;
        let undertaker = cluster.consumer(access, &dead_letters, &cluster.group(&[])).await;
        let [dead] = &undertaker.receive(1).await[..] else { panic!("one message") };
        assert_eq!((dead.body(), dead.tag(), dead.keys()), (&b"poison"[..], Some("bad"), &["order-1".to_owned()][..]));
        assert_eq!(consumer.receive_nothing(Duration::from_secs(3)).await, [""; 0]);
    }
}
