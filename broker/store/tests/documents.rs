//! FORMATS.md, GUARANTEES.md and tests/SCENARIOS.md say what the code says.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kerolox_core::record::{DeadReason, MessageHold, RecordKind, TimerDecision};
use kerolox_core::timer::TimerPhase;
use kerolox_core::topic::MessageType;
use kerolox_core::transaction::{CheckAnswer, DecisionSource, TransactionPhase};
use kerolox_store::kv::KeyFamily;

/// Sources that declare stored fields.
const DECLARATIONS: [&str; 15] = [
    "broker/core/src/record/mod.rs",
    "broker/core/src/record/message.rs",
    "broker/core/src/record/lite.rs",
    "broker/core/src/record/meta.rs",
    "broker/core/src/record/progress.rs",
    "broker/core/src/record/retention.rs",
    "broker/core/src/slots.rs",
    "broker/core/src/topic.rs",
    "broker/core/src/group.rs",
    "broker/core/src/acks.rs",
    "broker/core/src/timer.rs",
    "broker/core/src/transaction/half.rs",
    "broker/core/src/transaction/story.rs",
    "broker/core/src/audit.rs",
    "proto/model/src/token.rs",
];

fn root() -> PathBuf {
    PathBuf::from("../..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text below the heading of a type, up to the next heading.
fn section<'a>(formats: &'a str, name: &str) -> &'a str {
    let heading = format!("\n#### {name}\n");
    let start = formats.find(&heading).unwrap_or_else(|| panic!("FORMATS.md has no section {name}"));
    let rest = &formats[start + heading.len()..];
    &rest[..rest.find("\n#").unwrap_or(rest.len())]
}

/// First two cells of the rows of a table: number and name.
fn rows(section: &str) -> BTreeSet<(String, String)> {
    let cells = section.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("| ")?.split(" | ");
        Some((cells.next()?.to_owned(), cells.next()?.to_owned()))
    });
    cells.filter(|(number, _)| number.parse::<u32>().is_ok()).collect()
}

/// Fields declared with a single prost tag in `source`: type, number, name.
fn declared(source: &str) -> Vec<(String, String, String)> {
    let word =
        |text: &str| text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or("").to_owned();
    let (mut owner, mut tag) = (String::new(), None);
    let mut found = Vec::new();
    for line in source.lines().map(str::trim) {
        let line = line.strip_prefix("pub ").unwrap_or(line);
        if let Some(rest) = line.strip_prefix("struct ").or(line.strip_prefix("enum ")) {
            owner = word(rest);
        } else if line.starts_with("#[prost(") {
            let number = line.split("tag = \"").nth(1).and_then(|rest| rest.split('"').next());
            tag = number.map(str::to_owned);
        } else if let Some(number) = tag.take() {
            found.push((owner.clone(), number, word(line)));
        }
    }
    found
}

#[test]
fn every_stored_field_is_described_with_its_number() {
    let formats = read("FORMATS.md");
    let declared: Vec<_> = DECLARATIONS.iter().flat_map(|path| declared(&read(path))).collect();
    assert!(declared.len() > 80, "only {} fields were found: is the search still right?", declared.len());
    let owners: BTreeSet<&String> = declared.iter().map(|(owner, _, _)| owner).collect();
    for owner in owners {
        let fields = declared.iter().filter(|(of, _, _)| of == owner);
        let expected: BTreeSet<_> = fields.map(|(_, number, name)| (number.clone(), name.clone())).collect();
        assert_eq!(rows(section(&formats, owner)), expected, "section {owner}");
    }
}

#[test]
fn every_source_of_stored_fields_is_looked_at() {
    let mut folders = vec![root().join("broker"), root().join("proto/model")];
    let known: BTreeSet<PathBuf> = DECLARATIONS.iter().map(|path| root().join(path)).collect();
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path())
        {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let source = std::fs::read_to_string(&entry).expect("a source");
                let declares = declared(&source).iter().any(|(owner, _, _)| !owner.is_empty());
                assert!(!declares || known.contains(&entry), "{} declares stored fields", entry.display());
            }
        }
    }
}

#[test]
fn enumerations_are_described_with_their_numbers() {
    let formats = read("FORMATS.md");
    let check = |name: &str, values: Vec<(i32, String)>| {
        let values = values.into_iter().map(|(number, value)| (number.to_string(), value)).collect();
        assert_eq!(rows(section(&formats, name)), values, "section {name}");
    };
    // There are none beyond the last value.
    let all = |at: &dyn Fn(i32) -> Option<String>| (0..20).filter_map(|n| Some((n, at(n)?))).collect();
    check("MessageHold", all(&|n| MessageHold::try_from(n).ok().map(|value| format!("{value:?}"))));
    check("DeadReason", all(&|n| DeadReason::try_from(n).ok().map(|value| format!("{value:?}"))));
    check("TimerDecision", all(&|n| TimerDecision::try_from(n).ok().map(|value| format!("{value:?}"))));
    check("TimerPhase", all(&|n| TimerPhase::try_from(n).ok().map(|value| format!("{value:?}"))));
    check("DecisionSource", all(&|n| DecisionSource::try_from(n).ok().map(|value| format!("{value:?}"))));
    check("CheckAnswer", all(&|n| CheckAnswer::try_from(n).ok().map(|value| format!("{value:?}"))));
    check("TransactionPhase", all(&|n| TransactionPhase::try_from(n).ok().map(|value| format!("{value:?}"))));
    check("MessageType", all(&|n| MessageType::try_from(n).ok().map(|value| format!("{value:?}"))));
}

#[test]
fn kinds_and_families_are_described() {
    let formats = read("FORMATS.md");
    let source = read("broker/core/src/record/mod.rs");
    let kinds =
        source.split("pub enum RecordKind {").nth(1).and_then(|rest| rest.split('}').next()).expect("kinds");
    let kinds: Vec<(&str, &str)> =
        kinds.lines().filter_map(|line| line.trim().strip_suffix(',')?.split_once(" = ")).collect();
    assert!(kinds.contains(&("Message", &(RecordKind::Message as u8).to_string())));
    let described =
        formats.split("## Records").nth(1).and_then(|rest| rest.split("###").next()).expect("kinds");
    let expected = kinds.iter().map(|(name, number)| ((*number).to_owned(), (*name).to_owned())).collect();
    assert_eq!(rows(described), expected);
    for family in KeyFamily::ALL {
        assert!(formats.contains(&format!("\n| `{}` | ", family.name())), "family {}", family.name());
    }
    let keys = read("broker/store/src/state/keys.rs");
    let names: Vec<&str> =
        keys.lines().filter_map(|line| line.split("= b\"").nth(1)?.split('"').next()).collect();
    assert!(names.len() > 4, "{names:?}");
    for name in names {
        assert!(formats.contains(&format!("\n| `state` | `{name}` | ")), "state {name}");
    }
}

/// Whether a test exists: `path::name`, or a path alone for all tests in a file.
fn is_there(test: &str) -> bool {
    let (path, name) = test.split_once("::").unwrap_or((test, ""));
    let source = read(path);
    if name.is_empty() {
        source.contains("proptest!") || source.contains("#[test]")
    } else {
        ["fn ", "def "].iter().any(|keyword| source.contains(&format!("{keyword}{name}(")))
    }
}

#[test]
fn every_test_named_in_the_guarantees_exists() {
    let guarantees = read("GUARANTEES.md");
    let named = guarantees.lines().filter_map(|line| line.strip_prefix("- `")?.strip_suffix('`'));
    let mut held = 0;
    for test in named {
        assert!(is_there(test), "GUARANTEES.md names {test}, which is not there");
        held += 1;
    }
    assert!(held > 30, "only {held} tests were found: is the search still right?");
}

/// Everything between backticks exists: tests and functions that check, files, sabotage switches, and faults.
#[test]
fn everything_named_in_the_scenarios_exists() {
    let scenarios = read("tests/SCENARIOS.md");
    let switches = read("broker/log/src/sabotage.rs");
    let faults = [read("tests/sim/src/swarm.rs"), read("tests/src/chaos/plan.rs")].concat();
    let mut held = 0;
    for named in scenarios.split('`').skip(1).step_by(2) {
        let exists = if named.contains("::") {
            is_there(named)
        } else if named.contains('/') {
            root().join(named).is_file()
        } else {
            switches.contains(&format!("\"{named}\",")) || faults.contains(&format!("Self::{named},"))
        };
        assert!(exists, "tests/SCENARIOS.md names {named}, which is not there");
        held += 1;
    }
    assert!(held > 80, "only {held} names were found: is the search still right?");
}

/// Each scenario has a section, which names the tests that notice it or says that none does.
#[test]
fn every_scenario_is_noticed_or_said_not_to_be() {
    let scenarios = read("tests/SCENARIOS.md");
    let sections: Vec<&str> = scenarios.split("\n### ").skip(1).collect();
    let numbered: Vec<&&str> = sections.iter().filter(|section| section.starts_with("sc")).collect();
    assert_eq!(numbered.len(), 36);
    for (number, section) in (1..).zip(numbered) {
        assert!(section.starts_with(&format!("sc{number:02}\n")), "{section} should be number {number}");
    }
    for section in sections {
        assert!(section.contains('`') || section.contains("\nNot tested: "), "{section} says nothing");
    }
}

/// Every promise has a number of its own and at least one test.
#[test]
fn every_guarantee_has_a_test() {
    let guarantees = read("GUARANTEES.md");
    let mut last = 0;
    for promise in guarantees.split("\n**G").skip(1) {
        let number = promise.split('.').next().and_then(|number| number.parse::<u32>().ok());
        let number = number.unwrap_or_else(|| panic!("no number: {promise}"));
        assert!(number > last, "G{number} is out of order or given twice");
        last = number;
        let own = promise.split("\n#").next().unwrap_or(promise);
        assert!(own.contains("\n- `"), "G{number} has no test");
    }
    assert!(last > 0);
}
