//! `message verify`: a message shown to the listener of one consumer.

use super::{Kind, Wanted, find};
use crate::command::query;
use crate::target::Common;
use clap::Args;
use kerolox_proto::v2::{self, Code, telemetry_command::Command};
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;
use serde_json::json;

/// Show a message to a connected push consumer, and report its listener's verdict
///
/// The consumer gets the message as if it had been delivered, but nothing is settled by that: the group's offsets,
/// attempts and deliveries in flight stay as they are. The listener's own effects are real.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Id of the message
    #[arg(value_name = "ID")]
    id: String,
    /// Id of the consumer, as `client list` shows it
    #[arg(short = 'd', long = "client-id", alias = "clientId", value_name = "CLIENT_ID")]
    client: String,
    /// Its consumer group
    #[arg(short = 'g', long = "consumer-group", alias = "consumerGroup")]
    group: Option<String>,
    /// Only if the message is in this topic
    #[arg(short = 't', long)]
    topic: Option<String>,
}

impl Verify {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let message = query::one(&self.common, &self.id, self.topic.as_deref()).await?;
        show_to(&self.common, message, &self.client, self.group).await
    }
}

/// Shows a message to a connected consumer.
pub(crate) async fn show_to(
    common: &Common,
    message: v2::Message,
    client_id: &str,
    group: Option<String>,
) -> Result<CommandReport> {
    let id = message.system_properties.as_ref().map_or("", |system| system.message_id.as_str()).to_owned();
    let in_group = group.as_ref().map(|group| format!(" of group {group}")).unwrap_or_default();
    let wanted =
        Wanted { kind: Some(Kind::Consumer), id: Some(client_id.to_owned()), group, ..Default::default() };
    let (clients, _) = find(common, &wanted).await?;
    let Some(client) = clients.first() else {
        return Err(CommandFailure::not_found(format!(
            "no consumer {client_id}{in_group} is connected; see `mqadmin client list --kind consumer`"
        )));
    };
    let nonce = uuid::Uuid::new_v4().to_string();
    let command = v2::VerifyMessageCommand { nonce: nonce.clone(), message: Some(message) };
    let reply = client.ask(common, Command::VerifyMessageCommand(command), nonce).await?;
    let status = reply.status.unwrap_or_else(|| v2::Status { code: Code::Ok.into(), message: String::new() });
    match status.code() {
        Code::Ok => Ok(CommandReport::ok(
            format!("{client_id} consumed message {id}; nothing was settled by that"),
            json!({ "messageId": id, "clientId": client_id, "consumed": true }),
        )),
        Code::FailedToConsumeMessage => Err(CommandFailure::failed(format!(
            "the listener of {client_id} failed on message {id}, or it is shutting down; its log says why"
        ))),
        Code::VerifyFifoMessageUnsupported => Err(CommandFailure::failed(format!(
            "{client_id} consumes in order, and is shown no message out of its order"
        ))),
        _ => {
            Err(CommandFailure::failed(format!("{client_id} cannot be shown a message: {}", status.message)))
        }
    }
}
