//! Each reason of `message why`: a message is brought into that state, and the reason read.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use kerolox_client::admin::wire::{UpdateGroupRequest, UpdateTopicRequest};
use kerolox_client::{Client, FilterExpression, Message, Producer, Resolution, SimpleConsumer};
use serde_json::Value;

use super::cluster::CliCluster;

/// All on one broker group, so that order and place are known.
const GROUP: &str = "broker-a";
const INVISIBLE: Duration = Duration::from_secs(60);
/// How long something may take to show.
const PATIENCE: Duration = Duration::from_secs(20);

struct Scene<'a> {
    cluster: &'a CliCluster,
    client: Client,
    broker: String,
    told: Vec<&'static str>,
}

pub(super) async fn explain(cluster: &CliCluster) -> Result<String> {
    let broker = cluster.master(GROUP).await?;
    let mut scene = Scene { cluster, client: cluster.servers.client(), broker, told: Vec::new() };
    scene.make().await?;
    scene.not_visible().await?;
    scene.delivered().await?;
    scene.in_order().await?;
    scene.not_wanted().await?;
    Ok(format!("{} reasons: {}", scene.told.len(), scene.told.join(", ")))
}

impl Scene<'_> {
    async fn make(&self) -> Result<()> {
        let admin = self.client.admin();
        let broker = admin.broker(&self.broker.parse()?);
        for (name, kind) in [
            ("why", "NORMAL"),
            ("why-order", "FIFO"),
            ("why-later", "DELAY"),
            ("why-tx", "TRANSACTION"),
            ("why-gone", "NORMAL"),
        ] {
            let request = UpdateTopicRequest {
                name: name.to_owned(),
                read_queues: Some(1),
                write_queues: Some(1),
                attributes: vec![format!("+message.type={kind}")],
                ..Default::default()
            };
            broker.update_topic(request).await?;
        }
        let groups = [("why", false, "+retry.backoff=60s"), ("why-order", true, "+retry.exhausted=block")];
        for (name, fifo, attribute) in groups {
            let request = UpdateGroupRequest {
                name: name.to_owned(),
                fifo: Some(fifo),
                retry_max_times: Some(0),
                consume_from_min: Some(true),
                attributes: vec![attribute.to_owned()],
                ..Default::default()
            };
            broker.update_group(request).await?;
        }
        Ok(())
    }

    async fn producer(&self, topic: &str) -> Result<Producer> {
        let producer = self.client.producer().topic(topic);
        // The checker never knows the outcome: its transactions are parked.
        Ok(producer.transaction_checker(|_| async { Resolution::Unknown }).start().await?)
    }

    async fn consumer(&self, group: &str, topic: &str, filter: FilterExpression) -> Result<SimpleConsumer> {
        let consumer = self.client.simple_consumer(group).subscribe(topic, filter);
        Ok(consumer.await_duration(Duration::from_secs(2)).start().await?)
    }

    /// Waits until the reason for a group, or the message's state without one, is `wanted`.
    async fn expect(&mut self, id: &str, group: Option<&str>, wanted: &'static str) -> Result<Value> {
        let line = match group {
            Some(group) => format!("message why {id} -g {group}"),
            None => format!("message why {id}"),
        };
        let started = std::time::Instant::now();
        loop {
            let said = self.cluster.json(&line)?;
            let message = said["messages"][0].clone();
            let (found, text) = match group {
                Some(_) => (&message["groups"][0]["reason"], &message["groups"][0]["text"]),
                None => (&message["state"], &message["text"]),
            };
            if found == wanted {
                ensure!(
                    text.as_str().is_some_and(|text| text.len() > 10),
                    "{wanted} is not explained: {said:#}"
                );
                let shown = self.cluster.ok(&line)?;
                ensure!(shown.contains(wanted), "{shown}");
                self.told.push(wanted);
                return Ok(message);
            }
            ensure!(started.elapsed() < PATIENCE, "{line}: {found} in place of {wanted}: {said:#}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn not_visible(&mut self) -> Result<()> {
        let later = self.producer("why-later").await?;
        let at = SystemTime::now() + Duration::from_secs(3600);
        let sent = later.send(Message::builder("why-later").body("x").delivery_timestamp(at).build()).await?;
        self.expect(&sent.message_id, None, "scheduled").await?;
        self.cluster.ok(&format!("timerCancel -b {} -i {} -y", self.broker, sent.message_id))?;
        self.expect(&sent.message_id, None, "recalled").await?;

        let halves = self.producer("why-tx").await?;
        let half = || halves.send_in_transaction(Message::builder("why-tx").body("x").build());
        let rolled_back = half().await?;
        rolled_back.rollback().await?;
        self.expect(rolled_back.message_id(), None, "rolled-back").await?;
        let undecided = half().await?;
        self.expect(undecided.message_id(), None, "prepared").await?;
        self.expect(undecided.message_id(), None, "parked").await?;
        let committed = half().await?;
        committed.commit().await?;
        self.expect(committed.message_id(), None, "visible").await?;
        undecided.rollback().await?;

        let gone = self.producer("why-gone").await?;
        let sent = gone.send(Message::builder("why-gone").body("x").build()).await?;
        self.cluster.ok(&format!("deleteTopic -b {} -t why-gone -y", self.broker))?;
        self.expect(&sent.message_id, None, "gone").await?;
        Ok(())
    }

    async fn delivered(&mut self) -> Result<()> {
        let producer = self.producer("why").await?;
        let sent = producer.send(Message::builder("why").tag("a").body("1").build()).await?;
        let id = sent.message_id.as_str();
        self.expect(id, Some("why"), "no-consumer").await?;
        let set = |flags: &str| self.cluster.ok(flags).map(drop);
        set(&format!("updateSubGroup -b {} -g why -s false", self.broker))?;
        self.expect(id, Some("why"), "disabled").await?;
        set(&format!("updateSubGroup -b {} -g why -s true -r 1", self.broker))?;
        set(&format!("updateTopicPerm -b {} -t why -p 2", self.broker))?;
        self.expect(id, Some("why"), "not-readable").await?;
        let set = |flags: &str| self.cluster.ok(flags).map(drop);
        set(&format!("updateTopicPerm -b {} -t why -p 6", self.broker))?;

        let consumer = self.consumer("why", "why", FilterExpression::all()).await?;
        let mut delivery = one(&consumer).await?;
        let held = self.expect(id, Some("why"), "in-flight").await?;
        ensure!(held["groups"][0]["client"] == consumer.client_id(), "another client holds it: {held:#}");
        consumer.change_invisible(&mut delivery, Duration::from_secs(1)).await?;
        self.expect(id, Some("why"), "retry").await?;
        // Its second delivery is the last one.
        let mut delivery = one(&consumer).await?;
        consumer.change_invisible(&mut delivery, Duration::from_secs(1)).await?;
        self.expect(id, Some("why"), "dead-lettered").await?;
        self.cluster.ok(&format!("dlqRedrive -b {} -g why", self.broker))?;
        let again = one(&consumer).await?;
        consumer.ack(&again).await?;
        self.expect(id, Some("why"), "redriven").await?;

        let next = producer.send(Message::builder("why").tag("a").body("2").build()).await?;
        let delivery = one(&consumer).await?;
        consumer.ack(&delivery).await?;
        self.expect(&next.message_id, Some("why"), "done").await?;
        let ready = producer.send(Message::builder("why").tag("a").body("3").build()).await?;
        self.expect(&ready.message_id, Some("why"), "ready").await?;
        let delivery = one(&consumer).await?;
        consumer.ack(&delivery).await?;
        consumer.shutdown().await;
        Ok(())
    }

    async fn in_order(&mut self) -> Result<()> {
        let producer = self.producer("why-order").await?;
        let mut ids = Vec::new();
        for body in ["1", "2"] {
            let message = Message::builder("why-order").message_group("g").body(body).build();
            ids.push(producer.send(message).await?.message_id);
        }
        let consumer = self.consumer("why-order", "why-order", FilterExpression::all()).await?;
        let mut first = consumer.receive(1, INVISIBLE).await?.into_iter().next().context("nothing came")?;
        self.expect(&ids[1], Some("why-order"), "behind").await?;
        // It has one attempt.
        consumer.change_invisible(&mut first, Duration::from_secs(1)).await?;
        self.expect(&ids[0], Some("why-order"), "blocked").await?;
        self.expect(&ids[1], Some("why-order"), "behind-blocked").await?;
        consumer.shutdown().await;
        Ok(())
    }

    async fn not_wanted(&mut self) -> Result<()> {
        let consumer = self.consumer("why", "why", FilterExpression::tag("b")).await?;
        // It asks, so that its filter is known.
        consumer.receive(1, INVISIBLE).await?;
        let producer = self.producer("why").await?;
        let sent = producer.send(Message::builder("why").tag("a").body("4").build()).await?;
        self.expect(&sent.message_id, Some("why"), "filtered").await?;
        consumer.shutdown().await;
        Ok(())
    }
}

async fn one(consumer: &SimpleConsumer) -> Result<kerolox_client::Delivery> {
    let started = std::time::Instant::now();
    loop {
        if let Some(delivery) = consumer.receive(1, INVISIBLE).await?.into_iter().next() {
            return Ok(delivery);
        }
        ensure!(started.elapsed() < PATIENCE, "nothing came within {PATIENCE:?}");
    }
}
