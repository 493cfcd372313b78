//! Sends three orders, and receives them.

use std::time::Duration;

use kerolox_client::{Client, FilterExpression, Message};

#[tokio::main]
async fn main() -> kerolox_client::Result<()> {
    let address = std::env::args().nth(1).expect("usage: orders HOST:PORT");
    let client = Client::builder(address).build()?;

    let producer = client.producer().topic("orders").start().await?;
    for number in 1..=3 {
        let message = Message::builder("orders").body(format!("order {number}")).tag("paid").build();
        let receipt = producer.send(message).await?;
        println!("sent order {number}: {}", receipt.message_id);
    }

    let consumer =
        client.simple_consumer("billing").subscribe("orders", FilterExpression::tag("paid")).start().await?;
    let mut open = 3;
    while open > 0 {
        // Up to 16 messages, which stay invisible to other members of the group for half a minute.
        for delivery in consumer.receive(16, Duration::from_secs(30)).await? {
            println!("received {}", String::from_utf8_lossy(delivery.message().body()));
            consumer.ack(&delivery).await?;
            open -= 1;
        }
    }
    Ok(())
}
