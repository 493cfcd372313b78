//! What can be wrong with the manual without running it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use pulldown_cmark::{Event, LinkType, Parser, Tag};

use crate::blocks::blocks;
use crate::{book, links};

/// Sites of projects, to which pages may link.
const KNOWN_SITES: [&str; 14] = [
    "activemq.apache.org",
    "docs.nats.io",
    "docs.rs",
    "github.com",
    "grpc.io",
    "jakarta.ee",
    "kafka.apache.org",
    "prometheus.io",
    "redis.io",
    "rocketmq.apache.org",
    "rust-lang.github.io",
    "www.rabbitmq.com",
    "www.rust-lang.org",
    "zeromq.org",
];

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct CheckFindings {
    pub(crate) pages: usize,
    pub(crate) links: usize,
    pub(crate) complaints: Vec<String>,
}

/// Checks pages, fences and links.
///
/// # Errors
/// When the manual cannot be read or rendered, as when a page of `SUMMARY.md` is missing.
pub(crate) fn check() -> Result<CheckFindings> {
    let pages = book::pages()?;
    let mut findings = CheckFindings { pages: pages.len(), ..CheckFindings::default() };
    let listed: BTreeSet<&str> = pages.iter().map(|page| page.path.as_str()).collect();
    let source = book::root().join("src");
    for path in files(&source, &source)? {
        if path != "SUMMARY.md" && !listed.contains(path.as_str()) {
            findings.complaints.push(format!("{path}: SUMMARY.md does not list it"));
        }
    }
    for page in &pages {
        if let Err(error) = blocks(&page.text) {
            findings.complaints.push(format!("{}: {error:#}", page.path));
        }
        let outside = foreign_links(&page.text).into_iter();
        findings.complaints.extend(outside.map(|complaint| format!("{}: {complaint}", page.path)));
    }
    let folder = tempfile::tempdir().context("making a folder for the HTML")?;
    book::build(Some(folder.path().to_owned()))?;
    let followed = links::follow(folder.path())?;
    findings.links = followed.links;
    findings.complaints.extend(followed.broken);
    Ok(findings)
}

/// Pages below a folder, by their path in it.
fn files(root: &Path, folder: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(root, &path)?);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path.strip_prefix(root)?.to_string_lossy().into_owned());
        }
    }
    Ok(found)
}

/// Complaints about links to other sites.
fn foreign_links(page: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    for event in Parser::new(page) {
        let Event::Start(Tag::Link { link_type, dest_url, .. }) = event else { continue };
        let Some((_, rest)) = dest_url.split_once("://") else { continue };
        let site = rest.split(['/', '#', ':']).next().unwrap_or_default();
        if matches!(link_type, LinkType::Autolink | LinkType::Email) {
            complaints.push(format!("the link {dest_url} has no words"));
        }
        if !dest_url.starts_with("https://") || !KNOWN_SITES.contains(&site) {
            complaints.push(format!("{dest_url} is no site of a project that pages link to"));
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_go_to_known_sites_and_have_words() {
        assert_eq!(
            foreign_links("[RocketMQ](https://rocketmq.apache.org/docs), [here](../a.md#b)"),
            [] as [&str; 0]
        );
        assert_eq!(foreign_links("<https://docs.rs/>").len(), 1);
        assert_eq!(foreign_links("[x](https://example.org/)").len(), 1);
        assert_eq!(foreign_links("[x](http://docs.rs/)").len(), 1);
    }
}
