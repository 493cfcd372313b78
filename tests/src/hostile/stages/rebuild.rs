//! Calls that come while the broker starts, and makes its index.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::super::quiet::Quiet;
use super::super::target::{SMALL_TOPIC, START, Target};
use super::super::{
    BASELINE, HostileOptions, HostileReport, RETURN_MORE, SETTLE, STALL, later, served_again,
};
use kerolox_harness::HealthProbe;
use kerolox_harness::long_log::write_log;
use kerolox_harness::raw_calls::{self, MessagingStub};

pub(in super::super) const NAME: &str = "calls while the index is made";
/// Streams of Telemetry, and callers that receive; each has a connection.
const CALLERS: usize = 100;
/// Each of those callers has a consumer group of its own.
const MESSAGES: u64 = 32;
/// What a receive is answered that is not held, in the words of the protocol and of the broker.
const REFUSED: [&str; 2] = ["InternalServerError", "again"];

/// What callers got.
#[derive(Debug, Default)]
struct Tally {
    greeted: AtomicUsize,
    served: AtomicUsize,
    refused: AtomicUsize,
}

/// Telemetry is held until the index is there, receives are held or told to come again, and all are served then.
///
/// # Errors
/// In words what went wrong.
pub(in super::super) async fn rebuild(
    options: &HostileOptions,
    report: &mut HostileReport,
) -> Result<String> {
    let mut target = Target::alone(&options.broker, &[("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "64MiB")], None)?;
    // The first start creates the files beside the log.
    target.server().start()?;
    target.server().stop()?;
    let data = target.server().data();
    for folder in ["log", "index"] {
        fs::remove_dir_all(data.join(folder))?;
    }
    write_log(&data.join("log"))?;
    target.open().await?;
    let mut stub = raw_calls::stub(&target.broker).await?;
    for number in 0..MESSAGES {
        raw_calls::send(&mut stub, vec![raw_calls::message(SMALL_TOPIC, number, 100)]).await?;
    }
    let quiet = Quiet::start(&target.client()).await?;
    sleep(BASELINE).await;
    let (before, resident) = (quiet.take(), target.memory()?);
    ensure!(before.errors.is_empty(), "before the start: {:?}", before.errors.first());

    target.server().kill()?;
    fs::remove_dir_all(data.join("index"))?;
    target.server().begin()?;
    let began = Instant::now();
    let tally = Arc::new(Tally::default());
    let mut callers = call(&target.broker, &tally);
    let mut peak = until_ready(&mut target, &tally).await?;
    let ready = began.elapsed();
    target.server().wait()?;
    while let Some(served) =
        timeout(SETTLE, callers.join_next()).await.context("callers that are not served")?
    {
        served??;
        peak = peak.max(target.memory()?);
    }
    let served = began.elapsed();

    served_again(&quiet).await.map_err(|wrong| anyhow!(wrong))?;
    sleep(BASELINE).await;
    let after = quiet.take();
    let later = later(&target, resident).await;
    let dead = target.dead();
    ensure!(dead.is_empty(), "{}", dead.join("; "));
    let acknowledged = quiet.settle(SETTLE).await.map_err(|lost| anyhow!(lost))?;

    ensure!(after.errors.is_empty(), "after the start: {:?}", after.errors.first());
    ensure!(after.percentile(100) < STALL, "the quiet client stood still");
    ensure!(later <= resident + RETURN_MORE, "{} MiB do not come back", (later - resident) >> 20);
    let ratio = after.percentile(99).as_secs_f64() / before.percentile(99).as_secs_f64().max(1e-6);
    report.acknowledged += acknowledged;
    report.peak = report.peak.max(peak);
    report.worst_ratio = report.worst_ratio.max(ratio);
    Ok(format!(
        "ready after {:.1} s; {} streams of Telemetry held and answered, {} receivers served after {} refusals, all after \
         {:.1} s; then {} sends without an error, p99 {:.1} ms = {ratio:.1} times; all of {acknowledged} acknowledged messages \
         arrived; memory {} MiB, at the peak {}, later {}",
        ready.as_secs_f64(),
        tally.greeted.load(Ordering::SeqCst),
        tally.served.load(Ordering::SeqCst),
        tally.refused.load(Ordering::SeqCst),
        served.as_secs_f64(),
        after.sends.len(),
        after.percentile(99).as_secs_f64() * 1e3,
        resident >> 20,
        peak >> 20,
        later >> 20,
    ))
}

/// Begins all calls; each task ends when its caller is served.
fn call(address: &str, tally: &Arc<Tally>) -> JoinSet<Result<()>> {
    let mut tasks = JoinSet::new();
    for number in 0..CALLERS {
        let (of, counts) = (address.to_owned(), tally.clone());
        tasks.spawn(async move {
            let stub = connect(&of).await?;
            raw_calls::greet(stub, &format!("hostile-{number}"), SMALL_TOPIC).await.context("Telemetry")?;
            counts.greeted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        let (of, counts) = (address.to_owned(), tally.clone());
        tasks.spawn(async move { receive(&mut connect(&of).await?, number, &counts).await });
    }
    tasks
}

/// A connection, as soon as the port is open.
async fn connect(address: &str) -> Result<MessagingStub> {
    let began = Instant::now();
    loop {
        match raw_calls::stub(address).await {
            Err(_) if began.elapsed() < STALL => sleep(Duration::from_millis(10)).await,
            connected => return connected,
        }
    }
}

/// Receives, again after each refusal, until there is something.
async fn receive(stub: &mut MessagingStub, number: usize, tally: &Tally) -> Result<()> {
    let group = format!("hostile-early-{number}");
    loop {
        match raw_calls::receive(stub, SMALL_TOPIC, &group, raw_calls::POLL_MAX).await {
            Ok(entries) if entries.is_empty() => bail!("a receive found nothing"),
            Ok(_) => {
                tally.served.fetch_add(1, Ordering::SeqCst);
                return Ok(());
            }
            Err(error) => {
                let error = error.to_string();
                ensure!(REFUSED.iter().all(|word| error.contains(word)), "a receive was answered {error}");
                tally.refused.fetch_add(1, Ordering::SeqCst);
                sleep(Duration::from_millis(200)).await;
            }
        }
    }
}

/// Waits until the broker is ready; the most memory that it had meanwhile.
///
/// # Errors
/// When it dies, it is not seen to make its index, or Telemetry is answered before.
async fn until_ready(target: &mut Target, tally: &Tally) -> Result<u64> {
    let (began, mut peak, mut was_seen) = (Instant::now(), 0, false);
    loop {
        // Read first: any stream counted here was answered before the probe's answer.
        let greeted = tally.greeted.load(Ordering::SeqCst);
        let HealthProbe { status, body } = target.server().probe("/readyz")?;
        if status == 200 {
            ensure!(was_seen, "the broker was ready before it was seen to make its index");
            return Ok(peak);
        }
        let is_rebuilding = body.contains("rebuilding");
        was_seen |= is_rebuilding;
        ensure!(greeted == 0 || !is_rebuilding, "{greeted} streams were answered before the index was there");
        ensure!(began.elapsed() < START, "not ready after {} s: {body}", START.as_secs());
        peak = peak.max(target.memory()?);
        sleep(Duration::from_millis(20)).await;
    }
}
