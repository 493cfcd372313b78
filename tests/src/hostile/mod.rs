//! Attacks on a broker that the kernel holds to 256 MiB of memory and 1,024 open files, alone and as the master of a group of
//! three, with a quiet client beside them. Whatever strangers do, the quiet client is served, acknowledged messages stay,
//! the broker lives, and its memory comes back. That also holds for a broker whose disk is full, and for one that is called while
//! it rebuilds its index.
//!
//! Latencies are printed, as a ratio to those without an attack; only a standstill fails.

mod attacks;
mod cage;
mod credit;
mod frames;
mod quiet;
mod stages;
mod target;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use tokio::time::{Instant, sleep};

use attacks::Attack;
use quiet::{Quiet, Seen};
use target::{Setup, Target};

/// No call of the quiet client may take longer.
const STALL: Duration = Duration::from_secs(10);
/// The time limit for memory to come back after an attack, and the bytes by which it may then exceed the value before.
const RETURN: Duration = Duration::from_secs(45);
const RETURN_MORE: u64 = 64 << 20;
/// Duration of the quiet client's measurement without an attack.
const BASELINE: Duration = Duration::from_secs(4);
/// The time limit for acknowledged messages to arrive.
const SETTLE: Duration = Duration::from_secs(90);

/// The options of a run.
#[derive(Debug, Clone)]
pub struct HostileOptions {
    /// The programs.
    pub broker: PathBuf,
    /// How long each attack lasts.
    pub attack: Duration,
    /// Only attacks whose name has this in it.
    pub only: Option<String>,
}

/// What happened.
#[derive(Debug, Default)]
pub struct HostileReport {
    /// Each attack with what came of it, in words.
    pub checks: Vec<(String, Result<String, String>)>,
    /// The most memory that a broker had, in bytes.
    pub peak: u64,
    /// Times of the quiet client under the worst attack, as a ratio to those without.
    pub worst_ratio: f64,
    /// Messages that the quiet client sent.
    pub acknowledged: u64,
}

/// Why nothing can be attacked here; `None` when it can.
pub fn impossible(options: &HostileOptions) -> Option<String> {
    let folder = tempfile::tempdir().ok()?;
    cage::Cage::build("try", &options.broker, folder.path()).err().map(|error| format!("{error:#}"))
}

/// Attacks a broker alone, then a group.
///
/// # Errors
/// When servers cannot be started.
pub async fn run(options: &HostileOptions) -> Result<HostileReport> {
    let mut report = HostileReport::default();
    for setup in [Setup::Standalone, Setup::Group] {
        let chosen: Vec<&Attack> =
            attacks::ALL.iter().filter(|attack| is_chosen(options, attack, setup)).collect();
        if chosen.is_empty() {
            continue;
        }
        let mut target = Target::start(setup, &options.broker).await?;
        let quiet = Quiet::start(&target.client()).await?;
        for attack in chosen {
            let outcome = under(attack, &mut target, &quiet, options.attack, &mut report).await;
            let failed = outcome.is_err();
            say(&mut report, format!("{}: {}", setup.name(), attack.name), outcome);
            if failed {
                target.revive()?;
            }
        }
        if setup == Setup::Standalone && options.only.is_none() {
            let outcome = damaged(&mut target, &quiet).await;
            say(&mut report, format!("{}: a damaged index", setup.name()), outcome);
        }
        let settled = quiet.settle(SETTLE).await;
        report.acknowledged += settled.as_ref().copied().unwrap_or_default();
        let outcome =
            settled.map(|acknowledged| format!("all of {acknowledged} acknowledged messages arrived"));
        say(&mut report, format!("{}: nothing is lost", setup.name()), outcome);
    }
    if is_wanted(options, stages::FULL_DISK) {
        let outcome = stages::full_disk(options, &mut report).await;
        say(&mut report, format!("standalone: {}", stages::FULL_DISK), outcome.map_err(in_words));
    }
    if is_wanted(options, stages::REBUILD) {
        let outcome = stages::rebuild(options, &mut report).await;
        say(&mut report, format!("standalone: {}", stages::REBUILD), outcome.map_err(in_words));
    }
    Ok(report)
}

fn is_chosen(options: &HostileOptions, attack: &Attack, setup: Setup) -> bool {
    (setup == Setup::Group || !attack.needs_group) && is_wanted(options, attack.name)
}

fn is_wanted(options: &HostileOptions, name: &str) -> bool {
    options.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err wants it")]
fn in_words(error: anyhow::Error) -> String {
    format!("{error:#}")
}

/// Prints an outcome as soon as it is there: the suite takes minutes.
fn say(report: &mut HostileReport, name: String, outcome: Result<String, String>) {
    match &outcome {
        Ok(figures) => println!("ok      {name}: {figures}"),
        Err(wrong) => println!("FAILED  {name}: {wrong}"),
    }
    report.checks.push((name, outcome));
}

/// The broker is killed, and finds its index damaged. Calls fail meanwhile; afterwards they do not.
async fn damaged(target: &mut Target, quiet: &Quiet) -> Result<String, String> {
    let began = Instant::now();
    target.damage_index().map_err(in_words)?;
    served_again(quiet).await?;
    Ok(format!("made again, served again after {} s", began.elapsed().as_secs()))
}

/// Waits for a second in which the quiet client sees no error.
async fn served_again(quiet: &Quiet) -> Result<(), String> {
    let began = Instant::now();
    loop {
        quiet.take();
        sleep(Duration::from_secs(1)).await;
        let seen = quiet.take();
        if seen.errors.is_empty() && !seen.sends.is_empty() && seen.received > 0 {
            return Ok(());
        }
        if began.elapsed() > SETTLE {
            return Err(format!("not served again after {} s: {:?}", SETTLE.as_secs(), seen.errors.first()));
        }
    }
}

/// One attack, with the quiet client before and beside it.
async fn under(
    attack: &Attack,
    target: &mut Target,
    quiet: &Quiet,
    lasts: Duration,
    report: &mut HostileReport,
) -> Result<String, String> {
    quiet.take();
    sleep(BASELINE).await;
    let before = quiet.take();
    let resident = target.memory().map_err(|error| error.to_string())?;
    let mut tasks = (attack.begin)(target, Instant::now() + lasts);
    let ends = Instant::now() + lasts;
    let mut peak = resident;
    while Instant::now() < ends {
        peak = peak.max(target.memory().unwrap_or(0));
        sleep(Duration::from_millis(50)).await;
    }
    let during = quiet.take();
    tasks.shutdown().await;
    let later = later(target, resident).await;
    let after = quiet.take();
    report.peak = report.peak.max(peak);
    let ratio = during.percentile(99).as_secs_f64() / before.percentile(99).as_secs_f64().max(1e-6);
    report.worst_ratio = report.worst_ratio.max(ratio);
    let figures = format!(
        "{} sends, {} received, {} errors, p99 {:.1} ms = {ratio:.1} times, slowest {:.0} ms; memory {} MiB, at the peak {}, later {}",
        during.sends.len(),
        during.received,
        during.errors.len() + after.errors.len(),
        during.percentile(99).as_secs_f64() * 1e3,
        during.percentile(100).max(after.percentile(100)).as_secs_f64() * 1e3,
        resident >> 20,
        peak >> 20,
        later >> 20,
    );
    let wrong = wrong(target, &during, &after, resident, later);
    if wrong.is_empty() { Ok(figures) } else { Err(format!("{}; {figures}", wrong.join("; "))) }
}

/// Memory once it has come back, or when it has had the time to.
async fn later(target: &Target, before: u64) -> u64 {
    let began = Instant::now();
    loop {
        let resident = target.memory().unwrap_or(0);
        if resident <= before + RETURN_MORE || began.elapsed() > RETURN {
            return resident;
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn wrong(target: &mut Target, during: &Seen, after: &Seen, before: u64, later: u64) -> Vec<String> {
    let mut wrong = target.dead();
    let errors: Vec<&String> = during.errors.iter().chain(&after.errors).collect();
    if let Some(first) = errors.first() {
        wrong.push(format!("the quiet client saw {} errors, first: {first}", errors.len()));
    }
    let slowest = during.percentile(100).max(after.percentile(100));
    if slowest > STALL || during.sends.is_empty() {
        wrong.push(format!("the quiet client stood still, {} s for one call", slowest.as_secs()));
    }
    if later > before + RETURN_MORE {
        wrong.push(format!("{} MiB do not come back", (later - before) >> 20));
    }
    wrong
}
