//! ReceiveMessage: long polling.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::delivery::{Held, Picked};
use kerolox_core::filter::Filter;
use kerolox_core::group::Group;
use kerolox_core::topic::Topic;
use kerolox_kit::access::Items;
use kerolox_kit::headers::ClientHeaders;
use kerolox_kit::process::now_ms;
use kerolox_kit::refusal::{Refusal, ok_status};
use kerolox_model::limits::{INVISIBLE_MS_MAX, INVISIBLE_MS_MIN, RECEIVE_BATCH_MAX};
use kerolox_model::token::ReceiptHandle;
use kerolox_proto::raw::{self, receive_message_response::Content};
use kerolox_proto::v2::{self, Code};
use kerolox_store::StoreError;
use tokio::time::Instant;
use tokio_stream::Stream;
use tonic::Status;

use super::{Context, parse_filter};
use crate::delivery::Subscription;
use crate::engine::refused_by_store;
use crate::wire::{self, Delivery, Irregular};

/// Longest poll, whatever the client asks for (RocketMQ's limit).
const POLL_MAX: Duration = Duration::from_secs(20);
/// Poll of a client that names neither a poll time nor a deadline.
const POLL_DEFAULT: Duration = Duration::from_secs(15);
/// The answer leaves this long before the client's deadline: the Rust SDK's deadline is the poll time itself.
const DEADLINE_MARGIN: Duration = Duration::from_millis(300);
/// What the Go SDK adds to the time that it wants to wait, when it names no poll time: half of its request timeout.
const UNNAMED_POLL_RESERVE: Duration = Duration::from_millis(1500);

/// A message that lies in a damaged part of the log is tried again after this time: by then somebody may have mended it.
const DAMAGED_AGAIN_MS: i64 = 10 * 60_000;

/// A receive request, understood.
struct Wanted {
    topic: Arc<Topic>,
    group: Arc<Group>,
    filter: Filter,
    max: usize,
    held: Held,
    until: Instant,
}

/// Hands out messages, waiting for some if there are none. The queue that the client names is not looked at: every
/// consumer may receive from every queue of this broker, as with RocketMQ's proxy, and SDKs that know queue 0 only miss
/// nothing.
pub(super) async fn receive_message(
    context: &Arc<Context>,
    client: &ClientHeaders,
    request: v2::ReceiveMessageRequest,
) -> Result<Items<raw::ReceiveMessageResponse>, Refusal> {
    let wanted = understand(context, client, &request).await?;
    let subscription = context.deliveries.subscription(&wanted.group, &wanted.topic)?;
    loop {
        let picked = pick(context, client, &wanted, &subscription);
        if picked.is_empty() {
            if !wait(context, &wanted, &subscription).await {
                subscription.pass_on();
                return Err(Refusal::new(Code::MessageNotFound, "no new message"));
            }
            continue;
        }
        let mut batch = Batch {
            context: context.clone(),
            subscription: subscription.clone(),
            messages: Vec::new(),
            sent: 0,
            head: None,
        };
        let skipped = batch.fill(&wanted, picked)?;
        if skipped {
            context.deliveries.progress().note(&subscription);
        }
        if !batch.messages.is_empty() {
            batch.head = Some(Content::Status(ok_status()));
            return Ok(Box::pin(batch));
        }
    }
}

async fn understand(
    context: &Context,
    client: &ClientHeaders,
    request: &v2::ReceiveMessageRequest,
) -> Result<Wanted, Refusal> {
    let received = Instant::now();
    let filter = parse_filter(request.filter_expression.as_ref())?;
    let held = held_of(request)?;
    let queue = request.message_queue.as_ref();
    let topic = context.topic(queue.and_then(|queue| queue.topic.as_ref()))?;
    if !topic.is_readable() {
        return Err(Refusal::new(
            Code::Forbidden,
            format!(
                "topic {name} may not be read (its perm has no read bit); change it with `mqadmin updateTopic -t {name} -p 6`",
                name = topic.name
            ),
        ));
    }
    let group = context.group(request.group.as_ref()).await?;
    let max = usize::try_from(request.batch_size).unwrap_or(0).clamp(1, RECEIVE_BATCH_MAX);
    let until =
        received + poll_time(request.long_polling_timeout.as_ref().map(wire::duration_ms), client.timeout);
    Ok(Wanted { topic, group, filter, max, held, until })
}

fn held_of(request: &v2::ReceiveMessageRequest) -> Result<Held, Refusal> {
    if request.auto_renew {
        return Ok(Held::WhileAlive);
    }
    let ms = request.invisible_duration.as_ref().map_or(0, wire::duration_ms);
    if (INVISIBLE_MS_MIN..=INVISIBLE_MS_MAX).contains(&ms) {
        return Ok(Held::For(ms));
    }
    Err(Refusal::new(
        Code::IllegalInvisibleTime,
        format!(
            "an invisible duration of {ms} ms is not between {INVISIBLE_MS_MIN} ms and {INVISIBLE_MS_MAX} ms; choose one that covers the time that processing takes"
        ),
    ))
}

/// How long to wait for messages.
fn poll_time(asked_ms: Option<u64>, deadline: Option<Duration>) -> Duration {
    let wanted = match (asked_ms, deadline) {
        (Some(ms), _) => Duration::from_millis(ms),
        (None, Some(deadline)) => deadline.saturating_sub(UNNAMED_POLL_RESERVE),
        (None, None) => POLL_DEFAULT,
    };
    let allowed = deadline.map_or(POLL_MAX, |deadline| deadline.saturating_sub(DEADLINE_MARGIN));
    wanted.min(POLL_MAX).min(allowed)
}

fn pick(
    context: &Context,
    client: &ClientHeaders,
    wanted: &Wanted,
    subscription: &Arc<Subscription>,
) -> Vec<Picked> {
    let alive = |client: &str| context.clients.is_alive(client);
    let picked = subscription.receive(now_ms(), wanted.max, wanted.held, &client.client_id, alive);
    if picked.iter().any(|message| message.attempt > 1) {
        // The failed attempts are worth remembering over a restart.
        context.deliveries.progress().note(subscription);
    }
    picked
}

/// Waits until there may be something to receive; `false` when the time is up.
async fn wait(context: &Context, wanted: &Wanted, subscription: &Subscription) -> bool {
    let now = Instant::now();
    if now >= wanted.until {
        return false;
    }
    let due = subscription.next_due_ms().map_or(POLL_MAX, |due_ms| {
        Duration::from_millis(u64::try_from(due_ms.saturating_sub(now_ms())).unwrap_or(0))
    });
    tokio::select! {
        () = subscription.arrival() => true,
        () = tokio::time::sleep_until(wanted.until.min(now + due)) => Instant::now() < wanted.until,
        () = context.shutdown.requested() => false,
    }
}

/// The messages of one answer on their way to the client. What was not sent when the client goes away is given back, so
/// that it need not wait for its invisible duration to end.
struct Batch {
    context: Arc<Context>,
    subscription: Arc<Subscription>,
    messages: Vec<(Picked, Bytes)>,
    sent: usize,
    /// The item that comes next, before any more messages.
    head: Option<Content>,
}

impl Batch {
    /// Reads the messages, and leaves out those that the filter does not want; the answer tells whether there were any.
    fn fill(&mut self, wanted: &Wanted, picked: Vec<Picked>) -> Result<bool, Refusal> {
        let mut skipped = Vec::new();
        for (i, message) in picked.iter().enumerate() {
            match read(&self.context, wanted, message) {
                Ok(Some(found)) => self.messages.push((message.clone(), found)),
                Ok(None) => skipped.push(message.clone()),
                Err(Unread::Damaged) => self.put_away(message),
                Err(Unread::Refused(refusal)) => {
                    self.subscription.give_back(now_ms(), &picked[i..]);
                    self.subscription.skip(&skipped);
                    return Err(refusal);
                }
            }
        }
        self.subscription.skip(&skipped);
        Ok(!skipped.is_empty())
    }

    /// Keeps a message that cannot be read from being tried again and again in front of all others. It is not done: the
    /// group sees it in its lag until somebody mends the log or gives it up.
    fn put_away(&self, message: &Picked) {
        let later = now_ms().saturating_add(DAMAGED_AGAIN_MS);
        self.subscription.give_back(later, std::slice::from_ref(message));
    }
}

/// Why a message cannot be handed out.
#[derive(Debug)]
enum Unread {
    /// It lies in a damaged part of the log.
    Damaged,
    /// Nothing can be handed out now.
    Refused(Refusal),
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        if error.is_damage() { Self::Damaged } else { Self::Refused(refused_by_store(&error)) }
    }
}

/// The encoded message as the client gets it; `None` when the filter does not want it.
fn read(context: &Context, wanted: &Wanted, picked: &Picked) -> Result<Option<Bytes>, Unread> {
    let failed = |reason: String| Unread::Refused(Refusal::new(Code::InternalServerError, reason));
    let store = context.engine.store();
    // A message that expired since it was picked is done for this group.
    let Some(entry) = store.index().entry(wanted.topic.id, picked.queue, picked.offset)? else {
        return Ok(None);
    };
    let (frame, record) = match store.read_message(entry.position, entry.len) {
        Err(_) if entry.position < store.log_start() => return Ok(None),
        read => read?,
    };
    let malformed =
        |error: Irregular| failed(format!("the message at {} is malformed: {error}", entry.position));
    if !wire::is_wanted(&record, &wanted.filter).map_err(malformed)? {
        return Ok(None);
    }
    let handle = ReceiptHandle {
        broker: context.broker.clone(),
        topic: wanted.topic.name.clone(),
        group: wanted.group.name.clone(),
        queue: picked.queue,
        offset: picked.offset,
        attempt: picked.attempt,
        lease: picked.lease,
        invisible_until_ms: picked.visible_ms,
        topic_id: wanted.topic.id,
    };
    let delivery = Delivery {
        store_ms: frame.store_ms,
        queue: picked.queue,
        offset: Some(picked.offset),
        attempt: Some(picked.attempt),
        receipt_handle: Some(handle.to_text()),
        invisible_ms: u64::try_from(picked.visible_ms - now_ms()).ok(),
    };
    Ok(Some(wire::message(&record, &delivery)))
}

impl Stream for Batch {
    type Item = Result<raw::ReceiveMessageResponse, Status>;

    /// The protocol's order: status, messages, time of delivery.
    fn poll_next(mut self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let item = |content| Poll::Ready(Some(Ok(raw::ReceiveMessageResponse { content: Some(content) })));
        if let Some(head) = self.head.take() {
            return item(head);
        }
        let next = self.sent;
        if let Some((_, message)) = self.messages.get_mut(next) {
            let message = std::mem::take(message);
            self.sent += 1;
            self.context.counters.messages_out.fetch_add(1, Ordering::Relaxed);
            return item(Content::Message(message));
        }
        if next == self.messages.len() {
            self.sent += 1;
            return item(Content::DeliveryTimestamp(wire::timestamp(now_ms())));
        }
        Poll::Ready(None)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let unsent: Vec<Picked> =
            self.messages.iter().skip(self.sent).map(|(picked, _)| picked.clone()).collect();
        if !unsent.is_empty() {
            self.subscription.give_back(now_ms(), &unsent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn polls_end_before_the_clients_deadline() {
        let ms = Duration::from_millis;
        assert_eq!(poll_time(Some(5_000), Some(ms(8_000))), ms(5_000));
        assert_eq!(
            poll_time(Some(6_000), Some(ms(6_000))),
            ms(5_700),
            "Rust: deadline and poll are the same"
        );
        assert_eq!(poll_time(Some(40_000), Some(ms(6_000))), ms(5_700));
        assert_eq!(poll_time(None, Some(ms(8_000))), ms(6_500), "Go names no poll time");
        assert_eq!(poll_time(Some(60_000), None), POLL_MAX);
        assert_eq!(poll_time(None, None), POLL_DEFAULT);
        assert_eq!(poll_time(Some(5_000), Some(ms(100))), ms(0));
    }
}
