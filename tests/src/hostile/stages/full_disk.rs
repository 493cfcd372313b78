//! The disk fills while the broker runs, and is full when it starts.

use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use kerolox_client::RetryPolicy;
use tokio::time::{Instant, sleep};

use super::super::quiet::{Quiet, percentile};
use super::super::target::Target;
use super::super::{
    BASELINE, HostileOptions, HostileReport, RETURN_MORE, SETTLE, STALL, later, served_again,
};
use super::drain::Drain;

pub(in super::super) const NAME: &str = "a full disk, also at the start";
/// Of the disk; what lies on it counts as memory of the broker, too.
const DISK: &str = "96m";
/// Rare looks at the disk: the log itself finds it full.
const SETTINGS: [(&str, &str); 4] = [
    ("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "64MiB"),
    ("KEROLOX_BROKER__LOG__PREALLOCATION", "4MiB"),
    ("KEROLOX_BROKER__RETENTION__FREE_SPACE_MIN", "20MiB"),
    ("KEROLOX_BROKER__RETENTION__CHECK_INTERVAL", "20s"),
];
/// Messages that wait for the drain: more than it gets done until there is room again.
const BACKLOG: u64 = 4_000;
const BACKLOG_BYTES: usize = 2_000;
/// What the quiet client's sends are answered.
const REFUSED: &str = "(42900)";

/// Consumers go on, sends are refused and go on when there is room, and nothing that was acknowledged is lost.
///
/// # Errors
/// In words what went wrong.
pub(in super::super) async fn full_disk(
    options: &HostileOptions,
    report: &mut HostileReport,
) -> Result<String> {
    let mut target = Target::alone(&options.broker, &SETTINGS, Some(DISK))?;
    target.open().await?;
    let mut drain = Drain::start(&target).await?;
    drain.send(BACKLOG, BACKLOG_BYTES).await?;
    // As RocketMQ's SDKs do it: by default a refusal shows after a quarter of a minute.
    let quiet = Quiet::retrying(&target.client(), RetryPolicy::default().attempts(3)).await?;
    drain.work(&target, BASELINE).await?;
    let (before, seen_before, resident) = (drain.take(), quiet.take(), target.memory()?);
    ensure!(seen_before.errors.is_empty(), "before the disk is full: {:?}", seen_before.errors.first());

    target.disk()?.fill()?;
    let taken = drain.send_until_refused().await?;
    quiet.take();
    drain.work(&target, options.attack).await?;
    let mut refused = refusals(&quiet)?;
    ensure!(refused > 0, "the quiet client's sends are taken by a full disk");

    target.server().kill()?;
    target.disk()?.fill()?;
    let starts = target.server().start()?;
    drain.reconnect(&target).await?;
    let taken_later = drain.send_until_refused().await?;
    still_refused(&quiet).await?;
    drain.work(&target, options.attack / 2).await?;
    refused += refusals(&quiet)?;
    let during = drain.take();
    ensure!(drain.left() > 0, "the backlog was too small for the whole time without room");

    target.disk()?.make_room()?;
    let room = Instant::now();
    served_again(&quiet).await.map_err(|wrong| anyhow!("with room again: {wrong}"))?;
    let room = room.elapsed();
    drain.finish(&target, SETTLE).await?;
    let later = later(&target, resident).await;
    let dead = target.dead();
    ensure!(dead.is_empty(), "{}", dead.join("; "));
    let acknowledged = quiet.settle(SETTLE).await.map_err(|lost| anyhow!(lost))?;

    let ratio = percentile(&during, 99).as_secs_f64() / percentile(&before, 99).as_secs_f64().max(1e-6);
    let slowest = percentile(&during, 100);
    ensure!(slowest < STALL, "consumers stood still, {} s for one call", slowest.as_secs());
    ensure!(later <= resident + RETURN_MORE, "{} MiB do not come back", (later - resident) >> 20);
    report.acknowledged += acknowledged + drain.sent;
    report.peak = report.peak.max(drain.peak);
    report.worst_ratio = report.worst_ratio.max(ratio);
    Ok(format!(
        "{} receives and acks without an error, p99 {:.1} ms = {ratio:.1} times, slowest {:.0} ms; {refused} sends refused \
         with 42900, {taken} and {taken_later} more found room; started on a full disk in {:.1} s, sends taken {:.1} s after \
         there was room; all of {} acknowledged messages arrived; memory {} MiB, at the peak {}, later {}",
        during.len(),
        percentile(&during, 99).as_secs_f64() * 1e3,
        slowest.as_secs_f64() * 1e3,
        starts.as_secs_f64(),
        room.as_secs_f64(),
        acknowledged + drain.sent,
        resident >> 20,
        drain.peak >> 20,
        later >> 20,
    ))
}

/// How many sends were refused.
///
/// # Errors
/// When there was another error.
fn refusals(quiet: &Quiet) -> Result<usize> {
    let errors = quiet.take().errors;
    match errors.iter().find(|error| !is_refusal(error)) {
        Some(other) => Err(anyhow!("the quiet client saw on a full disk: {other}")),
        None => Ok(errors.len()),
    }
}

fn is_refusal(error: &str) -> bool {
    error.starts_with("send: ") && error.contains(REFUSED)
}

/// Waits until the quiet client has found the broker that was started again, and is refused by it.
async fn still_refused(quiet: &Quiet) -> Result<()> {
    let began = Instant::now();
    loop {
        quiet.take();
        sleep(Duration::from_secs(1)).await;
        let seen = quiet.take();
        if !seen.errors.is_empty() && seen.errors.iter().all(|error| is_refusal(error)) {
            return Ok(());
        }
        let elapsed = began.elapsed();
        ensure!(
            elapsed < SETTLE,
            "not refused {} s after the start: {:?}",
            elapsed.as_secs(),
            seen.errors.first()
        );
    }
}
