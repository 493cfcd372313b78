//! The attempts to get messages stored.

use super::{Producer, SendReceipt};
use crate::address::Endpoints;
use crate::error::{Error, Result};
use crate::observer::{Noted, Operation};
use crate::route::{Queue, Target};
use crate::rpc::check;
use kerolox_proto::v2;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use tracing::Instrument as _;

/// Where earlier attempts of a send went.
#[derive(Default)]
struct Tried {
    /// Servers that failed; others are preferred.
    endpoints: Vec<Endpoints>,
    /// The broker group that may have stored some of the messages. It alone can tell a repetition.
    doubtful: Option<String>,
}

/// How one attempt went: a result for each message, and which broker group was asked.
struct Outcome {
    results: Vec<Result<SendReceipt>>,
    broker: Option<String>,
}

impl Producer {
    /// Sends `messages` until each is stored or not worth another attempt. One result per message, in their order.
    pub(super) async fn dispatch(
        &self,
        topic: &str,
        messages: Vec<v2::Message>,
        target: Target<'_>,
        transactional: bool,
    ) -> Vec<Result<SendReceipt>> {
        let span = tracing::debug_span!("send", topic, messages = messages.len());
        self.dispatch_within(topic, messages, target, transactional).instrument(span).await
    }

    async fn dispatch_within(
        &self,
        topic: &str,
        messages: Vec<v2::Message>,
        target: Target<'_>,
        transactional: bool,
    ) -> Vec<Result<SendReceipt>> {
        let started = Instant::now();
        let mut results: Vec<Option<Result<SendReceipt>>> = messages.iter().map(|_| None).collect();
        let mut pending: Vec<usize> = (0..messages.len()).collect();
        let mut tried = Tried::default();
        for attempt in 1.. {
            let batch = pending.iter().map(|index| messages[*index].clone()).collect();
            let outcome = self.attempt(topic, batch, target, &mut tried).await;
            let elapsed = started.elapsed();
            let mut pause: Option<Duration> = None;
            let mut failed = Vec::new();
            for (index, result) in pending.into_iter().zip(outcome.results) {
                let again = result.as_ref().err().and_then(|error| {
                    if transactional {
                        self.policy.next_for_half_message(attempt, elapsed, error)
                    } else {
                        self.policy.next(attempt, elapsed, error)
                    }
                });
                if again.is_some() {
                    failed.push(index);
                    pause = pause.max(again);
                    let is_doubtful = result.as_ref().is_err_and(Error::may_have_taken_effect);
                    if is_doubtful && !self.may_duplicate {
                        tried.doubtful.clone_from(&outcome.broker);
                    }
                }
                results[index] = Some(result);
            }
            pending = failed;
            match pause {
                Some(pause) => tokio::time::sleep(pause).await,
                None => break,
            }
        }
        results.into_iter().map(|result| result.expect("every message is in the first attempt")).collect()
    }

    /// One request to one queue.
    async fn attempt(
        &self,
        topic: &str,
        batch: Vec<v2::Message>,
        target: Target<'_>,
        tried: &mut Tried,
    ) -> Outcome {
        let count = batch.len();
        match self.choose(topic, target, tried).await {
            Ok(queue) => {
                let result = self.request(topic, batch, &queue).await;
                let results = result.unwrap_or_else(|error| self.all_failed(topic, error, count));
                Outcome { results, broker: Some(queue.broker) }
            }
            Err(error) => Outcome { results: self.all_failed(topic, error, count), broker: None },
        }
    }

    fn all_failed(&self, topic: &str, error: Error, count: usize) -> Vec<Result<SendReceipt>> {
        tracing::debug!(topic, %error, "send attempt failed");
        self.member.learn_from(&error);
        vec![Err(error); count]
    }

    async fn choose(&self, topic: &str, target: Target<'_>, tried: &mut Tried) -> Result<Queue> {
        let route = self.member.route(topic).await?;
        let pool = &self.member.caller.pool;
        let penalty = |queue: &Queue| {
            2 * u8::from(!pool.link(&queue.endpoints).is_healthy())
                + u8::from(tried.endpoints.contains(&queue.endpoints))
        };
        let target = match (&tried.doubtful, target) {
            (Some(name), Target::Any) => Target::Broker { name, queue: None },
            (_, target) => target,
        };
        let queue = route
            .pick(target, self.turn.fetch_add(1, Ordering::Relaxed), penalty)
            .cloned()
            .ok_or_else(|| Error::NoQueue { topic: topic.to_owned(), purpose: "writable" })?;
        tried.endpoints.push(queue.endpoints.clone());
        Ok(queue)
    }

    async fn request(
        &self,
        topic: &str,
        mut batch: Vec<v2::Message>,
        queue: &Queue,
    ) -> Result<Vec<Result<SendReceipt>>> {
        let mut ids = Vec::with_capacity(batch.len());
        for message in &mut batch {
            let system = message.system_properties.get_or_insert_default();
            system.queue_id = queue.id();
            ids.push(system.message_id.clone());
        }
        let caller = &self.member.caller;
        let started = Instant::now();
        let answer: Result<v2::SendMessageResponse> = caller
            .call(
                &caller.pool.link(&queue.endpoints),
                v2::SendMessageRequest { messages: batch },
                |mut client, request| async move { client.send_message(request).await },
            )
            .await;
        let results = answer.and_then(|answer| receipts(answer, &ids, queue));
        let error = match &results {
            Ok(results) => results.iter().find_map(|result| result.as_ref().err()),
            Err(error) => Some(error),
        };
        let noted = Noted { operation: Operation::Send, topic, group: None };
        caller.observed.tell(&noted.event(ids.len(), started.elapsed(), error));
        results
    }
}

/// What became of each of the messages with these ids.
fn receipts(
    mut answer: v2::SendMessageResponse,
    ids: &[String],
    queue: &Queue,
) -> Result<Vec<Result<SendReceipt>>> {
    let endpoint = queue.endpoints.to_string();
    // Apache's proxy stores a batch as one, at consecutive offsets, and answers with one entry for all of it.
    if let [whole] = answer.entries.as_slice()
        && ids.len() > 1
    {
        let entry = |(id, offset): (&String, i64)| v2::SendResultEntry {
            message_id: id.clone(),
            offset,
            ..whole.clone()
        };
        answer.entries = ids.iter().zip(whole.offset..).map(entry).collect();
    }
    if answer.entries.len() != ids.len() {
        return Err(Error::Protocol { endpoint, what: "it has not one entry for each message" });
    }
    Ok(answer.entries.into_iter().map(|entry| receipt(&endpoint, entry, queue)).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> Queue {
        let endpoints = Endpoints::new(vec![crate::Address::new("h", 1)]).unwrap().to_wire();
        let broker = v2::Broker { name: "a".into(), id: 0, endpoints: Some(endpoints) };
        Queue::from_wire(v2::MessageQueue { broker: Some(broker), ..Default::default() }).unwrap()
    }

    fn entry(code: v2::Code, id: &str, offset: i64) -> v2::SendResultEntry {
        let status = Some(v2::Status { code: code.into(), message: String::new() });
        v2::SendResultEntry { status, message_id: id.into(), offset, ..Default::default() }
    }

    fn told(entries: Vec<v2::SendResultEntry>) -> Result<Vec<Option<(String, i64)>>> {
        let answer = v2::SendMessageResponse { status: None, entries };
        let results = receipts(answer, &["x".to_owned(), "y".to_owned()], &queue())?;
        let place = |receipt: SendReceipt| (receipt.message_id, receipt.offset);
        Ok(results.into_iter().map(|result| result.ok().map(place)).collect())
    }

    #[test]
    fn an_answer_has_an_entry_for_each_message_or_one_for_the_whole_batch() {
        use v2::Code::{Ok as Stored, TooManyRequests};
        let each = told(vec![entry(Stored, "x", 7), entry(TooManyRequests, "y", 0)]).unwrap();
        assert_eq!(each, [Some(("x".into(), 7)), None]);
        let whole = told(vec![entry(Stored, "x,y", 7)]).unwrap();
        assert_eq!(whole, [Some(("x".into(), 7)), Some(("y".into(), 8))]);
        assert_eq!(told(vec![entry(TooManyRequests, "", 0)]).unwrap(), [None, None]);
        assert!(matches!(told(Vec::new()), Err(Error::Protocol { .. })));
    }
}
