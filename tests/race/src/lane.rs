//! Lanes: a server, and the client that drives it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use clap::ValueEnum;

use crate::leg::LegName;
use crate::servers::{SystemName, jar_folder};
use crate::task::DriverTask;

/// A system that Kerolox is raced against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PeerName {
    /// Apache Kafka, with kafka-clients
    Kafka,
    /// Apache RocketMQ, with the official Java SDK, and its classic client for batches and reading
    #[value(name = "rocketmq")]
    RocketMq,
}

/// A server and the best client for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lane {
    /// Its name in reports.
    pub(crate) name: &'static str,
    /// The system of the server.
    pub(crate) system: SystemName,
    /// The client, for people.
    pub(crate) client: &'static str,
    driver: DriverName,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DriverName {
    Rust,
    Kafka,
    /// One program for both systems that speak the protocol.
    RocketMq,
}

/// Kerolox with the Rust client: it runs every leg.
pub(crate) const RUST: Lane = Lane {
    name: "kerolox-rust",
    system: SystemName::Kerolox,
    client: "Rust client",
    driver: DriverName::Rust,
};
/// Kerolox with the official Java SDK.
pub(crate) const JAVA: Lane = Lane {
    name: "kerolox-java",
    system: SystemName::Kerolox,
    client: "official Java SDK",
    driver: DriverName::RocketMq,
};
const KAFKA: Lane =
    Lane { name: "kafka", system: SystemName::Kafka, client: "kafka-clients", driver: DriverName::Kafka };
const ROCKETMQ: Lane = Lane {
    name: "rocketmq",
    system: SystemName::RocketMq,
    client: "official Java SDK; classic client for batches and reading",
    driver: DriverName::RocketMq,
};

impl PeerName {
    /// The lane of the peer.
    pub(crate) fn lane(self) -> Lane {
        match self {
            Self::Kafka => KAFKA,
            Self::RocketMq => ROCKETMQ,
        }
    }

    /// Lanes of Kerolox beside it.
    pub(crate) fn ours(self) -> &'static [Lane] {
        match self {
            Self::Kafka => &[RUST],
            Self::RocketMq => &[RUST, JAVA],
        }
    }
}

impl Lane {
    /// Whether it is one of Kerolox.
    pub(crate) fn is_ours(&self) -> bool {
        self.system == SystemName::Kerolox
    }

    /// Whether its client can run a leg.
    pub(crate) fn runs(&self, leg: LegName) -> bool {
        use LegName::{Auto, EndToEnd, Receive, Single, Transactions};
        match (self.driver, self.system) {
            // The SDK has neither batches nor reading by offset.
            (DriverName::RocketMq, SystemName::Kerolox) => {
                matches!(leg, Single | Receive | Transactions | EndToEnd)
            }
            (DriverName::RocketMq, _) => leg != Auto,
            _ => true,
        }
    }

    /// Whether its client is too slow to make a backlog: the Rust client makes it.
    pub(crate) fn needs_help(&self) -> bool {
        *self == JAVA
    }

    /// The client process for a task, with its files in a folder.
    ///
    /// # Errors
    /// When its program is not there.
    pub(crate) fn driver(&self, task: &DriverTask, folder: &Path) -> Result<Command> {
        let mut command = match self.driver {
            DriverName::Rust => {
                let mut command = Command::new(std::env::current_exe().context("looking for this program")?);
                command.arg("drive");
                command
            }
            DriverName::Kafka => java("KEROLOX_RACE_KAFKA", "setup_race_kafka", "KafkaDriver", folder)?,
            DriverName::RocketMq => {
                java("KEROLOX_RACE_ROCKETMQ", "setup_race_rocketmq", "RocketMqDriver", folder)?
            }
        };
        command.args(task.words());
        Ok(command)
    }
}

/// A driver of Java: its classes and jars are in the folder that a function of `deploy/setup.sh` names.
fn java(variable: &str, setup: &str, class: &str, folder: &Path) -> Result<Command> {
    let built = jar_folder(variable, setup)?;
    let mut command = Command::new("java");
    command
        .args(["-Xms1g", "-Xmx1g", "-XX:+UseG1GC"])
        .args(
            ["user.home", "java.io.tmpdir", "rocketmq.log.root", "rocketmq.client.logRoot"]
                .map(|place| format!("-D{place}={}", folder.display())),
        )
        .args([
            "-Drocketmq.log.level=warn",
            "-Drocketmq.client.logLevel=warn",
            "-Drocketmq.client.logUseSlf4j=true",
        ])
        .arg("-cp")
        .arg(format!("{}:{}", built.join("classes").display(), built.join("jars").join("*").display()))
        .arg(format!("kerolox.race.{class}"));
    Ok(command)
}
