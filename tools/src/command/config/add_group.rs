//! `addBrokerGroup`: a broker group gets the topics and consumer groups that the others have.

use std::collections::BTreeMap;

use clap::Args;
use kerolox_client::admin::{Admin, Master};
use kerolox_core::topic::PERM_WRITE;
use kerolox_model::units::TimeSpan;
use serde_json::json;

use super::apply::{carry_out, present};
use super::file::{Config, Group};
use super::plan::{Action, Kind, Present, Step, plan};
use crate::command::moving::{Choice, Groups, ROUTE_AGE, withhold};
use crate::target::Common;
use kerolox_report::outcome::{CommandFailure, Result, combined};
use kerolox_report::output::{CommandReport, print_error};

/// Make on a broker group the topics and consumer groups that the other groups of its cluster have, so that clients use it
///
/// Existing ones stay as they are, and differences are shown. Where a consumer group starts with what comes, or every client
/// gets every message, consumers have to find the topics before producers do: producers come after the time for which clients
/// keep routes. The command can be repeated, and goes on where it was interrupted; in the end producers and consumers use the group.
#[derive(Debug, Args)]
pub(crate) struct AddBrokerGroup {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    choice: Choice,
    /// Only what this broker group has
    #[arg(long, value_name = "GROUP")]
    from: Option<String>,
    /// Only these topics, several separated by ','; consumer groups are made all
    #[arg(short = 't', long, value_delimiter = ',', value_name = "TOPICS")]
    topics: Vec<String>,
    /// How long clients keep routes that they looked up
    #[arg(long, value_name = "DURATION", default_value = ROUTE_AGE)]
    route_age: TimeSpan,
    /// Only show what would be made
    #[arg(long)]
    dry_run: bool,
}

impl AddBrokerGroup {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let groups = self.choice.find(&self.common).await?;
        let (admin, chosen) = (&groups.admin, &groups.chosen);
        let models = self.models(&groups)?;
        let mut union = Union::default();
        for model in models {
            union.add(&model.info.group, present(admin, model).await?);
        }
        union.only(&self.topics)?;
        let steps = plan(&union.wanted, &present(admin, chosen).await?, false);
        let makes_topics = steps.iter().any(|step| step.kind == Kind::Topic && step.action == Action::Create);
        // Withheld already: an earlier run was interrupted, or it was about to leave.
        let waits =
            chosen.info.withheld != 0 || (makes_topics && union.wanted.groups.values().any(starts_late));
        let mut failures = Vec::new();
        if !self.dry_run {
            if waits {
                withhold(admin, chosen, PERM_WRITE).await?;
            }
            failures = make(admin, chosen, &steps).await;
            if waits && failures.iter().all(Option::is_none) {
                let seconds = self.route_age.as_millis().div_ceil(1000);
                print_error(&format!("consumers have {seconds} s to find {}", chosen.info.group));
                tokio::time::sleep(self.route_age.duration()).await;
                withhold(admin, chosen, 0).await?;
            }
        }
        Ok(report(chosen, &steps, &union.differing, failures, self.dry_run))
    }

    /// The groups whose topics and consumer groups are made.
    fn models<'a>(&self, groups: &'a Groups) -> Result<Vec<&'a Master>> {
        let is_model = |master: &&Master| self.from.as_ref().is_none_or(|from| master.info.group == *from);
        let models: Vec<&Master> = groups.others.iter().filter(is_model).collect();
        if models.is_empty() {
            let group = self.from.as_deref().unwrap_or("other than this one");
            return Err(CommandFailure::not_found(format!(
                "no master of a broker group {group} is registered in cluster {}; see clusterList",
                groups.chosen.info.cluster
            )));
        }
        Ok(models)
    }
}

/// Whether a message that is sent before the group looks may be one that it never gets.
fn starts_late(group: &Group) -> bool {
    let attributes = group.attributes.iter().flatten();
    { attributes }.any(|(key, value)| match key.as_str() {
        kerolox_core::group::CONSUME_FROM_ATTRIBUTE => value != "earliest",
        kerolox_core::group::BROADCAST_ATTRIBUTE => value == "true",
        _ => false,
    })
}

/// What several broker groups have.
#[derive(Debug, Default)]
struct Union {
    wanted: Config,
    /// Where they differ; the first one counts.
    differing: Vec<String>,
}

impl Union {
    fn add(&mut self, broker: &str, present: Present) {
        let Self { wanted, differing } = self;
        merge("topic", broker, &mut wanted.topics, present.topics, differing);
        merge("consumer group", broker, &mut wanted.groups, present.groups, differing);
    }

    /// Leaves out all other topics.
    fn only(&mut self, topics: &[String]) -> Result<()> {
        if let Some(unknown) = topics.iter().find(|topic| !self.wanted.topics.contains_key(*topic)) {
            return Err(CommandFailure::not_found(format!(
                "no other broker group has topic {unknown}; see topicList"
            )));
        }
        if !topics.is_empty() {
            self.wanted.topics.retain(|name, _| topics.contains(name));
        }
        Ok(())
    }
}

fn merge<T: PartialEq>(
    kind: &str,
    broker: &str,
    known: &mut BTreeMap<String, T>,
    more: BTreeMap<String, T>,
    differing: &mut Vec<String>,
) {
    for (name, found) in more {
        match known.get(&name) {
            None => drop(known.insert(name, found)),
            Some(first) if *first == found => {}
            Some(_) => differing.push(format!(
                "{kind} {name} of {broker} differs from that of a group before it, which counts"
            )),
        }
    }
}

/// Makes missing topics and consumer groups, groups first: a topic that clients find has its groups as they should be. One
/// entry for each step.
async fn make(admin: &Admin, chosen: &Master, steps: &[Step]) -> Vec<Option<CommandFailure>> {
    let broker = admin.broker(&chosen.address);
    let mut failures = vec![None; steps.len()];
    for kind in [Kind::Group, Kind::Topic] {
        for (step, failure) in std::iter::zip(steps, &mut failures) {
            if step.kind == kind && step.action == Action::Create {
                let made = carry_out(&broker, step).await;
                *failure = made.err().map(|failure| failure.during(step.line()));
            }
        }
    }
    failures
}

fn report(
    chosen: &Master,
    steps: &[Step],
    differing: &[String],
    failures: Vec<Option<CommandFailure>>,
    dry_run: bool,
) -> CommandReport {
    let broker = &chosen.info.group;
    let failed = |number: usize| failures.get(number).and_then(Option::as_ref);
    let mut lines = vec![format!("broker group {broker} [{}]", chosen.address)];
    let shown = steps.iter().enumerate().filter(|(_, step)| step.action != Action::Unchanged);
    lines.extend(shown.map(|(number, step)| {
        let note = match step.action {
            Action::Create if failed(number).is_some() => " FAILED",
            Action::Create => "",
            _ => " (differs; stays as it is)",
        };
        format!("  {}{note}", step.line())
    }));
    lines.extend(differing.iter().map(|sentence| format!("  {sentence}")));
    let count = |action| steps.iter().filter(|step| step.action == action).count();
    let made = count(Action::Create) - failures.iter().flatten().count();
    let tense = if dry_run { " (dry run: nothing was made)" } else { "" };
    lines.push(format!(
        "{made} made, {} differ, {} were there{tense}",
        count(Action::Change),
        count(Action::Unchanged)
    ));
    let exit = combined(steps.iter().enumerate().map(|(number, _)| failed(number)));
    CommandReport {
        text: lines.join("\n"),
        json: json!({ "broker": broker, "dryRun": dry_run, "steps": steps, "differing": differing }),
        warnings: failures.into_iter().flatten().collect(),
        exit,
    }
}

#[cfg(test)]
mod tests {
    use kerolox_client::admin::wire;

    use super::*;

    fn topic(name: &str, write_queues: u32) -> wire::TopicConfig {
        wire::TopicConfig {
            name: name.into(),
            read_queues: 8,
            write_queues,
            perm: 6,
            message_types: vec![1],
            ..Default::default()
        }
    }

    fn union() -> Union {
        let mut union = Union::default();
        union.add("a", Present::of(&[topic("orders", 4), topic("%DLQ%g", 1)], &[]));
        union.add("b", Present::of(&[topic("orders", 8), topic("news", 8)], &[]));
        union
    }

    #[test]
    fn a_group_gets_what_any_other_has_and_differences_are_named() {
        let union = union();
        assert_eq!(union.wanted.topics.keys().collect::<Vec<_>>(), ["news", "orders"]);
        assert_eq!(union.wanted.topics["orders"].write_queues, Some(4), "the first one counts");
        assert_eq!(union.differing.len(), 1);
        assert!(union.differing[0].contains("orders"), "{:?}", union.differing);
    }

    #[test]
    fn only_known_topics_can_be_chosen() {
        let mut some = union();
        some.only(&["news".into()]).unwrap();
        assert_eq!(some.wanted.topics.keys().collect::<Vec<_>>(), ["news"]);
        assert!(union().only(&["new".into()]).unwrap_err().message.contains("new"));
    }

    #[test]
    fn consumers_that_begin_with_what_comes_must_look_first() {
        let group = |attributes: &[(&str, &str)]| {
            let attributes = attributes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
            Group {
                consume_from_min_enable: Some(false),
                attributes: Some(attributes.collect()),
                ..Group::default()
            }
        };
        assert!(!starts_late(&group(&[("consume.from", "earliest"), ("broadcast", "false")])));
        assert!(!starts_late(&group(&[])));
        assert!(starts_late(&group(&[("consume.from", "latest")])));
        assert!(starts_late(&group(&[("broadcast", "true")])));
    }

    #[test]
    fn a_report_tells_what_was_made_from_what_differs() {
        let present = Present::of(&[topic("orders", 8)], &[]);
        let steps = plan(&union().wanted, &present, false);
        let info = wire::BrokerInfo { group: "c".into(), ..Default::default() };
        let chosen = Master { address: "h:1".parse().unwrap(), info };
        let report = report(&chosen, &steps, &[], Vec::new(), true);
        assert!(report.text.contains("+ topic news: "), "{}", report.text);
        assert!(
            report.text.contains("~ topic orders: writeQueues 8 -> 4 (differs; stays as it is)"),
            "{}",
            report.text
        );
        assert!(
            report.text.ends_with("1 made, 1 differ, 0 were there (dry run: nothing was made)"),
            "{}",
            report.text
        );
    }
}
