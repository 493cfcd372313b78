//! A broker as a whole: start, service, and orderly shutdown. This file builds the parts and connects them; it decides
//! nothing.

use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_gateway::access::drain;
use kerolox_gateway::clients::ClientSessions;
use kerolox_gateway::registrar::{AddressError, BrokerRegistrar};
use kerolox_gateway::routes::ClusterRoutes;
use kerolox_gateway::stack;
use kerolox_runtime::data_folder::DataFolder;
use kerolox_runtime::health::HealthChecks;
use kerolox_runtime::listen::{ListenError, ServerListener};
use kerolox_runtime::process::{ShutdownSignal, now_ms};
use kerolox_runtime::supervisor::Supervisor;
use kerolox_runtime::tls::{TlsError, server_config};
use kerolox_store::{GuardedClock, Store, StoreError};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::announce::{self, StandingInGroup};
use crate::config::BrokerConfig;
use crate::health::BrokerHealth;
use crate::news::News;
use crate::replication::{self, Member, ReplicationService, StoreCell, Stores};
use crate::rpc::AdmissionGate;
use crate::serving::Parts;
use crate::setup;

/// How serving ended.
type Served = Result<(), tonic::transport::Error>;

/// How often a broker without slaves creates an index before it gives up: a disk that damages it at once is not worth
/// more.
const OPENINGS: u32 = 3;

/// Interval at which a broker without a data folder checks for a store that accepts records.
const FORBID_INTERVAL: Duration = Duration::from_millis(200);

/// Why a broker cannot start or serve.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// A setting is invalid.
    #[error("the configuration cannot be used: {0}")]
    Config(String),
    /// The data folder cannot be used.
    #[error("cannot use the data folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// Another process uses the data folder.
    #[error("the data folder {} is in use by another broker; stop it first, or choose another --data folder", .0.display())]
    InUse(PathBuf),
    /// The storage engine cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The member file cannot be used.
    #[error("cannot use member.json in {}: {source}", folder.display())]
    MemberFile {
        /// The data folder.
        folder: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
    /// The port cannot be bound.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A nameserver's address is malformed.
    #[error(transparent)]
    Nameserver(#[from] AddressError),
    /// The controller's address is malformed.
    #[error(transparent)]
    Controller(#[from] kerolox_client::AddressError),
    /// The server broke down.
    #[error("serving failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A broker that has bound its port and locked its data folder.
pub struct Broker {
    config: BrokerConfig,
    listener: ServerListener,
    tls: Arc<rustls::ServerConfig>,
    health: Arc<BrokerHealth>,
    started: Instant,
    /// Keeps other processes out of the data folder.
    _lock: File,
}

impl Broker {
    /// Locks the data folder and binds the port.
    ///
    /// # Errors
    /// [`BrokerError`] says what to change.
    pub async fn bind(config: BrokerConfig) -> Result<Self, BrokerError> {
        let started = Instant::now();
        config.check().map_err(BrokerError::Config)?;
        let lock = setup::lock_folder(&config.data)?;
        let tls = server_config(&config.tls, &config.data)?;
        let listener = ServerListener::bind(&config.listen, &config.connections, &config.memory).await?;
        let health =
            Arc::new(BrokerHealth { connections: Some(listener.connections()), ..BrokerHealth::default() });
        Ok(Self { config, listener, tls, health, started, _lock: lock })
    }

    /// The bound address.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// The health checks of this broker.
    pub fn checks(&self, shutdown: &ShutdownSignal) -> HealthChecks {
        let (health, shutdown) = (self.health.clone(), shutdown.clone());
        Arc::new(move || health.checks(&shutdown))
    }

    /// Opens the store, recovering from a crash if necessary, and serves until `shutdown` is requested; then ends all calls,
    /// closes the store and returns. A member of a replicated group hands its leadership over first. `ready` is called once clients
    /// can be served: reachable nameservers know this broker by then. Until then callers wait a moment, and are told to retry
    /// when it takes longer.
    ///
    /// # Errors
    /// [`BrokerError::Store`], [`BrokerError::Nameserver`] and [`BrokerError::Transport`].
    pub async fn serve(self, shutdown: ShutdownSignal, ready: impl FnOnce()) -> Result<(), BrokerError> {
        let (news, health) = (News::default(), self.health.clone());
        let clock = Arc::new(GuardedClock::new(self.config.timers.clock_policy(), now_ms));
        let stores = Arc::new(setup::stores(&self.config, news.clone(), clock.clone())?);
        let index = stores.index.clone();
        // No other task sets them.
        let _ =
            (health.clock.set(clock), health.index.set(index.clone()), health.data.set(stores.data.clone()));
        let tasks = Arc::new(Supervisor::new("broker"));
        let data = stores.data.clone();
        tasks.keep("data folder watch", move || keep_to_folder(data.clone(), health.clone()));
        let outcome = self.serve_stores(stores, (news, tasks.clone()), shutdown, ready).await;
        tasks.stop().await;
        // Health checks continue and hold the index, and an index that is open when the process ends would be
        // corrupted.
        let closing = tokio::task::spawn_blocking(move || index.close());
        closing.await.expect("a panic would end the process");
        outcome
    }

    async fn serve_stores(
        self,
        stores: Arc<Stores>,
        (news, tasks): (News, Arc<Supervisor>),
        shutdown: ShutdownSignal,
        ready: impl FnOnce(),
    ) -> Result<(), BrokerError> {
        let Self { config, listener, tls, health, started, _lock } = self;
        let clock = stores.clock.clone();
        let info = announce::broker_info(&config, listener.local_addr());
        let group =
            if config.standalone { None } else { Some(Arc::new(setup::group(&config, &info, &stores)?)) };
        let replication = group.clone().map(|group| ReplicationService::server(group, health.store.clone()));
        let role = group.as_ref().map(|group| group.watch_role());
        let door = AdmissionGate::closed(health.opening.clone(), health.store.clone(), role, replication);
        // Clients are served until leadership is handed over.
        let closing = ShutdownSignal::new();
        let server = stack::server(listener.connections().memory()).serve_with_incoming_shutdown(
            door.clone(),
            listener.incoming(tls),
            closing.requested(),
        );
        let routes = Arc::new(ClusterRoutes::new(config.registration.lease.duration()));
        let standing = StandingInGroup { group: group.clone(), store: health.store.clone() };
        let parts = Parts {
            webhooks: setup::webhooks(&config)?,
            registrar: Arc::new(BrokerRegistrar::new(
                &config.nameservers,
                routes.clone(),
                announce::announcement(info.clone(), standing.clone()),
            )?),
            clients: Arc::new(ClientSessions::new(config.clients.expiry.duration())),
            address: format!("{}:{}", info.host, info.port),
            config,
            info,
            standing,
            is_ready: watch::Sender::new(false),
            is_leading: Arc::default(),
            door,
            health,
            clock,
            routes,
            news,
            tasks,
            shutdown: closing.clone(),
            started,
        };
        let parts = Arc::new(parts);
        parts.keep_settings();
        match group {
            None => serve_alone(&parts, &stores, server, &shutdown, ready).await,
            Some(group) => serve_as_member(&parts, stores, group, server, &shutdown, ready).await,
        }
    }
}

/// Serves a broker that is its own nameserver and has no slaves.
async fn serve_alone(
    parts: &Arc<Parts>,
    stores: &Arc<Stores>,
    server: impl Future<Output = Served> + Send + 'static,
    shutdown: &ShutdownSignal,
    ready: impl FnOnce(),
) -> Result<(), BrokerError> {
    let mut serving = tokio::spawn(server);
    let mut ready = Some(ready);
    let mut is_first = true;
    // Health checks take a store in their own cell for an open one.
    let own = StoreCell::default();
    let (tasks, served) = loop {
        let opened = open_alone(parts, stores, &own, is_first, shutdown).await;
        let store = match opened {
            Ok(store) => store,
            Err(BrokerError::Store(StoreError::Stopped)) if is_first => return Ok(()),
            Err(BrokerError::Store(StoreError::Stopped)) => break (None, None),
            Err(error) => return Err(error),
        };
        is_first = false;
        parts.health.store.set(Some(store.clone()));
        let tasks = parts.serve(store, None);
        parts.ready().await;
        if let Some(ready) = ready.take() {
            ready();
        }
        tokio::select! {
            served = &mut serving => {
                break (Some(tasks), Some(served.expect("serving ends by itself; a panic would end the process")));
            }
            () = shutdown.requested() => break (Some(tasks), None),
            () = stores.index.is_damaged() => {
                parts.stop_serving();
                tasks.stop().await;
                parts.health.store.set(None);
                tokio::time::sleep(stores.index.pause()).await;
            }
        }
    };
    let outcome = match served {
        Some(served) => served,
        None => until_ended(parts, serving, std::future::ready(())).await,
    };
    if let Some(tasks) = tasks {
        tasks.stop().await;
    }
    close(parts).await;
    Ok(outcome?)
}

/// Opens the store of a broker without slaves and brings its index up to date. An index that turns out to be damaged, or was
/// found damaged before (not `is_first`), is replaced by a new one.
async fn open_alone(
    parts: &Parts,
    stores: &Arc<Stores>,
    own: &StoreCell,
    is_first: bool,
    shutdown: &ShutdownSignal,
) -> Result<Arc<Store>, BrokerError> {
    let opening = parts.health.opening.clone();
    let mut opened = {
        let (stores, own, opening) = (stores.clone(), own.clone(), opening.clone());
        tokio::task::spawn_blocking(move || -> Result<Arc<Store>, BrokerError> {
            let mut store = if is_first { stores.open(&own)? } else { stores.renew(&own)? };
            for _ in 1..OPENINGS {
                match store.rule_alone(None, &opening) {
                    Ok(()) => return Ok(store),
                    Err(error) => stores.index.absorb(error)?,
                }
                store = stores.renew(&own)?;
            }
            store.rule_alone(None, &opening)?;
            Ok(store)
        })
    };
    let opened = tokio::select! {
        opened = &mut opened => opened,
        () = shutdown.requested() => {
            opening.stop();
            opened.await
        }
    };
    opened.expect("opening ends by itself; a panic would end the process")
}

/// Serves a member of a broker group in the role that the controller assigns.
async fn serve_as_member(
    parts: &Arc<Parts>,
    stores: Arc<Stores>,
    group: Arc<replication::Group>,
    server: impl Future<Output = Served> + Send + 'static,
    shutdown: &ShutdownSignal,
    ready: impl FnOnce(),
) -> Result<(), BrokerError> {
    let serving = tokio::spawn(server);
    let (cell, opening) = (parts.health.store.clone(), parts.health.opening.clone());
    // No task has set them before.
    let _ = (parts.health.group.set(group.clone()), parts.health.routes.set(parts.routes.clone()));
    let member = Member::new(group.clone(), cell, stores, parts.clone(), opening.clone());
    // The first report already describes the recovered log.
    member.recover().await?;
    let tasks = Supervisor::new("member");
    tasks.keep("reports", move || replication::report(group.clone()));
    let ending = shutdown.requested();
    tasks.once("end of opening", async move {
        ending.await;
        opening.stop();
    });
    let (is_ready, playing) = (parts.ready(), member.run(shutdown));
    tokio::pin!(is_ready, playing);
    let mut played = None;
    tokio::select! {
        () = &mut is_ready => ready(),
        outcome = &mut playing => played = Some(outcome),
    }
    let outcome = match played {
        Some(outcome) => {
            parts.shutdown.request();
            (outcome, until_ended(parts, serving, std::future::ready(())).await)
        }
        None => {
            let (sender, ended) = tokio::sync::oneshot::channel();
            let ended = async move {
                let _: Result<(), _> = ended.await;
            };
            let watching = async {
                let outcome = playing.await;
                let _ = sender.send(());
                outcome
            };
            tokio::join!(watching, until_ended(parts, serving, ended))
        }
    };
    tasks.stop().await;
    close(parts).await;
    match outcome.0 {
        Ok(()) | Err(BrokerError::Store(StoreError::Stopped)) => Ok(outcome.1?),
        Err(error) => Err(error),
    }
}

/// Serves until `ending` completes, and then some seconds at most for running calls.
async fn until_ended(
    parts: &Parts,
    mut serving: JoinHandle<Served>,
    ending: impl Future<Output = ()>,
) -> Served {
    tokio::select! {
        outcome = &mut serving => return outcome.expect("serving ends by itself; a panic would end the process"),
        () = ending => parts.shutdown.request(),
    }
    parts.door.turn_away();
    tokio::select! {
        outcome = &mut serving => outcome.expect("serving ends by itself; a panic would end the process"),
        () = drain(&parts.shutdown, &parts.clients, parts.config.clients.drain.duration()) => {
            serving.abort();
            // Its result does not matter; once it ended, its references are dropped.
            let _ = (&mut serving).await;
            Ok(())
        }
    }
}

/// Takes the broker out of the routes and closes its store.
async fn close(parts: &Parts) {
    parts.registrar.stop().await;
    // The store must be closed when the process ends, even for health checks, which continue: RocksDB would be cut off.
    if let Some(store) = parts.health.store.set(None) {
        let closing = tokio::task::spawn_blocking(move || store.close());
        closing.await.expect("a panic would end the process");
    }
}

/// Refuses all records, and keeps this member from being elected, once the data folder is gone.
async fn keep_to_folder(data: Arc<DataFolder>, health: Arc<BrokerHealth>) {
    data.clone().watch().await;
    let Some(missed) = data.missed() else { return };
    loop {
        if let Some(store) = health.store.get() {
            store.forbid(&format!("{missed}; bring it back and restart the broker"));
        }
        if let Some(group) = health.group.get() {
            group.must_not_rule(&missed);
        }
        // A store that is opened meanwhile is no better.
        tokio::time::sleep(FORBID_INTERVAL).await;
    }
}
