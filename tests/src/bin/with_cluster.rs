//! Runs a test suite with real servers on request; see `kerolox_tests::cluster_server`. `tests/run.sh sdk` uses it.

use std::process::ExitCode;

use clap::Parser;
use kerolox_tests::cluster_server::run;

/// Runs a command that asks for clusters at the address in `KEROLOX_HARNESS`, and exits with its exit code.
#[derive(Parser)]
struct Arguments {
    /// Broker groups of a cluster that does not say how many it needs.
    #[arg(long, env = "KEROLOX_SDK_GROUPS", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=26))]
    groups: u8,
    /// The command with its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    // Kept logs lie in a folder with the name of the thread that starts their server.
    let runtime = tokio::runtime::Builder::new_multi_thread().thread_name("clusters").enable_all().build()?;
    let code = runtime.block_on(run(&arguments.command, arguments.groups))?;
    Ok(ExitCode::from(code))
}
