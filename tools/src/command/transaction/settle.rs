//! `transaction commit`, `rollback` and `recheck`.

use super::list::Selection;
use super::{State, owner};
use crate::command::confirm;
use crate::target::{Common, Where};
use clap::Args;
use kerolox_client::Address;
use kerolox_client::admin::{Admin, wire};
use kerolox_report::outcome::{CommandFailure, Result, combined};
use kerolox_report::output::CommandReport;
use serde_json::json;
use wire::TransactionAction;

/// Which transactions to settle, and what the audit trail shall say.
#[derive(Debug, Args)]
pub(crate) struct Settle {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    brokers: Where,
    /// The transactions' ids
    #[arg(value_name = "TRANSACTION_ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<String>,
    /// All undecided transactions that --topic, --state, --older-than, --newer-than and --max-num choose
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    selection: Selection,
    /// Why, for the audit trail
    #[arg(short = 'r', long, default_value = "")]
    reason: String,
    /// Who decides, for the audit trail
    #[arg(long, env = "USER", default_value = "mqadmin")]
    by: String,
    /// Only say what would be settled
    #[arg(long)]
    dry_run: bool,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
}

/// Commit transactions by hand: their messages become visible
#[derive(Debug, Args)]
pub(crate) struct Commit {
    #[command(flatten)]
    pub(crate) settle: Settle,
}

/// Roll transactions back by hand: their messages are never delivered
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    pub(crate) settle: Settle,
}

/// Have transactions checked back at once, with all their checks before them; parked ones as well
#[derive(Debug, Args)]
pub(crate) struct Recheck {
    #[command(flatten)]
    pub(crate) settle: Settle,
}

impl Commit {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        self.settle.run(TransactionAction::Commit, "commit").await
    }
}

impl Rollback {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        self.settle.run(TransactionAction::Rollback, "roll back").await
    }
}

impl Recheck {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        self.settle.run(TransactionAction::Recheck, "check back").await
    }
}

impl Settle {
    async fn run(self, action: TransactionAction, verb: &str) -> Result<CommandReport> {
        let chosen = self.chosen().await?;
        let ids: Vec<&str> = chosen.iter().map(|(_, _, id)| id.as_str()).collect();
        if self.dry_run || ids.is_empty() {
            let text = match ids.as_slice() {
                [] => "no such transactions".to_owned(),
                ids => format!("would {verb} {} transactions:\n{}", ids.len(), ids.join("\n")),
            };
            return Ok(CommandReport::ok(text, json!({ "dryRun": self.dry_run, "chosen": ids })));
        }
        // Asking a producer again destroys nothing.
        if action != TransactionAction::Recheck {
            let question = format!("{} {} transactions? This cannot be undone.", capital(verb), ids.len());
            confirm(&question, self.yes)?;
        }
        let mut settled = Vec::new();
        for (admin, address, id) in &chosen {
            let request = wire::SettleTransactionRequest {
                transaction_id: id.clone(),
                action: action.into(),
                by: self.by.clone(),
                reason: self.reason.clone(),
            };
            let result =
                admin.broker(address).settle_transaction(request).await.map_err(CommandFailure::from);
            settled.push((id, result));
        }
        Ok(summary(verb, &settled))
    }

    /// The transactions, each with its broker.
    async fn chosen(&self) -> Result<Vec<(Admin, Address, String)>> {
        let mut chosen = Vec::new();
        if self.all {
            self.check_states()?;
            let (admin, brokers) = self.brokers.brokers(&self.common, None).await?;
            for broker in brokers {
                let found = self.selection.collect(&admin.broker(&broker.address)).await?;
                let place = |found: wire::TransactionInfo| {
                    (admin.clone(), broker.address.clone(), found.transaction_id)
                };
                chosen.extend(found.into_iter().map(place));
            }
        } else {
            for id in &self.ids {
                let (admin, broker) = owner(&self.brokers, &self.common, id).await?;
                chosen.push((admin, broker.address, id.clone()));
            }
        }
        Ok(chosen)
    }

    /// Only undecided transactions can be chosen as a whole.
    fn check_states(&self) -> Result<()> {
        let is_undecided = |state: &State| matches!(state, State::Prepared | State::Parked);
        if self.selection.states.iter().all(is_undecided) {
            return Ok(());
        }
        Err(CommandFailure::usage("only undecided transactions can be settled: --state prepared or parked"))
    }
}

fn summary(verb: &str, settled: &[(&String, Result<wire::SettleTransactionResponse>)]) -> CommandReport {
    let line = |(id, result): &(&String, Result<wire::SettleTransactionResponse>)| match result {
        Ok(answer) if answer.repeated => Some(format!("{id}: had been decided the same way before")),
        Ok(_) => Some(format!("{id}: {verb}: done")),
        Err(_) => None,
    };
    let view = |(id, result): &(&String, Result<wire::SettleTransactionResponse>)| {
        json!({
            "transactionId": id,
            "ok": result.is_ok(),
            "repeated": result.as_ref().is_ok_and(|answer| answer.repeated),
            "error": result.as_ref().err().map(|failure| failure.message.clone()),
        })
    };
    let warning = |(id, result): &(&String, Result<wire::SettleTransactionResponse>)| {
        result.as_ref().err().cloned().map(|failure| failure.during(id))
    };
    CommandReport {
        text: settled.iter().filter_map(line).collect::<Vec<_>>().join("\n"),
        json: json!({ "transactions": settled.iter().map(view).collect::<Vec<_>>() }),
        warnings: settled.iter().filter_map(warning).collect(),
        exit: combined(settled.iter().map(|(_, result)| result.as_ref().err())),
    }
}

fn capital(verb: &str) -> String {
    let mut letters = verb.chars();
    letters
        .next()
        .map(|first| first.to_uppercase().collect::<String>() + letters.as_str())
        .unwrap_or_default()
}
