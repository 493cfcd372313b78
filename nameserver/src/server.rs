//! A nameserver as a whole: bound, serving, and stopped in good order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_gateway::access::drain;
use kerolox_gateway::access_point::AccessPoint;
use kerolox_gateway::admin::{AdminParts, AdminService};
use kerolox_gateway::clients::ClientSessions;
use kerolox_gateway::inspect::InspectService;
use kerolox_gateway::producers::ProducersService;
use kerolox_gateway::registry::RegistryService;
use kerolox_gateway::relay::CallRelay;
use kerolox_gateway::routes::ClusterRoutes;
use kerolox_gateway::stack;
use kerolox_gateway::telemetry::{RegisteredPolicy, push_settings};
use kerolox_runtime::data_folder::DataFolder;
use kerolox_runtime::health::{HealthCheck, HealthChecks};
use kerolox_runtime::inspect::InspectedProcess;
use kerolox_runtime::listen::{ListenError, ServerListener};
use kerolox_runtime::process::ShutdownSignal;
use kerolox_runtime::supervisor::Supervisor;
use kerolox_runtime::tls::{TlsError, server_config};

use crate::config::NameserverConfig;
use crate::controller::{Controller, ControllerError, FILE};

/// How often dead brokers and clients are looked for. Answers leave out dead brokers by themselves; this keeps the books.
const HOUSEKEEPING: Duration = Duration::from_millis(500);

/// Why a nameserver cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The port cannot be had.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The controller cannot start, or its storage has failed.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// The data folder cannot be used.
    #[error("cannot use the data folder {}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The configuration cannot be shown.
    #[error(transparent)]
    Config(#[from] kerolox_runtime::config::ConfigError),
    /// The server broke down.
    #[error("serving failed: {0}")]
    Transport(#[from] tonic::transport::Error),
}

/// A nameserver that is bound to its port.
pub struct Nameserver {
    listener: ServerListener,
    tls: Arc<rustls::ServerConfig>,
    routes: Arc<ClusterRoutes>,
    clients: Arc<ClientSessions>,
    drain: Duration,
    policy: RegisteredPolicy,
    controller: Controller,
    config: String,
    data: PathBuf,
    data_folder: Arc<DataFolder>,
    started: Instant,
}

impl Nameserver {
    /// Binds the port, reads the certificate, or makes one, and opens what the controller has decided. A nameserver that
    /// decides alone is ready to.
    ///
    /// # Errors
    /// [`ServeError::Listen`], [`ServeError::Tls`] and [`ServeError::Controller`].
    pub async fn bind(config: &NameserverConfig) -> Result<Self, ServeError> {
        let tls = server_config(&config.tls, &config.data)?;
        let routes = Arc::new(ClusterRoutes::bounded(config.routes.lease.duration(), config.routes.bounds()));
        let listener = ServerListener::bind(&config.listen, &config.connections, &config.memory).await?;
        let controller = Controller::start(&config.controller, &config.data, listener.local_addr()).await?;
        let data_folder = DataFolder::note(&config.data, &[FILE])
            .map_err(|source| ServeError::Folder { path: config.data.clone(), source })?;
        Ok(Self {
            data_folder: Arc::new(data_folder),
            listener,
            controller,
            config: kerolox_runtime::config::print(config)?,
            data: config.data.clone(),
            started: Instant::now(),
            tls,
            routes: Arc::clone(&routes),
            clients: Arc::new(ClientSessions::new(config.clients.expiry.duration())),
            drain: config.clients.drain.duration(),
            policy: RegisteredPolicy { routes, max_body_bytes: config.limits.max_body_bytes.as_usize() },
        })
    }

    /// The address that is really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// What health checks say of this nameserver, which is ready until `shutdown` is requested.
    pub fn checks(&self, shutdown: &ShutdownSignal) -> HealthChecks {
        let shutdown = shutdown.clone();
        let (controller, connections) = (self.controller.clone(), self.listener.connections());
        let data = self.data_folder.clone();
        Arc::new(move || {
            let mut checks = vec![checked(shutdown.is_requested()), controller.check(), data.check()];
            checks.extend(connections.checks());
            checks
        })
    }

    /// Serves until `shutdown` is requested, then ends all calls and returns within a few seconds.
    ///
    /// # Errors
    /// [`ServeError::Transport`], and [`ServeError::Controller`] when its storage fails.
    pub async fn serve(self, shutdown: ShutdownSignal) -> Result<(), ServeError> {
        let process = InspectedProcess {
            kind: "nameserver",
            version: env!("CARGO_PKG_VERSION"),
            started: self.started,
            data: self.data.clone(),
            config: self.config.clone(),
            checks: self.checks(&shutdown),
        };
        let inspected = InspectService { process, clients: Arc::clone(&self.clients) };
        let Self { listener, tls, routes, clients, drain: limit, policy, controller, data_folder, .. } = self;
        let tasks = Supervisor::new("nameserver");
        tasks.keep("data folder watch", move || Arc::clone(&data_folder).watch());
        let house = (Arc::clone(&routes), Arc::clone(&clients), policy.clone());
        tasks.keep("housekeeping", move || {
            let (routes, clients, policy) = house.clone();
            keep_house(routes, clients, policy)
        });
        let telling = (controller.clone(), Arc::clone(&routes));
        tasks.keep("epochs", move || telling.0.clone().tell_epochs(Arc::clone(&telling.1)));
        let access = AccessPoint::server(
            Arc::clone(&routes),
            Arc::clone(&clients),
            Arc::new(policy),
            None,
            shutdown.clone(),
        );
        let admin = AdminService::server(AdminParts {
            name: format!("nameserver {}", listener.local_addr()),
            version: env!("CARGO_PKG_VERSION"),
            routes: Arc::clone(&routes),
            clients: Arc::clone(&clients),
            relay: Arc::new(CallRelay::new(Arc::clone(&routes), Arc::clone(&clients), shutdown.clone())),
            nameservers: Vec::new(),
            // It stores and delivers nothing.
            rates: Arc::new(|| (0.0, 0.0)),
        });
        let serving = stack::server(listener.connections().memory())
            .add_service(RegistryService::server(routes))
            .add_service(ProducersService::server(Arc::clone(&clients), None))
            .add_service(access)
            .add_service(inspected.server())
            .add_service(admin)
            .add_service(controller.service())
            .add_service(controller.consensus())
            .serve_with_incoming_shutdown(listener.incoming(tls), shutdown.requested());
        let ending = shutdown.clone().requested();
        tasks.once("end of polls", controller.clone().end_polls(ending));
        let outcome = tokio::select! {
            outcome = serving => outcome.map_err(ServeError::from),
            () = drain(&shutdown, &clients, limit) => Ok(()),
            failure = controller.failed() => Err(failure.into()),
        };
        tasks.stop().await;
        controller.stop().await;
        outcome
    }
}

/// Routes are told by brokers again and again, so a nameserver serves as soon as it is there.
fn checked(is_ending: bool) -> HealthCheck {
    if is_ending {
        return HealthCheck::failed("serving", "the nameserver is shutting down");
    }
    HealthCheck::ok("serving", "clients are served")
}

async fn keep_house(routes: Arc<ClusterRoutes>, clients: Arc<ClientSessions>, policy: RegisteredPolicy) {
    let mut ticks = tokio::time::interval(HOUSEKEEPING);
    let mut told_version = routes.version();
    loop {
        ticks.tick().await;
        for broker in routes.expire() {
            tracing::warn!(
                group = broker.group,
                id = broker.id,
                "broker lost: no heartbeat within its lease"
            );
        }
        for client_id in clients.expire() {
            tracing::debug!(?client_id, "client gone");
        }
        let version = routes.version();
        if std::mem::replace(&mut told_version, version) != version {
            push_settings(&clients, &policy);
        }
    }
}
