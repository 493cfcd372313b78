//! Very many messages: is the last million as fast as the first?

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kerolox_core::flush::Flush;

use super::read::read_queue;
use crate::engine::{self, Producer};
use crate::files;
use crate::machine::{self, ThreadTimes};
use crate::messages::{Maker, Shape};
use crate::raw::{self, PlainWriter};
use crate::report::{Aim, Figure, Group, Unit};
use crate::settings::Settings;
use crate::turns::{Rounds, median};

const QUEUES: u32 = 64;
const IN_FLIGHT: usize = 64;
/// Millions whose median stands for the beginning or the end.
const WINDOW: usize = 10;
const BODY: usize = 10;
/// After each step a plain writer has this long: what the machine itself is worth then.
const PLAIN_TURN: Duration = Duration::from_millis(60);

/// # Errors
/// When a disk or the engine fails, or there is not enough room.
pub fn run(settings: &Settings, messages: u64) -> anyhow::Result<Group> {
    let shape = Shape { body: BODY, key: false, small: true };
    let frame_len = raw::frames(&[Maker::new(shape, 0).next(1, 1).into_frame()])[0].len() as u64;
    let step = (messages / 100).max(1);
    let steps = messages / step;
    let title = format!("{messages} messages in {QUEUES} queues, in {steps} steps of {step}");
    let mut group = Group::new("big", title);
    group.note(shape.describe());
    group.note("after each step a plain writer has 60 ms, with a sync each 200 ms: what changes with it is the machine");
    group.note("where several steps are compared, their median counts");
    // Files that were compacted are there twice for a while.
    let needed = messages * (frame_len + 60) + (5 << 30);
    println!("big: about {:.1} GB of disk are needed while it runs", needed as f64 / 1e9);
    let scratch = settings.scratch(needed)?;
    let data = scratch.path().join("store");
    let store = engine::open(&data)?;
    let queues = engine::create_queues(&store, QUEUES)?;
    let maker = Maker::new(shape, 0);
    let mut producer = Producer::new(store.clone(), maker, queues.clone(), Flush::Async, IN_FLIGHT);

    let frames = raw::frames(&[Maker::new(shape, 0).next(1, 1).into_frame()]);
    let mut plain = PlainWriter::create(&scratch.path().join("plain"), Some(engine::FLUSH_INTERVAL))?;
    let (mut rates, mut plain_rates, mut costs) = (Vec::new(), Vec::new(), Vec::new());
    let (begin, mut paused) = (Instant::now(), Duration::ZERO);
    for number in 1..=steps {
        let before = ThreadTimes::now();
        rates.push(producer.run(settings.batch, |proposed| proposed >= step)?);
        costs.push(ThreadTimes::now().since(&before));
        let pause = Instant::now();
        let written = plain.run(&frames, settings.choose(PLAIN_TURN, Duration::from_millis(1)))?;
        plain_rates.push(written as f64 / pause.elapsed().as_secs_f64());
        paused += pause.elapsed();
        if number % 10 == 0 {
            println!("big: {} of {messages}, {:.0} s", number * step, begin.elapsed().as_secs_f64());
        }
    }
    let (appended, elapsed) = (producer.answered(), (begin.elapsed() - paused).as_secs_f64());
    let (end, resident) = (store.positions().end, machine::resident());
    drop(producer);
    let begin = Instant::now();
    Arc::try_unwrap(store).ok().context("the store is still in use")?.close();
    let closed = begin.elapsed().as_secs_f64();

    let window = WINDOW.min(rates.len() / 2).max(1);
    let compare = |what: &str, values: &[f64], unit| {
        let (first, last) = (median(&values[..window]), median(&values[values.len() - window..]));
        let name = format!("{what}, last {window} steps");
        Figure::new(name, last, unit).against("first steps", first)
    };
    group.add(Figure::new("append, all of it", appended as f64 / elapsed, Unit::PerSecond));
    group.add(compare("append", &rates, Unit::PerSecond).aim(Aim::RatioAtLeast(0.9)));
    let (first, last) = (rates[0], rates[rates.len() - 1]);
    group.add(compare("plain writer", &plain_rates, Unit::BytesPerSecond));
    group.add(Figure::new("append, last step", last, Unit::PerSecond).against("first step", first));
    let per_message = |used: &dyn Fn(&ThreadTimes) -> f64| -> Vec<f64> {
        costs.iter().map(|times| used(times) / step as f64).collect()
    };
    let all = per_message(&|times| times.total().used);
    group.add(compare("processor time per message", &all, Unit::Seconds));
    let names: BTreeSet<&String> = costs.iter().flat_map(|times| times.0.keys()).collect();
    for name in names {
        let thread = per_message(&|times| times.0.get(name).map_or(0.0, |time| time.used));
        group.add(compare(&format!("thread {name}, per message"), &thread, Unit::Seconds));
    }
    group.add(Figure::new("memory at the end", resident as f64, Unit::Bytes));
    group.add(Figure::new("closing the store", closed, Unit::Seconds));
    group.add(Figure::new("log, per message", end as f64 / appended as f64, Unit::Bytes));
    let index_bytes = files::bytes(&data.join("index")) as f64;
    group.add(Figure::new("index, per message", index_bytes / appended as f64, Unit::Bytes));

    let begin = Instant::now();
    let store = engine::open(&data)?;
    group.add(Figure::new("opening the store again", begin.elapsed().as_secs_f64(), Unit::Seconds));
    drop(store);
    // As many messages as a step has, from the beginning and from the end of every queue.
    let part = (step / u64::from(QUEUES)).max(1);
    let mut rounds = Rounds::default();
    for _ in 0..settings.choose(5, 2) {
        files::make_cold(&data)?;
        let store = engine::open(&data)?;
        let mut row = Vec::new();
        for from_end in [false, true] {
            let begin = Instant::now();
            let mut read = 0;
            for queue in &queues {
                let next = store.index().queue_bounds(queue.0, queue.1).next;
                let from = if from_end { next.saturating_sub(part) } else { 0 };
                read += read_queue(&store, *queue, from, (from + part).min(next))?.len();
            }
            row.push(read as f64 / begin.elapsed().as_secs_f64());
        }
        rounds.add(row);
    }
    let figure = Figure::new("cold read of the last step, by queues", rounds.median(1), Unit::PerSecond);
    let figure = figure.against_with_ratio("first step", rounds.median(0), rounds.ratio(1, 0));
    group.add(figure.aim(Aim::RatioAtLeast(0.9)));
    Ok(group)
}
