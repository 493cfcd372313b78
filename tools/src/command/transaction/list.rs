//! `transaction list`, and the choice of transactions that other commands share.

use super::{State, word};
use crate::target::{Common, Done, Where, report};
use clap::Args;
use kerolox_client::admin::{BrokerAdmin, wire};
use kerolox_model::units::TimeSpan;
use kerolox_report::outcome::Result;
use kerolox_report::output::{CommandReport, local_time, short_duration, table};
use serde_json::{Value, json};

/// Which transactions.
#[derive(Debug, Clone, Args)]
pub(super) struct Selection {
    /// Only of this topic
    #[arg(short = 't', long)]
    pub(super) topic: Option<String>,
    /// Only in these states; without it, the undecided ones
    #[arg(short = 's', long = "state", value_enum, value_delimiter = ',', value_name = "STATE")]
    pub(super) states: Vec<State>,
    /// Only those that were stored longer ago than this, as in 10m or 2h
    #[arg(long, value_name = "AGE")]
    pub(super) older_than: Option<TimeSpan>,
    /// Only those that were stored within this time
    #[arg(long, value_name = "AGE")]
    pub(super) newer_than: Option<TimeSpan>,
    /// Most transactions of each broker
    #[arg(short = 'm', long = "max-num", alias = "maxNum", value_name = "COUNT")]
    pub(super) most: Option<usize>,
}

impl Selection {
    /// The transactions of one broker, in the order in which they were stored.
    pub(super) async fn collect(&self, admin: &BrokerAdmin) -> Result<Vec<wire::TransactionInfo>> {
        let most = self.most.unwrap_or(usize::MAX);
        let now_ms = chrono::Utc::now().timestamp_millis();
        let ago =
            |age: Option<TimeSpan>| age.map_or(0, |age| now_ms.saturating_sub_unsigned(age.as_millis()));
        let mut request = wire::ListTransactionsRequest {
            topic: self.topic.clone().unwrap_or_default(),
            states: self.states.iter().map(|state| state.to_wire().into()).collect(),
            since_ms: ago(self.newer_than),
            until_ms: ago(self.older_than),
            ..Default::default()
        };
        let mut found = Vec::new();
        loop {
            let page = admin.list_transactions(request.clone()).await?;
            found.extend(page.transactions);
            match page.next.filter(|_| found.len() < most) {
                Some(next) => request.from = next,
                None => break,
            }
        }
        found.truncate(most);
        Ok(found)
    }
}

/// Show transactions: without flags, those that wait for their decision
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    brokers: Where,
    #[command(flatten)]
    selection: Selection,
}

impl List {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.brokers.brokers(&self.common, None).await?;
        let mut done = Vec::new();
        for broker in brokers {
            let result = self.selection.collect(&admin.broker(&broker.address)).await;
            done.push(Done { broker, result });
        }
        Ok(report(
            &done,
            |broker, found| match found.as_slice() {
                [] => format!("{}: no such transactions", broker.address),
                found => format!("{}:\n{}", broker.address, text(found)),
            },
            |found| json!({ "transactions": found.iter().map(view).collect::<Vec<_>>() }),
        ))
    }
}

pub(super) fn text(transactions: &[wire::TransactionInfo]) -> String {
    let now_ms = chrono::Utc::now().timestamp_millis();
    let rows = transactions.iter().map(|transaction| {
        vec![
            transaction.transaction_id.clone(),
            transaction.topic.clone(),
            word(transaction.state()).to_owned(),
            short_duration(u64::try_from(now_ms - transaction.stored_ms).unwrap_or(0)),
            transaction.checks.to_string(),
            local_time(transaction.next_check_ms),
            transaction.message_id.clone(),
            transaction.tag.clone(),
            transaction.keys.join(" "),
            transaction.producer.clone(),
        ]
    });
    let header = [
        "Transaction",
        "Topic",
        "State",
        "Age",
        "Checks",
        "Next check",
        "Message id",
        "Tag",
        "Keys",
        "Producer",
    ];
    table(&header, rows)
}

pub(super) fn view(transaction: &wire::TransactionInfo) -> Value {
    json!({
        "transactionId": transaction.transaction_id,
        "messageId": transaction.message_id,
        "topic": transaction.topic,
        "queue": transaction.queue,
        "state": word(transaction.state()),
        "storedMs": transaction.stored_ms,
        "producer": transaction.producer,
        "checks": transaction.checks,
        "nextCheckMs": transaction.next_check_ms,
        "decidedMs": transaction.decided_ms,
        "decidedBy": transaction.decided_by,
        "decidedSource": transaction.decided_source,
        "reason": transaction.decided_reason,
        "offset": transaction.offset,
        "deliverAtMs": transaction.deliver_at_ms,
        "messages": transaction.messages,
        "tag": transaction.tag,
        "keys": transaction.keys,
    })
}
