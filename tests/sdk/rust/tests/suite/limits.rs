//! What the servers refuse, and what the SDK cannot do: README.md says why.

use kerolox_sdk_tests::{Cluster, bodies, each_access_point, message, seconds_since_1970};
use rocketmq::model::message::MessageBuilder;

const MIB: usize = 1024 * 1024;

each_access_point! {
    async fn a_topic_that_does_not_exist(access: Access) {
        let mut producer = Cluster::shared().new_producer(access, "no-such-topic");
        let refused = producer.start().await.expect_err("there is no such topic");
        assert!(refused.to_string().contains("TOPIC_NOT_FOUND"), "{refused}");
    }

    async fn a_message_of_another_type_than_its_topic_is_refused(access: Access) {
        let cluster = Cluster::shared();
        let topic = cluster.topic("NORMAL", 1).await;
        let producer = cluster.producer(access, &topic).await;
        for sent in [
            message(&topic, "half").enable_transaction(),
            message(&topic, "ordered").set_message_group("a"),
            message(&topic, "later").set_delivery_timestamp(seconds_since_1970() + 3600),
        ] {
            // The SDK does not look at the types that the route tells it.
            let refused = producer.send(sent.build().expect("a message")).await.expect_err("a type of its own");
            assert!(refused.to_string().contains("MESSAGE_PROPERTY_CONFLICT_WITH_TYPE"), "{refused}");
        }
    }

    async fn an_empty_body_is_refused_with_a_code_that_the_sdk_knows(access: Access) {
        let cluster = Cluster::shared();
        let topic = cluster.topic("NORMAL", 1).await;
        let producer = cluster.producer(access, &topic).await;
        // MESSAGE_BODY_EMPTY, which other SDKs are told, makes this one panic.
        let refused = producer.send(message(&topic, "").build().expect("a message")).await.expect_err("empty");
        assert!(refused.to_string().contains("empty"), "{refused}");
    }

    async fn bodies_up_to_what_the_sdk_receives_go_through(access: Access) {
        let cluster = Cluster::shared();
        let (topic, group) = (cluster.topic("NORMAL", 1).await, cluster.group(&[]));
        let producer = cluster.producer(access, &topic).await;
        let consumer = cluster.consumer(access, &topic, &group).await;
        let sized = |size| {
            MessageBuilder::builder().set_topic(&topic).set_body(vec![b'x'; size]).build().expect("a message")
        };
        let refused = producer.send(sized(4 * MIB + 1)).await.expect_err("too large");
        assert!(refused.to_string().contains("MESSAGE_BODY_TOO_LARGE"), "{refused}");
        producer.send(sized(4 * MIB - 64 * 1024)).await.expect("a send");
        let received = consumer.receive(1).await;
        assert_eq!(bodies(&received)[0].len(), 4 * MIB - 64 * 1024);
        // The whole response must fit into 4 MiB there, and the SDK has no option to change that.
        producer.send(sized(4 * MIB)).await.expect("a send");
        consumer.poll(1).await.expect_err("larger than the SDK receives");
    }
}
