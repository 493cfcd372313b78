//! What stands in the queues of the master.

use anyhow::{Context, Result, ensure};
use kerolox_client::admin::{BrokerAdmin, wire};
use kerolox_client::{Address, Client};
use kerolox_harness::{QueueEnd, StandingMessage};
use wire::query_messages_request::By;
use wire::queue_place::From;

use super::label;

/// Messages of a page.
const PAGE: u32 = 256;

/// Everything in the queues of `topics`, and their ends.
pub(super) async fn read(
    client: &Client,
    master: &Address,
    topics: &[&'static str],
) -> Result<(Vec<StandingMessage>, Vec<QueueEnd>)> {
    let admin = client.admin().broker(master);
    let (mut standing, mut ends) = (Vec::new(), Vec::new());
    for &topic in topics {
        let described = admin.describe_topic(wire::DescribeTopicRequest { name: topic.to_owned() }).await?;
        for status in described.queues {
            ends.push(QueueEnd { topic, queue: status.queue, offset: status.max_offset });
            read_queue(&admin, topic, status.queue, &mut standing)
                .await
                .with_context(|| format!("reading queue {} of {topic}", status.queue))?;
        }
    }
    Ok((standing, ends))
}

async fn read_queue(
    admin: &BrokerAdmin,
    topic: &'static str,
    queue: u32,
    standing: &mut Vec<StandingMessage>,
) -> Result<()> {
    let mut offset = 0;
    loop {
        let place = wire::QueuePlace { queue, from: Some(From::Offset(offset)) };
        let request = wire::QueryMessagesRequest {
            topic: topic.to_owned(),
            by: Some(By::Place(place)),
            limit: PAGE,
            ..Default::default()
        };
        let page = admin.query_messages(request).await?;
        ensure!(page.damaged == 0, "{} messages cannot be read", page.damaged);
        for stored in page.messages {
            let message: kerolox_proto::v2::Message = prost::Message::decode(stored.message.as_slice())?;
            let offset = stored.offset.context("a message in a queue has an offset")?;
            standing.push(StandingMessage {
                topic,
                queue: stored.queue,
                offset,
                label: label::of(&message.body),
            });
        }
        if page.next == 0 {
            return Ok(());
        }
        offset = page.next;
    }
}
