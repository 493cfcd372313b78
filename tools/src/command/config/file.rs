//! The file: topics and groups by name, in YAML or TOML.

use kerolox_client::admin::wire;
use kerolox_core::topic::MESSAGE_TYPE_ATTRIBUTE;
use kerolox_report::outcome::{CommandFailure, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// The content of a file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Config {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) topics: BTreeMap<String, Topic>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) groups: BTreeMap<String, Group>,
}

/// A topic; absent fields stay as they are, or have the broker's default for a new one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Topic {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) read_queues: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) write_queues: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) perm: Option<u32>,
    /// All of them: others that the topic has go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) attributes: Option<BTreeMap<String, String>>,
}

/// A consumer group; absent fields stay as they are, or have the broker's default for a new one.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Group {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) consume_enable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) consume_from_min_enable: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) consume_message_orderly: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) retry_max_times: Option<u32>,
    /// All of them: others that the group has go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) attributes: Option<BTreeMap<String, String>>,
}

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Language {
    /// YAML
    Yaml,
    /// TOML
    Toml,
}

impl Language {
    /// The language of a file, by its name: TOML if that ends so, else YAML.
    fn of(path: &Path) -> Self {
        let is_toml = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("toml"));
        if is_toml { Self::Toml } else { Self::Yaml }
    }
}

impl Config {
    /// Reads a file; `-` is the standard input, in YAML.
    pub(super) fn read(path: &Path) -> Result<Self> {
        let text = if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).map(|_| text)
        } else {
            std::fs::read_to_string(path)
        };
        let shown = path.display();
        let text = text.map_err(|error| CommandFailure::usage(format!("{shown} cannot be read: {error}")))?;
        Self::parse(&text, Language::of(path))
            .map_err(|reason| CommandFailure::usage(format!("{shown}: {reason}")))
    }

    pub(super) fn parse(text: &str, language: Language) -> std::result::Result<Self, String> {
        let config: Self = match language {
            Language::Yaml if text.trim().is_empty() => Self::default(),
            Language::Yaml => serde_saphyr::from_str(text).map_err(|error| error.to_string())?,
            Language::Toml => toml::from_str(text).map_err(|error| error.to_string())?,
        };
        config.check()?;
        Ok(config)
    }

    /// What brokers cannot be told: changes of attributes go over the wire as `+key=value`, separated by commas.
    fn check(&self) -> std::result::Result<(), String> {
        let topics = self.topics.iter().map(|(name, topic)| (name, &topic.attributes));
        let groups = self.groups.iter().map(|(name, group)| (name, &group.attributes));
        for (name, attributes) in topics.chain(groups) {
            for (key, value) in attributes.iter().flatten() {
                if key.is_empty() || key.contains([',', '=']) || value.contains(',') {
                    return Err(format!(
                        "{name}: attribute {key:?} with value {value:?} is not possible: keys have neither ',' nor '=', values no ','"
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn write(&self, language: Language) -> Result<String> {
        let written = match language {
            Language::Yaml => serde_saphyr::to_string(self).map_err(|error| error.to_string()),
            Language::Toml => toml::to_string(self).map_err(|error| error.to_string()),
        };
        written.map_err(|reason| {
            CommandFailure::failed(format!("the configuration cannot be written: {reason}"))
        })
    }
}

impl Topic {
    /// All that a broker says about a topic.
    pub(super) fn of(topic: &wire::TopicConfig) -> Self {
        let mut attributes: BTreeMap<String, String> = topic.attributes.clone().into_iter().collect();
        attributes
            .entry(MESSAGE_TYPE_ATTRIBUTE.to_owned())
            .or_insert_with(|| crate::command::topic::type_name(&topic.message_types));
        Self {
            read_queues: Some(topic.read_queues),
            write_queues: Some(topic.write_queues),
            perm: Some(topic.perm),
            attributes: Some(attributes),
        }
    }
}

impl Group {
    /// All that a broker says about a group.
    pub(super) fn of(group: &wire::GroupConfig) -> Self {
        Self {
            consume_enable: Some(group.consume_enable),
            consume_from_min_enable: Some(group.consume_from_min),
            consume_message_orderly: Some(group.fifo),
            retry_max_times: Some(group.retry_max_times),
            attributes: Some(group.attributes.clone().into_iter().collect()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const YAML: &str = "
topics:
  orders:
    writeQueues: 8
    attributes: { message.type: FIFO, dedup.window: 2h }
groups:
  billing: { consumeMessageOrderly: true, retryMaxTimes: 3 }
";
    const TOML: &str = r#"
[topics.orders]
writeQueues = 8
attributes = { "message.type" = "FIFO", "dedup.window" = "2h" }
[groups.billing]
consumeMessageOrderly = true
retryMaxTimes = 3
"#;

    #[test]
    fn both_languages_say_the_same_and_come_back() {
        let config = Config::parse(YAML, Language::Yaml).unwrap();
        assert_eq!(config, Config::parse(TOML, Language::Toml).unwrap());
        assert_eq!(config.topics["orders"].write_queues, Some(8));
        assert_eq!(config.groups["billing"].retry_max_times, Some(3));
        for language in [Language::Yaml, Language::Toml] {
            assert_eq!(Config::parse(&config.write(language).unwrap(), language).unwrap(), config);
        }
    }

    #[test]
    fn what_means_nothing_is_refused_and_named() {
        for (text, word) in [
            ("topics: { orders: { writeQueue: 8 } }", "writeQueue"),
            ("topics: { orders: { writeQueues: many } }", "many"),
            ("subjects: {}", "subjects"),
            ("groups: { g: { attributes: { retry.backoff: 'a,b' } } }", "retry.backoff"),
        ] {
            let refused = Config::parse(text, Language::Yaml).unwrap_err();
            assert!(refused.contains(word), "{text}: {refused}");
        }
    }
}
