//! The local transaction: what the application does between a half message and its decision.

use crate::error::{Error, Result};
use crate::message::Message;
use crate::producer::transaction::Transaction;
use crate::producer::{Producer, SendReceipt};
use std::fmt;
use std::future::Future;

/// A local transaction that stands, see [`Producer::in_transaction`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed<T> {
    /// What the local transaction returned.
    pub value: T,
    /// What the broker said about the half message.
    pub receipt: SendReceipt,
    /// Whether consumers get the message already.
    pub commit: Commit,
}

/// How far the commit of a local transaction that stands has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Commit {
    /// The broker has it: consumers get the message.
    Confirmed,
    /// The outcome is unknown: the answer was lost or the broker is away, for the reason given. There is nothing to do:
    /// the broker asks the transaction checker, and that commits. Repeating the local transaction would do it twice.
    LeftToCheckBack(String),
}

/// Why [`Producer::in_transaction`] did not end with a local transaction that stands and a message that follows it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum TransactionError<E> {
    /// The half message was not stored for sure, so the local transaction was not begun. If it was stored after all, the
    /// transaction checker is asked about it and finds nothing.
    #[error("the half message was not sent, and nothing was done: {0}")]
    NotBegun(#[source] Error),
    /// The local transaction failed, and the message is never delivered.
    #[error("the local transaction failed: {error}")]
    Failed {
        /// What the local transaction returned.
        #[source]
        error: E,
        /// Whether the broker knows. A broker that does not know asks the transaction checker. A refusal means that the
        /// checker, or an administrator, committed a transaction whose local part had not happened.
        rollback: Result<()>,
    },
    /// The local transaction stands, but the broker refused the commit, so consumers will not get the message: the
    /// transaction was rolled back before, by the checker, which was asked too early, or by an administrator. The
    /// application has to undo it or to send the message anew.
    ///
    /// A checker that says [`Resolution::Rollback`](crate::Resolution::Rollback) only after it made sure that the local
    /// transaction cannot happen any more never lets this happen.
    #[error("the local transaction stands, but its message was refused: {0}")]
    Refused(#[source] Error),
}

impl Producer {
    /// Sends a half message, executes the local transaction with what the broker said about it, and decides by the outcome:
    /// `Ok` commits, `Err` rolls back.
    ///
    /// When `local` panics, this future is cancelled, or the process dies, nothing is decided: the broker asks the
    /// transaction checker. So `local` has to leave something that the checker can find, in the same database
    /// transaction as its effect.
    ///
    /// ```no_run
    /// # use kerolox_client::{Commit, Message, Producer, TransactionError};
    /// # struct Database;
    /// # impl Database {
    /// #     async fn insert_order(&self, _id: &str) -> std::io::Result<u64> { Ok(1) }
    /// # }
    /// # async fn example(producer: Producer, database: Database) -> Result<(), TransactionError<std::io::Error>> {
    /// let message = Message::builder("orders").key("4711").body("one kettle").build();
    /// let done = producer.in_transaction(message, async |_half| database.insert_order("4711").await).await?;
    /// match done.commit {
    ///     Commit::Confirmed => println!("order 4711 has row {}", done.value),
    ///     Commit::LeftToCheckBack(why) => println!("order 4711 stands, its message comes later: {why}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`TransactionError`]: each case says what happened to the local transaction and to the message.
    pub async fn in_transaction<T, E, Local, Outcome>(
        &self,
        message: Message,
        local: Local,
    ) -> Result<Executed<T>, TransactionError<E>>
    where
        Local: FnOnce(SendReceipt) -> Outcome,
        Outcome: Future<Output = Result<T, E>>,
    {
        let transaction = self.send_in_transaction(message).await.map_err(TransactionError::NotBegun)?;
        transaction.execute(local).await
    }
}

impl Transaction {
    /// Executes the local transaction of half messages that are stored, and decides by the outcome; see
    /// [`Producer::in_transaction`].
    ///
    /// # Errors
    /// [`TransactionError::Failed`] and [`TransactionError::Refused`].
    pub async fn execute<T, E, Local, Outcome>(self, local: Local) -> Result<Executed<T>, TransactionError<E>>
    where
        Local: FnOnce(SendReceipt) -> Outcome,
        Outcome: Future<Output = Result<T, E>>,
    {
        let value = match local(self.receipt.clone()).await {
            Ok(value) => value,
            Err(error) => return Err(TransactionError::Failed { error, rollback: self.rollback().await }),
        };
        let commit = match self.commit().await {
            Ok(()) => Commit::Confirmed,
            Err(error) if error.is_retryable() || error.may_have_taken_effect() => {
                Commit::LeftToCheckBack(error.to_string())
            }
            Err(error) => return Err(TransactionError::Refused(error)),
        };
        Ok(Executed { value, receipt: self.receipt, commit })
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confirmed => f.write_str("committed"),
            Self::LeftToCheckBack(why) => write!(f, "left to the check-back: {why}"),
        }
    }
}
