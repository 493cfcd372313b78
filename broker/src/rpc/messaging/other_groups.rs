//! Messages from other broker groups of a topic for a consumer that waits at this one.
//!
//! A simple consumer polls one queue after the other, so a long poll at a group without messages would keep it from those of
//! another group; and a consumer of lite topics polls a single queue for ever. So a master whose consumer finds nothing asks the
//! other groups in its place, without waiting there. It asks one group at a time: messages handed out to an abandoned call are
//! delivered again only after a pause.

use std::time::Duration;

use kerolox_gateway::access::ItemStream;
use kerolox_gateway::answers::AnswerWay;
use kerolox_gateway::relay::own_call;
use kerolox_proto::raw::{self, receive_message_response::Content};
use kerolox_proto::v2::{self, Code};
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Extensions, Request};

use super::Context;
use super::receive::Call;

/// Header of a receive that a broker makes in the place of a waiting consumer.
const IN_PLACE: &str = "x-kerolox-in-place";
/// How long a consumer waits here before the other groups are asked for the first time.
const FIRST: Duration = Duration::from_millis(100);
/// How often they are asked while it keeps waiting.
const EVERY: Duration = Duration::from_secs(1);
/// Time limit for one of them when the poll is over.
const LAST: Duration = Duration::from_millis(100);
/// Time limit for one of them. A slower group is not asked again in the same poll.
const PATIENCE: Duration = Duration::from_secs(1);

/// The other broker groups of a topic, for one receive.
pub(super) struct OtherGroups<'a> {
    context: &'a Context,
    /// Metadata of the receive, with a mark.
    metadata: MetadataMap,
    /// The path of their messages to the client.
    way: AnswerWay,
    request: v2::ReceiveMessageRequest,
    /// When the consumer needs its answer.
    until: Instant,
    /// When to ask next; `None` for a receive that is answered with local messages only.
    next: Option<Instant>,
    /// Groups not to ask again.
    failed: Vec<String>,
}

impl<'a> OtherGroups<'a> {
    /// The groups to ask for a receive: none for a push consumer, which polls each broker itself.
    pub(super) fn of(
        context: &'a Context,
        call: &Call<'_>,
        mut request: v2::ReceiveMessageRequest,
        until: Instant,
    ) -> Self {
        let is_asked = !request.auto_renew && !call.metadata.contains_key(IN_PLACE);
        request.long_polling_timeout = Some(prost_types::Duration::default());
        let mut metadata = call.metadata.clone();
        // The call may have come through a relay, and may go through another one; with the mark it leads to no further
        // ones.
        own_call(&mut metadata);
        metadata.insert(IN_PLACE, MetadataValue::from_static("1"));
        let next = is_asked.then(|| Instant::now() + FIRST);
        Self { context, metadata, way: call.way.clone(), request, until, next, failed: Vec::new() }
    }

    /// Completes when it is time to ask; never for a receive that is answered with local messages only.
    pub(super) async fn is_due(&self) {
        match self.next {
            Some(next) => tokio::time::sleep_until(next).await,
            None => std::future::pending().await,
        }
    }

    /// Messages of another group, if it is its turn: for consumers that ask only one group, which may always have messages. Of
    /// three groups, two are others.
    pub(super) async fn take_turn(&mut self) -> Option<ItemStream<raw::ReceiveMessageResponse>> {
        self.next?;
        let mut groups = self.groups();
        let turn = self.context.turns.next() % (groups.len() as u64 + 1);
        let first = usize::try_from(turn).ok()?.checked_sub(1)?;
        groups.rotate_left(first);
        self.ask_each(groups).await
    }

    /// Messages that one of the groups has at once for the consumer, as its answer.
    pub(super) async fn ask(&mut self) -> Option<ItemStream<raw::ReceiveMessageResponse>> {
        self.ask_each(self.groups()).await
    }

    async fn ask_each(&mut self, groups: Vec<String>) -> Option<ItemStream<raw::ReceiveMessageResponse>> {
        self.next = Some(Instant::now() + EVERY);
        for group in groups {
            // Hardly beyond the end of the poll: the client's deadline is not far behind it.
            let left = self.until.saturating_duration_since(Instant::now()).max(LAST);
            match tokio::time::timeout(left.min(PATIENCE), self.ask_one(&group)).await {
                Ok(Ok(found @ Some(_))) => return found,
                Ok(Ok(None)) => {}
                Err(_) if left < PATIENCE => return None,
                Ok(Err(())) | Err(_) => self.failed.push(group),
            }
        }
        None
    }

    /// The other groups in the current routes.
    fn groups(&self) -> Vec<String> {
        let topic = self.request.message_queue.as_ref().and_then(|queue| queue.topic.as_ref());
        let mut groups = self.context.routes.readable_groups(topic).unwrap_or_default();
        groups.retain(|group| self.context.is_foreign(group) && !self.failed.contains(group));
        groups
    }

    /// Asks one group. An error means that it did not answer properly.
    async fn ask_one(&self, group: &str) -> Result<Option<ItemStream<raw::ReceiveMessageResponse>>, ()> {
        let mut message = self.request.clone();
        if let Some(queue) = &mut message.message_queue {
            queue.broker = Some(v2::Broker { name: group.to_owned(), ..Default::default() });
        }
        let mut request = Request::from_parts(self.metadata.clone(), Extensions::new(), message);
        request.set_timeout(PATIENCE);
        let relayed = self.context.relay.receive_message(group, request, self.way.clone()).await.map_err(
            |refusal| {
                tracing::debug!(group, %refusal, "another broker group cannot be asked for messages");
            },
        )?;
        let mut relayed = Box::pin(relayed);
        let first = relayed.next().await;
        match first {
            Some(Ok(raw::ReceiveMessageResponse { content: Some(Content::Status(status)) })) => {
                match status.code() {
                    Code::Ok => {
                        let content = Some(Content::Status(status));
                        let head = tokio_stream::once(Ok(raw::ReceiveMessageResponse { content }));
                        Ok(Some(Box::pin(head.chain(relayed))))
                    }
                    Code::MessageNotFound => Ok(None),
                    _ => Err(()),
                }
            }
            _ => Err(()),
        }
    }
}

/// Numbers without a pattern that a caller could fall into step with.
#[derive(Debug, Default)]
pub(crate) struct Turns(std::sync::atomic::AtomicU64);

impl Turns {
    fn next(&self) -> u64 {
        let count = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        twox_hash::XxHash3_64::oneshot(&count.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_favour_nobody_whoever_takes_every_second_one() {
        let turns = Turns::default();
        let (mut first, mut second) = ([0; 3], [0; 3]);
        for _ in 0..3_000 {
            first[(turns.next() % 3) as usize] += 1;
            second[(turns.next() % 3) as usize] += 1;
        }
        assert!(
            first.iter().chain(&second).all(|count| (800..1_200).contains(count)),
            "{first:?} {second:?}"
        );
    }
}
