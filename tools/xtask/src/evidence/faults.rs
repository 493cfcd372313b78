//! The fault matrix: which suite inflicts which kind of fault, and how often it did so in its last run.

use serde::Serialize;

use crate::record::RunRecords;

/// Suites that inflict faults, in the order of the columns.
pub(crate) const SUITES: [&str; 4] = ["sim", "chaos", "powercut", "crash"];

/// Kinds of faults. `sim` and `chaos` name theirs in an enum `Fault` each, and the other suites count them in words.
const KINDS: [(&str, &[&str]); 20] = [
    ("a broker is killed", &["Kill", "KillMaster", "KillSlave", "kills", "restarts"]),
    ("several servers are killed at once", &["KillTwo", "KillMasterAndLeader", "KillBrokers", "KillServers"]),
    ("the power of a machine fails", &["PowerCut", "power cuts"]),
    ("recovery is interrupted", &["recoveries interrupted"]),
    ("a broker stands still", &["Pause", "PauseMaster"]),
    ("a broker's disk is lost", &["Wipe", "WipeSlave"]),
    ("a broker's index is lost", &["LostIndex"]),
    ("a broker's oldest segment is lost", &["LoseSegment"]),
    ("a broker's disk is slow", &["SlowDisk"]),
    ("a broker's disk is full", &["FillMaster", "FillSlave", "BurstMaster", "BurstSlave"]),
    ("a broker has no descriptors left", &["StarveMaster", "StarveSlave"]),
    (
        "the network is cut",
        &["Partition", "CutMasterFromSlaves", "CutMasterFromNameservers", "CutMasterFromServers", "CutSlave"],
    ),
    ("the network is cut in one direction", &["OneWay", "MuteMaster", "DeafMaster"]),
    ("the network is slow", &["SlowLink"]),
    ("the wall clock leaps", &["WallClock", "LeapMaster", "LeapSlave"]),
    ("nameservers are killed", &["Controller", "Controllers", "KillLeader", "KillNameservers"]),
    ("nameservers lose their data", &["ControllersLost", "ForgetNameservers"]),
    ("nameservers get an older copy of their data", &["ControllersRestored", "RestoreNameservers"]),
    ("nameservers exchange their data", &["ExchangeNameservers"]),
    ("leadership is handed over", &["HandOver"]),
];

/// One kind of fault.
#[derive(Debug, Serialize)]
pub(crate) struct FaultRow {
    pub(crate) fault: &'static str,
    /// For each of [`SUITES`]: how often it came in the suite's last run; none if the suite does not inflict it.
    pub(crate) times: [Option<u64>; SUITES.len()],
}

/// The rows of the matrix, from the sources of `sim` and `chaos` and the figures of all suites.
pub(crate) fn rows(sim: &str, chaos: &str, records: &RunRecords) -> Vec<FaultRow> {
    let figures = |suite: &str| records.suites.get(suite).map_or("", |record| record.figures.as_str());
    let counts: [Vec<(String, u64)>; SUITES.len()] = [
        variants(sim)
            .into_iter()
            .map(|name| {
                let times = behind(figures("sim"), &name);
                (name, times)
            })
            .collect(),
        words(chaos)
            .into_iter()
            .map(|(name, words)| (name.to_owned(), in_front(figures("chaos"), words)))
            .collect(),
        ["power cuts", "kills", "recoveries interrupted"]
            .map(|words| (words.to_owned(), in_front(figures("powercut"), words)))
            .to_vec(),
        ["restarts"].map(|words| (words.to_owned(), in_front(figures("crash"), words))).to_vec(),
    ];
    let row = |(fault, names): &(&'static str, &[&str])| FaultRow {
        fault,
        times: std::array::from_fn(|column| {
            let of_kind = counts[column].iter().filter(|(name, _)| names.contains(&name.as_str()));
            of_kind.map(|(_, times)| *times).reduce(|sum, times| sum + times)
        }),
    };
    KINDS.iter().map(row).collect()
}

/// Names of the variants of `enum Fault`.
fn variants(source: &str) -> Vec<String> {
    let body = source.split("enum Fault").nth(1).and_then(|rest| rest.split("\n}").next()).unwrap_or("");
    let variants = body.lines().map(str::trim).filter(|line| line.starts_with(char::is_uppercase));
    variants.map(|line| line.chars().take_while(|letter| letter.is_alphanumeric()).collect()).collect()
}

/// Variants of `enum Fault` and their words, from lines such as `Self::CutSlave => "cut slave",`.
fn words(source: &str) -> Vec<(&str, &str)> {
    source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Self::")?.strip_suffix("\",")?.split_once(" => \""))
        .collect()
}

/// The number behind a name: 1102 in "(Kill 1102, …)".
fn behind(figures: &str, name: &str) -> u64 {
    let numbers = figures.split(['(', ')', ',']).map(str::trim);
    numbers.filter_map(|part| part.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).next().unwrap_or(0)
}

/// The number in front of words: 2 in "faults: 2 cut slave, …".
fn in_front(figures: &str, words: &str) -> u64 {
    let parts = figures.split([':', ';', ',']).map(str::trim);
    parts.filter_map(|part| part.strip_suffix(words)?.strip_suffix(' ')?.parse().ok()).next().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::SuiteRecord;

    const SIM: &str = include_str!("../../../../tests/sim/src/swarm.rs");
    const CHAOS: &str = include_str!("../../../../tests/src/chaos/plan.rs");

    fn ran(figures: &str) -> SuiteRecord {
        SuiteRecord { figures: figures.to_owned(), ..SuiteRecord::default() }
    }

    #[test]
    fn every_fault_of_the_suites_has_a_row() {
        let named: Vec<String> = variants(SIM)
            .into_iter()
            .chain(words(CHAOS).into_iter().map(|(name, _)| name.to_owned()))
            .collect();
        assert!(named.len() > 40, "only {named:?}");
        for name in named {
            let of_it = KINDS.iter().filter(|(_, names)| names.contains(&name.as_str())).count();
            assert_eq!(of_it, 1, "{name} belongs to one kind of fault");
        }
    }

    #[test]
    fn counts_come_from_the_figures_and_what_no_suite_inflicts_is_shown() {
        let mut records = RunRecords::default();
        records
            .suites
            .insert("sim".to_owned(), ran("sim: 3 seeds, 9 faults (Kill 1102, PowerCut 7), lost 0"));
        records.suites.insert(
            "chaos".to_owned(),
            ran("chaos: 2 rounds, faults: 3 kill master, 1 kill slave; 2 failovers"),
        );
        records.suites.insert(
            "powercut".to_owned(),
            ran("powercut: 1 seeds, 47 power cuts, 5 kills, 9 recoveries interrupted"),
        );
        let rows = rows(SIM, CHAOS, &records);
        let of = |fault: &str| rows.iter().find(|row| row.fault == fault).expect(fault).times;
        assert_eq!(of("a broker is killed"), [Some(1102), Some(4), Some(5), Some(0)]);
        assert_eq!(of("the power of a machine fails"), [Some(7), None, Some(47), None]);
    }
}
