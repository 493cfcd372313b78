//! The torture of the example that moves money between two databases (`client/examples/money`): sender, receiver and broker are
//! killed at each step of a transfer, and at random moments. Afterwards no cent may be lost or created.

mod parts;
mod verify;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::transactions::wait_until_settled;
use kerolox_harness::verdict::CheckedProperty;
use kerolox_harness::{ClusterPlan, SeededRandom, ServerProcess};
use parts::{Bank, Parts};

/// Accounts of each bank, and the opening balance of each in cents: more than a long run moves.
const ACCOUNTS: u32 = 20;
const CENTS: i64 = 100_000_000;
/// Transfers that every round must see credited before its kill, and how long it may take to see them.
const PROGRESS: u64 = 10;
const PROGRESS_LIMIT: Duration = Duration::from_secs(60);
/// The kill comes within this time after the progress.
const KILL_WITHIN: Duration = Duration::from_millis(300);
/// How long a broker that was killed at a step is away: longer than the example's clients retry.
const AWAY: Duration = Duration::from_millis(200);
/// Time that a process gets to go on after the broker's return, or after its own delay.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// How long a slow sender takes: longer than its grace and the check after that.
const SLOW: Duration = Duration::from_secs(3);
/// Messages of a killed receiver come again within this time: the example's invisible duration, and some more.
const REDELIVERED: Duration = Duration::from_secs(12);
/// The time limit for the remaining money to arrive.
const ARRIVE_LIMIT: Duration = Duration::from_secs(60);
/// Often enough that kills in between do not use the checks up.
const CHECKS: (&str, u32) = ("500ms", 1000);

/// The options of a run.
#[derive(Debug, Clone)]
pub struct MoneyOptions {
    /// Number of kills at random moments, besides those at each step.
    pub rounds: u32,
    /// Repeats the random choices of a run; the moments themselves depend on the machine.
    pub seed: u64,
    /// The example's program.
    pub example: PathBuf,
}

/// The report of a run.
#[derive(Debug)]
pub struct MoneyReport {
    /// Transfers that were credited.
    pub credited: u64,
    /// Kills of the broker.
    pub broker_kills: u32,
    /// Kills of senders.
    pub sender_kills: u32,
    /// Kills of receivers.
    pub receiver_kills: u32,
    /// Each check with its outcome in words.
    pub checks: Vec<CheckedProperty>,
}

/// Runs the torture and checks the result.
///
/// # Errors
/// When the test itself cannot go on: something does not start again, or no money moves after a restart.
pub async fn run(options: &MoneyOptions) -> Result<MoneyReport> {
    let mut random = SeededRandom::new(options.seed);
    let mut cluster = ClusterPlan::standalone("money").checks(CHECKS.0, CHECKS.1).start()?;
    let (address, folder) = (cluster.access_points(), cluster.folder().to_owned());
    let broker = &mut cluster.brokers[0];
    let example = Example { program: &options.example, folder: &folder };
    example.set_up(&address)?;

    let mut parts = Parts::new(&options.example, &folder, &address);
    for bank in Bank::BOTH.into_iter().chain(Bank::BOTH) {
        parts.start(bank)?;
    }
    let mut broker_kills = 0;
    for (bank, step) in Bank::BOTH.into_iter().flat_map(|bank| bank.steps().map(move |step| (bank, step))) {
        for kills_broker in [false, true] {
            wait_for_progress(&parts, broker).with_context(|| format!("before {step}"))?;
            let mut waiting = parts.start_and_wait(bank, step)?;
            if kills_broker {
                broker.kill()?;
                waiting.go_on()?;
                std::thread::sleep(AWAY);
                broker.start().with_context(|| format!("at {step}"))?;
                broker_kills += 1;
                std::thread::sleep(AFTERWARDS);
            }
            parts.kill(waiting)?;
            let victim = if kills_broker { "the broker, then the process," } else { "the process" };
            println!("{} at {step:?}: {victim} was killed; {}", bank.word(), example.audit(false)?);
        }
    }
    // No process dies, but a sender is slow: the transfer is called off before the money is taken.
    let mut slow = parts.start_and_wait(Bank::A, "sent")?;
    std::thread::sleep(SLOW);
    slow.go_on()?;
    std::thread::sleep(AFTERWARDS);
    parts.kill(slow)?;
    println!("sender at \"sent\": it waited for {SLOW:?}; {}", example.audit(false)?);
    for round in 1..=options.rounds {
        wait_for_progress(&parts, broker).with_context(|| format!("round {round}"))?;
        std::thread::sleep(random.duration(KILL_WITHIN));
        let victim = match random.below(3) {
            0 => {
                broker.kill()?;
                broker.start().with_context(|| format!("round {round}"))?;
                broker_kills += 1;
                "the broker"
            }
            number => {
                let bank = Bank::BOTH[usize::from(number == 1)];
                parts.replace(bank)?;
                bank.word()
            }
        };
        println!("round {round}: {victim} was killed; {}", example.audit(false)?);
    }
    wait_for_progress(&parts, broker).context("after the last round")?;

    // No sender runs any more, but a process answers check-backs for those that did.
    parts.stop(Bank::A)?;
    parts.start_answering()?;
    let last_kill = Instant::now();
    wait_until_settled(&address).await?;
    wait_until_arrived(&folder)?;
    std::thread::sleep(REDELIVERED.saturating_sub(last_kill.elapsed()));
    parts.stop(Bank::B)?;
    let mut checks = verify::verify(&folder, &parts.said())?;
    checks.push(("the example's own audit agrees", example.audit(true).map_err(|error| error.to_string())));
    Ok(MoneyReport {
        credited: parts.said().credited,
        broker_kills,
        sender_kills: parts.kills(Bank::A),
        receiver_kills: parts.kills(Bank::B),
        checks,
    })
}

/// The example's commands that end by themselves.
struct Example<'a> {
    program: &'a Path,
    folder: &'a Path,
}

impl Example<'_> {
    fn set_up(&self, broker: &str) -> Result<()> {
        let (accounts, cents) = (ACCOUNTS.to_string(), CENTS.to_string());
        self.call(&["setup", "--broker", broker, "--accounts", &accounts, "--cents", &cents]).map(drop)
    }

    fn audit(&self, settled: bool) -> Result<String> {
        self.call(if settled { &["audit", "--settled"] } else { &["audit"] })
    }

    /// The output of a command, on one line.
    fn call(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(self.program).arg("--folder").arg(self.folder).args(arguments).output()?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let wrong = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{arguments:?} failed: {said} {wrong}");
        Ok(said)
    }
}

fn wait_for_progress(parts: &Parts, broker: &mut ServerProcess) -> Result<()> {
    let wanted = parts.said().credited + PROGRESS;
    let started = Instant::now();
    while parts.said().credited < wanted {
        if !broker.is_running() {
            bail!("the broker ended by itself; the end of its log:\n{}", broker.log_tail());
        }
        if started.elapsed() > PROGRESS_LIMIT {
            bail!(
                "fewer than {PROGRESS} transfers arrived within {PROGRESS_LIMIT:?}; the end of the broker's log:\n{}",
                broker.log_tail()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn wait_until_arrived(folder: &Path) -> Result<()> {
    let started = Instant::now();
    while let on_its_way @ 1.. = verify::on_its_way(folder)? {
        ensure!(
            started.elapsed() < ARRIVE_LIMIT,
            "{on_its_way} transfers are still on their way after {ARRIVE_LIMIT:?}"
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
