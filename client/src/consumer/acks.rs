//! Acknowledgements that are made at the same time go out in one request.

use crate::address::Endpoints;
use crate::delivery::Delivery;
use crate::error::{Error, Result};
use crate::lanes::{Event, Lanes, Limits, Weight, drive};
use crate::member::Member;
use crate::observer::{Noted, Operation};
use crate::rpc::check;
use kerolox_proto::v2;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Acknowledgements of one request: as many as a receive brings messages.
const TOGETHER: usize = 32;
/// Requests to one server about one topic that are under way at the same time.
const IN_FLIGHT: usize = 4;

/// What goes out together: the topic, and where.
type Lane = (String, Endpoints);

/// An acknowledgement that waits.
struct Item {
    entry: v2::AckMessageEntry,
    answer: oneshot::Sender<Result<()>>,
}

impl Weight for Item {
    fn bytes(&self) -> usize {
        1
    }
}

/// Sends the acknowledgements of a consumer.
#[derive(Debug)]
pub(super) struct Acks {
    events: mpsc::UnboundedSender<Event<Lane, Item>>,
}

impl Acks {
    /// Begins to send for a member of `group`.
    pub(super) fn start(member: Arc<Member>, group: String) -> Self {
        let (events, given) = mpsc::unbounded_channel();
        let limits = Limits { linger: Duration::ZERO, messages: TOGETHER, bytes: usize::MAX };
        let group: Arc<str> = group.into();
        let sending = move |lane, batch| send(Arc::clone(&member), Arc::clone(&group), lane, batch);
        tokio::spawn(drive(Lanes::new(limits), given, sending));
        Self { events }
    }

    /// One attempt to acknowledge a delivery at `endpoints`.
    pub(super) async fn ack(&self, delivery: &Delivery, endpoints: Endpoints) -> Result<()> {
        let gone = || Error::invalid("the runtime that sends acknowledgements has ended");
        let message = delivery.message();
        let entry = v2::AckMessageEntry {
            message_id: delivery.message_id().to_owned(),
            receipt_handle: delivery.receipt_handle.clone(),
            lite_topic: message.lite_topic().map(str::to_owned),
        };
        let (answer, answered) = oneshot::channel();
        let key = (message.topic().to_owned(), endpoints);
        let item = Item { entry, answer };
        self.events.send(Event::Item { key, item, width: IN_FLIGHT }).map_err(|_| gone())?;
        answered.await.unwrap_or_else(|_| Err(gone()))
    }
}

async fn send(member: Arc<Member>, group: Arc<str>, (topic, endpoints): Lane, batch: Vec<Item>) {
    let (entries, answers): (Vec<_>, Vec<_>) =
        batch.into_iter().map(|item| (item.entry, item.answer)).unzip();
    let caller = &member.caller;
    let request = v2::AckMessageRequest {
        group: Some(caller.resource(&group)),
        topic: Some(caller.resource(&topic)),
        entries: entries.clone(),
    };
    let started = Instant::now();
    let answer: Result<v2::AckMessageResponse> = caller
        .call(&caller.pool.link(&endpoints), request, |mut client, request| async move {
            client.ack_message(request).await
        })
        .await;
    let results = results(&entries, answer, &endpoints.to_string());
    let failed = results.iter().find_map(|result| result.as_ref().err());
    let noted = Noted { operation: Operation::Ack, topic: &topic, group: Some(&group) };
    caller.observed.tell(&noted.event(entries.len(), started.elapsed(), failed));
    for (answer, result) in answers.into_iter().zip(results) {
        // A cancelled caller does not want to know.
        let _ = answer.send(result);
    }
}

/// What became of each entry: what the answer says of its handle.
fn results(
    entries: &[v2::AckMessageEntry],
    answer: Result<v2::AckMessageResponse>,
    endpoint: &str,
) -> Vec<Result<()>> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return entries.iter().map(|_| Err(error.clone())).collect(),
    };
    // Without entries the status above them was OK, or the call would have failed.
    if answer.entries.is_empty() {
        return entries.iter().map(|_| Ok(())).collect();
    }
    let says = |entry: &v2::AckMessageEntry| {
        let of_it = answer.entries.iter().find(|said| said.receipt_handle == entry.receipt_handle);
        match of_it {
            Some(said) => check(endpoint, said.status.clone()),
            // A server that leaves the handles out answers in order, or for one.
            None if entries.len() == 1 => check(endpoint, answer.entries[0].status.clone()),
            None => Err(Error::Protocol {
                endpoint: endpoint.to_owned(),
                what: "it says nothing about an acknowledgement",
            }),
        }
    };
    entries.iter().map(says).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(handle: &str) -> v2::AckMessageEntry {
        v2::AckMessageEntry { receipt_handle: handle.into(), ..Default::default() }
    }

    fn said(handle: &str, code: v2::Code) -> v2::AckMessageResultEntry {
        let status = Some(v2::Status { code: code.into(), message: String::new() });
        v2::AckMessageResultEntry { receipt_handle: handle.into(), status, ..Default::default() }
    }

    fn told(handles: &[&str], entries: Vec<v2::AckMessageResultEntry>) -> Vec<Option<crate::Code>> {
        let asked: Vec<_> = handles.iter().map(|handle| entry(handle)).collect();
        let answer = Ok(v2::AckMessageResponse { status: None, entries });
        let code = |result: Result<()>| result.err().map(|error| error.code().unwrap_or(crate::Code(0)));
        results(&asked, answer, "b:1").into_iter().map(code).collect()
    }

    #[test]
    fn each_acknowledgement_has_its_own_answer_in_whatever_order_they_come() {
        use v2::Code::{InvalidReceiptHandle, Ok as Done};
        let refused = Some(crate::Code::INVALID_RECEIPT_HANDLE);
        let entries = vec![said("b", InvalidReceiptHandle), said("a", Done)];
        assert_eq!(told(&["a", "b"], entries), [None, refused]);
        assert_eq!(told(&["a", "b"], Vec::new()), [None, None]);
        assert_eq!(told(&["a"], vec![said("", InvalidReceiptHandle)]), [refused]);
        assert_eq!(told(&["a", "b"], vec![said("a", Done)]), [None, Some(crate::Code(0))]);
        let broken = Error::Broken { endpoint: "b:1".into(), reason: String::new() };
        assert!(results(&[entry("a"), entry("b")], Err(broken), "b:1").iter().all(Result::is_err));
    }
}
