//! Append for a while, with the processor time of every thread; and append with few and many queues.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_core::flush::FlushRequirement;
use kerolox_store::Store;

use crate::engine::{self, LoadProducer};
use crate::machine::ThreadTimes;
use crate::messages::{MessageMaker, MessageShape};
use crate::raw::{self, PlainWriter};
use crate::report::{AimOutcome, FigureGroup, FigureLine, FigureUnit};
use crate::settings::BenchSettings;
use crate::turns::{RoundRates, median, quantile};

/// Batches that are on the way at a time.
const IN_FLIGHT: usize = 64;
/// Messages per second to aim at.
const AIM: f64 = 1e6;
/// Bytes of a message on disk, roughly, log and index together, beside its body.
const OVERHEAD: u64 = 330;

/// Few and many queues in turns.
///
/// # Errors
/// When a disk or the engine fails.
pub fn queues(settings: &BenchSettings) -> anyhow::Result<FigureGroup> {
    let shape = MessageShape::plain(settings.body);
    let counts = [1, 64, 10_000];
    let turn_messages: u64 = settings.choose(1_000_000, 20_000);
    let rounds_count = settings.choose(7, 2);
    let mut group = FigureGroup::new(
        "queues",
        format!("async flush, batches of {}, turns of {turn_messages} messages", settings.batch),
    );
    group.note(shape.describe());
    group.note("messages go to the queues in turn; a turn ends when all are in the index");
    let messages = turn_messages * rounds_count * counts.len() as u64;
    let scratch = settings.scratch(messages * (OVERHEAD + settings.body as u64) + (3 << 30))?;
    let mut producers = Vec::new();
    for count in counts {
        let store = engine::open(&scratch.path().join(count.to_string()))?;
        let queues = engine::create_queues(&store, count)?;
        producers.push(LoadProducer::new(
            store,
            MessageMaker::new(shape, 0),
            queues,
            FlushRequirement::Async,
            IN_FLIGHT,
        ));
    }
    let mut rounds = RoundRates::default();
    for _ in 0..rounds_count {
        let mut row = Vec::new();
        for producer in &mut producers {
            row.push(producer.run(settings.batch, |proposed| proposed >= turn_messages)?);
        }
        rounds.add(row);
    }
    for (who, count) in counts.iter().enumerate() {
        let figure = FigureLine::new(format!("{count} queues"), rounds.median(who), FigureUnit::PerSecond);
        group.add(match count {
            64 => figure,
            1 => figure.against_with_ratio("64 queues", rounds.median(1), rounds.ratio(who, 1)),
            _ => figure
                .against_with_ratio("64 queues", rounds.median(1), rounds.ratio(who, 1))
                .aim(AimOutcome::RatioAtLeast(0.9)),
        });
    }
    Ok(group)
}

/// One store for a while.
///
/// # Errors
/// When a disk or the engine fails.
pub fn sustained(settings: &BenchSettings) -> anyhow::Result<FigureGroup> {
    let shape = MessageShape { key: settings.keys, ..MessageShape::plain(settings.body) };
    let seconds = settings.seconds.unwrap_or(settings.choose(20.0, 0.3));
    let mut group = FigureGroup::new(
        "indexed",
        format!(
            "async flush, {} queues, batches of {}, for {seconds} s without a pause",
            settings.queues, settings.batch
        ),
    );
    group.note(shape.describe());
    group.note("the plain writer writes the same frames, with a sync each 200 ms, before and after");
    let making = cost_of_making(shape, settings.choose(1_000_000, 100_000));
    // At two million messages per second.
    let bytes = (seconds * 2e6) as u64 * (OVERHEAD + settings.body as u64);
    let scratch = settings.scratch(bytes)?;
    let mut plain = vec![plain_writer(settings, shape, scratch.path())?];
    let store = engine::open(&scratch.path().join("store"))?;
    let queues = engine::create_queues(&store, settings.queues)?;
    let mut producer = LoadProducer::new(
        store.clone(),
        MessageMaker::new(shape, 0),
        queues,
        FlushRequirement::Async,
        IN_FLIGHT,
    );

    let (before, begin) = (ThreadTimes::now(), Instant::now());
    let mut samples = Samples::begin(store.clone(), (seconds / 4.0).min(1.0));
    let duration = Duration::from_secs_f64(seconds);
    let rate = producer.run(settings.batch, |proposed| {
        samples.look(proposed);
        begin.elapsed() >= duration
    })?;
    let elapsed = begin.elapsed().as_secs_f64();
    let times = ThreadTimes::now().since(&before);
    store.flush_index()?;
    let flushed = begin.elapsed().as_secs_f64();
    plain.push(plain_writer(settings, shape, scratch.path())?);

    let messages = producer.answered() as f64;
    group.add(
        FigureLine::new("answered and in the index", rate, FigureUnit::PerSecond)
            .aim(AimOutcome::AtLeast(AIM)),
    );
    let with_flush = messages / flushed;
    group.add(FigureLine::new("the same, until the index was on disk", with_flush, FigureUnit::PerSecond));
    let slowest = format!("slowest {:.2} s", samples.interval);
    group.add(FigureLine::new(slowest, samples.slowest(), FigureUnit::PerSecond));
    let log = FigureLine::new("log", store.positions().end as f64 / elapsed, FigureUnit::BytesPerSecond);
    group.add(log.against("plain writer", median(&plain)));
    group.add(FigureLine::new("farthest that the index was behind the log", samples.lag, FigureUnit::Bytes));
    group.add(FigureLine::new("making a message, in the producer", making, FigureUnit::Seconds));
    add_threads(&mut group, &times, messages, elapsed);
    Ok(group)
}

/// What the threads used for so many messages in so many seconds.
fn add_threads(group: &mut FigureGroup, times: &ThreadTimes, messages: f64, elapsed: f64) {
    let mut add = |what: &str, seconds: f64, against: &str| {
        let figure = FigureLine::new(format!("{what}, per message"), seconds / messages, FigureUnit::Seconds);
        group.add(figure.ratio(against, seconds / elapsed));
    };
    for (name, time) in &times.0 {
        add(&format!("thread {name}"), time.used, "share of a core");
    }
    let total = times.total();
    add("all threads", total.used, "cores in use");
    add("waiting while others had the cores", total.waited, "threads that wait");
    let cores = std::thread::available_parallelism().map_or(1.0, |cores| usize::from(cores) as f64);
    let possible = messages / (total.used / cores).max(times.busiest());
    let what = format!("what this processor time allows with {cores} cores for itself");
    group.add(FigureLine::new(what, possible, FigureUnit::PerSecond));
}

/// Bytes per second of a plain writer that is synced as often as the engine.
fn plain_writer(settings: &BenchSettings, shape: MessageShape, folder: &Path) -> anyhow::Result<f64> {
    let mut maker = MessageMaker::new(shape, 0);
    let records: Vec<_> = (0..16 << 10).map(|_| maker.next(1, 1).into_frame()).collect();
    let path = folder.join("plain");
    let duration = settings.choose(Duration::from_secs(2), settings.turn());
    let (mut writer, begin) = (PlainWriter::create(&path, Some(engine::FLUSH_INTERVAL))?, Instant::now());
    let bytes = writer.run(&raw::frames(&records), duration)?;
    let rate = bytes as f64 / begin.elapsed().as_secs_f64();
    std::fs::remove_file(path)?;
    Ok(rate)
}

/// Seconds to make one message and encode it, without an engine.
fn cost_of_making(shape: MessageShape, count: u32) -> f64 {
    let mut maker = MessageMaker::new(shape, 0);
    let begin = Instant::now();
    for i in 0..count {
        std::hint::black_box(maker.next(1, i % 64).into_frame());
    }
    begin.elapsed().as_secs_f64() / f64::from(count)
}

/// Measurements of a store while it is filled.
struct Samples {
    store: Arc<Store>,
    interval: f64,
    since: Instant,
    proposed: u64,
    rates: Vec<f64>,
    lag: f64,
}

impl Samples {
    /// Looks every `interval` seconds.
    fn begin(store: Arc<Store>, interval: f64) -> Self {
        Self { store, interval, since: Instant::now(), proposed: 0, rates: Vec::new(), lag: 0.0 }
    }

    fn look(&mut self, proposed: u64) {
        let elapsed = self.since.elapsed().as_secs_f64();
        if elapsed < self.interval {
            return;
        }
        let positions = self.store.positions();
        self.lag = self.lag.max(positions.end.saturating_sub(positions.applied) as f64);
        self.rates.push((proposed - self.proposed) as f64 / elapsed);
        (self.since, self.proposed) = (Instant::now(), proposed);
    }

    /// Messages per second in the slowest interval; 0 when none was seen.
    fn slowest(&self) -> f64 {
        quantile(&self.rates, 0.0)
    }
}
