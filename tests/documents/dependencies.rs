//! Which crates each program is made of, as Cargo resolves them.

use std::collections::BTreeSet;
use std::process::Command;

/// The crates that `package` is built from, itself included, without those of its tests and builds.
fn crates_of(package: &str) -> BTreeSet<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "--edges", "normal", "--prefix", "none", "--format", "{p}"])
        .args(["--package", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).unwrap();
    let names: BTreeSet<String> =
        tree.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert!(names.contains(package) && names.contains("tokio"), "{names:?}: is the tree still read right?");
    names
}

fn assert_without(package: &str, unwanted: &[&str]) {
    let crates = crates_of(package);
    let found: Vec<_> = unwanted.iter().filter(|name| crates.contains(**name)).collect();
    assert!(found.is_empty(), "{package} depends on {found:?}; see `cargo tree -p {package} -i CRATE`");
}

#[test]
fn a_broker_has_no_consensus_of_its_own() {
    assert_without("kerolox-broker", &["kerolox-nameserver", "kerolox-controller", "openraft", "redb"]);
}

#[test]
fn a_nameserver_has_no_store() {
    let store = ["kerolox-broker", "kerolox-store", "kerolox-rocks", "rocksdb", "librocksdb-sys"];
    assert_without("kerolox-nameserver", &store);
}
