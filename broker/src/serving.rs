//! What a broker runs while it is a master, and what it answers while it is none.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use kerolox_core::replicas::Replicas;
use kerolox_gateway::access_point::AccessPoint;
use kerolox_gateway::admin::{AdminParts, AdminService, Rates};
use kerolox_gateway::clients::{Announcements, Clients};
use kerolox_gateway::inspect::InspectService;
use kerolox_gateway::producers::{ProducersService, Reach};
use kerolox_gateway::registrar::Registrar;
use kerolox_gateway::registry::RegistryService;
use kerolox_gateway::relay::{Relay, administration, refuse_relayed};
use kerolox_gateway::routes::Routes;
use kerolox_gateway::spread::Spread;
use kerolox_gateway::telemetry::{RegisteredPolicy, SettingsPolicy};
use kerolox_proto::kerolox::BrokerInfo;
use kerolox_proto::v2::admin_server::AdminServer;
use kerolox_runtime::config;
use kerolox_runtime::inspect::InspectedProcess;
use kerolox_runtime::process::Shutdown;
use kerolox_store::{GuardedClock, StateEvent, Store};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::service::Routes as Services;
use tonic::service::interceptor::InterceptedService;

use crate::announce::{Announcer, StandingInGroup};
use crate::config::BrokerConfig;
use crate::creation_quota::CreationQuota;
use crate::delivery::{Arrivals, Deliveries, ProgressLog};
use crate::engine::Engine;
use crate::health::BrokerHealth;
use crate::pace::{Lookups, Scans};
use crate::replication::Leadership;
use crate::rpc::{
    Admin, AdmissionGate, AutoTopics, Context, Counters, Messaging, Policy, TransactionsService, Turns,
};
use crate::tasks::DueArrivals;
use crate::tasks::check_back::{Checker, WebhookCounts, Webhooks};
use crate::tasks::retention::RetentionTask;
use crate::tasks::timers::Timers;
use crate::tasks::{early_removal, lite_expiry, slot_migration};

/// How often dead brokers and clients are looked for.
const HOUSEKEEPING: Duration = Duration::from_millis(500);
/// How often other servers are asked what members have announced there; they also say so by themselves.
const GATHER_EVERY: Duration = Duration::from_secs(1);
/// How long a broker that ends still passes on what reaches it, after another one took its place.
const LINGER: Duration = Duration::from_millis(300);

/// What lives as long as the process, whatever its role.
pub(crate) struct Parts {
    pub(crate) config: BrokerConfig,
    pub(crate) info: BrokerInfo,
    pub(crate) standing: StandingInGroup,
    /// Whether clients can be served, in whatever role.
    pub(crate) is_ready: watch::Sender<bool>,
    pub(crate) door: AdmissionGate,
    pub(crate) health: Arc<BrokerHealth>,
    pub(crate) clock: Arc<GuardedClock>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) clients: Arc<Clients>,
    pub(crate) registrar: Arc<Registrar>,
    pub(crate) news: News,
    pub(crate) webhooks: Webhooks,
    pub(crate) shutdown: Shutdown,
    pub(crate) started: Instant,
    pub(crate) address: String,
}

/// Who hears what happens in the store: those who serve at the moment. The store reports from its first record on. Clones
/// share it.
#[derive(Clone, Default)]
pub(crate) struct News(Arc<RwLock<Heard>>);

#[derive(Clone, Default)]
struct Heard {
    arrivals: Arrivals,
    halves: DueArrivals,
    due: DueArrivals,
}

impl News {
    /// Called on a thread of the store.
    pub(crate) fn notice(&self, event: &StateEvent) {
        let heard = self.0.read().unwrap_or_else(PoisonError::into_inner);
        heard.arrivals.notice(event);
        match event {
            StateEvent::HalfDue { due_ms } => heard.halves.notice(*due_ms),
            StateEvent::TimerDue { due_ms } => heard.due.notice(*due_ms),
            _ => {}
        }
    }

    /// Others hear from now on.
    fn renew(&self) -> Heard {
        let heard = Heard::default();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = heard.clone();
        heard
    }
}

/// The tasks of a master.
pub(crate) struct Serving {
    tasks: Vec<JoinHandle<()>>,
    progress: ProgressLog,
    over: Shutdown,
}

impl Serving {
    /// Ends everything that the master ran.
    pub(crate) async fn stop(self) {
        self.over.request();
        self.progress.close();
        self.tasks.iter().for_each(JoinHandle::abort);
        for task in self.tasks {
            // Cancelled, as it should be.
            let _ = task.await;
        }
    }
}

impl Parts {
    /// No call is given to the services of the leader that this broker was.
    pub(crate) fn stop_leading(&self) {
        self.door.stop_leading();
    }

    /// Returns when those who were let in before are done, or have taken too long.
    pub(crate) async fn done(&self) {
        self.door.done().await;
    }

    /// Lets nobody in until this broker serves again: whoever comes waits a moment, and is told to try again when it takes longer.
    pub(crate) fn stop_serving(&self) {
        self.health.is_announced.store(false, Ordering::Relaxed);
        self.door.begin_again();
    }

    /// Completes when clients can be served, whatever the role.
    pub(crate) async fn ready(&self) {
        let mut is_ready = self.is_ready.subscribe();
        // The sender lives in `self`.
        let _ = is_ready.wait_for(|is_ready| *is_ready).await;
    }

    /// Whether acknowledgements by majority are wanted by the broker or any of its topics, at each moment.
    pub(crate) fn wants_quorum(&self, store: Arc<Store>) -> impl Fn() -> bool + Send + use<> {
        let by_default = self.config.replication.replicas() == Replicas::Quorum;
        move || {
            by_default
                || store.state().topics.all().iter().any(|topic| topic.replicas() == Some(Replicas::Quorum))
        }
    }

    /// For a member that does not rule: passes everything on to those who do.
    pub(crate) fn relay_all(&self) {
        self.health.is_announced.store(true, Ordering::Relaxed);
        let policy: Arc<dyn SettingsPolicy> = Arc::new(RegisteredPolicy {
            routes: self.routes.clone(),
            max_body_bytes: self.config.limits.max_body_bytes.as_usize(),
        });
        let access = AccessPoint::server(
            self.routes.clone(),
            self.clients.clone(),
            policy,
            Some(self.config.group.clone()),
            self.shutdown.clone(),
        );
        let why = || "this broker is a slave; its master is another one".to_owned();
        let access = InterceptedService::new(access, refuse_relayed(why));
        let services =
            Services::from(administration::of_slave(self.config.group.clone(), self.routes.clone()));
        let services =
            services.add_service(access).add_service(ProducersService::server(self.clients.clone(), None));
        let relay = Arc::new(Relay::new(self.routes.clone(), self.clients.clone(), self.shutdown.clone()));
        let rates: Rates = Arc::new(|| (0.0, 0.0));
        let services =
            services.add_service(self.inspected().server()).add_service(self.administration(relay, rates));
        self.door.follow(services);
        self.register();
        let (registrar, clients) = (self.registrar.clone(), self.clients.clone());
        tokio::spawn(async move {
            registrar.announce().await;
            let asked = clients.send_away();
            tracing::debug!(asked, "clients are to look for the master");
        });
        self.is_ready.send_replace(true);
    }

    /// The administration that the SDKs' protocol defines.
    fn administration(&self, relay: Arc<Relay>, rates: Rates) -> AdminServer<AdminService> {
        AdminService::server(AdminParts {
            name: format!("broker {}", self.config.group),
            version: env!("CARGO_PKG_VERSION"),
            routes: self.routes.clone(),
            clients: self.clients.clone(),
            relay,
            nameservers: self.registrar.channels(),
            rates,
        })
    }

    /// This broker, to be asked about itself.
    fn inspected(&self) -> InspectService {
        let (health, shutdown) = (self.health.clone(), self.shutdown.clone());
        let process = InspectedProcess {
            kind: "broker",
            version: env!("CARGO_PKG_VERSION"),
            started: self.started,
            data: self.config.data.clone(),
            config: config::print(&self.config).unwrap_or_else(|error| format!("# {error}")),
            checks: Arc::new(move || health.checks(&shutdown)),
        };
        InspectService { process, clients: self.clients.clone() }
    }

    /// Begins to register, if it has not begun yet: not before it is known what as.
    fn register(&self) {
        self.registrar.start(self.config.registration.heartbeat.duration());
    }

    /// Passes on for a moment what still reaches this broker before it ends.
    pub(crate) async fn linger(&self) {
        if self.standing.passes_on() {
            tokio::time::sleep(LINGER).await;
        }
    }

    /// Starts everything that a master runs over `store`, and lets clients in; [`Self::ready`] completes when nameservers know.
    /// `reign` is absent for a broker that is no member of a replicated group.
    pub(crate) fn serve(&self, store: Arc<Store>, reign: Option<Arc<Leadership>>) -> Serving {
        let config = &self.config;
        let is_alone = reign.is_none();
        let over = reign.as_ref().map_or_else(Shutdown::new, |reign| reign.over.clone());
        let room = self.health.room.clone();
        let engine = Engine::new(store.clone(), config, room.clone(), reign);
        let heard = self.news.renew();
        let progress = ProgressLog::start(engine.clone());
        let announcements = Arc::new(Announcements::new(self.clients.clone()));
        let deliveries = Arc::new(Deliveries::new(
            engine.clone(),
            progress.clone(),
            &heard.arrivals,
            announcements.clone(),
            config.auto_groups(),
        ));
        let counters = Arc::new(Counters::default());
        let reach = Arc::new(Reach::new(
            config.group.clone(),
            self.clients.clone(),
            self.registrar.channels(),
            self.routes.clone(),
        ));
        let webhook_counts = self.webhooks.counts();
        let mut tasks = self.tasks(&store, &engine, &deliveries, &reach, heard);
        tasks.push(tokio::spawn(gather_members(
            reach.clone(),
            announcements.clone(),
            deliveries.clone(),
            config.groups.gather_time.duration(),
        )));
        tasks.push(tokio::spawn(counters.clone().keep_rates()));
        if is_alone {
            // A reign is ended by its member.
            let (ending, over) = (self.shutdown.requested(), over.clone());
            tasks.push(tokio::spawn(async move {
                ending.await;
                over.request();
            }));
        }
        let announcer = Announcer::new(self.info.clone(), self.standing.clone(), self.registrar.clone());
        let policy: Arc<dyn SettingsPolicy> =
            Arc::new(Policy { engine: engine.clone(), limits: config.publish_limits() });
        let relay = Arc::new(Relay::new(self.routes.clone(), self.clients.clone(), over.clone()));
        let context = Arc::new(Context {
            broker: config.group.clone(),
            address: self.address.clone(),
            engine: engine.clone(),
            deliveries: deliveries.clone(),
            routes: self.routes.clone(),
            clients: self.clients.clone(),
            reach,
            relay,
            spread: Spread::default(),
            limits: config.publish_limits(),
            auto_topics: config.auto_creates().then(|| AutoTopics {
                max: config.topics.auto_create_max,
                made: CreationQuota::at_most(config.topics.auto_create_max_per_client),
                announcer: announcer.clone(),
            }),
            delays: config.delay_policy(),
            clock: self.clock.clone(),
            lite: config.lite.clone(),
            checks: config.check_policy(),
            counters: counters.clone(),
            scans: Scans::on(tokio::runtime::Handle::current().metrics().num_workers()),
            turns: Turns::default(),
            passed: Arc::default(),
            auto_renew_ms: config.groups.auto_renew.as_millis(),
            shutdown: over.clone(),
        });
        let services = self.services(context, policy, announcer, (counters, webhook_counts), announcements);
        // Its own routes first: whoever is let in asks for them.
        self.register();
        self.door.lead(services);
        let (registrar, health, is_ready) =
            (self.registrar.clone(), self.health.clone(), self.is_ready.clone());
        tasks.push(tokio::spawn(async move {
            registrar.announce().await;
            health.is_announced.store(true, Ordering::Relaxed);
            is_ready.send_replace(true);
        }));
        Serving { tasks, progress, over }
    }

    fn services(
        &self,
        context: Arc<Context>,
        policy: Arc<dyn SettingsPolicy>,
        announcer: Announcer,
        (counters, webhook_counts): (Arc<Counters>, Arc<WebhookCounts>),
        announcements: Arc<Announcements>,
    ) -> Services {
        let counted = counters.clone();
        let administration =
            self.administration(context.relay.clone(), Arc::new(move || counted.per_second()));
        let lookups = Lookups::default();
        let transactions = TransactionsService::server(
            self.config.group.clone(),
            context.engine.clone(),
            webhook_counts,
            lookups.clone(),
        );
        let admin = Admin {
            engine: context.engine.clone(),
            deliveries: context.deliveries.clone(),
            announcer,
            counters,
            started: self.started,
            clients: self.clients.clone(),
            policy: policy.clone(),
            lookups,
            webhook_hosts: self.webhooks.hosts(),
            losses: self.health.losses.clone(),
        };
        // A standalone broker is its own nameserver; any other one still tells what it knows to who asks.
        let registry = self.config.standalone.then(|| RegistryService::server(self.routes.clone()));
        let mut services = Services::builder();
        services
            .add_service(Messaging::server(context, policy))
            .add_service(admin.server())
            .add_service(transactions)
            .add_service(self.inspected().server())
            .add_service(administration)
            .add_service(ProducersService::server(self.clients.clone(), Some(announcements)));
        if let Some(registry) = registry {
            services.add_service(registry);
        }
        services.routes()
    }

    fn tasks(
        &self,
        store: &Arc<Store>,
        engine: &Engine,
        deliveries: &Arc<Deliveries>,
        reach: &Arc<Reach>,
        heard: Heard,
    ) -> Vec<JoinHandle<()>> {
        let config = &self.config;
        let checker = Checker::new(
            config.group.clone(),
            engine.clone(),
            reach.clone(),
            self.webhooks.clone(),
            config.check_policy(),
            heard.halves,
        );
        let timers = Timers::new(engine.clone(), self.clock.clone(), config.timers.pace(), heard.due);
        let keeper = RetentionTask {
            store: store.clone(),
            folder: config.data.clone(),
            limits: config.retention_limits(),
            interval: config.retention.check_interval.duration(),
            space: self.health.room.clone(),
            unread: {
                let (store, deliveries) = (store.clone(), deliveries.clone());
                Box::new(move |going| early_removal::unread_of_groups(&store, &deliveries, going))
            },
            losses: self.health.losses.clone(),
        };
        vec![
            tokio::spawn(checker.run()),
            tokio::spawn(timers.run()),
            tokio::spawn(keeper.run()),
            tokio::spawn(deliveries.clone().keep_time(self.clients.clone())),
            tokio::spawn(keep_house(
                self.routes.clone(),
                self.clients.clone(),
                deliveries.clone(),
                config.groups.member_expiry.duration(),
            )),
            tokio::spawn(lite_expiry::run(engine.clone(), config.lite.check_interval.duration())),
            tokio::spawn(slot_migration::run(engine.clone())),
            tokio::spawn(announce_topics(engine.clone(), Arc::downgrade(&self.registrar))),
        ]
    }
}

/// Keeps knowing what members of consumer groups have announced at other servers. Nothing counts as wanted by nobody before all had
/// `gather_time` to be heard of.
async fn gather_members(
    reach: Arc<Reach>,
    announcements: Arc<Announcements>,
    deliveries: Arc<Deliveries>,
    gather_time: Duration,
) {
    let began = Instant::now();
    let mut is_settled = false;
    loop {
        reach.gather_announced(&announcements).await;
        if !is_settled && began.elapsed() >= gather_time {
            deliveries.settle();
            is_settled = true;
        }
        tokio::time::sleep(GATHER_EVERY).await;
    }
}

/// Tells clients and nameservers of new topics that nobody announces, such as dead-letter topics.
async fn announce_topics(engine: Engine, registrar: std::sync::Weak<Registrar>) {
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
