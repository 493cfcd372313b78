//! Reading a topic as a stream.

use super::PullConsumer;
use crate::consumer::receiver::receiving;
use crate::delivery::PulledMessage;
use crate::error::{Error, Result};
use crate::queue::{MessageQueue, Position};
use futures_util::stream::{self, Stream, StreamExt as _};
use kerolox_proto::v2;

/// Messages of one pull of a stream: RocketMQ's figure.
const BATCH: usize = 32;

/// Where the reading of one queue has come to.
struct Reader<'a> {
    consumer: &'a PullConsumer,
    queue: MessageQueue,
    offset: u64,
    failures: u32,
}

impl PullConsumer {
    /// Reads the queues that a topic has now, all from one position on, and goes on with what comes. Messages of one queue come in
    /// order. [`Self::commit`] says how far the group has come, if that is wanted: one past the offset of a message.
    ///
    /// Goes on by itself where a call may succeed when it is repeated. Where messages are no longer kept it goes on with the first that
    /// is, and logs that.
    ///
    /// # Errors
    /// When the positions cannot be found. The stream itself gives the errors that no repetition mends, and goes on after each.
    pub async fn read(
        &self,
        topic: &str,
        from: Position,
    ) -> Result<impl Stream<Item = Result<PulledMessage>> + Send + '_> {
        let mut starts = Vec::new();
        for queue in self.queues(topic).await? {
            let offset = self.offset(&queue, from).await?;
            starts.push((queue, offset));
        }
        Ok(self.read_queues(starts))
    }

    /// Reads these queues, each from its offset on; see [`Self::read`].
    pub fn read_queues(
        &self,
        starts: impl IntoIterator<Item = (MessageQueue, u64)>,
    ) -> impl Stream<Item = Result<PulledMessage>> + Send + '_ {
        let read = |(queue, offset)| {
            let reader = Reader { consumer: self, queue, offset, failures: 0 };
            stream::unfold(reader, |mut reader| async move {
                let items = reader.next_page().await;
                Some((stream::iter(items), reader))
            })
            .flatten()
            .boxed()
        };
        stream::select_all(starts.into_iter().map(read).collect::<Vec<_>>())
    }
}

impl Reader<'_> {
    /// The next messages, perhaps none.
    async fn next_page(&mut self) -> Vec<Result<PulledMessage>> {
        match self.consumer.pull(&self.queue, self.offset, BATCH).await {
            Ok(pulled) => {
                (self.offset, self.failures) = (pulled.next_offset, 0);
                pulled.messages.into_iter().map(Ok).collect()
            }
            Err(error) => {
                self.failures += 1;
                tokio::time::sleep(receiving().pause_after(self.failures)).await;
                self.after(error).await
            }
        }
    }

    /// What the reader gets after a failure.
    async fn after(&mut self, error: Error) -> Vec<Result<PulledMessage>> {
        if error.is_retryable() {
            tracing::debug!(%error, queue = %self.queue, "read failed; retrying");
            return Vec::new();
        }
        if error.code().is_some_and(|code| code == v2::Code::IllegalOffset) {
            match self.consumer.offset(&self.queue, Position::Earliest).await {
                Ok(earliest) if earliest > self.offset => {
                    tracing::warn!(queue = %self.queue, from = self.offset, to = earliest, "skipped messages that are no longer kept");
                    self.offset = earliest;
                    return Vec::new();
                }
                Ok(_) => {}
                Err(error) => return vec![Err(error)],
            }
        }
        vec![Err(error)]
    }
}
