//! `configExport`.

use super::apply::present;
use super::file::{Config, Language};
use crate::target::{Common, Target};
use clap::Args;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;
use serde_json::json;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

/// Write topics and consumer groups as a file that `apply` takes
#[derive(Debug, Args)]
pub(crate) struct ConfigExport {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    target: Target,
    /// Language of the file
    #[arg(long, value_enum, default_value_t = Language::Yaml)]
    language: Language,
}

impl ConfigExport {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let (admin, brokers) = self.target.brokers(&self.common).await?;
        let mut config = Config::default();
        for broker in brokers {
            let present = present(&admin, &broker).await?;
            let place = broker.address.to_string();
            merge("topic", &mut config.topics, present.topics, &place)?;
            merge("group", &mut config.groups, present.groups, &place)?;
        }
        Ok(CommandReport::ok(config.write(self.language)?, json!(config)))
    }
}

/// Adds what one broker has. One file cannot say that brokers differ.
fn merge<T: PartialEq>(
    kind: &str,
    known: &mut BTreeMap<String, T>,
    more: BTreeMap<String, T>,
    place: &str,
) -> Result<()> {
    for (name, found) in more {
        match known.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(found);
            }
            Entry::Occupied(entry) if *entry.get() == found => {}
            Entry::Occupied(entry) => {
                return Err(CommandFailure::failed(format!(
                    "{kind} {} is not the same on all brokers ({place} differs from those before it); export each broker with -b, or apply a file to all of them first",
                    entry.key()
                )));
            }
        }
    }
    Ok(())
}
