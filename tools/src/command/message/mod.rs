//! Messages: send one, show some.

mod browse;
mod consume;
mod decode;
pub(crate) mod read;
mod resend;
pub(crate) mod show;
mod why;

use crate::target::Common;
use clap::Args;
use kerolox_client::{Message, SendReceipt};
use kerolox_report::outcome::Result;
use kerolox_report::output::{CommandReport, table};
use serde_json::json;

pub(crate) use browse::{Browse, PrintMsg, Tail};
pub(crate) use consume::{Consume, ConsumeMessage};
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
    pub(crate) async fn run(self) -> Result<CommandReport> {
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
fn sent(receipt: &SendReceipt) -> CommandReport {
    let row = vec![
        receipt.broker.clone(),
        receipt.queue_id.to_string(),
        "SEND_OK".to_owned(),
        receipt.message_id.clone(),
    ];
    CommandReport::ok(
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
