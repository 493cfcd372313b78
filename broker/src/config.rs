//! Configuration of the broker.

use std::path::PathBuf;

use kerolox_core::clock::ClockPolicy;
use kerolox_core::flush::Flush;
use kerolox_core::publish::PublishLimits;
use kerolox_core::replicas::Replicas;
use kerolox_core::retention::RetentionLimits;
use kerolox_core::schedule::{CLASSIC_LEVELS_MS, DelayPolicy};
use kerolox_core::timer::TimerPace;
use kerolox_core::transaction::CheckPolicy;
use kerolox_gateway::clients::ClientSettings;
use kerolox_gateway::routes::{DEFAULT_HEARTBEAT, DEFAULT_LEASE};
use kerolox_model::limits;
use kerolox_replication::ReplicationPolicy;
use kerolox_runtime::config::{ByteSize, Span, comma_list, one_of, span_list};
use kerolox_runtime::health::HealthSettings;
use kerolox_runtime::listen::ConnectionSettings;
use kerolox_runtime::memory::MemorySettings;
use kerolox_runtime::tls::TlsSettings;
use serde::{Deserialize, Deserializer, Serialize};

use crate::creation_quota::CreationQuota;
use crate::delivery::AutoGroups;
use crate::tasks::check_back::WebhookHost;

/// Prefix of the environment variables, as in `KEROLOX_BROKER__TRANSACTION__CHECK_INTERVAL`.
pub const ENV_PREFIX: &str = "KEROLOX_BROKER";

/// Largest `timers.batch`: a record of so many positions stays below a mebibyte.
const TIMERS_BATCH_MAX: usize = 100_000;

/// Everything that can be configured, with its defaults.
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
    /// Host that clients are told, when it is not the one listened on: for Docker, NAT and load balancers.
    pub advertise: String,
    /// Folder for the log and its index.
    pub data: PathBuf,
    /// The commit log.
    pub log: LogConfig,
    /// How long and how much is kept.
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

/// The commit log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LogConfig {
    /// Size of a segment file.
    pub segment_size: ByteSize,
    /// Room on the disk is reserved ahead of the log's end, so much at a time. Some of it, 8 MiB at the most, is left to
    /// acknowledgements and decisions when the disk is full.
    pub preallocation: ByteSize,
    /// Bytes that may wait for the disk before senders are told to slow down.
    pub max_waiting_bytes: ByteSize,
    /// What an acknowledgement waits for: the disk, or the system's page cache. A topic can have its own setting
    /// (`mqadmin updateTopic -a +flush=async`).
    pub flush: FlushMode,
    /// With `async`: how long a record may stay without a sync, which is what a power cut may take.
    pub flush_interval: Span,
    /// The newest messages are kept in memory, up to this size, and read from there.
    pub tail_size: ByteSize,
}

impl TimersConfig {
    /// When the wall clock is doubted, as the core wants it.
    pub fn clock_policy(&self) -> ClockPolicy {
        ClockPolicy {
            leap_ms: i64::try_from(self.clock_leap.as_millis()).unwrap_or(i64::MAX),
            grace_ms: self.clock_grace.as_millis(),
        }
    }

    /// How fast scheduled messages become visible, as the core wants it.
    pub fn pace(&self) -> TimerPace {
        TimerPace { batch: self.batch, per_second: self.max_per_second }
    }
}

/// What an acknowledgement waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlushMode {
    /// The disk.
    Sync,
    /// The page cache.
    Async,
}

impl<'de> Deserialize<'de> for FlushMode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_of(deserializer, &[("sync", Self::Sync), ("async", Self::Async)])
    }
}

impl LogConfig {
    /// The flush mode, as the core wants it.
    pub fn flush(&self) -> Flush {
        match self.flush {
            FlushMode::Sync => Flush::Sync,
            FlushMode::Async => Flush::Async,
        }
    }
}

/// How long and how much is kept. Whole segments go, oldest first; what is still needed of them (undecided
/// transactions, messages that wait for their next attempt) is carried forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RetentionConfig {
    /// Messages are kept this long; when there is no room, sends are refused (RocketMQ's default is 72 h). A topic can have its own time,
    /// shorter or longer (`mqadmin updateTopic -a +retention.time=12h`).
    pub time: Span,
    /// The log is kept below this size, by removing its oldest segments, read or not; 0 means that only time counts, and free
    /// space with `remove-early`.
    pub log_size: ByteSize,
    /// Below this much free space on the disk, the operator is warned and, with `remove-early`, old segments go early; 0 means
    /// two and a half segments.
    pub free_space_low: ByteSize,
    /// Whether old segments go early when free space is low, read or not, as in RocketMQ; what groups lose by that is in the log, in
    /// `consumerProgress` and a warning of `check`. Off: nothing goes before its time, and sends are refused instead.
    pub remove_early: bool,
    /// Below this much free space, sends are refused while everything else goes on; 0 means four times `log.preallocation`.
    /// The index needs some of it.
    pub free_space_min: ByteSize,
    /// How often to look.
    pub check_interval: Span,
}

impl Default for RetentionConfig {
    fn default() -> Self {
        Self {
            time: Span::from_secs(72 * 3600),
            log_size: ByteSize::from_bytes(0),
            free_space_low: ByteSize::from_bytes(0),
            remove_early: false,
            free_space_min: ByteSize::from_bytes(0),
            check_interval: Span::from_secs(5),
        }
    }
}

/// When and how often undecided transactions are checked back; defaults as in RocketMQ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TransactionConfig {
    /// From storing the half message to the first check, unless the message asks for more.
    pub first_check: Span,
    /// Between checks.
    pub check_interval: Span,
    /// Checks that reach a producer before the half message is parked until somebody settles it.
    pub check_max: u32,
    /// Age at which an undecided half message is parked, however few checks reached a producer.
    pub max_age: Span,
    /// File with the key that requests to webhooks are signed with; without it `webhook-secret` in the data folder, which
    /// the broker makes.
    pub webhook_secret_file: Option<PathBuf>,
    /// How long a webhook may take to answer.
    pub webhook_timeout: Span,
    /// Where webhooks may be, which anybody who may create a topic names: `public` (all addresses of the Internet),
    /// addresses, networks as in 10.1.0.0/16, and host names. An empty list: nowhere.
    #[serde(deserialize_with = "webhook_hosts")]
    pub webhook_allow: Vec<WebhookHost>,
}

/// Scheduled messages: when and how fast they become visible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TimersConfig {
    /// Most messages that become visible with one record of the log.
    pub batch: usize,
    /// Most messages that become visible in a second, so that a burst (all that came due while the broker was down, or
    /// at a full hour) leaves room for sends and deliveries; 0 means as many as there are.
    pub max_per_second: u64,
    /// Delays of the classic levels from 1 on, which a message asks for with the user property `DELAY`.
    #[serde(deserialize_with = "span_list")]
    pub delay_levels: Vec<Span>,
    /// A step of the wall clock ahead of the monotonic clock by more than this is doubted.
    pub clock_leap: Span,
    /// So long: what is due, or too old to be kept, only by the step waits, and the health checks tell of it.
    pub clock_grace: Span,
}

/// Topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct TopicsConfig {
    /// Queues of a new topic that does not say.
    pub default_queues: u32,
    /// Whether a topic comes into being with the first message that is sent to it, with `default-queues` queues and for
    /// messages of that type. Parents of lite topics never do.
    pub auto_create: AutoCreate,
    /// No topic comes into being by itself on a broker that has so many.
    pub auto_create_max: usize,
    /// How many one client may have made by itself.
    pub auto_create_max_per_client: usize,
}

/// Whether topics come into being with their first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoCreate {
    /// They do.
    On,
    /// They are made by administrators.
    Off,
    /// They do on a broker that is its own nameserver.
    Standalone,
}

impl<'de> Deserialize<'de> for AutoCreate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_of(deserializer, &[("on", Self::On), ("off", Self::Off), ("standalone", Self::Standalone)])
    }
}

/// Consumer groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct GroupsConfig {
    /// Whether a group comes into being when it first receives.
    pub auto_create: bool,
    /// No group comes into being by itself on a broker that has so many.
    pub auto_create_max: usize,
    /// How many one client may have made by itself.
    pub auto_create_max_per_client: usize,
    /// Most members of all broadcast groups: each has a cursor of its own.
    pub members_max: usize,
    /// How long the cursor of a member of a broadcast group is kept that does not receive any more. Clients whose id changes
    /// with every start leave one behind each time.
    pub member_expiry: Span,
    /// How long a message stays at a time with a consumer that has it renewed (push consumers of the SDKs do). When the time is
    /// over and the consumer lives, it begins again, for three hours at the most.
    pub auto_renew: Span,
    /// After a start or an election, members of groups have so long to connect again: until then, messages that no known member
    /// wants are not passed over, but wait, in topics that were there before.
    pub gather_time: Span,
}

/// Limits for messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LimitsConfig {
    /// Largest message body. C#, Node.js and Rust SDKs cannot receive more than 4 MiB with everything around the body.
    pub max_body_bytes: ByteSize,
    /// Largest sum of property keys and values, tag and keys.
    pub max_properties_bytes: ByteSize,
    /// Most user properties of a message.
    pub max_properties: usize,
    /// How far ahead a delivery time may lie. Ten years, so that a time in the wrong unit is noticed; RocketMQ allows `24h`. A topic
    /// can have a lower limit (`mqadmin updateTopic -a +limits.max-delay=24h`).
    pub max_delay: Span,
}

/// Lite topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct LiteConfig {
    /// Most lite topics below one topic. Each takes some 150 bytes of memory.
    pub max_topics: u64,
    /// Most subscriptions to lite topics, of all clients together (RocketMQ's default).
    pub max_subscriptions: usize,
    /// How often lite topics that expired are looked for.
    pub check_interval: Span,
}

/// Registration with the nameservers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct RegistrationConfig {
    /// How often the broker registers. Keep it well below the nameservers' lease (10 s by default).
    pub heartbeat: Span,
    /// How long the routes of other brokers are trusted without news of them.
    pub lease: Span,
}

/// Replication within the broker group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ReplicationConfig {
    /// How many members hold a record on their disks before it is acknowledged: all in sync, a majority of those (quorum), or the
    /// master alone. A topic can have its own choice (`mqadmin updateTopic -a +replicas=master`).
    pub acks: ReplicaChoice,
    /// Members that have to be in sync, the master included; with fewer, what is to be kept is refused.
    pub min_in_sync: usize,
    /// A slave that has not held everything for so long leaves the in-sync set; until then acknowledgements wait for it.
    pub slave_timeout: Span,
    /// How long a master is sure of its reign after it has heard of its slaves. One that is elected waits for as long.
    pub lease: Span,
    /// How long an acknowledgement may wait for slaves before the client is told that it did not come.
    pub ack_timeout: Span,
    /// How often a broker reports to the controller.
    pub report_interval: Span,
    /// How long a broker that is stopped takes at the most to hand its reign over.
    pub hand_over_timeout: Span,
    /// Read messages that are not in the master's memory any more at a slave, so that consumers that lag far behind do not keep
    /// the master's disk busy; by leases and acknowledgements they are still the master's. Damaged messages are read at slaves
    /// in any case.
    pub slave_reads: bool,
    /// `host:port` at which the other members of the group reach this one, if it is not where clients do.
    pub advertise: String,
}

/// How many members hold a record before it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplicaChoice {
    /// All in sync.
    All,
    /// A majority of those in sync.
    Quorum,
    /// The master alone.
    Master,
}

impl<'de> Deserialize<'de> for ReplicaChoice {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        one_of(deserializer, &[("all", Self::All), ("quorum", Self::Quorum), ("master", Self::Master)])
    }
}

impl Default for ReplicationConfig {
    fn default() -> Self {
        Self {
            acks: ReplicaChoice::All,
            min_in_sync: 1,
            slave_timeout: Span::from_millis(1_200),
            lease: Span::from_millis(1_500),
            ack_timeout: Span::from_secs(5),
            report_interval: Span::from_millis(300),
            hand_over_timeout: Span::from_secs(5),
            slave_reads: false,
            advertise: String::new(),
        }
    }
}

impl ReplicationConfig {
    /// How many members hold a record before it is acknowledged, as the core wants it.
    pub fn replicas(&self) -> Replicas {
        match self.acks {
            ReplicaChoice::All => Replicas::All,
            ReplicaChoice::Quorum => Replicas::Quorum,
            ReplicaChoice::Master => Replicas::Master,
        }
    }

    pub(crate) fn lease_ms(&self) -> u64 {
        self.lease.as_millis()
    }

    pub(crate) fn policy(&self) -> ReplicationPolicy {
        ReplicationPolicy { follower_timeout_ms: self.slave_timeout.as_millis(), lease_ms: self.lease_ms() }
    }

    fn check(&self) -> Result<(), String> {
        let spans = [
            ("slave-timeout", self.slave_timeout),
            ("lease", self.lease),
            ("ack-timeout", self.ack_timeout),
            ("report-interval", self.report_interval),
        ];
        if let Some((key, _)) = spans.iter().find(|(_, span)| span.as_millis() < 50) {
            return Err(format!("replication.{key} is below 50ms; leave it out for the default"));
        }
        if self.min_in_sync == 0 {
            return Err("replication.min-in-sync is 0; the master itself counts, so 1 is the least".into());
        }
        Ok(())
    }
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

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            segment_size: ByteSize::from_bytes(1 << 30),
            preallocation: ByteSize::from_bytes(32 << 20),
            max_waiting_bytes: ByteSize::from_bytes(256 << 20),
            flush: FlushMode::Sync,
            flush_interval: Span::from_millis(200),
            tail_size: ByteSize::from_bytes(32 << 20),
        }
    }
}

/// Where webhooks may be, as a list, or as one text with commas between the entries.
fn webhook_hosts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<WebhookHost>, D::Error> {
    let entries = comma_list(deserializer)?;
    entries.iter().map(|entry| entry.parse().map_err(serde::de::Error::custom)).collect()
}

impl Default for TransactionConfig {
    fn default() -> Self {
        Self {
            first_check: Span::from_secs(6),
            check_interval: Span::from_secs(30),
            check_max: 15,
            max_age: Span::from_secs(3 * 86_400),
            webhook_secret_file: None,
            webhook_timeout: Span::from_secs(5),
            webhook_allow: vec![WebhookHost::Public],
        }
    }
}

impl Default for TimersConfig {
    fn default() -> Self {
        Self {
            batch: 1_000,
            max_per_second: 50_000,
            delay_levels: CLASSIC_LEVELS_MS.map(Span::from_millis).to_vec(),
            clock_leap: Span::from_secs(5),
            clock_grace: Span::from_secs(10),
        }
    }
}

impl Default for TopicsConfig {
    fn default() -> Self {
        Self {
            default_queues: 8,
            auto_create: AutoCreate::Standalone,
            auto_create_max: 1_000,
            auto_create_max_per_client: 100,
        }
    }
}

impl Default for GroupsConfig {
    fn default() -> Self {
        Self {
            auto_create: true,
            auto_create_max: 10_000,
            auto_create_max_per_client: 100,
            members_max: 10_000,
            member_expiry: Span::from_secs(24 * 3600),
            auto_renew: Span::from_secs(60),
            gather_time: Span::from_secs(10),
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_body_bytes: ByteSize::from_bytes(limits::BODY_BYTES_MAX as u64),
            max_properties_bytes: ByteSize::from_bytes(limits::PROPERTIES_BYTES_MAX as u64),
            max_properties: limits::USER_PROPERTIES_MAX,
            max_delay: Span::from_secs(3_650 * 86_400),
        }
    }
}

impl Default for LiteConfig {
    fn default() -> Self {
        Self { max_topics: 2_000_000, max_subscriptions: 100_000, check_interval: Span::from_secs(120) }
    }
}

impl Default for RegistrationConfig {
    fn default() -> Self {
        Self {
            heartbeat: Span::from_secs(DEFAULT_HEARTBEAT.as_secs()),
            lease: Span::from_secs(DEFAULT_LEASE.as_secs()),
        }
    }
}

impl BrokerConfig {
    /// Checks what the types alone cannot.
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
        let body_max = limits::GRPC_DECODE_BYTES_MAX - (1 << 20);
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

    /// Whether topics come into being with their first message.
    pub fn auto_creates(&self) -> bool {
        match self.topics.auto_create {
            AutoCreate::On => true,
            AutoCreate::Off => false,
            AutoCreate::Standalone => self.standalone,
        }
    }

    /// How consumer groups come into being.
    pub(crate) fn auto_groups(&self) -> AutoGroups {
        AutoGroups {
            is_on: self.groups.auto_create,
            max: self.groups.auto_create_max,
            made: CreationQuota::at_most(self.groups.auto_create_max_per_client),
            members_max: self.groups.members_max,
        }
    }

    /// Limits for messages, as the core wants them.
    pub fn publish_limits(&self) -> PublishLimits {
        PublishLimits {
            body_bytes_max: self.limits.max_body_bytes.as_usize(),
            properties_bytes_max: self.limits.max_properties_bytes.as_usize(),
            properties_max: self.limits.max_properties,
        }
    }

    /// When messages may be delivered, as the core wants it.
    pub fn delay_policy(&self) -> DelayPolicy {
        DelayPolicy {
            max_ms: self.limits.max_delay.as_millis(),
            levels_ms: self.timers.delay_levels.iter().map(|delay| delay.as_millis()).collect(),
        }
    }

    /// How long and how much is kept.
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

    /// When half messages are checked, as the core wants it.
    pub fn check_policy(&self) -> CheckPolicy {
        CheckPolicy {
            first_ms: self.transaction.first_check.as_millis(),
            interval_ms: self.transaction.check_interval.as_millis(),
            max: self.transaction.check_max,
            age_max_ms: self.transaction.max_age.as_millis(),
        }
    }
}
