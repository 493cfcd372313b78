//! Start after a kill, rebuild of the index, and what messages cost in memory and on disk.

use std::time::Duration;

use crate::child::{ChildReport, ChildWork, OtherProcess};
use crate::files;
use crate::messages::{MessageMaker, MessageShape};
use crate::raw;
use crate::report::{AimOutcome, FigureGroup, FigureLine, FigureUnit};
use crate::settings::BenchSettings;
use crate::turns::{median, quantile};

/// Seconds to aim at with ten million records.
const AIM_SECONDS: f64 = 3.0;
const QUEUES: u32 = 64;
/// Messages that are added between two kills.
const MORE: u64 = 300_000;

/// # Errors
/// When a disk, the engine or the other process fails.
pub fn run(settings: &BenchSettings) -> anyhow::Result<FigureGroup> {
    let records = settings.records.unwrap_or(settings.choose(10_000_000, 30_000));
    let shape = MessageShape::plain(settings.body);
    let frame_len = raw::frames(&[MessageMaker::new(shape, 0).next(1, 1).into_frame()])[0].len() as u64;
    let title =
        format!("start after kill -9 of a process that writes; {records} messages in {QUEUES} queues");
    let mut group = FigureGroup::new("startup", title);
    group.note(shape.describe());
    group.note("cold: the files were taken out of the page cache, as after a start of the machine");
    let scratch = settings.scratch((records + 10 * MORE) * (frame_len + 80) + (2 << 30))?;
    let folder = scratch.path().join("store");
    let work =
        ChildWork { folder: folder.clone(), queues: QUEUES, body: settings.body, batch: settings.batch };

    let mut other = OtherProcess::start("fill", &work)?;
    let empty = other.hear()?;
    let full = other.hear_until(records)?;
    other.kill()?;

    let (mut warm, mut cold, mut opened) = (Vec::new(), Vec::new(), ChildReport::default());
    for round in 0..settings.choose(6, 2) {
        let is_cold = round % 2 == 1;
        if is_cold {
            files::make_cold(&folder)?;
        }
        let mut other = OtherProcess::start("fill", &work)?;
        opened = other.hear()?;
        if is_cold {
            cold.push(opened.caught_up)
        } else {
            warm.push(opened.caught_up)
        }
        other.hear_until(settings.choose(MORE, 10_000))?;
        // At another moment of the engine's work each time.
        std::thread::sleep(Duration::from_millis(37 * (round + 1)));
        other.kill()?;
    }
    let aim = AimOutcome::AtMost(AIM_SECONDS);
    group.add(
        FigureLine::new("open after a kill, files in the page cache", median(&warm), FigureUnit::Seconds)
            .aim(aim),
    );
    group.add(FigureLine::new("the slowest of these", quantile(&warm, 1.0), FigureUnit::Seconds));
    group.add(FigureLine::new("open after a kill, cold", median(&cold), FigureUnit::Seconds).aim(aim));

    let index_bytes = files::bytes(&folder.join("index"));
    std::fs::remove_dir_all(folder.join("index"))?;
    let rebuilt = OtherProcess::start("open", &work)?.hear()?;
    let messages = rebuilt.end as f64 / frame_len as f64;
    group.add(FigureLine::new("rebuild without an index: open after", rebuilt.opened, FigureUnit::Seconds));
    group.add(FigureLine::new("rebuild: index complete after", rebuilt.caught_up, FigureUnit::Seconds));
    group.add(FigureLine::new("rebuild", messages / rebuilt.caught_up, FigureUnit::PerSecond));

    let of_memory =
        |what: &str, bytes: u64| FigureLine::new(format!("memory: {what}"), bytes as f64, FigureUnit::Bytes);
    group.add(of_memory("empty store", empty.resident));
    group.add(of_memory("while it was filled, at the end", full.resident));
    group.add(of_memory("while it was filled, at most", full.resident_peak));
    group.add(of_memory("just opened again", opened.resident));
    let more = opened.resident.saturating_sub(empty.resident) as f64;
    group.add(FigureLine::new(
        "memory: more than the empty store, per message",
        more / messages,
        FigureUnit::Bytes,
    ));
    group.add(FigureLine::new("disk: log, per message", rebuilt.end as f64 / messages, FigureUnit::Bytes));
    group.add(FigureLine::new("disk: index, per message", index_bytes as f64 / messages, FigureUnit::Bytes));
    Ok(group)
}
