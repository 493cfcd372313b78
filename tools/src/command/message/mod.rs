//! Messages: send one, show some.

mod browse;
mod consume;
mod decode;
pub(crate) mod read;
mod resend;
pub(crate) mod show;
mod why;

use crate::outcome::{Failure, Result};
use crate::output::{Format, Report, local_time, print_line, table};
use crate::target::Common;
use clap::Args;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_client::{Client, Delivery, FilterExpression, Message, SendReceipt, SimpleConsumer};
use serde_json::{Value, json};
use std::io::ErrorKind;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) use browse::{Browse, PrintMsg, Tail};
pub(crate) use consume::Consume;
pub(crate) use decode::DecodeMessageId;
pub(crate) use resend::{copied, resend};
pub(crate) use why::Why;

/// Send a message
#[derive(Debug, Args)]
pub(crate) struct SendMessage {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Body of the message
    #[arg(short = 'p', long, allow_hyphen_values = true)]
    body: String,
    /// Keys of the message, separated by blanks
    #[arg(short = 'k', long = "key", alias = "keys")]
    keys: Option<String>,
    /// Tag of the message
    #[arg(short = 'c', long = "tags")]
    tag: Option<String>,
    /// Name of the broker that shall take it
    #[arg(short = 'b', long = "broker", value_name = "BROKER_NAME")]
    broker: Option<String>,
    /// Queue of that broker
    #[arg(short = 'i', long = "qid", requires = "broker")]
    queue: Option<i32>,
}

impl SendMessage {
    pub(crate) async fn run(self) -> Result<Report> {
        let producer = self.common.client()?.producer().topic(&self.topic).start().await?;
        let mut message = Message::builder(self.topic).body(self.body);
        if let Some(keys) = &self.keys {
            message = message.keys(keys.split_whitespace());
        }
        if let Some(tag) = self.tag {
            message = message.tag(tag);
        }
        let message = message.build();
        let receipt = match &self.broker {
            Some(broker) => producer.send_to(broker, self.queue, message).await,
            None => producer.send(message).await,
        };
        producer.shutdown().await;
        Ok(sent(&receipt?))
    }
}

/// Where a message that was sent is now.
fn sent(receipt: &SendReceipt) -> Report {
    let row = vec![
        receipt.broker.clone(),
        receipt.queue_id.to_string(),
        "SEND_OK".to_owned(),
        receipt.message_id.clone(),
    ];
    Report::ok(
        table(&["Broker Name", "QID", "Send Result", "MsgId"], [row]),
        json!({
            "broker": receipt.broker,
            "queue": receipt.queue_id,
            "result": "SEND_OK",
            "messageId": receipt.message_id,
            "offset": receipt.offset,
        }),
    )
}

/// Print messages of a topic, the oldest of each queue first
///
/// Messages are received as by any consumer, and each is acknowledged after it was printed. Without -g that happens in
/// a temporary consumer group of this command's own, which sees all messages of the topic, disturbs nobody, and is deleted at the end.
/// With -g the messages count as consumed by that group. With --output json each message is one line.
#[derive(Debug, Args)]
pub(crate) struct ConsumeMessage {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Consume as this group
    #[arg(short = 'g', long = "consumer-group", alias = "consumerGroup")]
    group: Option<String>,
    /// Stop after this many messages
    #[arg(
        short = 'c',
        long = "message-number",
        aliases = ["MessageNumber", "messageNumber"],
        default_value_t = 128,
        value_name = "COUNT"
    )]
    count: usize,
    /// Stop when no message came for this many seconds
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait: u64,
}

/// Time to print and acknowledge one batch, before the messages go to somebody else.
const INVISIBLE: Duration = Duration::from_secs(30);
/// Most messages of one receive.
const BATCH_MAX: usize = 32;
/// Longest poll; several of them make up a longer wait.
const POLL_MAX: Duration = Duration::from_secs(5);

impl ConsumeMessage {
    pub(crate) async fn run(self) -> Result<Report> {
        let client = self.common.client()?;
        match &self.group {
            Some(group) => self.consume(&client, group).await?,
            None => {
                let (_, brokers) = self.common.masters_with_topic(&client, &self.topic).await?;
                let group = TemporaryGroup::create(client.admin(), brokers).await?;
                let result = tokio::select! {
                    result = self.consume(&client, &group.name) => result,
                    _ = tokio::signal::ctrl_c() => Ok(()),
                };
                group.delete().await?;
                result?;
            }
        }
        Ok(Report::ok(String::new(), Value::Null))
    }

    async fn consume(&self, client: &Client, group: &str) -> Result<()> {
        let wait = Duration::from_secs(self.wait);
        let consumer = client
            .simple_consumer(group)
            .subscribe(&self.topic, FilterExpression::all())
            .await_duration(wait.min(POLL_MAX))
            .start()
            .await?;
        let result = self.print_until_enough(&consumer, wait).await;
        consumer.shutdown().await;
        result
    }

    async fn print_until_enough(&self, consumer: &SimpleConsumer, wait: Duration) -> Result<()> {
        let mut printed = 0;
        let mut last_message = tokio::time::Instant::now();
        while printed < self.count && last_message.elapsed() < wait {
            let batch = consumer.receive(BATCH_MAX.min(self.count - printed), INVISIBLE).await?;
            if !batch.is_empty() {
                last_message = tokio::time::Instant::now();
            }
            for delivery in batch {
                match print_line(&line(&delivery, self.common.output)) {
                    Ok(()) => {}
                    // The reader went away: what it did not see must not count as consumed.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                    Err(error) => return Err(Failure::failed(format!("cannot write the message: {error}"))),
                }
                printed += 1;
                consumer.ack(&delivery).await?;
            }
        }
        Ok(())
    }
}

/// A consumer group that lives as long as one command.
struct TemporaryGroup {
    name: String,
    admin: Admin,
    brokers: Vec<Master>,
}

impl TemporaryGroup {
    async fn create(admin: Admin, brokers: Vec<Master>) -> Result<Self> {
        let name = format!("mqadmin-{}", uuid::Uuid::new_v4().simple());
        let group = Self { name, admin, brokers };
        for broker in &group.brokers {
            let request = wire::UpdateGroupRequest {
                name: group.name.clone(),
                consume_from_min: Some(true),
                ..Default::default()
            };
            if let Err(error) = group.admin.broker(&broker.address).update_group(request).await {
                let failure = Failure::from(error).during("cannot create a temporary consumer group");
                // Best effort: the failure to create it is what the user must hear of.
                let _ = group.delete().await;
                return Err(failure);
            }
        }
        Ok(group)
    }

    async fn delete(&self) -> Result<()> {
        let mut failed = None;
        for broker in &self.brokers {
            let request = wire::DeleteGroupRequest { name: self.name.clone() };
            if let Err(error) = self.admin.broker(&broker.address).delete_group(request).await {
                failed = Some(Failure::from(error).during(format!(
                    "the temporary consumer group {} was left on {}; delete it with deleteSubGroup",
                    self.name, broker.address
                )));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

/// One message as one line (or what the body makes of it).
fn line(delivery: &Delivery, format: Format) -> String {
    let message = delivery.message();
    let body = String::from_utf8_lossy(message.body());
    let value = json!({
        "messageId": delivery.message_id(),
        "broker": delivery.broker(),
        "queue": delivery.queue_id(),
        "offset": delivery.offset(),
        "attempt": delivery.attempt(),
        "storeMs": millis(delivery.store_timestamp()),
        "bornMs": millis(delivery.born_timestamp()),
        "tag": message.tag(),
        "keys": message.keys(),
        "messageGroup": message.message_group(),
        "properties": message.properties(),
        "body": body,
        "bodyBytes": message.body().len(),
    });
    format.item(&value).unwrap_or_else(|| {
        format!(
            "MSGID: {} BrokerName: {} QID: {} Offset: {} Stored: {} Tag: {} Keys: {} Attempt: {} BODY: {body}",
            delivery.message_id(),
            delivery.broker(),
            delivery.queue_id(),
            delivery.offset(),
            local_time(millis(delivery.store_timestamp())),
            message.tag().unwrap_or("-"),
            if message.keys().is_empty() { "-".to_owned() } else { message.keys().join(" ") },
            delivery.attempt(),
        )
    })
}

/// Milliseconds since the Unix epoch; 0 when unknown.
fn millis(time: Option<SystemTime>) -> i64 {
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok())
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_times_are_zero() {
        assert_eq!(millis(None), 0);
        assert_eq!(millis(Some(UNIX_EPOCH + Duration::from_millis(1234))), 1234);
    }
}
