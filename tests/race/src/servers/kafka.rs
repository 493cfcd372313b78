//! Apache Kafka: one process that is broker and controller.

use std::net::TcpStream;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::jvm::{JvmProgram, folder_in, version_of, write_properties};
use super::ports::free_ports;
use super::{RunningServer, ServerProcesses};
use crate::leg::QUEUES;

pub(super) const SETTINGS: &str = "one node, broker and controller; 1 GiB of heap, G1 with pauses of 20 ms, as its start script has it; \
     `acks=all`; topics with `flush.messages=1` where the leg syncs; the group coordinator waits for no further members";

/// Options of the JVM, as Kafka's start script has them.
const OPTIONS: [&str; 5] =
    ["-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:InitiatingHeapOccupancyPercent=35"];
/// Any id: the cluster lives as long as a leg.
const CLUSTER: &str = "cmFjZS1vZi1rZXJvbG94AA";

fn jars() -> Result<PathBuf> {
    Ok(folder_in("KEROLOX_RACE_KAFKA", "setup_race_kafka")?.join("jars"))
}

pub(super) fn version() -> Result<String> {
    version_of(&jars()?, "kafka_2.13")
}

/// The driver makes the topic, whose settings say when it is synced.
pub(super) fn start(folder: &Path) -> Result<RunningServer> {
    let (jars, ports) = (jars()?, free_ports(2)?);
    let (address, controller) = (format!("127.0.0.1:{}", ports[0]), format!("127.0.0.1:{}", ports[1]));
    let file = folder.join("server.properties");
    let settings = [
        ("process.roles", "broker,controller".to_owned()),
        ("node.id", "1".to_owned()),
        ("listeners", format!("PLAINTEXT://{address},CONTROLLER://{controller}")),
        ("controller.listener.names", "CONTROLLER".to_owned()),
        ("controller.quorum.bootstrap.servers", controller),
        ("log.dirs", folder.join("data").display().to_string()),
        ("num.partitions", QUEUES.to_string()),
        ("auto.create.topics.enable", "false".to_owned()),
        ("offsets.topic.replication.factor", "1".to_owned()),
        ("transaction.state.log.replication.factor", "1".to_owned()),
        ("transaction.state.log.min.isr", "1".to_owned()),
        ("group.initial.rebalance.delay.ms", "0".to_owned()),
    ];
    write_properties(&file, &settings)?;
    let config = file.display().to_string();
    let format = ["format", "--standalone", "-t", CLUSTER, "-c", &config].map(str::to_owned);
    let program = |name, class, arguments| JvmProgram {
        name,
        options: &OPTIONS,
        jars: &jars,
        class,
        arguments,
        folder,
    };
    program("format", "kafka.tools.StorageTool", &format).start()?.wait()?;
    let mut server = program("server", "kafka.Kafka", &[config]).start()?;
    server.wait_until(|_| TcpStream::connect(&address).is_ok())?;
    Ok(RunningServer { address, processes: ServerProcesses::Jvms(vec![server]) })
}
