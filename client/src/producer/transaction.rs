//! Transactions: a half message and its decision.

use crate::error::Result;
use crate::member::Member;
use crate::observer::{Noted, Operation};
use crate::producer::SendReceipt;
use crate::retry::RetryPolicy;
use crate::rpc::{Caller, Link};
use kerolox_proto::v2;
use std::fmt;
use std::sync::Arc;
use tokio::time::Instant;

/// Decision about a half message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Resolution {
    /// Consumers get it.
    Commit,
    /// It is never delivered.
    Rollback,
    /// Not known yet; the broker asks again later.
    Unknown,
}

impl From<Resolution> for v2::TransactionResolution {
    fn from(resolution: Resolution) -> Self {
        match resolution {
            Resolution::Commit => v2::TransactionResolution::Commit,
            Resolution::Rollback => v2::TransactionResolution::Rollback,
            Resolution::Unknown => v2::TransactionResolution::Unspecified,
        }
    }
}

/// A half message that is stored and waits for its decision.
///
/// Dropping it decides nothing: the broker then asks the transaction checker of any producer of the topic. The first
/// decision wins; repeating it is harmless.
#[must_use = "a transaction that is neither committed nor rolled back waits for its check-back"]
pub struct Transaction {
    pub(crate) member: Arc<Member>,
    pub(crate) policy: RetryPolicy,
    pub(crate) ending: Ending,
    pub(crate) receipt: SendReceipt,
}

impl Transaction {
    /// What the broker said about the half message.
    pub fn receipt(&self) -> &SendReceipt {
        &self.receipt
    }

    /// Id that the producer gave the message.
    pub fn message_id(&self) -> &str {
        &self.receipt.message_id
    }

    /// Makes the message visible to consumers. Durable when this returns.
    ///
    /// Cancelling leaves it open whether the decision arrived; it may be repeated.
    ///
    /// # Errors
    /// When the broker refuses (for example because the transaction was rolled back), or cannot be reached within the
    /// retry policy; the check-back settles it then.
    pub async fn commit(&self) -> Result<()> {
        self.end(Resolution::Commit).await
    }

    /// Discards the message.
    ///
    /// Cancelling leaves it open whether the decision arrived; it may be repeated.
    ///
    /// # Errors
    /// As for [`Self::commit`].
    pub async fn rollback(&self) -> Result<()> {
        self.end(Resolution::Rollback).await
    }

    async fn end(&self, resolution: Resolution) -> Result<()> {
        let send = || async {
            let link = self.member.link_to(&self.ending.topic, &self.receipt.broker, &self.receipt.endpoints);
            self.ending.send(&self.member.caller, &link, resolution).await
        };
        self.policy.persist(&self.member, send).await
    }
}

impl fmt::Debug for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").field("receipt", &self.receipt).finish_non_exhaustive()
    }
}

/// All that EndTransaction needs besides the resolution.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(crate) topic: String,
    pub(crate) message_id: String,
    pub(crate) transaction_id: String,
    pub(crate) source: v2::TransactionSource,
}

impl Ending {
    /// Tells the server behind `link`, once.
    pub(crate) async fn send(&self, caller: &Caller, link: &Link, resolution: Resolution) -> Result<()> {
        let request = v2::EndTransactionRequest {
            topic: Some(caller.resource(&self.topic)),
            message_id: self.message_id.clone(),
            transaction_id: self.transaction_id.clone(),
            resolution: v2::TransactionResolution::from(resolution).into(),
            source: self.source.into(),
            trace_context: String::new(),
        };
        let started = Instant::now();
        let result: Result<v2::EndTransactionResponse> = caller
            .call(link, request, |mut client, request| async move { client.end_transaction(request).await })
            .await;
        let noted = Noted { operation: Operation::EndTransaction, topic: &self.topic, group: None };
        caller.observed.note(noted, 1, started.elapsed(), &result);
        result.map(drop)
    }
}
