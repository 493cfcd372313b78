//! Scheduled messages. This version of the SDK sends whole seconds and cannot recall.

use std::time::Duration;

use kerolox_sdk_tests::{Cluster, bodies, each_access_point, message, seconds_since_1970};

each_access_point! {
    async fn scheduled_messages_come_in_the_order_of_their_times(access: Access) {
        let cluster = Cluster::shared();
        let (topic, group) = (cluster.topic("DELAY", 1).await, cluster.group(&[]));
        let producer = cluster.producer(access, &topic).await;
        let consumer = cluster.consumer(access, &topic, &group).await;
        for (body, delay) in [("late", 6), ("soon", 3), ("past", -60)] {
            let each = message(&topic, body).set_delivery_timestamp(seconds_since_1970() + delay);
            producer.send(each.build().expect("a message")).await.expect("a send");
        }
        for body in ["past", "soon", "late"] {
            let received = consumer.receive(1).await;
            assert_eq!(bodies(&received), [body]);
            let due = received[0].delivery_timestamp().expect("a delivery timestamp");
            assert!(seconds_since_1970() >= due, "{body} came early");
        }
        assert_eq!(consumer.receive_nothing(Duration::from_secs(1)).await, [""; 0]);
    }
}
