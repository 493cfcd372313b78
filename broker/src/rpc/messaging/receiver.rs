//! One receiving consumer: steps through the messages of a subscription until some match its filter.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use kerolox_core::delivery::{
    DeliveredMessage, FilterId, FilterResult, OrderingKey, OrderingKeysWanted, ReceiveRequest,
};
use kerolox_core::filter::Filter;
use kerolox_core::lookup::id_hash;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::record::MessageRecord;
use kerolox_gateway::refusal::Refusal;
use kerolox_log::Frame;
use kerolox_model::token::ReceiptHandle;
use kerolox_runtime::listen::{reserve, try_reserve};
use kerolox_runtime::process::now_ms;
use kerolox_store::{QueueEntry, ReadMessage, StoreError};

use super::Context;
use super::receive::Wanted;
use crate::delivery::{TopicSubscription, WaiterRegistration};
use crate::pace::Step;
use crate::refused::refused_by_store;
use crate::wire::{self, Delivery};

/// Messages of one queue whose message groups are read at a time.
const LANES_PAGE: u64 = 64;

/// A message in a damaged part of the log is tried again after this time: the log may have been repaired by then.
const DAMAGED_AGAIN_MS: i64 = 10 * 60_000;

/// A message that was handed out, in the client's form.
pub(super) type Encoded = (DeliveredMessage, Bytes);

/// Length of an entry's record in bytes.
pub(super) fn length(entry: &Option<QueueEntry>) -> usize {
    entry.map_or(0, |entry| entry.len as usize)
}

/// The ordering key of the message at an offset.
fn ordering_key(offset: QueueOffset, read: ReadMessage) -> Result<OrderingKey, Refusal> {
    let record = match read.map_err(Unread::from) {
        Ok(record) => record,
        // Its message group is unknown.
        Err(Unread::Damaged) => None,
        Err(Unread::Refused(refusal)) => return Err(refusal),
    };
    let group = record.as_ref().and_then(|(_, record)| wire::message_group(record).ok().flatten());
    Ok(group.map_or(OrderingKey::Alone(offset), |group| OrderingKey::Group(id_hash(group))))
}

/// One receiving consumer.
pub(super) struct Receiver<'a> {
    pub(super) context: &'a Context,
    pub(super) client: &'a str,
    pub(super) wanted: &'a Wanted,
    pub(super) subscription: &'a Arc<TopicSubscription>,
    /// Maximum number of messages that it takes.
    pub(super) max: usize,
}

/// The result of a step.
pub(super) enum Looked {
    /// Messages that the consumer gets.
    Found(Vec<Encoded>),
    /// No matching message so far: there is more to scan.
    NotYet,
    /// No message is left that could be handed out.
    Nothing,
}

/// Messages picked for a consumer. They are given back if they cannot be read, or the consumer goes away meanwhile.
struct Picks<'a> {
    subscription: &'a Arc<TopicSubscription>,
    messages: Vec<DeliveredMessage>,
}

impl Picks<'_> {
    fn places(&self) -> Vec<(u32, u64)> {
        self.messages.iter().map(|message| (message.queue, message.offset.get())).collect()
    }

    /// Gives back the messages that exceed the budget of a step. `entries` are in the same order.
    fn limit(&mut self, entries: &mut Vec<Option<QueueEntry>>, step: &mut Step) {
        let len = step.take(entries.iter().map(length));
        entries.truncate(len);
        let rest = self.messages.split_off(len);
        if !rest.is_empty() {
            give_back(self.subscription, &rest);
        }
    }
}

/// Gives back messages that never reached the receiver.
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
    /// The message lies in a damaged part of the log.
    Damaged,
    /// No message can be handed out now.
    Refused(Refusal),
}

impl From<StoreError> for Unread {
    fn from(error: StoreError) -> Self {
        if error.is_damage() { Self::Damaged } else { Self::Refused(refused_by_store(&error)) }
    }
}

impl Receiver<'_> {
    /// Takes one step towards messages that this consumer can get at once.
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

    /// Takes a step without checking for other members of the group, and so without waiting; uses the budget of the given
    /// step.
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

    /// Adds announced members that have not received yet to the subscription.
    pub(super) fn heed_announced(&self) {
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
            // Failed attempts are worth keeping over a restart.
            self.context.deliveries.progress().note(self.subscription);
        }
        Picks { subscription: self.subscription, messages }
    }

    /// Sorts out the messages that the filter rejects: other members get them, or they are done.
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
                // It is not done: the group sees it in its lag until the log is repaired or an administrator gives it
                // up.
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

    /// In ordered delivery: loads the ordering keys of the next messages. `false` when the step ends before enough are
    /// loaded.
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
                self.load_keys(queue, from, from.up_to(end).map(|_| OrderingKey::Group(0)));
                continue;
            }
            let page: Vec<(u32, u64)> = from.up_to(end).map(|at| (queue, at.get())).collect();
            let store = self.context.log.store();
            let mut entries = store
                .state()
                .entries_at(self.wanted.topic.id, &page)
                .map_err(|error| refused_by_store(&error))?;
            entries.truncate(step.take(entries.iter().map(length)));
            let read = |entry: Option<QueueEntry>| entry.map_or(Ok(None), |entry| store.read_entry(&entry));
            let read = from.up_to(end).zip(entries.into_iter().map(read));
            let keys = read.map(|(offset, read)| ordering_key(offset, read));
            let keys = keys.collect::<Result<Vec<_>, _>>()?;
            self.load_keys(queue, from, keys);
        }
        Ok(true)
    }

    fn keys_wanted(&self, request: &ReceiveRequest<'_>) -> Option<OrderingKeysWanted> {
        self.subscription.with(|engine| engine.ordering_keys_wanted(now_ms(), request))
    }

    fn load_keys(&self, queue: u32, from: QueueOffset, keys: impl IntoIterator<Item = OrderingKey>) {
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
        // A dead letter that went back to its group no longer counts as one.
        let is_over = is_dead_letter && {
            let index = self.context.log.store().state();
            index.progress.is_redriven(self.wanted.topic.id, picked.queue, picked.offset.get())?
        };
        Ok(found.filter(|_| !is_over))
    }

    /// The message in the client's form.
    fn encode(&self, picked: &DeliveredMessage, (frame, record): &(Frame, MessageRecord)) -> Bytes {
        let wanted = self.wanted;
        let handle = ReceiptHandle {
            broker: self.context.broker.clone(),
            topic: wanted.topic.name.clone(),
            group: wanted.group.public_name().to_owned(),
            queue: picked.queue,
            offset: picked.offset.get(),
            attempt: picked.attempt,
            lease: picked.lease.get(),
            invisible_until_ms: picked.visible_ms,
            topic_id: wanted.topic.id,
            group_id: wanted.group.id,
        };
        let delivery = Delivery {
            store_ms: frame.store_ms,
            queue: picked.queue,
            offset: Some(picked.offset.get()),
            attempt: Some(picked.attempt),
            receipt_handle: Some(handle.to_text()),
            invisible_ms: u64::try_from(picked.visible_ms - now_ms()).ok(),
        };
        wire::message(record, &delivery)
    }
}

/// Whether a filter matches a message. A malformed message is delivered: its receiver may be able to read it.
fn wanted_by(record: &MessageRecord, filter: &Filter) -> bool {
    wire::is_wanted(record, filter).unwrap_or(true)
}
