//! The page of the webhook contract, from the source that asks webhooks.

use std::fmt::Write as _;

use crate::source::{parsed, read, structures};

/// What stands at the head of the source that asks webhooks, and the fields of the question.
pub(crate) fn page() -> String {
    let path = "broker/src/tasks/check_back/webhook.rs";
    let source = read(path);
    let head: Vec<&str> = source
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    let head = head.join("\n").replace("[`Question`]", "the table below");
    let mut text = format!(
        "# Transaction webhooks\n\n{}",
        head.replace("[`WebhookHosts`]", "`transaction.webhook-allow`")
    );
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
