//! Why a message is or is not delivered.
//!
//! # Why
//!
//! `message why` asks each master (`rpc/admin/explain.rs`): the state machine says what became of the message
//! itself (held, decided, scheduled, dropped), the group's engine where it stands in delivery
//! (`core::delivery::fate`), and the filter of each connected client whether it would take it.

use std::sync::Arc;

use kerolox_core::delivery::MessageFate;
use kerolox_core::group::Group;
use kerolox_core::lookup;
use kerolox_core::record::MessageRecord;
use kerolox_core::topic::Topic;
use kerolox_proto::kerolox as pb;
use kerolox_store::{FoundMessage, LookupPage, MessageStanding, Store};

use super::admin_error::AdminError;
use super::groups::group_named;
use super::query::{stored, topic_named};
use crate::delivery::{self, AcknowledgedMessages, DeliveryDirectory, cursors};
use crate::wire;

/// Messages of one id that are looked at, dead letters among them: a producer gives each id once.
const SAME_ID_MAX: usize = 64;
/// Permission to read a topic, as in RocketMQ.
const PERM_READ: u32 = 4;

/// What became of a message. Reads the disk: call it where blocking is fine.
pub(super) fn explain(
    store: &Store,
    deliveries: &DeliveryDirectory,
    request: &pb::ExplainMessageRequest,
) -> Result<pb::ExplainMessageResponse, AdminError> {
    let id = request.message_id.as_str();
    if id.is_empty() {
        return Err(AdminError::invalid("name the message by its id"));
    }
    let only_topic = match request.topic.as_str() {
        "" => None,
        name => Some(topic_named(store, name)?.id),
    };
    let only_group = match request.group.as_str() {
        "" => None,
        name => Some(group_named(store, name)?),
    };
    let is_it = |message: &MessageRecord| message.header.message_id == id;
    let found = store.find(lookup::id_hash(id), &LookupPage::newest(SAME_ID_MAX), is_it)?.messages;
    let (dead, lives): (Vec<FoundMessage>, Vec<FoundMessage>) =
        found.into_iter().partition(|found| found.message.header.dead.is_some());
    let wanted = lives.iter().filter(|found| only_topic.is_none_or(|id| id == found.message.header.topic_id));
    let inquiry = Inquiry { store, deliveries, only_group: only_group.as_ref(), dead: &dead };
    let lives = wanted.map(|found| inquiry.life(found)).collect::<Result<Vec<_>, _>>()?;
    if lives.is_empty() {
        return Err(AdminError::not_found(format!(
            "no message with the id {id} is stored here; it may have expired, or be on another broker"
        )));
    }
    Ok(pb::ExplainMessageResponse { lives })
}

struct Inquiry<'a> {
    store: &'a Store,
    deliveries: &'a DeliveryDirectory,
    only_group: Option<&'a Arc<Group>>,
    /// Dead letters with the id of the message.
    dead: &'a [FoundMessage],
}

/// A message at its place in a queue.
struct MessagePlace<'a> {
    topic: &'a Topic,
    queue: u32,
    offset: u64,
    message: &'a MessageRecord,
}

impl Inquiry<'_> {
    fn life(&self, found: &FoundMessage) -> Result<pb::MessageLife, AdminError> {
        let topic = self.store.state().topics.by_id(found.message.header.topic_id);
        let (state, text, until_ms) = standing(&found.standing);
        let mut life = pb::MessageLife {
            message: Some(stored(found)),
            topic: topic.as_ref().map(|topic| topic.name.clone()).unwrap_or_default(),
            state: state.to_owned(),
            text,
            until_ms,
            groups: Vec::new(),
        };
        let (Some(topic), Some((queue, offset))) = (topic, found.standing.place()) else { return Ok(life) };
        if offset < self.store.state().queues.bounds(topic.id, queue).min {
            life.state = "expired".to_owned();
            life.text = "its retention is over: no group can receive it for the first time".to_owned();
        }
        let place = MessagePlace { topic: &topic, queue, offset, message: &found.message };
        for group in self.groups_of(&topic)? {
            for cursor in cursors(self.store, &group) {
                life.groups.push(self.reason(&place, &group, &cursor)?);
            }
        }
        Ok(life)
    }

    /// The groups that are asked about.
    fn groups_of(&self, topic: &Topic) -> Result<Vec<Arc<Group>>, AdminError> {
        if let Some(group) = self.only_group {
            return Ok(vec![Arc::clone(group)]);
        }
        let groups = self.store.state().groups.all();
        let mut wanted = Vec::new();
        for group in groups.iter().filter(|group| group.parent == 0) {
            for cursor in cursors(self.store, group) {
                if self.deliveries.topics_of(&cursor)?.contains(&topic.id) {
                    wanted.push(Arc::clone(group));
                    break;
                }
            }
        }
        Ok(wanted)
    }

    fn reason(
        &self,
        place: &MessagePlace<'_>,
        group: &Group,
        cursor: &Group,
    ) -> Result<pb::GroupReason, AdminError> {
        let MessagePlace { topic, queue, offset, message } = *place;
        let (fate, filters) = self.deliveries.fate(cursor, topic, queue, offset)?;
        let is_wanted = |filter: &Arc<_>| wire::is_wanted(message, filter).unwrap_or(true);
        let is_filtered = !filters.is_empty() && !filters.iter().any(is_wanted);
        let mut reason = pb::GroupReason {
            group: group.name.clone(),
            member: cursor.member.clone(),
            max_attempts: group.max_attempts(),
            ..Default::default()
        };
        let (word, text) = match fate {
            MessageFate::Done => self.done(place, (group, cursor), is_filtered, &mut reason)?,
            MessageFate::Blocked { attempts } => {
                reason.attempts = attempts;
                let text = "its attempts are used up; it blocks later messages of its message group until an operator settles it with blockedSettle";
                ("blocked", text.to_owned())
            }
            MessageFate::InFlight { client, attempt, until_ms, while_alive } => {
                let text = match while_alive {
                    true => format!(
                        "client {client} has had it since delivery {attempt} and keeps it while it lives"
                    ),
                    false => format!(
                        "client {client} has had it since delivery {attempt}; unless it acknowledges in time, another delivery follows"
                    ),
                };
                (reason.client, reason.attempts, reason.until_ms) = (client, attempt, until_ms);
                ("in-flight", text)
            }
            MessageFate::Waiting { attempts, until_ms } => {
                (reason.attempts, reason.until_ms) = (attempts, until_ms);
                (
                    "retry",
                    format!("delivery {attempts} did not succeed or was put off; it waits for the next one"),
                )
            }
            MessageFate::Behind { front, is_blocked, client } => {
                reason.client.clone_from(&client);
                let why = match (is_blocked, client.as_str()) {
                    (true, _) => "used up its attempts and stays; see blockedList".to_owned(),
                    (false, "") => "is not done".to_owned(),
                    (false, client) => format!("is with client {client}"),
                };
                let text = format!(
                    "its message group is in order, and the message at offset {front} in front of it {why}"
                );
                (if is_blocked { "behind-blocked" } else { "behind" }, text)
            }
            MessageFate::Ready { attempts, ahead } => {
                (reason.attempts, reason.ahead) = (attempts, ahead);
                ready(topic, group, is_filtered, filters.is_empty(), ahead)
            }
        };
        reason.reason = word.to_owned();
        reason.text = text;
        Ok(reason)
    }

    /// Of a message that is finished.
    fn done(
        &self,
        place: &MessagePlace<'_>,
        (group, cursor): (&Group, &Group),
        is_filtered: bool,
        reason: &mut pb::GroupReason,
    ) -> Result<(&'static str, String), AdminError> {
        let of_group = |found: &&FoundMessage| {
            let topic = self.store.state().topics.by_id(found.message.header.topic_id);
            let origin = found.message.header.dead.as_ref();
            let name = kerolox_model::names::dead_letter_topic(&group.name);
            topic.is_some_and(|topic| topic.name == name)
                && origin.is_some_and(|origin| {
                    (&origin.topic, origin.queue, origin.offset)
                        == (&place.topic.name, place.queue, place.offset)
                })
        };
        if let Some(letter) = self.dead.iter().find(of_group) {
            let origin = letter.message.header.dead.as_ref();
            reason.attempts = origin.map_or(0, |origin| origin.attempts);
            let why = origin.map_or("", |origin| origin.reason().word());
            let redriven = match letter.standing.place() {
                Some((queue, offset)) => {
                    self.store.state().progress.is_redriven(letter.message.header.topic_id, queue, offset)?
                }
                None => false,
            };
            return Ok(match redriven {
                true => {
                    ("redriven", format!("it became a dead letter ({why}), was sent back, and is done since"))
                }
                false => (
                    "dead-lettered",
                    format!("it became a dead letter ({why}); send it back with dlqRedrive"),
                ),
            });
        }
        let of_cursor = delivery::MessagePlace {
            group_id: cursor.id,
            topic_id: place.topic.id,
            queue: place.queue,
            offset: place.offset,
        };
        if let Some(AcknowledgedMessages { client, at_ms }) = self.deliveries.acknowledged().find(of_cursor) {
            (reason.client, reason.acknowledged_ms) = (client.to_string(), at_ms);
            return Ok(("done", format!("client {client} acknowledged it")));
        }
        Ok(match is_filtered {
            true => (
                "filtered",
                "no consumer's filter wants it, so it was passed over; see the filters with `mqadmin client list`".to_owned(),
            ),
            false => (
                "done",
                "it was acknowledged or passed over, or the group began behind it; `mqadmin group reset` brings it back".to_owned(),
            ),
        })
    }
}

/// Of a message that may be handed out.
fn ready(
    topic: &Topic,
    group: &Group,
    is_filtered: bool,
    has_no_consumer: bool,
    ahead: u64,
) -> (&'static str, String) {
    if !group.consume_enable {
        let text = format!("group {} may not consume; allow it with updateSubGroup -s true", group.name);
        return ("disabled", text);
    }
    if topic.perm & PERM_READ == 0 {
        let text = format!("topic {} cannot be read; allow it with updateTopic -p 6", topic.name);
        return ("not-readable", text);
    }
    if has_no_consumer {
        return (
            "no-consumer",
            "no consumer of the group asks for messages of the topic; start one".to_owned(),
        );
    }
    if is_filtered {
        return (
            "filtered",
            "no consumer's filter wants it; it is passed over when its turn comes".to_owned(),
        );
    }
    let text = match ahead {
        0 => "it is next in its queue, as soon as a consumer asks".to_owned(),
        ahead => format!("{ahead} messages in front of it in its queue are not done; consumers get there"),
    };
    ("ready", text)
}

/// State, words, and when that ends.
fn standing(standing: &MessageStanding) -> (&'static str, String, i64) {
    let word = standing.word();
    match standing {
        MessageStanding::Visible { .. } => ("visible", "consumers can get it".to_owned(), 0),
        MessageStanding::Gone => ("gone", "its topic was deleted, or its retention is over".to_owned(), 0),
        MessageStanding::Timer(timer) if timer.is_pending() => {
            let text = "it waits for its delivery time; timerDeliver delivers it now, timerCancel cancels it";
            (word, text.to_owned(), timer.due_ms)
        }
        MessageStanding::Timer(_) | MessageStanding::Half(_) if standing.place().is_some() => {
            ("visible", format!("it was {word}; consumers can get it"), 0)
        }
        MessageStanding::Timer(timer) => {
            let by = if timer.decided_by.is_empty() { "its producer" } else { &timer.decided_by };
            ("recalled", format!("{by} recalled it before its delivery time: it is not delivered"), 0)
        }
        MessageStanding::Half(half) => match word {
            "rolled-back" => (
                word,
                format!("its transaction was rolled back by {}: it is not delivered", half.decided_by),
                0,
            ),
            "parked" => {
                let text = format!(
                    "its transaction is undecided after {} check-backs, and stays so until an operator settles it: transaction commit or rollback",
                    half.checks
                );
                (word, text, 0)
            }
            "scheduled" => (
                word,
                "its transaction is committed; it waits for its delivery time".to_owned(),
                half.deliver_at_ms,
            ),
            _ => {
                let text = format!("its transaction is undecided; {} check-backs so far", half.checks);
                (word, text, half.next_check_ms)
            }
        },
    }
}
