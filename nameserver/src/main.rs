//! The `nameserver` program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kerolox_nameserver::Nameserver;
use kerolox_nameserver::config::{ENV_PREFIX, NameserverConfig};
use kerolox_runtime::config;
use kerolox_runtime::health::{self, NAMESERVER_PORT};
use kerolox_runtime::process::{
    ShutdownSignal, abort_on_panic, announce_health, announce_listening, init_tracing, keep_files_private,
    raise_open_files, serve_until, shutdown_signal,
};
use kerolox_runtime::supervisor::Supervisor;

/// Gives memory back to the system by itself, some seconds after it was freed: that of the C library keeps what an attack, or a burst,
/// left in pieces.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Routes of a Kerolox cluster, and an access point for RocketMQ SDKs.
///
/// Settings come from the configuration file, then from environment variables such as
/// KEROLOX_NAMESERVER__ROUTES__LEASE=10s, then from flags; later ones win.
#[derive(Debug, Parser)]
#[command(name = "nameserver", version)]
struct Flags {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the resulting configuration as TOML and exit
    #[arg(long)]
    print_config: bool,
    /// Address to listen on; port 0 takes any free one [default: 127.0.0.1:9876]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Data folder [default: nameserver-data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Address for health checks: auto, off, or an address; port 0 takes any free one [default: auto]
    #[arg(long, value_name = "HOST:PORT")]
    health_listen: Option<String>,
    /// How long a broker's registration lasts without another one [default: 10s]
    #[arg(long, value_name = "DURATION")]
    lease: Option<String>,
    /// Number of this nameserver among those that elect masters together; it never changes [default: 1]
    #[arg(long, value_name = "N")]
    id: Option<u64>,
    /// All nameservers that elect masters together, this one among them: 1=HOST:PORT,2=HOST:PORT,... or HOST:PORT,... in
    /// the order of their ids; looked at with an empty data folder [default: this one alone]
    #[arg(long, value_name = "LIST", conflicts_with = "join")]
    peers: Option<String>,
    /// With an empty data folder: wait to be added to other nameservers with mqadmin controllerAdd. Also for one that has
    /// lost its data: take it out first
    #[arg(long)]
    join: bool,
    /// Address where the other nameservers reach this one [default: as in --peers, else where it listens]
    #[arg(long, value_name = "HOST:PORT")]
    advertise: Option<String>,
    /// PEM file with the TLS certificate chain [default: a generated one]
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<String>,
    /// PEM file with the private key of the certificate
    #[arg(long, value_name = "FILE")]
    tls_private_key: Option<String>,
}

impl Flags {
    fn load(&self) -> Result<NameserverConfig, config::ConfigError> {
        let flags = [
            ("listen", self.listen.clone()),
            ("data", self.data.clone()),
            ("health.listen", self.health_listen.clone()),
            ("routes.lease", self.lease.clone()),
            ("controller.id", self.id.map(|id| id.to_string())),
            ("controller.peers", self.peers.clone()),
            ("controller.join", self.join.then(|| true.to_string())),
            ("controller.advertise", self.advertise.clone()),
            ("tls.certificate", self.tls_certificate.clone()),
            ("tls.private-key", self.tls_private_key.clone()),
        ];
        config::load(self.config.as_deref(), ENV_PREFIX, &flags)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Flags::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The errors' own texts are complete; anyhow's chain would repeat them.
            eprintln!("nameserver: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: &Flags) -> anyhow::Result<()> {
    let config = flags.load()?;
    if flags.print_config {
        print!("{}", config::print(&config)?);
        return Ok(());
    }
    init_tracing();
    abort_on_panic();
    keep_files_private();
    raise_open_files();
    let shutdown = ShutdownSignal::new();
    let signal = shutdown_signal()?;
    let nameserver = Nameserver::bind(&config).await?;
    let usual = (nameserver.local_addr().ip(), NAMESERVER_PORT).into();
    let checks = nameserver.checks(&shutdown);
    let tasks = Supervisor::new("process");
    let (watched, ending) = (checks.clone(), shutdown.clone());
    tasks.keep("health watch", move || health::watch(watched.clone(), ending.clone()));
    let health = health::start(&config.health, usual, checks, &tasks)?;
    if let Some(health) = &health {
        announce_health("nameserver", health.local_addr());
    }
    announce_listening("nameserver", nameserver.local_addr());
    let served = serve_until(nameserver.serve(shutdown.clone()), signal, &shutdown).await;
    tasks.stop().await;
    Ok(served??)
}
