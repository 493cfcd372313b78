//! `transaction show`.

use super::{list, owner, word};
use crate::target::{Common, Where};
use clap::Args;
use kerolox_client::admin::wire;
use kerolox_proto::v2;
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::{self, CommandReport, local_time};
use prost::Message as _;
use serde_json::{Value, json};
use wire::describe_transaction_request::By;

/// Show a transaction in full: when it was stored and by whom, each check-back and its answer, the decision, and the
/// groups that have had the message
#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = false, args = ["id", "message_id"])]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    brokers: Where,
    /// The transaction's id
    #[arg(value_name = "TRANSACTION_ID")]
    id: Option<String>,
    /// The id of its message instead
    #[arg(short = 'i', long = "msg-id", alias = "msgId", value_name = "ID")]
    message_id: Option<String>,
}

impl Show {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let story = self.story().await?;
        Ok(CommandReport::ok(text(&story), view(&story)))
    }

    async fn story(&self) -> Result<wire::DescribeTransactionResponse> {
        if let Some(id) = &self.id {
            let (admin, broker) = owner(&self.brokers, &self.common, id).await?;
            let request = wire::DescribeTransactionRequest { by: Some(By::TransactionId(id.clone())) };
            return Ok(admin.broker(&broker.address).describe_transaction(request).await?);
        }
        let message_id = self.message_id.clone().unwrap_or_default();
        let (admin, brokers) = self.brokers.brokers(&self.common, None).await?;
        for broker in brokers {
            let request = wire::DescribeTransactionRequest { by: Some(By::MessageId(message_id.clone())) };
            match admin
                .broker(&broker.address)
                .describe_transaction(request)
                .await
                .map_err(CommandFailure::from)
            {
                Err(failure) if failure.exit == ExitStatus::NotFound => {}
                answered => return answered,
            }
        }
        Err(CommandFailure::not_found(format!(
            "no broker has a transaction with message id {message_id}; it may be too old"
        )))
    }
}

fn text(story: &wire::DescribeTransactionResponse) -> String {
    let transaction = story.transaction.clone().unwrap_or_default();
    let mut lines = vec![
        format!("Transaction  {}", transaction.transaction_id),
        format!("State        {}", word(transaction.state())),
        format!("Topic        {}, queue {}", transaction.topic, transaction.queue),
        format!("Message id   {}", transaction.message_id),
        format!("Stored       {} by {}", local_time(transaction.stored_ms), transaction.producer),
    ];
    lines.extend(story.member_ids.iter().map(|id| format!("Together with {id}")));
    let message = v2::Message::decode(story.message.as_slice()).unwrap_or_default();
    let system = message.system_properties.unwrap_or_default();
    for (name, value) in [
        ("Tag", system.tag.unwrap_or_default()),
        ("Keys", system.keys.join(" ")),
        ("Group", system.message_group.unwrap_or_default()),
    ] {
        if !value.is_empty() {
            lines.push(format!("{name:<12} {value}"));
        }
    }
    if transaction.deliver_at_ms != 0 {
        lines.push(format!("Deliver at   {}", local_time(transaction.deliver_at_ms)));
    }
    lines.push(format!("Checks       {}", transaction.checks));
    for check in &story.checks {
        let answer = match check.answer.as_str() {
            "none" => "no answer".to_owned(),
            answer => format!("{answer} at {} by {}", local_time(check.answered_ms), check.answered_by),
        };
        lines.push(format!("             {} asked {}: {answer}", local_time(check.at_ms), check.asked));
    }
    if transaction.next_check_ms != 0 {
        lines.push(format!("Next check   {}", local_time(transaction.next_check_ms)));
    }
    if transaction.decided_ms != 0 {
        lines.push(format!(
            "Decided      {} by {} ({}){}",
            local_time(transaction.decided_ms),
            transaction.decided_by,
            transaction.decided_source,
            if transaction.decided_reason.is_empty() {
                String::new()
            } else {
                format!(": {}", transaction.decided_reason)
            },
        ));
    }
    if let Some(offset) = transaction.offset {
        lines.push(format!("Visible at   offset {offset} of queue {}", transaction.queue));
        if story.deliveries.is_empty() {
            lines.push("Delivered    no group has had it".to_owned());
        }
    }
    for delivery in &story.deliveries {
        let state = match (delivery.acknowledged, delivery.attempts) {
            (true, _) => "acknowledged".to_owned(),
            (false, 0) => "not acknowledged".to_owned(),
            (false, attempts) => format!("not acknowledged, {attempts} failed deliveries"),
        };
        lines.push(format!("Delivered    group {}: {state}", delivery.group));
    }
    output::lines(&lines)
}

fn view(story: &wire::DescribeTransactionResponse) -> Value {
    let mut view = list::view(&story.transaction.clone().unwrap_or_default());
    let message = v2::Message::decode(story.message.as_slice()).unwrap_or_default();
    let system = message.system_properties.unwrap_or_default();
    let check = |check: &wire::TransactionCheck| {
        json!({
            "atMs": check.at_ms, "asked": check.asked, "answer": check.answer,
            "answeredMs": check.answered_ms, "answeredBy": check.answered_by,
        })
    };
    let delivery = |delivery: &wire::TransactionDelivery| {
        json!({
            "group": delivery.group, "acknowledged": delivery.acknowledged, "attempts": delivery.attempts,
        })
    };
    view["checkBacks"] = story.checks.iter().map(check).collect();
    view["deliveries"] = story.deliveries.iter().map(delivery).collect();
    view["memberIds"] = json!(story.member_ids);
    view["tag"] = json!(system.tag);
    view["keys"] = json!(system.keys);
    view["messageGroup"] = json!(system.message_group);
    view["properties"] = json!(message.user_properties);
    view["body"] = json!(String::from_utf8_lossy(&message.body));
    view
}
