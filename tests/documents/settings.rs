//! The page of all settings, from the structures of the configuration and their defaults.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use kerolox_broker::config::BrokerConfig;
use kerolox_nameserver::config::NameserverConfig;
use serde_json::Value;

use crate::source::{SourceField, parsed, sources_in, structures};

/// Sources with structures of settings that both servers have.
const SHARED: [&str; 5] = [
    "nameserver/gateway/src/clients/mod.rs",
    "nameserver/runtime/src/health/mod.rs",
    "nameserver/runtime/src/listen/settings.rs",
    "nameserver/runtime/src/memory/mod.rs",
    "nameserver/runtime/src/tls.rs",
];

/// The rows of a structure and of those in it; `path` leads to it.
fn rows(
    known: &BTreeMap<String, Vec<SourceField>>,
    owner: &str,
    path: &str,
    defaults: &Value,
    rows: &mut String,
) {
    for field in &known[owner] {
        let (name, default) = (format!("{path}{}", field.name), &defaults[&field.name]);
        if default.is_object() {
            assert!(
                known.contains_key(&field.kind),
                "{name}: name the source of {} in this test",
                field.kind
            );
            self::rows(known, &field.kind, &format!("{name}."), default, rows);
            continue;
        }
        assert!(!field.about.is_empty(), "{name} has no description");
        let default = match default {
            Value::Null => "-".to_owned(),
            Value::String(text) if text.is_empty() => "-".to_owned(),
            Value::String(text) => format!("`{text}`"),
            Value::Array(parts) if parts.is_empty() => "-".to_owned(),
            Value::Array(parts) => {
                let parts: Vec<&str> = parts.iter().map(|part| part.as_str().unwrap()).collect();
                format!("`{}`", parts.join(","))
            }
            other => format!("`{other}`"),
        };
        writeln!(rows, "| `{name}` | {default} | {} |", field.about.replace('|', "\\|")).unwrap();
    }
}

/// The table of a server's settings, whose structures are in `sources`.
fn settings<T: serde::Serialize + Default>(sources: &[String], owner: &str) -> String {
    let mut known = BTreeMap::new();
    // The server's own structures go first: both have some of the same name.
    for path in SHARED.iter().copied().chain(sources.iter().map(String::as_str)) {
        known.extend(structures(&parsed(path)));
    }
    let mut table = "| setting | default | what it is |\n|---|---|---|\n".to_owned();
    rows(&known, owner, "", &serde_json::to_value(T::default()).unwrap(), &mut table);
    table
}

pub(crate) fn page() -> String {
    let broker = settings::<BrokerConfig>(&sources_in("broker/src/config"), "BrokerConfig");
    let nameserver =
        settings::<NameserverConfig>(&["nameserver/src/config.rs".to_owned()], "NameserverConfig");
    format!(
        "# Settings

A setting comes from a flag, else from an environment variable, else from the TOML file that `--config` names, else it has its
default. `log.segment-size` is the key `segment-size` in the table `[log]` of the file, the variable
`KEROLOX_BROKER__LOG__SEGMENT_SIZE` (`KEROLOX_NAMESERVER__…` for a nameserver), and for the common ones a flag (`--help`).

Servers read settings when they start; a change acts after a restart. `--print-config` shows what holds. An unknown key is
an error that names it. Durations are written as in `500ms`, `30s`, `12h` or `3d`, sizes as in `64KiB` or `1GiB`, lists with
commas. In a default, `-` stands for none.

## Broker

{broker}
## Nameserver

{nameserver}"
    )
}
