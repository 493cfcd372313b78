//! What administrators see of transactions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kerolox_core::lookup::id_hash;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::record::MessageRecord;
use kerolox_core::topic::Topic;
use kerolox_core::transaction::{HalfMessage, TransactionPhase};
use kerolox_log::Frame;
use kerolox_model::token::TransactionId;
use kerolox_proto::kerolox as pb;
use kerolox_store::{LookupPage, MessageStanding, Store, StoreError};

use super::admin_error::AdminError;
use crate::log_client::LogClient;
use crate::pace::Caller;
use crate::tasks::check_back::WebhookCounts;
use crate::wire::{self, Delivery};

/// HalfMessage messages that are looked at for one page, at the most.
const SCAN_MAX: usize = 4096;
/// Transactions of one page, at the most.
const PAGE_MAX: usize = 256;
/// Bytes of half messages that are read for one page; a single one may be larger.
const PAGE_BYTES: usize = 64 << 20;

pub(super) type Answer<T> = Result<T, AdminError>;

/// The administration of the transactions of one broker group.
#[derive(Clone)]
pub(super) struct TransactionAdmin {
    pub(super) broker: String,
    pub(super) log: LogClient,
    pub(super) webhooks: Arc<WebhookCounts>,
}

impl TransactionAdmin {
    fn store(&self) -> &Store {
        self.log.store()
    }

    /// A page of transactions.
    pub(super) fn list(&self, request: &pb::ListTransactionsRequest) -> Answer<pb::ListTransactionsResponse> {
        let topic = self.topic_named(&request.topic)?;
        let wanted = Wanted::of(request, topic.map(|topic| topic.id));
        let limit = match request.limit {
            0 => PAGE_MAX,
            limit => PAGE_MAX.min(limit as usize),
        };
        let halves = self.store().state().transactions.stored_from(request.from, SCAN_MAX)?;
        let next = halves.last().filter(|_| halves.len() == SCAN_MAX).map(|(position, _)| position + 1);
        let mut page = pb::ListTransactionsResponse { next, ..Default::default() };
        let mut bytes = 0;
        for (position, half) in &halves {
            if page.transactions.len() == limit || bytes >= PAGE_BYTES {
                page.next = Some(*position);
                break;
            }
            if !half.joins && wanted.takes(half) {
                bytes += half.frame_len as usize;
                let message = self.message(*position, half)?;
                page.transactions.extend(self.info(
                    *position,
                    half,
                    message.as_ref().map(|(_, record)| record),
                ));
            }
        }
        Ok(page)
    }

    /// The whole story of one transaction.
    pub(super) fn describe(
        &self,
        request: &pb::DescribeTransactionRequest,
        caller: &Caller,
    ) -> Answer<pb::DescribeTransactionResponse> {
        use pb::describe_transaction_request::By;
        let (position, half) = match &request.by {
            Some(By::TransactionId(id)) => self.find(id)?,
            Some(By::MessageId(id)) => self.find_by_message(id, caller)?,
            None => return Err(AdminError::invalid("name a transaction id or a message id")),
        };
        let message = self.message(position, &half)?;
        let record = message.as_ref().map(|(_, record)| record);
        let Some(info) = self.info(position, &half, record) else {
            return Err(AdminError::not_found("the topic of the transaction was deleted"));
        };
        let deliveries = match half.phase {
            TransactionPhase::Committed => self.deliveries(&half)?,
            _ => Vec::new(),
        };
        let message = message.map(|(frame, record)| {
            let delivery = Delivery { store_ms: frame.store_ms, queue: half.queue, ..Delivery::default() };
            wire::message(&record, &delivery).to_vec()
        });
        Ok(pb::DescribeTransactionResponse {
            member_ids: self.member_ids(&half)?,
            transaction: Some(info),
            checks: half.story.iter().map(check).collect(),
            deliveries,
            message: message.unwrap_or_default(),
        })
    }

    /// How many transactions there are.
    pub(super) fn count(
        &self,
        request: &pb::CountTransactionsRequest,
        caller: &Caller,
    ) -> Answer<pb::CountTransactionsResponse> {
        let topic = self.topic_named(&request.topic)?;
        let mut counts: BTreeMap<u32, pb::TransactionCounts> = BTreeMap::new();
        let mut from = 0;
        while !caller.is_gone() {
            let halves = self.store().state().transactions.stored_from(from, SCAN_MAX)?;
            for (_, half) in halves
                .iter()
                .filter(|(_, half)| !half.joins && topic.as_ref().is_none_or(|t| t.id == half.topic_id))
            {
                add(counts.entry(half.topic_id).or_default(), half);
            }
            match halves.last() {
                Some((last, _)) if halves.len() == SCAN_MAX => from = last + 1,
                _ => break,
            }
        }
        let named = |(id, counts): (u32, pb::TransactionCounts)| {
            let topic = self.store().state().topics.by_id(id)?;
            Some(pb::TransactionCounts { topic: topic.name.clone(), ..counts })
        };
        Ok(pb::CountTransactionsResponse {
            topics: counts.into_iter().filter_map(named).collect(),
            webhooks_asked: self.webhooks.asked.load(Ordering::Relaxed),
            webhooks_failed: self.webhooks.failed.load(Ordering::Relaxed),
            webhooks_misunderstood: self.webhooks.misunderstood.load(Ordering::Relaxed),
        })
    }

    /// A page of the audit trail.
    pub(super) fn audit(&self, request: &pb::ListAuditRequest) -> Answer<pb::ListAuditResponse> {
        let limit = match request.limit {
            0 => PAGE_MAX,
            limit => PAGE_MAX.min(limit as usize),
        };
        let before = if request.before == 0 { u64::MAX } else { request.before };
        let entries = self.store().state().audit.newest(before, limit)?;
        let next = entries.last().filter(|_| entries.len() == limit).map(|(position, _)| *position);
        let entry = |(position, entry): (u64, kerolox_core::audit::AuditEntry)| pb::AuditEntry {
            position,
            at_ms: entry.at_ms,
            by: entry.by,
            action: entry.action,
            object: entry.object,
            reason: entry.reason,
            outcome: entry.outcome,
        };
        Ok(pb::ListAuditResponse { entries: entries.into_iter().map(entry).collect(), next })
    }

    fn topic_named(&self, name: &str) -> Answer<Option<Arc<Topic>>> {
        if name.is_empty() {
            return Ok(None);
        }
        let topic = self.store().state().topics.get(name);
        let missing = || {
            AdminError::not_found(format!("there is no topic {name:?} on this broker; see mqadmin topicList"))
        };
        topic.map(Some).ok_or_else(missing)
    }

    /// The half message of a transaction id.
    pub(super) fn find(&self, id: &str) -> Answer<(u64, HalfMessage)> {
        let id = TransactionId::from_text(id).map_err(|error| AdminError::invalid(error.to_string()))?;
        if id.broker != self.broker {
            return Err(AdminError::invalid(format!(
                "the transaction belongs to broker group {}, this is {}; ask a master of that group",
                id.broker, self.broker
            )));
        }
        match self.store().state().transactions.get(id.position)? {
            Some(half) if half.message_id_crc == id.message_id_crc => Ok((id.position, half)),
            _ => Err(unknown()),
        }
    }

    /// The message whose decision is that of a half message.
    fn decided_with(&self, position: u64, half: HalfMessage) -> Answer<(u64, HalfMessage)> {
        match half.leader {
            0 => Ok((position, half)),
            leader => Ok((leader, self.store().state().transactions.get(leader)?.ok_or_else(unknown)?)),
        }
    }

    fn find_by_message(&self, message_id: &str, caller: &Caller) -> Answer<(u64, HalfMessage)> {
        let is_it = |record: &MessageRecord| record.header.message_id == message_id;
        let mut page = LookupPage::newest(PAGE_MAX);
        while !caller.is_gone() {
            let found = self.store().find(id_hash(message_id), &page, is_it)?;
            for message in found.messages {
                if let MessageStanding::Half(half) = message.standing {
                    return self.decided_with(message.position, *half);
                }
            }
            match found.next {
                Some(before) => page.before = before,
                None => break,
            }
        }
        Err(unknown())
    }

    /// The half message itself; `None` when it lies in a damaged part of the log or its segment is gone.
    fn message(
        &self,
        position: u64,
        half: &HalfMessage,
    ) -> Result<Option<(Frame, MessageRecord)>, StoreError> {
        match self.store().read_message(half.location(position), half.frame_len) {
            Err(error) if error.is_damage() || half.location(position) < self.store().log_start() => Ok(None),
            read => read.map(Some),
        }
    }

    /// Ids of the messages that are decided with one; empty where one cannot be read.
    fn member_ids(&self, half: &HalfMessage) -> Answer<Vec<String>> {
        let mut ids = Vec::with_capacity(half.members.len());
        for position in &half.members {
            let member = self.store().state().transactions.get(*position)?;
            let message = member.map(|member| self.message(*position, &member)).transpose()?.flatten();
            ids.push(message.map(|(_, record)| record.header.message_id).unwrap_or_default());
        }
        Ok(ids)
    }

    /// `None` when its topic is gone.
    fn info(
        &self,
        position: u64,
        half: &HalfMessage,
        message: Option<&MessageRecord>,
    ) -> Option<pb::TransactionInfo> {
        let topic = self.store().state().topics.by_id(half.topic_id)?;
        let id = TransactionId { broker: self.broker.clone(), position, message_id_crc: half.message_id_crc };
        let is_decided = !half.is_undecided();
        let labels = message.map(wire::labels).unwrap_or_default();
        Some(pb::TransactionInfo {
            transaction_id: id.to_text(),
            message_id: message.map(|record| record.header.message_id.clone()).unwrap_or_default(),
            topic: topic.name.clone(),
            queue: half.queue,
            state: state(half.phase).into(),
            stored_ms: half.stored_ms,
            producer: message.map(|record| record.header.producer.clone()).unwrap_or_default(),
            checks: half.checks,
            next_check_ms: if half.phase == TransactionPhase::Prepared { half.next_check_ms } else { 0 },
            decided_ms: half.decided_ms,
            decided_by: half.decided_by.clone(),
            decided_source: if is_decided { half.decided_source.word().to_owned() } else { String::new() },
            decided_reason: half.decided_reason.clone(),
            offset: (half.phase == TransactionPhase::Committed).then_some(half.offset),
            deliver_at_ms: half.deliver_at_ms,
            messages: u32::try_from(half.members.len() + 1).unwrap_or(u32::MAX),
            tag: labels.tag.unwrap_or_default(),
            keys: labels.keys,
        })
    }

    /// How far each group is with a committed message.
    fn deliveries(&self, half: &HalfMessage) -> Result<Vec<pb::TransactionDelivery>, StoreError> {
        let index = self.store().state();
        let offset = QueueOffset::new(half.offset);
        let mut deliveries = Vec::new();
        for group in index.groups.all() {
            let Some(acks) = index.acks(group.id, half.topic_id, half.queue)? else { continue };
            deliveries.push(pb::TransactionDelivery {
                group: group.name.clone(),
                acknowledged: acks.is_done(offset),
                attempts: acks.attempts_of(offset),
            });
        }
        Ok(deliveries)
    }
}

/// Which transactions a list shows.
struct Wanted<'a> {
    topic: Option<u32>,
    states: &'a [i32],
    since_ms: i64,
    until_ms: i64,
}

impl<'a> Wanted<'a> {
    fn of(request: &'a pb::ListTransactionsRequest, topic: Option<u32>) -> Self {
        let until_ms = if request.until_ms == 0 { i64::MAX } else { request.until_ms };
        Self { topic, states: &request.states, since_ms: request.since_ms, until_ms }
    }

    fn takes(&self, half: &HalfMessage) -> bool {
        let is_state = match self.states {
            [] => half.is_undecided(),
            states => states.contains(&state(half.phase).into()),
        };
        is_state
            && self.topic.is_none_or(|topic| topic == half.topic_id)
            && (self.since_ms..self.until_ms).contains(&half.stored_ms)
    }
}

fn add(counts: &mut pb::TransactionCounts, half: &HalfMessage) {
    match half.phase {
        TransactionPhase::Prepared => counts.prepared += 1,
        TransactionPhase::Parked => counts.parked += 1,
        TransactionPhase::Committed | TransactionPhase::Scheduled => counts.committed += 1,
        TransactionPhase::RolledBack => counts.rolled_back += 1,
    }
    if half.is_undecided() {
        counts.checks += u64::from(half.checks);
        if counts.oldest_undecided_ms == 0 {
            counts.oldest_undecided_ms = half.stored_ms;
        }
    }
}

fn check(note: &kerolox_core::transaction::CheckNote) -> pb::TransactionCheck {
    pb::TransactionCheck {
        at_ms: note.at_ms,
        asked: note.asked.clone(),
        answer: note.answer().word().to_owned(),
        answered_ms: note.answered_ms,
        answered_by: note.answered_by.clone(),
    }
}

fn state(phase: TransactionPhase) -> pb::TransactionState {
    match phase {
        TransactionPhase::Prepared => pb::TransactionState::Prepared,
        TransactionPhase::Parked => pb::TransactionState::Parked,
        TransactionPhase::Committed => pb::TransactionState::Committed,
        TransactionPhase::RolledBack => pb::TransactionState::RolledBack,
        TransactionPhase::Scheduled => pb::TransactionState::Scheduled,
    }
}

pub(super) fn unknown() -> AdminError {
    AdminError::not_found(
        "there is no such transaction on this broker: it is too old, its topic was deleted, or it is no transaction",
    )
}
