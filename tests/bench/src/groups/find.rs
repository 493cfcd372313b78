//! Look-ups by message id, by key and by time.

use std::path::Path;
use std::time::Instant;

use anyhow::{Context, ensure};
use kerolox_core::flush::FlushRequirement;
use kerolox_core::lookup;
use kerolox_log::fs::SeededChoices;
use kerolox_store::{LookupPage, QueueEntry, Store};

use super::read::close;
use crate::engine::{self, LoadProducer, QueueId};
use crate::messages::{self, MessageMaker, MessageShape};
use crate::raw::PlainReader;
use crate::report::{FigureGroup, FigureLine, FigureUnit};
use crate::settings::BenchSettings;
use crate::turns::{median, quantile};
use crate::{files, raw};

const QUEUES: u32 = 64;
const IN_FLIGHT: usize = 16;

/// # Errors
/// When a disk or the engine fails, or something is not found.
pub fn run(settings: &BenchSettings) -> anyhow::Result<FigureGroup> {
    let shape = MessageShape { key: true, ..MessageShape::plain(settings.body) };
    let frame_len = raw::frames(&[MessageMaker::new(shape, 0).next(1, 1).into_frame()])[0].len();
    let messages: u32 = settings.choose(5_000_000, 30_000);
    let count = settings.choose(2_000, 50);
    let mut group = FigureGroup::new(
        "find",
        format!("look-ups among {messages} messages in {QUEUES} queues, one at a time"),
    );
    group.note(shape.describe());
    group.note("a plain read is one of the same message, at a known place; cold as in the group read");
    let scratch = settings.scratch(u64::from(messages) * (frame_len as u64 + 80) + (2 << 30))?;
    let data = scratch.path().join("store");
    let store = engine::open(&data)?;
    let queues = engine::create_queues(&store, QUEUES)?;
    let mut producer = LoadProducer::new(
        store.clone(),
        MessageMaker::new(shape, 0),
        queues.clone(),
        FlushRequirement::Async,
        IN_FLIGHT,
    );
    producer.run(settings.batch, |proposed| proposed >= u64::from(messages))?;
    drop(producer);
    store.flush_index()?;

    let finder = Finder { data: &data, messages, queues: &queues };
    finder.measure(&mut group, &store, "", count)?;
    close(store)?;
    files::make_cold(&data)?;
    let store = engine::open(&data)?;
    finder.measure(&mut group, &store, ", cold", count / 10)?;
    Ok(group)
}

struct Finder<'a> {
    data: &'a Path,
    messages: u32,
    /// In the order in which messages went to them.
    queues: &'a [QueueId],
}

impl Finder<'_> {
    fn measure(
        &self,
        group: &mut FigureGroup,
        store: &Store,
        state: &str,
        count: usize,
    ) -> anyhow::Result<()> {
        let (mut chooser, mut times) = (SeededChoices::new(3), Times::default());
        let mut plain = PlainReader::open(&self.data.join("log"))?;
        for _ in 0..count {
            // Each look-up has a message of its own, which no earlier one brought into memory.
            let mut number = || chooser.below(u64::from(self.messages)) as u32;
            self.by_id(store, number(), &mut times)?;
            self.by_key(store, number(), &mut times)?;
            self.by_time(store, number(), &mut times)?;
            let place = self.place(store, number())?;
            timed(&mut times.plain, || plain.read(&[place]))?;
        }
        let plain = median(&times.plain);
        let mut add = |what: &str, times: &[f64]| {
            let figure = FigureLine::new(format!("{what}{state}"), median(times), FigureUnit::Seconds);
            group.add(figure.against("plain read", plain));
            let slow = format!("{what}{state}, slowest but 1 %");
            group.add(FigureLine::new(slow, quantile(times, 0.99), FigureUnit::Seconds));
        };
        add("by message id", &times.by_id);
        add("by an id that is not there", &times.missing);
        add("by key", &times.by_key);
        add("by time, the offset in a queue", &times.by_time);
        Ok(())
    }

    fn by_id(&self, store: &Store, number: u32, times: &mut Times) -> anyhow::Result<()> {
        let id = messages::id(number);
        let found = timed(&mut times.by_id, || {
            store
                .find(lookup::id_hash(&id), &LookupPage::newest(1), |message| message.header.message_id == id)
        })?;
        let place = self.place(store, number)?;
        let position = found.messages.first().map(|found| found.position);
        ensure!(position == Some(place.position), "message {number} is not found by its id");
        let absent = lookup::id_hash(&messages::id(!number));
        let missing = timed(&mut times.missing, || store.find(absent, &LookupPage::newest(1), |_| true))?;
        ensure!(missing.messages.is_empty(), "an id that was never given is found");
        Ok(())
    }

    fn by_key(&self, store: &Store, number: u32, times: &mut Times) -> anyhow::Result<()> {
        let (topic_id, _) = self.queue_of(number);
        let hash = lookup::key_hash(topic_id, &messages::key(number));
        let found = timed(&mut times.by_key, || store.find(hash, &LookupPage::newest(1), |_| true))?;
        let place = self.place(store, number)?;
        let position = found.messages.first().map(|found| found.position);
        ensure!(position == Some(place.position), "message {number} is not found by its key");
        Ok(())
    }

    fn by_time(&self, store: &Store, number: u32, times: &mut Times) -> anyhow::Result<()> {
        let ((topic_id, queue), place) = (self.queue_of(number), self.place(store, number)?);
        let offset =
            timed(&mut times.by_time, || store.state().offset_at(topic_id, queue, place.visible_ms))?;
        ensure!(offset <= self.offset_of(number), "message {number} is not found by its time");
        Ok(())
    }

    fn queue_of(&self, number: u32) -> QueueId {
        self.queues[number as usize % self.queues.len()]
    }

    fn offset_of(&self, number: u32) -> u64 {
        u64::from(number) / self.queues.len() as u64
    }

    /// Where a message lies, from the entry of its queue.
    fn place(&self, store: &Store, number: u32) -> anyhow::Result<QueueEntry> {
        let (topic_id, queue) = self.queue_of(number);
        let entries = store.state().queues.entries(topic_id, queue, self.offset_of(number), 1)?;
        Ok(entries.first().context("a message has no entry")?.1)
    }
}

/// Seconds of every look-up.
#[derive(Default)]
struct Times {
    by_id: Vec<f64>,
    by_key: Vec<f64>,
    missing: Vec<f64>,
    by_time: Vec<f64>,
    plain: Vec<f64>,
}

fn timed<T, E>(times: &mut Vec<f64>, work: impl FnOnce() -> Result<T, E>) -> anyhow::Result<T>
where
    anyhow::Error: From<E>,
{
    let begin = Instant::now();
    let done = work()?;
    times.push(begin.elapsed().as_secs_f64());
    Ok(done)
}
