//! The background tasks of a leader, by name; they are implemented in [`crate::tasks`] and [`crate::delivery`].

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kerolox_gateway::clients::{ClientSessions, FilterAnnouncements};
use kerolox_gateway::producers::ClientReach;
use kerolox_gateway::registrar::BrokerRegistrar;
use kerolox_gateway::routes::ClusterRoutes;
use kerolox_runtime::supervisor::Supervisor;
use kerolox_store::Store;
use tokio::sync::watch;

use crate::delivery::DeliveryDirectory;
use crate::log_client::LogClient;
use crate::metadata::{BrokerMetadata, MetadataChanges};
use crate::news::Heard;
use crate::rpc::Counters;
use crate::serving::Parts;
use crate::tasks::check_back::CheckBackTask;
use crate::tasks::retention::RetentionTask;
use crate::tasks::timers::Timers;
use crate::tasks::{early_removal, lite_expiry, slot_migration};

/// Interval between searches for dead brokers and clients.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// Interval at which other servers are asked for the members announced there; they also report them unprompted.
const GATHER_EVERY: Duration = Duration::from_secs(1);

/// Dependencies of a leader's tasks.
pub(crate) struct LeaderTasks<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) store: &'a Arc<Store>,
    pub(crate) log: &'a LogClient,
    pub(crate) metadata: &'a BrokerMetadata,
    pub(crate) deliveries: &'a Arc<DeliveryDirectory>,
    pub(crate) reach: &'a Arc<ClientReach>,
    pub(crate) announcements: &'a Arc<FilterAnnouncements>,
    pub(crate) counters: &'a Arc<Counters>,
}

impl LeaderTasks<'_> {
    /// Starts all of them under `tasks`.
    pub(crate) fn start(&self, tasks: &Supervisor, heard: Heard, changes: MetadataChanges) {
        // Without it changes are refused: waiting callers are told that the log is closed.
        tasks.once("metadata changes", changes.run());
        // Acknowledgements of the last calls are still logged.
        let (progress, log, metadata) =
            (self.deliveries.progress().clone(), self.log.clone(), self.metadata.clone());
        tasks.keep_to_end("progress log", move || progress.clone().run(log.clone(), metadata.clone()));
        self.keep_what_is_due(tasks, heard);
        self.keep_house(tasks);
        self.keep_members(tasks);
        self.keep_announcing(tasks);
        let counters = self.counters.clone();
        tasks.keep("rates", move || counters.clone().keep_rates());
    }

    /// Starts the tasks for due messages.
    fn keep_what_is_due(&self, tasks: &Supervisor, Heard { halves, due, .. }: Heard) {
        let config = &self.parts.config;
        let (group, policy, pace) =
            (config.group.clone(), config.transaction.check_policy(), config.timers.pace());
        let (log, reach, webhooks) = (self.log.clone(), self.reach.clone(), self.parts.webhooks.clone());
        tasks.keep("check-back", move || {
            let (log, reach, webhooks) = (log.clone(), reach.clone(), webhooks.clone());
            CheckBackTask::new(group.clone(), log, reach, webhooks, policy, halves.clone()).run()
        });
        let (log, clock) = (self.log.clone(), self.parts.clock.clone());
        tasks.keep("timers", move || Timers::new(log.clone(), clock.clone(), pace, due.clone()).run());
        let (deliveries, clients) = (self.deliveries.clone(), self.parts.clients.clone());
        tasks.keep("delivery alarm", move || deliveries.clone().keep_time(clients.clone()));
    }

    /// Starts the tasks for expiry, removal and migration.
    fn keep_house(&self, tasks: &Supervisor) {
        let config = &self.parts.config;
        let retention = Arc::new(RetentionTask {
            store: self.store.clone(),
            folder: config.data.clone(),
            limits: config.retention_limits(),
            interval: config.retention.check_interval.duration(),
            space: self.parts.health.room.clone(),
            unread: {
                let (store, deliveries) = (self.store.clone(), self.deliveries.clone());
                Box::new(move |going| early_removal::unread_of_groups(&store, &deliveries, going))
            },
            losses: self.parts.health.losses.clone(),
        });
        tasks.keep("retention", move || retention.clone().run());
        let (log, metadata, interval) =
            (self.log.clone(), self.metadata.clone(), config.lite.check_interval.duration());
        tasks.keep("lite expiry", move || lite_expiry::run(log.clone(), metadata.clone(), interval));
        let log = self.log.clone();
        tasks.keep("slot migration", move || slot_migration::run(log.clone()));
        let (routes, clients) = (self.parts.routes.clone(), self.parts.clients.clone());
        let (deliveries, expiry) = (self.deliveries.clone(), config.groups.member_expiry.duration());
        tasks.keep("housekeeping", move || {
            keep_house(routes.clone(), clients.clone(), deliveries.clone(), expiry)
        });
    }

    fn keep_members(&self, tasks: &Supervisor) {
        let gather_time = self.parts.config.groups.gather_time.duration();
        let (reach, announcements) = (self.reach.clone(), self.announcements.clone());
        let deliveries = self.deliveries.clone();
        tasks.keep("members elsewhere", move || {
            gather_members(reach.clone(), announcements.clone(), deliveries.clone(), gather_time)
        });
    }

    fn keep_announcing(&self, tasks: &Supervisor) {
        let (topics, registrar) = (self.metadata.topics_version(), Arc::downgrade(&self.parts.registrar));
        tasks.keep("topic announcements", move || announce_topics(topics.clone(), registrar.clone()));
    }
}

/// Gathers the members of consumer groups that were announced at other servers. Before all of them had `gather_time` to report, no
/// message counts as unwanted.
async fn gather_members(
    reach: Arc<ClientReach>,
    announcements: Arc<FilterAnnouncements>,
    deliveries: Arc<DeliveryDirectory>,
    gather_time: Duration,
) {
    let began = Instant::now();
    let mut is_settled = false;
    loop {
        reach.gather_announced(&announcements).await;
        if !is_settled && began.elapsed() >= gather_time {
            deliveries.settle();
            is_settled = true;
        }
        tokio::time::sleep(GATHER_EVERY).await;
    }
}

/// Announces new topics to clients and nameservers, also those that the broker created itself, such as dead-letter topics.
async fn announce_topics(mut topics: watch::Receiver<u64>, registrar: Weak<BrokerRegistrar>) {
    while topics.changed().await.is_ok() {
        let Some(registrar) = registrar.upgrade() else { return };
        registrar.announce().await;
    }
}

async fn keep_house(
    routes: Arc<ClusterRoutes>,
    clients: Arc<ClientSessions>,
    deliveries: Arc<DeliveryDirectory>,
    member_expiry: Duration,
) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    loop {
        ticks.tick().await;
        routes.expire();
        for client_id in clients.expire() {
            deliveries.client_left(&client_id);
        }
        deliveries.tidy_lites(|client| clients.is_alive(client));
        deliveries.remove_members(|client| clients.is_alive(client), member_expiry).await;
    }
}
