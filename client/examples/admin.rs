//! Administration: brokers, topics and how far a group has come.
//!
//! ```text
//! deploy/quickstart.sh                                            # in another terminal
//! cargo run --release -p kerolox-client --example admin [-- HOST:PORT]
//! ```

mod common;

use anyhow::Result;
use kerolox_client::admin::wire::{DescribeTopicRequest, ListTopicsRequest};

const TOPIC: &str = "example-admin";

#[tokio::main]
async fn main() -> Result<()> {
    let client = common::client()?;
    common::topic(&client, TOPIC, "NORMAL").await?;
    let admin = client.admin();
    for master in admin.masters(None).await? {
        println!("broker group {} of {} at {}", master.info.group, master.info.cluster, master.address);
        let broker = admin.broker(&master.address);
        for topic in broker.list_topics(ListTopicsRequest::default()).await?.topics {
            println!("  topic {} with {} queues", topic.name, topic.read_queues);
        }
        let request = DescribeTopicRequest { name: TOPIC.to_owned() };
        for queue in broker.describe_topic(request).await?.queues {
            println!(
                "  {TOPIC}, queue {}: offsets {} to {}",
                queue.queue, queue.min_offset, queue.max_offset
            );
        }
    }
    Ok(())
}
