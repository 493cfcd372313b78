//! Sends messages and receives them when the application asks: the simple consumer.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example simple [-- HOST:PORT]
//! ```

mod common;

use anyhow::Result;
use futures_util::TryStreamExt as _;
use kerolox_client::{FilterExpression, Message};
use std::pin::pin;
use std::time::Duration;

const TOPIC: &str = "example-simple";

#[tokio::main]
async fn main() -> Result<()> {
    let client = common::client()?;
    common::topic(&client, TOPIC, "NORMAL").await?;

    let producer = client.producer().topic(TOPIC).start().await?;
    for (number, tag) in [(1, "created"), (2, "paid"), (3, "created")] {
        let order = Message::builder(TOPIC).body(format!("order {number}")).tag(tag).key(number.to_string());
        let receipt = producer.send(order.build()).await?;
        println!("sent order {number}: {} at offset {}", receipt.message_id, receipt.offset);
    }

    let consumer = client
        .simple_consumer("example-simple-billing")
        .subscribe(TOPIC, FilterExpression::tag("created"))
        .start()
        .await?;
    // No other consumer of the group gets the received messages, for half a minute.
    let mut deliveries = pin!(consumer.deliveries(16, Duration::from_secs(30)));
    for _ in 0..2 {
        let Some(delivery) = deliveries.try_next().await? else { break };
        println!("received {}, attempt {}", common::text(delivery.message()), delivery.attempt());
        consumer.ack(&delivery).await?;
    }
    Ok(())
}
