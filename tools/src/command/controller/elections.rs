//! What an operator decides about a broker group: another master, a beginning without messages, a member less.

use clap::Args;
use kerolox_client::admin::controller::ControllerClient;
use kerolox_client::admin::wire;
use serde_json::{Value, json};

use super::members::group_json;
use super::{GroupChoice, failure};
use crate::command::replication::step_down;
use crate::command::{DryRun, confirm};
use crate::target::Common;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;

/// Elect another master for a broker group, and wait for it
#[derive(Debug, Args)]
pub(crate) struct ElectMaster {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    group: GroupChoice,
    /// The member to elect [default: the best one other than the current master]
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    member: Option<u64>,
    /// Also one that may lack what was acknowledged; what it lacks is lost
    #[arg(long)]
    unclean: bool,
    /// With --unclean: also one of which it is known that it lacks messages, or has none
    #[arg(long, requires = "unclean")]
    lose_messages: bool,
    /// Do not ask before that
    #[arg(short = 'y', long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl ElectMaster {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        let state = self.group.find(&controller).await?.state.unwrap_or_default();
        if let Some(instead) = self.dry_run.instead(|| {
            let who =
                self.member.map_or_else(|| "the best member".to_owned(), |member| format!("member {member}"));
            let loss = if self.unclean { ", even if it lacks messages" } else { "" };
            format!("elect {who} as master of {} in place of member {}{loss}", state.group, state.master)
        }) {
            return Ok(instead);
        }
        let loss = self.accepted_loss(&controller, &state).await?;
        let request = wire::ElectMasterRequest {
            cluster: state.cluster.clone(),
            group: state.group.clone(),
            member: self.member.unwrap_or_default(),
            unclean: self.unclean,
            lose_messages: self.lose_messages,
        };
        // A master that is there hands over without a failed send; one that is not is replaced.
        let is_planned = !self.unclean && self.member != Some(state.master);
        let handed_over = is_planned && step_down(&state, self.member.unwrap_or_default()).await.is_ok();
        if !handed_over {
            controller.elect_master(request).await.map_err(failure)?;
        }
        let elected = self.group.wait_for_master(&controller).await?;
        let state = elected.state.clone().unwrap_or_default();
        if let Some(wanted) = self.member.filter(|wanted| *wanted != state.master) {
            let text = format!(
                "member {} was elected in epoch {} in place of member {wanted}, which did not answer in time or lacked \
                 something; try again",
                state.master, state.epoch
            );
            return Err(CommandFailure::failed(text));
        }
        let set: Vec<String> = state.in_sync.iter().map(u64::to_string).collect();
        let mut text = format!(
            "member {} is the master of {} in epoch {}, in sync are {{{}}}",
            state.master,
            state.group,
            state.epoch,
            set.join(", ")
        );
        let mut json = json!({ "brokers": [group_json(&elected)] });
        if let Some(loss) = &loss {
            text += &format!("\nbefore: {}", loss.text);
            text += &after_text(&elected);
            json["loss"] = loss_json(loss);
        }
        Ok(CommandReport::ok(text, json))
    }

    /// What an election by force loses, when the operator accepts it; `None` of an election that loses nothing.
    async fn accepted_loss(
        &self,
        controller: &ControllerClient,
        state: &wire::GroupState,
    ) -> Result<Option<wire::ElectionLoss>> {
        if !self.unclean {
            return Ok(None);
        }
        let request = wire::DescribeLossRequest {
            cluster: state.cluster.clone(),
            group: state.group.clone(),
            member: self.member.unwrap_or_default(),
        };
        let loss = controller.describe_loss(request).await.map_err(failure)?;
        if loss.certain && !self.lose_messages {
            let text = format!(
                "nothing was changed: {}. To accept that, say --lose-messages as well as --unclean",
                loss.text
            );
            return Err(CommandFailure::failed(text));
        }
        let question = format!(
            "{}. Messages of {} that only other members hold will be lost. Go on?",
            loss.text, state.group
        );
        confirm(&question, self.yes)?;
        Ok(Some(loss))
    }
}

fn loss_json(loss: &wire::ElectionLoss) -> Value {
    let ahead = loss.ahead.iter();
    let ahead = ahead.map(|other| json!({ "id": other.id, "lastEpoch": other.last_epoch, "end": other.end }));
    json!({
        "member": loss.member,
        "lastEpoch": loss.last_epoch,
        "end": loss.end,
        "confirmed": loss.confirmed,
        "ahead": ahead.collect::<Vec<_>>(),
        "unheard": loss.unheard,
        "bytes": loss.bytes,
        "certain": loss.certain,
    })
}

/// What the others give up from then on.
fn after_text(elected: &wire::GroupDescription) -> String {
    let master = elected.state.as_ref().map(|state| state.master);
    let Some(own) = elected.health.iter().find(|member| Some(member.id) == master) else {
        return String::new();
    };
    let others = elected.health.iter().filter(|other| Some(other.id) != master && other.silent_ms.is_some());
    let behind = others.filter(|other| other.end > own.end || other.last_epoch > own.last_epoch);
    behind
        .map(|other| {
            format!(
                "\nafter: member {} ends at {}, the master at {}; what it has and the master has not it gives up when it follows, and keeps \
                 a copy beside its log",
                other.id, other.end, own.end
            )
        })
        .collect()
}

/// Let a broker group whose data folders are all gone begin without messages
#[derive(Debug, Args)]
pub(crate) struct ResetBrokerGroup {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    group: GroupChoice,
    /// All messages of the group are lost
    #[arg(long, required_unless_present = "dry_run")]
    lose_all_messages: bool,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl ResetBrokerGroup {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        let before = self.group.find(&controller).await?;
        let state = before.state.clone().unwrap_or_default();
        let lost = lost_text(&before);
        if let Some(instead) =
            self.dry_run.instead(|| format!("let {} begin without messages: {lost}", state.group))
        {
            return Ok(instead);
        }
        confirm(&format!("{lost}. Let {} begin without messages?", state.group), self.yes)?;
        let request = wire::ResetGroupRequest {
            cluster: state.cluster,
            group: state.group.clone(),
            lose_all_messages: self.lose_all_messages,
        };
        let answer = controller.reset_group(request).await.map_err(failure)?;
        let elected = self.group.wait_for_master(&controller).await?;
        let state = elected.state.clone().unwrap_or_default();
        let text = format!(
            "{lost}\nmember {} is the master of {} in epoch {}",
            state.master, state.group, state.epoch
        );
        let json = json!({ "brokers": [group_json(&elected)], "forgotten": answer.forgotten, "lost": lost });
        Ok(CommandReport::ok(text, json))
    }
}

/// What a group loses that begins without messages.
fn lost_text(group: &wire::GroupDescription) -> String {
    let holders = group.state.iter().flat_map(|state| &state.members).filter(|member| member.holds);
    let told = holders.map(|member| {
        let health = group.health.iter().find(|health| health.id == member.id && health.silent_ms.is_some());
        let held = match health {
            Some(health) => format!("held the log up to position {}", health.end),
            None => "held an unknown part of the log".to_owned(),
        };
        format!("member {} ({}:{}) {held}", member.id, member.host, member.port)
    });
    let told: Vec<String> = told.collect();
    format!("all messages are lost, with topics, consumer groups and their progress: {}", told.join(", "))
}

/// Take a dead member out of its broker group for good
#[derive(Debug, Args)]
pub(crate) struct RemoveBrokerMember {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    group: GroupChoice,
    /// Who goes
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u64).range(1..))]
    member: u64,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl RemoveBrokerMember {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let controller = self.common.controller()?;
        let state = self.group.find(&controller).await?.state.unwrap_or_default();
        if let Some(instead) =
            self.dry_run.instead(|| format!("remove member {} from {}", self.member, state.group))
        {
            return Ok(instead);
        }
        let question = format!("Take member {} out of {} for good?", self.member, state.group);
        confirm(&question, self.yes)?;
        let request = wire::RemoveMemberRequest {
            cluster: state.cluster,
            group: state.group.clone(),
            member: self.member,
        };
        let left = controller.remove_member(request).await.map_err(failure)?.state.unwrap_or_default();
        let ids: Vec<u64> = left.members.iter().map(|member| member.id).collect();
        let text = format!("member {} of {} is removed", self.member, state.group);
        Ok(CommandReport::ok(text, json!({ "broker": state.group, "removed": self.member, "members": ids })))
    }
}
