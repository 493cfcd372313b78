//! Sends a payment in a transaction, and leaves another one undecided, so the broker asks.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kerolox_client::{Client, Delivery, FilterExpression, Message, Resolution, Verdict};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).expect("usage: payments HOST:PORT");
    let client = Client::builder(address).build()?;

    // Stands for a table of a database.
    let payments: Arc<Mutex<HashSet<String>>> = Arc::default();
    let table = Arc::clone(&payments);
    let producer = client
        .producer()
        .topic("payments")
        .transaction_checker_sync(move |half| {
            let table = table.lock().expect("no thread panics with it");
            let is_there = half.message().keys().iter().any(|key| table.contains(key));
            println!("the broker asks about {:?}", half.message().keys());
            if is_there { Resolution::Commit } else { Resolution::Rollback }
        })
        .start()
        .await?;
    let payment = |key: &str| Message::builder("payments").body(format!("payment {key}")).key(key).build();

    producer
        .in_transaction(payment("p1"), async |_half| {
            payments.lock().expect("no thread panics with it").insert("p1".to_owned());
            Ok::<_, Infallible>(())
        })
        .await?;
    println!("p1 is committed");

    let undecided = producer.send_in_transaction(payment("p2")).await?;
    payments.lock().expect("no thread panics with it").insert("p2".to_owned());
    drop(undecided);
    println!("p2 is stored, and nothing decides it here");

    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let consumer = client
        .push_consumer("ledger")
        .subscribe("payments", FilterExpression::all())
        .start(move |delivery: Arc<Delivery>| {
            let text = String::from_utf8_lossy(delivery.message().body()).into_owned();
            let _ = sender.send(text);
            std::future::ready(Verdict::Done)
        })
        .await?;
    for _ in 0..2 {
        println!("received {}", received.recv().await.expect("the consumer lives"));
    }
    consumer.shutdown(Duration::from_secs(10)).await;
    Ok(())
}
