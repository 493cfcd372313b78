//! The services and tasks of a master, and the answers of a broker that is none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kerolox_core::replicas::ReplicaRequirement;
use kerolox_gateway::access_point::AccessPoint;
use kerolox_gateway::admin::{AdminParts, AdminService, MessageRates};
use kerolox_gateway::clients::{ClientSessions, FilterAnnouncements};
use kerolox_gateway::inspect::InspectService;
use kerolox_gateway::producers::{ClientReach, ProducersService};
use kerolox_gateway::registrar::BrokerRegistrar;
use kerolox_gateway::registry::RegistryService;
use kerolox_gateway::relay::{CallRelay, administration, refuse_relayed};
use kerolox_gateway::routes::ClusterRoutes;
use kerolox_gateway::spread::GroupRotation;
use kerolox_gateway::telemetry::{RegisteredPolicy, SettingsPolicy, keep_settings};
use kerolox_proto::kerolox::BrokerInfo;
use kerolox_proto::v2::admin_server::AdminServer;
use kerolox_runtime::config;
use kerolox_runtime::inspect::InspectedProcess;
use kerolox_runtime::process::ShutdownSignal;
use kerolox_runtime::supervisor::Supervisor;
use kerolox_store::{GuardedClock, Store};
use tokio::sync::watch;
use tonic::service::Routes as Services;
use tonic::service::interceptor::InterceptedService;

use crate::announce::{Announcer, StandingInGroup};
use crate::config::BrokerConfig;
use crate::creation_quota::CreationQuota;
use crate::dedup_gate::Underway;
use crate::delivery::{DeliveryDirectory, ProgressLog};
use crate::health::BrokerHealth;
use crate::leader_tasks::LeaderTasks;
use crate::log_client::LogClient;
use crate::message_reader::MessageReader;
use crate::metadata::BrokerMetadata;
use crate::news::News;
use crate::pace::{Lookups, Scans};
use crate::replication::Leadership;
use crate::rpc::{
    Admin, AdmissionGate, AutoTopics, Context, Counters, Messaging, Policy, TransactionsService, Turns,
};
use crate::tasks::check_back::{WebhookClient, WebhookCounts};

/// How long a stopping broker still passes on calls after another one took its place.
const LINGER: Duration = Duration::from_millis(300);

/// Parts that live as long as the process, whatever its role.
pub(crate) struct Parts {
    pub(crate) config: BrokerConfig,
    pub(crate) info: BrokerInfo,
    pub(crate) standing: StandingInGroup,
    /// Whether clients can be served, in any role.
    pub(crate) is_ready: watch::Sender<bool>,
    /// Whether this broker serves as master.
    pub(crate) is_leading: Arc<AtomicBool>,
    pub(crate) door: AdmissionGate,
    pub(crate) health: Arc<BrokerHealth>,
    pub(crate) clock: Arc<GuardedClock>,
    pub(crate) routes: Arc<ClusterRoutes>,
    pub(crate) clients: Arc<ClientSessions>,
    pub(crate) registrar: Arc<BrokerRegistrar>,
    pub(crate) news: News,
    pub(crate) webhooks: WebhookClient,
    /// Tasks of the process.
    pub(crate) tasks: Arc<Supervisor>,
    pub(crate) shutdown: ShutdownSignal,
    pub(crate) started: Instant,
    pub(crate) address: String,
}

/// The tasks of a master.
pub(crate) struct Serving {
    tasks: Supervisor,
    progress: ProgressLog,
    /// Ends waiting calls.
    over: ShutdownSignal,
}

impl Serving {
    /// Ends all tasks of the master.
    pub(crate) async fn stop(self) {
        self.over.request();
        self.progress.close();
        self.tasks.stop().await;
    }
}

impl Parts {
    /// Stops passing calls to the leader's services of this broker.
    pub(crate) fn stop_leading(&self) {
        self.door.stop_leading();
    }

    /// Returns when calls that were let in before have finished, or have taken too long.
    pub(crate) async fn done(&self) {
        self.door.done().await;
    }

    /// Holds all calls until this broker serves again: callers wait a moment, and are told to retry when it takes longer.
    pub(crate) fn stop_serving(&self) {
        self.health.is_announced.store(false, Ordering::Relaxed);
        self.door.begin_again();
    }

    /// Completes when clients can be served, in any role.
    pub(crate) async fn ready(&self) {
        let mut is_ready = self.is_ready.subscribe();
        // The sender lives in `self`.
        let _ = is_ready.wait_for(|is_ready| *is_ready).await;
    }

    /// Whether the broker or any of its topics wants acknowledgements by majority, at each moment.
    pub(crate) fn wants_quorum(&self, store: Arc<Store>) -> impl Fn() -> bool + Clone + Send + use<> {
        let by_default = self.config.replication.replicas() == ReplicaRequirement::Quorum;
        move || {
            by_default
                || store
                    .state()
                    .topics
                    .all()
                    .iter()
                    .any(|topic| topic.replicas() == Some(ReplicaRequirement::Quorum))
        }
    }

    /// Serves as a member that does not rule: passes all calls on to the masters.
    pub(crate) fn relay_all(&self) {
        self.is_leading.store(false, Ordering::Relaxed);
        self.health.is_announced.store(true, Ordering::Relaxed);
        let policy: Arc<dyn SettingsPolicy> = Arc::new(self.registered_policy());
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
        let relay =
            Arc::new(CallRelay::new(self.routes.clone(), self.clients.clone(), self.shutdown.clone()));
        let rates: MessageRates = Arc::new(|| (0.0, 0.0));
        let services =
            services.add_service(self.inspected().server()).add_service(self.administration(relay, rates));
        self.door.follow(services);
        self.register();
        let (registrar, clients) = (self.registrar.clone(), self.clients.clone());
        self.tasks.once("announcement", async move {
            registrar.announce().await;
            let asked = clients.send_away();
            tracing::debug!(asked, "asked clients to find the new master");
        });
        self.is_ready.send_replace(true);
    }

    /// Tells clients of groups that other brokers changed, while this one is not the master, which tells them itself.
    pub(crate) fn keep_settings(&self) {
        let (routes, clients, is_leading) =
            (self.routes.clone(), self.clients.clone(), self.is_leading.clone());
        let policy: Arc<dyn SettingsPolicy> = Arc::new(self.registered_policy());
        self.tasks.keep("settings of clients", move || {
            let is_leading = is_leading.clone();
            let is_wanted = move || !is_leading.load(Ordering::Relaxed);
            keep_settings(routes.clone(), clients.clone(), policy.clone(), is_wanted)
        });
    }

    /// What all brokers registered of their groups.
    fn registered_policy(&self) -> RegisteredPolicy {
        RegisteredPolicy {
            routes: self.routes.clone(),
            max_body_bytes: self.config.limits.max_body_bytes.as_usize(),
        }
    }

    /// The administration calls of the SDKs' protocol.
    fn administration(&self, relay: Arc<CallRelay>, rates: MessageRates) -> AdminServer<AdminService> {
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

    /// The inspection service of this broker.
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

    /// Starts the registration, if it has not started yet: not before the role is known.
    fn register(&self) {
        self.registrar.start(self.config.registration.heartbeat.duration());
    }

    /// Passes on late calls for a moment before this broker ends.
    pub(crate) async fn linger(&self) {
        if self.standing.passes_on() {
            tokio::time::sleep(LINGER).await;
        }
    }

    /// Starts all tasks of a master over `store`, and lets clients in; [`Self::ready`] completes when nameservers know. `leadership`
    /// is absent for a broker that is no member of a replicated group.
    pub(crate) fn serve(&self, store: Arc<Store>, leadership: Option<Arc<Leadership>>) -> Serving {
        let config = &self.config;
        // A leadership is ended by its member, that of a standalone broker with the process.
        let over =
            leadership.as_ref().map_or_else(|| self.shutdown.of_part(), |leadership| leadership.over.clone());
        let room = self.health.room.clone();
        let reader = MessageReader::new(store.clone(), leadership.clone());
        let log = LogClient::new(store.clone(), config, room.clone(), leadership);
        let (metadata, changes) = BrokerMetadata::new(log.clone(), config.topics.default_queues);
        let heard = self.news.renew();
        let progress = ProgressLog::default();
        let announcements = Arc::new(FilterAnnouncements::new(self.clients.clone()));
        let deliveries = Arc::new(DeliveryDirectory::new(
            (log.clone(), metadata.clone()),
            progress.clone(),
            &heard.arrivals,
            announcements.clone(),
            config.groups.auto_groups(),
        ));
        let counters = Arc::new(Counters::default());
        let reach = Arc::new(ClientReach::new(
            config.group.clone(),
            self.clients.clone(),
            self.registrar.channels(),
            self.routes.clone(),
        ));
        let webhook_counts = self.webhooks.counts();
        let tasks = Supervisor::new("leadership");
        let leader_tasks = LeaderTasks {
            parts: self,
            store: &store,
            log: &log,
            metadata: &metadata,
            deliveries: &deliveries,
            reach: &reach,
            announcements: &announcements,
            counters: &counters,
        };
        leader_tasks.start(&tasks, heard, changes);
        let announcer = Announcer::new(self.info.clone(), self.standing.clone(), self.registrar.clone());
        let policy: Arc<dyn SettingsPolicy> = Arc::new(Policy {
            log: log.clone(),
            limits: config.limits.publish_limits(),
            elsewhere: self.registered_policy(),
        });
        self.is_leading.store(true, Ordering::Relaxed);
        let (routes, clients, told) = (self.routes.clone(), self.clients.clone(), policy.clone());
        tasks.keep("settings of clients", move || {
            keep_settings(routes.clone(), clients.clone(), told.clone(), || true)
        });
        let relay = Arc::new(CallRelay::new(self.routes.clone(), self.clients.clone(), over.clone()));
        let context = Arc::new(Context {
            broker: config.group.clone(),
            address: self.address.clone(),
            log,
            metadata,
            reader,
            underway: Underway::default(),
            deliveries: deliveries.clone(),
            routes: self.routes.clone(),
            clients: self.clients.clone(),
            reach,
            relay,
            spread: GroupRotation::default(),
            limits: config.limits.publish_limits(),
            auto_topics: config.auto_creates().then(|| AutoTopics {
                max: config.topics.auto_create_max,
                made: CreationQuota::at_most(config.topics.auto_create_max_per_client),
                announcer: announcer.clone(),
            }),
            delays: config.delay_policy(),
            clock: self.clock.clone(),
            lite: config.lite.clone(),
            checks: config.transaction.check_policy(),
            counters: counters.clone(),
            scans: Scans::on(tokio::runtime::Handle::current().metrics().num_workers()),
            turns: Turns::default(),
            passed: Arc::default(),
            auto_renew_ms: config.groups.auto_renew.as_millis(),
            shutdown: over.clone(),
        });
        let services = self.services(context, policy, announcer, (counters, webhook_counts), announcements);
        // Its own routes first: clients that are let in query them.
        self.register();
        self.door.lead(services);
        let (registrar, health, is_ready) =
            (self.registrar.clone(), self.health.clone(), self.is_ready.clone());
        tasks.once("announcement", async move {
            registrar.announce().await;
            health.is_announced.store(true, Ordering::Relaxed);
            is_ready.send_replace(true);
        });
        Serving { tasks, progress, over }
    }

    fn services(
        &self,
        context: Arc<Context>,
        policy: Arc<dyn SettingsPolicy>,
        announcer: Announcer,
        (counters, webhook_counts): (Arc<Counters>, Arc<WebhookCounts>),
        announcements: Arc<FilterAnnouncements>,
    ) -> Services {
        let counted = counters.clone();
        let administration =
            self.administration(context.relay.clone(), Arc::new(move || counted.per_second()));
        let lookups = Lookups::default();
        let transactions = TransactionsService::server(
            self.config.group.clone(),
            context.log.clone(),
            webhook_counts,
            lookups.clone(),
        );
        let admin = Admin {
            log: context.log.clone(),
            metadata: context.metadata.clone(),
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
        // A standalone broker is its own nameserver; any other one still answers queries for its routes.
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
}
