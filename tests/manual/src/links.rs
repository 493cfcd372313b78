//! Links of the rendered manual: every relative one leads to a file that is there, and every anchor to an id.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};

/// A page of HTML.
#[derive(Debug, Default)]
struct RenderedPage {
    ids: BTreeSet<String>,
    links: Vec<String>,
}

/// What was found: how many links there are, and which of them lead nowhere.
#[derive(Debug, Default)]
pub(crate) struct LinkReport {
    pub(crate) links: usize,
    pub(crate) broken: Vec<String>,
}

/// Follows the links of all pages in a folder.
///
/// # Errors
/// When the folder cannot be read.
pub(crate) fn follow(folder: &Path) -> Result<LinkReport> {
    let mut pages = BTreeMap::new();
    collect(folder, folder, &mut pages)?;
    let mut report = LinkReport::default();
    for (path, page) in &pages {
        // It is for addresses that are not there, and has links from the root of a site.
        if path == Path::new("404.html") {
            continue;
        }
        for link in &page.links {
            report.links += 1;
            if !leads_somewhere(folder, path, link, &pages) {
                report.broken.push(format!("{}: the link {link} leads nowhere", path.display()));
            }
        }
    }
    Ok(report)
}

fn collect(root: &Path, folder: &Path, pages: &mut BTreeMap<PathBuf, RenderedPage>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, pages)?;
        } else if path.extension().is_some_and(|extension| extension == "html") {
            let text = fs::read_to_string(&path)?;
            let page = RenderedPage {
                ids: values(&text, " id=\"").collect(),
                links: values(&text, " href=\"").chain(values(&text, " src=\"")).collect(),
            };
            pages.insert(path.strip_prefix(root)?.to_owned(), page);
        }
    }
    Ok(())
}

/// The values of an attribute in a text of HTML.
fn values<'a>(text: &'a str, attribute: &'a str) -> impl Iterator<Item = String> + 'a {
    text.split(attribute).skip(1).filter_map(|rest| rest.split('"').next()).map(str::to_owned)
}

fn leads_somewhere(folder: &Path, from: &Path, link: &str, pages: &BTreeMap<PathBuf, RenderedPage>) -> bool {
    if link.contains("://") || link.starts_with("mailto:") || link.starts_with("data:") {
        return true;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = match file {
        "" => from.to_owned(),
        file => normal(&from.parent().unwrap_or(Path::new("")).join(file)),
    };
    let Some(page) = pages.get(&target) else { return anchor.is_empty() && folder.join(&target).exists() };
    anchor.is_empty() || page.ids.contains(anchor)
}

/// A path without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_files_and_anchors_to_ids() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent"))
                .and_then(|()| fs::write(path, text))
                .expect("written");
        };
        write(
            "a/b.html",
            r##"<h2 id="x"></h2><a href="#x">1</a><a href="../c.html#y">2</a><a href="https://d.e/">3</a>"##,
        );
        write(
            "c.html",
            r#"<h2 id="y"></h2><a href="a/b.html#z">4</a><a href="gone.html">5</a><img src="a">"#,
        );
        let report = follow(folder.path()).expect("followed");
        assert_eq!(report.links, 6);
        assert_eq!(
            report.broken,
            ["c.html: the link a/b.html#z leads nowhere", "c.html: the link gone.html leads nowhere"]
        );
    }
}
