//! A broker group that leaves.

use std::time::{Duration, Instant};

use clap::Args;
use kerolox_client::admin::{Admin, BrokerAdmin, Master, wire};
use kerolox_model::names::DEAD_LETTER_PREFIX;
use kerolox_model::units::TimeSpan;
use serde_json::json;

use super::perm::check_taken;
use super::remains::{Item, Next, Seen, next, remains};
use super::{Choice, LOOK_PAUSE, ROUTE_AGE, during, standing, withhold};
use crate::command::{DryRun, confirm};
use crate::target::Common;
use kerolox_report::outcome::{ExitStatus, Result};
use kerolox_report::output::{CommandReport, print_error};

/// Dead letters and lite topics are asked for in pages of so many.
const PAGE: u32 = 1000;

/// Show what remains on a broker group that leaves: exit code 0 when nothing does and it can be stopped
#[derive(Debug, Args)]
pub(crate) struct BrokerLeaveStatus {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    choice: Choice,
    /// How long clients keep routes that they looked up
    #[arg(long, value_name = "DURATION", default_value = ROUTE_AGE)]
    route_age: TimeSpan,
}

impl BrokerLeaveStatus {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let groups = self.choice.find(&self.common).await?;
        let seen = look(&groups.admin, &groups.chosen).await?;
        let items = remains(&seen);
        let next = next(&seen, &items, self.route_age.duration(), false);
        Ok(report(&groups.chosen.info.group, &seen, &items, &next))
    }
}

/// Take a broker group out of use so that it can be stopped: without a lost message and without a failed send
///
/// Producers are sent elsewhere (see wipeWritePerm), consumers empty it, then it leaves the routes, and once no
/// producer has sent anything there for as long as clients keep routes, it can be stopped. Without --wait the command
/// makes one step and shows what remains; it can be interrupted and repeated at any time. addWritePerm takes everything
/// back. Exit code 0 says that all brokers of the group can be stopped.
#[derive(Debug, Args)]
pub(crate) struct RemoveBrokerGroup {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    choice: Choice,
    /// Wait until it can be stopped
    #[arg(long)]
    wait: bool,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "1h", requires = "wait")]
    timeout: TimeSpan,
    /// How long clients keep routes that they looked up
    #[arg(long, value_name = "DURATION", default_value = ROUTE_AGE)]
    route_age: TimeSpan,
    /// Leave dead letters, and messages that no consumer group reads, behind
    #[arg(long)]
    leave_behind: bool,
    /// Even if no other group takes the messages of some topics
    #[arg(long)]
    force: bool,
    /// Do not ask for confirmation
    #[arg(short = 'y', long)]
    yes: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl RemoveBrokerGroup {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let groups = self.choice.find(&self.common).await?;
        let broker = groups.chosen.info.group.clone();
        if !self.force {
            check_taken(&groups).await?;
        }
        if let Some(instead) = self.dry_run.instead(|| {
            format!(
                "take broker group {broker} out of use, step by step; brokerLeaveStatus shows what remains"
            )
        }) {
            return Ok(instead);
        }
        confirm(&format!("Take broker group {broker} out of use?"), self.yes)?;
        let until = Instant::now() + self.timeout.duration();
        let mut told = String::new();
        loop {
            // It may have another master in the meantime.
            let (report, next) = match self.step().await {
                Ok(step) => step,
                Err(failure)
                    if failure.exit == ExitStatus::Unreachable && self.wait && Instant::now() < until =>
                {
                    tell(&mut told, &failure.message);
                    tokio::time::sleep(LOOK_PAUSE).await;
                    continue;
                }
                Err(failure) => return Err(failure),
            };
            let is_over = matches!(next, Next::Safe | Next::Stuck);
            if is_over || !self.wait || Instant::now() >= until {
                return Ok(report);
            }
            tell(&mut told, &report.text);
            if !matches!(next, Next::Withhold(_)) {
                tokio::time::sleep(LOOK_PAUSE).await;
            }
        }
    }

    /// Looks at the group, and does what comes next.
    async fn step(&self) -> Result<(CommandReport, Next)> {
        let groups = self.choice.find(&self.common).await?;
        let mut seen = look(&groups.admin, &groups.chosen).await?;
        let items = remains(&seen);
        let next = next(&seen, &items, self.route_age.duration(), self.leave_behind);
        if let Next::Withhold(perm) = next {
            withhold(&groups.admin, &groups.chosen, perm).await?;
            seen.withheld = perm;
        }
        Ok((report(&groups.chosen.info.group, &seen, &items, &next), next))
    }
}

/// Says how it goes, when that has changed.
fn tell(told: &mut String, text: &str) {
    if told != text {
        print_error(text);
        text.clone_into(told);
    }
}

fn report(broker: &str, seen: &Seen, items: &[Item], next: &Next) -> CommandReport {
    let mut lines = vec![format!("broker group {broker}: {}", standing(seen.withheld))];
    lines.extend(items.iter().map(|item| {
        let mark = if item.stays() { "stays" } else { "waits" };
        format!("  {mark}: {item}")
    }));
    lines.push(match next {
        Next::Safe => format!("{broker} can be stopped, all its brokers"),
        Next::Quiet(rest) => format!(
            "do not stop {broker} yet: clients may have old routes for another {} s if they send nothing",
            rest.as_secs() + 1
        ),
        Next::Stuck => format!(
            "do not stop {broker}: what stays would be lost with it; consume it, delete it, or pass --leave-behind to removeBrokerGroup"
        ),
        Next::Drain | Next::Withhold(_) => format!("do not stop {broker} yet; see removeBrokerGroup --wait"),
    });
    let is_safe = *next == Next::Safe;
    CommandReport {
        text: lines.join("\n"),
        json: json!({
            "broker": broker,
            "withheld": seen.withheld,
            "quietMs": u64::try_from(seen.quiet.as_millis()).unwrap_or(u64::MAX),
            "waits": items.iter().filter(|item| !item.stays()).collect::<Vec<_>>(),
            "stays": items.iter().filter(|item| item.stays()).collect::<Vec<_>>(),
            "safeToStop": is_safe,
        }),
        warnings: Vec::new(),
        exit: if is_safe { ExitStatus::Ok } else { ExitStatus::Failed },
    }
}

async fn look(admin: &Admin, master: &Master) -> Result<Seen> {
    ask(&admin.broker(&master.address)).await.map_err(|error| during(master, error))
}

async fn ask(broker: &BrokerAdmin) -> kerolox_client::Result<Seen> {
    // The state first: what comes after that is seen below, or breaks the quiet for the next look.
    let state = broker.describe_broker(wire::DescribeBrokerRequest {}).await?;
    let mut seen = Seen {
        withheld: state.broker.unwrap_or_default().withheld,
        quiet: Duration::from_millis(state.quiet_ms.unwrap_or(0)),
        ..Seen::default()
    };
    for group in broker.list_groups(wire::ListGroupsRequest::default()).await?.groups {
        let request = wire::DescribeGroupRequest { name: group.name, ..Default::default() };
        seen.groups.push(broker.describe_group(request).await?);
    }
    for topic in broker.list_topics(wire::ListTopicsRequest {}).await?.topics {
        if topic.message_types == [i32::from(kerolox_proto::v2::MessageType::Lite)] {
            let request =
                wire::ListLitesRequest { topic: topic.name.clone(), limit: 1, ..Default::default() };
            seen.lites.insert(topic.name.clone(), broker.list_lites(request).await?.total);
        }
        if let Some((namespace, group)) = topic.name.split_once(DEAD_LETTER_PREFIX) {
            let group = format!("{namespace}{group}");
            let count = dead_letters(broker, &group).await?;
            seen.dead_letters.insert(group, count);
        }
        seen.topics.push(broker.describe_topic(wire::DescribeTopicRequest { name: topic.name }).await?);
    }
    Ok(seen)
}

/// How many dead letters of a consumer group were not sent back.
async fn dead_letters(broker: &BrokerAdmin, group: &str) -> kerolox_client::Result<u64> {
    let (mut count, mut from) = (0, Some(0));
    while let Some(from_offset) = from {
        let request = wire::ListDeadLettersRequest {
            group: group.to_owned(),
            from_offset,
            limit: PAGE,
            ..Default::default()
        };
        let page = broker.list_dead_letters(request).await?;
        count += page.letters.len() as u64;
        from = page.next_offset;
    }
    Ok(count)
}
