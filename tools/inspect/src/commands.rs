//! `kerolox-inspect commands` and `kerolox-inspect completion`: the program about itself.

use std::fmt::Write as _;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;
use kerolox_report::output::{CommandReport, table};
use serde_json::json;

use crate::CommandLine;

/// List all commands
#[derive(Debug, Args)]
pub(crate) struct Commands {
    /// As a part of a document in Markdown
    #[arg(long)]
    markdown: bool,
}

/// Print what a shell needs to complete commands and flags
///
/// For bash: source <(kerolox-inspect completion bash).
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
}

impl Commands {
    pub(crate) fn run(self) -> CommandReport {
        let known = known();
        let json = known.iter().map(|(name, about)| json!({ "command": name, "about": about })).collect();
        let rows = known.iter().map(|(name, about)| vec![name.clone(), about.clone()]);
        CommandReport::ok(
            if self.markdown { markdown() } else { table(&["Command", "What it does"], rows) },
            json,
        )
    }
}

impl Completion {
    pub(crate) fn run(self) -> CommandReport {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut CommandLine::command(), "kerolox-inspect", &mut script);
        let script = String::from_utf8_lossy(&script).into_owned();
        CommandReport::ok(script.clone(), json!({ "shell": self.shell.to_string(), "script": script }))
    }
}

/// Each command with what it does.
fn known() -> Vec<(String, String)> {
    let about = |command: &clap::Command| command.get_about().map(ToString::to_string).unwrap_or_default();
    CommandLine::command()
        .get_subcommands()
        .map(|command| (command.get_name().to_owned(), about(command)))
        .collect()
}

/// The part about this program of the document `tools/COMMANDS.md`.
fn markdown() -> String {
    let mut text = "\
# Commands of kerolox-inspect

Made by `kerolox-inspect commands --markdown`. The program reads the data folder of a broker and changes nothing there; it is apart
from mqadmin because it links RocksDB.

| command | what it does |
|---|---|
"
    .to_owned();
    for (name, about) in known() {
        let _ = writeln!(text, "| `{name}` | {about} |");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_up_to_date() {
        let written = std::fs::read_to_string("../COMMANDS.md").unwrap();
        assert!(
            written.trim_end().ends_with(markdown().trim_end()),
            "make it again: (mqadmin commands --markdown; echo; kerolox-inspect commands --markdown) > tools/COMMANDS.md"
        );
    }

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
