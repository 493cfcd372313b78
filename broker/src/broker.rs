//! A broker as a whole: opened, serving, and stopped in good order. This file builds the parts and hands them to each
//! other; it decides nothing.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use kerolox_kit::access::drain;
use kerolox_kit::clients::Clients;
use kerolox_kit::health::Checks;
use kerolox_kit::listen::{ListenError, Listener, grpc_server};
use kerolox_kit::process::{Shutdown, now_ms};
use kerolox_kit::producers::{ProducersService, Reach};
use kerolox_kit::registrar::{AddressError, Registrar};
use kerolox_kit::relay::Relay;
use kerolox_kit::routes::Routes;
use kerolox_kit::telemetry::SettingsPolicy;
use kerolox_kit::tls::{TlsError, server_config};
use kerolox_log::fs::OsFolder;
use kerolox_log::{LogOptions, Salt};
use kerolox_nameserver::RegistryService;
use kerolox_rocks::RocksKv;
use kerolox_store::{Event, Opening, Store, StoreError, StoreOptions};
use tokio::task::JoinHandle;
use tonic::service::Routes as Services;

use crate::announce::{self, Announcer};
use crate::check_back::{Checker, Webhooks, webhook_secret};
use crate::clock::GuardedClock;
use crate::config::BrokerConfig;
use crate::delivery::{Arrivals, Deliveries, ProgressLog};
use crate::due::DueArrivals;
use crate::engine::Engine;
use crate::lite_expiry;
use crate::moving;
use crate::retention::Keeper;
use crate::service::{Admin, AutoTopics, Context, Counters, DeskServer, Door, Messaging, Policy};
use crate::timers::Timers;
use crate::vitals::Vitals;

/// How often dead brokers and clients are looked for.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// An ordinary start takes less than this. Callers who come earlier are kept waiting, later ones are refused until the
/// store is open.
const QUICK_START: Duration = Duration::from_secs(1);

/// How serving ended.
type Served = Result<(), tonic::transport::Error>;

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

/// A broker whose port is bound and whose data folder is its own.
pub struct Broker {
    config: BrokerConfig,
    listener: Listener,
    tls: Arc<rustls::ServerConfig>,
    vitals: Arc<Vitals>,
    started: Instant,
    /// Keeps other processes out of the data folder.
    _lock: File,
}

impl Broker {
    /// Takes the data folder and binds the port.
    ///
    /// # Errors
    /// [`BrokerError`] says what to change.
    pub async fn bind(config: BrokerConfig) -> Result<Self, BrokerError> {
        let started = Instant::now();
        config.check().map_err(BrokerError::Config)?;
        let lock = lock_folder(&config.data)?;
        let tls = server_config(&config.tls, &config.data)?;
        let listener = Listener::bind(&config.listen).await?;
        Ok(Self { config, listener, tls, vitals: Arc::default(), started, _lock: lock })
    }

    /// The address that is really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// What health checks say of this broker.
    pub fn checks(&self, shutdown: &Shutdown) -> Checks {
        let (vitals, shutdown) = (self.vitals.clone(), shutdown.clone());
        Arc::new(move || vitals.checks(&shutdown))
    }

    /// Opens the store, recovering what a crash left behind, and serves until `shutdown` is requested; then ends all
    /// calls, closes the store and returns. `ready` is called once clients can be served: nameservers that can be reached
    /// know this broker by then. Until then callers are told to try again.
    ///
    /// # Errors
    /// [`BrokerError::Store`], [`BrokerError::Nameserver`] and [`BrokerError::Transport`].
    pub async fn serve(self, shutdown: Shutdown, ready: impl FnOnce()) -> Result<(), BrokerError> {
        let Self { config, listener, tls, vitals, started, _lock } = self;
        let info = announce::broker_info(&config, listener.local_addr());
        let (arrivals, halves, due) = (Arrivals::default(), DueArrivals::default(), DueArrivals::default());
        let door = Door::closed(vitals.opening.clone());
        let opening = {
            let (config, watched) = (config.clone(), vitals.opening.clone());
            let (arrivals, halves, due) = (arrivals.clone(), halves.clone(), due.clone());
            let listener = move |event: &Event| {
                arrivals.notice(event);
                match event {
                    Event::HalfDue { due_ms } => halves.notice(*due_ms),
                    Event::TimerDue { due_ms } => due.notice(*due_ms),
                    _ => {}
                }
            };
            tokio::task::spawn_blocking(move || open_store(&config, listener, &watched))
        };
        let server = grpc_server().serve_with_incoming_shutdown(
            door.clone(),
            listener.incoming(tls),
            shutdown.requested(),
        );
        let (opened, mut serving) = serve_while_opening(opening, server, &vitals.opening, &shutdown).await;
        let store = match opened {
            Ok(store) => store,
            Err(BrokerError::Store(StoreError::Stopped)) => return Ok(()),
            Err(error) => return Err(error),
        };
        let clock = Arc::new(GuardedClock::new(config.timers.clock_policy()));
        // Nobody sets them a second time.
        let _ = vitals.store.set(Arc::downgrade(&store));
        let _ = vitals.clock.set(clock.clone());
        let room = vitals.room.clone();
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
        let reach =
            Arc::new(Reach::new(config.group.clone(), clients.clone(), registrar.channels(), routes.clone()));
        let webhooks = webhooks(&config)?;
        let webhook_counts = webhooks.counts();
        let checker = Checker::new(
            config.group.clone(),
            engine.clone(),
            reach.clone(),
            webhooks,
            config.check_policy(),
            halves,
        );
        let timers = Timers::new(engine.clone(), clock.clone(), config.timers.pace(), due);
        let keeper = Keeper {
            store: store.clone(),
            folder: config.data.clone(),
            limits: config.retention_limits(),
            interval: config.retention.check_interval.duration(),
            room,
        };
        let tasks = [
            tokio::spawn(checker.run()),
            tokio::spawn(timers.run()),
            tokio::spawn(keeper.run()),
            tokio::spawn(deliveries.clone().keep_time(clients.clone())),
            tokio::spawn(keep_house(
                routes.clone(),
                clients.clone(),
                deliveries.clone(),
                config.groups.member_expiry.duration(),
            )),
            tokio::spawn(lite_expiry::run(engine.clone(), config.lite.check_interval.duration())),
            tokio::spawn(moving::run(engine.clone())),
            tokio::spawn(announce_topics(engine.clone(), Arc::downgrade(&registrar))),
        ];
        let policy: Arc<dyn SettingsPolicy> =
            Arc::new(Policy { engine: engine.clone(), limits: config.publish_limits() });
        let announcer = Announcer::new(info.clone(), registrar.clone());
        let context = Arc::new(Context {
            broker: config.group.clone(),
            address: format!("{}:{}", info.host, info.port),
            engine: engine.clone(),
            deliveries: deliveries.clone(),
            routes: routes.clone(),
            clients: clients.clone(),
            reach,
            relay: Arc::new(Relay::new(routes.clone(), clients.clone(), shutdown.clone())),
            limits: config.publish_limits(),
            auto_topics: config
                .auto_creates()
                .then(|| AutoTopics { max: config.topics.auto_create_max, announcer: announcer.clone() }),
            delays: config.delay_policy(),
            clock,
            lite: config.lite.clone(),
            checks: config.check_policy(),
            counters: counters.clone(),
            shutdown: shutdown.clone(),
        });
        let desk = DeskServer::server(config.group.clone(), engine.clone(), webhook_counts);
        let admin = Admin {
            engine,
            deliveries,
            announcer,
            counters,
            started,
            clients: clients.clone(),
            policy: policy.clone(),
        };
        // A standalone broker is its own nameserver; any other one still tells what it knows to who asks.
        let registry = config.standalone.then(|| RegistryService::server(routes));
        let mut services = Services::builder();
        services
            .add_service(Messaging::server(context, policy))
            .add_service(admin.server())
            .add_service(desk)
            .add_service(ProducersService::server(clients.clone()));
        if let Some(registry) = registry {
            services.add_service(registry);
        }
        door.open(services.routes());
        if !config.nameservers.is_empty() {
            registrar.wait_registered(Duration::from_secs(1)).await;
        }
        vitals.is_serving.store(true, Ordering::Relaxed);
        ready();
        let outcome = tokio::select! {
            outcome = &mut serving => outcome.expect("serving ends by itself; a panic would end the process"),
            () = drain(&shutdown, &clients) => {
                serving.abort();
                // It has nothing to say; when it is gone, so are its references.
                let _ = (&mut serving).await;
                Ok(())
            }
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

/// Runs `server` as a task while `opening` runs, and returns what became of that. Who calls before [`QUICK_START`] waits to
/// be accepted, and is answered if the store is open by then.
async fn serve_while_opening(
    mut opening: JoinHandle<Result<Arc<Store>, BrokerError>>,
    server: impl Future<Output = Served> + Send + 'static,
    watched: &Opening,
    shutdown: &Shutdown,
) -> (Result<Arc<Store>, BrokerError>, JoinHandle<Served>) {
    let early = tokio::time::timeout(QUICK_START, &mut opening).await;
    let serving = tokio::spawn(server);
    let opened = match early {
        Ok(opened) => opened,
        Err(_) => {
            tracing::info!("opening the data takes a while; clients are told to try again until it is done");
            tokio::select! {
                opened = &mut opening => opened,
                () = shutdown.requested() => {
                    watched.stop();
                    opening.await
                }
            }
        }
    };
    (opened.expect("opening ends by itself; a panic would end the process"), serving)
}

/// How webhooks are asked.
fn webhooks(config: &BrokerConfig) -> Result<Webhooks, BrokerError> {
    let settings = &config.transaction;
    let secret = webhook_secret(settings.webhook_secret_file.as_deref(), &config.data)
        .map_err(|error| BrokerError::Config(error.to_string()))?;
    Ok(Webhooks::new(secret, settings.webhook_timeout.duration()))
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
    listener: impl Fn(&Event) + Send + 'static,
    opening: &Opening,
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
    let store = Store::open_watched(options, Arc::new(folder), Arc::new(kv), now_ms, listener, opening)?;
    Ok(Arc::new(store))
}

/// Used only when a log is begun.
fn random_salt() -> Salt {
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    // Some bits of either half are always the same, but never in the same place.
    Salt::new(high ^ low)
}

/// Tells clients and nameservers of new topics that nobody announces, such as dead-letter topics.
async fn announce_topics(engine: Engine, registrar: Weak<Registrar>) {
    loop {
        engine.topics_changed().await;
        let Some(registrar) = registrar.upgrade() else { return };
        registrar.announce().await;
    }
}

async fn keep_house(
    routes: Arc<Routes>,
    clients: Arc<Clients>,
    deliveries: Arc<Deliveries>,
    member_expiry: Duration,
) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    loop {
        ticks.tick().await;
        routes.expire();
        for client_id in clients.expire() {
            deliveries.client_left(&client_id);
        }
        deliveries.tidy_lites(|client| clients.is_alive(client));
        deliveries.remove_members(|client| clients.is_alive(client), member_expiry).await;
    }
}
