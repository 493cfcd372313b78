//! ReceiveMessage: long polling.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::delivery::{
    DeliveredMessage, FilterId, FilterResult, LeaseTerm, OrderingKey, OrderingKeysWanted, ReceiveRequest,
};
use kerolox_core::filter::Filter;
use kerolox_core::group::Group;
use kerolox_core::lookup::id_hash;
use kerolox_core::record::MessageRecord;
use kerolox_core::topic::Topic;
use kerolox_gateway::access::Items;
use kerolox_gateway::answers::AnswerWay;
use kerolox_gateway::headers::ClientHeaders;
use kerolox_gateway::refusal::Refusal;
use kerolox_log::Frame;
use kerolox_model::limits::{INVISIBLE_MS_MAX, INVISIBLE_MS_MIN, RECEIVE_BATCH_MAX};
use kerolox_model::token::ReceiptHandle;
use kerolox_proto::raw;
use kerolox_proto::v2::{self, Code};
use kerolox_runtime::listen::{reserve, try_reserve};
use kerolox_runtime::process::now_ms;
use kerolox_store::{QueueEntry, ReadMessage, StoreError};
use tokio::time::Instant;
use tonic::metadata::MetadataMap;

use super::batch::Batch;
use super::other_groups::OtherGroups;
use super::{Context, lite, parse_filter, stored_group};
use crate::delivery::{TopicSubscription, WaiterRegistration};
use crate::pace::Step;
use crate::refused::refused_by_store;
use crate::wire::{self, Delivery};

/// Longest poll, whatever the client asks for (RocketMQ's limit).
const POLL_MAX: Duration = Duration::from_secs(20);
/// Poll of a client that names neither a poll time nor a deadline.
const POLL_DEFAULT: Duration = Duration::from_secs(15);
/// The answer leaves this long before the client's deadline: the Rust SDK's deadline is the poll time itself.
const DEADLINE_MARGIN: Duration = Duration::from_millis(300);

/// Longest attempt id; SDKs send UUIDs.
const ATTEMPT_ID_BYTES_MAX: usize = 256;

/// Even a poll that does not wait looks for this long at messages that its filter does not want.
const SCAN_MIN: Duration = Duration::from_millis(200);

/// Messages of one queue whose message groups are read at a time.
const LANES_PAGE: u64 = 64;

/// A message that lies in a damaged part of the log is tried again after this time: by then somebody may have mended it.
const DAMAGED_AGAIN_MS: i64 = 10 * 60_000;

/// A receive request, understood.
pub(super) struct Wanted {
    pub(super) topic: Arc<Topic>,
    pub(super) group: Arc<Group>,
    pub(super) filter: Filter,
    pub(super) max: usize,
    term: LeaseTerm,
    pub(super) until: Instant,
    /// Until when it looks through messages that its filter does not want.
    pub(super) scan_until: Instant,
    pub(super) attempt_id: Option<String>,
    pub(super) way: AnswerWay,
    /// When the client gives the call up.
    pub(super) deadline: Option<Instant>,
}

/// What came with a receive request.
pub(super) struct Call<'a> {
    pub(super) client: &'a ClientHeaders,
    pub(super) metadata: &'a MetadataMap,
    pub(super) way: AnswerWay,
}

/// A message that was handed out, as its client gets it.
pub(super) type Encoded = (DeliveredMessage, Bytes);

/// Hands out messages, waiting for some if there are none. The queue that the client names is not looked at: every
/// consumer may receive from every queue of this broker, as with RocketMQ's proxy, and SDKs that know queue 0 only miss
/// nothing.
pub(super) async fn receive_message(
    context: &Arc<Context>,
    call: &Call<'_>,
    request: v2::ReceiveMessageRequest,
) -> Result<Items<raw::ReceiveMessageResponse>, Refusal> {
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
        // Ids of one client are of no concern to others.
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

/// The invisible duration that a client asks for, in milliseconds: nothing counts as 0.
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

/// How long a poll of this length looks through messages that its filter does not want.
pub(super) fn scan_time(poll: Duration, deadline: Option<Duration>) -> Duration {
    poll.max(SCAN_MIN).min(time_allowed(deadline))
}

/// The longest time that a client with this deadline can be kept.
fn time_allowed(deadline: Option<Duration>) -> Duration {
    deadline.map_or(POLL_MAX, |deadline| deadline.saturating_sub(DEADLINE_MARGIN).min(POLL_MAX))
}

/// Why a receive that found nothing goes on.
pub(super) enum Waited {
    /// There may be something to receive.
    Arrival,
    /// The other broker groups are to be asked.
    Others,
    /// It does not: the time is up.
    End,
}

/// Waits until there may be something to receive, here or elsewhere, or the time is up.
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

/// Bytes that are read for an entry.
pub(super) fn length(entry: &Option<QueueEntry>) -> usize {
    entry.map_or(0, |entry| entry.len as usize)
}

/// The ordering key of the message at an offset.
fn ordering_key(offset: u64, read: ReadMessage) -> Result<OrderingKey, Refusal> {
    let record = match read.map_err(Unread::from) {
        Ok(record) => record,
        // Nobody knows its message group.
        Err(Unread::Damaged) => None,
        Err(Unread::Refused(refusal)) => return Err(refusal),
    };
    let group = record.as_ref().and_then(|(_, record)| wire::message_group(record).ok().flatten());
    Ok(group.map_or(OrderingKey::Alone(offset), |group| OrderingKey::Group(id_hash(group))))
}

/// One consumer that asks.
pub(super) struct Receiver<'a> {
    pub(super) context: &'a Context,
    pub(super) client: &'a str,
    pub(super) wanted: &'a Wanted,
    pub(super) subscription: &'a Arc<TopicSubscription>,
    /// Most messages that it takes.
    pub(super) max: usize,
}

/// What came of a step.
pub(super) enum Looked {
    /// Messages that the consumer gets.
    Found(Vec<Encoded>),
    /// Nothing that the consumer wants, so far: there is more to look at.
    NotYet,
    /// Nothing is left that could be handed out.
    Nothing,
}

/// What was picked for a consumer. It is given back if it cannot be read, or the consumer goes away meanwhile.
struct Picks<'a> {
    subscription: &'a Arc<TopicSubscription>,
    messages: Vec<DeliveredMessage>,
}

impl Picks<'_> {
    fn places(&self) -> Vec<(u32, u64)> {
        self.messages.iter().map(|message| (message.queue, message.offset)).collect()
    }

    /// Gives back what is too much for a step. Their entries are in the same order.
    fn limit(&mut self, entries: &mut Vec<Option<QueueEntry>>, step: &mut Step) {
        let len = step.take(entries.iter().map(length));
        entries.truncate(len);
        let rest = self.messages.split_off(len);
        if !rest.is_empty() {
            give_back(self.subscription, &rest);
        }
    }
}

/// Gives messages back that never reached the receiver.
fn give_back(subscription: &TopicSubscription, picked: &[DeliveredMessage]) {
    let now_ms = now_ms();
    subscription.change(now_ms, |engine| engine.give_back(now_ms, picked));
}

impl Drop for Picks<'_> {
    fn drop(&mut self) {
        if !self.messages.is_empty() {
            give_back(self.subscription, &self.messages);
        }
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

impl Receiver<'_> {
    /// One step towards messages for this consumer that can be had at once.
    pub(super) async fn step(&self, waiter: &WaiterRegistration) -> Result<Looked, Refusal> {
        let mut step = Step::begin();
        loop {
            if !self.load_ordering_keys(waiter, &mut step)? {
                return Ok(Looked::NotYet);
            }
            let mut picks = self.pick(waiter);
            if picks.messages.is_empty() {
                return Ok(Looked::Nothing);
            }
            let mut entries = self.entries(&picks)?;
            picks.limit(&mut entries, &mut step);
            let reserved = reserve(entries.iter().map(length).sum()).await?;
            let read = self.context.reader.read_entries(&entries).await;
            let messages = self.keep_wanted(picks, read, waiter)?;
            reserved.keep(messages.iter().map(|(_, message)| message.len()).sum());
            if !messages.is_empty() {
                return Ok(Looked::Found(messages));
            }
            if step.is_over() {
                return Ok(Looked::NotYet);
            }
        }
    }

    /// The same without looking at other members of the group, and so without waiting; takes from a step that is under way.
    pub(super) fn step_here(&self, waiter: &WaiterRegistration, step: &mut Step) -> Result<Looked, Refusal> {
        loop {
            if !self.load_ordering_keys(waiter, step)? {
                return Ok(Looked::NotYet);
            }
            let mut picks = self.pick(waiter);
            if picks.messages.is_empty() {
                return Ok(Looked::Nothing);
            }
            let mut entries = self.entries(&picks)?;
            picks.limit(&mut entries, step);
            let reserved = try_reserve(entries.iter().map(length).sum())?;
            let store = self.context.log.store();
            let read = |entry: Option<QueueEntry>| entry.map_or(Ok(None), |entry| store.read_entry(&entry));
            let messages = self.keep_wanted(picks, entries.into_iter().map(read).collect(), waiter)?;
            reserved.keep(messages.iter().map(|(_, message)| message.len()).sum());
            if !messages.is_empty() {
                return Ok(Looked::Found(messages));
            }
            if step.is_over() {
                return Ok(Looked::NotYet);
            }
        }
    }

    fn entries(&self, picks: &Picks<'_>) -> Result<Vec<Option<QueueEntry>>, Refusal> {
        let entries = self.context.log.store().state().entries_at(self.wanted.topic.id, &picks.places());
        entries.map_err(|error| refused_by_store(&error))
    }

    /// Makes the subscription know who is a member without having received yet.
    fn heed_announced(&self) {
        self.context.deliveries.heed_announced(self.subscription, &self.wanted.group, &self.wanted.topic);
    }

    fn request<'a>(&'a self, waiter: &WaiterRegistration) -> ReceiveRequest<'a> {
        ReceiveRequest {
            max: self.max,
            term: self.wanted.term,
            client: self.client,
            filter: waiter.filter,
            attempt_id: self.wanted.attempt_id.as_deref(),
        }
    }

    /// The next messages for this consumer, unread.
    fn pick(&self, waiter: &WaiterRegistration) -> Picks<'_> {
        let alive = |client: &str| self.context.clients.is_alive(client);
        let (messages, to_log) = self.subscription.receive(now_ms(), &self.request(waiter), alive);
        if to_log {
            // Failed attempts are worth remembering over a restart.
            self.context.deliveries.progress().note(self.subscription);
        }
        Picks { subscription: self.subscription, messages }
    }

    /// Leaves to others, or to nobody, what the filter does not want of the messages that were read.
    fn keep_wanted(
        &self,
        mut picks: Picks<'_>,
        read: Vec<ReadMessage>,
        waiter: &WaiterRegistration,
    ) -> Result<Vec<Encoded>, Refusal> {
        let mut others = None;
        let mut found = HashMap::new();
        let mut results = Vec::with_capacity(read.len());
        for (message, read) in picks.messages.iter().zip(read) {
            let result = match self.to_deliver(message, read) {
                Ok(Some(record)) if wanted_by(&record.1, &self.wanted.filter) => {
                    let encoded = self.encode(message, &record);
                    found.insert((message.queue, message.offset), encoded);
                    FilterResult::Wanted
                }
                Ok(Some(record)) => {
                    let others = others.get_or_insert_with(|| {
                        self.heed_announced();
                        self.subscription.with(|engine| engine.other_filters(waiter.filter))
                    });
                    let others = others.iter().filter(|(_, filter)| wanted_by(&record.1, filter));
                    let others: Vec<FilterId> = others.map(|(id, _)| *id).collect();
                    if others.is_empty() { FilterResult::Unwanted } else { FilterResult::WantedBy(others) }
                }
                Ok(None) => FilterResult::Unwanted,
                // It is not done: the group sees it in its lag until somebody mends the log or gives it up.
                Err(Unread::Damaged) => FilterResult::Unreadable(now_ms().saturating_add(DAMAGED_AGAIN_MS)),
                Err(Unread::Refused(refusal)) => return Err(refusal),
            };
            results.push(result);
        }
        let picked = std::mem::take(&mut picks.messages);
        let messages = self.subscription.apply_filter_results(now_ms(), picked, &results);
        if results.contains(&FilterResult::Unwanted) {
            self.context.deliveries.progress().note(self.subscription);
        }
        let encoded = |message: DeliveredMessage| {
            found.remove(&(message.queue, message.offset)).map(|encoded| (message, encoded))
        };
        Ok(messages.into_iter().filter_map(encoded).collect())
    }

    /// Where the group keeps the order of message groups: loads the ordering keys of the next messages. `false` when
    /// the step ends before enough is known.
    fn load_ordering_keys(&self, waiter: &WaiterRegistration, step: &mut Step) -> Result<bool, Refusal> {
        let request = self.request(waiter);
        let mut has_loaded = false;
        while let Some(OrderingKeysWanted { queue, from, end }) = self.keys_wanted(&request) {
            if has_loaded && step.is_over() {
                return Ok(false);
            }
            has_loaded = true;
            let end = end.min(from + LANES_PAGE);
            if self.subscription.is_lite() {
                self.load_keys(queue, from, (from..end).map(|_| OrderingKey::Group(0)));
                continue;
            }
            let page: Vec<(u32, u64)> = (from..end).map(|at| (queue, at)).collect();
            let store = self.context.log.store();
            let mut entries = store
                .state()
                .entries_at(self.wanted.topic.id, &page)
                .map_err(|error| refused_by_store(&error))?;
            entries.truncate(step.take(entries.iter().map(length)));
            let read = |entry: Option<QueueEntry>| entry.map_or(Ok(None), |entry| store.read_entry(&entry));
            let read = page.iter().zip(entries.into_iter().map(read));
            let keys = read.map(|((_, offset), read)| ordering_key(*offset, read));
            let keys = keys.collect::<Result<Vec<_>, _>>()?;
            self.load_keys(queue, from, keys);
        }
        Ok(true)
    }

    fn keys_wanted(&self, request: &ReceiveRequest<'_>) -> Option<OrderingKeysWanted> {
        self.subscription.with(|engine| engine.ordering_keys_wanted(now_ms(), request))
    }

    fn load_keys(&self, queue: u32, from: u64, keys: impl IntoIterator<Item = OrderingKey>) {
        self.subscription.with(|engine| engine.load_ordering_keys(queue, from, keys));
    }

    /// The record of a message that was read; `None` when it is not to be delivered any more.
    fn to_deliver(
        &self,
        picked: &DeliveredMessage,
        read: ReadMessage,
    ) -> Result<Option<(Frame, MessageRecord)>, Unread> {
        let found = read?;
        let is_dead_letter = found.as_ref().is_some_and(|(_, record)| record.header.dead.is_some());
        // A dead letter that went back to its group is no longer one.
        let is_over = is_dead_letter && {
            let index = self.context.log.store().state();
            index.progress.is_redriven(self.wanted.topic.id, picked.queue, picked.offset)?
        };
        Ok(found.filter(|_| !is_over))
    }

    /// The message as the client gets it.
    fn encode(&self, picked: &DeliveredMessage, (frame, record): &(Frame, MessageRecord)) -> Bytes {
        let wanted = self.wanted;
        let handle = ReceiptHandle {
            broker: self.context.broker.clone(),
            topic: wanted.topic.name.clone(),
            group: wanted.group.public_name().to_owned(),
            queue: picked.queue,
            offset: picked.offset,
            attempt: picked.attempt,
            lease: picked.lease.get(),
            invisible_until_ms: picked.visible_ms,
            topic_id: wanted.topic.id,
            group_id: wanted.group.id,
        };
        let delivery = Delivery {
            store_ms: frame.store_ms,
            queue: picked.queue,
            offset: Some(picked.offset),
            attempt: Some(picked.attempt),
            receipt_handle: Some(handle.to_text()),
            invisible_ms: u64::try_from(picked.visible_ms - now_ms()).ok(),
        };
        wire::message(record, &delivery)
    }
}

/// Whether a filter wants a message. What cannot be understood is not held back: its receiver may be able to.
fn wanted_by(record: &MessageRecord, filter: &Filter) -> bool {
    wire::is_wanted(record, filter).unwrap_or(true)
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
