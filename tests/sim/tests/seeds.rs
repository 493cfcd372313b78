//! A seed stands for a run: the same one makes the same, to the last event; another one makes another.

use std::collections::BTreeSet;

use kerolox_sim::run;

#[test]
fn a_seed_repeats_its_run() {
    let mut hashes = BTreeSet::new();
    for seed in 1_000..1_024 {
        let first = run(seed, false).expect("passes");
        let second = run(seed, false).expect("passes");
        assert_eq!(first, second, "seed {seed}");
        hashes.insert(first.1);
    }
    assert_eq!(hashes.len(), 24);
}
