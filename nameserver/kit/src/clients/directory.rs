//! The directory itself: plain state, told the time by its callers.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_model::names::in_namespace;
use kerolox_proto::v2;
use kerolox_proto::v2::settings::PubSub;

use super::{CommandSender, ProducerHandle};

#[derive(Debug)]
struct Session {
    settings: Option<Arc<v2::Settings>>,
    last_seen: Instant,
    streams: Vec<(u64, CommandSender)>,
}

impl Session {
    fn new(now: Instant) -> Self {
        Self { settings: None, last_seen: now, streams: Vec::new() }
    }

    fn has_open_stream(&self) -> bool {
        self.streams.iter().any(|(_, sender)| !sender.is_closed())
    }
}

/// Sessions by client id, and the producers of each topic.
#[derive(Debug, Default)]
pub(super) struct Directory {
    sessions: HashMap<String, Session>,
    /// Client ids by the topic that they said they publish to, under its stored name.
    producers: HashMap<String, BTreeSet<String>>,
    next_stream: u64,
    /// Where the next round among producers starts.
    turn: usize,
}

impl Directory {
    pub(super) fn touch(&mut self, client_id: &str, now: Instant) {
        self.session(client_id, now).last_seen = now;
    }

    pub(super) fn attach(&mut self, client_id: &str, sender: CommandSender, now: Instant) -> u64 {
        self.next_stream += 1;
        let stream = self.next_stream;
        let session = self.session(client_id, now);
        session.last_seen = now;
        session.streams.push((stream, sender));
        stream
    }

    pub(super) fn detach(&mut self, client_id: &str, stream: u64) {
        if let Some(session) = self.sessions.get_mut(client_id) {
            session.streams.retain(|(id, _)| *id != stream);
        }
    }

    pub(super) fn set_settings(&mut self, client_id: &str, settings: v2::Settings, now: Instant) {
        self.forget_topics(client_id);
        for topic in published_topics(&settings) {
            self.producers.entry(topic).or_default().insert(client_id.to_owned());
        }
        let session = self.session(client_id, now);
        session.last_seen = now;
        session.settings = Some(Arc::new(settings));
    }

    pub(super) fn settings(&self, client_id: &str) -> Option<Arc<v2::Settings>> {
        self.sessions.get(client_id)?.settings.clone()
    }

    pub(super) fn is_alive(&self, client_id: &str, expiry: Duration, now: Instant) -> bool {
        self.sessions.get(client_id).is_some_and(|session| lives(session, expiry, now))
    }

    pub(super) fn remove(&mut self, client_id: &str) -> bool {
        self.forget_topics(client_id);
        self.sessions.remove(client_id).is_some()
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
    pub(super) fn producers_of(&mut self, stored_topic: &str) -> Vec<ProducerHandle> {
        let Some(client_ids) = self.producers.get(stored_topic) else { return Vec::new() };
        let handle = |client_id: &String| {
            let session = self.sessions.get(client_id)?;
            let open = session.streams.iter().filter(|(_, sender)| !sender.is_closed());
            // The newest stream is the likeliest to be read.
            let streams: Vec<CommandSender> = open.rev().map(|(_, sender)| sender.clone()).collect();
            (!streams.is_empty()).then(|| ProducerHandle { client_id: client_id.clone(), streams })
        };
        let mut handles: Vec<ProducerHandle> = client_ids.iter().filter_map(handle).collect();
        if !handles.is_empty() {
            let first = self.turn % handles.len();
            handles.rotate_left(first);
            self.turn = self.turn.wrapping_add(1);
        }
        handles
    }

    pub(super) fn close_streams(&mut self) {
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
