//! `client show`.

use super::{Found, Wanted, find};
use crate::target::Common;
use clap::Args;
use kerolox_proto::v2::{self, telemetry_command::Command};
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{self, CommandReport, short_duration};
use serde_json::{Value, json};

/// Show a connected client; with --stack also what its threads do
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Id of the client, as `client list` shows it; without it all of --group are shown
    #[arg(value_name = "CLIENT_ID", required_unless_present_any = ["named", "group"], conflicts_with = "named")]
    id: Option<String>,
    /// Id of the client, as a flag
    #[arg(short = 'i', long = "client-id", alias = "clientId", value_name = "CLIENT_ID", id = "named")]
    named: Option<String>,
    /// Only consumers of this group
    #[arg(short = 'g', long = "consumer-group", alias = "consumerGroup")]
    group: Option<String>,
    /// Only those that are connected to this server, HOST:PORT; needs no nameserver
    #[arg(short = 'b', long = "broker-addr", alias = "brokerAddr", value_name = "ADDR")]
    server: Option<kerolox_client::Address>,
    /// Ask it what its threads do
    #[arg(short = 's', long = "stack", aliases = ["jstack"], num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    stack: Option<bool>,
}

impl Show {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let id = self.id.or(self.named);
        let wanted = Wanted { group: self.group, only_at: self.server, id: id.clone(), ..Default::default() };
        let (clients, _) = find(&self.common, &wanted).await?;
        if clients.is_empty() {
            let who = id.or(wanted.group).unwrap_or_default();
            return Err(CommandFailure::not_found(format!(
                "no client {who} is connected; see `mqadmin client list`"
            )));
        }
        let (mut texts, mut views) = (Vec::new(), Vec::new());
        for client in &clients {
            let stack = if self.stack == Some(true) { Some(stack(&self.common, client).await) } else { None };
            texts.push(text(client, stack.as_ref()));
            let mut view = client.view();
            if let (Some(stack), Value::Object(fields)) = (&stack, &mut view) {
                let (key, value) = match stack {
                    Ok(stack) => ("stack", stack),
                    Err(failure) => ("stackError", &failure.message),
                };
                fields.insert(key.to_owned(), json!(value));
            }
            views.push(view);
        }
        Ok(CommandReport::ok(texts.join("\n\n"), json!({ "clients": views })))
    }
}

async fn stack(common: &Common, client: &Found) -> Result<String> {
    let nonce = uuid::Uuid::new_v4().to_string();
    let command = v2::PrintThreadStackTraceCommand { nonce: nonce.clone() };
    let reply = client.ask(common, Command::PrintThreadStackTraceCommand(command), nonce).await?;
    match (reply.command, reply.status) {
        (
            Some(Command::ThreadStackTrace(v2::ThreadStackTrace { thread_stack_trace: Some(trace), .. })),
            _,
        ) => Ok(trace),
        (_, Some(status)) => Err(CommandFailure::failed(status.message)),
        _ => Err(CommandFailure::failed("it replied without saying what its threads do")),
    }
}

fn text(client: &Found, stack: Option<&Result<String>>) -> String {
    let agent = client.settings.user_agent.clone().unwrap_or_default();
    let topics: Vec<String> = client
        .topics()
        .iter()
        .map(|(topic, filter)| filter.as_ref().map_or(topic.clone(), |filter| format!("{topic} [{filter}]")))
        .collect();
    let mut lines = vec![
        format!("client {}", client.client_id),
        format!("  type       {}", client.type_name()),
        format!("  group      {}", client.group().unwrap_or_else(|| "-".to_owned())),
        format!("  topics     {}", topics.join(", ")),
        format!("  language   {}", client.language()),
        format!("  host       {} {}", agent.hostname, agent.platform),
        format!("  address    {}", client.address),
        format!(
            "  connected  {}, last sign of life {} ago",
            short_duration(client.known_ms),
            short_duration(client.silent_ms)
        ),
        format!("  servers    {}", client.servers.join(", ")),
    ];
    match stack {
        None => {}
        Some(Ok(stack)) => {
            lines.push("  threads".to_owned());
            lines.extend(stack.lines().map(str::to_owned));
        }
        Some(Err(failure)) => lines.push(format!("  threads    {}", failure.message)),
    }
    output::lines(&lines)
}
