//! Broadcast: every member of a group gets every message, and keeps its place under its name.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example broadcast [-- HOST:PORT]
//! ```

mod common;

use anyhow::{Result, ensure};
use kerolox_client::{FilterExpression, Message};
use std::time::Duration;

const TOPIC: &str = "example-broadcast";
const GROUP: &str = "example-broadcast-caches";

#[tokio::main]
async fn main() -> Result<()> {
    let client = common::client()?;
    common::topic(&client, TOPIC, "NORMAL").await?;
    common::group(&client, GROUP, false, &["+broadcast=true"]).await?;
    let mut members = Vec::new();
    for node in ["node-1", "node-2"] {
        let member = client.simple_consumer(GROUP).subscribe(TOPIC, FilterExpression::all()).client_id(node);
        let member = member.await_duration(Duration::from_secs(2)).start().await?;
        // A new member begins with what comes from its first receive on.
        member.receive(1, Duration::from_secs(30)).await?;
        members.push(member);
    }
    let producer = client.producer().topic(TOPIC).start().await?;
    producer.send(Message::builder(TOPIC).body("prices changed").build()).await?;
    for member in &members {
        let mut received = Vec::new();
        for _ in 0..10 {
            received.extend(member.receive(8, Duration::from_secs(30)).await?);
            if !received.is_empty() {
                break;
            }
        }
        ensure!(!received.is_empty(), "{} heard nothing", member.client_id());
        for delivery in received {
            println!("{} hears: {}", member.client_id(), common::text(delivery.message()));
            member.ack(&delivery).await?;
        }
    }
    Ok(())
}
