//! What must hold after the torture.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use anyhow::Result;
use kerolox_client::admin::wire;
use kerolox_client::{Client, FilterExpression};
use kerolox_harness::verdict::CheckedProperty;
use kerolox_harness::{MessageHistory, SentMessage, StandingMessage, properties};
use wire::TransactionState;

use super::producer::intent;
use super::{GROUP, TOPIC};

/// The consumer takes as long as this for nothing before a topic counts as read to its end.
const SILENCE: Duration = Duration::from_secs(3);

pub(super) async fn verify(mut history: MessageHistory, address: &str) -> Result<Vec<CheckedProperty>> {
    consume(address, &mut history).await?;
    history.parked = parked(address).await?;
    // A producer that was killed between the answer and its note has sent, too.
    let found = history.standing.iter().map(|message| &message.label).chain(&history.parked);
    for label in found.cloned().collect::<Vec<_>>() {
        let unanswered = SentMessage::new(TOPIC, intent(&label));
        history.sent.entry(label).or_insert(unanswered);
    }
    Ok(vec![
        ("all that is committed is delivered", properties::nothing_lost(&history, &[(GROUP, TOPIC)])),
        ("nothing else is delivered", properties::nothing_else_received(&history)),
        ("nothing is visible twice", properties::stored_once(&history)),
        ("every undecidable transaction is parked", properties::undecided_are_parked(&history)),
        ("nothing else is parked", properties::nothing_else_is_parked(&history)),
    ])
}

/// Receives everything, and notes where it stands; what comes again stands where it stood.
async fn consume(address: &str, history: &mut MessageHistory) -> Result<()> {
    let client = Client::builder(address).build()?;
    let consumer = client.simple_consumer(GROUP).subscribe(TOPIC, FilterExpression::all());
    let consumer = consumer.await_duration(SILENCE).start().await?;
    let mut seen = HashSet::new();
    loop {
        let deliveries = consumer.receive(32, Duration::from_secs(60)).await?;
        if deliveries.is_empty() {
            return Ok(());
        }
        for delivery in &deliveries {
            let label = String::from_utf8_lossy(delivery.message().body()).into_owned();
            history.receive(GROUP, &label);
            let (queue, offset) = (u32::try_from(delivery.queue_id())?, u64::try_from(delivery.offset())?);
            if seen.insert((queue, offset, label.clone())) {
                history.standing.push(StandingMessage { topic: TOPIC, queue, offset, label });
            }
            consumer.ack(delivery).await?;
        }
    }
}

/// Labels of the parked half messages.
async fn parked(address: &str) -> Result<BTreeSet<String>> {
    let client = Client::builder(address).build()?;
    let admin = client.admin().broker(&address.parse()?);
    let mut request =
        wire::ListTransactionsRequest { states: vec![TransactionState::Parked.into()], ..Default::default() };
    let mut labels = BTreeSet::new();
    loop {
        let page = admin.list_transactions(request.clone()).await?;
        for transaction in page.transactions {
            let by = wire::describe_transaction_request::By::TransactionId(transaction.transaction_id);
            let request = wire::DescribeTransactionRequest { by: Some(by) };
            let story = admin.describe_transaction(request).await?;
            let message: kerolox_proto::v2::Message = prost::Message::decode(story.message.as_slice())?;
            labels.insert(String::from_utf8_lossy(&message.body).into_owned());
        }
        match page.next {
            Some(next) => request.from = next,
            None => return Ok(labels),
        }
    }
}
