//! The attempts to get messages stored.

use super::{Producer, SendReceipt};
use crate::address::Endpoints;
use crate::error::{Error, Result};
use crate::route::{Queue, Target};
use crate::rpc::check;
use kerolox_proto::v2;
use std::sync::atomic::Ordering;
use std::time::Duration;

impl Producer {
    /// Sends `messages` until each is stored or not worth another attempt. One result per message, in their order.
    pub(super) async fn dispatch(
        &self,
        topic: &str,
        messages: Vec<v2::Message>,
        target: Target<'_>,
        transactional: bool,
    ) -> Vec<Result<SendReceipt>> {
        let mut results: Vec<Option<Result<SendReceipt>>> = messages.iter().map(|_| None).collect();
        let mut pending: Vec<usize> = (0..messages.len()).collect();
        let mut tried = Vec::new();
        for attempt in 1.. {
            let batch = pending.iter().map(|index| messages[*index].clone()).collect();
            let outcomes = self.attempt(topic, batch, target, &mut tried).await;
            let mut pause: Option<Duration> = None;
            let mut failed = Vec::new();
            for (index, outcome) in pending.into_iter().zip(outcomes) {
                let again = outcome.as_ref().err().and_then(|error| {
                    if transactional {
                        self.policy.next_for_half_message(attempt, error)
                    } else {
                        self.policy.next(attempt, error)
                    }
                });
                if again.is_some() {
                    failed.push(index);
                    pause = pause.max(again);
                }
                results[index] = Some(outcome);
            }
            pending = failed;
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => break,
            }
        }
        results.into_iter().map(|result| result.expect("every message is in the first attempt")).collect()
    }

    /// One request to one queue. One outcome per message.
    async fn attempt(
        &self,
        topic: &str,
        batch: Vec<v2::Message>,
        target: Target<'_>,
        tried: &mut Vec<Endpoints>,
    ) -> Vec<Result<SendReceipt>> {
        let count = batch.len();
        let outcome = self.request(topic, batch, target, tried).await;
        match outcome {
            Ok(outcomes) => outcomes,
            Err(error) => {
                tracing::debug!(topic, %error, "send attempt failed");
                self.member.learn_from(&error);
                vec![Err(error); count]
            }
        }
    }

    async fn request(
        &self,
        topic: &str,
        mut batch: Vec<v2::Message>,
        target: Target<'_>,
        tried: &mut Vec<Endpoints>,
    ) -> Result<Vec<Result<SendReceipt>>> {
        let route = self.member.route(topic).await?;
        let pool = &self.member.caller.pool;
        let penalty = |queue: &Queue| {
            2 * u8::from(!pool.link(&queue.endpoints).is_healthy())
                + u8::from(tried.contains(&queue.endpoints))
        };
        let queue = route
            .pick(target, self.turn.fetch_add(1, Ordering::Relaxed), penalty)
            .ok_or_else(|| Error::NoQueue { topic: topic.to_owned(), purpose: "writable" })?;
        tried.push(queue.endpoints.clone());
        for message in &mut batch {
            message.system_properties.get_or_insert_default().queue_id = queue.id();
        }
        let count = batch.len();
        let answer: v2::SendMessageResponse = self
            .member
            .caller
            .call(
                &pool.link(&queue.endpoints),
                v2::SendMessageRequest { messages: batch },
                |mut client, request| async move { client.send_message(request).await },
            )
            .await?;
        let endpoint = queue.endpoints.to_string();
        if answer.entries.len() != count {
            return Err(Error::Protocol { endpoint, what: "it has not one entry for each message" });
        }
        Ok(answer.entries.into_iter().map(|entry| receipt(&endpoint, entry, queue)).collect())
    }
}

fn receipt(endpoint: &str, entry: v2::SendResultEntry, queue: &Queue) -> Result<SendReceipt> {
    check(endpoint, entry.status)?;
    let present = |text: String| (!text.is_empty()).then_some(text);
    Ok(SendReceipt {
        message_id: entry.message_id,
        transaction_id: present(entry.transaction_id),
        offset: entry.offset,
        broker: queue.broker.clone(),
        queue_id: queue.id(),
        recall_handle: present(entry.recall_handle),
        endpoints: queue.endpoints.clone(),
    })
}
