//! Group commit, against a loop that writes and syncs the same bytes.

use std::sync::Arc;
use std::time::Instant;

use kerolox_core::flush::FlushRequirement;
use kerolox_log::fs::OsFolder;
use kerolox_log::{Log, NewFrame};

use crate::engine::{self, LoadProducer};
use crate::messages::{MessageMaker, MessageShape};
use crate::raw::{self, ReserveMethod, SyncLoop};
use crate::report::{AimOutcome, FigureGroup, FigureLine, FigureUnit};
use crate::settings::BenchSettings;
use crate::turns::RoundRates;

const RAW: usize = 0;
const ZEROED: usize = 1;
const LOG: usize = 2;
const ALONE: usize = 3;
const PIPELINED: usize = 4;

/// # Errors
/// When a disk or the engine fails.
pub fn run(settings: &BenchSettings) -> anyhow::Result<FigureGroup> {
    let shape = MessageShape::plain(settings.body);
    let mut group =
        FigureGroup::new("commit", "sync flush, against write + fdatasync of the same bytes; per batch");
    group.note(shape.describe());
    group.note("one at a time: the next batch is proposed when the one before was answered");
    group.note("pipelined: two more are proposed meanwhile, and may share a sync");
    group.note("each turn is of 40 batches; its mean counts, and the median of 25 turns");
    for &batch in settings.choose(&[1, 32, 512][..], &[32]) {
        let rounds = compete(settings, shape, batch)?;
        let figure = |what: &str, who| {
            let figure =
                FigureLine::new(format!("{batch} messages: {what}"), rounds.median(who), FigureUnit::Seconds);
            figure.against_with_ratio("raw", rounds.median(RAW), rounds.ratio(who, RAW))
        };
        group.add(figure("raw, into zeros written before", ZEROED));
        group.add(figure("log, one thread", LOG));
        group.add(figure("store, one at a time", ALONE).aim(AimOutcome::RatioAtMost(1.3)));
        group.add(figure("store, pipelined", PIPELINED).aim(AimOutcome::RatioAtMost(1.3)));
    }
    Ok(group)
}

/// Seconds per batch of every contestant in every round.
fn compete(settings: &BenchSettings, shape: MessageShape, batch: usize) -> anyhow::Result<RoundRates> {
    let mut maker = MessageMaker::new(shape, 0);
    let records: Vec<NewFrame> = (0..batch).map(|_| maker.next(1, 1).into_frame()).collect();
    let bytes = raw::frames(&records).concat();
    let (rounds, batches) = (settings.choose(25, 2), settings.choose(40, 3));
    let scratch = settings.scratch(4 << 30)?;
    let len = ((rounds * batches * bytes.len()) as u64).next_multiple_of(1 << 20);
    let mut allocated = SyncLoop::create(&scratch.path().join("raw"), len, ReserveMethod::Allocated)?;
    let mut zeroed = SyncLoop::create(&scratch.path().join("zeroed"), len, ReserveMethod::Zeroed)?;
    let folder = OsFolder::create(&scratch.path().join("log-only"))?;
    let (mut log, _) = Log::open(Arc::new(folder), engine::log_options())?;
    let store = engine::open(&scratch.path().join("store"))?;
    let queues = engine::create_queues(&store, 8)?;
    let producer = |first, in_flight| {
        let maker = MessageMaker::new(shape, first);
        LoadProducer::new(store.clone(), maker, queues.clone(), FlushRequirement::Sync, in_flight)
    };
    let (mut alone, mut pipelined) = (producer(0, 1), producer(1 << 31, 3));
    let mut all = RoundRates::default();
    for _ in 0..rounds {
        all.add(vec![
            mean_of(batches, || Ok(allocated.write(&bytes)?))?,
            mean_of(batches, || Ok(zeroed.write(&bytes)?))?,
            mean_of(batches, || {
                log.append(&records, 1, 1_700_000_000_000)?;
                Ok(log.sync()?)
            })?,
            mean_of(batches, || alone.propose(batch).and_then(|()| alone.drain()))?,
            mean_of(batches, || pipelined.propose(batch))?,
        ]);
        pipelined.drain()?;
    }
    Ok(all)
}

/// Seconds that each of several calls took.
fn mean_of(times: usize, mut work: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<f64> {
    let begin = Instant::now();
    for _ in 0..times {
        work()?;
    }
    Ok(begin.elapsed().as_secs_f64() / times as f64)
}
