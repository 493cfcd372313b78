//! Append without waiting for syncs, against a plain writer of the same frames.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_core::flush::FlushRequirement;
use kerolox_log::fs::OsFolder;
use kerolox_log::{Log, NewFrame};

use crate::engine::{self, FLUSH_INTERVAL, LoadProducer};
use crate::machine::ThreadTimes;
use crate::messages::{MessageMaker, MessageShape};
use crate::raw::{self, PlainWriter};
use crate::report::{FigureGroup, FigureLine, FigureUnit};
use crate::settings::BenchSettings;
use crate::turns::RoundRates;

/// Records that the log and the plain writer repeat: more than a processor's cache holds.
const REPEATED: usize = 64 << 10;
const QUEUES: u32 = 64;
const IN_FLIGHT: usize = 16;

const PLAIN: usize = 0;
const PLAIN_SYNCED: usize = 1;
const LOG: usize = 2;
const STORE: usize = 3;
const NAMES: [&str; 4] = ["plain writer", "plain, synced each 200 ms", "log, one thread", "store with index"];

/// # Errors
/// When a disk or the engine fails.
pub fn run(settings: &BenchSettings) -> anyhow::Result<FigureGroup> {
    let mut group = FigureGroup::new(
        "append",
        format!(
            "async flush, batches of {}, against a plain buffered writer of the same frames",
            settings.batch
        ),
    );
    for &body in settings.choose(&[10, 100, 1024][..], &[100]) {
        let shape = MessageShape::plain(body);
        group.note(shape.describe());
        let Taken { rates, costs, frame_len } = compete(settings, shape)?;
        let against = |rounds: &RoundRates, figure: FigureLine, who, other: usize| {
            figure.against_with_ratio(NAMES[other], rounds.median(other), rounds.ratio(who, other))
        };
        let rate = |who: usize| {
            FigureLine::new(
                format!("{body} B: {}", NAMES[who]),
                rates.median(who),
                FigureUnit::BytesPerSecond,
            )
        };
        group.add(rate(PLAIN));
        group.add(against(&rates, rate(PLAIN_SYNCED), PLAIN_SYNCED, PLAIN));
        group.add(against(&rates, rate(LOG), LOG, PLAIN_SYNCED));
        group.add(against(&rates, rate(STORE), STORE, PLAIN_SYNCED));
        let records = rates.median(STORE) / frame_len as f64;
        group.add(FigureLine::new(
            format!("{body} B: {}, records", NAMES[STORE]),
            records,
            FigureUnit::PerSecond,
        ));
        for who in [LOG, STORE] {
            let what = format!("{body} B: {}, processor time per record", NAMES[who]);
            let figure = FigureLine::new(what, costs.median(who), FigureUnit::Seconds);
            group.add(against(&costs, figure, who, PLAIN_SYNCED));
        }
    }
    Ok(group)
}

/// What the contestants reached.
struct Taken {
    /// Bytes per second.
    rates: RoundRates,
    /// Seconds of processor time per record.
    costs: RoundRates,
    /// Bytes of a frame.
    frame_len: usize,
}

fn compete(settings: &BenchSettings, shape: MessageShape) -> anyhow::Result<Taken> {
    let turn = settings.turn();
    let mut maker = MessageMaker::new(shape, 0);
    let records: Vec<NewFrame> =
        (0..REPEATED as u32).map(|i| maker.next(1, i % QUEUES).into_frame()).collect();
    let frames = raw::frames(&records);
    let frame_len = frames[0].len();
    // The log and the store keep what they wrote; more than a gigabyte per second is not to be expected for long.
    let kept = turn.as_secs_f64() * settings.rounds() as f64 * 2.0 * 1e9;
    let scratch = settings.scratch(kept as u64 + (2 << 30))?;

    let folder = OsFolder::create(&scratch.path().join("log-only"))?;
    let (mut log, _) = Log::open(Arc::new(folder), engine::log_options())?;
    let store = engine::open(&scratch.path().join("store"))?;
    let queues = engine::create_queues(&store, QUEUES)?;
    let mut producer = LoadProducer::new(
        store.clone(),
        MessageMaker::new(shape, 0),
        queues,
        FlushRequirement::Async,
        IN_FLIGHT,
    );
    let path = scratch.path().join("plain");
    let (mut rates, mut costs) = (RoundRates::default(), RoundRates::default());
    for _ in 0..settings.rounds() {
        let mut taken = Vec::new();
        for sync_interval in [None, Some(FLUSH_INTERVAL)] {
            taken.push(measured(|| PlainWriter::create(&path, sync_interval)?.run(&frames, turn))?);
            std::fs::remove_file(&path)?;
        }
        taken.push(measured(|| append_to_log(&mut log, &records, settings.batch, turn))?);
        taken.push(measured(|| {
            let (begin, before) = (Instant::now(), store.positions().end);
            producer.run(settings.batch, |_| begin.elapsed() >= turn)?;
            anyhow::Ok(store.positions().end - before)
        })?);
        rates.add(taken.iter().map(|taken| taken.bytes / taken.seconds).collect());
        costs.add(taken.iter().map(|taken| taken.processor / taken.bytes * frame_len as f64).collect());
    }
    Ok(Taken { rates, costs, frame_len })
}

/// One turn.
struct Turn {
    bytes: f64,
    seconds: f64,
    /// Seconds of processor time, of all threads.
    processor: f64,
}

/// Does something that says how many bytes it wrote.
fn measured<E>(work: impl FnOnce() -> Result<u64, E>) -> anyhow::Result<Turn>
where
    anyhow::Error: From<E>,
{
    let (before, begin) = (ThreadTimes::now(), Instant::now());
    let bytes = work()? as f64;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Turn { bytes, seconds, processor: ThreadTimes::now().total().used - before.total().used })
}

/// Appends batches on this thread, synced as often as the writer does it; returns the number of bytes.
fn append_to_log(log: &mut Log, records: &[NewFrame], batch: usize, turn: Duration) -> anyhow::Result<u64> {
    let begin = Instant::now();
    let before = log.end();
    let mut synced = begin;
    for batch in records.chunks(batch).cycle() {
        if begin.elapsed() >= turn {
            break;
        }
        log.append(batch, 1, 1_700_000_000_000)?;
        if synced.elapsed() >= FLUSH_INTERVAL {
            log.sync()?;
            synced = Instant::now();
        }
    }
    Ok(log.end() - before)
}
