//! Sequential reads: the whole log, and single queues through the index.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use kerolox_core::flush::FlushRequirement;
use kerolox_log::Log;
use kerolox_log::fs::OsFolder;
use kerolox_store::{QueueEntry, Store};

use crate::engine::{self, LoadProducer, QueueId};
use crate::messages::{MessageMaker, MessageShape};
use crate::raw::PlainReader;
use crate::report::{FigureGroup, FigureLine, FigureUnit};
use crate::settings::BenchSettings;
use crate::turns::RoundRates;
use crate::{files, raw};

const QUEUES: u32 = 64;
const IN_FLIGHT: usize = 16;
/// Messages that a consumer asks for at a time.
const PAGE: usize = 32;
/// Share of the newest messages of a queue that are certainly kept in memory: a quarter of the tail of 32 MiB.
const TAIL_BYTES: usize = 8 << 20;

/// # Errors
/// When a disk or the engine fails.
pub fn run(settings: &BenchSettings) -> anyhow::Result<FigureGroup> {
    let shape = MessageShape::plain(settings.body);
    let frame_len = raw::frames(&[MessageMaker::new(shape, 0).next(1, 1).into_frame()])[0].len();
    let messages: u64 = settings.choose(3_000_000, 30_000);
    let title = format!("sequential reads of {messages} messages in {QUEUES} queues");
    let mut group = FigureGroup::new("read", title);
    group.note(shape.describe());
    group.note("cold: the files were taken out of the page cache, and the store was opened again");
    group.note("a queue is read as consumers do: 32 entries from the index, then message by message; plain reads get the same places");
    let scratch = settings.scratch(messages * (frame_len as u64 + 60) + (2 << 30))?;
    let data = scratch.path().join("store");
    let store = engine::open(&data)?;
    let queues = engine::create_queues(&store, QUEUES)?;
    let maker = MessageMaker::new(shape, 0);
    let mut producer =
        LoadProducer::new(store.clone(), maker, queues.clone(), FlushRequirement::Async, IN_FLIGHT);
    producer.run(settings.batch, |proposed| proposed >= messages)?;
    drop(producer);

    let newest = TAIL_BYTES / frame_len / queues.len();
    let rounds = settings.choose(5, 2);
    let hot = queue_rounds(&data, &store, &queues, rounds, |store, queue| {
        let next = store.state().queues.bounds(queue.0, queue.1).next;
        next.saturating_sub(newest as u64)
    })?;
    add_queue(&mut group, "newest messages of all queues, from memory", &hot);
    let warm = queue_rounds(&data, &store, &queues[..8], rounds, |_, _| 0)?;
    add_queue(&mut group, "8 whole queues, from the page cache", &warm);
    close(store)?;
    let cold = cold_rounds(settings, &data, &queues)?;
    add_queue(&mut group, "a whole queue, cold", &cold);

    let scans = scan_rounds(&data, rounds)?;
    for (what, who) in [("scan of the log with checksums, from the page cache", 0), ("the same, cold", 2)] {
        let figure = FigureLine::new(what, scans.median(who), FigureUnit::BytesPerSecond);
        group.add(figure.against_with_ratio(
            "plain read of the files",
            scans.median(who + 1),
            scans.ratio(who, who + 1),
        ));
    }
    Ok(group)
}

fn add_queue(group: &mut FigureGroup, what: &str, rounds: &RoundRates) {
    let figure = FigureLine::new(what, rounds.median(0), FigureUnit::PerSecond);
    group.add(figure.against_with_ratio("plain reads", rounds.median(1), rounds.ratio(0, 1)));
}

/// Ends the engine of a store that has no other user any more.
pub(super) fn close(store: Arc<Store>) -> anyhow::Result<()> {
    Arc::try_unwrap(store).ok().context("the store is still in use")?.close();
    Ok(())
}

/// Messages per second through the engine and of plain reads, from an offset of each queue on.
fn queue_rounds(
    data: &Path,
    store: &Store,
    queues: &[QueueId],
    count: usize,
    from: impl Fn(&Store, QueueId) -> u64,
) -> anyhow::Result<RoundRates> {
    let mut rounds = RoundRates::default();
    for _ in 0..count {
        let (mut places, begin) = (Vec::new(), Instant::now());
        for queue in queues {
            places.extend(read_queue(store, *queue, from(store, *queue), u64::MAX)?);
        }
        let engine = places.len() as f64 / begin.elapsed().as_secs_f64();
        let begin = Instant::now();
        PlainReader::open(&data.join("log"))?.read(&places)?;
        rounds.add(vec![engine, places.len() as f64 / begin.elapsed().as_secs_f64()]);
    }
    Ok(rounds)
}

/// Rounds as of [`queue_rounds`], but with nothing in memory; each round has a queue of its own.
fn cold_rounds(settings: &BenchSettings, data: &Path, queues: &[QueueId]) -> anyhow::Result<RoundRates> {
    let mut rounds = RoundRates::default();
    for queue in queues.iter().take(settings.choose(5, 2)) {
        files::make_cold(data)?;
        let store = engine::open(data)?;
        let begin = Instant::now();
        let places = read_queue(&store, *queue, 0, u64::MAX)?;
        let engine = places.len() as f64 / begin.elapsed().as_secs_f64();
        close(store)?;
        files::make_cold(data)?;
        let begin = Instant::now();
        PlainReader::open(&data.join("log"))?.read(&places)?;
        rounds.add(vec![engine, places.len() as f64 / begin.elapsed().as_secs_f64()]);
    }
    Ok(rounds)
}

/// Reads messages of a queue from one offset up to another, page by page, and returns where they lie.
///
/// # Errors
/// When the store fails, or a message is not the one of its offset.
pub(super) fn read_queue(
    store: &Store,
    queue: QueueId,
    from: u64,
    until: u64,
) -> anyhow::Result<Vec<QueueEntry>> {
    let (mut offset, mut places) = (from, Vec::new());
    while offset < until {
        let page = usize::try_from(until - offset).map_or(PAGE, |left| left.min(PAGE));
        let entries = store.state().queues.entries(queue.0, queue.1, offset, page)?;
        if entries.is_empty() {
            break;
        }
        for (_, entry) in entries {
            let (_, message) = store.read_message(entry.position, entry.len)?;
            anyhow::ensure!(
                (message.header.topic_id, message.header.queue) == queue,
                "offset {offset} of queue {queue:?} leads to a message of another one"
            );
            places.push(entry);
            offset += 1;
        }
    }
    Ok(places)
}

/// Bytes per second of a scan and of plain reads, first from the page cache, then cold.
fn scan_rounds(data: &Path, count: usize) -> anyhow::Result<RoundRates> {
    let log = data.join("log");
    let mut rounds = RoundRates::default();
    let (bytes, _) = scan(&log)?;
    for _ in 0..count {
        let warm = [scan(&log)?.1, read(&log, bytes)?];
        files::make_cold(&log)?;
        let cold = scan(&log)?.1;
        files::make_cold(&log)?;
        rounds.add(vec![warm[0], warm[1], cold, read(&log, bytes)?]);
    }
    Ok(rounds)
}

/// Bytes, and bytes per second.
fn scan(log: &Path) -> anyhow::Result<(u64, f64)> {
    let (log, _) = Log::open(Arc::new(OsFolder::create(log)?), engine::log_options())?;
    let reader = log.reader();
    let (begin, mut bytes) = (Instant::now(), 0);
    for frame in reader.scan(reader.start()) {
        bytes += u64::from(frame?.len);
    }
    Ok((bytes, bytes as f64 / begin.elapsed().as_secs_f64()))
}

/// The file of the checkpoint sorts behind the segments.
fn read(log: &Path, bytes: u64) -> anyhow::Result<f64> {
    let begin = Instant::now();
    files::read_plainly(log, bytes)?;
    Ok(bytes as f64 / begin.elapsed().as_secs_f64())
}
