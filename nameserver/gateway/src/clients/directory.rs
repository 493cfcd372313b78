//! The directory itself: plain state, told the time by its callers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_model::names::in_namespace;
use kerolox_proto::v2;
use kerolox_proto::v2::settings::PubSub;

use super::{AnnouncedFilter, ClientHandle, CommandSender, NewlyAnnounced, SessionView, announced_by};

#[derive(Debug)]
struct Session {
    settings: Option<Arc<v2::Settings>>,
    since: Instant,
    last_seen: Instant,
    streams: Vec<CommandStream>,
    /// Broker groups from which the client received through this server.
    owners: BTreeSet<String>,
}

#[derive(Debug)]
struct CommandStream {
    id: u64,
    sender: CommandSender,
    /// The client has closed its half; it may still listen.
    is_half_closed: bool,
    peer: Option<SocketAddr>,
    /// The client knows other members of the group to go to.
    knows_members: bool,
}

impl CommandStream {
    fn is_open(&self) -> bool {
        !self.sender.is_closed()
    }
}

impl Session {
    fn new(now: Instant) -> Self {
        Self { settings: None, since: now, last_seen: now, streams: Vec::new(), owners: BTreeSet::new() }
    }

    fn has_open_stream(&self) -> bool {
        self.streams.iter().any(CommandStream::is_open)
    }
}

/// Sessions by client id, and the producers of each topic.
#[derive(Debug, Default)]
pub(super) struct Directory {
    sessions: HashMap<String, Session>,
    /// Client ids by the topic that they said they publish to, under its stored name.
    producers: HashMap<String, BTreeSet<String>>,
    /// What members of consumer groups subscribe to, each with the number of clients.
    announced: BTreeMap<AnnouncedFilter, usize>,
    /// Grows whenever the keys of `announced` change.
    announced_version: u64,
    /// Streams of terminated clients, kept until the client closes its half: most SDKs report an error or connect anew
    /// when the server ends a stream first.
    lingering: Vec<CommandStream>,
    next_stream: u64,
    /// Where the next round among producers starts.
    turn: usize,
}

impl Directory {
    pub(super) fn touch(&mut self, client_id: &str, now: Instant) {
        self.session(client_id, now).last_seen = now;
    }

    pub(super) fn attach(
        &mut self,
        client_id: &str,
        sender: CommandSender,
        peer: Option<SocketAddr>,
        now: Instant,
    ) -> u64 {
        self.next_stream += 1;
        let stream = self.next_stream;
        let session = self.session(client_id, now);
        session.last_seen = now;
        session.streams.push(CommandStream {
            id: stream,
            sender,
            is_half_closed: false,
            peer,
            knows_members: false,
        });
        stream
    }

    pub(super) fn note_members(&mut self, client_id: &str, stream: u64) {
        let streams = self.sessions.get_mut(client_id).map(|session| session.streams.as_mut_slice());
        for held in streams.unwrap_or_default().iter_mut().filter(|held| held.id == stream) {
            held.knows_members = true;
        }
    }

    /// Streams of clients that know other members.
    pub(super) fn movable(&self) -> Vec<CommandSender> {
        let streams = self.sessions.values().flat_map(|session| &session.streams);
        streams.filter(|held| held.knows_members && held.is_open()).map(|held| held.sender.clone()).collect()
    }

    pub(super) fn detach(&mut self, client_id: &str, stream: u64) {
        if let Some(session) = self.sessions.get_mut(client_id) {
            session.streams.retain(|held| held.id != stream);
        }
        self.lingering.retain(|held| held.id != stream);
    }

    pub(super) fn half_close(&mut self, client_id: &str, stream: u64) {
        self.lingering.retain(|held| held.id != stream);
        let streams = self.sessions.get_mut(client_id).map(|session| session.streams.as_mut_slice());
        for held in streams.unwrap_or_default().iter_mut().filter(|held| held.id == stream) {
            held.is_half_closed = true;
        }
    }

    /// Returns the filters that no client here had announced before.
    pub(super) fn set_settings(
        &mut self,
        client_id: &str,
        settings: v2::Settings,
        now: Instant,
    ) -> NewlyAnnounced {
        let before = self.settings(client_id).map(|settings| announced_by(&settings)).unwrap_or_default();
        self.forget_topics(client_id);
        let filters = self.announce(announced_by(&settings));
        self.retract(before);
        let announced = NewlyAnnounced { version: self.announced_version, filters };
        for topic in published_topics(&settings) {
            self.producers.entry(topic).or_default().insert(client_id.to_owned());
        }
        let session = self.session(client_id, now);
        session.last_seen = now;
        session.settings = Some(Arc::new(settings));
        announced
    }

    /// Counts the announced filters of a client; returns the new ones.
    fn announce(&mut self, filters: BTreeSet<AnnouncedFilter>) -> Vec<AnnouncedFilter> {
        let mut new = Vec::new();
        for filter in filters {
            let count = self.announced.entry(filter.clone()).or_default();
            *count += 1;
            if *count == 1 {
                new.push(filter);
            }
        }
        self.announced_version += u64::from(!new.is_empty());
        new
    }

    /// A client does not announce this any more.
    fn retract(&mut self, filters: BTreeSet<AnnouncedFilter>) {
        let known = self.announced.len();
        for filter in filters {
            if let Some(count) = self.announced.get_mut(&filter) {
                *count -= 1;
                if *count == 0 {
                    self.announced.remove(&filter);
                }
            }
        }
        self.announced_version += u64::from(self.announced.len() != known);
    }

    pub(super) fn announced_version(&self) -> u64 {
        self.announced_version
    }

    pub(super) fn announced(&self) -> &BTreeMap<AnnouncedFilter, usize> {
        &self.announced
    }

    pub(super) fn settings(&self, client_id: &str) -> Option<Arc<v2::Settings>> {
        self.sessions.get(client_id)?.settings.clone()
    }

    pub(super) fn note_owner(&mut self, client_id: &str, owner: &str, now: Instant) {
        let session = self.session(client_id, now);
        if !session.owners.contains(owner) {
            session.owners.insert(owner.to_owned());
        }
    }

    pub(super) fn owners(&self, client_id: &str) -> Vec<String> {
        let session = self.sessions.get(client_id);
        session.map_or_else(Vec::new, |session| session.owners.iter().cloned().collect())
    }

    pub(super) fn is_alive(&self, client_id: &str, expiry: Duration, now: Instant) -> bool {
        self.sessions.get(client_id).is_some_and(|session| lives(session, expiry, now))
    }

    pub(super) fn remove(&mut self, client_id: &str) -> bool {
        self.forget_topics(client_id);
        let Some(session) = self.sessions.remove(client_id) else { return false };
        if let Some(settings) = &session.settings {
            self.retract(announced_by(settings));
        }
        let lingering = session.streams.into_iter().filter(|held| held.is_open() && !held.is_half_closed);
        self.lingering.extend(lingering);
        true
    }

    pub(super) fn expire(&mut self, expiry: Duration, now: Instant) -> Vec<String> {
        let dead = self.sessions.iter().filter(|(_, session)| !lives(session, expiry, now));
        let dead: Vec<String> = dead.map(|(client_id, _)| client_id.clone()).collect();
        for client_id in &dead {
            self.remove(client_id);
        }
        dead
    }

    /// Producers of the topic that can be reached; each call starts with another one.
    pub(super) fn producers_of(&mut self, stored_topic: &str) -> Vec<ClientHandle> {
        let Some(client_ids) = self.producers.get(stored_topic) else { return Vec::new() };
        let handle = |client_id: &String| handle(client_id, self.sessions.get(client_id)?);
        let mut handles: Vec<ClientHandle> = client_ids.iter().filter_map(handle).collect();
        if !handles.is_empty() {
            let first = self.turn % handles.len();
            handles.rotate_left(first);
            self.turn = self.turn.wrapping_add(1);
        }
        handles
    }

    /// Consumers that can be reached.
    pub(super) fn reach(&self, client_id: &str) -> Option<ClientHandle> {
        self.sessions.get(client_id).and_then(|session| handle(client_id, session))
    }

    pub(super) fn consumers(&self) -> Vec<(ClientHandle, Arc<v2::Settings>)> {
        let reachable = |(client_id, session): (&String, &Session)| {
            let settings = session.settings.clone()?;
            let is_consumer = matches!(settings.pub_sub, Some(PubSub::Subscription(_)));
            let handle = handle(client_id, session).filter(|_| is_consumer)?;
            Some((handle, settings))
        };
        self.sessions.iter().filter_map(reachable).collect()
    }

    /// The sessions of all clients, or of the one with this id.
    pub(super) fn views(&self, only: Option<&str>, now: Instant) -> Vec<SessionView> {
        let wanted = self.sessions.iter().filter(|(id, _)| only.is_none_or(|only| only == id.as_str()));
        let view = |(client_id, session): (&String, &Session)| {
            let open = session.streams.iter().filter(|held| held.is_open());
            SessionView {
                client_id: client_id.clone(),
                settings: session.settings.clone(),
                peer: open.clone().next_back().and_then(|held| held.peer),
                known: now.saturating_duration_since(session.since),
                silent: now.saturating_duration_since(session.last_seen),
                is_reachable: open.count() > 0,
            }
        };
        wanted.map(view).collect()
    }

    pub(super) fn close_streams(&mut self) {
        self.lingering.clear();
        for session in self.sessions.values_mut() {
            session.streams.clear();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.len()
    }

    fn session(&mut self, client_id: &str, now: Instant) -> &mut Session {
        self.sessions.entry(client_id.to_owned()).or_insert_with(|| Session::new(now))
    }

    fn forget_topics(&mut self, client_id: &str) {
        let Some(settings) = self.settings(client_id) else { return };
        for topic in published_topics(&settings) {
            if let Some(client_ids) = self.producers.get_mut(&topic) {
                client_ids.remove(client_id);
                if client_ids.is_empty() {
                    self.producers.remove(&topic);
                }
            }
        }
    }
}

/// The way to a client, if it has one.
fn handle(client_id: &str, session: &Session) -> Option<ClientHandle> {
    let open = session.streams.iter().filter(|held| held.is_open());
    // The newest stream is the likeliest to be read.
    let streams: Vec<CommandSender> = open.rev().map(|held| held.sender.clone()).collect();
    (!streams.is_empty()).then(|| ClientHandle { client_id: client_id.to_owned(), streams })
}

fn lives(session: &Session, expiry: Duration, now: Instant) -> bool {
    session.has_open_stream() || now.saturating_duration_since(session.last_seen) < expiry
}

fn published_topics(settings: &v2::Settings) -> impl Iterator<Item = String> {
    let topics = match &settings.pub_sub {
        Some(PubSub::Publishing(publishing)) => publishing.topics.as_slice(),
        _ => &[],
    };
    topics.iter().map(|topic| in_namespace(&topic.resource_namespace, &topic.name))
}
