//! Configuration of the broker, one file for each section of its own.

mod groups;
mod limits;
mod lite;
mod log;
mod registration;
mod replication;
mod retention;
mod timers;
mod topics;
mod transaction;

use std::path::PathBuf;

use kerolox_core::retention::RetentionLimits;
use kerolox_core::schedule::DelayPolicy;
use kerolox_gateway::clients::ClientSettings;
use kerolox_model::limits as model_limits;
use kerolox_runtime::config::{ByteSize, comma_list};
use kerolox_runtime::health::HealthSettings;
use kerolox_runtime::listen::ConnectionSettings;
use kerolox_runtime::memory::MemorySettings;
use kerolox_runtime::tls::TlsSettings;
use serde::{Deserialize, Serialize};

pub use groups::GroupsConfig;
pub use limits::LimitsConfig;
pub use lite::LiteConfig;
pub use log::{FlushMode, LogConfig};
pub use registration::RegistrationConfig;
pub use replication::{ReplicaChoice, ReplicationConfig};
pub use retention::RetentionConfig;
pub use timers::TimersConfig;
pub use topics::{AutoCreate, TopicsConfig};
pub use transaction::TransactionConfig;

/// Prefix of the environment variables, as in `KEROLOX_BROKER__TRANSACTION__CHECK_INTERVAL`.
pub const ENV_PREFIX: &str = "KEROLOX_BROKER";

/// Largest `timers.batch`: a record of this many positions stays below a mebibyte.
const TIMERS_BATCH_MAX: usize = 100_000;

/// All settings, with their defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct BrokerConfig {
    /// Cluster that the broker belongs to.
    pub cluster: String,
    /// Name of the broker group; clients know it as the broker name.
    pub group: String,
    /// Nameservers to register with, each `host:port`.
    #[serde(deserialize_with = "comma_list")]
    pub nameservers: Vec<String>,
    /// Nameserver and broker in one process: no other nameserver is needed.
    pub standalone: bool,
    /// `host:port` to listen on; port 0 takes any free one.
    pub listen: String,
    /// Host that clients are told, if it differs from the listen address: for Docker, NAT and load balancers.
    pub advertise: String,
    /// Folder for the log and its index.
    pub data: PathBuf,
    /// The commit log.
    pub log: LogConfig,
    /// Limits of age and size.
    pub retention: RetentionConfig,
    /// Half messages.
    pub transaction: TransactionConfig,
    /// Scheduled messages.
    pub timers: TimersConfig,
    /// Topics.
    pub topics: TopicsConfig,
    /// Consumer groups.
    pub groups: GroupsConfig,
    /// Limits for messages.
    pub limits: LimitsConfig,
    /// Lite topics.
    pub lite: LiteConfig,
    /// Registration with the nameservers.
    pub registration: RegistrationConfig,
    /// Connections of clients, other servers and tools.
    pub connections: ConnectionSettings,
    /// Memory for callers.
    pub memory: MemorySettings,
    /// Client sessions.
    pub clients: ClientSettings,
    /// Master and slaves.
    pub replication: ReplicationConfig,
    /// Health checks over HTTP; `auto` is port 5557 of the host that is listened on.
    pub health: HealthSettings,
    /// The certificate.
    pub tls: TlsSettings,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            cluster: "DefaultCluster".to_owned(),
            group: "broker-a".to_owned(),
            nameservers: Vec::new(),
            standalone: false,
            listen: "127.0.0.1:8081".to_owned(),
            advertise: String::new(),
            data: PathBuf::from("broker-data"),
            log: LogConfig::default(),
            retention: RetentionConfig::default(),
            transaction: TransactionConfig::default(),
            timers: TimersConfig::default(),
            topics: TopicsConfig::default(),
            groups: GroupsConfig::default(),
            limits: LimitsConfig::default(),
            lite: LiteConfig::default(),
            registration: RegistrationConfig::default(),
            connections: ConnectionSettings::default(),
            memory: MemorySettings::default(),
            clients: ClientSettings::default(),
            replication: ReplicationConfig::default(),
            health: HealthSettings::default(),
            tls: TlsSettings::default(),
        }
    }
}

impl BrokerConfig {
    /// Checks the values beyond their types.
    ///
    /// # Errors
    /// A sentence that names the key and says what to set.
    pub fn check(&self) -> Result<(), String> {
        for (key, value) in [("cluster", &self.cluster), ("group", &self.group)] {
            if value.trim().is_empty() {
                return Err(format!("{key} is blank; give it a name"));
            }
        }
        if !self.standalone && self.nameservers.is_empty() {
            return Err(
                "no nameserver to register with; give --nameserver HOST:PORT, or --standalone for a broker that is its own nameserver".into(),
            );
        }
        if self.log.segment_size.bytes() < 1 << 20 {
            return Err("log.segment-size is below 1MiB; the default is 1GiB".into());
        }
        if self.log.preallocation.bytes() < 64 << 10 {
            return Err("log.preallocation is below 64KiB; the default is 32MiB".into());
        }
        let body_max = model_limits::GRPC_DECODE_BYTES_MAX - (1 << 20);
        if self.limits.max_body_bytes.as_usize() > body_max {
            return Err(format!(
                "limits.max-body-bytes is above {body_max}; messages that large cannot be received"
            ));
        }
        if self.log.flush_interval.as_millis() == 0 {
            return Err("log.flush-interval is 0; use log.flush = \"sync\" for a sync per batch".into());
        }
        if self.retention.check_interval.as_millis() == 0 {
            return Err("retention.check-interval is 0; the default is 5s".into());
        }
        if self.timers.batch == 0 || self.timers.batch > TIMERS_BATCH_MAX {
            return Err(format!(
                "timers.batch is {}; use a number from 1 to {TIMERS_BATCH_MAX}, the default is 1000",
                self.timers.batch
            ));
        }
        if self.timers.delay_levels.is_empty() {
            return Err("timers.delay-levels is empty; leave it out for the levels of RocketMQ".into());
        }
        if self.groups.auto_renew.as_millis() < 1_000 {
            return Err("groups.auto-renew is below 1s; the default is 1m".into());
        }
        if self.lite.check_interval.as_millis() == 0 {
            return Err("lite.check-interval is 0; the default is 2m".into());
        }
        self.replication.check()?;
        if self.transaction.check_interval.as_millis() == 0 {
            return Err("transaction.check-interval is 0; the default is 30s".into());
        }
        if self.transaction.max_age.as_millis() == 0 {
            return Err("transaction.max-age is 0; the default is 3d".into());
        }
        Ok(())
    }

    /// Whether topics are created with their first message.
    pub fn auto_creates(&self) -> bool {
        match self.topics.auto_create {
            AutoCreate::On => true,
            AutoCreate::Off => false,
            AutoCreate::Standalone => self.standalone,
        }
    }

    /// Limits of delivery times in the core's form.
    pub fn delay_policy(&self) -> DelayPolicy {
        DelayPolicy {
            max_ms: self.limits.max_delay.as_millis(),
            levels_ms: self.timers.delay_levels.iter().map(|delay| delay.as_millis()).collect(),
        }
    }

    /// Limits of age and size in the core's form.
    pub fn retention_limits(&self) -> RetentionLimits {
        let or = |size: ByteSize, otherwise: u64| if size.bytes() == 0 { otherwise } else { size.bytes() };
        let segment = self.log.segment_size.bytes();
        RetentionLimits {
            time_ms: i64::try_from(self.retention.time.as_millis()).unwrap_or(i64::MAX),
            log_bytes: or(self.retention.log_size, u64::MAX),
            free_bytes_low: or(self.retention.free_space_low, segment.saturating_mul(5) / 2),
            removes_early: self.retention.remove_early,
            free_bytes_min: or(
                self.retention.free_space_min,
                self.log.preallocation.bytes().saturating_mul(4),
            ),
        }
    }
}
