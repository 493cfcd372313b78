//! Taking a broker group from producers, and giving it back.

use clap::Args;
use kerolox_client::admin::{Admin, Master, wire};
use kerolox_core::topic::PERM_WRITE;
use kerolox_model::names::DEAD_LETTER_PREFIX;
use serde_json::json;
use std::collections::BTreeSet;

use super::{Choice, Groups, during, standing, withhold};
use crate::command::DryRun;
use crate::target::Common;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;

/// Take a broker group from producers: from their next look at the routes on they send to other groups
///
/// The group passes late messages on to another group that has the topic, so that no send fails. Consumers go on
/// reading from it. The topics' own perm stays as it is, for addWritePerm to bring back; topics that come later are
/// included.
#[derive(Debug, Args)]
pub(crate) struct WipeWritePerm {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    choice: Choice,
    /// Even if no other group takes the messages of some topics: the group goes on storing those that are sent to it
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    dry_run: DryRun,
}

impl WipeWritePerm {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let groups = self.choice.find(&self.common).await?;
        if !self.force {
            check_taken(&groups).await?;
        }
        let would = || format!("take broker group {} from producers", groups.chosen.info.group);
        if let Some(instead) = self.dry_run.instead(would) {
            return Ok(instead);
        }
        set(&groups, PERM_WRITE).await
    }
}

/// Give a broker group back to producers and consumers: each topic has the perm again that it had
#[derive(Debug, Args)]
pub(crate) struct AddWritePerm {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    dry_run: DryRun,
}

impl AddWritePerm {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let groups = self.choice.find(&self.common).await?;
        let would =
            || format!("give broker group {} back to producers and consumers", groups.chosen.info.group);
        if let Some(instead) = self.dry_run.instead(would) {
            return Ok(instead);
        }
        set(&groups, 0).await
    }
}

async fn set(groups: &Groups, perm: u32) -> Result<CommandReport> {
    withhold(&groups.admin, &groups.chosen, perm).await?;
    let broker = &groups.chosen.info.group;
    let text = format!("broker group {broker}: {}", standing(perm));
    Ok(CommandReport::ok(text, json!({ "broker": broker, "withheld": perm })))
}

/// The topics and groups of a broker group, whatever it withholds.
struct Has {
    topics: Vec<wire::TopicConfig>,
    consumer_groups: BTreeSet<String>,
    makes_topics: bool,
}

async fn what_it_has(admin: &Admin, master: &Master) -> Result<Has> {
    let asked = admin.broker(&master.address);
    let topics =
        asked.list_topics(wire::ListTopicsRequest {}).await.map_err(|error| during(master, error))?;
    let groups =
        asked.list_groups(wire::ListGroupsRequest::default()).await.map_err(|error| during(master, error))?;
    Ok(Has {
        topics: topics.topics,
        consumer_groups: groups.groups.into_iter().map(|group| group.name).collect(),
        makes_topics: master.info.auto_create_queues > 0,
    })
}

/// Checks that others are ready for the messages of a group.
///
/// # Errors
/// No other group would take some topics, or some consumer groups would be made anew, with default settings.
pub(super) async fn check_taken(groups: &Groups) -> Result<()> {
    let own = what_it_has(&groups.admin, &groups.chosen).await?;
    let mut others = Vec::new();
    for other in groups.others.iter().filter(|other| other.info.withheld & PERM_WRITE == 0) {
        others.push(what_it_has(&groups.admin, other).await?);
    }
    let missing = missing_elsewhere(&own, &others);
    if missing.is_empty() {
        return Ok(());
    }
    let group = &groups.chosen.info.group;
    Err(CommandFailure::failed(format!(
        "no other broker group is ready to take over from {group}: missing elsewhere are {}. Make them with `mqadmin addBrokerGroup --broker-name OTHER --from {group}`, or pass --force",
        missing.join(", ")
    )))
}

/// The topics of a group that producers may send to and that no other group takes all messages of, and the consumer
/// groups that some group which takes messages does not have.
fn missing_elsewhere(own: &Has, others: &[Has]) -> Vec<String> {
    let takes = |other: &Has, topic: &wire::TopicConfig| {
        let is_auto = topic.attributes.contains_key(kerolox_core::topic::AUTO_CREATED_ATTRIBUTE);
        match other.topics.iter().find(|theirs| theirs.name == topic.name) {
            Some(theirs) => {
                let accepts = |kind| theirs.message_types.contains(kind);
                theirs.perm & PERM_WRITE != 0 && topic.message_types.iter().all(accepts)
            }
            None => is_auto && other.makes_topics,
        }
    };
    let written =
        |topic: &&wire::TopicConfig| topic.perm & PERM_WRITE != 0 && !topic.name.contains(DEAD_LETTER_PREFIX);
    let topics = own.topics.iter().filter(written);
    let untaken = topics.filter(|topic| !others.iter().any(|other| takes(other, topic)));
    let unknown = own.consumer_groups.iter().filter(|name| {
        others.iter().any(|other| !other.topics.is_empty() && !other.consumer_groups.contains(*name))
    });
    let topics = untaken.map(|topic| format!("topic {}", topic.name));
    topics.chain(unknown.map(|name| format!("consumer group {name}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn has(topics: &[(&str, u32, &[i32])], consumer_groups: &[&str]) -> Has {
        let topic = |(name, perm, types): &(&str, u32, &[i32])| wire::TopicConfig {
            name: (*name).into(),
            perm: *perm,
            message_types: types.to_vec(),
            ..Default::default()
        };
        Has {
            topics: topics.iter().map(topic).collect(),
            consumer_groups: consumer_groups.iter().map(|name| (*name).to_owned()).collect(),
            makes_topics: false,
        }
    }

    #[test]
    fn topics_that_nobody_else_takes_are_named() {
        let own = has(&[("a", 6, &[1]), ("b", 6, &[1, 4]), ("closed", 4, &[1]), ("%DLQ%g", 6, &[1])], &[]);
        let other = has(&[("a", 6, &[1]), ("b", 6, &[1])], &[]);
        assert_eq!(missing_elsewhere(&own, &[other]), ["topic b"], "it does not take transactions");
        let (first, second) = (has(&[("a", 6, &[1])], &[]), has(&[("b", 6, &[4, 1])], &[]));
        assert!(missing_elsewhere(&own, &[first, second]).is_empty());
        let closed = has(&[("a", 4, &[1]), ("b", 6, &[1, 4])], &[]);
        assert_eq!(missing_elsewhere(&own, &[closed]), ["topic a"]);
        assert_eq!(missing_elsewhere(&own, &[]), ["topic a", "topic b"]);
    }

    #[test]
    fn topics_that_come_by_themselves_need_nobody_to_make_them() {
        let mut own = has(&[("a", 6, &[1])], &[]);
        own.topics[0].attributes.insert("auto.created".into(), "true".into());
        let mut other = has(&[], &[]);
        assert_eq!(missing_elsewhere(&own, std::slice::from_ref(&other)), ["topic a"]);
        other.makes_topics = true;
        assert!(missing_elsewhere(&own, &[other]).is_empty());
    }

    #[test]
    fn consumer_groups_that_would_get_default_settings_are_named() {
        let own = has(&[("a", 6, &[1])], &["billing", "audit"]);
        let other = has(&[("a", 6, &[1])], &["audit"]);
        assert_eq!(missing_elsewhere(&own, &[other]), ["consumer group billing"]);
    }
}
