//! Keeps the messages of a customer in order, and those of several customers independent of each other.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example fifo [-- HOST:PORT]
//! ```

mod common;

use anyhow::{Result, ensure};
use kerolox_client::{FilterExpression, Message, Verdict};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::Semaphore;

const TOPIC: &str = "example-fifo";
const GROUP: &str = "example-fifo-billing";
const STEPS: [&str; 3] = ["created", "paid", "shipped"];

#[tokio::main]
async fn main() -> Result<()> {
    let client = common::client()?;
    common::topic(&client, TOPIC, "FIFO").await?;
    common::group(&client, GROUP, true, &[]).await?;

    let producer = client.producer().topic(TOPIC).start().await?;
    let run = std::process::id();
    for step in STEPS {
        for customer in ["ann", "bob"] {
            let message = Message::builder(TOPIC).body(format!("{run} {step}")).message_group(customer);
            producer.send(message.build()).await?;
        }
    }

    let seen: Arc<Mutex<Vec<(String, String)>>> = Arc::default();
    let done = Arc::new(Semaphore::new(0));
    let (listener_seen, listener_done) = (Arc::clone(&seen), Arc::clone(&done));
    let consumer = client
        .push_consumer(GROUP)
        .subscribe(TOPIC, FilterExpression::all())
        .start(move |delivery| {
            let (seen, done) = (Arc::clone(&listener_seen), Arc::clone(&listener_done));
            async move {
                let customer = delivery.message().message_group().unwrap_or_default().to_owned();
                let text = common::text(delivery.message());
                println!("{customer}: {text}, attempt {}", delivery.attempt());
                if text.ends_with("paid") && delivery.attempt() == 1 {
                    // What follows waits; the other customer does not.
                    return Verdict::AgainIn(Duration::from_millis(500));
                }
                if let Some(step) = text.strip_prefix(&format!("{run} ")) {
                    seen.lock().expect("not poisoned").push((customer, step.to_owned()));
                    done.add_permits(1);
                }
                Verdict::Done
            }
        })
        .await?;
    drop(done.acquire_many(6).await?);
    consumer.shutdown(Duration::from_secs(30)).await;
    for customer in ["ann", "bob"] {
        let seen = seen.lock().expect("not poisoned");
        let steps = seen.iter().filter(|(of, _)| of == customer).map(|(_, step)| step.as_str());
        ensure!(steps.eq(STEPS), "out of order: {seen:?}");
    }
    println!("each customer's messages came in order");
    Ok(())
}
