//! `consume`: messages on the standard output, as a consumer group or without one.

use super::browse::{Printing, Selection};
use super::read::{Read, Start, Wanted};
use super::show::Writing;
use crate::command::offset::parse_time;
use crate::target::{Common, Where};
use clap::Args;
use kerolox_client::{Delivery, FilterExpression, SimpleConsumer, SimpleConsumerBuilder};
use kerolox_core::filter::Filter;
use kerolox_proto::v2;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;
use serde_json::Value;
use std::io::ErrorKind;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Time to write and acknowledge one batch, before its messages go to another consumer.
const INVISIBLE: Duration = Duration::from_secs(30);
/// Most messages of one receive.
const BATCH_MAX: usize = 32;
/// Longest poll.
const POLL: Duration = Duration::from_secs(2);

/// Show messages of a topic as they come; with -g they are consumed
///
/// With -g each message is acknowledged after it was written, so that the group does not get it again; the group begins where it stands,
/// see `group reset`. Without -g nothing is consumed, and --from says where to begin.
#[derive(Debug, Args)]
pub(crate) struct Consume {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    selection: Selection,
    /// Consume as this group
    #[arg(short = 'g', long = "group", aliases = ["consumer-group", "consumerGroup"])]
    group: Option<String>,
    /// Where to begin: earliest, latest, a time (milliseconds since 1970, 2026-01-31T08:00:00Z), or offset:N
    #[arg(long, default_value = "earliest", conflicts_with = "group", value_name = "PLACE")]
    from: Start,
    /// Stop after so long without a message
    #[arg(long, value_name = "SECONDS")]
    idle: Option<u64>,
}

impl Consume {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let consuming = async {
            match &self.group {
                Some(group) => self.as_group(group).await,
                None => {
                    let idle = self.idle.map_or(Duration::MAX, Duration::from_secs);
                    self.selection.print(&self.common, self.from, None, Some(idle)).await
                }
            }
        };
        tokio::select! {
            consumed = consuming => consumed,
            _ = tokio::signal::ctrl_c() => Ok(CommandReport::ok(String::new(), Value::Null)),
        }
    }

    async fn as_group(&self, group: &str) -> Result<CommandReport> {
        let filter = match &self.selection.sql {
            Some(condition) => FilterExpression::sql(condition),
            None => FilterExpression::tag(&self.selection.tags),
        };
        let client = self.selection.place.client(&self.common)?;
        let consumer = client.simple_consumer(group).subscribe(&self.selection.topic, filter);
        let consuming = Consuming {
            topic: &self.selection.topic,
            most: self.selection.most,
            idle: self.idle.map(Duration::from_secs),
            writing: self.selection.writing(&self.common),
        };
        consuming.run(consumer).await
    }
}

/// Print messages of a topic, the oldest of each queue first
///
/// Without -g nothing is consumed; with it each message counts as consumed by that group when it was printed. `consume` can do more.
#[derive(Debug, Args)]
pub(crate) struct ConsumeMessage {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// Consume as this group, from where it stands
    #[arg(short = 'g', long = "consumer-group", alias = "consumerGroup")]
    #[arg(conflicts_with_all = ["broker", "queue", "offset", "begin", "end"])]
    group: Option<String>,
    /// Only this broker group
    #[arg(short = 'b', long = "broker-name", alias = "brokerName", value_name = "BROKER_NAME")]
    broker: Option<String>,
    /// Only this queue of it
    #[arg(short = 'i', long = "queue-id", alias = "queueId", requires = "broker", value_name = "QUEUE")]
    queue: Option<u32>,
    /// From this offset of the queue on
    #[arg(short = 'o', long, requires = "queue", conflicts_with = "begin")]
    offset: Option<u64>,
    /// Stored at or after this time: milliseconds since 1970, or yyyy-MM-dd#HH:mm:ss:SSS
    #[arg(short = 's', long = "begin-timestamp", alias = "beginTimestamp", value_parser = parse_time, value_name = "TIME")]
    begin: Option<i64>,
    /// Stored before this time
    #[arg(short = 'e', long = "end-timestamp", alias = "endTimestamp", value_parser = parse_time, value_name = "TIME")]
    end: Option<i64>,
    /// Stop after this many messages
    #[arg(
        short = 'c',
        long = "message-number",
        aliases = ["MessageNumber", "messageNumber"],
        default_value_t = 128,
        value_name = "COUNT"
    )]
    count: u64,
    /// Stop when no message came for this many seconds
    #[arg(long, default_value_t = 5, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    wait: u64,
}

impl ConsumeMessage {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let idle = Duration::from_secs(self.wait);
        let writing = match Writing::new(self.common.output, None) {
            Writing::Line => Writing::Classic,
            document => document,
        };
        if let Some(group) = &self.group {
            let consumer = self.common.client()?.simple_consumer(group);
            let consumer = consumer.subscribe(&self.topic, FilterExpression::all());
            let consuming =
                Consuming { topic: &self.topic, most: Some(self.count), idle: Some(idle), writing };
            return consuming.run(consumer).await;
        }
        let start = match (self.offset, self.begin) {
            (Some(offset), _) => Start::Offset(offset),
            (None, Some(begin)) => Start::TimeMs(begin),
            (None, None) => Start::Earliest,
        };
        let wanted = Wanted {
            topic: self.topic,
            start,
            until_ms: self.end,
            broker: self.broker,
            queue: self.queue,
            lite: None,
        };
        let printing = Printing {
            place: &Where::default(),
            wanted,
            filter: Filter::tags("*").map_err(CommandFailure::usage)?,
            most: Some(self.count),
            writing,
        };
        printing.print(&self.common, Some(idle)).await
    }
}

/// Messages that are consumed as a group, and written.
struct Consuming<'a> {
    topic: &'a str,
    most: Option<u64>,
    /// It ends after so long without a message.
    idle: Option<Duration>,
    writing: Writing,
}

impl Consuming<'_> {
    async fn run(self, consumer: SimpleConsumerBuilder) -> Result<CommandReport> {
        let poll = self.idle.map_or(POLL, |idle| idle.min(POLL));
        let consumer = consumer.await_duration(poll).start().await?;
        let written = self.write_all(&consumer).await;
        consumer.shutdown().await;
        written.map(|()| CommandReport::ok(String::new(), Value::Null))
    }

    async fn write_all(&self, consumer: &SimpleConsumer) -> Result<()> {
        let mut left = self.most.unwrap_or(u64::MAX);
        let mut last = tokio::time::Instant::now();
        while left > 0 && self.idle.is_none_or(|idle| last.elapsed() < idle) {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(BATCH_MAX);
            for delivery in consumer.receive(room, INVISIBLE).await? {
                last = tokio::time::Instant::now();
                left -= 1;
                match super::browse::write(&self.writing.write(&read(self.topic, &delivery))) {
                    Ok(()) => consumer.ack(&delivery).await?,
                    // The reader of our output has seen enough; unwritten messages are not acknowledged.
                    Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(()),
                    Err(error) => {
                        return Err(CommandFailure::failed(format!(
                            "cannot write to the standard output: {error}"
                        )));
                    }
                }
            }
        }
        Ok(())
    }
}

/// A delivery as it would be read.
fn read(topic: &str, delivery: &Delivery) -> Read {
    let message = delivery.message();
    let system = v2::SystemProperties {
        message_id: delivery.message_id().to_owned(),
        tag: message.tag().map(str::to_owned),
        keys: message.keys().to_vec(),
        delivery_attempt: i32::try_from(delivery.attempt()).ok(),
        message_group: message.message_group().map(str::to_owned),
        lite_topic: message.lite_topic().map(str::to_owned),
        priority: message.priority().and_then(|priority| i32::try_from(priority).ok()),
        born_timestamp: delivery.born_timestamp().map(prost_types::Timestamp::from),
        delivery_timestamp: message.delivery_timestamp().map(prost_types::Timestamp::from),
        ..Default::default()
    };
    Read {
        broker: delivery.broker().to_owned(),
        queue: u32::try_from(delivery.queue_id()).unwrap_or_default(),
        offset: u64::try_from(delivery.offset()).unwrap_or_default(),
        store_ms: millis(delivery.store_timestamp()),
        message: v2::Message {
            topic: Some(v2::Resource { name: topic.to_owned(), ..Default::default() }),
            user_properties: message.properties().clone(),
            system_properties: Some(system),
            body: message.body().clone(),
        },
    }
}

fn millis(time: Option<SystemTime>) -> i64 {
    let since_epoch = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since_epoch.and_then(|since| i64::try_from(since.as_millis()).ok()).unwrap_or(0)
}
