//! `mqadmin apply` and `configExport`: topics and groups from a file.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::mqadmin::{json, mqadmin, table};
use kerolox_harness::Cluster;

use crate::support::standalone;

const FILE: &str = "
topics:
  orders:
    writeQueues: 2
    readQueues: 2
    attributes: { message.type: FIFO, dedup: key, dedup.window: 2h }
  payments:
    writeQueues: 4
    attributes: { message.type: TRANSACTION }
groups:
  billing: { consumeMessageOrderly: true, retryMaxTimes: 3 }
";

fn write(servers: &Cluster, name: &str, text: &str) -> PathBuf {
    let path = servers.folder().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn apply(servers: &Cluster, file: &Path, flags: &str) -> String {
    format!("apply -b {} -f {} {flags}", servers.brokers[0].address().unwrap(), file.display())
}

/// Action and name of each step on the only broker.
fn steps(answer: &Value) -> Vec<(String, String)> {
    let steps = answer["brokers"][0]["steps"].as_array().unwrap();
    let text = |step: &Value, field: &str| step[field].as_str().unwrap().to_owned();
    steps.iter().map(|step| (text(step, "action"), text(step, "name"))).collect()
}

fn topics(servers: &Cluster) -> Vec<Value> {
    let answer = json(&format!("topicList -b {}", servers.brokers[0].address().unwrap()));
    answer["topics"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_file_is_applied_once_and_again_changes_nothing() {
    let servers = standalone(&[]);
    let file = write(&servers, "cluster.yaml", FILE);
    let shown = table(&apply(&servers, &file, "--dry-run"));
    assert!(shown.contains("+ topic orders: ") && shown.contains("3 created"), "{shown}");
    assert!(topics(&servers).is_empty(), "a dry run changes nothing");

    let created = json(&apply(&servers, &file, ""));
    assert!(steps(&created).iter().all(|(action, _)| action == "create"), "{created}");
    let again = json(&apply(&servers, &file, ""));
    assert!(steps(&again).iter().all(|(action, _)| action == "unchanged"), "{again}");
    let orders = topics(&servers).into_iter().find(|topic| topic["topic"] == "orders").unwrap();
    assert_eq!((&orders["writeQueues"], &orders["messageType"]), (&json!(2), &json!("FIFO")));

    let file = write(
        &servers,
        "cluster.yaml",
        &FILE.replace("2h", "3h").replace("writeQueues: 4", "writeQueues: 6"),
    );
    let shown = table(&apply(&servers, &file, ""));
    for line in
        ["~ topic orders: dedup.window 2h -> 3h", "~ topic payments: writeQueues 4 -> 6", "= group billing"]
    {
        assert!(shown.contains(line), "{shown}");
    }
}

#[tokio::test]
async fn an_exported_file_makes_another_broker_the_same_and_pruning_asks() {
    let (one, other) = (standalone(&[]), standalone(&[]));
    table(&apply(&one, &write(&one, "cluster.yaml", FILE), ""));
    for language in ["yaml", "toml"] {
        let exported =
            table(&format!("configExport -b {} --language {language}", one.brokers[0].address().unwrap()));
        let file = write(&other, &format!("exported.{language}"), &exported);
        table(&apply(&other, &file, ""));
        let back = json(&apply(&one, &file, ""));
        assert!(steps(&back).iter().all(|(action, _)| action == "unchanged"), "{back}");
    }
    assert_eq!(topics(&one).len(), topics(&other).len());

    let file = write(&one, "less.yaml", "topics: { orders: {} }");
    let refused = mqadmin(&apply(&one, &file, "--prune"));
    assert!(refused.code == 2 && refused.stderr.contains("--yes"), "{refused:?}");
    assert_eq!(topics(&one).len(), 2, "nothing was deleted");
    let pruned = json(&apply(&one, &file, "--prune --yes"));
    assert_eq!(
        steps(&pruned),
        [("unchanged", "orders"), ("delete", "billing"), ("delete", "payments")]
            .map(|(action, name)| (action.to_owned(), name.to_owned()))
    );
    assert_eq!(topics(&one).len(), 1);
}

#[tokio::test]
async fn one_refused_object_does_not_hold_up_the_others() {
    let servers = standalone(&[]);
    let text = "topics: { good: { writeQueues: 2 }, wrong: { attributes: { message.type: ODD } } }";
    let run = mqadmin(&apply(&servers, &write(&servers, "mixed.yaml", text), ""));
    assert_eq!(run.code, 3, "{run:?}");
    assert!(run.stdout.contains("+ topic wrong") && run.stdout.contains("FAILED"), "{run:?}");
    assert!(run.stderr.contains("ODD"), "{run:?}");
    assert_eq!(topics(&servers).len(), 1, "the valid topic exists, the invalid one does not");

    let run = mqadmin(&apply(&servers, &write(&servers, "wrong.yaml", "topics: { t: { queues: 2 } }"), ""));
    assert!(run.code == 2 && run.stderr.contains("queues"), "{run:?}");
}
