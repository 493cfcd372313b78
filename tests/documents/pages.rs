//! Pages of the manual's reference are made from the code, and say what it says.
//!
//! `KEROLOX_UPDATE=1 cargo test --release -p kerolox-tests --test documents` writes them anew.

use crate::source::{read, root};
use crate::{attributes, errors, limits, settings, webhooks};

/// Folder of the reference.
const FOLDER: &str = "deploy/manual/src/reference";

fn is_what_the_code_says(name: &str, page: &str) {
    let note =
        "<!-- Made from the code by tests/documents, which fails when this page says anything else. -->";
    let page = format!("{note}\n\n{}\n", page.trim_end());
    let path = format!("{FOLDER}/{name}.md");
    if std::env::var_os("KEROLOX_UPDATE").is_some() {
        std::fs::create_dir_all(root().join(FOLDER)).unwrap();
        std::fs::write(root().join(&path), &page).unwrap();
    }
    let there = read(&path);
    let differs = page.lines().zip(there.lines()).find(|(is, said)| is != said);
    assert!(
        page == there,
        "{path} is not what the code says (first: {differs:?}); make it anew: KEROLOX_UPDATE=1 cargo test --release -p kerolox-tests --test documents"
    );
}

#[test]
fn settings_are_all_documented() {
    is_what_the_code_says("settings", &settings::page());
}

#[test]
fn attributes_are_all_documented() {
    is_what_the_code_says("attributes", &attributes::page());
}

#[test]
fn the_webhook_contract_is_documented() {
    is_what_the_code_says("webhooks", &webhooks::page());
}

#[test]
fn error_codes_are_all_documented() {
    is_what_the_code_says("errors", &errors::page());
}

#[test]
fn limits_are_all_documented() {
    is_what_the_code_says("limits", &limits::page());
}
