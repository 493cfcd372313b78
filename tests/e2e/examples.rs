//! Examples run as they are printed: those of the README and those of each command's help, against real servers. Only what a reader
//! has to fill in is filled in: addresses, and ids of messages, transactions and clients.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_client::{Delivery, FilterExpression, Message, Producer, PushConsumer, Resolution, Verdict};
use kerolox_harness::{Cluster, ServerProcess, built_program};
use serde_json::Value;
use tempfile::TempDir;

use crate::mqadmin::json;
use crate::support::{NO_CHECKS, create, group, master, message, standalone, start_broker};

/// Longest that an example may take.
const LIMIT: Duration = Duration::from_secs(60);
/// What goes on until it is interrupted is stopped after this time.
const ENDLESS: Duration = Duration::from_secs(3);
/// Longer than a member is silent before it is taken for dead, milliseconds.
const TAKEN_FOR_DEAD_MS: u64 = 6000;

/// A user at a terminal with the programs in the path and a separate home folder.
struct Reader {
    folder: TempDir,
    nameserver: String,
}

impl Reader {
    fn new(nameserver: String) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), nameserver }
    }

    fn home(&self) -> &Path {
        self.folder.path()
    }

    /// Types a line; `None` when it had to be stopped.
    fn types(&self, line: &str, limit: Duration) -> Option<Output> {
        let programs = built_program("mqadmin").unwrap().parent().unwrap().to_owned();
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
        let seconds = limit.as_secs().to_string();
        let output = Command::new("timeout")
            .args([&seconds, "sh", "-c", line])
            .current_dir(self.home())
            .env("PATH", path)
            .env("HOME", self.home())
            .env("XDG_CONFIG_HOME", self.home())
            .env("NAMESRV_ADDR", &self.nameserver)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        (output.status.code() != Some(124)).then_some(output)
    }

    /// A line that has to end well.
    fn runs(&self, line: &str) {
        let begun = Instant::now();
        let output = self.types(line, LIMIT);
        let output = output.unwrap_or_else(|| panic!("not within {:?}: {line}", begun.elapsed()));
        assert!(output.status.success(), "{line}: {output:?}");
    }
}

/// The lines with mqadmin in the README's blocks of shell commands, block by block, without their comments.
fn of_readme() -> Vec<Vec<String>> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md")).unwrap();
    let blocks = readme.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let line = |line: &str| {
        let command = line.split("  #").next().unwrap_or_default().trim();
        (command.starts_with("mqadmin") || command.contains("| mqadmin")).then(|| command.to_owned())
    };
    let lines = blocks.map(|block| block.lines().filter_map(line).collect::<Vec<_>>());
    lines.filter(|lines| !lines.is_empty()).collect()
}

/// A consumer that is connected and takes everything.
async fn listener(servers: &Cluster, group: &str, topic: &str) -> PushConsumer {
    let consumer = servers.client().push_consumer(group).subscribe(topic, FilterExpression::all());
    consumer.start(|_: Arc<Delivery>| std::future::ready(Verdict::Done)).await.unwrap()
}

/// The id of the client that consumes in a group.
fn client_of(ns: &str, group: &str) -> String {
    let listed = json(&format!("client list -n {ns} -g {group}"));
    listed["clients"][0]["clientId"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_line_of_the_readme_runs_as_printed() {
    let blocks = of_readme();
    assert!(blocks.len() >= 2, "there are more examples than {blocks:?}");
    for lines in blocks {
        let is_standalone = lines.iter().any(|line| line.contains("127.0.0.1:8081"));
        let mut servers = match is_standalone {
            true => standalone(&[]),
            false => group(3, &[], &[]).await,
        };
        let ns = servers.access_points();
        if lines.iter().any(|line| line.contains("broker-b")) {
            start_broker(&mut servers, "broker-b", &["--nameserver", &ns]);
        }
        // The quickstart makes it.
        if lines.iter().any(|line| line.contains("-t orders")) && !is_standalone {
            create(&servers, "orders", "TRANSACTION").await;
        }
        let mut known = (String::new(), String::new());
        let mut listening = None;
        if lines.iter().any(|line| line.contains(" ID") || line.contains("CLIENT")) {
            create(&servers, "watched", "NORMAL").await;
            let producer = servers.client().producer().start().await.unwrap();
            known.0 = producer.send(message("watched", "x")).await.unwrap().message_id;
            listening = Some(listener(&servers, "shipping", "watched").await);
            known.1 = client_of(&ns, "shipping");
        }
        let reader = Reader::new(ns.clone());
        for line in lines {
            let line = line
                .replace("127.0.0.1:8081", &ns)
                .replace("127.0.0.1:9876", &ns)
                .replace(" ID", &format!(" {}", known.0))
                .replace("CLIENT", &known.1);
            reader.runs(&line);
        }
        drop(listening);
    }
}

/// What the examples of the help are about: topics, groups, messages of each kind, files and who is connected.
struct World {
    servers: Cluster,
    ns: String,
    reader: Reader,
    message: String,
    client: String,
    /// Of billing, which becomes an ordered group, and of one that stays as it is.
    listening: Vec<PushConsumer>,
    orphan: Producer,
}

impl World {
    async fn start() -> Self {
        let mut servers = group(3, &NO_CHECKS, &[]).await;
        let ns = servers.access_points();
        start_broker(&mut servers, "broker-b", &["--nameserver", &ns]);
        let reader = Reader::new(ns.clone());
        for (topic, kind) in
            [("orders", "NORMAL"), ("payments", "TRANSACTION"), ("later", "DELAY"), ("sessions", "LITE")]
        {
            reader.runs(&format!("mqadmin updateTopic -t {topic} -r 1 -w 1 -a +message.type={kind}"));
        }
        for group in ["billing", "shipping", "watching"] {
            reader.runs(&format!("mqadmin updateSubGroup -g {group}"));
        }
        let producer = servers.client().producer().start().await.unwrap();
        let mut message = String::new();
        // On both brokers there is an offset 12.
        for number in 0..40 {
            let paid = Message::builder("orders").body(number.to_string()).tag("paid").key("order-7").build();
            message = producer.send(paid).await.unwrap().message_id;
        }
        let mut listening = Vec::new();
        for group in ["billing", "watching"] {
            listening.push(listener(&servers, group, "orders").await);
        }
        let client = client_of(&ns, "watching");
        let orphan = servers.client().producer().topic("payments");
        let orphan = orphan.transaction_checker_sync(|_| Resolution::Unknown).start().await.unwrap();
        for (file, text) in [
            (
                "topics.json",
                r#"[{"topicName": "fruit", "readQueueNums": 8, "writeQueueNums": 8, "perm": 6}]"#,
            ),
            ("groups.json", r#"[{"groupName": "eaters", "consumeEnable": true, "retryMaxTimes": 3}]"#),
            ("topics.yaml", "topics: {fruit: {readQueues: 1, writeQueues: 1}}"),
        ] {
            std::fs::write(reader.home().join(file), text).unwrap();
        }
        Self { servers, ns, reader, message, client, listening, orphan }
    }

    /// Fills in what a reader has to, in the example of a command.
    async fn filled(&self, command: &str, example: &str) -> String {
        let master = master(&self.servers).await;
        let mut line = format!("mqadmin {command} {example}")
            .replace("127.0.0.1:9876", &self.ns)
            .replace("127.0.0.1:8081", self.servers.brokers[master].address().unwrap())
            .replace("CLIENT_ID", &self.client);
        if command.starts_with("transaction") {
            let half = self.orphan.send_in_transaction(message("payments", "x")).await.unwrap();
            let id = half.message_id().to_owned();
            let transaction = half.receipt().transaction_id.clone().unwrap();
            line = line.replace("01F2", &id).replace(" AAAA", &format!(" {transaction}"));
        }
        if command.starts_with("timer") {
            let producer = self.servers.client().producer().start().await.unwrap();
            let later = Message::builder("later").body("x").deliver_after(Duration::from_secs(3600)).build();
            line = line.replace("01F2", &producer.send(later).await.unwrap().message_id);
        }
        line.replace("01F2", &self.message)
    }
}

/// Commands whose example cannot run here as it stands, each with its additional flag or its expected error.
fn exception(command: &str) -> Option<&'static str> {
    Some(match command {
        // They take away what the others need, or wait for servers that are not there.
        "broker remove-group" | "nameserver add" | "nameserver remove" => "--dry-run",
        // Nothing is blocked.
        "dlq settle" => "exit 4",
        // Measures for minutes; `tests/run.sh cli` runs each with less.
        command if command.starts_with("bench ") => "skip",
        // It says so by its exit code while the group cannot be removed yet.
        "broker leave-status" => "exit 1",
        // Goes on until it is interrupted.
        "tail" => "endless",
        _ => return None,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_example_of_the_help_runs_as_printed() {
    let mut world = World::start().await;
    let listed: Value = json("commands");
    let mut examples: Vec<(String, String)> = listed["commands"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| {
            let text = |key: &str| entry[key].as_str().unwrap().to_owned();
            (text("command"), text("example"))
        })
        .collect();
    assert!(examples.len() > 80, "only {} commands", examples.len());
    // What deletes comes last, and before that what needs a member that is gone, or its data.
    examples.sort_by_key(|(command, _)| match command.as_str() {
        "broker remove-member" => 1,
        command if command.starts_with("store ") => 2,
        command if command.ends_with(" delete") => 3,
        _ => 0,
    });
    let mut failed = Vec::new();
    for (command, example) in &examples {
        match command.as_str() {
            // A member can be removed once it is gone, and a drained member may lead again.
            "broker elect" => world.reader.runs("mqadmin brokerDrain -b broker-a --member 2 --undo"),
            "broker remove-member" => {
                let members = json(&format!("getSyncStateSet -n {} -b broker-a", world.ns));
                let members = members["brokers"][0]["members"].as_array().unwrap().clone();
                let third = members.iter().find(|member| member["id"] == 3).unwrap();
                let is_it = |broker: &ServerProcess| third["address"] == broker.address().unwrap();
                let third = world.servers.brokers.iter_mut().find(|broker| is_it(broker)).unwrap();
                third.stop().unwrap();
                std::os::unix::fs::symlink(third.data(), world.reader.home().join("data")).unwrap();
                // The controller finds out when its lease ends.
                let ns = &world.ns;
                crate::support::eventually("the controller misses member 3", LIMIT, async || {
                    let groups = json(&format!("getSyncStateSet -n {ns} -b broker-a"));
                    let members = groups["brokers"][0]["members"].as_array().unwrap().clone();
                    let third = members.iter().find(|member| member["id"] == 3).unwrap();
                    third["silentMs"].as_u64().is_none_or(|ms| ms > TAKEN_FOR_DEAD_MS)
                })
                .await;
            }
            // Its group has nothing left, which another consumer of it would wait for.
            "consume" => {
                world.listening.clear();
                world.reader.runs("mqadmin resetOffset -g billing -t orders --to earliest");
            }
            _ => {}
        }
        let line = world.filled(command, example).await;
        let (line, limit, expected) = match exception(command) {
            Some("skip") => continue,
            Some("endless") => (line, ENDLESS, None),
            Some("exit 1") => (line, LIMIT, Some(1)),
            Some("exit 4") => (line, LIMIT, Some(4)),
            Some(more) => (format!("{line} {more}"), LIMIT, Some(0)),
            None => (line, LIMIT, Some(0)),
        };
        let ended = world.reader.types(&line, limit);
        if ended.as_ref().map(|output| output.status.code()) != expected.map(Some) {
            failed.push(format!("{line}: {ended:?}"));
        }
    }
    assert!(
        failed.is_empty(),
        "{} of {} examples failed:\n{}",
        failed.len(),
        examples.len(),
        failed.join("\n")
    );
}
