//! Reading the messages of a topic without consuming them: queue by queue, in the order of their offsets.

use crate::target::{Common, Where};
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_proto::v2;
use kerolox_report::outcome::{CommandFailure, Result};
use prost::Message as _;
use wire::query_messages_request::By;
use wire::queue_place::From;

/// Messages of one request.
const PAGE: u32 = 128;

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Start {
    Earliest,
    Latest,
    TimeMs(i64),
    Offset(u64),
}

impl std::str::FromStr for Start {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        Ok(match text.split_once(':') {
            _ if text == "earliest" => Self::Earliest,
            _ if text == "latest" || text == "now" => Self::Latest,
            Some(("offset", offset)) => {
                Self::Offset(offset.parse().map_err(|_| format!("{offset:?} is no offset"))?)
            }
            _ => Self::TimeMs(crate::command::offset::parse_time(text)?),
        })
    }
}

/// The messages to read.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) topic: String,
    pub(crate) start: Start,
    /// Only messages that became visible before this time.
    pub(crate) until_ms: Option<i64>,
    pub(crate) broker: Option<String>,
    pub(crate) queue: Option<u32>,
    /// Only this lite topic of a topic of type LITE; all of them without it.
    pub(crate) lite: Option<String>,
}

/// A message that was read, with its place.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub(crate) broker: String,
    pub(crate) queue: u32,
    pub(crate) offset: u64,
    pub(crate) store_ms: i64,
    pub(crate) message: v2::Message,
}

/// A queue, and how far it was read.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) broker: Master,
    pub(crate) queue: u32,
    /// Where to go on; `None` before it is known.
    pub(crate) next: Option<u64>,
    /// Messages that cannot be read because the log is damaged there.
    pub(crate) damaged: u32,
}

/// Reads messages queue by queue.
pub(crate) struct Reader {
    admin: Admin,
    wanted: Wanted,
    pub(crate) places: Vec<Place>,
}

impl Reader {
    /// Finds the queues.
    pub(crate) async fn open(common: &Common, place: &Where, wanted: Wanted) -> Result<Self> {
        let (admin, mut brokers) = place.brokers(common, Some(&wanted.topic)).await?;
        if let Some(name) = &wanted.broker {
            brokers.retain(|broker| broker.info.group == *name);
        }
        let mut places = Vec::new();
        for broker in brokers {
            for (queue, next) in queues(&admin, &broker, &wanted).await? {
                if wanted.queue.is_none_or(|only| only == queue) {
                    places.push(Place { broker: broker.clone(), queue, next, damaged: 0 });
                }
            }
        }
        if places.is_empty() {
            return Err(CommandFailure::not_found(format!(
                "topic {} has no such queue; see topicRoute and topicStatus",
                wanted.topic
            )));
        }
        Ok(Self { admin, wanted, places })
    }

    /// The next messages of one queue; none at its end for the moment.
    pub(crate) async fn page(&mut self, at: usize) -> Result<Vec<Read>> {
        let place = &mut self.places[at];
        let from = match (place.next, self.wanted.start) {
            (Some(next), _) | (None, Start::Offset(next)) => From::Offset(next),
            (None, Start::TimeMs(time_ms)) => From::TimeMs(time_ms),
            (None, Start::Earliest | Start::Latest) => From::Offset(0),
        };
        let request = wire::QueryMessagesRequest {
            topic: self.wanted.topic.clone(),
            by: Some(By::Place(wire::QueuePlace { queue: place.queue, from: Some(from) })),
            limit: PAGE,
            until_ms: self.wanted.until_ms.unwrap_or(0),
            ..Default::default()
        };
        let answer = self.admin.broker(&place.broker.address).query_messages(request).await?;
        place.damaged += answer.damaged;
        let mut read = Vec::with_capacity(answer.messages.len());
        for stored in answer.messages {
            let message = v2::Message::decode(stored.message.as_slice()).map_err(|error| {
                CommandFailure::failed(format!(
                    "broker {} answered with a malformed message: {error}",
                    place.broker.info.group
                ))
            })?;
            let offset = stored.offset.unwrap_or_default();
            place.next = Some(offset + 1);
            let broker = place.broker.info.group.clone();
            read.push(Read { broker, queue: place.queue, offset, store_ms: stored.store_ms, message });
        }
        if answer.next > 0 {
            place.next = Some(answer.next);
        }
        Ok(read)
    }

    /// The next messages of all queues, oldest first; none when all are at their ends for the moment.
    pub(crate) async fn round(&mut self) -> Result<Vec<Read>> {
        let mut read = Vec::new();
        for at in 0..self.places.len() {
            read.extend(self.page(at).await?);
        }
        read.sort_by_key(|message| message.store_ms);
        Ok(read)
    }

    /// Messages that could not be read.
    pub(crate) fn damaged(&self) -> u32 {
        self.places.iter().map(|place| place.damaged).sum()
    }
}

/// The queues of a broker, each with where reading begins if that is known.
async fn queues(admin: &Admin, broker: &Master, wanted: &Wanted) -> Result<Vec<(u32, Option<u64>)>> {
    let asked = admin.broker(&broker.address);
    let described = asked.describe_topic(wire::DescribeTopicRequest { name: wanted.topic.clone() }).await?;
    let is_lite = described
        .topic
        .as_ref()
        .is_some_and(|topic| topic.message_types.contains(&v2::MessageType::Lite.into()));
    let at_end = |end: u64| (wanted.start == Start::Latest).then_some(end);
    if !is_lite {
        return Ok(described.queues.iter().map(|queue| (queue.queue, at_end(queue.max_offset))).collect());
    }
    let mut request = wire::ListLitesRequest {
        topic: wanted.topic.clone(),
        prefix: wanted.lite.clone().unwrap_or_default(),
        ..Default::default()
    };
    let mut found = Vec::new();
    loop {
        let page = asked.list_lites(request.clone()).await?;
        let fit = page.lites.iter().filter(|lite| wanted.lite.as_ref().is_none_or(|name| *name == lite.name));
        found.extend(fit.map(|lite| (lite.queue, at_end(lite.max_offset))));
        if page.next.is_empty() {
            return Ok(found);
        }
        request.after = page.next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_words_times_or_offsets() {
        let parse = |text: &str| text.parse::<Start>();
        assert_eq!(parse("earliest"), Ok(Start::Earliest));
        assert_eq!(parse("now"), Ok(Start::Latest));
        assert_eq!(parse("offset:12"), Ok(Start::Offset(12)));
        assert_eq!(parse("1700000000000"), Ok(Start::TimeMs(1_700_000_000_000)));
        assert!(parse("offset:x").is_err() && parse("yesterday").is_err());
    }
}
