//! Configuration of the nameserver.

use kerolox_gateway::clients::ClientSettings;
use kerolox_gateway::routes::{DEFAULT_LEASE, RouteBounds};
use kerolox_model::limits::BODY_BYTES_MAX;
use kerolox_runtime::config::{ByteSize, TimeSpan, comma_list};
use kerolox_runtime::health::HealthSettings;
use kerolox_runtime::listen::ConnectionSettings;
use kerolox_runtime::memory::MemorySettings;
use kerolox_runtime::tls::TlsSettings;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Prefix of the environment variables, as in `KEROLOX_NAMESERVER__ROUTES__LEASE`.
pub const ENV_PREFIX: &str = "KEROLOX_NAMESERVER";

/// Everything that can be configured, with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct NameserverConfig {
    /// `host:port` to listen on; port 0 takes any free one.
    pub listen: String,
    /// Folder for the controller's decisions and the development certificate.
    pub data: PathBuf,
    /// Registrations of brokers.
    pub routes: RoutesConfig,
    /// Connections of clients, other servers and tools.
    pub connections: ConnectionSettings,
    /// Memory for callers.
    pub memory: MemorySettings,
    /// Client sessions.
    pub clients: ClientSettings,
    /// Limits that clients are told.
    pub limits: LimitsConfig,
    /// Health checks over HTTP; `auto` is port 5558 of the host that is listened on.
    pub health: HealthSettings,
    /// The certificate.
    pub tls: TlsSettings,
    /// Elections of masters, and the other nameservers.
    pub controller: ControllerConfig,
}

/// Elections of masters, and the nameservers that decide them together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ControllerConfig {
    /// Number of this nameserver among those that decide together, from 1 on. It never changes.
    pub id: u64,
    /// The nameservers that decide together, this one among them: `ID=HOST:PORT`, or `HOST:PORT` in the order of their ids.
    /// Looked at at the first start, with an empty data folder. Without it a nameserver decides alone.
    #[serde(deserialize_with = "comma_list")]
    pub peers: Vec<String>,
    /// At its first start this nameserver waits until it is added to others that decide already.
    pub join: bool,
    /// `host:port` where the others reach this nameserver; empty: as in `peers`, else where it listens.
    pub advertise: String,
    /// How often the leading nameserver shows the others that it is there.
    pub heartbeat: TimeSpan,
    /// How long the others wait for that, at the least, before they elect another leader; twice as long at the most.
    pub election_timeout: TimeSpan,
    /// A master that has been silent for longer is replaced.
    pub master_timeout: TimeSpan,
    /// How long the election of a master waits for members that are there but have not answered yet.
    pub election_patience: TimeSpan,
    /// How long a restarted nameserver with data waits for the whole in-sync set before it elects a master or
    /// takes a member out of the set: its data could be an older copy, and a missing member could know
    /// better.
    pub restart_patience: TimeSpan,
}

impl Default for ControllerConfig {
    fn default() -> Self {
        Self {
            id: 1,
            peers: Vec::new(),
            join: false,
            advertise: String::new(),
            heartbeat: TimeSpan::from_millis(100),
            election_timeout: TimeSpan::from_millis(500),
            master_timeout: TimeSpan::from_secs(2),
            election_patience: TimeSpan::from_millis(300),
            restart_patience: TimeSpan::from_secs(30),
        }
    }
}

/// Registrations of brokers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RoutesConfig {
    /// How long a registration lasts without another one: a dead broker is out of the routes after that time.
    pub lease: TimeSpan,
    /// Most brokers that may be registered at a time.
    pub max_brokers: usize,
    /// Most topics, and most consumer groups, that one broker may register.
    pub max_topics_per_broker: usize,
}

impl RoutesConfig {
    pub(crate) fn bounds(&self) -> RouteBounds {
        RouteBounds { brokers: self.max_brokers, topics: self.max_topics_per_broker }
    }
}

/// Limits that clients are told; brokers enforce their own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitsConfig {
    /// Largest message body.
    pub max_body_bytes: ByteSize,
}

impl Default for NameserverConfig {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9876".to_owned(),
            data: PathBuf::from("nameserver-data"),
            routes: RoutesConfig::default(),
            connections: ConnectionSettings::default(),
            memory: MemorySettings::default(),
            clients: ClientSettings::default(),
            limits: LimitsConfig::default(),
            health: HealthSettings::default(),
            tls: TlsSettings::default(),
            controller: ControllerConfig::default(),
        }
    }
}

impl Default for RoutesConfig {
    fn default() -> Self {
        let RouteBounds { brokers, topics } = RouteBounds::default();
        Self { lease: span(DEFAULT_LEASE), max_brokers: brokers, max_topics_per_broker: topics }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { max_body_bytes: ByteSize::from_bytes(BODY_BYTES_MAX as u64) }
    }
}

fn span(duration: std::time::Duration) -> TimeSpan {
    TimeSpan::from_secs(duration.as_secs())
}
