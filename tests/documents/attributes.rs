//! The page of the attributes of topics and consumer groups, from the lists by which the broker refuses others.

use std::fmt::Write as _;

use kerolox_core::attributes::known::{KnownAttribute, OF_GROUPS, OF_TOPICS};

use crate::source::parsed;

fn attributes(known: &[KnownAttribute]) -> String {
    let mut table = "| attribute | values | what it does |\n|---|---|---|\n".to_owned();
    for KnownAttribute { name, values, meaning } in known {
        writeln!(table, "| `{name}` | {values} | {meaning} |").unwrap();
    }
    table
}

pub(crate) fn page() -> String {
    format!(
        "# Attributes of topics and consumer groups

Attributes act from the next call on, on every broker of the cluster. Any other name is refused.

## Topics

Set with `mqadmin updateTopic -t TOPIC -a +NAME=VALUE`, removed with `-a -NAME`; commas separate several.

{}
## Consumer groups

Set with `mqadmin updateSubGroup -g GROUP --attributes +NAME=VALUE`, removed with `--attributes -NAME`.

{}",
        attributes(OF_TOPICS),
        attributes(OF_GROUPS),
    )
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
