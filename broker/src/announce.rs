//! Registrations: the broker's reports about itself to nameservers and clients.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;

use kerolox_core::group::{BACKOFF_ATTRIBUTE, Group};
use kerolox_core::lite::client_quota;
use kerolox_core::topic::{PERM_WRITE, Topic};
use kerolox_gateway::registrar::{BrokerAnnouncement, BrokerRegistrar};
use kerolox_proto::kerolox::{BrokerInfo, BrokerRole, GroupSettings, RegisterRequest, TopicRoute};
use kerolox_replication::{MemberId, MemberRole};

use crate::config::BrokerConfig;
use crate::replication::{self, StoreCell};

/// The role of this broker in its group at each moment, and its store: its registrations follow from them. Clones share
/// them.
#[derive(Clone)]
pub(crate) struct StandingInGroup {
    /// `None` for a broker that is no member of a replicated group: it leads as long as it has a store.
    pub(crate) group: Option<Arc<replication::Group>>,
    pub(crate) store: StoreCell,
}

impl StandingInGroup {
    /// Epoch and number of this broker while it leads; both are 0 without replication.
    fn leads(&self) -> Option<(u32, MemberId)> {
        let Some(group) = &self.group else { return Some((0, 0)) };
        match group.role() {
            MemberRole::Leader { epoch } | MemberRole::Resigning { epoch } => Some((epoch, group.me())),
            MemberRole::Waiting | MemberRole::Follower { .. } | MemberRole::Candidate { .. } => None,
        }
    }

    /// Whether this broker passes calls on to another member.
    pub(crate) fn passes_on(&self) -> bool {
        self.leads().is_none()
    }

    fn info(&self, info: &BrokerInfo) -> BrokerInfo {
        let withheld = self.store.get().map_or(0, |store| store.state().topics.withheld());
        // Topics that hide from producers are not created either.
        let makes_topics = withheld & PERM_WRITE == 0;
        let auto_create_queues = if makes_topics { info.auto_create_queues } else { 0 };
        let info = BrokerInfo { withheld, auto_create_queues, ..info.clone() };
        match self.leads() {
            // Masters have the id 0, as the SDKs expect.
            Some((epoch, member)) => BrokerInfo { epoch, member: number(member), ..info },
            None => {
                let member = number(self.group.as_ref().map_or(0, |group| group.me()));
                BrokerInfo { id: member, member, role: BrokerRole::Slave.into(), ..info }
            }
        }
    }
}

/// Reports changes to nameservers. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Announcer {
    info: Arc<BrokerInfo>,
    standing: StandingInGroup,
    registrar: Arc<BrokerRegistrar>,
}

impl Announcer {
    pub(crate) fn new(info: BrokerInfo, standing: StandingInGroup, registrar: Arc<BrokerRegistrar>) -> Self {
        Self { info: Arc::new(info), standing, registrar }
    }

    pub(crate) fn info(&self) -> BrokerInfo {
        self.standing.info(&self.info)
    }

    /// Returns when every reachable nameserver knows the current topics.
    pub(crate) async fn announce(&self) {
        self.registrar.announce().await;
    }
}

fn number(id: MemberId) -> u32 {
    u32::try_from(id).unwrap_or(u32::MAX)
}

/// The description of this broker as a master.
pub(crate) fn broker_info(config: &BrokerConfig, local: SocketAddr) -> BrokerInfo {
    BrokerInfo {
        cluster: config.cluster.clone(),
        group: config.group.clone(),
        id: 0,
        role: BrokerRole::Master.into(),
        host: advertised_host(config, local),
        port: local.port().into(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        incarnation: uuid::Uuid::new_v4().to_string(),
        auto_create_queues: if config.auto_creates() { config.topics.default_queues } else { 0 },
        epoch: 0,
        withheld: 0,
        member: 0,
    }
}

/// The host that clients are told: the configured one, else the listen address. If that means all addresses, it is the
/// local address on the route to the nameserver, which is right on a single network.
fn advertised_host(config: &BrokerConfig, local: SocketAddr) -> String {
    if !config.advertise.is_empty() {
        return config.advertise.clone();
    }
    if !local.ip().is_unspecified() {
        return local.ip().to_string();
    }
    let towards = config.nameservers.first().map_or("", String::as_str);
    let found = outgoing_ip(towards).unwrap_or(IpAddr::from([127, 0, 0, 1]));
    tracing::info!(host = %found, "listening on all addresses; clients are told this one (set `advertise` for another)");
    found.to_string()
}

/// The local address on the route to `target`. Connecting a UDP socket sends nothing: it only queries the routing
/// table.
fn outgoing_ip(target: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // 192.0.2.0/24 is reserved for documentation: it follows the default route and belongs to no host.
    socket.connect(target).or_else(|_| socket.connect("192.0.2.1:9")).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    (!ip.is_unspecified()).then_some(ip)
}

/// The current registration, computed on demand.
pub(crate) fn announcement(info: BrokerInfo, standing: StandingInGroup) -> BrokerAnnouncement {
    Arc::new(move || {
        let broker = Some(standing.info(&info));
        let Some(store) = standing.store.get() else {
            return RegisterRequest { broker, ..RegisterRequest::default() };
        };
        let (topics, withheld) = {
            let index = store.state();
            (index.topics.all(), index.topics.withheld())
        };
        let topics = topics.iter().map(|topic| topic_route(topic, withheld)).collect();
        let groups = store.state().groups.all();
        let groups = groups.iter().filter(|group| group.parent == 0);
        let groups = groups.map(|group| group_settings(group)).collect();
        RegisterRequest { broker, topics, known_snapshot_version: 0, groups }
    })
}

fn topic_route(topic: &Topic, withheld: u32) -> TopicRoute {
    TopicRoute {
        name: topic.name.clone(),
        read_queues: topic.read_queues,
        write_queues: topic.write_queues,
        perm: topic.perm & !withheld,
        message_types: topic.types.clone(),
        auto_created: topic.is_auto_created(),
    }
}

fn group_settings(group: &Group) -> GroupSettings {
    GroupSettings {
        name: group.name.clone(),
        fifo: group.fifo,
        max_attempts: group.max_attempts(),
        backoff: group.attributes.get(BACKOFF_ATTRIBUTE).cloned().unwrap_or_default(),
        lite_quota: u32::try_from(client_quota(group)).unwrap_or(u32::MAX),
    }
}
