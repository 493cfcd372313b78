//! One broker as the route table holds it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kerolox_model::limits::REGISTERED_NAME_MAX;
use kerolox_proto::kerolox::{
    BrokerInfo, BrokerRole, GroupSettings, RegisterRequest, RegisteredBroker, TopicRoute,
};

/// RocketMQ's `perm` of topics that are made with their first message.
const READ_AND_WRITE: u32 = 6;

/// Why a registration is not accepted. The text is meant for the broker's operator.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistrationError {
    /// The request does not say which broker it is.
    #[error("the registration has no broker; fill in RegisterRequest.broker")]
    NoBroker,
    /// Cluster or group is blank.
    #[error("the registration has a blank {0}; set it in the broker's configuration")]
    Blank(&'static str),
    /// A name is longer than any that brokers give.
    #[error(
        "a {what} in the registration has {len} bytes, the limit is {REGISTERED_NAME_MAX}; give it a shorter name"
    )]
    Long {
        /// The kind of name.
        what: &'static str,
        /// Its length in bytes.
        len: usize,
    },
    /// More than a server keeps.
    #[error(
        "{len} {what}, the limit is {max}; raise routes.{setting} of the nameservers, or find out who makes that many"
    )]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// How many there are.
        len: usize,
        /// How many there may be.
        max: usize,
        /// The setting that says so.
        setting: &'static str,
    },
    /// Another master of the group registered, with a later epoch.
    #[error("another master of this broker group rules since epoch {epoch}; this one is deposed")]
    Superseded {
        /// The later epoch.
        epoch: u32,
    },
    /// Clients cannot connect to this address.
    #[error("clients cannot connect to {host:?} port {port}; advertise an address that they can reach")]
    Unreachable {
        /// The advertised host.
        host: String,
        /// The advertised port.
        port: u32,
    },
}

fn check_length(what: &'static str, text: &str) -> Result<(), RegistrationError> {
    match text.len() {
        len if len > REGISTERED_NAME_MAX => Err(RegistrationError::Long { what, len }),
        _ => Ok(()),
    }
}

/// Names a broker: a member of a group, and whose group that is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerIdentity {
    /// Cluster that the group belongs to.
    pub cluster: String,
    /// Broker group.
    pub group: String,
    /// Number within the group, 0 for the master.
    pub id: u32,
}

/// The address of a broker.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BrokerAddress {
    /// IP address or host name, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl BrokerAddress {
    /// `http://host:port`, with brackets around IPv6 addresses.
    pub fn uri(&self) -> String {
        format!("http://{self}")
    }
}

impl std::fmt::Display for BrokerAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { host, port } = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// A broker with its topics.
#[derive(Debug, Clone, PartialEq)]
pub struct BrokerRegistration {
    info: BrokerInfo,
    address: BrokerAddress,
    topics: BTreeMap<String, TopicRoute>,
    groups: BTreeMap<String, GroupSettings>,
}

impl BrokerRegistration {
    /// Checks a request and turns it into a registration. An empty host becomes `peer`, the address that the broker
    /// connected from.
    ///
    /// # Errors
    /// A [`RegistrationError`] when the broker is not named or cannot be reached.
    pub fn from_request(request: RegisterRequest, peer: Option<IpAddr>) -> Result<Self, RegistrationError> {
        let info = request.broker.ok_or(RegistrationError::NoBroker)?;
        Self::new(info, (request.topics, request.groups), peer)
    }

    /// Checks an entry of a nameserver's snapshot and turns it into a registration.
    ///
    /// # Errors
    /// As [`Self::from_request`].
    pub fn from_snapshot(entry: RegisteredBroker) -> Result<Self, RegistrationError> {
        let info = entry.broker.ok_or(RegistrationError::NoBroker)?;
        Self::new(info, (entry.topics, entry.groups), None)
    }

    fn new(
        mut info: BrokerInfo,
        (topics, groups): (Vec<TopicRoute>, Vec<GroupSettings>),
        peer: Option<IpAddr>,
    ) -> Result<Self, RegistrationError> {
        for (what, value) in [("cluster", &info.cluster), ("group", &info.group)] {
            if value.trim().is_empty() {
                return Err(RegistrationError::Blank(what));
            }
        }
        if info.host.is_empty()
            && let Some(peer) = peer
        {
            info.host = peer.to_canonical().to_string();
        }
        let unreachable = || RegistrationError::Unreachable { host: info.host.clone(), port: info.port };
        let host = info.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let is_wildcard = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        let port = u16::try_from(info.port).map_err(|_| unreachable())?;
        if host.is_empty() || is_wildcard || port == 0 {
            return Err(unreachable());
        }
        let texts = [
            ("cluster name", &info.cluster),
            ("group name", &info.group),
            ("host name", &info.host),
            ("version", &info.version),
            ("incarnation", &info.incarnation),
        ];
        let topic_names = topics.iter().map(|topic| ("topic name", &topic.name));
        let group_names = groups.iter().map(|group| ("consumer group name", &group.name));
        for (what, text) in texts.into_iter().chain(topic_names).chain(group_names) {
            check_length(what, text)?;
        }
        let topics = topics.into_iter().map(|topic| (topic.name.clone(), topic)).collect();
        let groups = groups.into_iter().map(|group| (group.name.clone(), group)).collect();
        let address = BrokerAddress { host, port };
        Ok(Self { info, address, topics, groups })
    }

    /// How many consumer groups it registered.
    pub fn groups_len(&self) -> usize {
        self.groups.len()
    }

    /// Identity within the cluster.
    pub fn member(&self) -> BrokerIdentity {
        BrokerIdentity {
            cluster: self.info.cluster.clone(),
            group: self.info.group.clone(),
            id: self.info.id,
        }
    }

    /// Name of the broker group, which the SDKs call the broker name.
    pub fn group(&self) -> &str {
        &self.info.group
    }

    /// Name of the cluster.
    pub fn cluster(&self) -> &str {
        &self.info.cluster
    }

    /// The topic as the broker would make it with its first message, if it makes topics.
    pub fn promise(&self, stored_name: &str, message_types: Vec<i32>) -> Option<TopicRoute> {
        let queues = self.info.auto_create_queues;
        (queues > 0).then(|| TopicRoute {
            name: stored_name.to_owned(),
            read_queues: queues,
            write_queues: queues,
            perm: READ_AND_WRITE,
            message_types,
            auto_created: true,
        })
    }

    /// Whether its topics lack permissions that they have themselves, because it is about to leave or has just come.
    pub fn withholds(&self) -> bool {
        self.info.withheld != 0
    }

    /// Epoch of a master; 0 without replication.
    pub fn epoch(&self) -> u32 {
        self.info.epoch
    }

    /// Whether both are of one process, which has another number when it becomes the master.
    pub fn is_same_process(&self, other: &Self) -> bool {
        (&self.info.cluster, &self.info.group, &self.info.incarnation)
            == (&other.info.cluster, &other.info.group, &other.info.incarnation)
    }

    /// Random number of the running process.
    pub fn incarnation(&self) -> &str {
        &self.info.incarnation
    }

    /// The address at which clients reach the broker.
    pub fn address(&self) -> &BrokerAddress {
        &self.address
    }

    /// Whether the SDKs accept it as a master: by its role, and the id 0.
    pub fn is_master(&self) -> bool {
        self.info.role() == BrokerRole::Master && self.info.id == 0
    }

    /// The topic with this stored name (namespace included).
    pub fn topic(&self, stored_name: &str) -> Option<&TopicRoute> {
        self.topics.get(stored_name)
    }

    /// How many topics it registered.
    pub fn topics_len(&self) -> usize {
        self.topics.len()
    }

    /// What members of the consumer group with this stored name are told, if the broker registered it.
    pub fn consumer_group(&self, stored_name: &str) -> Option<&GroupSettings> {
        self.groups.get(stored_name)
    }

    /// The entry of a snapshot.
    pub fn to_snapshot(&self, age_ms: u64) -> RegisteredBroker {
        RegisteredBroker {
            broker: Some(BrokerInfo {
                host: self.address.host.clone(),
                port: self.address.port.into(),
                ..self.info.clone()
            }),
            topics: self.topics.values().cloned().collect(),
            age_ms,
            groups: self.groups.values().cloned().collect(),
        }
    }
}
