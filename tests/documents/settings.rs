//! SETTINGS.md says what the code says: settings with their defaults, attributes, and what webhooks are asked.
//!
//! `KEROLOX_UPDATE=1 cargo test --release -p kerolox-tests --test documents` writes it anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use kerolox_broker::config::BrokerConfig;
use kerolox_core::attributes::known::{KnownAttribute, OF_GROUPS, OF_TOPICS};
use kerolox_nameserver::config::NameserverConfig;
use serde_json::Value;

/// Sources with structures of settings that both servers have.
const SHARED: [&str; 5] = [
    "nameserver/gateway/src/clients/mod.rs",
    "nameserver/runtime/src/health/mod.rs",
    "nameserver/runtime/src/listen/settings.rs",
    "nameserver/runtime/src/memory/mod.rs",
    "nameserver/runtime/src/tls.rs",
];

/// A field with its type and what the source says about it.
struct Field {
    name: String,
    kind: String,
    about: String,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The sources in a folder.
fn sources_in(folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.ends_with(".rs")).map(|name| format!("{folder}/{name}")).collect()
}

fn parsed(path: &str) -> syn::File {
    syn::parse_file(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The doc comment of an item, in one line.
fn about(attributes: &[syn::Attribute]) -> String {
    let mut lines = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
        if let syn::Meta::NameValue(syn::MetaNameValue { value: syn::Expr::Lit(value), .. }) = &attribute.meta
            && let syn::Lit::Str(text) = &value.lit
        {
            lines.push(text.value().trim().to_owned());
        }
    }
    lines.join(" ")
}

/// The fields of all structures in a source, by the structure's name.
fn structures(source: &syn::File) -> BTreeMap<String, Vec<Field>> {
    let mut found = BTreeMap::new();
    for item in &source.items {
        let syn::Item::Struct(item) = item else { continue };
        let fields = item.fields.iter().filter_map(|field| {
            let kind = match &field.ty {
                syn::Type::Path(path) => path.path.segments.last()?.ident.to_string(),
                _ => String::new(),
            };
            let name = field.ident.as_ref()?.to_string();
            Some(Field { name: name.replace('_', "-"), kind, about: about(&field.attrs) })
        });
        found.insert(item.ident.to_string(), fields.collect());
    }
    found
}

/// The rows of a structure and of those in it; `path` leads to it.
fn rows(known: &BTreeMap<String, Vec<Field>>, owner: &str, path: &str, defaults: &Value, rows: &mut String) {
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

fn attributes(known: &[KnownAttribute]) -> String {
    let mut table = "| attribute | values | what it does |\n|---|---|---|\n".to_owned();
    for KnownAttribute { name, values, meaning } in known {
        writeln!(table, "| `{name}` | {values} | {meaning} |").unwrap();
    }
    table
}

/// What stands at the head of the source that asks webhooks, and the fields of the question.
fn webhook() -> String {
    let path = "broker/src/tasks/check_back/webhook.rs";
    let source = read(path);
    let head: Vec<&str> = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let mut text = head.join("\n").replace("[`Question`]", "the table below");
    text.push_str("\n\n| field | what it is |\n|---|---|\n");
    for field in &structures(&parsed(path))["Question"] {
        writeln!(text, "| `{}` | {} |", camel(&field.name), field.about).unwrap();
    }
    text
}

fn camel(name: &str) -> String {
    let mut words = name.split('-');
    let first = words.next().unwrap().to_owned();
    words.fold(first, |all, word| all + &word[..1].to_uppercase() + &word[1..])
}

fn document() -> String {
    let broker = settings::<BrokerConfig>(&sources_in("broker/src/config"), "BrokerConfig");
    let nameserver =
        settings::<NameserverConfig>(&["nameserver/src/config.rs".to_owned()], "NameserverConfig");
    format!(
        "# Settings, attributes and webhooks

Made from the code by `tests/documents/settings.rs`, which fails when this page says anything else.

A setting comes from a flag, else from an environment variable, else from the TOML file that `--config` names, else it has its
default. `log.segment-size` is the key `segment-size` in the table `[log]` of the file, and the variable
`KEROLOX_BROKER__LOG__SEGMENT_SIZE` (`KEROLOX_NAMESERVER__…` for a nameserver). Durations are written as in `500ms`, `30s`, `12h` or `3d`,
sizes as in `64KiB` or `1GiB`; lists have commas. `--print-config` shows what holds.

## Broker

{broker}
## Nameserver

{nameserver}
## Attributes of topics

Set with `mqadmin updateTopic -t TOPIC -a +NAME=VALUE`, taken away with `-a -NAME`; several have commas between them. Any other name is
refused.

{}
## Attributes of consumer groups

Set with `mqadmin updateSubGroup -g GROUP --attributes +NAME=VALUE`, taken away with `--attributes -NAME`. Any other name is refused.

{}
## Webhooks

{}",
        attributes(OF_TOPICS),
        attributes(OF_GROUPS),
        webhook(),
    )
}

#[test]
fn the_page_says_what_the_code_says() {
    let page = document();
    if std::env::var_os("KEROLOX_UPDATE").is_some() {
        std::fs::write(root().join("SETTINGS.md"), &page).unwrap();
    }
    let there = read("SETTINGS.md");
    let differs = page.lines().zip(there.lines()).find(|(is, said)| is != said);
    assert!(
        page == there,
        "SETTINGS.md is not what the code says (first: {differs:?}); make it anew: KEROLOX_UPDATE=1 cargo test --release -p kerolox-tests --test documents"
    );
}

/// Every `*_ATTRIBUTE` that the core declares is in one of the lists.
#[test]
fn every_attribute_in_the_code_is_known() {
    let mut declared = Vec::new();
    for path in
        ["topic.rs", "topic_limits.rs", "group.rs", "dedup.rs", "lite/mod.rs", "transaction/checks.rs"]
    {
        for item in parsed(&format!("broker/core/src/{path}")).items {
            if let syn::Item::Const(item) = item
                && item.ident.to_string().ends_with("_ATTRIBUTE")
                && let syn::Expr::Lit(value) = *item.expr
                && let syn::Lit::Str(name) = value.lit
            {
                declared.push(name.value());
            }
        }
    }
    assert!(declared.len() > 20, "only {declared:?} were found: is the search still right?");
    for name in declared {
        let is_known = OF_TOPICS.iter().chain(OF_GROUPS).any(|known| known.name == name);
        assert!(is_known, "{name} is missing in attributes/known.rs");
    }
}
