//! Who subscribes to which lite topics, and what is ready for whom. Subscriptions are memory: clients repeat them every 30 s.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kerolox_core::lite::Model;
use tokio::sync::Notify;

/// A client whose subscriptions were not repeated for this long has none any more (RocketMQ's timeout).
const FORGOTTEN_AFTER: Duration = Duration::from_secs(180);
/// Receives whose lite topics are remembered, for when they are repeated.
const REPEATABLE: usize = 16;

/// The lite topics in which there may be something for one client of one group.
#[derive(Debug, Default)]
pub struct Inbox {
    ready: Mutex<Ready>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Ready {
    /// Queues, the one that has waited longest first; each once.
    order: VecDeque<u32>,
    known: HashSet<u32>,
    /// Attempt ids, and the queues that they got messages of.
    attempts: VecDeque<(String, Vec<u32>)>,
}

impl Inbox {
    /// There may be something in a queue; wakes one who waits.
    pub fn push(&self, queue: u32) {
        let mut ready = self.lock();
        if ready.known.insert(queue) {
            ready.order.push_back(queue);
        }
        drop(ready);
        self.wake.notify_one();
    }

    /// The queue that has waited longest.
    pub fn pop(&self) -> Option<u32> {
        let mut ready = self.lock();
        let queue = ready.order.pop_front()?;
        ready.known.remove(&queue);
        Some(queue)
    }

    /// Completes when something may be ready.
    pub async fn arrival(&self) {
        self.wake.notified().await;
    }

    /// Lets another receive of the client look, if there is something: for those that end.
    pub fn pass_on(&self) {
        if !self.lock().order.is_empty() {
            self.wake.notify_one();
        }
    }

    /// A receive with this attempt id got messages of these queues.
    pub fn note_attempt(&self, attempt_id: &str, queues: Vec<u32>) {
        let mut ready = self.lock();
        if ready.attempts.len() == REPEATABLE {
            ready.attempts.pop_front();
        }
        ready.attempts.push_back((attempt_id.to_owned(), queues));
    }

    /// The receive with this attempt id is repeated: what it got comes first.
    pub fn repeat(&self, attempt_id: &str) {
        let mut ready = self.lock();
        let Some(place) = ready.attempts.iter().position(|(id, _)| id == attempt_id) else { return };
        let Some((_, queues)) = ready.attempts.remove(place) else { return };
        for queue in queues.into_iter().rev() {
            if !ready.known.insert(queue) {
                ready.order.retain(|known| *known != queue);
            }
            ready.order.push_front(queue);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ready> {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A topic and a group.
type Parent = (u32, u32);

/// One client of one group.
#[derive(Debug, Clone)]
struct Follower {
    group_id: u32,
    client: Arc<str>,
    inbox: Arc<Inbox>,
}

#[derive(Debug)]
struct Member {
    follower: Follower,
    /// With the queue, once the lite topic exists.
    names: HashMap<String, Option<u32>>,
    version: i64,
    synced: Instant,
}

/// What a client asks for.
#[derive(Debug)]
pub struct Change<'a> {
    /// The parent.
    pub topic_id: u32,
    /// The group.
    pub group_id: u32,
    /// The client.
    pub client: &'a str,
    /// What to do.
    pub action: Action,
    /// The lite topics, each with its queue if it exists.
    pub names: Vec<(String, Option<u32>)>,
    /// Older versions than the last one are ignored.
    pub version: Option<i64>,
    /// Whether others may have the same lite topic.
    pub model: Model,
    /// Most lite topics of this client.
    pub quota: usize,
}

/// What becomes of the named lite topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The client has them too.
    Add,
    /// The client has them and no others.
    Replace,
    /// The client has them no more.
    Remove,
    /// The client has none any more.
    RemoveAll,
}

/// Too many subscriptions; nothing changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OverQuota {
    /// Of the client, which may have this many.
    Client(usize),
    /// Of all clients of the broker, which may have this many.
    Broker(usize),
}

/// A client, and the lite topic that it lost.
pub type Evicted = (String, String);

/// The directory of subscriptions to lite topics.
#[derive(Debug, Default)]
pub struct Followers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    members: HashMap<Parent, HashMap<Arc<str>, Member>>,
    /// By topic and queue.
    following: HashMap<(u32, u32), Vec<Follower>>,
    /// By topic and name of a lite topic that does not exist.
    awaiting: HashMap<(u32, String), Vec<Follower>>,
    total: usize,
}

impl Followers {
    /// The inbox of a client.
    pub fn inbox(&self, topic_id: u32, group_id: u32, client: &str) -> Arc<Inbox> {
        self.lock().member((topic_id, group_id), client).follower.inbox.clone()
    }

    /// Changes the subscriptions of a client, who are `quota` at the most on this broker. Returns who lost theirs to it, with the
    /// lite topics.
    ///
    /// # Errors
    /// [`OverQuota`]; nothing changes then.
    pub fn sync(&self, change: &Change<'_>, quota: usize) -> Result<Vec<Evicted>, OverQuota> {
        let mut state = self.lock();
        let parent = (change.topic_id, change.group_id);
        let member = state.member(parent, change.client);
        member.synced = Instant::now();
        if change.version.is_some_and(|version| version < member.version) {
            return Ok(Vec::new());
        }
        let wanted: HashSet<&str> = change.names.iter().map(|(name, _)| name.as_str()).collect();
        let goes = |name: &String| match change.action {
            Action::Add => false,
            Action::Replace => !wanted.contains(name.as_str()),
            Action::Remove => wanted.contains(name.as_str()),
            Action::RemoveAll => true,
        };
        let gone: Vec<String> = member.names.keys().filter(|name| goes(name)).cloned().collect();
        let adds = matches!(change.action, Action::Add | Action::Replace);
        let added = wanted.iter().filter(|name| adds && !member.names.contains_key(**name)).count();
        let (before, after) = (member.names.len(), member.names.len() + added - gone.len());
        if added > 0 && after > change.quota {
            return Err(OverQuota::Client(change.quota));
        }
        let total = state.total - before + after;
        if added > 0 && total > quota {
            return Err(OverQuota::Broker(quota));
        }
        let member = state.member(parent, change.client);
        member.version = change.version.unwrap_or(member.version);
        for name in gone {
            state.unfollow(parent, change.client, &name);
        }
        let mut evicted = Vec::new();
        for (name, queue) in change.names.iter().filter(|_| adds) {
            if change.model == Model::Exclusive {
                evicted.extend(state.evict_others(parent, change.client, name, *queue));
            }
            state.follow(parent, change.client, name, *queue);
        }
        Ok(evicted)
    }

    /// There may be something to receive in a lite topic.
    pub(super) fn ready(&self, topic_id: u32, queue: u32) {
        let following = self.lock().following.get(&(topic_id, queue)).cloned();
        for follower in following.into_iter().flatten() {
            follower.inbox.push(queue);
        }
    }

    /// The same for the clients of one group.
    pub(super) fn ready_for(&self, topic_id: u32, group_id: u32, queue: u32) {
        let following = self.lock().following.get(&(topic_id, queue)).cloned();
        for follower in following.into_iter().flatten().filter(|f| f.group_id == group_id) {
            follower.inbox.push(queue);
        }
    }

    /// A lite topic came into being.
    pub(super) fn created(&self, topic_id: u32, queue: u32, name: &str) {
        let mut state = self.lock();
        for follower in state.awaiting.remove(&(topic_id, name.to_owned())).unwrap_or_default() {
            state.settle(topic_id, follower, name, Some(queue));
        }
    }

    /// A lite topic is gone; who subscribed to it still does, should it come again.
    pub(super) fn dropped(&self, topic_id: u32, queue: u32, name: &str) {
        let mut state = self.lock();
        for follower in state.following.remove(&(topic_id, queue)).unwrap_or_default() {
            state.settle(topic_id, follower, name, None);
        }
    }

    /// A client left.
    pub(super) fn client_left(&self, client: &str) {
        self.forget(|_, known, _| known == client);
    }

    /// Forgets clients that neither live nor repeat their subscriptions, and those of topics and groups that are gone.
    pub(super) fn prune(&self, is_live: impl Fn(u32, u32) -> bool, alive: impl Fn(&str) -> bool) {
        let now = Instant::now();
        self.forget(|(topic_id, group_id), client, synced| {
            !is_live(topic_id, group_id)
                || !alive(client)
                || now.saturating_duration_since(synced) > FORGOTTEN_AFTER
        });
    }

    fn forget(&self, goes: impl Fn(Parent, &str, Instant) -> bool) {
        let mut state = self.lock();
        let mut gone = Vec::new();
        for (parent, members) in &state.members {
            for (client, member) in members.iter().filter(|(client, m)| goes(*parent, client, m.synced)) {
                gone.push((*parent, client.clone(), member.names.keys().cloned().collect::<Vec<_>>()));
            }
        }
        for (parent, client, names) in gone {
            names.iter().for_each(|name| state.unfollow(parent, &client, name));
            if let Some(members) = state.members.get_mut(&parent) {
                members.remove(&client);
            }
        }
        state.members.retain(|_, members| !members.is_empty());
    }

    /// Whether a client subscribes to a lite topic: what was ready may be from before it unsubscribed.
    pub fn is_following(&self, topic_id: u32, group_id: u32, client: &str, queue: u32) -> bool {
        let state = self.lock();
        let mut following = state.following.get(&(topic_id, queue)).into_iter().flatten();
        following.any(|follower| follower.group_id == group_id && *follower.client == *client)
    }

    /// Clients of a group, each with how many lite topics of a parent it subscribes to.
    pub fn clients(&self, topic_id: u32, group_id: u32) -> Vec<(String, usize)> {
        let state = self.lock();
        let members = state.members.get(&(topic_id, group_id));
        let counted = members.into_iter().flatten().map(|(client, m)| (client.to_string(), m.names.len()));
        let mut clients: Vec<_> = counted.collect();
        clients.sort();
        clients
    }

    /// The lite topics to which a client subscribes, by name.
    pub fn names(&self, topic_id: u32, group_id: u32, client: &str) -> Vec<String> {
        let state = self.lock();
        let member = state.members.get(&(topic_id, group_id)).and_then(|members| members.get(client));
        let mut names: Vec<String> = member.into_iter().flat_map(|m| m.names.keys().cloned()).collect();
        names.sort();
        names
    }

    /// How many clients subscribe to a lite topic: those of one group, or of all.
    pub fn count(&self, topic_id: u32, queue: u32, group_id: Option<u32>) -> usize {
        let state = self.lock();
        let following = state.following.get(&(topic_id, queue)).into_iter().flatten();
        following.filter(|follower| group_id.is_none_or(|group_id| follower.group_id == group_id)).count()
    }

    /// The lite topics of a parent to which clients of a group subscribe, as far as they exist.
    pub(super) fn queues(&self, topic_id: u32, group_id: u32) -> BTreeSet<u32> {
        let state = self.lock();
        let members = state.members.get(&(topic_id, group_id)).into_iter().flat_map(HashMap::values);
        members.flat_map(|member| member.names.values().copied().flatten()).collect()
    }

    /// The parents below which clients of a group subscribe.
    pub(super) fn parents(&self, group_id: u32) -> Vec<u32> {
        let state = self.lock();
        state.members.keys().filter(|(_, group)| *group == group_id).map(|(topic_id, _)| *topic_id).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn member(&mut self, parent: Parent, client: &str) -> &mut Member {
        let members = self.members.entry(parent).or_default();
        let id: Arc<str> = Arc::from(client);
        members.entry(id.clone()).or_insert_with(|| Member {
            follower: Follower { group_id: parent.1, client: id, inbox: Arc::default() },
            names: HashMap::new(),
            version: 0,
            synced: Instant::now(),
        })
    }

    fn list(&mut self, topic_id: u32, name: &str, queue: Option<u32>) -> &mut Vec<Follower> {
        match queue {
            Some(queue) => self.following.entry((topic_id, queue)).or_default(),
            None => self.awaiting.entry((topic_id, name.to_owned())).or_default(),
        }
    }

    fn follow(&mut self, parent: Parent, client: &str, name: &str, queue: Option<u32>) {
        let member = self.member(parent, client);
        let known = member.names.get(name).copied();
        if known == Some(queue) {
            return;
        }
        let follower = member.follower.clone();
        if known.is_some() {
            self.unfollow(parent, client, name);
        }
        self.member(parent, client).names.insert(name.to_owned(), queue);
        self.total += 1;
        let inbox = follower.inbox.clone();
        self.list(parent.0, name, queue).push(follower);
        if let Some(queue) = queue {
            inbox.push(queue);
        }
    }

    fn unfollow(&mut self, parent: Parent, client: &str, name: &str) {
        let Some(queue) = self.member(parent, client).names.remove(name) else { return };
        self.total -= 1;
        let list = self.list(parent.0, name, queue);
        list.retain(|follower| follower.group_id != parent.1 || *follower.client != *client);
        if list.is_empty() {
            match queue {
                Some(queue) => drop(self.following.remove(&(parent.0, queue))),
                None => drop(self.awaiting.remove(&(parent.0, name.to_owned()))),
            }
        }
    }

    fn evict_others(&mut self, parent: Parent, client: &str, name: &str, queue: Option<u32>) -> Vec<Evicted> {
        let others = self.list(parent.0, name, queue).iter();
        let others = others.filter(|other| other.group_id == parent.1 && *other.client != *client);
        let others: Vec<Arc<str>> = others.map(|other| other.client.clone()).collect();
        others.iter().for_each(|other| self.unfollow(parent, other, name));
        others.into_iter().map(|other| (other.to_string(), name.to_owned())).collect()
    }

    /// A lite topic of a follower was created or removed.
    fn settle(&mut self, topic_id: u32, follower: Follower, name: &str, queue: Option<u32>) {
        let members = self.members.get_mut(&(topic_id, follower.group_id));
        let member = members.and_then(|members| members.get_mut(&follower.client));
        if let Some(entry) = member.and_then(|member| member.names.get_mut(name)) {
            *entry = queue;
            self.list(topic_id, name, queue).push(follower);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOPIC: u32 = 1;
    const GROUP: u32 = 2;

    fn change<'a>(client: &'a str, action: Action, names: &[(&str, Option<u32>)]) -> Change<'a> {
        let names = names.iter().map(|(name, queue)| ((*name).to_owned(), *queue)).collect();
        let (topic_id, group_id) = (TOPIC, GROUP);
        Change { topic_id, group_id, client, action, names, version: None, model: Model::Shared, quota: 3 }
    }

    fn ready(followers: &Followers, client: &str) -> Vec<u32> {
        let inbox = followers.inbox(TOPIC, GROUP, client);
        std::iter::from_fn(|| inbox.pop()).collect()
    }

    #[test]
    fn only_who_subscribes_hears_of_a_lite_topic() {
        let followers = Followers::default();
        followers.sync(&change("a", Action::Add, &[("x", Some(70_000)), ("y", None)]), 9).expect("few");
        followers.sync(&change("b", Action::Add, &[("y", None)]), 9).expect("few");
        assert_eq!(ready(&followers, "a"), [70_000], "what is there already");
        assert!(followers.is_following(TOPIC, GROUP, "a", 70_000));
        assert!(!followers.is_following(TOPIC, GROUP, "b", 70_000));
        followers.ready(TOPIC, 70_000);
        followers.ready(TOPIC, 70_000);
        assert_eq!((ready(&followers, "a"), ready(&followers, "b")), (vec![70_000], vec![]));
        followers.created(TOPIC, 70_001, "y");
        followers.ready(TOPIC, 70_001);
        assert_eq!((ready(&followers, "a"), ready(&followers, "b")), (vec![70_001], vec![70_001]));
        followers.dropped(TOPIC, 70_001, "y");
        followers.created(TOPIC, 70_002, "y");
        followers.ready(TOPIC, 70_002);
        assert_eq!(ready(&followers, "b"), [70_002], "it came again");
        followers.client_left("b");
        followers.ready(TOPIC, 70_002);
        assert!(ready(&followers, "b").is_empty());
        assert_eq!(followers.names(TOPIC, GROUP, "a"), ["x", "y"]);
    }

    #[test]
    fn actions_and_versions() {
        let followers = Followers::default();
        let names = || followers.names(TOPIC, GROUP, "a");
        let act = |action, names: &[(&str, Option<u32>)], version| {
            followers.sync(&Change { version: Some(version), ..change("a", action, names) }, 9).expect("few");
        };
        act(Action::Add, &[("x", None), ("y", None)], 1);
        act(Action::Replace, &[("y", None), ("z", None)], 2);
        assert_eq!(names(), ["y", "z"]);
        act(Action::Add, &[("late", None)], 1);
        assert_eq!(names(), ["y", "z"], "an older version changes nothing");
        act(Action::Remove, &[("y", None), ("unknown", None)], 2);
        assert_eq!(names(), ["z"]);
        act(Action::RemoveAll, &[], 3);
        assert_eq!((names().len(), followers.lock().total), (0, 0));
    }

    #[test]
    fn quotas_are_kept_and_nothing_changes_beyond() {
        let followers = Followers::default();
        let three = [("x", None), ("y", None), ("z", None)];
        followers.sync(&change("a", Action::Add, &three), 5).expect("three");
        let fourth = change("a", Action::Add, &[("w", None)]);
        assert_eq!(followers.sync(&fourth, 5), Err(OverQuota::Client(3)));
        followers
            .sync(&change("a", Action::Replace, &[("w", None), ("x", None), ("y", None)]), 5)
            .expect("three");
        assert_eq!(followers.sync(&change("b", Action::Add, &three), 5), Err(OverQuota::Broker(5)));
        assert_eq!(followers.names(TOPIC, GROUP, "b"), [""; 0]);
        assert_eq!(followers.clients(TOPIC, GROUP)[0], ("a".to_owned(), 3));
    }

    #[test]
    fn an_exclusive_lite_topic_goes_to_the_newest_subscriber() {
        let followers = Followers::default();
        let exclusive =
            |client| Change { model: Model::Exclusive, ..change(client, Action::Add, &[("x", None)]) };
        assert_eq!(followers.sync(&exclusive("a"), 9), Ok(vec![]));
        assert_eq!(followers.sync(&exclusive("a"), 9), Ok(vec![]), "its own");
        assert_eq!(followers.sync(&exclusive("b"), 9), Ok(vec![("a".to_owned(), "x".to_owned())]));
        assert_eq!(
            (followers.names(TOPIC, GROUP, "a").len(), followers.names(TOPIC, GROUP, "b").len()),
            (0, 1)
        );
    }

    #[test]
    fn who_is_gone_is_forgotten() {
        let followers = Followers::default();
        followers.sync(&change("a", Action::Add, &[("x", Some(70_000))]), 9).expect("few");
        followers.sync(&change("b", Action::Add, &[("x", Some(70_000))]), 9).expect("few");
        followers.prune(|_, _| true, |client| client == "b");
        assert_eq!(followers.clients(TOPIC, GROUP), [("b".to_owned(), 1)]);
        followers.prune(|_, _| false, |_| true);
        let state = followers.lock();
        assert!(state.members.is_empty() && state.following.is_empty() && state.total == 0);
    }

    #[test]
    fn a_repeated_receive_looks_first_where_it_got_messages() {
        let inbox = Inbox::default();
        inbox.note_attempt("1", vec![5, 6]);
        [7, 6].into_iter().for_each(|queue| inbox.push(queue));
        inbox.repeat("1");
        inbox.repeat("unknown");
        assert_eq!(std::iter::from_fn(|| inbox.pop()).collect::<Vec<_>>(), [5, 6, 7]);
    }
}
