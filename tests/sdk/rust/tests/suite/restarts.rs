//! Servers that die and come back under running clients. Each test has a cluster of its own.

use std::sync::Mutex;

use kerolox_sdk_tests::{Access, Cluster, bodies, each_access_point, eventually, message, numbered, sorted};

each_access_point! {
    async fn clients_go_on_when_a_broker_was_killed_and_is_back(access: Access) {
        let cluster = Cluster::start();
        let (topic, group) = (cluster.topic("NORMAL", 1).await, cluster.group(&[]));
        let producer = cluster.producer(access, &topic).await;
        let consumer = cluster.consumer(access, &topic, &group).await;
        let send = async |body: &str| producer.send(message(&topic, body).build().expect("a message")).await;
        let mut sent = numbered(10);
        for body in &sent {
            send(body).await.expect("a send");
        }
        cluster.kill(Access::Broker);
        send("unsent").await.expect_err("there is no broker");
        cluster.restart(Access::Broker);
        cluster.wait_for_route(&topic).await;
        eventually("the producer sends again", async || send("after").await.is_ok()).await;
        sent.push("after".to_owned());
        let got = Mutex::new(Vec::new());
        eventually("everything arrived", async || {
            let taken = consumer.take().await.unwrap_or_default();
            let mut got = got.lock().expect("no panic");
            got.extend(bodies(&taken));
            got.len() >= sent.len()
        })
        .await;
        assert_eq!(sorted(got.into_inner().expect("no panic")), sorted(sent));
    }

    async fn clients_go_on_without_the_nameserver_and_others_start_when_it_is_back(access: Access) {
        let cluster = Cluster::start();
        let (topic, group) = (cluster.topic("NORMAL", 1).await, cluster.group(&[]));
        let producer = cluster.producer(access, &topic).await;
        let consumer = cluster.consumer(access, &topic, &group).await;
        // The SDK connects to a broker with the first message.
        producer.send(message(&topic, "first").build().expect("a message")).await.expect("a send");
        assert_eq!(bodies(&consumer.receive(1).await), ["first"]);
        cluster.kill(Access::Nameserver);
        let sent = numbered(10);
        for body in &sent {
            producer.send(message(&topic, body).build().expect("a message")).await.expect("a send");
        }
        assert_eq!(sorted(bodies(&consumer.receive(sent.len()).await)), sent);
        let start = async || cluster.new_producer(access, &topic).start().await.is_ok();
        // Every broker is an access point, so only who was told the nameserver cannot start.
        assert_eq!(start().await, access == Access::Broker);
        cluster.restart(Access::Nameserver);
        eventually("a client starts", start).await;
    }
}
