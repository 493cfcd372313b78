//! What must hold after the torture.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use kerolox_client::admin::wire;
use kerolox_client::{Client, FilterExpression, Resolution};
use wire::TransactionState;

use super::producer::answer;
use super::{GROUP, TOPIC};

/// Labels that a failure shows.
const SHOWN: usize = 5;
/// Nothing more comes when nothing came for so long.
const SILENCE: Duration = Duration::from_secs(3);

pub(super) async fn verify(
    stored: &BTreeSet<String>,
    address: &str,
) -> Result<Vec<(&'static str, Result<String, String>)>> {
    let delivered = consume(address).await?;
    let parked = parked(address).await?;
    let labels = |wanted: Resolution| -> Vec<&String> {
        stored.iter().filter(|label| answer(label) == wanted).collect()
    };
    let committed = labels(Resolution::Commit);
    let lost: Vec<_> = committed.iter().filter(|label| !delivered.contains_key(**label)).collect();
    let wrong: Vec<_> = delivered.keys().filter(|label| answer(label) != Resolution::Commit).collect();
    let twice: Vec<_> =
        delivered.iter().filter(|(_, places)| places.len() > 1).map(|(label, _)| label).collect();
    let unknown = labels(Resolution::Unknown);
    let not_parked: Vec<_> = unknown.iter().filter(|label| !parked.contains(**label)).collect();
    let odd: Vec<_> = parked.iter().filter(|label| answer(label) != Resolution::Unknown).collect();
    Ok(vec![
        ("all that is committed is delivered", check(&lost, || format!("{} labels", committed.len()))),
        ("nothing else is delivered", check(&wrong, || format!("{} labels", delivered.len()))),
        ("nothing is visible twice", check(&twice, || format!("{} labels", delivered.len()))),
        ("what nobody can decide is parked", check(&not_parked, || format!("{} labels", unknown.len()))),
        ("nothing else is parked", check(&odd, || format!("{} labels", parked.len()))),
    ])
}

/// One line of a report: what is wrong, or figures when nothing is.
pub(crate) fn check(
    wrong: &[impl std::fmt::Debug],
    figures: impl FnOnce() -> String,
) -> Result<String, String> {
    match wrong {
        [] => Ok(figures()),
        some => Err(format!("{} are wrong, such as {:?}", some.len(), &some[..some.len().min(SHOWN)])),
    }
}

/// Where each label stands that consumers get: queue and offset.
async fn consume(address: &str) -> Result<BTreeMap<String, BTreeSet<(i32, i64)>>> {
    let client = Client::builder(address).build()?;
    let consumer = client.simple_consumer(GROUP).subscribe(TOPIC, FilterExpression::all());
    let consumer = consumer.await_duration(SILENCE).start().await?;
    let mut delivered: BTreeMap<String, BTreeSet<(i32, i64)>> = BTreeMap::new();
    loop {
        let deliveries = consumer.receive(32, Duration::from_secs(60)).await?;
        if deliveries.is_empty() {
            return Ok(delivered);
        }
        for delivery in &deliveries {
            let label = String::from_utf8_lossy(delivery.message().body()).into_owned();
            delivered.entry(label).or_default().insert((delivery.queue_id(), delivery.offset()));
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
