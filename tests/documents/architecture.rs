//! The routes of ARCHITECTURE.md go through files that exist.

use std::fs;
use std::path::Path;

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

#[test]
fn every_step_of_a_route_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let page = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
    let section = page.split("## Five routes").nth(1).unwrap().split("\n## ").next().unwrap();
    let quoted = section.split('`').skip(1).step_by(2);
    let steps: Vec<&str> = quoted.filter(|text| text.ends_with(".rs") || text.ends_with('/')).collect();
    assert!(steps.len() > 40, "only {} steps: is the page still read right?", steps.len());
    let exists = |step: &&str| ROOTS.iter().any(|base| root.join(base).join(step).exists());
    let missing: Vec<_> = steps.into_iter().filter(|step| !exists(step)).collect();
    assert_eq!(missing, [""; 0], "of the routes in ARCHITECTURE.md");
}
