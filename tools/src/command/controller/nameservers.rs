//! The nameservers that elect masters: who they are, who comes and goes.

use clap::Args;
use kerolox_client::Address;
use kerolox_client::admin::controller::ControllerClient;
use kerolox_client::admin::wire;
use serde_json::{Value, json};

use super::{failure, standalone};
use crate::command::{DryRun, confirm};
use crate::target::Common;
use kerolox_report::outcome::Result;
use kerolox_report::output::{CommandReport, table};

/// Show the nameservers that elect masters, and which of them leads
#[derive(Debug, Args)]
pub(crate) struct ControllerStatus {
    #[command(flatten)]
    pub(crate) common: Common,
}

impl ControllerStatus {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        match standalone(&self.common, &controller).await? {
            Some(standalone) => Ok(standalone),
            None => quorum_report(&controller).await,
        }
    }
}

async fn quorum_report(controller: &ControllerClient) -> Result<CommandReport> {
    let quorum = controller.describe_quorum(wire::DescribeQuorumRequest {}).await.map_err(failure)?;
    let row = |member: &wire::NameserverMember| {
        let role = match (member.leads, member.votes) {
            (true, _) => "LEADER",
            (false, true) => "FOLLOWER",
            (false, false) => "LEARNER",
        };
        vec![
            member.id.to_string(),
            member.address.clone(),
            role.to_owned(),
            member.behind.map_or_else(|| "-".to_owned(), |behind| behind.to_string()),
        ]
    };
    let mut text = table(&["ID", "Addr", "Role", "Behind"], quorum.members.iter().map(row));
    if !quorum.members.iter().any(|member| member.leads) {
        text += &format!("\nno leader is known to nameserver {}, which answered", quorum.answered_by);
    }
    let view = |member: &wire::NameserverMember| {
        json!({
            "id": member.id,
            "address": member.address,
            "leads": member.leads,
            "votes": member.votes,
            "behind": member.behind,
        })
    };
    let members: Vec<Value> = quorum.members.iter().map(view).collect();
    let json = json!({ "nameservers": members, "answeredBy": quorum.answered_by, "term": quorum.term });
    Ok(CommandReport::ok(text, json))
}

/// Add a nameserver that was started with --join to those that elect masters, or give one another address
#[derive(Debug, Args)]
pub(crate) struct ControllerAdd {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The nameserver's --id
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Where the other nameservers reach it
    #[arg(long, value_name = "HOST:PORT")]
    address: Address,
    #[command(flatten)]
    dry_run: DryRun,
}

impl ControllerAdd {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        if let Some(instead) = self
            .dry_run
            .instead(|| format!("add nameserver {} at {} to those that elect masters", self.id, self.address))
        {
            return Ok(instead);
        }
        let request = wire::AddNameserverRequest { id: self.id, address: self.address.to_string() };
        controller.add_nameserver(request).await.map_err(failure)?;
        quorum_report(&controller).await
    }
}

/// Take a nameserver out of those that elect masters
#[derive(Debug, Args)]
pub(crate) struct ControllerRemove {
    #[command(flatten)]
    pub(crate) common: Common,
    /// The nameserver's --id
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    id: u64,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl ControllerRemove {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        if let Some(instead) =
            self.dry_run.instead(|| format!("take nameserver {} out of those that elect masters", self.id))
        {
            return Ok(instead);
        }
        let question = format!("Take nameserver {} out of those that elect masters?", self.id);
        confirm(&question, self.yes)?;
        let request = wire::RemoveNameserverRequest { id: self.id };
        controller.remove_nameserver(request).await.map_err(failure)?;
        let text = format!("nameserver {} elects no masters any more; it can be stopped", self.id);
        Ok(CommandReport::ok(text, json!({ "removed": self.id })))
    }
}
