//! ReceiveMessage: long polling.
//!
//! # Receive
//!
//! `rpc/messaging/receive.rs` finds the subscription (group, topic) in `delivery/directory.rs`, asks the engine
//! (`core::delivery`) for messages under a short lock, reads them through the index and the log, filters, and streams
//! them. Without messages it waits for an arrival or for the end of the poll; one timer for all subscriptions
//! (`delivery/alarm.rs`) wakes one waiter when a message in flight comes due. Scans over many messages run in steps
//! (`pace.rs`), with a turn for others between them. A waiting simple consumer also gets messages of other broker
//! groups of the topic: its broker asks them in its place (`rpc/messaging/other_groups.rs`), one at a time and without
//! waiting there. A message that the receiver does not want is kept for members with other filters, including those
//! that have announced theirs (`gateway/src/clients/announced.rs`) and not received yet: the server with a client's
//! Telemetry stream notifies all masters before it answers the settings (`gateway/src/relay/announcing.rs`), and
//! masters poll all servers (`gateway/src/producers.rs`). A new master counts a message as unwanted only after members
//! had time to report. Every consumer may receive from every queue of a broker; messages that were handed out stay
//! invisible until their lease ends. Leases are memory: after a restart a message may come early once, and earlier
//! handles are honoured until they expire.

use std::sync::Arc;
use std::time::Duration;

use kerolox_core::delivery::LeaseTerm;
use kerolox_core::filter::Filter;
use kerolox_core::group::Group;
use kerolox_core::topic::Topic;
use kerolox_gateway::access::ItemStream;
use kerolox_gateway::answers::AnswerWay;
use kerolox_gateway::headers::ClientHeaders;
use kerolox_gateway::refusal::Refusal;
use kerolox_model::limits::{INVISIBLE_MS_MAX, INVISIBLE_MS_MIN, RECEIVE_BATCH_MAX};
use kerolox_proto::raw;
use kerolox_proto::v2::{self, Code};
use kerolox_runtime::process::now_ms;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::batch::Batch;
use super::other_groups::OtherGroups;
use super::receiver::{Looked, Receiver};
use super::{Context, lite, parse_filter, stored_group};
use crate::wire;

/// Longest poll, whatever the client asks for (RocketMQ's limit).
const POLL_MAX: Duration = Duration::from_secs(20);
/// Poll of a client that names neither a poll time nor a deadline.
const POLL_DEFAULT: Duration = Duration::from_secs(15);
/// The answer is sent this long before the client's deadline: the Rust SDK's deadline is the poll time itself.
const DEADLINE_MARGIN: Duration = Duration::from_millis(300);

/// Longest attempt id; SDKs send UUIDs.
const ATTEMPT_ID_BYTES_MAX: usize = 256;

/// Minimum scan time: even a poll without waiting scans messages that its filter does not want for this long.
const SCAN_MIN: Duration = Duration::from_millis(200);

/// A decoded receive request.
pub(super) struct Wanted {
    pub(super) topic: Arc<Topic>,
    pub(super) group: Arc<Group>,
    pub(super) filter: Filter,
    pub(super) max: usize,
    pub(super) term: LeaseTerm,
    pub(super) until: Instant,
    /// Until when it scans messages that its filter does not want.
    pub(super) scan_until: Instant,
    pub(super) attempt_id: Option<String>,
    pub(super) way: AnswerWay,
    /// When the client gives up on the call.
    pub(super) deadline: Option<Instant>,
}

/// The context of a receive request.
pub(super) struct Call<'a> {
    pub(super) client: &'a ClientHeaders,
    pub(super) metadata: &'a MetadataMap,
    pub(super) way: AnswerWay,
}

/// Hands out messages, waiting for some if there are none. The queue that the client names is ignored: every consumer
/// may receive from every queue of this broker, as with RocketMQ's proxy, and SDKs that know only queue 0 miss nothing.
pub(super) async fn receive_message(
    context: &Arc<Context>,
    call: &Call<'_>,
    request: v2::ReceiveMessageRequest,
) -> Result<ItemStream<raw::ReceiveMessageResponse>, Refusal> {
    let wanted = understand(context, call, &request).await?;
    let mut others = OtherGroups::of(context, call, request, wanted.until);
    if wanted.topic.has_lites() {
        return lite::receive(context, call.client, &wanted, others).await;
    }
    let subscription = context.deliveries.subscription(&wanted.group, &wanted.topic)?;
    let (client, max) = (call.client.client_id.as_str(), wanted.max);
    let receiver = Receiver { context, client, wanted: &wanted, subscription: &subscription, max };
    receiver.heed_announced();
    let waiter = subscription.join(now_ms(), client, &wanted.filter);
    let mut pace = context.scans.pace();
    loop {
        context.log.check_rule()?;
        let goes_on = match receiver.step(&waiter).await? {
            Looked::Found(messages) => {
                let mut batch = Batch::new(context.clone(), wanted.way.clone(), wanted.deadline);
                batch.add(&subscription, messages);
                return Ok(Box::pin(batch));
            }
            Looked::NotYet => !context.shutdown.is_requested() && pace.rest(wanted.scan_until).await,
            Looked::Nothing => {
                pace.stop();
                match wait(context, &wanted, waiter.arrival(), &others).await {
                    Waited::Arrival => true,
                    Waited::Others => match others.ask().await {
                        Some(found) => {
                            waiter.pass_on();
                            return Ok(found);
                        }
                        None => true,
                    },
                    Waited::End => false,
                }
            }
        };
        if !goes_on {
            waiter.pass_on();
            return Err(Refusal::new(Code::MessageNotFound, "no new message"));
        }
    }
}

async fn understand(
    context: &Context,
    call: &Call<'_>,
    request: &v2::ReceiveMessageRequest,
) -> Result<Wanted, Refusal> {
    let received = Instant::now();
    let client = call.client;
    let deadline = client.timeout.and_then(|timeout| received.checked_add(timeout));
    let filter = parse_filter(request.filter_expression.as_ref())?;
    let term = lease_term(context, request)?;
    let queue = request.message_queue.as_ref();
    let poll = poll_time(request.long_polling_timeout.as_ref().map(wire::duration_ms), client.timeout);
    let until = received + poll;
    let scan_until = received + scan_time(poll, client.timeout);
    let topic = context.topic_to_come(queue.and_then(|queue| queue.topic.as_ref()), until).await?;
    check_readable(&topic)?;
    let group =
        context.deliveries.consuming(&stored_group(request.group.as_ref())?, &client.client_id).await?;
    let max = usize::try_from(request.batch_size).unwrap_or(0).clamp(1, RECEIVE_BATCH_MAX);
    let attempt_id = attempt_id(client, request.attempt_id.as_deref())?;
    Ok(Wanted {
        topic,
        group,
        filter,
        max,
        term,
        until,
        scan_until,
        attempt_id,
        way: call.way.clone(),
        deadline,
    })
}

/// The name under which a repeated receive gets the same messages.
fn attempt_id(client: &ClientHeaders, asked: Option<&str>) -> Result<Option<String>, Refusal> {
    match asked {
        Some(id) if id.len() > ATTEMPT_ID_BYTES_MAX => Err(Refusal::new(
            Code::BadRequest,
            format!("the attempt id has {} bytes, the limit is {ATTEMPT_ID_BYTES_MAX}; use a UUID", id.len()),
        )),
        // Ids are scoped to a client.
        Some(id) if !id.is_empty() => Ok(Some(format!("{} {id}", client.client_id))),
        _ => Ok(None),
    }
}

pub(super) fn check_readable(topic: &Topic) -> Result<(), Refusal> {
    if topic.is_readable() {
        return Ok(());
    }
    Err(Refusal::new(
        Code::Forbidden,
        format!(
            "topic {name} may not be read (its perm has no read bit); change it with `mqadmin updateTopic -t {name} -p 6`",
            name = topic.name
        ),
    ))
}

fn lease_term(context: &Context, request: &v2::ReceiveMessageRequest) -> Result<LeaseTerm, Refusal> {
    if request.auto_renew {
        return Ok(LeaseTerm::WhileAlive(context.auto_renew_ms));
    }
    invisible_ms(request.invisible_duration.as_ref(), INVISIBLE_MS_MIN).map(LeaseTerm::Fixed)
}

/// The invisible duration that a client requests, in milliseconds; a missing one counts as 0.
///
/// # Errors
/// ILLEGAL_INVISIBLE_TIME when it is below `min_ms` or above [`INVISIBLE_MS_MAX`].
pub(super) fn invisible_ms(asked: Option<&prost_types::Duration>, min_ms: u64) -> Result<u64, Refusal> {
    let asked_ms = asked.map_or(0, wire::signed_ms);
    match u64::try_from(asked_ms) {
        Ok(ms) if ms > INVISIBLE_MS_MAX => Err(Refusal::invisible_time_too_large(asked_ms, INVISIBLE_MS_MAX)),
        Ok(ms) if ms >= min_ms => Ok(ms),
        _ => Err(Refusal::invisible_time_too_small(asked_ms, min_ms)),
    }
}

/// How long to wait for messages.
pub(super) fn poll_time(asked_ms: Option<u64>, deadline: Option<Duration>) -> Duration {
    asked_ms.map_or(POLL_DEFAULT, Duration::from_millis).min(time_allowed(deadline))
}

/// How long a poll of this length scans messages that its filter does not want.
pub(super) fn scan_time(poll: Duration, deadline: Option<Duration>) -> Duration {
    poll.max(SCAN_MIN).min(time_allowed(deadline))
}

/// The longest time that a client with this deadline can wait.
fn time_allowed(deadline: Option<Duration>) -> Duration {
    deadline.map_or(POLL_MAX, |deadline| deadline.saturating_sub(DEADLINE_MARGIN).min(POLL_MAX))
}

/// Why a receive without messages continues.
pub(super) enum Waited {
    /// There may be messages to receive.
    Arrival,
    /// The other broker groups are to be asked.
    Others,
    /// It does not continue: the time is up.
    End,
}

/// Waits until there may be messages to receive, here or elsewhere, or the time is up.
pub(super) async fn wait(
    context: &Context,
    wanted: &Wanted,
    arrival: impl Future<Output = ()>,
    others: &OtherGroups<'_>,
) -> Waited {
    tokio::select! {
        () = arrival => Waited::Arrival,
        () = tokio::time::sleep_until(wanted.until) => Waited::End,
        () = others.is_due() => Waited::Others,
        () = context.shutdown.requested() => Waited::End,
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
        assert_eq!(poll_time(Some(60_000), None), POLL_MAX);
        assert_eq!(poll_time(None, None), POLL_DEFAULT);
        assert_eq!(poll_time(Some(5_000), Some(ms(100))), ms(0));
    }
}
