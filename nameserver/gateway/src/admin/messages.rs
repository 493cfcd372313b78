//! Finding messages, and sending one on behalf of an operator.

use std::collections::BTreeMap;
use std::time::SystemTime;

use kerolox_proto::kerolox as pb;
use kerolox_proto::kerolox::query_messages_request::By;
use kerolox_proto::raw;
use kerolox_proto::v2::list_message_request::SearchKey;
use kerolox_proto::v2::{self, Code, MessageType};
use kerolox_runtime::process::now_ms;
use prost::Message;
use tonic::Request;
use uuid::Uuid;

use super::servers::{Master, Servers, known};
use super::stored;
use crate::refusal::{Refusal, ok_status};
use crate::relay::CallRelay;

/// Messages of an answer where the request does not say, and at most.
const DEFAULT_MESSAGES: usize = 64;
const MAX_MESSAGES: usize = 1024;
/// Client id of what an operator does.
const OPERATOR: &str = "admin";

/// The message with this id.
///
/// # Errors
/// MESSAGE_NOT_FOUND.
pub(super) async fn by_id(servers: &Servers, topic: &str, id: &str) -> Result<v2::Message, Refusal> {
    let masters = servers.masters(Some(topic))?;
    let found = ask(servers, &masters, topic, By::MessageId(id.to_owned()), (0, i64::MAX), 1).await?;
    found.into_iter().next().map(|(_, message)| message).ok_or_else(|| {
        Refusal::new(Code::MessageNotFound, format!("topic {topic} has no message with the id {id}"))
    })
}

/// What masters find, with the times at which it was stored.
async fn ask(
    servers: &Servers,
    masters: &[Master],
    topic: &str,
    by: By,
    (since_ms, until_ms): (i64, i64),
    limit: usize,
) -> Result<Vec<(i64, v2::Message)>, Refusal> {
    let ask = pb::QueryMessagesRequest {
        topic: topic.to_owned(),
        by: Some(by),
        limit: u32::try_from(limit).unwrap_or(u32::MAX),
        since_ms,
        until_ms: if until_ms == i64::MAX { 0 } else { until_ms },
        ..Default::default()
    };
    let answers = servers.ask_masters(masters, ask.clone()).await;
    let mut found = Vec::new();
    for (_, answer) in known(answers)? {
        for stored in &answer.messages {
            if let Ok(message) = v2::Message::decode(stored.message.as_slice()) {
                found.push((stored.store_ms, message));
            }
        }
    }
    Ok(found)
}

/// QueryMessage.
pub(super) async fn query(
    servers: &Servers,
    request: &v2::ListMessageRequest,
) -> Result<v2::ListMessageResponse, Refusal> {
    let topic = stored(request.topic.as_ref(), "topic")?;
    let masters = servers.masters(Some(&topic))?;
    let millis = |time: Option<&prost_types::Timestamp>| {
        time.map(|time| time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000))
    };
    let since_ms = millis(request.begin_timestamp.as_ref()).unwrap_or(0);
    let until_ms = millis(request.end_timestamp.as_ref()).unwrap_or(i64::MAX);
    let asked = request.page_size.filter(|size| *size > 0).unwrap_or(request.max_message_nums);
    let limit =
        usize::try_from(asked).ok().filter(|limit| *limit > 0).unwrap_or(DEFAULT_MESSAGES).min(MAX_MESSAGES);
    let (found, scroll_id) = match &request.search_key {
        Some(SearchKey::MessageId(id)) => (
            ask(servers, &masters, &topic, By::MessageId(id.clone()), (since_ms, until_ms), limit).await?,
            String::new(),
        ),
        Some(SearchKey::MessageKey(key)) => (
            ask(servers, &masters, &topic, By::Key(key.clone()), (since_ms, until_ms), limit).await?,
            String::new(),
        ),
        Some(SearchKey::LiteTopic(_)) => {
            return Err(Refusal::not_implemented(
                "searching in one lite topic (search by message id or key instead, or receive from it)",
            ));
        }
        Some(SearchKey::Subscription(tags)) => {
            scan(servers, &masters, &topic, request, (since_ms, until_ms), limit, &Tags::new(tags)).await?
        }
        None => scan(servers, &masters, &topic, request, (since_ms, until_ms), limit, &Tags::All).await?,
    };
    let messages = found.into_iter().take(limit).map(|(_, message)| message).collect();
    Ok(v2::ListMessageResponse { status: Some(ok_status()), messages, scroll_id })
}

/// Which tags are wanted.
enum Tags {
    All,
    Some(Vec<String>),
}

impl Tags {
    /// `*`, or `a || b`.
    fn new(expression: &str) -> Self {
        match expression.trim() {
            "" | "*" => Self::All,
            listed => Self::Some(listed.split("||").map(|tag| tag.trim().to_owned()).collect()),
        }
    }

    fn fit(&self, message: &v2::Message) -> bool {
        let tag = message.system_properties.as_ref().and_then(|properties| properties.tag.as_ref());
        match self {
            Self::All => true,
            Self::Some(tags) => tag.is_some_and(|tag| tags.contains(tag)),
        }
    }
}

/// Where a search goes on, by broker and queue; written as `broker/queue=offset,...`.
#[derive(Debug, Default, PartialEq)]
struct Scroll(BTreeMap<(String, u32), u64>);

impl Scroll {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let place = |part: &str| {
            let (queue, offset) = part.rsplit_once('=')?;
            let (broker, queue) = queue.rsplit_once('/')?;
            Some(((broker.to_owned(), queue.parse().ok()?), offset.parse().ok()?))
        };
        let places = text.split(',').filter(|part| !part.is_empty()).map(place);
        places.collect::<Option<_>>().map(Self).ok_or_else(|| {
            Refusal::new(
                Code::BadRequest,
                format!("{text:?} is no scroll_id; pass on the one of the answer before"),
            )
        })
    }

    fn text(&self) -> String {
        let place = |((broker, queue), offset): (&(String, u32), &u64)| format!("{broker}/{queue}={offset}");
        self.0.iter().map(place).collect::<Vec<_>>().join(",")
    }
}

/// Messages that became visible in a time, queue after queue, oldest first, and where to go on; that is empty at the end.
async fn scan(
    servers: &Servers,
    masters: &[Master],
    topic: &str,
    request: &v2::ListMessageRequest,
    (since_ms, until_ms): (i64, i64),
    limit: usize,
    tags: &Tags,
) -> Result<(Vec<(i64, v2::Message)>, String), Refusal> {
    let resumed = request.scroll_id.as_deref().filter(|id| !id.is_empty()).map(Scroll::parse).transpose()?;
    let wanted = |broker: &str, queue: u32| {
        request.broker_name.as_deref().is_none_or(|name| name.is_empty() || name == broker)
            && request.queue_id.is_none_or(|id| i64::from(id) == i64::from(queue))
    };
    let (mut found, mut rest) = (Vec::new(), Scroll::default());
    for master in masters {
        let alone = std::slice::from_ref(master);
        let ask = pb::DescribeTopicRequest { name: topic.to_owned() };
        let answers = servers.ask_masters(alone, ask.clone()).await;
        let queues = known(answers)?.into_iter().flat_map(|(_, answer)| answer.queues);
        for queue in queues.filter(|queue| wanted(&master.broker, queue.queue)) {
            let key = (master.broker.clone(), queue.queue);
            let from = match &resumed {
                // A queue that the scroll does not name was finished before.
                Some(resumed) => match resumed.0.get(&key) {
                    Some(offset) => pb::queue_place::From::Offset(*offset),
                    None => continue,
                },
                None => pb::queue_place::From::TimeMs(since_ms),
            };
            let next =
                read_queue(servers, alone, topic, queue.queue, from, until_ms, limit, tags, &mut found)
                    .await?;
            if let Some(next) = next {
                rest.0.insert(key, next);
            }
        }
    }
    Ok((found, rest.text()))
}

/// Reads on until `found` has `limit` messages; returns where to go on, `None` at the end of the queue or of the time.
#[allow(clippy::too_many_arguments, reason = "they are what a page of a queue is")]
async fn read_queue(
    servers: &Servers,
    master: &[Master],
    topic: &str,
    queue: u32,
    from: pb::queue_place::From,
    until_ms: i64,
    limit: usize,
    tags: &Tags,
    found: &mut Vec<(i64, v2::Message)>,
) -> Result<Option<u64>, Refusal> {
    let mut from = from;
    loop {
        let place = pb::QueuePlace { queue, from: Some(from) };
        let room = limit.saturating_sub(found.len());
        let ask = pb::QueryMessagesRequest {
            topic: topic.to_owned(),
            by: Some(By::Place(place)),
            // One more tells where to go on.
            limit: u32::try_from(room.max(1)).unwrap_or(u32::MAX),
            until_ms: if until_ms == i64::MAX { 0 } else { until_ms },
            ..Default::default()
        };
        let answers = servers.ask_masters(master, ask.clone()).await;
        let Some((_, answer)) = known(answers)?.into_iter().next() else { return Ok(None) };
        if room == 0 {
            return Ok(answer.messages.first().and_then(|first| first.offset));
        }
        for stored in &answer.messages {
            if let Ok(message) = v2::Message::decode(stored.message.as_slice())
                && tags.fit(&message)
            {
                found.push((stored.store_ms, message));
            }
        }
        if answer.next == 0 {
            return Ok(None);
        }
        from = pb::queue_place::From::Offset(answer.next);
    }
}

/// AdminSendMessage: to a broker group that takes messages of the topic.
pub(super) async fn send(
    servers: &Servers,
    relay: &CallRelay,
    request: v2::AdminSendMessageRequest,
) -> Result<v2::AdminSendMessageResponse, Refusal> {
    stored(request.topic.as_ref(), "topic")?;
    let message_id = Uuid::new_v4().simple().to_string().to_uppercase();
    let given = request.system_properties.unwrap_or_default();
    let named = MessageType::try_from(given.message_type).unwrap_or_default();
    let kind = if named == MessageType::Unspecified { MessageType::Normal } else { named };
    if kind == MessageType::Transaction {
        let text = "an operator has no transaction to check back; send another type of message";
        return Err(Refusal::new(Code::MessagePropertyConflictWithType, text));
    }
    let born = given.born_timestamp.unwrap_or_else(|| prost_types::Timestamp::from(SystemTime::now()));
    let message = v2::Message {
        topic: request.topic.clone(),
        user_properties: request.user_properties.into_iter().chain(request.ext_info).collect(),
        body: request.body.into(),
        system_properties: Some(v2::SystemProperties {
            message_id: message_id.clone(),
            message_type: kind.into(),
            born_host: if given.born_host.is_empty() { OPERATOR.to_owned() } else { given.born_host },
            born_timestamp: Some(born),
            tag: request.tag.or(given.tag),
            keys: given.keys.into_iter().chain(request.key).collect(),
            ..given
        }),
    };
    let groups = servers.routes.writable_groups(message.topic.as_ref())?;
    let turn = usize::try_from(now_ms()).unwrap_or(0) % groups.len().max(1);
    let owner = groups.get(turn).cloned().unwrap_or_default();
    let mut request =
        Request::new(raw::SendMessageRequest { messages: vec![message.encode_to_vec().into()] });
    let id = OPERATOR
        .parse()
        .map_err(|_| Refusal::new(Code::InternalServerError, "the client id is not ASCII"))?;
    request.metadata_mut().insert("x-mq-client-id", id);
    let answer = relay.unary(&owner, request).await?;
    let of_entry = answer.entries.first().and_then(|entry| entry.status.clone());
    let status = of_entry.or(answer.status).unwrap_or_else(ok_status);
    Ok(v2::AdminSendMessageResponse { status: Some(status), message_id })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_goes_on_where_its_text_says() {
        let scroll = Scroll(BTreeMap::from([(("broker-a".into(), 0), 7), (("b/c".into(), 12), u64::MAX)]));
        assert_eq!(Scroll::parse(&scroll.text()).unwrap(), scroll);
        assert_eq!(Scroll::parse("").unwrap(), Scroll::default());
        for wrong in ["x", "a=1", "a/b=1", "a/1=", "a/1=-1"] {
            assert_eq!(Scroll::parse(wrong).unwrap_err().code, Code::BadRequest, "{wrong}");
        }
    }

    #[test]
    fn tags_are_any_of_a_list() {
        let tagged = |tag: &str| v2::Message {
            system_properties: Some(v2::SystemProperties { tag: Some(tag.into()), ..Default::default() }),
            ..Default::default()
        };
        assert!(Tags::new("*").fit(&v2::Message::default()));
        assert!(Tags::new("a || b").fit(&tagged("b")));
        assert!(!Tags::new("a||b").fit(&tagged("c")) && !Tags::new("a").fit(&v2::Message::default()));
    }
}
