//! The active subscriptions.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kerolox_core::group::{Group, member_name};
use kerolox_core::group_change::GroupChange;
use kerolox_core::topic::Topic;
use kerolox_gateway::clients::{ClientSessions, FilterAnnouncements};
use kerolox_gateway::refusal::Refusal;
use kerolox_log::sabotage::is;
use kerolox_proto::v2::Code;
use kerolox_runtime::process::now_ms;
use kerolox_store::Store;
use parking_lot::RwLock;

use super::acknowledged::AckJournal;
use super::alarm::Alarm;
use super::arrivals::{ByTopic, QueueArrivals};
use super::lites::Lites;
use super::subscription::TopicSubscription;
use super::watch::{WatchedQueue, Watches};
use super::{BroadcastMembers, ProgressLog};
use crate::creation_quota::CreationQuota;
use crate::log_client::LogClient;
use crate::metadata::{BrokerMetadata, ChangeError};
use crate::refused::refused_by_store;
use crate::wire;

/// The directory of subscriptions. A subscription becomes active when its group first asks for messages of its topic.
pub struct DeliveryDirectory {
    pub(super) log: LogClient,
    metadata: BrokerMetadata,
    pub(super) progress: ProgressLog,
    active: Arc<RwLock<ByTopic>>,
    pub(super) lites: Arc<Lites>,
    pub(super) alarm: Alarm,
    watches: Arc<Watches>,
    members: BroadcastMembers,
    acknowledged: AckJournal,
    auto_groups: AutoGroups,
    announcements: Arc<FilterAnnouncements>,
    /// Set once all members had time to report to this master.
    is_settled: AtomicBool,
    /// Topics from this number on are new: no member can have missed their messages.
    first_new_topic: u32,
    /// See `kerolox_core::delivery::DeliveryEngine::new`.
    lease_base: u64,
}

/// Rules for the automatic creation of consumer groups.
pub struct AutoGroups {
    /// Whether groups are created with their first receive.
    pub is_on: bool,
    /// Number of groups at which automatic creation stops.
    pub max: usize,
    /// Quota of each client.
    pub made: CreationQuota,
    /// Maximum number of clients of all broadcast groups, each of which has its own cursor.
    pub members_max: usize,
}

impl DeliveryDirectory {
    /// A directory whose subscriptions are notified of messages through `arrivals`. Members of groups are those that
    /// receive, and those in `announcements`.
    pub fn new(
        (log, metadata): (LogClient, BrokerMetadata),
        progress: ProgressLog,
        arrivals: &QueueArrivals,
        announcements: Arc<FilterAnnouncements>,
        auto_groups: AutoGroups,
    ) -> Self {
        // Microseconds: no process issues a million leases per second for its whole life.
        let first_new_topic = log.store().state().topics.next_id();
        let lease_base = u64::try_from(now_ms()).unwrap_or(0).saturating_mul(1000);
        Self {
            log,
            metadata,
            progress,
            active: arrivals.active.clone(),
            lites: arrivals.lites.clone(),
            watches: arrivals.watches.clone(),
            members: BroadcastMembers::default(),
            acknowledged: AckJournal::default(),
            alarm: Alarm::default(),
            auto_groups,
            announcements,
            is_settled: AtomicBool::new(is("announced-does-not-count")),
            first_new_topic,
            lease_base,
        }
    }

    /// Recent acknowledgements since this broker became the master.
    pub fn acknowledged(&self) -> &AckJournal {
        &self.acknowledged
    }

    /// The log of the subscriptions' progress.
    pub fn progress(&self) -> &ProgressLog {
        &self.progress
    }

    /// The consumer group with a name, created for `client` if that is allowed.
    ///
    /// # Errors
    /// CONSUMER_GROUP_NOT_FOUND, FORBIDDEN for a group that may not consume, or the log's error.
    pub async fn group(&self, name: &str, client: &str) -> Result<Arc<Group>, Refusal> {
        let present = self.log.store().state().groups.get(name);
        let group = match present {
            Some(group) => group,
            None if self.auto_groups.is_on => self.make_group(name, client).await?,
            None => {
                return Err(Refusal::new(
                    Code::ConsumerGroupNotFound,
                    format!(
                        "there is no consumer group {name:?}; create it with `mqadmin updateSubGroup -g {name}`"
                    ),
                ));
            }
        };
        if group.consume_enable {
            return Ok(group);
        }
        Err(Refusal::new(
            Code::Forbidden,
            format!(
                "the consumer group {name:?} may not consume; allow it with `mqadmin updateSubGroup -g {name} -s true`"
            ),
        ))
    }

    async fn make_group(&self, name: &str, client: &str) -> Result<Arc<Group>, Refusal> {
        let AutoGroups { max, made, .. } = &self.auto_groups;
        let refused = |why: String| {
            let text = format!(
                "there is no consumer group {name:?}, and none is created automatically, because {why}; create it with `mqadmin updateSubGroup -g {name}`"
            );
            Err(Refusal::new(Code::ConsumerGroupNotFound, text))
        };
        let count = self.log.store().state().groups.all().iter().filter(|group| group.parent == 0).count();
        if count >= *max {
            return refused(format!("there are {count} (groups.auto-create-max is {max})"));
        }
        if !made.take(client) {
            let each = made.max();
            return refused(format!(
                "client {client} has made {each} (groups.auto-create-max-per-client is {each})"
            ));
        }
        let change = GroupChange { name: name.to_owned(), ..GroupChange::default() };
        let created = self.metadata.put_group(&change).await;
        if !matches!(created, Ok((_, true))) {
            made.give_back(client);
        }
        Ok(created.map_err(not_created)?.0)
    }

    /// The group whose cursor `client` uses: the one with this name, or the client's own member of a broadcast group,
    /// which is created if it does not exist.
    ///
    /// # Errors
    /// See [`Self::group`].
    pub async fn consuming(&self, name: &str, client: &str) -> Result<Arc<Group>, Refusal> {
        let group = self.group(name, client).await?;
        if !group.is_broadcast() {
            return Ok(group);
        }
        if let Some(member) = self.member(&group, client) {
            return Ok(member);
        }
        let max = self.auto_groups.members_max;
        let count = self.log.store().state().groups.all().iter().filter(|group| group.parent != 0).count();
        if count >= max {
            return Err(Refusal::new(
                Code::TooManyRequests,
                format!(
                    "the broadcast groups of this broker have {count} members, the limit is {max} (groups.members-max); clients that \
                     keep their id need no new one, and those that stay away are removed after groups.member-expiry"
                ),
            ));
        }
        let created = self.metadata.put_member(&group, client).await;
        let member = created.map_err(not_created)?;
        tracing::info!(group = name, client, "a member joins the broadcast group");
        Ok(self.saw(&group, client, member.id))
    }

    /// The group whose cursor a receipt handle of `client` belongs to; `None` for a client of a broadcast group that never
    /// received.
    ///
    /// # Errors
    /// See [`Self::group`].
    pub async fn holding(&self, name: &str, client: &str) -> Result<Option<Arc<Group>>, Refusal> {
        let group = self.group(name, client).await?;
        Ok(if group.is_broadcast() { self.member(&group, client) } else { Some(group) })
    }

    fn member(&self, group: &Group, client: &str) -> Option<Arc<Group>> {
        let member = self.log.store().state().groups.get(&member_name(&group.name, client))?;
        // A group of the same name may have been deleted since.
        (member.parent == group.id).then(|| self.saw(group, client, member.id))
    }

    fn saw(&self, group: &Group, client: &str, id: u32) -> Arc<Group> {
        self.members.saw(id, Instant::now());
        Arc::new(Group { id, ..group.as_member(client) })
    }

    /// Removes the members of broadcast groups that were not active for `expiry`, and those whose group is gone or no
    /// broadcast group any more.
    pub async fn remove_members(&self, is_alive: impl Fn(&str) -> bool + Send, expiry: Duration) {
        let groups = self.log.store().state().groups.all();
        let members: Vec<&Arc<Group>> = groups.iter().filter(|group| group.parent != 0).collect();
        if members.is_empty() {
            return;
        }
        let present: Vec<(u32, &str)> = members.iter().map(|m| (m.id, m.member.as_str())).collect();
        let gone = self.members.gone(&present, is_alive, Instant::now(), expiry);
        let is_orphan = |member: &Group| {
            let parent = groups.iter().find(|group| group.id == member.parent);
            parent.is_none_or(|parent| !parent.is_broadcast())
        };
        let mut removed = false;
        for member in members.iter().filter(|member| gone.contains(&member.id) || is_orphan(member)) {
            match self.metadata.delete_group(&member.name).await {
                Ok(_) => {
                    tracing::info!(
                        group = member.public_name(),
                        client = member.member,
                        "a member was removed"
                    );
                    removed = true;
                }
                Err(error) => tracing::warn!(group = member.name, %error, "a member cannot be removed yet"),
            }
        }
        if removed {
            self.forget_deleted();
        }
    }

    /// The subscription of a group to a topic.
    ///
    /// # Errors
    /// INTERNAL_SERVER_ERROR when the store cannot be read.
    pub fn subscription(&self, group: &Group, topic: &Topic) -> Result<Arc<TopicSubscription>, Refusal> {
        let subscription = self.activate(group, topic);
        let begins = subscription
            .catch_up(topic, group, self.log.store())
            .map_err(|error| refused_by_store(&error))?;
        if begins {
            self.progress.note(&subscription);
        }
        Ok(subscription)
    }

    /// Adds all members that have announced themselves so far to a subscription.
    pub fn heed_announced(&self, subscription: &TopicSubscription, group: &Group, topic: &Topic) {
        // The version first: changes in the meantime are handled next time.
        let version = self.announcements.version();
        if subscription.is_lite() || is("announced-does-not-count") {
            return;
        }
        subscription.heed_announced(version, || {
            let announced = self.announcements.filters(&group.name, &topic.name);
            // A receive with a malformed filter is refused.
            announced.iter().filter_map(|filter| wire::filter(&filter.to_expression()).ok()).collect()
        });
    }

    /// From now on, messages that no known member wants are done.
    pub fn settle(&self) {
        self.is_settled.store(true, Ordering::SeqCst);
        // Subscriptions that become active later see the flag, since they read it while they hold the lock.
        let now_ms = now_ms();
        self.all()
            .iter()
            .for_each(|subscription| subscription.change(now_ms, |engine| engine.settle(now_ms)));
    }

    /// Watches arrivals in a queue without subscribing to it.
    pub fn watch(&self, topic: &Topic, queue: u32) -> WatchedQueue {
        self.watches.watch(topic.id, queue)
    }

    /// The subscription of a group to a topic, if its group has requested messages since this broker was started.
    pub fn active(&self, group_id: u32, topic_id: u32) -> Option<Arc<TopicSubscription>> {
        let active = self.active.read();
        active.get(&topic_id).and_then(|by_group| by_group.get(&group_id)).cloned()
    }

    /// Topics in which a group has an active subscription.
    pub(super) fn active_topics(&self, group_id: u32) -> Vec<u32> {
        let active = self.active.read();
        let topics = active.iter().filter(|(_, by_group)| by_group.contains_key(&group_id));
        topics.map(|(topic_id, _)| *topic_id).collect()
    }

    /// Wakes subscriptions with due work; runs as long as the runtime. `clients` knows which clients are alive.
    pub async fn keep_time(self: Arc<Self>, clients: Arc<ClientSessions>) {
        loop {
            let (topic_id, group_id, lite) = self.alarm.next().await;
            let found = match lite {
                Some(queue) => self.lites.find(topic_id, queue, group_id),
                None => self.active(group_id, topic_id),
            };
            let Some(subscription) = found else { continue };
            if subscription.sweep(now_ms(), |client| clients.is_alive(client)) {
                self.progress.note(&subscription);
            }
        }
    }

    /// A client left: the messages that it held while alive go to others.
    pub fn client_left(&self, client: &str) {
        let now_ms = now_ms();
        self.lites.directory.client_left(client);
        for subscription in self.all() {
            subscription.change(now_ms, |engine| engine.client_left(now_ms, client));
        }
    }

    /// Forgets the subscriptions of topics and groups that are gone. Ids are never reused, so there can be no confusion
    /// until then.
    pub fn forget_deleted(&self) {
        let (topics, groups) = live_ids(self.log.store());
        let mut active = self.active.write();
        active.retain(|topic_id, _| topics.contains(topic_id));
        active.values_mut().for_each(|by_group| by_group.retain(|group_id, _| groups.contains(group_id)));
        drop(active);
        self.lites.retain(|s| topics.contains(&s.topic_id()) && groups.contains(&s.group_id()));
    }

    fn activate(&self, group: &Group, topic: &Topic) -> Arc<TopicSubscription> {
        if let Some(found) = self.active(group.id, topic.id) {
            return found;
        }
        // It is in the directory before its queues are read, so no arrival in between is missed.
        let mut active = self.active.write();
        let by_group = active.entry(topic.id).or_default();
        let policy = group.policy(topic);
        let new = || {
            let new = TopicSubscription::new(group.id, topic.id, self.lease_base, policy, self.alarm.clone());
            // A member of a broadcast group shares its messages with no other client.
            let is_shared = group.parent == 0 && topic.id < self.first_new_topic;
            if is_shared && !self.is_settled.load(Ordering::SeqCst) { new.holding_back() } else { new }
        };
        by_group.entry(group.id).or_insert_with(|| Arc::new(new())).clone()
    }

    fn all(&self) -> Vec<Arc<TopicSubscription>> {
        let active = self.active.read();
        let all: Vec<Arc<TopicSubscription>> = active.values().flat_map(HashMap::values).cloned().collect();
        drop(active);
        [all, self.lites.all()].concat()
    }

    /// Forgets unused state of lite topics: subscriptions of clients that are gone, and idle engines.
    pub fn tidy_lites(&self, alive: impl Fn(&str) -> bool) {
        let (topics, groups) = live_ids(self.log.store());
        let is_live = |topic_id, group_id| topics.contains(&topic_id) && groups.contains(&group_id);
        self.lites.directory.prune(is_live, alive);
        self.retire_lites();
    }
}

fn live_ids(store: &Store) -> (Vec<u32>, Vec<u32>) {
    let index = store.state();
    let topics = index.topics.all().iter().map(|topic| topic.id).collect();
    (topics, index.groups.all().iter().map(|group| group.id).collect())
}

fn not_created(error: ChangeError) -> Refusal {
    match error {
        ChangeError::Invalid(text) => Refusal::new(Code::IllegalConsumerGroup, text),
        ChangeError::Log(refusal) => refusal.into(),
    }
}
