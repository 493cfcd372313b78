//! What members of consumer groups say that they subscribe to, wherever they are connected.
//!
//! A member counts from its announcement on: what only it wants is not to be passed over by the poll of another one, though the
//! member itself may poll late. Filters are counted, not clients: it is they that decide.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kerolox_model::limits::{FILTER_BYTES_MAX, REGISTERED_NAME_MAX};
use kerolox_model::names::in_namespace;
use kerolox_proto::kerolox as pb;
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::{self, ClientType, FilterType};

use super::ClientSessions;

/// How long announcements of another server count without news of it: its clients find another server meanwhile.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);
/// Most servers whose announcements are kept, and most filters of one of them.
const SERVERS_MAX: usize = 1_000;
const FILTERS_MAX: usize = 200_000;

/// What one or more members of a consumer group want of a topic.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AnnouncedFilter {
    /// Stored name of the group, namespace included.
    pub group: String,
    /// Stored name of the topic.
    pub topic: String,
    /// Number of a `FilterType`.
    pub kind: i32,
    /// As the client wrote it.
    pub expression: String,
}

impl AnnouncedFilter {
    /// Those of one group on one topic.
    pub(super) fn of<'a, T>(
        filters: &'a BTreeMap<Self, T>,
        group: &'a str,
        topic: &'a str,
    ) -> impl Iterator<Item = &'a Self> {
        let (owned_group, owned_topic) = (group.to_owned(), topic.to_owned());
        let first =
            Self { group: owned_group, topic: owned_topic, kind: i32::MIN, expression: String::new() };
        let from = filters.range(first..).map(|(filter, _)| filter);
        from.take_while(move |filter| filter.group == group && filter.topic == topic)
    }

    /// Whether it can come from settings that a server accepts.
    fn is_short(&self) -> bool {
        self.group.len() <= REGISTERED_NAME_MAX
            && self.topic.len() <= REGISTERED_NAME_MAX
            && self.expression.len() <= FILTER_BYTES_MAX
    }

    /// The filter in the protocol's terms.
    pub fn to_expression(&self) -> v2::FilterExpression {
        v2::FilterExpression { r#type: self.kind, expression: self.expression.clone() }
    }
}

impl From<pb::AnnouncedFilter> for AnnouncedFilter {
    fn from(filter: pb::AnnouncedFilter) -> Self {
        let pb::AnnouncedFilter { group, topic, r#type, expression } = filter;
        Self { group, topic, kind: r#type, expression }
    }
}

impl From<AnnouncedFilter> for pb::AnnouncedFilter {
    fn from(filter: AnnouncedFilter) -> Self {
        let AnnouncedFilter { group, topic, kind, expression } = filter;
        Self { group, topic, r#type: kind, expression }
    }
}

/// The filters of a client that no other client of this server had announced before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewlyAnnounced {
    /// Version of all filters announced here, these included.
    pub version: u64,
    /// The new filters.
    pub filters: Vec<AnnouncedFilter>,
}

/// What a client subscribes to as a member of its group. Those who pull by offset pass nothing over, and get nothing handed out.
pub(super) fn announced_by(settings: &v2::Settings) -> BTreeSet<AnnouncedFilter> {
    let Some(PubSub::Subscription(subscription)) = &settings.pub_sub else { return BTreeSet::new() };
    if settings.client_type() == ClientType::PullConsumer {
        return BTreeSet::new();
    }
    let name = |resource: Option<&v2::Resource>| {
        resource.map(|it| in_namespace(&it.resource_namespace, &it.name)).unwrap_or_default()
    };
    let group = name(subscription.group.as_ref());
    let filter = |entry: &v2::SubscriptionEntry| {
        let (kind, expression) = match &entry.expression {
            Some(filter) => (filter.r#type, filter.expression.clone()),
            None => (FilterType::Tag.into(), "*".to_owned()),
        };
        AnnouncedFilter { group: group.clone(), topic: name(entry.topic.as_ref()), kind, expression }
    };
    subscription.subscriptions.iter().map(filter).collect()
}

/// The announcements of another server.
#[derive(Debug)]
struct Server {
    /// Version of the last full list.
    version: u64,
    /// The filters, each with the version with which it was first heard of.
    filters: BTreeMap<AnnouncedFilter, u64>,
    heard: Instant,
}

/// The announced filters of the whole cluster, as a master knows them.
#[derive(Debug)]
pub struct FilterAnnouncements {
    clients: Arc<ClientSessions>,
    /// By incarnation.
    elsewhere: Mutex<HashMap<String, Server>>,
    changes: AtomicU64,
}

impl FilterAnnouncements {
    /// Nothing is known yet but what `clients` of this process announce.
    pub fn new(clients: Arc<ClientSessions>) -> Self {
        Self { clients, elsewhere: Mutex::default(), changes: AtomicU64::default() }
    }

    /// Grows whenever [`Self::filters`] may have changed.
    pub fn version(&self) -> u64 {
        self.changes.load(Ordering::Acquire) + self.clients.announced_version()
    }

    /// The filters that living members of a group have announced for a topic (stored names).
    pub fn filters(&self, group: &str, topic: &str) -> BTreeSet<AnnouncedFilter> {
        let mut found: BTreeSet<AnnouncedFilter> =
            self.clients.announced_of(group, topic).into_iter().collect();
        for server in self.lock().values() {
            found.extend(AnnouncedFilter::of(&server.filters, group, topic).cloned());
        }
        found
    }

    /// Notes filters that are new at a server with `version`.
    pub fn note(&self, incarnation: &str, version: u64, filters: impl IntoIterator<Item = AnnouncedFilter>) {
        self.change(incarnation, |server| {
            for filter in filters {
                if version > server.version && server.filters.len() < FILTERS_MAX && filter.is_short() {
                    server.filters.entry(filter).or_insert(version);
                }
            }
        });
    }

    /// Replaces the filters of a server by its full list as of `version`.
    pub fn replace(
        &self,
        incarnation: &str,
        version: u64,
        filters: impl IntoIterator<Item = AnnouncedFilter>,
    ) {
        self.change(incarnation, |server| {
            if version < server.version {
                return;
            }
            // What was told meanwhile is newer than the list.
            server.filters.retain(|_, told| *told > version);
            let fitting = filters.into_iter().filter(AnnouncedFilter::is_short).take(FILTERS_MAX);
            server.filters.extend(fitting.map(|filter| (filter, version)));
            server.version = version;
        });
    }

    /// A server says that nothing has changed there; `false` when it was forgotten meanwhile.
    pub fn confirm(&self, incarnation: &str) -> bool {
        let mut elsewhere = self.lock();
        let server = elsewhere.get_mut(incarnation);
        server.map(|server| server.heard = Instant::now()).is_some()
    }

    /// Forgets servers that were not heard of for long. To be called now and then.
    pub fn expire(&self) {
        let mut elsewhere = self.lock();
        let known = elsewhere.len();
        elsewhere.retain(|_, server| server.heard.elapsed() < FORGOTTEN_AFTER);
        if elsewhere.len() != known {
            self.changes.fetch_add(1, Ordering::Release);
        }
    }

    fn change(&self, incarnation: &str, change: impl FnOnce(&mut Server)) {
        // This process knows its own announcements first-hand.
        if incarnation == self.clients.incarnation() {
            return;
        }
        let mut elsewhere = self.lock();
        if elsewhere.len() >= SERVERS_MAX && !elsewhere.contains_key(incarnation) {
            return;
        }
        let now = Instant::now();
        let server = elsewhere.entry(incarnation.to_owned()).or_insert_with(|| Server {
            version: 0,
            filters: BTreeMap::new(),
            heard: now,
        });
        server.heard = now;
        change(server);
        self.changes.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Server>> {
        self.elsewhere.lock().expect("nothing panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::DEFAULT_EXPIRY;

    fn settings(kind: ClientType, group: &str, topics: &[(&str, &str)]) -> v2::Settings {
        let resource = |name: &str| Some(v2::Resource { name: name.to_owned(), ..Default::default() });
        let entry = |(topic, expression): &(&str, &str)| v2::SubscriptionEntry {
            topic: resource(topic),
            expression: Some(v2::FilterExpression {
                r#type: FilterType::Tag.into(),
                expression: (*expression).to_owned(),
            }),
        };
        let subscriptions = topics.iter().map(entry).collect();
        let subscription = v2::Subscription { group: resource(group), subscriptions, ..Default::default() };
        v2::Settings {
            client_type: Some(kind.into()),
            pub_sub: Some(PubSub::Subscription(subscription)),
            ..Default::default()
        }
    }

    fn filter(group: &str, topic: &str, expression: &str) -> AnnouncedFilter {
        AnnouncedFilter {
            group: group.to_owned(),
            topic: topic.to_owned(),
            kind: FilterType::Tag.into(),
            expression: expression.to_owned(),
        }
    }

    fn expressions(announcements: &FilterAnnouncements, group: &str, topic: &str) -> Vec<String> {
        announcements.filters(group, topic).into_iter().map(|filter| filter.expression).collect()
    }

    #[test]
    fn a_member_counts_from_its_settings_until_it_leaves_or_says_otherwise() {
        let clients = Arc::new(ClientSessions::new(DEFAULT_EXPIRY));
        let announcements = FilterAnnouncements::new(clients.clone());
        let push = |topics: &[(&str, &str)]| settings(ClientType::PushConsumer, "billing", topics);
        let new = clients.set_settings("one", push(&[("orders", "paid"), ("orders-old", "*")]));
        assert_eq!(new.filters, [filter("billing", "orders", "paid"), filter("billing", "orders-old", "*")]);
        let version = announcements.version();
        assert_eq!(clients.set_settings("two", push(&[("orders", "paid")])).filters, []);
        assert_eq!(announcements.version(), version, "nothing is new");
        assert_eq!(expressions(&announcements, "billing", "orders"), ["paid"]);
        assert_eq!(expressions(&announcements, "billing", "order"), [""; 0]);
        let pull = settings(ClientType::PullConsumer, "billing", &[("orders", "*")]);
        assert_eq!(clients.set_settings("three", pull).filters, []);
        clients.set_settings("one", push(&[("orders", "created")]));
        assert_eq!(expressions(&announcements, "billing", "orders"), ["created", "paid"]);
        clients.terminate("two");
        assert_eq!(expressions(&announcements, "billing", "orders"), ["created"]);
        assert!(announcements.version() > version);
    }

    #[test]
    fn a_list_that_was_made_before_something_was_told_does_not_take_it_away() {
        let announcements = FilterAnnouncements::new(Arc::new(ClientSessions::new(DEFAULT_EXPIRY)));
        let (paid, created) = (filter("billing", "orders", "paid"), filter("billing", "orders", "created"));
        announcements.note("there", 2, [created.clone()]);
        announcements.replace("there", 1, [paid.clone()]);
        assert_eq!(expressions(&announcements, "billing", "orders"), ["created", "paid"]);
        announcements.replace("there", 3, [paid.clone()]);
        assert_eq!(expressions(&announcements, "billing", "orders"), ["paid"], "it left with version 3");
        announcements.note("there", 2, [created]);
        assert_eq!(expressions(&announcements, "billing", "orders"), ["paid"], "that is old news");
        announcements.replace("there", 2, []);
        assert_eq!(expressions(&announcements, "billing", "orders"), ["paid"]);
        let version = announcements.version();
        announcements.note("elsewhere", 1, [paid]);
        assert!(announcements.version() > version);
    }
}
