//! `completion`.

use clap::Args;
use clap_complete::Shell;
use kerolox_report::outcome::Result;
use kerolox_report::output::{CommandReport, OutputFormat};
use serde_json::json;

/// Print what a shell needs to complete commands and flags
///
/// For bash: source <(mqadmin completion bash). For zsh: mqadmin completion zsh > "${fpath[1]}/_mqadmin". For fish: mqadmin
/// completion fish | source.
#[derive(Debug, Args)]
pub(crate) struct Completion {
    /// The shell
    shell: Shell,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
}

impl Completion {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::cli::command(), "mqadmin", &mut script);
        let script = String::from_utf8_lossy(&script).into_owned();
        Ok(CommandReport::ok(script.clone(), json!({ "shell": self.shell.to_string(), "script": script })))
    }
}
