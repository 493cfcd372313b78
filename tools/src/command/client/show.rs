//! `client show`.

use super::{Found, Wanted, find};
use crate::outcome::{Failure, Result};
use crate::output::{Report, short_duration};
use crate::target::Common;
use clap::Args;
use kerolox_client::admin::wire;
use kerolox_proto::v2::{self, telemetry_command::Command};
use prost::Message as _;
use serde_json::{Value, json};

/// Show a connected client; with --stack also what its threads do
#[derive(Debug, Args)]
pub(crate) struct Show {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Id of the client, as `client list` shows it; without it all of --group are shown
    #[arg(value_name = "CLIENT_ID", required_unless_present_any = ["named", "group"], conflicts_with = "named")]
    id: Option<String>,
    /// The same
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

/// How long a client may take for its reply.
const REPLY_MS: u32 = 2_500;

impl Show {
    pub(crate) async fn run(self) -> Result<Report> {
        let id = self.id.or(self.named);
        let wanted = Wanted { group: self.group, only_at: self.server, id: id.clone(), ..Default::default() };
        let (clients, _) = find(&self.common, &wanted).await?;
        if clients.is_empty() {
            let who = id.or(wanted.group).unwrap_or_default();
            return Err(Failure::not_found(format!(
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
        Ok(Report::ok(texts.join("\n\n"), json!({ "clients": views })))
    }
}

async fn stack(common: &Common, client: &Found) -> Result<String> {
    let nonce = uuid::Uuid::new_v4().to_string();
    let command = v2::PrintThreadStackTraceCommand { nonce: nonce.clone() };
    let command = v2::TelemetryCommand {
        status: Some(v2::Status { code: v2::Code::Ok.into(), message: "OK".to_owned() }),
        command: Some(Command::PrintThreadStackTraceCommand(command)),
    };
    for server in &client.reachable_at {
        let request = wire::AskClientRequest {
            client_id: client.client_id.clone(),
            command: command.encode_to_vec(),
            nonce: nonce.clone(),
            wait_ms: REPLY_MS,
        };
        let answer = common.client_of(server)?.admin().broker(server).ask_client(request).await?;
        if let Some(reply) = answer.reply {
            let reply = v2::TelemetryCommand::decode(reply.as_slice());
            let trace = match reply.map(|reply| reply.command) {
                Ok(Some(Command::ThreadStackTrace(trace))) => trace.thread_stack_trace,
                _ => None,
            };
            return Ok(trace.unwrap_or_default());
        }
    }
    Err(Failure::failed("it did not reply; its SDK may not know the question"))
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
        Some(Ok(stack)) => lines.push(format!("  threads\n{stack}")),
        Some(Err(failure)) => lines.push(format!("  threads    {}", failure.message)),
    }
    lines.join("\n")
}
