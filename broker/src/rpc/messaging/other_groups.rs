//! What a consumer that waits at this broker group can have from the others of its topic.
//!
//! A simple consumer polls one queue after the other, so a long poll at a group that has nothing would keep it from what another
//! group has; and one of lite topics polls a single queue for ever. A master whose consumer finds nothing therefore asks the other
//! groups in its place, without waiting there. Nothing is asked at two places at a time: what is handed out to a call that nobody
//! waits for any more comes again a moment later only.

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

/// Header of a receive that a broker makes in the place of a consumer, who waits there.
const IN_PLACE: &str = "x-kerolox-in-place";
/// How long a consumer waits here before the other groups are asked for the first time.
const FIRST: Duration = Duration::from_millis(100);
/// How often they are asked while it goes on waiting.
const EVERY: Duration = Duration::from_secs(1);
/// How long one of them may take when the poll is over.
const LAST: Duration = Duration::from_millis(100);
/// How long one of them may take. Who takes longer is not asked again in the same poll.
const PATIENCE: Duration = Duration::from_secs(1);

/// The other broker groups of a topic, as one receive sees them.
pub(super) struct OtherGroups<'a> {
    context: &'a Context,
    /// Of the receive, with a mark.
    metadata: MetadataMap,
    /// How what they have goes to the client.
    way: AnswerWay,
    request: v2::ReceiveMessageRequest,
    /// When the consumer is to have its answer.
    until: Instant,
    /// When to ask; `None` for a receive that is answered with what is here.
    next: Option<Instant>,
    /// Whom not to ask again.
    failed: Vec<String>,
}

impl<'a> OtherGroups<'a> {
    /// Those that are asked for a receive: none for a push consumer, which polls each broker by itself.
    pub(super) fn of(
        context: &'a Context,
        call: &Call<'_>,
        mut request: v2::ReceiveMessageRequest,
        until: Instant,
    ) -> Self {
        let is_asked = !request.auto_renew && !call.metadata.contains_key(IN_PLACE);
        request.long_polling_timeout = Some(prost_types::Duration::default());
        let mut metadata = call.metadata.clone();
        // It came through a relay perhaps, and may go through another one; with the mark it leads to no further ones.
        own_call(&mut metadata);
        metadata.insert(IN_PLACE, MetadataValue::from_static("1"));
        let next = is_asked.then(|| Instant::now() + FIRST);
        Self { context, metadata, way: call.way.clone(), request, until, next, failed: Vec::new() }
    }

    /// Completes when it is time to ask; never for a receive that is answered with what is here.
    pub(super) async fn is_due(&self) {
        match self.next {
            Some(next) => tokio::time::sleep_until(next).await,
            None => std::future::pending().await,
        }
    }

    /// For consumers that ask at one group only, which may always have something: what another group has, if it is its turn. Of
    /// three groups, two are others.
    pub(super) async fn take_turn(&mut self) -> Option<ItemStream<raw::ReceiveMessageResponse>> {
        self.next?;
        let mut groups = self.groups();
        let turn = self.context.turns.next() % (groups.len() as u64 + 1);
        let first = usize::try_from(turn).ok()?.checked_sub(1)?;
        groups.rotate_left(first);
        self.ask_each(groups).await
    }

    /// What one of the groups has for the consumer at once, as its answer.
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

    /// The others as the routes have them at this moment.
    fn groups(&self) -> Vec<String> {
        let topic = self.request.message_queue.as_ref().and_then(|queue| queue.topic.as_ref());
        let mut groups = self.context.routes.readable_groups(topic).unwrap_or_default();
        groups.retain(|group| self.context.is_foreign(group) && !self.failed.contains(group));
        groups
    }

    /// An error when the group did not answer as it should.
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

/// Numbers that fall into no step with whoever takes them.
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
