//! Taking scheduled messages back.

use crate::error::{Error, Result};
use crate::observer::{Noted, Operation};
use crate::producer::Producer;
use crate::route::Target;
use kerolox_proto::v2;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

impl Producer {
    /// Recalls a scheduled message of `topic` by the [`recall_handle`](crate::SendReceipt::recall_handle) that its send
    /// returned, from any producer. Once this returns, the message is never delivered. Returns the message's id.
    ///
    /// Any server that stores messages of the topic may be asked; it passes the call on. Cancelling this future leaves it
    /// open whether the message was recalled.
    ///
    /// # Errors
    /// NOT_FOUND when the message was delivered or recalled before (also by an attempt of this call whose answer got
    /// lost), BAD_REQUEST when the handle is none or belongs to another topic.
    pub async fn recall(&self, topic: &str, recall_handle: &str) -> Result<String> {
        self.policy.persist(&self.member, || self.recall_once(topic, recall_handle)).await
    }

    async fn recall_once(&self, topic: &str, recall_handle: &str) -> Result<String> {
        let caller = &self.member.caller;
        let route = self.member.route(topic).await?;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let queue = route
            .pick(Target::Any, turn, |queue| u8::from(!caller.pool.link(&queue.endpoints).is_healthy()))
            .ok_or_else(|| Error::NoQueue { topic: topic.to_owned(), purpose: "writable" })?;
        let request = v2::RecallMessageRequest {
            topic: Some(caller.resource(topic)),
            recall_handle: recall_handle.to_owned(),
        };
        let started = Instant::now();
        let result: Result<v2::RecallMessageResponse> = caller
            .call(&caller.pool.link(&queue.endpoints), request, |mut client, request| async move {
                client.recall_message(request).await
            })
            .await;
        let noted = Noted { operation: Operation::Recall, topic, group: None };
        caller.observed.note(noted, 1, started.elapsed(), &result);
        result.map(|answer| answer.message_id)
    }
}
