//! Very many messages: is the last million as fast as the first?

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use kerolox_core::flush::FlushRequirement;

use super::read::{close, read_queue};
use crate::engine::{self, LoadProducer, QueueId};
use crate::files;
use crate::machine::{self, ThreadTimes};
use crate::messages::{MessageMaker, MessageShape};
use crate::raw::{self, PlainReader, PlainWriter};
use crate::report::{AimOutcome, FigureGroup, FigureLine, FigureUnit};
use crate::settings::BenchSettings;
use crate::turns::{RoundRates, median};

const QUEUES: u32 = 64;
const IN_FLIGHT: usize = 64;
/// Millions whose median stands for the beginning or the end.
const WINDOW: usize = 10;
const BODY: usize = 10;
/// After each step a plain writer has this long: what the machine itself is worth then.
const PLAIN_TURN: Duration = Duration::from_millis(60);

/// # Errors
/// When a disk or the engine fails, or there is not enough room.
pub fn run(settings: &BenchSettings, messages: u64) -> anyhow::Result<FigureGroup> {
    let shape = MessageShape { body: BODY, key: false, small: true };
    let frame_len = raw::frames(&[MessageMaker::new(shape, 0).next(1, 1).into_frame()])[0].len() as u64;
    let step = (messages / 100).max(1);
    let steps = messages / step;
    let title = format!("{messages} messages in {QUEUES} queues, in {steps} steps of {step}");
    let mut group = FigureGroup::new("big", title);
    group.note(shape.describe());
    group.note("after each step a plain writer has 60 ms, with a sync each 200 ms: what changes with it is the machine");
    group.note("where several steps are compared, their median counts");
    // Files that were compacted are there twice for a while, and the plain writer's file grows too.
    let needed = messages * (frame_len + 60) + (5 << 30);
    println!("big: about {:.1} GB of disk are needed while it runs", needed as f64 / 1e9);
    let scratch = settings.scratch(needed)?;
    let data = scratch.path().join("store");
    let store = engine::open(&data)?;
    let queues = engine::create_queues(&store, QUEUES)?;
    let maker = MessageMaker::new(shape, 0);
    let mut producer =
        LoadProducer::new(store.clone(), maker, queues.clone(), FlushRequirement::Async, IN_FLIGHT);

    let taken = append(settings, &mut producer, shape, step, steps, &scratch.path().join("plain"))?;
    taken.add_to(&mut group, step);
    let (appended, end) = (producer.answered() as f64, store.positions().end as f64);
    group.add(FigureLine::new("memory at the end", machine::resident() as f64, FigureUnit::Bytes));
    drop(producer);
    let begin = Instant::now();
    close(store)?;
    group.add(FigureLine::new("closing the store", begin.elapsed().as_secs_f64(), FigureUnit::Seconds));
    group.add(FigureLine::new("log, per message", end / appended, FigureUnit::Bytes));
    let index_bytes = files::bytes(&data.join("index")) as f64;
    group.add(FigureLine::new("index, per message", index_bytes / appended, FigureUnit::Bytes));
    let begin = Instant::now();
    let store = engine::open(&data)?;
    group.add(FigureLine::new("opening the store again", begin.elapsed().as_secs_f64(), FigureUnit::Seconds));
    close(store)?;

    // As many messages as a step has, from the beginning and from the end of every queue.
    let part = (step / u64::from(QUEUES)).max(1);
    let reads = read(settings, &data, &queues, part)?;
    let figure =
        FigureLine::new("cold read of the last step, by queues", reads.median(1), FigureUnit::PerSecond);
    let figure = figure.against_with_ratio("first step", reads.median(0), reads.ratio(1, 0));
    group.add(figure.aim(AimOutcome::RatioAtLeast(0.9)));
    let figure =
        FigureLine::new("plain reads of the same places, last step", reads.median(3), FigureUnit::PerSecond);
    group.add(figure.against_with_ratio("first step", reads.median(2), reads.ratio(3, 2)));
    Ok(group)
}

/// What the steps of the append took.
#[derive(Default)]
struct Taken {
    /// Messages per second.
    rates: Vec<f64>,
    /// Bytes per second of the plain writer.
    plain: Vec<f64>,
    threads: Vec<ThreadTimes>,
}

fn append(
    settings: &BenchSettings,
    producer: &mut LoadProducer,
    shape: MessageShape,
    step: u64,
    steps: u64,
    plain_path: &Path,
) -> anyhow::Result<Taken> {
    let mut maker = MessageMaker::new(shape, 0);
    let records: Vec<_> = (0..4096).map(|_| maker.next(1, 1).into_frame()).collect();
    let frames = raw::frames(&records);
    let mut plain = PlainWriter::create(plain_path, Some(engine::FLUSH_INTERVAL))?;
    let plain_turn = settings.choose(PLAIN_TURN, Duration::from_millis(1));
    let (mut taken, begin) = (Taken::default(), Instant::now());
    for number in 1..=steps {
        let before = ThreadTimes::now();
        taken.rates.push(producer.run(settings.batch, |proposed| proposed >= step)?);
        taken.threads.push(ThreadTimes::now().since(&before));
        let turn = Instant::now();
        let written = plain.run(&frames, plain_turn)?;
        taken.plain.push(written as f64 / turn.elapsed().as_secs_f64());
        if number % 10 == 0 {
            println!("big: {} messages, {:.0} s", producer.answered(), begin.elapsed().as_secs_f64());
        }
    }
    Ok(taken)
}

impl Taken {
    fn add_to(&self, group: &mut FigureGroup, step: u64) {
        let per_step = |figure: &dyn Fn(&ThreadTimes) -> f64| -> Vec<f64> {
            self.threads.iter().map(|times| figure(times) / step as f64).collect()
        };
        let all = FigureLine::new("append, median of all steps", median(&self.rates), FigureUnit::PerSecond);
        group.add(all);
        group.add(compare("append", &self.rates, FigureUnit::PerSecond).aim(AimOutcome::RatioAtLeast(0.9)));
        group.add(compare("plain writer", &self.plain, FigureUnit::BytesPerSecond));
        let (first, last) = (self.rates[0], self.rates[self.rates.len() - 1]);
        group.add(
            FigureLine::new("append, last step", last, FigureUnit::PerSecond).against("first step", first),
        );
        let total = per_step(&|times| times.total().used);
        group.add(compare("processor time per message", &total, FigureUnit::Seconds));
        let names: BTreeSet<&String> = self.threads.iter().flat_map(|times| times.0.keys()).collect();
        for name in names {
            let used = per_step(&|times| times.0.get(name).map_or(0.0, |time| time.used));
            group.add(compare(&format!("thread {name}, per message"), &used, FigureUnit::Seconds));
        }
    }
}

/// The last steps against the first ones.
fn compare(what: &str, values: &[f64], unit: FigureUnit) -> FigureLine {
    let window = WINDOW.min(values.len() / 2).max(1);
    let (first, last) = (median(&values[..window]), median(&values[values.len() - window..]));
    FigureLine::new(format!("{what}, last {window} steps"), last, unit).against("first steps", first)
}

/// Messages per second from a cold disk: the first `part` messages of all queues, then the last ones; and plain reads of the
/// places of both, which tell what the disk makes of them.
fn read(settings: &BenchSettings, data: &Path, queues: &[QueueId], part: u64) -> anyhow::Result<RoundRates> {
    let mut rounds = RoundRates::default();
    for _ in 0..settings.choose(5, 2) {
        files::make_cold(data)?;
        let store = engine::open(data)?;
        let (mut row, mut places) = (Vec::new(), [Vec::new(), Vec::new()]);
        for from_end in [false, true] {
            let (begin, mut count) = (Instant::now(), 0);
            for queue in queues {
                let next = store.state().queues.bounds(queue.0, queue.1).next;
                let from = if from_end { next.saturating_sub(part) } else { 0 };
                let found = read_queue(&store, *queue, from, (from + part).min(next))?;
                count += found.len();
                places[usize::from(from_end)].extend(found);
            }
            row.push(count as f64 / begin.elapsed().as_secs_f64());
        }
        close(store)?;
        files::make_cold(data)?;
        let mut plain = PlainReader::open(&data.join("log"))?;
        for places in &places {
            let begin = Instant::now();
            plain.read(places)?;
            row.push(places.len() as f64 / begin.elapsed().as_secs_f64());
        }
        rounds.add(row);
    }
    Ok(rounds)
}
