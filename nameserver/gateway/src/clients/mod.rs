//! Sessions of the clients that are connected to this process: what they said about themselves, whether they live, and
//! the Telemetry streams on which they can be reached.
//!
//! A session comes into being with the first sign of life, whatever it is: after a restart of the server some SDKs go
//! on with heartbeats only and never send their settings again.

mod announced;
mod directory;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::{self, TelemetryCommand};
use kerolox_runtime::config::TimeSpan;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::refusal::ok_status;
use announced::announced_by;
pub use announced::{AnnouncedFilter, FilterAnnouncements, NewlyAnnounced};
use directory::Directory;

/// How long a client without an open stream lives after its last sign of life, by default. The Rust SDK sends a
/// heartbeat every 30 s only.
pub const DEFAULT_EXPIRY: Duration = Duration::from_secs(120);

/// How long calls under way have to end when a server is shut down, by default.
const DEFAULT_DRAIN: Duration = Duration::from_secs(3);

/// Commands that wait for a slow reader before more are turned down.
const STREAM_BACKLOG: usize = 64;

/// Settings of client sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ClientSettings {
    /// How long a silent client without an open stream is remembered.
    pub expiry: TimeSpan,
    /// How long calls under way have to end when the server is shut down; those that have not are cut off.
    pub drain: TimeSpan,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            expiry: TimeSpan::from_secs(DEFAULT_EXPIRY.as_secs()),
            drain: TimeSpan::from_secs(DEFAULT_DRAIN.as_secs()),
        }
    }
}

/// The sending end of one Telemetry stream.
pub type CommandSender = mpsc::Sender<Result<TelemetryCommand, tonic::Status>>;
/// The receiving end of one Telemetry stream.
pub type CommandReceiver = mpsc::Receiver<Result<TelemetryCommand, tonic::Status>>;

/// A client that can be sent commands.
#[derive(Debug, Clone)]
pub struct ClientHandle {
    /// The client's id.
    pub client_id: String,
    streams: Vec<CommandSender>,
}

impl ClientHandle {
    /// Puts a command into one of the client's streams without waiting. Returns whether one took it, which does not mean
    /// that the client will act on it.
    pub fn try_send(&self, command: TelemetryCommand) -> bool {
        self.streams.iter().any(|stream| stream.try_send(Ok(command.clone())).is_ok())
    }
}

/// The directory of client sessions, shared by all services of a process.
#[derive(Debug)]
pub struct ClientSessions {
    directory: Mutex<Directory>,
    expiry: Duration,
    /// Random number of this process.
    incarnation: String,
    /// See [`Self::announced_version`].
    announced_version: AtomicU64,
    /// Notified of every producer that announces its topics.
    producers: Notify,
    /// Who waits for which reply, by its nonce.
    waiting: Mutex<HashMap<String, oneshot::Sender<TelemetryCommand>>>,
}

/// The state of one client's session.
#[derive(Debug, Clone)]
pub struct SessionView {
    /// The client's id.
    pub client_id: String,
    /// The client's latest settings.
    pub settings: Option<Arc<v2::Settings>>,
    /// The other end of its newest stream.
    pub peer: Option<SocketAddr>,
    /// Time since its first sign of life.
    pub known: Duration,
    /// Time since its last sign of life.
    pub silent: Duration,
    /// Whether it has an open stream.
    pub is_reachable: bool,
}

impl ClientSessions {
    /// An empty directory; clients without an open stream live for `expiry` after their last sign of life.
    pub fn new(expiry: Duration) -> Self {
        Self {
            directory: Mutex::default(),
            expiry,
            incarnation: uuid::Uuid::new_v4().to_string(),
            announced_version: AtomicU64::default(),
            producers: Notify::new(),
            waiting: Mutex::default(),
        }
    }

    /// Notes a sign of life: to be called for every RPC of the client, heartbeats included.
    pub fn touch(&self, client_id: &str) {
        self.lock().touch(client_id, Instant::now());
    }

    /// Keeps the client's latest settings. Returns the subscriptions in them that no client has announced here before.
    pub fn set_settings(&self, client_id: &str, settings: v2::Settings) -> NewlyAnnounced {
        let is_producer = matches!(settings.pub_sub, Some(PubSub::Publishing(_)));
        let announced =
            self.change_announced(|directory| directory.set_settings(client_id, settings, Instant::now()));
        if is_producer {
            self.producers.notify_one();
        }
        announced
    }

    /// Changes the directory in a way that may change the announced filters.
    fn change_announced<T>(&self, change: impl FnOnce(&mut Directory) -> T) -> T {
        let mut directory = self.lock();
        let outcome = change(&mut directory);
        self.announced_version.store(directory.announced_version(), Ordering::Release);
        outcome
    }

    /// Random number of this process, which tells its announcements from those of others.
    pub fn incarnation(&self) -> &str {
        &self.incarnation
    }

    /// Grows whenever [`Self::announced`] changes.
    pub fn announced_version(&self) -> u64 {
        self.announced_version.load(Ordering::Acquire)
    }

    /// The subscriptions of connected members of consumer groups, and their version.
    pub fn announced(&self) -> (u64, Vec<AnnouncedFilter>) {
        let directory = self.lock();
        (directory.announced_version(), directory.announced().keys().cloned().collect())
    }

    /// The announced filters of one group on one topic (stored names).
    pub fn announced_of(&self, group: &str, topic: &str) -> Vec<AnnouncedFilter> {
        AnnouncedFilter::of(self.lock().announced(), group, topic).cloned().collect()
    }

    /// Waits until some producer announces its topics; one that did since the last call counts. For one caller.
    pub async fn producer_appeared(&self) {
        self.producers.notified().await;
    }

    /// Notes that the client received from the broker group `owner` through this server.
    pub fn note_owner(&self, client_id: &str, owner: &str) {
        self.lock().note_owner(client_id, owner, Instant::now());
    }

    /// The broker groups from which the client received through this server.
    pub fn owners(&self, client_id: &str) -> Vec<String> {
        self.lock().owners(client_id)
    }

    /// The client's latest settings; `None` when it has sent none since this process started.
    pub fn settings(&self, client_id: &str) -> Option<Arc<v2::Settings>> {
        self.lock().settings(client_id)
    }

    /// Whether the client has an open stream or gave a sign of life lately.
    pub fn is_alive(&self, client_id: &str) -> bool {
        self.lock().is_alive(client_id, self.expiry, Instant::now())
    }

    /// Forgets the client: it is no longer alive and cannot be reached. Its streams end as soon as it closes its half of
    /// them. Returns whether it was known.
    pub fn terminate(&self, client_id: &str) -> bool {
        self.change_announced(|directory| directory.remove(client_id))
    }

    /// Forgets the clients that are no longer alive, and returns their ids. To be called every few seconds.
    pub fn expire(&self) -> Vec<String> {
        self.change_announced(|directory| directory.expire(self.expiry, Instant::now()))
    }

    /// Producers that declared the topic (stored name, namespace included) and can be reached now. Successive calls start
    /// with different ones, so trying them in order spreads the work.
    pub fn producers_of(&self, stored_topic: &str) -> Vec<ClientHandle> {
        self.lock().producers_of(stored_topic)
    }

    /// Consumers that can be reached now, with the settings that they were told.
    pub fn consumers(&self) -> Vec<(ClientHandle, Arc<v2::Settings>)> {
        self.lock().consumers()
    }

    /// The client, if it can be reached now.
    pub fn reach(&self, client_id: &str) -> Option<ClientHandle> {
        self.lock().reach(client_id)
    }

    /// Opens a stream to the client. It counts as open until the returned [`StreamLease`] is dropped.
    ///
    /// `peer` is the other end of its connection.
    pub fn open_stream(
        self: &Arc<Self>,
        client_id: &str,
        peer: Option<SocketAddr>,
    ) -> (StreamLease, CommandReceiver) {
        let (sender, receiver) = mpsc::channel(STREAM_BACKLOG);
        let replies = sender.downgrade();
        let stream = self.lock().attach(client_id, sender, peer, Instant::now());
        let lease =
            StreamLease { clients: Arc::clone(self), client_id: client_id.to_owned(), stream, replies };
        (lease, receiver)
    }

    /// Asks clients to look for the master anew (ReconnectEndpoints), because this server is none any more. Only those are
    /// asked that know other members: the others were told of this server alone and would come back to it. Returns how many
    /// were asked.
    pub fn send_away(&self) -> usize {
        let movable = self.lock().movable();
        let command = v2::ReconnectEndpointsCommand { nonce: uuid::Uuid::new_v4().to_string() };
        let command = Some(v2::telemetry_command::Command::ReconnectEndpointsCommand(command));
        let command = TelemetryCommand { status: Some(ok_status()), command };
        movable.iter().filter(|stream| stream.try_send(Ok(command.clone())).is_ok()).count()
    }

    /// All clients, or the one with this id.
    pub fn views(&self, only: Option<&str>) -> Vec<SessionView> {
        self.lock().views(only, Instant::now())
    }

    /// Puts a command to a client and waits for the reply with this nonce. `None` when no stream takes the command, and
    /// `Some(None)` when no reply comes in time.
    pub async fn ask(
        &self,
        client_id: &str,
        command: TelemetryCommand,
        nonce: &str,
        limit: Duration,
    ) -> Option<Option<TelemetryCommand>> {
        let (sender, reply) = oneshot::channel();
        self.replies().insert(nonce.to_owned(), sender);
        let taken = self.reach(client_id).is_some_and(|client| client.try_send(command));
        let reply =
            if taken { tokio::time::timeout(limit, reply).await.ok().and_then(Result::ok) } else { None };
        self.replies().remove(nonce);
        taken.then_some(reply)
    }

    /// Hands a client's reply to the task that waits for it; returns whether there is one.
    pub fn replied(&self, nonce: &str, reply: TelemetryCommand) -> bool {
        let waiting = self.replies().remove(nonce);
        waiting.is_some_and(|waiting| waiting.send(reply).is_ok())
    }

    fn replies(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<TelemetryCommand>>> {
        self.waiting.lock().expect("nothing panics while it holds this lock")
    }

    /// Ends all streams, for shutting down.
    pub fn close_streams(&self) {
        self.lock().close_streams();
    }

    /// Number of sessions.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is no session.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().expect("nothing panics while it holds this lock")
    }
}

/// Keeps a stream in the directory; dropping it takes the stream out.
///
/// Belongs to the owner of the *response* side: a client that closes its request side can still be reached.
#[derive(Debug)]
pub struct StreamLease {
    clients: Arc<ClientSessions>,
    client_id: String,
    stream: u64,
    replies: mpsc::WeakSender<Result<TelemetryCommand, tonic::Status>>,
}

impl StreamLease {
    /// The other end of the stream, for the reader of the client's messages.
    pub fn request_side(&self) -> RequestSide {
        RequestSide {
            clients: Arc::clone(&self.clients),
            client_id: self.client_id.clone(),
            stream: self.stream,
            replies: self.replies.clone(),
        }
    }

    /// Notes that the client knows the other members of this server's group; see [`ClientSessions::send_away`].
    pub fn note_members(&self) {
        self.clients.lock().note_members(&self.client_id, self.stream);
    }
}

impl Drop for StreamLease {
    fn drop(&mut self) {
        self.clients.lock().detach(&self.client_id, self.stream);
    }
}

/// The half of a stream on which the client speaks. Dropping it says that the client has closed it, or is not read any more.
#[derive(Debug)]
pub struct RequestSide {
    clients: Arc<ClientSessions>,
    client_id: String,
    stream: u64,
    replies: mpsc::WeakSender<Result<TelemetryCommand, tonic::Status>>,
}

impl RequestSide {
    /// A sender for an answer; `None` when the stream was ended from our side. Keeps the stream open while it is held.
    pub fn replies(&self) -> Option<CommandSender> {
        self.replies.upgrade()
    }
}

impl Drop for RequestSide {
    fn drop(&mut self) {
        self.clients.lock().half_close(&self.client_id, self.stream);
    }
}
