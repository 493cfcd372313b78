//! Lite topics: one small topic for each session, subscribed to while the consumer is at work.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example lite [-- HOST:PORT]
//! ```

mod common;

use anyhow::Result;
use kerolox_client::Message;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

const TOPIC: &str = "example-lite";

#[tokio::main]
async fn main() -> Result<()> {
    let client = common::client()?;
    common::topic(&client, TOPIC, "LITE").await?;
    let heard = Arc::new(Semaphore::new(0));
    let listener_heard = Arc::clone(&heard);
    let consumer = client
        .lite_push_consumer("example-lite-agents", TOPIC)
        .start(move |delivery| {
            let heard = Arc::clone(&listener_heard);
            async move {
                let session = delivery.message().lite_topic().unwrap_or_default();
                println!("{session}: {}", common::text(delivery.message()));
                heard.add_permits(1);
                Ok::<_, std::convert::Infallible>(())
            }
        })
        .await?;
    let session = format!("session-{}", std::process::id());
    consumer.topics().subscribe(&session).await?;
    println!("subscribed to {:?}", consumer.topics().subscribed());

    let producer = client.producer().topic(TOPIC).start().await?;
    for text in ["hello", "will it rain?"] {
        producer.send(Message::builder(TOPIC).body(text).lite_topic(&session).build()).await?;
    }
    drop(heard.acquire_many(2).await?);
    consumer.topics().unsubscribe(&session).await?;
    consumer.shutdown(Duration::from_secs(30)).await;
    Ok(())
}
