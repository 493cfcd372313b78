//! Routes: the brokers, their topics, and the answers to clients about them.
//!
//! [`RouteTable`] is the pure state; [`ClusterRoutes`] is its one owner in a process and reads the clock.

mod election;
mod queries;
mod registration;
mod table;
#[cfg(test)]
mod tests;
mod view;

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kerolox_proto::kerolox::{
    ClusterSnapshot, GroupSettings, RegisterRequest, TopicRoute, UnregisterRequest,
};
use kerolox_proto::v2;
use tokio::sync::watch;

pub(crate) use election::ELECTION_WAIT;
use kerolox_runtime::process::now_ms;
pub use queries::{ALL_QUEUES, assignments, message_queues, stored_topic, writable_groups};
pub use registration::{BrokerAddress, BrokerIdentity, BrokerRegistration, RegistrationError};
pub use table::{RouteBounds, RouteChange, RouteTable};

use crate::refusal::Refusal;

/// How long a registration lasts by default: a dead broker is out of the routes after that time.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);
/// How often a broker registers by default.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(2);

/// The route table of a process, shared by all its services.
#[derive(Debug)]
pub struct ClusterRoutes {
    table: Mutex<RouteTable>,
    began: Instant,
    /// Counts what may change answers.
    changes: watch::Sender<u64>,
    /// Counts wishes for news.
    wishes: watch::Sender<u64>,
}

/// The master of a broker group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMaster {
    /// The address at which it can be reached.
    pub address: BrokerAddress,
    /// Of its epoch; 0 without replication.
    pub epoch: u32,
    /// Random number of its process.
    pub incarnation: String,
}

impl ClusterRoutes {
    /// Routes of which nothing is known yet; registrations last for `lease`.
    pub fn new(lease: Duration) -> Self {
        // Another run of this process starts with a much higher version, so brokers never take one for the other.
        let first_version = u64::try_from(now_ms()).unwrap_or_default() * 1000;
        let table = Mutex::new(RouteTable::new(lease, first_version));
        let (changes, wishes) = (watch::Sender::new(0), watch::Sender::new(0));
        Self { table, began: Instant::now(), changes, wishes }
    }

    /// Empty routes with other bounds for registrations.
    pub fn bounded(lease: Duration, bounds: RouteBounds) -> Self {
        let routes = Self::new(lease);
        let table = routes.table.into_inner().expect("it is not shared yet").bounded(bounds);
        Self { table: Mutex::new(table), ..routes }
    }

    /// Changes whenever answers may be different.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Asks the tasks that fetch routes from elsewhere to do so at once.
    pub fn want_news(&self) {
        self.wishes.send_modify(|count| *count += 1);
    }

    /// Changes with every wish for newer routes.
    pub fn wishes(&self) -> watch::Receiver<u64> {
        self.wishes.subscribe()
    }

    /// Changes the table; announces the change if `is_news` says so of the outcome.
    fn change<T>(&self, change: impl FnOnce(&mut RouteTable) -> T, is_news: impl FnOnce(&T) -> bool) -> T {
        let outcome = {
            let mut table = self.lock();
            let outcome = change(&mut table);
            table.note_masters(Instant::now());
            outcome
        };
        if is_news(&outcome) {
            self.changes.send_modify(|count| *count += 1);
        }
        outcome
    }

    /// How long a registration lasts without another one.
    pub fn lease(&self) -> Duration {
        self.lock().lease()
    }

    /// Takes a broker's registration; `peer` is the address that it connected from.
    ///
    /// # Errors
    /// See [`RouteTable::register`].
    pub fn register(
        &self,
        request: RegisterRequest,
        peer: Option<IpAddr>,
    ) -> Result<RouteChange, RegistrationError> {
        let is_news = |change: &Result<RouteChange, _>| !matches!(change, Ok(RouteChange::Nothing) | Err(_));
        self.change(|table| table.register(request, peer, Instant::now()), is_news)
    }

    /// Takes a broker out at once; see [`RouteTable::unregister`].
    pub fn unregister(&self, request: &UnregisterRequest) -> bool {
        self.change(|table| table.unregister(request), |was_there| *was_there)
    }

    /// Takes out the brokers whose lease has ended, and returns them. To be called a few times per lease.
    pub fn expire(&self) -> Vec<BrokerIdentity> {
        self.change(|table| table.expire(Instant::now()), |ended| !ended.is_empty())
    }

    /// Sets the registration of the broker that this process is.
    ///
    /// # Errors
    /// See [`RouteTable::set_own`].
    pub fn set_own(&self, request: RegisterRequest) -> Result<(), RegistrationError> {
        self.change(|table| table.set_own(request), Result::is_ok)
    }

    /// Replaces the earlier state of the nameserver `source`.
    pub fn replace_copy(&self, source: &str, snapshot: ClusterSnapshot) {
        self.change(|table| table.replace_copy(source, snapshot, Instant::now()), |()| true);
    }

    /// Notes that the earlier state of the nameserver `source` still holds.
    pub fn confirm_copy(&self, source: &str) {
        self.lock().confirm_copy(source, Instant::now());
    }

    /// Notes the epoch that a group is in; see [`RouteTable::note_epoch`].
    pub fn note_epoch(&self, cluster: &str, group: &str, epoch: u32) {
        self.change(|table| table.note_epoch(cluster, group, epoch), |is_news| *is_news);
    }

    /// Changes whenever something that is registered here does.
    pub fn version(&self) -> u64 {
        self.lock().version()
    }

    /// The settings that a broker registered for the consumer group with this stored name (namespace included).
    pub fn consumer_group(&self, stored_name: &str) -> Option<GroupSettings> {
        let table = self.lock();
        let brokers = table.brokers(Instant::now());
        brokers.values().find_map(|broker| broker.consumer_group(stored_name).cloned())
    }

    /// Everything that is registered here, or `None` when it is what `known_version` stood for.
    pub fn snapshot_after(&self, known_version: u64) -> Option<ClusterSnapshot> {
        let table = self.lock();
        (table.version() != known_version).then(|| table.snapshot(Instant::now()))
    }

    /// Everything that is registered here.
    pub fn snapshot(&self) -> ClusterSnapshot {
        self.lock().snapshot(Instant::now())
    }

    /// All brokers that are believed to be there, those included that only other servers have heard of.
    pub fn believed(&self) -> ClusterSnapshot {
        let table = self.lock();
        let brokers = table.brokers(Instant::now());
        let brokers = brokers.values().map(|broker| broker.to_snapshot(0)).collect();
        ClusterSnapshot { version: table.version(), brokers }
    }

    /// The queues of a topic for `QueryRoute`.
    ///
    /// # Errors
    /// See [`message_queues`].
    pub fn message_queues(
        &self,
        topic: &v2::Resource,
        instead: Option<&v2::Endpoints>,
    ) -> Result<Vec<v2::MessageQueue>, Refusal> {
        message_queues(&self.lock().brokers(Instant::now()), topic, instead)
    }

    /// What some broker group registered of the topic with this stored name.
    pub fn topic(&self, stored_name: &str) -> Option<TopicRoute> {
        queries::topic(&self.lock().brokers(Instant::now()), stored_name).cloned()
    }

    /// The queues that the consumers of a topic are to receive from, for `QueryAssignment`.
    ///
    /// # Errors
    /// See [`assignments`].
    pub fn assignments(
        &self,
        topic: &v2::Resource,
        instead: Option<&v2::Endpoints>,
    ) -> Result<Vec<v2::Assignment>, Refusal> {
        assignments(&self.lock().brokers(Instant::now()), topic, instead)
    }

    /// The broker groups that accept messages of a topic.
    ///
    /// # Errors
    /// See [`writable_groups`].
    pub fn writable_groups(&self, topic: Option<&v2::Resource>) -> Result<Vec<String>, Refusal> {
        writable_groups(&self.lock().brokers(Instant::now()), topic)
    }

    /// The broker groups that give out messages of a topic.
    ///
    /// # Errors
    /// See [`assignments`].
    pub fn readable_groups(&self, topic: Option<&v2::Resource>) -> Result<Vec<String>, Refusal> {
        let assignments = self.assignments(&topic.cloned().unwrap_or_default(), None)?;
        let queues = assignments.into_iter().filter_map(|assignment| assignment.message_queue);
        Ok(queues.filter_map(|queue| Some(queue.broker?.name)).collect())
    }

    /// The master of a broker group; `None` when it is not there.
    pub fn master(&self, group: &str) -> Option<GroupMaster> {
        let table = self.lock();
        let brokers = table.brokers(Instant::now());
        let master = brokers.values().find(|broker| broker.group() == group && broker.is_master())?;
        Some(GroupMaster {
            address: master.address().clone(),
            epoch: master.epoch(),
            incarnation: master.incarnation().to_owned(),
        })
    }

    /// Where the masters of all broker groups are.
    pub fn masters(&self) -> Vec<BrokerAddress> {
        let table = self.lock();
        let brokers = table.brokers(Instant::now());
        brokers.values().filter(|broker| broker.is_master()).map(|broker| broker.address().clone()).collect()
    }

    /// Whether slaves of a broker group are there.
    pub fn has_slaves(&self, group: &str) -> bool {
        let table = self.lock();
        let brokers = table.brokers(Instant::now());
        brokers.values().any(|broker| broker.group() == group && !broker.is_master())
    }

    /// Whether any member of a broker group is there, a deposed master included.
    pub fn has_members(&self, group: &str) -> bool {
        self.lock().has_members(group, Instant::now())
    }

    /// Addresses of all brokers that are believed to be there.
    pub fn addresses(&self) -> Vec<BrokerAddress> {
        self.lock().brokers(Instant::now()).values().map(|broker| broker.address().clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, RouteTable> {
        self.table.lock().expect("nothing panics while it holds this lock")
    }
}
