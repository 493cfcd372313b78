//! A client's operations, reported to its observer.

use crate::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Is told of each request and each listener, to count and time them. The hook for metrics: nothing is counted by this crate itself.
///
/// It is called where the work is done, so it must be quick and must not block.
///
/// ```
/// use kerolox_client::{Client, Event, Operation};
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
///
/// let failures = Arc::new(AtomicUsize::new(0));
/// let count = Arc::clone(&failures);
/// let client = Client::builder("127.0.0.1:9876")
///     .observer(move |event: &Event<'_>| {
///         if event.operation == Operation::Send && event.error.is_some() {
///             count.fetch_add(event.messages, Ordering::Relaxed);
///         }
///     })
///     .build()?;
/// # Ok::<(), kerolox_client::Error>(())
/// ```
pub trait Observer: Send + Sync + 'static {
    /// Something ended, well or not.
    fn observe(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync + 'static> Observer for F {
    fn observe(&self, event: &Event<'_>) {
        self(event);
    }
}

/// An operation that has ended.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The kind of operation.
    pub operation: Operation,
    /// The topic.
    pub topic: &'a str,
    /// The consumer group, if it was a consumer's.
    pub group: Option<&'a str>,
    /// How many messages it was about: those sent, those received, or one.
    pub messages: usize,
    /// How long it took.
    pub took: Duration,
    /// Why it failed, or why the first of its failed messages did. A repeated request is reported each time.
    pub error: Option<&'a Error>,
    /// The listener's verdict did not settle the message: it comes again, or becomes a dead letter.
    pub is_unsettled: bool,
}

/// The operations of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// A request to store messages.
    Send,
    /// A request for messages, the time it waited for them included.
    Receive,
    /// A read at an offset, the time it waited included.
    Pull,
    /// A listener at work on a message.
    Listen,
    /// An acknowledgement.
    Ack,
    /// A change of an invisible duration.
    ChangeInvisible,
    /// A message given up.
    GiveUp,
    /// A decision about a transaction.
    EndTransaction,
    /// A transaction checker at work, and its answer on its way.
    CheckBack,
    /// A scheduled message taken back.
    Recall,
}

/// The observer of a client, if it has one.
#[derive(Clone, Default)]
pub(crate) struct Observed(Option<Arc<dyn Observer>>);

impl Observed {
    pub(crate) fn by(observer: impl Observer) -> Self {
        Self(Some(Arc::new(observer)))
    }

    /// Reports an operation whose outcome is `result`.
    pub(crate) fn note<T>(
        &self,
        what: Noted<'_>,
        messages: usize,
        took: Duration,
        result: &Result<T, Error>,
    ) {
        self.tell(&what.event(messages, took, result.as_ref().err()));
    }

    pub(crate) fn tell(&self, event: &Event<'_>) {
        if let Some(observer) = &self.0 {
            observer.observe(event);
        }
    }
}

impl fmt::Debug for Observed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "observed" } else { "not observed" })
    }
}

/// The fields of an event that are known before it ends.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Noted<'a> {
    pub(crate) operation: Operation,
    pub(crate) topic: &'a str,
    pub(crate) group: Option<&'a str>,
}

impl<'a> Noted<'a> {
    pub(crate) fn event(self, messages: usize, took: Duration, error: Option<&'a Error>) -> Event<'a> {
        let Self { operation, topic, group } = self;
        Event { operation, topic, group, messages, took, error, is_unsettled: false }
    }
}
