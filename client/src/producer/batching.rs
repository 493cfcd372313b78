//! Automatic batches: messages that wait at the same time go out in one request.

use super::room::{BufferRoom, RoomShare};
use super::{Producer, SendReceipt};
use crate::error::{Error, Result};
use crate::lanes::{Event, Lanes, Limits, Weight, drive};
use crate::message::Message;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// What a message costs besides its body: its properties, roughly.
const OVERHEAD_BYTES: usize = 256;

/// How messages are gathered to batches.
///
/// ```
/// use kerolox_client::Batching;
/// use std::time::Duration;
///
/// let batching = Batching::default().linger(Duration::from_millis(5)).max_messages(1000);
/// assert_ne!(batching, Batching::default());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batching {
    linger: Duration,
    max_messages: usize,
    max_bytes: usize,
    in_flight: usize,
    buffer_bytes: usize,
    max_wait: Duration,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            linger: Duration::ZERO,
            max_messages: 512,
            max_bytes: 1 << 20,
            in_flight: 4,
            buffer_bytes: 32 << 20,
            max_wait: Duration::from_millis(10),
        }
    }
}

impl Batching {
    /// How long the first message of a batch waits for others. Zero, the default, means no deliberate wait: batches
    /// form of the messages that come while earlier requests are under way.
    #[must_use]
    pub fn linger(mut self, linger: Duration) -> Self {
        self.linger = linger;
        self
    }

    /// Messages of a batch, 512 by default.
    #[must_use]
    pub fn max_messages(mut self, messages: usize) -> Self {
        self.max_messages = messages;
        self
    }

    /// Bytes of a batch, 1 MiB by default. A single message may be larger.
    #[must_use]
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// Requests of a topic that are under way at the same time, 4 by default. A message group has one at a time, so that its
    /// order is kept.
    #[must_use]
    pub fn in_flight(mut self, requests: usize) -> Self {
        self.in_flight = requests;
        self
    }

    /// Most bytes of messages that wait or are under way, 32 MiB by default. [`Batcher::send`] waits while there is no room.
    #[must_use]
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.buffer_bytes = bytes;
        self
    }

    /// How long messages wait for earlier ones, 10 ms by default, beside `linger`. When the servers take messages more slowly than
    /// callers give them, [`Batcher::send`] waits, so that the buffer holds no more than leaves in this time.
    #[must_use]
    pub fn max_wait(mut self, wait: Duration) -> Self {
        self.max_wait = wait;
        self
    }
}

/// Sends the messages of a [`Producer`] in batches. Cheap to clone; clones fill the same batches.
///
/// ```no_run
/// use kerolox_client::{Batcher, Batching, Client, Message};
/// use std::sync::Arc;
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let producer = Client::builder("127.0.0.1:9876").build()?.producer().topic("orders").start().await?;
/// let batcher = Batcher::new(Arc::new(producer), Batching::default())?;
/// let mut pending = Vec::new();
/// for number in 0..1000 {
///     // Waits only while the buffer is full.
///     pending.push(batcher.send(Message::builder("orders").body(number.to_string()).build()).await?);
/// }
/// for receipt in pending {
///     println!("stored at {}", receipt.await?.offset);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Batcher {
    events: mpsc::UnboundedSender<Event<Lane, Item>>,
    in_flight: usize,
    room: Arc<BufferRoom>,
    outstanding: Arc<watch::Sender<usize>>,
}

/// The answer to one message of a [`Batcher`]. It may be dropped; the message is sent all the same.
#[derive(Debug)]
#[must_use = "what became of the message shows only here"]
pub struct Pending {
    answer: oneshot::Receiver<Result<SendReceipt>>,
}

/// A message that waits.
struct Item {
    message: Message,
    bytes: usize,
    answer: oneshot::Sender<Result<SendReceipt>>,
    given_at: Instant,
    room: RoomShare,
    _counted: Counted,
}

impl Weight for Item {
    fn bytes(&self) -> usize {
        self.bytes
    }
}

/// A message that is not answered.
struct Counted(Arc<watch::Sender<usize>>);

impl Counted {
    fn one(outstanding: &Arc<watch::Sender<usize>>) -> Self {
        outstanding.send_modify(|count| *count += 1);
        Self(Arc::clone(outstanding))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// What goes out together: the topic, and the message group or lite topic if there is one.
type Lane = (String, Option<String>);

impl Batcher {
    /// Begins to send through `producer`, whose retries and limits count. Must be called within a Tokio runtime.
    ///
    /// Messages that it was given are sent even when all of its clones are dropped, as long as the runtime lives.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a limit is zero.
    pub fn new(producer: Arc<Producer>, batching: Batching) -> Result<Self> {
        let Batching { linger, max_messages, max_bytes, in_flight, buffer_bytes, max_wait } = batching;
        if [max_messages, max_bytes, in_flight, buffer_bytes].contains(&0) {
            return Err(Error::invalid("the limits of batches must be larger than zero"));
        }
        let limits = Limits { linger, messages: max_messages, bytes: max_bytes };
        let (events, given) = mpsc::unbounded_channel();
        let room = Arc::new(BufferRoom::new(buffer_bytes, linger.saturating_add(max_wait)));
        let leaves = Arc::clone(&room);
        let sending = move |_: Lane, batch: Vec<Item>| {
            if let Some(first) = batch.first() {
                leaves.batch_left(first.given_at.elapsed());
            }
            send(Arc::clone(&producer), batch)
        };
        tokio::spawn(drive(Lanes::new(limits), given, sending));
        Ok(Self { events, in_flight, room, outstanding: Arc::new(watch::Sender::new(0)) })
    }

    /// Gives a message to its batch as soon as there is room in the buffer; the answer comes later. Messages of one message group keep
    /// the order in which this is called. Cancelling it sends nothing.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the runtime that sends is gone.
    pub async fn send(&self, message: Message) -> Result<Pending> {
        let gone = || Error::invalid("the runtime that sends batches has ended");
        let bytes = message.body().len() + OVERHEAD_BYTES;
        let room = self.room.take(bytes).await;
        let (answer, pending) = oneshot::channel();
        let key = (message.topic().to_owned(), message.together().map(str::to_owned));
        let given_at = Instant::now();
        let item = Item { message, bytes, answer, given_at, room, _counted: Counted::one(&self.outstanding) };
        // Only one at a time keeps an order.
        let width = if key.1.is_some() { 1 } else { self.in_flight };
        self.events.send(Event::Item { key, item, width }).map_err(|_| gone())?;
        Ok(Pending { answer: pending })
    }

    /// Has everything that waits sent now, and waits until nothing is unanswered, other callers' messages included.
    pub async fn flush(&self) {
        // When the runtime is gone, so are the messages.
        let _ = self.events.send(Event::Flush);
        let mut outstanding = self.outstanding.subscribe();
        outstanding.wait_for(|count| *count == 0).await.expect("the sender is in self");
    }

    /// How many messages are not answered.
    pub fn outstanding(&self) -> usize {
        *self.outstanding.borrow()
    }
}

impl fmt::Debug for Batcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batcher").field("outstanding", &self.outstanding()).finish_non_exhaustive()
    }
}

impl Future for Pending {
    type Output = Result<SendReceipt>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = || Err(Error::invalid("the runtime that sends batches has ended"));
        Pin::new(&mut self.answer).poll(cx).map(|answer| answer.unwrap_or_else(|_| ended()))
    }
}

async fn send(producer: Arc<Producer>, batch: Vec<Item>) {
    let mut messages = Vec::with_capacity(batch.len());
    let mut waiting = Vec::with_capacity(batch.len());
    for Item { message, answer, room, _counted, .. } in batch {
        messages.push(message);
        waiting.push((answer, room, _counted));
    }
    let results = producer.send_batch(messages).await;
    for ((answer, ..), result) in waiting.into_iter().zip(results) {
        // A caller may have stopped waiting.
        let _ = answer.send(result);
    }
}
