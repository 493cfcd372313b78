//! A broker as a whole: opened, serving, and stopped in good order. This file builds the parts and hands them to each
//! other; it decides nothing.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_kit::access::drain;
use kerolox_kit::clients::Clients;
use kerolox_kit::listen::{ListenError, Listener, grpc_server};
use kerolox_kit::process::{Shutdown, now_ms};
use kerolox_kit::registrar::{AddressError, Registrar};
use kerolox_kit::relay::Relay;
use kerolox_kit::routes::Routes;
use kerolox_kit::telemetry::SettingsPolicy;
use kerolox_kit::tls::{TlsError, server_config};
use kerolox_log::fs::OsFolder;
use kerolox_log::{LogOptions, Salt};
use kerolox_nameserver::RegistryService;
use kerolox_rocks::RocksKv;
use kerolox_store::{Store, StoreError, StoreOptions};

use crate::announce::{self, Announcer};
use crate::check_back::{Checker, HalfArrivals};
use crate::config::BrokerConfig;
use crate::delivery::{Arrivals, Deliveries, ProgressLog};
use crate::engine::Engine;
use crate::retention::{Keeper, Room};
use crate::service::{Admin, Context, Counters, Messaging, Policy};

/// How often dead brokers and clients are looked for.
const HOUSEKEEPING: Duration = Duration::from_millis(500);

/// Why a broker cannot start or serve.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// A setting does not fit.
    #[error("the configuration cannot be used: {0}")]
    Config(String),
    /// The data folder cannot be used.
    #[error("cannot use the data folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process works in the data folder.
    #[error("the data folder {} is in use by another broker; stop it first, or choose another --data folder", .0.display())]
    InUse(PathBuf),
    /// The storage engine cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The port cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A nameserver's address cannot be understood.
    #[error(transparent)]
    Nameserver(#[from] AddressError),
    /// The server broke down.
    #[error("serving failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A broker whose store is open and whose port is bound.
pub struct Broker {
    config: BrokerConfig,
    listener: Listener,
    tls: Arc<rustls::ServerConfig>,
    store: Arc<Store>,
    arrivals: Arrivals,
    halves: HalfArrivals,
    started: Instant,
    /// Keeps other processes out of the data folder.
    _lock: File,
}

impl Broker {
    /// Opens the store, recovering what a crash left behind, and binds the port.
    ///
    /// # Errors
    /// [`BrokerError`] says what to change.
    pub async fn open(config: BrokerConfig) -> Result<Self, BrokerError> {
        let started = Instant::now();
        config.check().map_err(BrokerError::Config)?;
        let lock = lock_folder(&config.data)?;
        let tls = server_config(&config.tls, &config.data)?;
        // Bound first: a port in use is found out before any work is done.
        let listener = Listener::bind(&config.listen).await?;
        let (arrivals, halves) = (Arrivals::default(), HalfArrivals::default());
        let store = open_store(&config, arrivals.clone(), halves.clone())?;
        Ok(Self { config, listener, tls, store, arrivals, halves, started, _lock: lock })
    }

    /// The address that is really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Serves until `shutdown` is requested; then ends all calls, closes the store and returns. `ready` is called once
    /// clients can be served: nameservers that can be reached know this broker by then.
    ///
    /// # Errors
    /// [`BrokerError::Nameserver`] and [`BrokerError::Transport`].
    pub async fn serve(self, shutdown: Shutdown, ready: impl FnOnce()) -> Result<(), BrokerError> {
        let Self { config, listener, tls, store, arrivals, halves, started, _lock } = self;
        let info = announce::broker_info(&config, listener.local_addr());
        let room = Room::default();
        let engine =
            Engine::new(store.clone(), config.topics.default_queues, config.log.flush(), room.clone());
        let routes = Arc::new(Routes::new(config.registration.lease.duration()));
        let clients = Arc::new(Clients::new(config.clients.expiry.duration()));
        let registrar = Arc::new(Registrar::start(
            &config.nameservers,
            config.registration.heartbeat.duration(),
            routes.clone(),
            announce::announcement(info.clone(), store.clone()),
        )?);
        let progress = ProgressLog::start(engine.clone());
        let deliveries =
            Arc::new(Deliveries::new(engine.clone(), progress, &arrivals, config.groups.auto_create));
        let counters = Arc::new(Counters::default());
        let checker = Checker {
            broker: config.group.clone(),
            engine: engine.clone(),
            clients: clients.clone(),
            policy: config.check_policy(),
            arrivals: halves,
        };
        let keeper = Keeper {
            store: store.clone(),
            folder: config.data.clone(),
            limits: config.retention_limits(),
            interval: config.retention.check_interval.duration(),
            room,
        };
        let tasks = [
            tokio::spawn(checker.run()),
            tokio::spawn(keeper.run()),
            tokio::spawn(keep_house(routes.clone(), clients.clone(), deliveries.clone())),
        ];
        let policy: Arc<dyn SettingsPolicy> =
            Arc::new(Policy { engine: engine.clone(), limits: config.publish_limits() });
        let context = Arc::new(Context {
            broker: config.group.clone(),
            address: format!("{}:{}", info.host, info.port),
            engine: engine.clone(),
            deliveries: deliveries.clone(),
            routes: routes.clone(),
            clients: clients.clone(),
            relay: Relay::new(routes.clone(), shutdown.clone()),
            limits: config.publish_limits(),
            checks: config.check_policy(),
            counters: counters.clone(),
            shutdown: shutdown.clone(),
        });
        let admin = Admin {
            engine,
            deliveries,
            announcer: Announcer::new(info, registrar.clone()),
            counters,
            started,
        };
        // A standalone broker is its own nameserver; any other one still tells what it knows to who asks.
        let registry = config.standalone.then(|| RegistryService::server(routes));
        let serving = grpc_server()
            .add_service(Messaging::server(context, policy))
            .add_service(admin.server())
            .add_optional_service(registry)
            .serve_with_incoming_shutdown(listener.incoming(tls), shutdown.requested());
        if !config.nameservers.is_empty() {
            registrar.wait_registered(Duration::from_secs(1)).await;
        }
        ready();
        let outcome = tokio::select! {
            outcome = serving => outcome,
            () = drain(&shutdown, &clients) => Ok(()),
        };
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        // Calls that were cut off may hold the other references for a moment; the lease ends by itself then.
        if let Some(registrar) = Arc::into_inner(registrar) {
            registrar.stop().await;
        }
        store.close();
        Ok(outcome?)
    }
}

fn lock_folder(path: &Path) -> Result<File, BrokerError> {
    let failed = |source| BrokerError::Folder { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(failed)?;
    let file = File::create(path.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(BrokerError::InUse(path.to_owned())),
        Err(std::fs::TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn open_store(
    config: &BrokerConfig,
    arrivals: Arrivals,
    halves: HalfArrivals,
) -> Result<Arc<Store>, BrokerError> {
    let path = config.data.join("log");
    let folder = OsFolder::create(&path).map_err(|source| BrokerError::Folder { path, source })?;
    let kv = RocksKv::open(&config.data.join("index")).map_err(StoreError::from)?;
    let options = StoreOptions {
        broker: config.group.clone(),
        log: LogOptions { segment_bytes: config.log.segment_size.bytes(), ..LogOptions::new(random_salt()) },
        waiting_bytes_max: config.log.max_waiting_bytes.as_usize(),
        flush_interval: config.log.flush_interval.duration(),
        tail_bytes: config.log.tail_size.as_usize(),
    };
    let listener = move |event: &kerolox_store::Event| {
        arrivals.notice(event);
        halves.notice(event);
    };
    Ok(Arc::new(Store::open(options, Arc::new(folder), Arc::new(kv), now_ms, listener)?))
}

/// Used only when a log is begun.
fn random_salt() -> Salt {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // Some bits of either half are always the same, but never in the same place.
    Salt::new(high ^ low)
}

async fn keep_house(routes: Arc<Routes>, clients: Arc<Clients>, deliveries: Arc<Deliveries>) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    loop {
        ticks.tick().await;
        routes.expire();
        for client_id in clients.expire() {
            deliveries.client_left(&client_id);
        }
    }
}
