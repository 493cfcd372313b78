//! PullMessage: messages of one queue from an offset on. There are no leases; the consumer keeps its offset itself.
//!
//! # Pull
//!
//! `rpc/messaging/pull.rs` reads a queue from an offset on, without a lease; waiting callers are notified of arrivals
//! through `delivery/watch.rs`. `rpc/messaging/offsets.rs` returns the beginning and the end of queues and keeps a
//! group's offset; `rpc/admin/groups.rs` resets it for administrators. A reset goes through the active subscription, so
//! running consumers follow, and the log records which receipt handles are void since.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use kerolox_core::filter::Filter;
use kerolox_core::topic::Topic;
use kerolox_gateway::access::ItemStream;
use kerolox_gateway::headers::ClientHeaders;
use kerolox_gateway::refusal::{Refusal, ok_status};
use kerolox_proto::raw::{self, pull_message_response::Content};
use kerolox_proto::v2::{self, Code};
use kerolox_runtime::listen::{reserve, try_reserve};
use kerolox_store::ReadMessage;
use tokio::time::Instant;

use super::offsets::{illegal_offset, queue_of};
use super::receive::{check_readable, poll_time, scan_time};
use super::receiver::length;
use super::{Context, parse_filter};
use crate::pace::Step;
use crate::refused::refused_by_store;
use crate::wire::{self, Delivery};

/// Maximum number of messages in one answer.
const PULL_BATCH_MAX: usize = 256;
/// Bytes of messages after which an answer is closed.
const PULL_BYTES: usize = 8 << 20;
/// Maximum number of messages that one request reads, so that a filter that matches nothing does not keep a thread busy
/// (RocketMQ's `maxFilterMessageSize`).
const PULL_SCAN_MAX: usize = 800;
/// Number of messages that are read together, possibly at a slave.
const READ_TOGETHER: usize = 32;

/// The decoded request.
struct Wanted {
    topic: Arc<Topic>,
    queue: u32,
    filter: Filter,
    max: usize,
}

/// Some messages of a queue.
#[derive(Default)]
struct Page {
    messages: Vec<Bytes>,
    /// Size of their records, in bytes.
    bytes: usize,
    /// Offset to continue from.
    next: u64,
    /// Number of messages in a damaged part of the log.
    damaged: usize,
}

/// Sends messages of a queue, waiting for some if there are none: status, messages, and the offset to continue from.
pub(super) async fn pull_message(
    context: &Arc<Context>,
    client: &ClientHeaders,
    request: v2::PullMessageRequest,
) -> Result<ItemStream<raw::PullMessageResponse>, Refusal> {
    let received = Instant::now();
    let filter = parse_filter(request.filter_expression.as_ref())?;
    let (topic, queue) = queue_of(context, request.message_queue.as_ref())?;
    check_readable(&topic)?;
    context.group(request.group.as_ref(), &client.client_id).await?;
    // A request without a poll time is answered at once.
    let poll_ms = request.long_polling_timeout.as_ref().map_or(0, wire::duration_ms);
    let poll = poll_time(Some(poll_ms), client.timeout);
    let (until, scan_until) = (received + poll, received + scan_time(poll, client.timeout));
    let max = usize::try_from(request.batch_size).unwrap_or(0).clamp(1, PULL_BATCH_MAX);
    let wanted = Wanted { topic, queue, filter, max };
    let mut from = match start(context, &wanted, request.offset) {
        Ok(offset) => offset,
        Err((refusal, next)) => return Ok(answer(refusal.to_status(client), Vec::new(), next)),
    };
    let watched = context.deliveries.watch(&wanted.topic, wanted.queue);
    loop {
        let mut arrival = std::pin::pin!(watched.arrival());
        arrival.as_mut().enable();
        let page = read_page(context, &wanted, from, scan_until).await?;
        from = page.next;
        let end = context.log.store().state().queues.bounds(wanted.topic.id, wanted.queue).next;
        let is_over = from < end || Instant::now() >= until;
        if !page.messages.is_empty() || page.damaged > 0 || is_over {
            let sent = page.messages.len() as u64;
            context.counters.messages_out.fetch_add(sent, Ordering::Relaxed);
            return Ok(answer(status(&page, client), page.messages, page.next));
        }
        tokio::select! {
            () = arrival => {}
            () = tokio::time::sleep_until(until) => {}
            () = context.shutdown.requested() => {
                return Ok(answer(status(&page, client), Vec::new(), page.next));
            }
        }
    }
}

/// The offset to begin with; otherwise the refusal, and a valid offset.
fn start(context: &Context, wanted: &Wanted, offset: i64) -> Result<u64, (Refusal, u64)> {
    let bounds = context.log.store().state().queues.bounds(wanted.topic.id, wanted.queue);
    let legal = u64::try_from(offset).ok().filter(|offset| (bounds.min..=bounds.next).contains(offset));
    legal.ok_or_else(|| {
        let refusal = illegal_offset(&wanted.topic, wanted.queue, offset, bounds.min, bounds.next);
        let is_above = u64::try_from(offset).is_ok_and(|offset| offset > bounds.next);
        (refusal, if is_above { bounds.next } else { bounds.min })
    })
}

/// Reads from an offset on until the page is full, the limit is reached, or the time is up.
async fn read_page(context: &Context, wanted: &Wanted, from: u64, until: Instant) -> Result<Page, Refusal> {
    let failed = |error| refused_by_store(&error);
    let scan = if wanted.filter == Filter::All { wanted.max } else { PULL_SCAN_MAX };
    let places: Vec<(u32, u64)> = {
        let index = context.log.store().state();
        let entries = index.queues.entries(wanted.topic.id, wanted.queue, from, scan).map_err(failed)?;
        entries.into_iter().map(|(offset, _)| (wanted.queue, offset)).collect()
    };
    let mut page = Page { next: from, ..Page::default() };
    let (mut pace, mut step) = (context.scans.pace(), Step::begin());
    let mut left = places.as_slice();
    while !left.is_empty() {
        if step.is_over() {
            if !pace.rest(until).await {
                break;
            }
            step = Step::begin();
        }
        let together = &left[..left.len().min(READ_TOGETHER)];
        let mut entries =
            context.log.store().state().entries_at(wanted.topic.id, together).map_err(failed)?;
        entries.truncate(step.take(entries.iter().map(length)));
        let bytes = entries.iter().map(length).sum();
        let reserved = match page.messages.is_empty() {
            true => reserve(bytes).await?,
            // The messages found so far are sent, and the rest with the next pull.
            false => match try_reserve(bytes) {
                Ok(reserved) => reserved,
                Err(_) => break,
            },
        };
        let before = page.bytes;
        let read = context.reader.read_entries(&entries).await;
        for ((_, offset), read) in together.iter().zip(read) {
            if page.messages.len() == wanted.max || page.bytes >= PULL_BYTES {
                reserved.keep(page.bytes - before);
                return Ok(page);
            }
            page.next = offset + 1;
            page.add(wanted, *offset, read)?;
        }
        reserved.keep(page.bytes - before);
        left = &left[entries.len()..];
    }
    Ok(page)
}

impl Page {
    /// Adds a message that was read, if it exists and matches the filter.
    fn add(&mut self, wanted: &Wanted, offset: u64, read: ReadMessage) -> Result<(), Refusal> {
        let (frame, record) = match read {
            Ok(Some(read)) => read,
            Ok(None) => return Ok(()),
            Err(error) if error.is_damage() => {
                self.damaged += 1;
                return Ok(());
            }
            Err(error) => return Err(refused_by_store(&error)),
        };
        let is_wanted = wire::is_wanted(&record, &wanted.filter).map_err(|error| {
            let reason = format!("the message at {} is malformed: {error}", frame.position);
            Refusal::new(Code::InternalServerError, reason)
        })?;
        if is_wanted {
            let (store_ms, queue) = (frame.store_ms, wanted.queue);
            let delivery = Delivery { store_ms, queue, offset: Some(offset), ..Delivery::default() };
            self.messages.push(wire::message(&record, &delivery));
            self.bytes += frame.len as usize;
        }
        Ok(())
    }
}

fn status(page: &Page, client: &ClientHeaders) -> v2::Status {
    let mut status = match page.messages.is_empty() {
        true => Refusal::new(Code::MessageNotFound, "no new message").to_status(client),
        false => ok_status(),
    };
    if page.damaged > 0 {
        let left_out =
            format!("; {} messages lie in a damaged part of the log and are left out", page.damaged);
        status.message.push_str(&left_out);
    }
    status
}

fn answer(status: v2::Status, messages: Vec<Bytes>, next: u64) -> ItemStream<raw::PullMessageResponse> {
    let contents = std::iter::once(Content::Status(status))
        .chain(messages.into_iter().map(Content::Message))
        .chain([Content::NextOffset(next.cast_signed())]);
    let items = contents.map(|content| Ok(raw::PullMessageResponse { content: Some(content) }));
    Box::pin(tokio_stream::iter(items.collect::<Vec<_>>()))
}
