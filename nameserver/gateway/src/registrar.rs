//! The broker's side of the registry: one task per nameserver that registers, keeps the lease and brings home the routes.

use std::sync::Arc;
use std::time::Duration;

use kerolox_model::limits::{HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW};
use kerolox_proto::kerolox::registry_client::RegistryClient;
use kerolox_proto::kerolox::{RegisterRequest, UnregisterRequest};
use kerolox_runtime::process::ShutdownSignal;
use kerolox_runtime::supervisor::Supervisor;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;
use tonic::transport::{Channel, Endpoint};

use crate::routes::ClusterRoutes;

/// How long one call to a nameserver may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause before a wish for newer routes is met, so that many wishes make few calls.
const NEWS_PAUSE: Duration = Duration::from_millis(30);

/// What the broker is and has at the moment; called before every registration. The field `known_snapshot_version` is filled
/// in by the registrar.
pub type BrokerAnnouncement = Arc<dyn Fn() -> RegisterRequest + Send + Sync>;

/// A nameserver's address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is not the address of a nameserver; write host:port, as in 127.0.0.1:9876")]
pub struct AddressError {
    /// The address as configured.
    pub address: String,
}

/// Keeps a broker registered with all its nameservers.
pub struct BrokerRegistrar {
    routes: Arc<ClusterRoutes>,
    current: BrokerAnnouncement,
    /// Number of the latest change that the tasks are to announce.
    wanted: watch::Sender<u64>,
    /// Connections to the nameservers, with their addresses as configured.
    channels: Vec<(String, Channel)>,
    /// How far the task for each nameserver is; empty before the first registration and after the last one.
    members: Mutex<Vec<watch::Receiver<Progress>>>,
    tasks: Supervisor,
    stop: ShutdownSignal,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    /// Number of the latest change that was announced, or could not be.
    tried: u64,
    is_registered: bool,
}

impl BrokerRegistrar {
    /// A registrar for `nameservers` (`host:port`), which does not register yet. The routes that they send back will go into
    /// `routes`, beside the broker's own registration.
    ///
    /// # Errors
    /// [`AddressError`] when an address cannot be understood.
    pub fn new(
        nameservers: &[String],
        routes: Arc<ClusterRoutes>,
        current: BrokerAnnouncement,
    ) -> Result<Self, AddressError> {
        let wanted = watch::Sender::new(1);
        let channels = nameservers.iter().map(|address| Ok((address.clone(), channel(address)?)));
        let channels = channels.collect::<Result<_, _>>()?;
        Ok(Self {
            routes,
            current,
            wanted,
            channels,
            members: Mutex::default(),
            tasks: Supervisor::new("registrar"),
            stop: ShutdownSignal::new(),
        })
    }

    /// Starts registering with every nameserver, at once and then every `heartbeat`; one that does not answer is tried for ever. A
    /// second call changes nothing.
    pub fn start(&self, heartbeat: Duration) {
        let mut members = self.members();
        if members.is_empty() {
            self.update_own();
            let started =
                self.channels.iter().map(|(address, channel)| self.start_member(address, channel, heartbeat));
            members.extend(started);
        }
    }

    fn members(&self) -> MutexGuard<'_, Vec<watch::Receiver<Progress>>> {
        self.members.lock()
    }

    fn start_member(
        &self,
        address: &str,
        channel: &Channel,
        heartbeat: Duration,
    ) -> watch::Receiver<Progress> {
        let progress = watch::Sender::new(Progress::default());
        let watcher = progress.subscribe();
        let (address, channel, stop) = (address.to_owned(), channel.clone(), self.stop.clone());
        let (routes, current) = (Arc::clone(&self.routes), Arc::clone(&self.current));
        let wanted = self.wanted.clone();
        self.tasks.keep_to_end("registration", move || {
            let session = Session {
                address: address.clone(),
                client: RegistryClient::new(channel.clone()).max_decoding_message_size(usize::MAX),
                routes: Arc::clone(&routes),
                current: Arc::clone(&current),
                known_version: 0,
                progress: progress.clone(),
                is_unreachable: false,
            };
            session.run(heartbeat, wanted.subscribe(), stop.clone())
        });
        watcher
    }

    /// The connections to the nameservers, with their addresses as configured.
    pub fn channels(&self) -> Vec<(String, Channel)> {
        self.channels.clone()
    }

    /// Announces a change of the topics at once, and waits until every nameserver that can be reached knows it, for a second
    /// at most.
    pub async fn announce(&self) {
        self.update_own();
        self.wanted.send_modify(|number| *number += 1);
        let number = *self.wanted.borrow();
        let watched: Vec<_> = self.members().clone();
        let all_tried = async {
            for mut progress in watched {
                // An error means that the task has ended, so there is nothing to wait for.
                let _ = progress.wait_for(|progress| progress.tried >= number).await;
            }
        };
        // A nameserver that could not be told within a second hears it with a later heartbeat.
        let _ = tokio::time::timeout(Duration::from_secs(1), all_tried).await;
    }

    /// Waits until some nameserver has taken the registration. Returns false when none has after `patience`.
    pub async fn wait_registered(&self, patience: Duration) -> bool {
        let poll = async {
            while !self.members().iter().any(|member| member.borrow().is_registered) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(patience, poll).await.is_ok()
    }

    /// Takes the broker out of the routes of all nameservers that can be reached.
    pub async fn stop(&self) {
        self.stop.request();
        self.members().clear();
        // Each task ends by itself within its call timeout.
        self.tasks.stop().await;
    }

    fn update_own(&self) {
        if let Err(error) = self.routes.set_own((self.current)()) {
            tracing::error!("this broker cannot be registered: {error}");
        }
    }
}

/// Completes when newer routes are wanted.
async fn wished(wishes: &mut watch::Receiver<u64>) {
    // The sender lives as long as the routes, which outlive this task.
    let _ = wishes.changed().await;
    tokio::time::sleep(NEWS_PAUSE).await;
    wishes.borrow_and_update();
}

/// A connection to a nameserver, made when it is needed.
fn channel(address: &str) -> Result<Channel, AddressError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"));
    let endpoint = endpoint.map_err(|_| AddressError { address: address.to_owned() })?;
    if endpoint.uri().port().is_none() {
        return Err(AddressError { address: address.to_owned() });
    }
    let endpoint = endpoint.connect_timeout(CALL_TIMEOUT).timeout(CALL_TIMEOUT);
    Ok(endpoint
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .connect_lazy())
}

/// The conversation with one nameserver.
struct Session {
    address: String,
    client: RegistryClient<Channel>,
    routes: Arc<ClusterRoutes>,
    current: BrokerAnnouncement,
    known_version: u64,
    progress: watch::Sender<Progress>,
    is_unreachable: bool,
}

impl Session {
    async fn run(mut self, heartbeat: Duration, mut wanted: watch::Receiver<u64>, stop: ShutdownSignal) {
        let stopped = stop.requested();
        tokio::pin!(stopped);
        let mut wishes = self.routes.wishes();
        loop {
            let number = *wanted.borrow_and_update();
            tokio::select! {
                () = self.register() => {}
                () = &mut stopped => break,
            }
            let is_registered = !self.is_unreachable;
            self.progress.send_replace(Progress { tried: number, is_registered });
            tokio::select! {
                () = tokio::time::sleep(heartbeat) => {}
                changed = wanted.changed() => if changed.is_err() { return },
                () = wished(&mut wishes) => {}
                () = &mut stopped => break,
            }
        }
        self.unregister().await;
    }

    async fn register(&mut self) {
        let request = RegisterRequest { known_snapshot_version: self.known_version, ..(self.current)() };
        match self.client.register(request).await {
            Ok(response) => {
                match response.into_inner().snapshot {
                    Some(snapshot) => {
                        self.known_version = snapshot.version;
                        self.routes.replace_copy(&self.address, snapshot);
                    }
                    None => self.routes.confirm_copy(&self.address),
                }
                let was_registered = self.progress.borrow().is_registered;
                if self.is_unreachable || !was_registered {
                    tracing::info!(nameserver = self.address, "registered");
                }
                self.is_unreachable = false;
            }
            Err(status) => {
                if !self.is_unreachable {
                    let reason = status.message();
                    tracing::warn!(nameserver = self.address, reason, "registration failed; retrying");
                }
                self.is_unreachable = true;
            }
        }
    }

    async fn unregister(mut self) {
        let Some(broker) = (self.current)().broker else { return };
        let request = UnregisterRequest {
            cluster: broker.cluster,
            group: broker.group,
            id: broker.id,
            incarnation: broker.incarnation,
        };
        if let Err(status) = self.client.unregister(request).await {
            tracing::debug!(nameserver = self.address, reason = status.message(), "cannot unregister");
        }
    }
}
