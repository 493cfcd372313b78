//! Transactions: a message that follows a local transaction, whatever happens to either.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example transaction [-- HOST:PORT]
//! ```

mod common;

use anyhow::{Result, ensure};
use kerolox_client::{FilterExpression, Message, Resolution, TransactionError};
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TOPIC: &str = "example-transaction";

#[tokio::main]
async fn main() -> Result<()> {
    let client = common::client()?;
    common::topic(&client, TOPIC, "TRANSACTION").await?;

    // Stands for a database: the orders that exist.
    let orders: Arc<Mutex<HashSet<String>>> = Arc::default();
    let table = Arc::clone(&orders);
    let producer = client
        .producer()
        .topic(TOPIC)
        .transaction_checker_sync(move |half| {
            // Asked about an undecided message: the truth is where the local work is recorded.
            let exists =
                half.message().keys().iter().any(|key| table.lock().expect("not poisoned").contains(key));
            println!(
                "the broker asks about {:?}: it {}",
                half.message().keys(),
                if exists { "exists" } else { "does not exist" }
            );
            if exists { Resolution::Commit } else { Resolution::Rollback }
        })
        .start()
        .await?;
    let order = |key: &str| Message::builder(TOPIC).body(format!("order {key}")).key(key).build();
    let run = std::process::id();
    let key = |number: u32| format!("{run}-{number}");

    let done = producer
        .in_transaction(order(&key(1)), async |_half| {
            orders.lock().expect("not poisoned").insert(key(1));
            Ok::<_, std::io::Error>(())
        })
        .await?;
    println!("order 1 is {}", done.commit);

    let failed = producer
        .in_transaction(order(&key(2)), async |_half| Err::<(), _>(std::io::Error::other("sold out")))
        .await;
    ensure!(matches!(failed, Err(TransactionError::Failed { .. })), "{failed:?}");
    println!("order 2 is rolled back");

    // The process dies between its local work and its decision: the broker asks.
    let undecided = producer.send_in_transaction(order(&key(3))).await?;
    orders.lock().expect("not poisoned").insert(key(3));
    drop(undecided);

    let consumer = client
        .simple_consumer("example-transaction-billing")
        .subscribe(TOPIC, FilterExpression::all())
        .start()
        .await?;
    let mut expected = HashSet::from([key(1), key(3)]);
    while !expected.is_empty() {
        for delivery in consumer.receive(8, Duration::from_secs(30)).await? {
            println!("received {}", common::text(delivery.message()));
            ensure!(!delivery.message().keys().contains(&key(2)), "what was rolled back came");
            for key in delivery.message().keys() {
                expected.remove(key);
            }
            consumer.ack(&delivery).await?;
        }
    }
    Ok(())
}
