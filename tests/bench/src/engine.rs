//! The real engine, as a broker opens it, and a producer that keeps it busy.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use kerolox_core::flush::FlushRequirement;
use kerolox_core::record::{MetaChange, MetaRecord, Record};
use kerolox_core::topic::Topic;
use kerolox_log::fs::OsFolder;
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_rocks::RocksKv;
use kerolox_store::{ApplyOutcome, ProposeError, Store, StoreOptions};

use crate::messages::{MadeMessage, MessageMaker};

/// Broker group of all benchmarks.
pub const BROKER: &str = "bench";

/// Longest time that a record of an `async` topic stays without a sync: the broker's default.
pub const FLUSH_INTERVAL: Duration = Duration::from_millis(200);

/// Salt of all logs and frames.
pub const SALT: FrameSalt = FrameSalt::new(7);

/// Segments as a broker has them by default.
pub fn log_options() -> LogOptions {
    LogOptions::new(SALT)
}

/// Opens the engine on a folder with a broker's default settings.
///
/// # Errors
/// When the folder or the store cannot be opened.
pub fn open(folder: &Path) -> anyhow::Result<Arc<Store>> {
    let log = OsFolder::create(&folder.join("log")).context("creating the log folder")?;
    let kv = RocksKv::open(&folder.join("index"))?;
    let options = StoreOptions {
        broker: BROKER.to_owned(),
        log: log_options(),
        waiting_bytes_max: 256 << 20,
        flush_interval: FLUSH_INTERVAL,
        tail_bytes: 32 << 20,
    };
    Ok(Arc::new(Store::open(options, Arc::new(log), Arc::new(kv), now_ms, |_| {})?))
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// A queue of a topic.
pub type QueueId = (u32, u32);

/// All queues that a store has.
pub fn queues(store: &Store) -> Vec<QueueId> {
    let topics = store.state().topics.all();
    topics.iter().flat_map(|topic| (0..topic.read_queues).map(|queue| (topic.id, queue))).collect()
}

/// Creates topics with `count` queues in all, through the log, and returns the queues.
///
/// # Errors
/// When a topic is refused.
pub fn create_queues(store: &Store, count: u32) -> anyhow::Result<Vec<QueueId>> {
    let per_topic = match count {
        0..=8 => count.max(1),
        9..=800 => 8,
        _ => 100,
    };
    let (sender, answers) = mpsc::channel();
    for number in 0..count.div_ceil(per_topic) {
        let topic = Topic::new(&format!("orders-{number}"), per_topic);
        let record = Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(topic)) });
        let sender = sender.clone();
        store.propose(&record, FlushRequirement::Sync, Box::new(move |applied| drop(sender.send(applied))));
    }
    drop(sender);
    let mut queues = Vec::new();
    for answer in answers {
        match answer?.outcome {
            ApplyOutcome::Topic(topic, _) => queues.extend((0..per_topic).map(|queue| (topic.id, queue))),
            other => bail!("creating a topic led to {other:?}"),
        }
    }
    queues.truncate(count as usize);
    Ok(queues)
}

/// Proposes messages in batches, a limited number of them at a time, and waits for what it proposed.
pub struct LoadProducer {
    store: Arc<Store>,
    maker: MessageMaker,
    queues: Vec<QueueId>,
    next_queue: usize,
    flush: FlushRequirement,
    in_flight_max: usize,
    /// The answers that are still to come, and for how many messages each.
    in_flight: VecDeque<(mpsc::Receiver<Result<(), ProposeError>>, usize)>,
    /// Messages that were answered.
    answered: u64,
    /// Looks up every message before it is proposed, as a broker does for topics with deduplication.
    once: bool,
}

impl LoadProducer {
    /// A producer for these queues, which it takes in turn, with at most `in_flight_max` batches on the way.
    pub fn new(
        store: Arc<Store>,
        maker: MessageMaker,
        queues: Vec<QueueId>,
        flush: FlushRequirement,
        in_flight_max: usize,
    ) -> Self {
        Self {
            store,
            maker,
            queues,
            next_queue: 0,
            flush,
            in_flight_max,
            in_flight: VecDeque::new(),
            answered: 0,
            once: false,
        }
    }

    /// Proposes to topics with deduplication by id.
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// Proposes `count` messages, after waiting for older ones where too many are on the way.
    ///
    /// # Errors
    /// When a message was refused.
    pub fn propose(&mut self, count: usize) -> anyhow::Result<()> {
        while self.in_flight.len() >= self.in_flight_max {
            self.await_oldest()?;
        }
        let mut records = Vec::with_capacity(count);
        for _ in 0..count {
            let (topic_id, queue) = self.queues[self.next_queue];
            self.next_queue = (self.next_queue + 1) % self.queues.len();
            let made = self.maker.next(topic_id, queue);
            records.push(if self.once { self.looked_up(made, topic_id)? } else { made.into_record() });
        }
        let (sender, answer) = mpsc::channel();
        let done = Box::new(move |done: Result<_, _>| drop(sender.send(done.map(drop))));
        self.store.propose_batch(&records, self.flush, done);
        self.in_flight.push_back((answer, count));
        Ok(())
    }

    /// The record of a message that is known to be no repeat.
    fn looked_up(&self, made: MadeMessage, topic_id: u32) -> anyhow::Result<Record> {
        let (made, hash) = made.known_by_id();
        let index = self.store.state();
        let topic = index.topics.by_id(topic_id).context("the topic is gone")?;
        match index.first_of(&topic, hash, now_ms())? {
            None => Ok(made.into_record()),
            Some(first) => bail!("a message of the benchmark repeats {first:?}"),
        }
    }

    /// Waits until everything that was proposed is stored and applied.
    ///
    /// # Errors
    /// When a message was refused.
    pub fn drain(&mut self) -> anyhow::Result<()> {
        while !self.in_flight.is_empty() {
            self.await_oldest()?;
        }
        Ok(())
    }

    /// Proposes batches of `batch` messages until `until`, waits for them, and returns messages per second.
    ///
    /// # Errors
    /// When a message was refused.
    pub fn run(&mut self, batch: usize, mut until: impl FnMut(u64) -> bool) -> anyhow::Result<f64> {
        let (begin, before) = (Instant::now(), self.answered);
        let mut proposed = 0;
        while !until(proposed) {
            self.propose(batch)?;
            proposed += batch as u64;
        }
        self.drain()?;
        Ok((self.answered - before) as f64 / begin.elapsed().as_secs_f64())
    }

    /// Messages that were stored and applied so far.
    pub fn answered(&self) -> u64 {
        self.answered
    }

    fn await_oldest(&mut self) -> anyhow::Result<()> {
        let Some((answer, count)) = self.in_flight.pop_front() else { return Ok(()) };
        answer.recv().context("the store gave no answer")?.context("the store refused a message")?;
        self.answered += count as u64;
        Ok(())
    }
}
