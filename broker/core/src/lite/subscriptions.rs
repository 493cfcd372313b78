//! Which clients subscribe to which lite topics. Subscriptions are memory: clients repeat them every 30 s.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::SubscriptionModel;

/// A client that does not repeat its subscriptions for this many milliseconds loses them (RocketMQ's timeout).
pub const FORGOTTEN_AFTER_MS: u64 = 180_000;

/// A topic and a group.
type Parent = (u32, u32);

/// One client of one group, and the handle of its inbox.
#[derive(Debug, Clone)]
struct Subscriber<I> {
    group_id: u32,
    client: Arc<str>,
    inbox: I,
}

#[derive(Debug)]
struct ClientSubscriptions<I> {
    subscriber: Subscriber<I>,
    /// Subscribed names, each with its queue once the lite topic exists.
    names: BTreeMap<String, Option<u32>>,
    version: i64,
    /// When the client repeated its subscriptions last.
    synced_ms: u64,
}

/// A client's request.
#[derive(Debug)]
pub struct SubscriptionChange<'a> {
    /// Number of the parent.
    pub topic_id: u32,
    /// Number of the group.
    pub group_id: u32,
    /// Id of the client.
    pub client: &'a str,
    /// Requested action.
    pub action: SubscriptionAction,
    /// The lite topics, each with its queue if it exists.
    pub names: Vec<(String, Option<u32>)>,
    /// Version of the request; older versions than the last one are ignored.
    pub version: Option<i64>,
    /// Whether other clients of the group may subscribe to one of them.
    pub model: SubscriptionModel,
    /// Limit of lite topics for this client.
    pub quota: usize,
}

/// What the request does with the named lite topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubscriptionAction {
    /// Adds them to the client's subscriptions.
    Add,
    /// Replaces the client's subscriptions with them.
    Replace,
    /// Removes them from the client's subscriptions.
    Remove,
    /// Removes all subscriptions of the client.
    RemoveAll,
}

/// Too many subscriptions; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverQuota {
    /// The client would exceed this limit.
    Client(usize),
    /// All clients of the broker together would exceed this limit.
    Broker(usize),
}

/// A subscription that a client lost to another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvictedSubscription {
    /// Client id of the previous subscriber.
    pub client: String,
    /// Name of the lite topic.
    pub lite_topic: String,
}

/// The consequences of a change.
#[derive(Debug, Default)]
pub struct SyncOutcome<I> {
    /// Subscriptions that other clients lost by the change.
    pub evicted: Vec<EvictedSubscription>,
    /// Inboxes, each with a queue that may hold messages.
    pub ready: Vec<(I, u32)>,
}

/// The table of subscriptions to lite topics. `I` is the handle of a client's inbox. Times are monotonic milliseconds.
///
/// Invariant: a client that subscribes to a lite topic stands in the list of that topic, and in no other.
#[derive(Debug)]
pub struct LiteSubscriptions<I> {
    clients: BTreeMap<Parent, BTreeMap<Arc<str>, ClientSubscriptions<I>>>,
    /// By topic and queue.
    by_queue: HashMap<(u32, u32), Vec<Subscriber<I>>>,
    /// By topic and name of a lite topic that does not exist.
    awaiting: HashMap<(u32, String), Vec<Subscriber<I>>>,
    total: usize,
}

impl<I> Default for LiteSubscriptions<I> {
    fn default() -> Self {
        Self { clients: BTreeMap::new(), by_queue: HashMap::new(), awaiting: HashMap::new(), total: 0 }
    }
}

impl<I: Clone + Default> LiteSubscriptions<I> {
    /// The inbox of a client.
    pub fn inbox(&mut self, topic_id: u32, group_id: u32, client: &str, now_ms: u64) -> I {
        self.client_mut((topic_id, group_id), client, now_ms).subscriber.inbox.clone()
    }

    /// Changes the subscriptions of a client; all clients together have `quota` at the most.
    ///
    /// # Errors
    /// [`OverQuota`]; nothing changes then.
    pub fn sync(
        &mut self,
        change: &SubscriptionChange<'_>,
        quota: usize,
        now_ms: u64,
    ) -> Result<SyncOutcome<I>, OverQuota> {
        let parent = (change.topic_id, change.group_id);
        let total = self.total;
        let client = self.client_mut(parent, change.client, now_ms);
        client.synced_ms = now_ms;
        if change.version.is_some_and(|version| version < client.version) {
            return Ok(SyncOutcome::default());
        }
        let gone = change.removed_from(client.names.keys());
        let added = change.added_to(&client.names);
        let (before, after) = (client.names.len(), client.names.len() + added - gone.len());
        if added > 0 && after > change.quota {
            return Err(OverQuota::Client(change.quota));
        }
        if added > 0 && total - before + after > quota {
            return Err(OverQuota::Broker(quota));
        }
        client.version = change.version.unwrap_or(client.version);
        gone.iter().for_each(|name| self.unsubscribe(parent, change.client, name));
        let mut outcome = SyncOutcome::default();
        for (name, queue) in change.names.iter().filter(|_| change.adds()) {
            if change.model == SubscriptionModel::Exclusive {
                outcome.evicted.extend(self.evict_others(parent, change.client, name, *queue));
            }
            outcome.ready.extend(self.subscribe(parent, change.client, name, *queue, now_ms));
        }
        Ok(outcome)
    }

    /// Inboxes of the clients that subscribe to a lite topic: those of one group, or of all.
    pub fn inboxes(&self, topic_id: u32, queue: u32, group_id: Option<u32>) -> Vec<I> {
        let subscribers = self.by_queue.get(&(topic_id, queue)).into_iter().flatten();
        let counts = |of: &&Subscriber<I>| group_id.is_none_or(|group_id| of.group_id == group_id);
        subscribers.filter(counts).map(|subscriber| subscriber.inbox.clone()).collect()
    }

    /// A lite topic was created.
    pub fn created(&mut self, topic_id: u32, queue: u32, name: &str) {
        for subscriber in self.awaiting.remove(&(topic_id, name.to_owned())).unwrap_or_default() {
            self.set_queue(topic_id, subscriber, name, Some(queue));
        }
    }

    /// A lite topic was removed; its subscribers wait until it is created again.
    pub fn dropped(&mut self, topic_id: u32, queue: u32, name: &str) {
        for subscriber in self.by_queue.remove(&(topic_id, queue)).unwrap_or_default() {
            self.set_queue(topic_id, subscriber, name, None);
        }
    }

    /// A client left.
    pub fn client_left(&mut self, client: &str) {
        self.forget(|_, known, _| known == client);
    }

    /// Forgets clients that neither live nor repeat their subscriptions, and subscriptions of topics and groups that
    /// are gone.
    pub fn prune(&mut self, now_ms: u64, is_live: impl Fn(u32, u32) -> bool, alive: impl Fn(&str) -> bool) {
        self.forget(|(topic_id, group_id), client, synced_ms| {
            !is_live(topic_id, group_id)
                || !alive(client)
                || now_ms.saturating_sub(synced_ms) > FORGOTTEN_AFTER_MS
        });
    }

    fn forget(&mut self, goes: impl Fn(Parent, &str, u64) -> bool) {
        let mut gone = Vec::new();
        for (parent, clients) in &self.clients {
            for (client, of) in clients.iter().filter(|(client, of)| goes(*parent, client, of.synced_ms)) {
                gone.push((*parent, client.clone(), of.names.keys().cloned().collect::<Vec<_>>()));
            }
        }
        for (parent, client, names) in gone {
            names.iter().for_each(|name| self.unsubscribe(parent, &client, name));
            if let Some(clients) = self.clients.get_mut(&parent) {
                clients.remove(&client);
            }
        }
        self.clients.retain(|_, clients| !clients.is_empty());
        let counted = self.clients.values().flat_map(BTreeMap::values).map(|of| of.names.len());
        debug_assert_eq!(self.total, counted.sum::<usize>(), "every subscription is counted once");
    }

    /// Whether a client subscribes to a lite topic: a ready queue may date from before it unsubscribed.
    pub fn is_subscribed(&self, topic_id: u32, group_id: u32, client: &str, queue: u32) -> bool {
        let mut subscribers = self.by_queue.get(&(topic_id, queue)).into_iter().flatten();
        subscribers.any(|subscriber| subscriber.group_id == group_id && *subscriber.client == *client)
    }

    /// Clients of a group, each with the number of lite topics of a parent that it subscribes to.
    pub fn clients(&self, topic_id: u32, group_id: u32) -> Vec<(String, usize)> {
        let clients = self.clients.get(&(topic_id, group_id)).into_iter().flatten();
        clients.map(|(client, of)| (client.to_string(), of.names.len())).collect()
    }

    /// The lite topics to which a client subscribes, by name.
    pub fn names(&self, topic_id: u32, group_id: u32, client: &str) -> Vec<String> {
        let of = self.clients.get(&(topic_id, group_id)).and_then(|clients| clients.get(client));
        of.into_iter().flat_map(|of| of.names.keys().cloned()).collect()
    }

    /// How many clients subscribe to a lite topic: those of one group, or of all.
    pub fn count(&self, topic_id: u32, queue: u32, group_id: Option<u32>) -> usize {
        self.inboxes(topic_id, queue, group_id).len()
    }

    /// The existing lite topics of a parent to which clients of a group subscribe.
    pub fn queues(&self, topic_id: u32, group_id: u32) -> BTreeSet<u32> {
        let clients = self.clients.get(&(topic_id, group_id)).into_iter().flat_map(BTreeMap::values);
        clients.flat_map(|of| of.names.values().copied().flatten()).collect()
    }

    /// The parents below which clients of a group subscribe.
    pub fn parents(&self, group_id: u32) -> Vec<u32> {
        self.clients.keys().filter(|(_, group)| *group == group_id).map(|(topic_id, _)| *topic_id).collect()
    }

    fn client_mut(&mut self, parent: Parent, client: &str, now_ms: u64) -> &mut ClientSubscriptions<I> {
        let clients = self.clients.entry(parent).or_default();
        let id: Arc<str> = Arc::from(client);
        clients.entry(id.clone()).or_insert_with(|| ClientSubscriptions {
            subscriber: Subscriber { group_id: parent.1, client: id, inbox: I::default() },
            names: BTreeMap::new(),
            version: 0,
            synced_ms: now_ms,
        })
    }

    fn subscribers_mut(&mut self, topic_id: u32, name: &str, queue: Option<u32>) -> &mut Vec<Subscriber<I>> {
        match queue {
            Some(queue) => self.by_queue.entry((topic_id, queue)).or_default(),
            None => self.awaiting.entry((topic_id, name.to_owned())).or_default(),
        }
    }

    /// Subscribes a client; returns its inbox and, if the lite topic exists, the queue, which may hold messages.
    fn subscribe(
        &mut self,
        parent: Parent,
        client: &str,
        name: &str,
        queue: Option<u32>,
        now_ms: u64,
    ) -> Option<(I, u32)> {
        let of = self.client_mut(parent, client, now_ms);
        let known = of.names.get(name).copied();
        if known == Some(queue) {
            return None;
        }
        let subscriber = of.subscriber.clone();
        if known.is_some() {
            self.unsubscribe(parent, client, name);
        }
        self.client_mut(parent, client, now_ms).names.insert(name.to_owned(), queue);
        self.total += 1;
        let inbox = subscriber.inbox.clone();
        self.subscribers_mut(parent.0, name, queue).push(subscriber);
        queue.map(|queue| (inbox, queue))
    }

    fn unsubscribe(&mut self, parent: Parent, client: &str, name: &str) {
        let of = self.clients.get_mut(&parent).and_then(|clients| clients.get_mut(client));
        let Some(queue) = of.and_then(|of| of.names.remove(name)) else { return };
        self.total -= 1;
        let list = self.subscribers_mut(parent.0, name, queue);
        list.retain(|subscriber| subscriber.group_id != parent.1 || *subscriber.client != *client);
        if list.is_empty() {
            match queue {
                Some(queue) => drop(self.by_queue.remove(&(parent.0, queue))),
                None => drop(self.awaiting.remove(&(parent.0, name.to_owned()))),
            }
        }
    }

    fn evict_others(
        &mut self,
        parent: Parent,
        client: &str,
        name: &str,
        queue: Option<u32>,
    ) -> Vec<EvictedSubscription> {
        let others = self.subscribers_mut(parent.0, name, queue).iter();
        let others = others.filter(|other| other.group_id == parent.1 && *other.client != *client);
        let others: Vec<Arc<str>> = others.map(|other| other.client.clone()).collect();
        others.iter().for_each(|other| self.unsubscribe(parent, other, name));
        let evicted =
            |other: Arc<str>| EvictedSubscription { client: other.to_string(), lite_topic: name.to_owned() };
        others.into_iter().map(evicted).collect()
    }

    /// A lite topic of a subscriber was created or removed.
    fn set_queue(&mut self, topic_id: u32, subscriber: Subscriber<I>, name: &str, queue: Option<u32>) {
        let clients = self.clients.get_mut(&(topic_id, subscriber.group_id));
        let of = clients.and_then(|clients| clients.get_mut(&subscriber.client));
        if let Some(entry) = of.and_then(|of| of.names.get_mut(name)) {
            *entry = queue;
            self.subscribers_mut(topic_id, name, queue).push(subscriber);
        }
    }
}

impl SubscriptionChange<'_> {
    fn adds(&self) -> bool {
        matches!(self.action, SubscriptionAction::Add | SubscriptionAction::Replace)
    }

    /// Current names of the client that the change removes.
    fn removed_from<'n>(&self, had: impl Iterator<Item = &'n String>) -> Vec<String> {
        let named: BTreeSet<&str> = self.names.iter().map(|(name, _)| name.as_str()).collect();
        let goes = |name: &&String| match self.action {
            SubscriptionAction::Add => false,
            SubscriptionAction::Replace => !named.contains(name.as_str()),
            SubscriptionAction::Remove => named.contains(name.as_str()),
            SubscriptionAction::RemoveAll => true,
        };
        had.filter(goes).cloned().collect()
    }

    /// Number of names that are new to the client.
    fn added_to(&self, had: &BTreeMap<String, Option<u32>>) -> usize {
        let named: BTreeSet<&str> = self.names.iter().map(|(name, _)| name.as_str()).collect();
        named.iter().filter(|name| self.adds() && !had.contains_key(**name)).count()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::lite::ReadyQueues;

    const TOPIC: u32 = 1;
    const GROUP: u32 = 2;

    /// The table, with inboxes that are emptied by hand.
    #[derive(Default)]
    struct World {
        table: LiteSubscriptions<Arc<Mutex<ReadyQueues>>>,
        now_ms: u64,
    }

    fn change<'a>(
        client: &'a str,
        action: SubscriptionAction,
        names: &[(&str, Option<u32>)],
    ) -> SubscriptionChange<'a> {
        SubscriptionChange {
            topic_id: TOPIC,
            group_id: GROUP,
            client,
            action,
            names: names.iter().map(|(name, queue)| ((*name).to_owned(), *queue)).collect(),
            version: None,
            model: SubscriptionModel::Shared,
            quota: 3,
        }
    }

    impl World {
        fn sync(
            &mut self,
            change: &SubscriptionChange<'_>,
            quota: usize,
        ) -> Result<Vec<EvictedSubscription>, OverQuota> {
            let outcome = self.table.sync(change, quota, self.now_ms)?;
            for (inbox, queue) in outcome.ready {
                inbox.lock().unwrap().push(queue);
            }
            Ok(outcome.evicted)
        }

        fn arrived(&self, queue: u32) {
            for inbox in self.table.inboxes(TOPIC, queue, None) {
                inbox.lock().unwrap().push(queue);
            }
        }

        fn ready(&mut self, client: &str) -> Vec<u32> {
            let inbox = self.table.inbox(TOPIC, GROUP, client, self.now_ms);
            let mut ready = inbox.lock().unwrap();
            std::iter::from_fn(|| ready.pop()).collect()
        }

        fn names(&self, client: &str) -> Vec<String> {
            self.table.names(TOPIC, GROUP, client)
        }
    }

    #[test]
    fn only_subscribers_hear_of_a_lite_topic() {
        let mut world = World::default();
        let both = [("x", Some(70_000)), ("y", None)];
        world.sync(&change("a", SubscriptionAction::Add, &both), 9).expect("few");
        world.sync(&change("b", SubscriptionAction::Add, &both[1..]), 9).expect("few");
        assert_eq!(world.ready("a"), [70_000], "a lite topic with messages is ready at once");
        assert!(world.table.is_subscribed(TOPIC, GROUP, "a", 70_000));
        assert!(!world.table.is_subscribed(TOPIC, GROUP, "b", 70_000));
        world.arrived(70_000);
        world.arrived(70_000);
        assert_eq!((world.ready("a"), world.ready("b")), (vec![70_000], vec![]));
        world.table.created(TOPIC, 70_001, "y");
        world.arrived(70_001);
        assert_eq!((world.ready("a"), world.ready("b")), (vec![70_001], vec![70_001]));
        world.table.dropped(TOPIC, 70_001, "y");
        world.table.created(TOPIC, 70_002, "y");
        world.arrived(70_002);
        assert_eq!(world.ready("b"), [70_002], "it came again");
        world.table.client_left("b");
        world.arrived(70_002);
        assert!(world.ready("b").is_empty());
        assert_eq!(world.names("a"), ["x", "y"]);
    }

    #[test]
    fn actions_and_versions() {
        let mut world = World::default();
        let mut act = |action, names: &[(&str, Option<u32>)], version| {
            let change = SubscriptionChange { version: Some(version), ..change("a", action, names) };
            world.sync(&change, 9).expect("few");
            world.names("a")
        };
        act(SubscriptionAction::Add, &[("x", None), ("y", None)], 1);
        assert_eq!(act(SubscriptionAction::Replace, &[("y", None), ("z", None)], 2), ["y", "z"]);
        let late = act(SubscriptionAction::Add, &[("late", None)], 1);
        assert_eq!(late, ["y", "z"], "an older version changes nothing");
        assert_eq!(act(SubscriptionAction::Remove, &[("y", None), ("unknown", None)], 2), ["z"]);
        assert_eq!(act(SubscriptionAction::RemoveAll, &[], 3), [""; 0]);
        assert_eq!(world.table.total, 0);
    }

    #[test]
    fn quotas_are_kept_and_nothing_changes_beyond() {
        let mut world = World::default();
        let three = [("x", None), ("y", None), ("z", None)];
        world.sync(&change("a", SubscriptionAction::Add, &three), 5).expect("three");
        let fourth = change("a", SubscriptionAction::Add, &[("w", None)]);
        assert_eq!(world.sync(&fourth, 5), Err(OverQuota::Client(3)));
        let others = [("w", None), ("x", None), ("y", None)];
        world.sync(&change("a", SubscriptionAction::Replace, &others), 5).expect("three");
        let more = change("b", SubscriptionAction::Add, &three);
        assert_eq!(world.sync(&more, 5), Err(OverQuota::Broker(5)));
        assert_eq!(world.names("b"), [""; 0]);
        assert_eq!(world.table.clients(TOPIC, GROUP)[0], ("a".to_owned(), 3));
    }

    #[test]
    fn an_exclusive_lite_topic_goes_to_the_newest_subscriber() {
        let mut world = World::default();
        let exclusive = |client| SubscriptionChange {
            model: SubscriptionModel::Exclusive,
            ..change(client, SubscriptionAction::Add, &[("x", None)])
        };
        assert_eq!(world.sync(&exclusive("a"), 9), Ok(vec![]));
        assert_eq!(world.sync(&exclusive("a"), 9), Ok(vec![]), "its own");
        let lost = EvictedSubscription { client: "a".to_owned(), lite_topic: "x".to_owned() };
        assert_eq!(world.sync(&exclusive("b"), 9), Ok(vec![lost]));
        assert_eq!((world.names("a").len(), world.names("b").len()), (0, 1));
    }

    #[test]
    fn clients_that_are_gone_are_forgotten() {
        let mut world = World::default();
        let x = [("x", Some(70_000))];
        for client in ["a", "b", "c"] {
            world.sync(&change(client, SubscriptionAction::Add, &x), 9).expect("few");
        }
        world.table.prune(0, |_, _| true, |client| client != "a");
        assert_eq!(world.table.clients(TOPIC, GROUP).len(), 2);
        world.now_ms = FORGOTTEN_AFTER_MS + 1;
        world.sync(&change("b", SubscriptionAction::Add, &x), 9).expect("few");
        world.table.prune(world.now_ms, |_, _| true, |_| true);
        assert_eq!(world.table.clients(TOPIC, GROUP), [("b".to_owned(), 1)], "the other did not repeat them");
        world.table.prune(world.now_ms, |_, _| false, |_| true);
        let table = &world.table;
        assert!(table.clients.is_empty() && table.by_queue.is_empty() && table.total == 0);
    }
}
