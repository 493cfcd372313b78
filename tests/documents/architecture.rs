//! ARCHITECTURE.md names files that exist.

use crate::source::{read, root};

/// Where the page's paths begin, as it says; the last ones are for files that it names beside another one.
const ROOTS: [&str; 7] = [
    "broker/src",
    "broker",
    "nameserver",
    "",
    "nameserver/controller/src",
    "broker/core/src/delivery",
    "broker/replication/src",
];

/// What stands under a heading.
fn section(heading: &str) -> String {
    let page = read("ARCHITECTURE.md");
    let rest = page.split(&format!("## {heading}\n")).nth(1).expect("the heading is there");
    rest.split("\n## ").next().unwrap().to_owned()
}

/// The texts between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

#[test]
fn the_files_that_matter_are_there() {
    let mut files = 0;
    for row in section("Crates, and the files that matter").lines().filter(|row| row.starts_with("| `")) {
        let cells: Vec<&str> = row.split('|').collect();
        let folders = quoted(cells[1]);
        for file in quoted(cells[3]) {
            let is_there = |folder: &&str| {
                let places =
                    [format!("{folder}/src/{file}"), format!("{folder}/{file}"), format!("tests/{file}")];
                places.iter().any(|place| root().join(place).exists())
            };
            assert!(file.contains('*') || folders.iter().any(is_there), "{file} of {folders:?}");
            files += 1;
        }
    }
    assert!(files > 60, "only {files} files: is the page still read right?");
}

/// Each flow is told where the page says.
#[test]
fn every_flow_is_told() {
    let section = section("Flows");
    let rows: Vec<Vec<&str>> = section.lines().map(|row| row.split(" | ").collect()).collect();
    let flows = rows.iter().filter(|row| row.len() == 2 && row[1].starts_with('`'));
    let mut told = 0;
    for row in flows {
        let (title, file) = (row[0].trim_start_matches("| "), quoted(row[1])[0]);
        let source = read(file);
        assert!(source.contains(&format!("//! # {title}\n")), "{file} does not tell {title:?}");
        told += 1;
    }
    assert!(told > 30, "only {told} flows: is the page still read right?");
}

#[test]
fn every_step_of_a_route_is_there() {
    let section = section("Five routes");
    let steps: Vec<&str> =
        quoted(&section).into_iter().filter(|text| text.ends_with(".rs") || text.ends_with('/')).collect();
    assert!(steps.len() > 40, "only {} steps: is the page still read right?", steps.len());
    let exists = |step: &&str| ROOTS.iter().any(|base| root().join(base).join(step).exists());
    let missing: Vec<_> = steps.into_iter().filter(|step| !exists(step)).collect();
    assert_eq!(missing, [""; 0], "of the routes in ARCHITECTURE.md");
}
