//! The `broker` program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use kerolox_broker::Broker;
use kerolox_broker::config::{BrokerConfig, ENV_PREFIX};
use kerolox_runtime::config;
use kerolox_runtime::health::{self, BROKER_PORT};
use kerolox_runtime::process::{
    ShutdownSignal, abort_on_panic, announce_health, announce_listening, init_tracing, keep_files_private,
    raise_open_files, serve_until, shutdown_signal,
};
use kerolox_runtime::supervisor::Supervisor;

/// Returns memory to the system by itself, some seconds after it was freed: the C library's allocator keeps memory that an attack or a
/// burst has fragmented. RocksDB is a library of the system and keeps using that.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// One member of a Kerolox broker group.
///
/// Settings come from the configuration file, then from environment variables such as
/// KEROLOX_BROKER__TRANSACTION__CHECK_INTERVAL=30s, then from flags; later ones win.
#[derive(Debug, Parser)]
#[command(name = "broker", version)]
struct Flags {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the resulting configuration as TOML and exit
    #[arg(long)]
    print_config: bool,
    /// Nameserver and broker in one process, for development and small installations
    #[arg(long)]
    standalone: bool,
    /// Cluster that the broker belongs to [default: DefaultCluster]
    #[arg(long, value_name = "NAME")]
    cluster: Option<String>,
    /// Name of the broker group [default: broker-a]
    #[arg(long, value_name = "NAME")]
    group: Option<String>,
    /// Nameservers to register with
    #[arg(long, value_name = "HOST:PORT[,HOST:PORT]")]
    nameserver: Option<String>,
    /// Address to listen on; port 0 takes any free one [default: 127.0.0.1:8081]
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// Address for health checks: auto, off, or an address; port 0 takes any free one [default: auto]
    #[arg(long, value_name = "HOST:PORT")]
    health_listen: Option<String>,
    /// Host that clients are told, when it is not the one listened on
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Folder for the log and its index [default: broker-data]
    #[arg(long, value_name = "DIR")]
    data: Option<String>,
    /// Whether a topic comes into being with its first message: on, off, or standalone [default: standalone, which is on
    /// with --standalone and off without]
    #[arg(long, value_name = "WHEN")]
    auto_create: Option<String>,
    /// What an acknowledgement waits for: sync (the disk) or async (the page cache) [default: sync]
    #[arg(long, value_name = "MODE")]
    flush: Option<String>,
    /// From storing a half message to its first check-back [default: 6s]
    #[arg(long, value_name = "DURATION")]
    transaction_first_check: Option<String>,
    /// Between check-backs [default: 30s]
    #[arg(long, value_name = "DURATION")]
    transaction_check_interval: Option<String>,
    /// Check-backs before a half message is parked [default: 15]
    #[arg(long, value_name = "NUMBER")]
    transaction_check_max: Option<u32>,
    /// PEM file with the TLS certificate chain [default: a generated one]
    #[arg(long, value_name = "FILE")]
    tls_certificate: Option<String>,
    /// PEM file with the private key of the certificate
    #[arg(long, value_name = "FILE")]
    tls_private_key: Option<String>,
}

impl Flags {
    fn load(&self) -> Result<BrokerConfig, config::ConfigError> {
        let flags = [
            ("standalone", self.standalone.then(|| "true".to_owned())),
            ("cluster", self.cluster.clone()),
            ("group", self.group.clone()),
            ("nameservers", self.nameserver.clone()),
            ("listen", self.listen.clone()),
            ("health.listen", self.health_listen.clone()),
            ("advertise", self.advertise.clone()),
            ("data", self.data.clone()),
            ("topics.auto-create", self.auto_create.clone()),
            ("log.flush", self.flush.clone()),
            ("transaction.first-check", self.transaction_first_check.clone()),
            ("transaction.check-interval", self.transaction_check_interval.clone()),
            ("transaction.check-max", self.transaction_check_max.map(|number| number.to_string())),
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
            // The errors' own texts are complete; anyhow's chain and backtrace would only hide them.
            eprintln!("broker: {error}");
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
    let (group, health) = (config.group.clone(), config.health.clone());
    let broker = Broker::bind(config).await?;
    let address = broker.local_addr();
    let checks = broker.checks(&shutdown);
    let tasks = Supervisor::new("process");
    let (watched, ending) = (checks.clone(), shutdown.clone());
    tasks.keep("health watch", move || health::watch(watched.clone(), ending.clone()));
    // Before the store is opened, so that its progress is visible.
    let health = health::start(&health, (address.ip(), BROKER_PORT).into(), checks, &tasks)?;
    if let Some(health) = &health {
        announce_health(&format!("broker {group}"), health.local_addr());
    }
    let ready = move || announce_listening(&format!("broker {group}"), address);
    let served = serve_until(broker.serve(shutdown.clone(), ready), signal, &shutdown).await;
    tasks.stop().await;
    Ok(served??)
}
