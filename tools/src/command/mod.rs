//! The commands, one file per family. Each is a struct of its arguments with a `run`.

pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod broker;
pub(crate) mod check;
pub(crate) mod client;
pub(crate) mod cluster;
pub(crate) mod commands;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod context;
pub(crate) mod controller;
pub(crate) mod dead_letters;
pub(crate) mod debug;
pub(crate) mod group;
pub(crate) mod lag;
pub(crate) mod lites;
pub(crate) mod message;
pub(crate) mod moving;
pub(crate) mod offset;
pub(crate) mod probe;
pub(crate) mod query;
pub(crate) mod replication;
pub(crate) mod servers;
pub(crate) mod settings;
pub(crate) mod timers;
pub(crate) mod top;
pub(crate) mod topic;
pub(crate) mod transaction;
pub(crate) mod transfer;

use kerolox_client::admin::Master;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;
use serde_json::json;
use std::io::{IsTerminal, Write};

/// Whether a command only says what it would do.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct DryRun {
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl DryRun {
    /// What the command says in place of doing it, `None` when it is to be done. `what` goes on after "would".
    fn instead(self, what: impl FnOnce() -> String) -> Option<CommandReport> {
        self.dry_run.then(|| {
            let what = what();
            CommandReport::ok(
                format!("dry run, nothing was changed: would {what}"),
                json!({ "dryRun": true, "would": what }),
            )
        })
    }
}

/// `group (host:port), group (host:port)`
fn names(brokers: &[Master]) -> String {
    let name = |broker: &Master| {
        let (group, address) = (&broker.info.group, broker.address.to_string());
        if *group == address { address } else { format!("{group} ({address})") }
    };
    brokers.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Asks for consent to something that cannot be undone. Scripts (no terminal) are trusted, as in RocketMQ.
fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes || !std::io::stdin().is_terminal() {
        return Ok(());
    }
    let mut answer = String::new();
    let asked =
        write!(std::io::stderr(), "{question} [y/N] ").and_then(|()| std::io::stdin().read_line(&mut answer));
    match asked {
        Ok(_) if is_consent(&answer) => Ok(()),
        Ok(_) => Err(CommandFailure::failed("nothing was changed; answer y, or pass --yes")),
        Err(error) => {
            Err(CommandFailure::failed(format!("cannot ask for confirmation ({error}); pass --yes")))
        }
    }
}

fn is_consent(answer: &str) -> bool {
    matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_yes_is_consent() {
        assert!(is_consent("y\n") && is_consent("YES"));
        assert!(!is_consent("\n") && !is_consent("no") && !is_consent("yeah"));
    }
}
