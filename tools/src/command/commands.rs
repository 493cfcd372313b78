//! `commands`: all commands, with RocketMQ's names for them.

use crate::catalog::{CATALOG, Entry, GROUPS};
use crate::foreign::{FOREIGN, ROCKETMQ};
use clap::{Args, Command};
use kerolox_report::outcome::Result;
use kerolox_report::output::{CommandReport, OutputFormat, table};
use serde_json::json;
use std::fmt::Write;

/// List all commands, with RocketMQ's names for them
#[derive(Debug, Args)]
pub(crate) struct Commands {
    /// As a document in Markdown
    #[arg(long)]
    markdown: bool,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
}

impl Commands {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let ours: Vec<_> = CATALOG
            .iter()
            .map(|entry| {
                json!({ "command": entry.name(), "names": entry.flat, "about": about(entry), "example": entry.example })
            })
            .collect();
        let theirs: Vec<_> = ROCKETMQ
            .iter()
            .map(|name| json!({ "name": name, "command": answering(name).map(Entry::name), "instead": instead(name) }))
            .collect();
        let text = if self.markdown { markdown() } else { plain() };
        Ok(CommandReport::ok(text, json!({ "commands": ours, "rocketmq": theirs })))
    }
}

fn plain() -> String {
    let ours = CATALOG.iter().map(|entry| vec![entry.name(), entry.flat.join(", "), about(entry)]);
    let not_ours =
        FOREIGN.iter().map(|(name, why)| vec!["-".to_owned(), (*name).to_owned(), (*why).to_owned()]);
    table(&["Command", "Also", "What it does"], ours.chain(not_ours))
}

/// The document `tools/COMMANDS.md`.
fn markdown() -> String {
    let mut text = "\
# Commands of mqadmin

Made by `mqadmin commands --markdown`. `mqadmin COMMAND --help` describes each one with all its flags.

## In groups
"
    .to_owned();
    let groups = GROUPS.iter().copied().chain([("", "Commands that stand alone")]);
    for (group, purpose) in groups {
        let _ = write!(
            text,
            "\n### {}\n\n| command | what it does | RocketMQ and older names |\n|---|---|---|\n",
            titled(group, purpose)
        );
        for entry in CATALOG.iter().filter(|entry| entry.group == group) {
            let names = entry.flat.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let _ = writeln!(text, "| `{}` | {} | {names} |", entry.name(), about(entry));
        }
    }
    text.push_str("\n## RocketMQ's commands\n\n| RocketMQ | here |\n|---|---|\n");
    for name in ROCKETMQ {
        let here = match (answering(name), instead(name)) {
            (Some(entry), _) => format!("works; also `mqadmin {}`", entry.name()),
            (None, why) => format!("no meaning: {}", why.unwrap_or_default()),
        };
        let _ = writeln!(text, "| `{name}` | {here} |");
    }
    text
}

fn titled(group: &str, purpose: &str) -> String {
    if group.is_empty() { purpose.to_owned() } else { format!("{group}: {purpose}") }
}

fn about(entry: &Entry) -> String {
    let command = (entry.augment)(Command::new(entry.verb));
    command.get_about().map(ToString::to_string).unwrap_or_default()
}

fn answering(name: &str) -> Option<&'static Entry> {
    CATALOG.iter().find(|entry| entry.flat.contains(&name))
}

fn instead(name: &str) -> Option<&'static str> {
    FOREIGN.iter().find(|(known, _)| *known == name).map(|(_, why)| *why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_up_to_date() {
        let written = std::fs::read_to_string("COMMANDS.md").unwrap_or_default();
        assert!(
            written.starts_with(&markdown()),
            "make it again: (mqadmin commands --markdown; echo; kerolox-inspect commands --markdown) > tools/COMMANDS.md"
        );
    }
}
