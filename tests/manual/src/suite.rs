//! Pages beside each other, and the line that sums up their figures.

use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use crate::blocks::{BlockPurpose, FencedBlock, blocks};
use crate::page_run::{self, PageFigures};
use crate::shell::kill_run;
use crate::{book, stand_ins};

/// A page with blocks that run.
struct RunnablePage {
    path: String,
    blocks: Vec<FencedBlock>,
}

/// How a page ended.
struct PageResult {
    path: String,
    figures: Result<PageFigures>,
    duration: Duration,
}

/// Runs the pages whose path has one of these words, or all; true when each did what it says.
///
/// # Errors
/// When the manual cannot be read, or no page has such a name.
pub(crate) fn run(words: &[String], jobs: usize) -> Result<bool> {
    end_with_signals()?;
    let waiting = Mutex::new(runnable(words)?.into_iter());
    let results = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("no thread panics with it").next();
                    let Some(page) = next else { return };
                    let result = run_page(page);
                    report(&result);
                    results.lock().expect("no thread panics with it").push(result);
                }
            });
        }
    });
    let results = results.into_inner().expect("no thread panics with it");
    let passed: Vec<&PageFigures> =
        results.iter().filter_map(|result| result.figures.as_ref().ok()).collect();
    let programs: usize = passed.iter().map(|figures| figures.programs).sum();
    let lines: usize = passed.iter().map(|figures| figures.lines).sum();
    let failed = results.len() - passed.len();
    println!(
        "manual: {} pages, {programs} programs run, {lines} lines of output compared: {} passed, {failed} failed",
        results.len(),
        passed.len()
    );
    Ok(failed == 0)
}

/// Has SIGINT and SIGTERM end what the pages started: shells and terminals are process groups of their own.
fn end_with_signals() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
    };
    thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        kill_run();
        std::process::exit(1);
    });
    Ok(())
}

/// The pages to run, without those whose SDK is not set up.
fn runnable(words: &[String]) -> Result<Vec<RunnablePage>> {
    let mut found = Vec::new();
    for page in book::pages()? {
        if !words.is_empty() && !words.iter().any(|word| page.path.contains(word.as_str())) {
            continue;
        }
        let blocks = blocks(&page.text).with_context(|| page.path.clone())?;
        if blocks.iter().all(|block| matches!(block.purpose, BlockPurpose::Shown | BlockPurpose::File(_))) {
            continue;
        }
        let mut missing = blocks.iter().filter_map(|block| stand_ins::variable_of(&block.language));
        match missing.find(|variable| std::env::var_os(variable).is_none()) {
            Some("KEROLOX_PYTHON") => bail!("KEROLOX_PYTHON is not set: see setup_python in deploy/setup.sh"),
            Some(variable) => println!("skipped {}: {variable} is not set", page.path),
            None => found.push(RunnablePage { path: page.path, blocks }),
        }
    }
    if found.is_empty() {
        bail!("no page with blocks that run has one of the words {words:?}");
    }
    Ok(found)
}

fn run_page(page: RunnablePage) -> PageResult {
    let begun = Instant::now();
    let figures = in_folder(&page);
    PageResult { path: page.path, figures, duration: begun.elapsed() }
}

/// Runs a page in a temporary folder, of which the suite keeps a copy when the page fails.
fn in_folder(page: &RunnablePage) -> Result<PageFigures> {
    let folder = tempfile::Builder::new().prefix("kerolox-manual.").tempdir()?;
    let ended = page_run::run(&page.blocks, folder.path());
    if ended.is_err()
        && let Some(logs) = std::env::var_os("KEROLOX_LOGS")
    {
        let kept = Path::new(&logs).join(page.path.replace('/', "-"));
        std::process::Command::new("cp").arg("-r").arg(folder.path()).arg(kept).status()?;
    }
    ended
}

fn report(result: &PageResult) {
    let seconds = result.duration.as_secs_f64();
    match &result.figures {
        Ok(PageFigures { programs, lines }) => {
            println!("ok     {}: {programs} programs, {lines} lines, {seconds:.1} s", result.path);
        }
        Err(error) => println!("FAILED {} after {seconds:.1} s: {error:#}", result.path),
    }
}
