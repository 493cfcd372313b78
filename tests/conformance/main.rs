//! What the official SDKs need from a server, line by line, at the level of single calls: the checklist that Kerolox keeps to
//! has 75 lines, and `cNN_...` is the test of line NN. Every line holds over plaintext and over TLS. `tests/run.sh
//! conformance` runs it against real processes; words on the command line select lines, `--long` adds those that take
//! minutes.
//!
//! The calls are made with generated code alone, so that requests can be as bad as they come.

/// The lines of a module: names of `async fn(Setting)`.
macro_rules! lines {
    ($($name:ident),+ $(,)?) => {
        pub(crate) const LINES: &[crate::Line] = &[$(crate::Line {
            name: stringify!($name),
            run: |setting| Box::pin($name(setting)),
        }),+];
    };
}

mod access;
mod acks;
mod headers;
mod limits;
mod peer;
mod receive;
mod remarks;
mod robustness;
mod route;
mod send;
mod telemetry;
mod transactions;
mod transport;
mod world;

use std::collections::BTreeSet;
use std::pin::Pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::peer::Transport;
use crate::remarks::{DIFFERENT, LONG, NOT_YET, PARTLY, Remark};
use crate::world::{ConformanceWorld, Setting};

/// Lines of the checklist.
const COUNT: u8 = 75;
/// Lines at the same time; they mostly wait.
const AT_ONCE: usize = 16;
/// No line takes as long as this.
const LIMIT: Duration = Duration::from_secs(120);
const LONG_LIMIT: Duration = Duration::from_secs(600);

type Run = fn(Setting) -> Pin<Box<dyn Future<Output = ()>>>;

/// The test of one line, or of a part of it.
#[derive(Clone, Copy)]
pub(crate) struct Line {
    name: &'static str,
    run: Run,
}

impl Line {
    /// `NN` of `cNN_...`.
    fn number(&self) -> u8 {
        self.name[1..3].parse().unwrap_or_else(|_| panic!("{} begins with cNN_", self.name))
    }
}

fn all() -> Vec<Line> {
    [
        transport::LINES,
        headers::LINES,
        route::LINES,
        access::LINES,
        telemetry::LINES,
        send::LINES,
        limits::LINES,
        receive::LINES,
        acks::LINES,
        transactions::LINES,
        robustness::LINES,
    ]
    .concat()
}

/// Each line is tested or listed with a reason why not; nothing is forgotten, and nothing listed that is tested.
fn check_completeness(lines: &[Line]) {
    let tested: BTreeSet<u8> = lines.iter().map(Line::number).collect();
    let absent: BTreeSet<u8> = NOT_YET.iter().map(|remark| remark.line).collect();
    assert!(tested.is_disjoint(&absent), "tested and listed as not applicable");
    let known: BTreeSet<u8> = tested.union(&absent).copied().collect();
    assert!(known.into_iter().eq(1..=COUNT), "each of the {COUNT} lines is tested or listed");
    for remark in PARTLY.iter().chain(DIFFERENT).chain(LONG) {
        assert!(tested.contains(&remark.line), "line {} has a remark and no test", remark.line);
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let with_long = words.iter().any(|word| word == "--long");
    let filters: Vec<&String> = words.iter().filter(|word| !word.starts_with("--")).collect();
    let mut lines = all();
    check_completeness(&lines);
    lines.retain(|line| {
        filters.is_empty() || filters.iter().any(|filter| line.name.contains(filter.as_str()))
    });
    lines.retain(|line| with_long || !LONG.iter().any(|remark| remark.line == line.number()));

    let world = Arc::new(ConformanceWorld::start().await);
    let slots = Arc::new(Semaphore::new(AT_ONCE));
    let runs: Vec<_> =
        lines.iter().map(|line| tokio::spawn(run(*line, world.clone(), slots.clone()))).collect();
    let (mut hold, mut failed) = (BTreeSet::new(), BTreeSet::new());
    for (line, run) in lines.iter().zip(runs) {
        match run.await.expect("a line's panics are caught") {
            Ok(()) => {
                println!("{} ... holds", line.name);
                hold.insert(line.number());
            }
            Err(why) => {
                println!("{} ... FAILED: {why}", line.name);
                failed.insert(line.number());
            }
        }
    }
    let hold = hold.difference(&failed).count();
    if !failed.is_empty() {
        world.show_logs();
    }
    list("not applicable yet", NOT_YET);
    list("a part of it is not applicable yet", PARTLY);
    list("done differently", DIFFERENT);
    if !with_long {
        list("only with --long", LONG);
    }
    let later = NOT_YET.iter().map(|remark| format!("{} ({})", remark.line, remark.what)).collect::<Vec<_>>();
    println!(
        "conformance: {hold} lines hold, {} fail, {} not applicable yet: {}",
        failed.len(),
        later.len(),
        later.join(", ")
    );
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list(title: &str, remarks: &[Remark]) {
    for Remark { line, what } in remarks {
        println!("line {line}, {title}: {what}");
    }
}

/// Runs a line over both transports at the same time, and says why it does not hold.
async fn run(line: Line, world: Arc<ConformanceWorld>, slots: Arc<Semaphore>) -> Result<(), String> {
    let _slot = slots.acquire().await.expect("the semaphore stays open");
    let runs = [Transport::Plain, Transport::Tls].map(|transport| {
        let setting = Setting { world: world.clone(), transport };
        (transport, tokio::task::spawn_blocking(move || run_once(line, setting)))
    });
    let mut failed = Vec::new();
    for (transport, run) in runs {
        if let Err(error) = run.await {
            failed.push(format!("{transport:?}: {}", reason(error)));
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
}

/// A line has a runtime of its own: it may block it, and leave tasks behind that end with it.
fn run_once(line: Line, setting: Setting) {
    let limit = if LONG.iter().any(|remark| remark.line == line.number()) { LONG_LIMIT } else { LIMIT };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let done = runtime.block_on(async { tokio::time::timeout(limit, (line.run)(setting)).await });
    runtime.shutdown_background();
    assert!(done.is_ok(), "not done within {limit:?}");
}

fn reason(error: tokio::task::JoinError) -> String {
    let Ok(panic) = error.try_into_panic() else { return "given up".to_owned() };
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
}
