//! `apply`.

use super::file::Config;
use super::plan::{Action, Present, Request, Step, plan};
use crate::target::{Common, Target};
use clap::Args;
use kerolox_client::admin::{Admin, BrokerAdmin, Master, wire};
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::CommandReport;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;

/// Create and change topics and consumer groups to match a file, and show the changes
///
/// Each topic and each group is changed as a whole or not at all; applying a file twice changes nothing the second
/// time. Fields that a file leaves out stay as they are; but `attributes`, where given, are all of them.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    /// The file, in YAML, or in TOML if its name ends in .toml; `-` reads YAML from the standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Delete topics and groups that the file does not name, with their messages and progress; asks first
    #[arg(long)]
    prune: bool,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
}

/// The steps of one broker.
struct Planned {
    broker: Master,
    steps: Vec<Step>,
}

impl Apply {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let wanted = Config::read(&self.file)?;
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        let mut planned = Vec::new();
        for broker in brokers {
            let present = present(&admin, &broker).await?;
            planned.push(Planned { steps: plan(&wanted, &present, self.prune), broker });
        }
        let mut failures = Vec::new();
        if !self.dry_run {
            self.confirm_deletions(&planned)?;
            for Planned { broker, steps } in &planned {
                let admin = admin.broker(&broker.address);
                for step in steps {
                    failures.push(
                        carry_out(&admin, step)
                            .await
                            .err()
                            .map(|failure| failure.during(format!("{}, {}", broker.address, step.line()))),
                    );
                }
            }
        }
        Ok(summary(&planned, failures, self.dry_run))
    }

    /// Deletions cannot be undone: a script has to say that it means them.
    fn confirm_deletions(&self, planned: &[Planned]) -> Result<()> {
        let deleted: Vec<String> = planned
            .iter()
            .flat_map(|planned| planned.steps.iter().map(move |step| (&planned.broker, step)))
            .filter(|(_, step)| step.action == Action::Delete)
            .map(|(broker, step)| format!("{} {}", broker.address, step.line()))
            .collect();
        if deleted.is_empty() || self.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(CommandFailure::usage(format!(
                "--prune would delete, and there is no terminal to ask; nothing was changed. Pass --yes to delete:\n{}",
                deleted.join("\n")
            )));
        }
        crate::command::confirm(&format!("Delete these?\n{}\n", deleted.join("\n")), false)
    }
}

/// What a broker has.
pub(super) async fn present(admin: &Admin, broker: &Master) -> Result<Present> {
    let asking = |error| CommandFailure::from(error).during(format!("broker {}", broker.address));
    let admin = admin.broker(&broker.address);
    let topics = admin.list_topics(wire::ListTopicsRequest {}).await.map_err(asking)?;
    let groups = admin.list_groups(wire::ListGroupsRequest::default()).await.map_err(asking)?;
    Ok(Present::of(&topics.topics, &groups.groups))
}

pub(super) async fn carry_out(admin: &BrokerAdmin, step: &Step) -> Result<()> {
    match step.request.clone() {
        None => {}
        Some(Request::PutTopic(request)) => drop(admin.update_topic(request).await?),
        Some(Request::PutGroup(request)) => drop(admin.update_group(request).await?),
        Some(Request::DeleteTopic(request)) => drop(admin.delete_topic(request).await?),
        Some(Request::DeleteGroup(request)) => drop(admin.delete_group(request).await?),
    }
    Ok(())
}

/// `failures` has one entry for each step, in order, and none for a dry run.
fn summary(planned: &[Planned], failures: Vec<Option<CommandFailure>>, dry_run: bool) -> CommandReport {
    let mut lines = Vec::new();
    let mut errors = failures.iter();
    let mut counts = [0usize; 4];
    let mut brokers = Vec::new();
    for Planned { broker, steps } in planned {
        lines.push(format!("broker {} [{}]", broker.info.group, broker.address));
        let mut views = Vec::new();
        for step in steps {
            let failure = errors.next().and_then(Option::as_ref);
            let failed = if failure.is_some() { " FAILED" } else { "" };
            lines.push(format!("  {}{failed}", step.line()));
            let mut view = json!(step);
            if let (Some(failure), Value::Object(view)) = (failure, &mut view) {
                view.insert("error".to_owned(), json!(failure.message));
            } else {
                counts[step.action as usize] += 1;
            }
            views.push(view);
        }
        brokers.push(
            json!({ "broker": broker.info.group, "address": broker.address.to_string(), "steps": views }),
        );
    }
    let [created, changed, unchanged, deleted] = counts;
    let tense = if dry_run { " (dry run: nothing was changed)" } else { "" };
    lines.push(format!(
        "{created} created, {changed} changed, {unchanged} unchanged, {deleted} deleted{tense}"
    ));
    let failed: Vec<CommandFailure> = failures.into_iter().flatten().collect();
    let done = created + changed + unchanged + deleted;
    let exit = match failed.first() {
        None => ExitStatus::Ok,
        Some(first) if done == 0 => first.exit,
        Some(_) => ExitStatus::Partial,
    };
    CommandReport {
        text: lines.join("\n"),
        json: json!({ "dryRun": dry_run, "brokers": brokers }),
        warnings: failed,
        exit,
    }
}
