//! Filters by tag and by SQL-92 expression.

use std::collections::HashMap;
use std::time::Duration;

use kerolox_sdk_tests::{Cluster, bodies, each_access_point, message, sorted};
use rocketmq::model::common::FilterType;

each_access_point! {
    async fn tags_select_messages(access: Access) {
        let cluster = Cluster::shared();
        let (topic, group) = (cluster.topic("NORMAL", 1).await, cluster.group(&[]));
        let producer = cluster.producer(access, &topic).await;
        let consumer = cluster.consumer(access, &topic, &group).await.with_filter(FilterType::Tag, "a || c");
        for (body, tag) in [("1", "a"), ("2", "b"), ("3", "c"), ("4", "d"), ("5", "a")] {
            producer.send(message(&topic, body).set_tag(tag).build().expect("a message")).await.expect("a send");
        }
        assert_eq!(sorted(bodies(&consumer.receive(3).await)), ["1", "3", "5"]);
        assert_eq!(consumer.receive_nothing(Duration::from_secs(2)).await, [""; 0]);
    }

    async fn sql_expressions_select_messages_by_their_properties(access: Access) {
        let cluster = Cluster::shared();
        let (topic, group) = (cluster.topic("NORMAL", 1).await, cluster.group(&[]));
        let producer = cluster.producer(access, &topic).await;
        let filter = "(price BETWEEN 10 AND 20 AND city IN ('Bern', 'Basel')) OR TAGS = 'always'";
        let consumer = cluster.consumer(access, &topic, &group).await.with_filter(FilterType::Sql, filter);
        for (body, tag, properties) in [
            ("1", "t", vec![("price", "15"), ("city", "Bern")]),
            ("2", "t", vec![("price", "25"), ("city", "Bern")]),
            ("3", "t", vec![("price", "20"), ("city", "Basel")]),
            ("4", "t", vec![("price", "15")]),
            ("5", "always", vec![]),
        ] {
            let sent = message(&topic, body).set_tag(tag).set_properties(HashMap::<_, _>::from_iter(properties));
            producer.send(sent.build().expect("a message")).await.expect("a send");
        }
        assert_eq!(sorted(bodies(&consumer.receive(3).await)), ["1", "3", "5"]);
        assert_eq!(consumer.receive_nothing(Duration::from_secs(2)).await, [""; 0]);
    }

    async fn an_expression_that_makes_no_sense_is_refused(access: Access) {
        let cluster = Cluster::shared();
        let (topic, group) = (cluster.topic("NORMAL", 1).await, cluster.group(&[]));
        for (kind, expression) in [(FilterType::Tag, "|| ||"), (FilterType::Sql, "price >")] {
            let consumer = cluster.consumer(access, &topic, &group).await.with_filter(kind, expression);
            let refused = consumer.poll(1).await.expect_err("no such filter");
            assert!(refused.to_string().contains("ILLEGAL_FILTER_EXPRESSION"), "{refused}");
        }
    }
}
