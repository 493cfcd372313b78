//! Apache RocketMQ: a nameserver, and a broker with its proxy in one process.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

use super::jvm::{JvmProcess, JvmProgram, folder_in, version_of, write_properties};
use super::ports::free_ports;
use super::{RunningServer, ServerProcesses};
use crate::leg::{FlushMode, QUEUES};
use crate::task::{GROUP, TOPIC, TRANSACTION_TOPIC, WARM_GROUP};

pub(super) const SETTINGS: &str = "nameserver, and broker with proxy in one process; 4 GiB of heap with G1; `flushDiskType` \
     `ASYNC_FLUSH` or `SYNC_FLUSH`";

const OPTIONS: [&str; 8] = [
    "-Xms4g",
    "-Xmx4g",
    "-XX:+UseG1GC",
    "-XX:MaxDirectMemorySize=4g",
    // It reaches into the JDK.
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
];
const SMALL: [&str; 2] = ["-Xmx512m", "-XX:+UseSerialGC"];

fn jars() -> Result<PathBuf> {
    folder_in("KEROLOX_APACHE", "setup_apache")
}

pub(super) fn version() -> Result<String> {
    version_of(&jars()?, "rocketmq-broker")
}

/// The address of the proxy, a comma, and that of the nameserver, for the classic client.
pub(super) fn start(flush: FlushMode, folder: &Path) -> Result<RunningServer> {
    let (jars, places) = (jars()?, Places::write(flush, folder)?);
    let path = |name: &str| folder.join(name).display().to_string();
    let program = |name, options, class, arguments: &[String]| {
        JvmProgram { name, options, jars: &jars, class, arguments, folder }.start()
    };
    let arguments = ["-c".to_owned(), path("namesrv.conf")];
    let mut nameserver =
        program("nameserver", &SMALL, "org.apache.rocketmq.namesrv.NamesrvStartup", &arguments)?;
    nameserver.wait_until(|nameserver| nameserver.has_said("boot success"))?;
    let arguments =
        ["-pm", "local", "-pc", &path("proxy.json"), "-bc", &path("broker.conf")].map(str::to_owned);
    let mut proxy = program("proxy", &OPTIONS, "org.apache.rocketmq.proxy.ProxyStartup", &arguments)?;
    proxy.wait_until(|proxy| proxy.has_said("startup successfully"))?;
    let commands = [("updateTopicList", "topics.json"), ("updateSubGroupList", "groups.json")];
    let commands = commands.map(|(command, file)| {
        let known = ["-n", &places.nameserver, "-b", &places.broker];
        let words = [command, known[0], known[1], known[2], known[3], "-f", &path(file)].map(str::to_owned);
        program(command, &SMALL, "org.apache.rocketmq.tools.command.MQAdminStartup", &words)
    });
    for command in commands {
        // It takes its time to end, and is killed.
        command?.wait_until(|command: &JvmProcess| command.has_said(" success"))?;
    }
    let address = format!("{},{}", places.proxy, places.nameserver);
    Ok(RunningServer { address, processes: ServerProcesses::Jvms(vec![nameserver, proxy]) })
}

/// Where the servers listen.
struct Places {
    nameserver: String,
    broker: String,
    proxy: String,
}

impl Places {
    /// Writes the settings of all servers, and the topics and groups.
    fn write(flush: FlushMode, folder: &Path) -> Result<Self> {
        let ports = free_ports(5)?;
        let at = |number: usize| format!("127.0.0.1:{}", ports[number]);
        let places = Self { nameserver: at(0), broker: at(1), proxy: at(2) };
        let local = || "127.0.0.1".to_owned();
        let nameserver = [("listenPort", ports[0].to_string()), ("bindAddress", local())];
        write_properties(&folder.join("namesrv.conf"), &nameserver)?;
        let store = folder.join("store");
        let broker = [
            ("brokerClusterName", "DefaultCluster".to_owned()),
            ("brokerName", "apache".to_owned()),
            ("brokerId", "0".to_owned()),
            ("brokerIP1", local()),
            ("bindAddress", local()),
            ("listenPort", ports[1].to_string()),
            ("haListenPort", ports[3].to_string()),
            ("namesrvAddr", places.nameserver.clone()),
            ("storePathRootDir", store.display().to_string()),
            ("storePathCommitLog", store.join("commitlog").display().to_string()),
            ("flushDiskType", if flush == FlushMode::Sync { "SYNC_FLUSH" } else { "ASYNC_FLUSH" }.to_owned()),
            ("autoCreateTopicEnable", "false".to_owned()),
            ("diskMaxUsedSpaceRatio", "99".to_owned()),
        ];
        write_properties(&folder.join("broker.conf"), &broker)?;
        let proxy = serde_json::json!({
            "rocketMQClusterName": "DefaultCluster",
            "grpcServerPort": ports[2],
            "remotingListenPort": ports[4],
            "localServeAddr": "127.0.0.1",
            "namesrvAddr": places.nameserver,
        });
        fs::write(folder.join("proxy.json"), proxy.to_string())?;
        let topics = [(TOPIC, "NORMAL"), (TRANSACTION_TOPIC, "TRANSACTION")].map(|(topic, kind)| {
            serde_json::json!({
                "topicName": topic, "readQueueNums": QUEUES, "writeQueueNums": QUEUES, "perm": 6,
                "attributes": { "+message.type": kind },
            })
        });
        fs::write(folder.join("topics.json"), serde_json::to_string(&topics)?)?;
        let groups = [GROUP, WARM_GROUP].map(|group| serde_json::json!({ "groupName": group }));
        fs::write(folder.join("groups.json"), serde_json::to_string(&groups)?)?;
        Ok(places)
    }
}
