//! Routes: which brokers there are, which topics they have, and what clients are told about it.
//!
//! [`RouteTable`] is the pure state; [`Routes`] is its one owner in a process and reads the clock.

mod queries;
mod registration;
mod table;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kerolox_proto::kerolox::{
    ClusterSnapshot, GroupSettings, RegisterRequest, TopicRoute, UnregisterRequest,
};
use kerolox_proto::v2;

pub use queries::{ALL_QUEUES, assignments, message_queues, stored_topic, writable_groups};
pub use registration::{BrokerAddress, MemberId, Registration, RegistrationError};
pub use table::{Change, RouteTable};

use crate::process::now_ms;
use crate::refusal::Refusal;

/// How long a registration lasts by default: a dead broker is out of the routes after that time.
pub const DEFAULT_LEASE: Duration = Duration::from_secs(10);
/// How often a broker registers by default.
pub const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(2);

/// The route table of a process, shared by all its services.
#[derive(Debug)]
pub struct Routes {
    table: Mutex<RouteTable>,
}

impl Routes {
    /// Routes of which nothing is known yet; registrations last for `lease`.
    pub fn new(lease: Duration) -> Self {
        // Another run of this process starts with a much higher version, so brokers never take one for the other.
        let first_version = u64::try_from(now_ms()).unwrap_or_default() * 1000;
        Self { table: Mutex::new(RouteTable::new(lease, first_version)) }
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
    ) -> Result<Change, RegistrationError> {
        self.lock().register(request, peer, Instant::now())
    }

    /// Takes a broker out at once; see [`RouteTable::unregister`].
    pub fn unregister(&self, request: &UnregisterRequest) -> bool {
        self.lock().unregister(request)
    }

    /// Takes out the brokers whose lease has ended, and returns them. To be called a few times per lease.
    pub fn expire(&self) -> Vec<MemberId> {
        self.lock().expire(Instant::now())
    }

    /// Sets the registration of the broker that this process is.
    ///
    /// # Errors
    /// See [`RouteTable::set_own`].
    pub fn set_own(&self, request: RegisterRequest) -> Result<(), RegistrationError> {
        self.lock().set_own(request)
    }

    /// Replaces what the nameserver `source` said earlier.
    pub fn replace_copy(&self, source: &str, snapshot: ClusterSnapshot) {
        self.lock().replace_copy(source, snapshot, Instant::now());
    }

    /// Notes that what the nameserver `source` said earlier is still true.
    pub fn confirm_copy(&self, source: &str) {
        self.lock().confirm_copy(source, Instant::now());
    }

    /// Changes whenever something that is registered here does.
    pub fn version(&self) -> u64 {
        self.lock().version()
    }

    /// What a broker registered of the consumer group with this stored name (namespace included).
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

    /// The queues of a topic for `QueryRoute`.
    ///
    /// # Errors
    /// See [`message_queues`].
    pub fn message_queues(&self, topic: &v2::Resource) -> Result<Vec<v2::MessageQueue>, Refusal> {
        message_queues(&self.lock().brokers(Instant::now()), topic)
    }

    /// What some master registered of the topic with this stored name.
    pub fn topic(&self, stored_name: &str) -> Option<TopicRoute> {
        let table = self.lock();
        let brokers = table.brokers(Instant::now());
        let masters = brokers.values().filter(|broker| broker.is_master());
        { masters }.find_map(|broker| broker.topic(stored_name).cloned())
    }

    /// What the consumers of a topic are to receive from, for `QueryAssignment`.
    ///
    /// # Errors
    /// See [`assignments`].
    pub fn assignments(&self, topic: &v2::Resource) -> Result<Vec<v2::Assignment>, Refusal> {
        assignments(&self.lock().brokers(Instant::now()), topic)
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
        let assignments = self.assignments(&topic.cloned().unwrap_or_default())?;
        let queues = assignments.into_iter().filter_map(|assignment| assignment.message_queue);
        Ok(queues.filter_map(|queue| Some(queue.broker?.name)).collect())
    }

    /// Where the master of a broker group can be reached; `None` when it is not there.
    pub fn broker_endpoint(&self, group: &str) -> Option<BrokerAddress> {
        let table = self.lock();
        let brokers = table.brokers(Instant::now());
        let master = brokers.values().find(|broker| broker.group() == group && broker.is_master());
        master.map(|broker| broker.address().clone())
    }

    /// The masters that are believed to be there: broker group and address.
    pub fn masters(&self) -> Vec<(String, BrokerAddress)> {
        let table = self.lock();
        let brokers = table.brokers(Instant::now());
        let masters = brokers.values().filter(|broker| broker.is_master());
        masters.map(|broker| (broker.group().to_owned(), broker.address().clone())).collect()
    }

    /// Addresses of all brokers that are believed to be there.
    pub fn addresses(&self) -> Vec<BrokerAddress> {
        self.lock().brokers(Instant::now()).values().map(|broker| broker.address().clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, RouteTable> {
        self.table.lock().expect("nothing panics while it holds this lock")
    }
}
