//! Append without waiting for syncs, against a plain writer of the same frames.

use std::time::{Duration, Instant};

use kerolox_core::flush::Flush;
use kerolox_log::fs::OsFolder;
use kerolox_log::{Log, NewFrame};

use crate::engine::{self, FLUSH_INTERVAL, Producer};
use crate::messages::{Maker, Shape};
use crate::raw::{self, PlainWriter};
use crate::report::{Figure, Group, Unit};
use crate::settings::Settings;
use crate::turns::Rounds;

/// Records that the log and the plain writer repeat: more than a processor's cache holds.
const REPEATED: usize = 64 << 10;
const QUEUES: u32 = 64;
const IN_FLIGHT: usize = 16;

const PLAIN: usize = 0;
const PLAIN_SYNCED: usize = 1;
const LOG: usize = 2;
const STORE: usize = 3;

/// # Errors
/// When a disk or the engine fails.
pub fn run(settings: &Settings) -> anyhow::Result<Group> {
    let mut group = Group::new(
        "append",
        format!(
            "async flush, batches of {}, against a plain buffered writer of the same frames",
            settings.batch
        ),
    );
    for &body in settings.choose(&[10, 100, 1024][..], &[100]) {
        let shape = Shape::plain(body);
        group.note(shape.describe());
        let rounds = compete(settings, shape)?;
        let figure = |what: &str, who| {
            Figure::new(format!("{body} B: {what}"), rounds.median(who), Unit::BytesPerSecond)
        };
        let against = |figure: Figure, who, other, name: &str| {
            figure.against_with_ratio(name, rounds.median(other), rounds.ratio(who, other))
        };
        let plain_synced = "plain, synced each 200 ms";
        group.add(figure("plain writer", PLAIN));
        group.add(against(figure(plain_synced, PLAIN_SYNCED), PLAIN_SYNCED, PLAIN, "plain"));
        group.add(against(figure("log, one thread", LOG), LOG, PLAIN_SYNCED, plain_synced));
        group.add(against(figure("store with index", STORE), STORE, PLAIN_SYNCED, plain_synced));
        let frame = raw::frames(&[Maker::new(shape, 0).next(1, 0).into_frame()])[0].len() as f64;
        let records =
            Figure::new(format!("{body} B: store with index"), rounds.median(STORE) / frame, Unit::PerSecond);
        group.add(records);
    }
    Ok(group)
}

/// Bytes per second of every contestant in every round.
fn compete(settings: &Settings, shape: Shape) -> anyhow::Result<Rounds> {
    let turn = settings.turn();
    let mut maker = Maker::new(shape, 0);
    let records: Vec<NewFrame> =
        (0..REPEATED as u32).map(|i| maker.next(1, i % QUEUES).into_frame()).collect();
    let frames = raw::frames(&records);
    // Four contestants, at most two gigabytes per second each.
    let scratch = settings.scratch(6 << 30)?;
    let mut rounds = Rounds::default();

    let folder = OsFolder::create(&scratch.path().join("log-only"))?;
    let (mut log, _) = Log::open(std::sync::Arc::new(folder), engine::log_options())?;
    let store = engine::open(&scratch.path().join("store"))?;
    let queues = engine::create_queues(&store, QUEUES)?;
    let mut producer = Producer::new(store.clone(), Maker::new(shape, 0), queues, Flush::Async, IN_FLIGHT);
    for round in 0..settings.rounds() {
        let mut row = Vec::new();
        for sync_interval in [None, Some(FLUSH_INTERVAL)] {
            let path = scratch.path().join(format!("plain-{round}"));
            row.push(PlainWriter::create(&path, sync_interval)?.run(&frames, turn)?);
            std::fs::remove_file(path)?;
        }
        row.push(append_to_log(&mut log, &records, settings.batch, turn)?);
        let begin = Instant::now();
        let before = store.positions().end;
        producer.run(settings.batch, |_| begin.elapsed() >= turn)?;
        row.push((store.positions().end - before) as f64 / begin.elapsed().as_secs_f64());
        rounds.add(row);
    }
    Ok(rounds)
}

/// Appends batches on this thread, synced as often as the writer does it; returns bytes per second.
fn append_to_log(log: &mut Log, records: &[NewFrame], batch: usize, turn: Duration) -> anyhow::Result<f64> {
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
    Ok((log.end() - before) as f64 / begin.elapsed().as_secs_f64())
}
