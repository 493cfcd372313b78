//! A cluster of real processes.

use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use kerolox_client::admin::wire::{UpdateGroupRequest, UpdateTopicRequest};
use kerolox_client::{Address, Client, FilterExpression, SimpleConsumer};
use tempfile::TempDir;

use crate::cluster_network::{ClusterNetwork, ClusterNode};
use crate::cluster_plan::ClusterPlan;
use crate::leaping_clock::LeapingClock;
use crate::process::ServerProcess;
use crate::programs::built_program;
use crate::small_disk::SmallDisk;

/// Ports in a network namespace, where no other process takes them.
const NAMESERVER_PORT: u16 = 9876;
const BROKER_PORT: u16 = 8081;
/// How long each receive of [`Cluster::consumer`] waits for messages.
const POLL: Duration = Duration::from_millis(500);

/// Nameservers and brokers that a [`ClusterPlan`] made. Dropping it kills them, and removes their folders unless the plan named one.
#[derive(Debug)]
pub struct Cluster {
    /// Nameservers, in the order of their numbers.
    pub nameservers: Vec<ServerProcess>,
    /// Brokers, in the order in which they were added.
    pub brokers: Vec<ServerProcess>,
    plan: ClusterPlan,
    /// Clocks of servers that have one of their own, by server name.
    clocks: BTreeMap<String, LeapingClock>,
    disks: BTreeMap<String, SmallDisk>,
    folder: ClusterFolder,
}

#[derive(Debug)]
enum ClusterFolder {
    Temporary(TempDir),
    Given(PathBuf),
}

impl Cluster {
    pub(crate) fn empty(plan: ClusterPlan) -> Result<Self> {
        let folder = if let Some(folder) = &plan.folder {
            ClusterFolder::Given(folder.clone())
        } else {
            let prefix = format!("kerolox-{}-", plan.suite);
            let folder = tempfile::Builder::new().prefix(&prefix).tempdir();
            ClusterFolder::Temporary(folder.context("making a data folder")?)
        };
        let (clocks, disks) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { nameservers: Vec::new(), brokers: Vec::new(), plan, clocks, disks, folder })
    }

    pub(crate) fn plan(&self) -> &ClusterPlan {
        &self.plan
    }

    /// Has all nameservers begin before it waits for one: peers serve when they have elected a leader.
    pub(crate) fn start_nameservers(&mut self) -> Result<()> {
        let addresses = self.nameserver_addresses()?;
        let peers: Vec<String> = (1..).zip(&addresses).map(|(id, at)| format!("{id}={at}")).collect();
        for (index, address) in addresses.iter().enumerate() {
            let (name, id) = (format!("nameserver-{}", index + 1), (index + 1).to_string());
            let mut server = ServerProcess::new(&name, &built_program("nameserver")?, self.folder(), &[]);
            if let Some(network) = &self.plan.network {
                server = server.launched_by(&network.launcher(ClusterNode::Nameserver(index)));
            }
            if self.plan.is_quorum {
                server = server.args(&["--id", &id, "--peers", &peers.join(",")]);
            }
            let server = self.with_clock(server.listen(address))?;
            self.nameservers.push(server);
        }
        self.nameservers.iter_mut().try_for_each(ServerProcess::begin)?;
        self.nameservers.iter_mut().try_for_each(ServerProcess::wait)
    }

    /// Peers have to know each other's ports before one of them has started.
    fn nameserver_addresses(&self) -> Result<Vec<String>> {
        let numbers = 0..self.plan.nameservers;
        if self.plan.network.is_some() {
            let address = |number| format!("{}:{NAMESERVER_PORT}", ClusterNode::Nameserver(number).host());
            return Ok(numbers.map(address).collect());
        }
        if !self.plan.is_quorum {
            return Ok(vec!["127.0.0.1:0".to_owned(); self.plan.nameservers]);
        }
        // All are taken at the same time, or one might be had twice.
        let taken = numbers.map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<Vec<_>>>();
        let taken = taken.context("looking for free ports")?;
        taken.iter().map(|listener| Ok(listener.local_addr()?.to_string())).collect()
    }

    /// Gives a server that never ran a clock of its own, if the plan says so.
    fn with_clock(&mut self, server: ServerProcess) -> Result<ServerProcess> {
        if !self.plan.has_leaping_clocks {
            return Ok(server);
        }
        let files = self.folder().join(format!("{}-clock", server.name()));
        fs::create_dir_all(&files).with_context(|| format!("making {}", files.display()))?;
        let clock = LeapingClock::new(&files)?;
        let server =
            clock.environment().iter().fold(server, |server, (variable, value)| server.env(variable, value));
        self.clocks.insert(server.name().to_owned(), clock);
        Ok(server)
    }

    /// A broker with the plan's flags and settings, not started and not yet in the cluster.
    ///
    /// # Errors
    /// When the program was not built, the nameservers never started, or a disk cannot be had.
    pub fn new_member(&mut self, name: &str, group: &str) -> Result<ServerProcess> {
        let nameservers = addresses_of(&self.nameservers)?.join(",");
        let route: &[&str] =
            if nameservers.is_empty() { &["--standalone"] } else { &["--nameserver", &nameservers] };
        let mut server =
            ServerProcess::new(name, &self.plan.broker_path()?, self.folder(), &["--group", group]);
        server = server.args(route);
        let flags: Vec<&str> = self.plan.flags.iter().map(String::as_str).collect();
        server = server.args(&flags);
        for (variable, value) in &self.plan.settings {
            server = server.env(variable, value);
        }
        if let Some(network) = &self.plan.network {
            let node = ClusterNode::Broker(self.brokers.len());
            server =
                server.launched_by(&network.launcher(node)).listen(&format!("{}:{BROKER_PORT}", node.host()));
        }
        if let Some(size) = &self.plan.disks {
            self.disks.insert(name.to_owned(), SmallDisk::mount(&server.data(), size)?);
        }
        if let Some(folder) = &self.plan.data {
            std::os::unix::fs::symlink(folder, server.data()).context("linking the data folder")?;
        }
        self.with_clock(server)
    }

    /// Starts one more broker.
    ///
    /// # Errors
    /// When it does not start; the end of its log is part of the error.
    pub fn add_member(&mut self, name: &str, group: &str) -> Result<&mut ServerProcess> {
        let mut server = self.new_member(name, group)?;
        server.start()?;
        self.brokers.push(server);
        self.brokers.last_mut().context("it was just added")
    }

    /// Where the servers have their files.
    pub fn folder(&self) -> &Path {
        match &self.folder {
            ClusterFolder::Temporary(folder) => folder.path(),
            ClusterFolder::Given(folder) => folder,
        }
    }

    /// The network that the servers are in, when they are not on the loopback interface.
    ///
    /// # Errors
    /// When they are.
    pub fn network(&mut self) -> Result<&mut ClusterNetwork> {
        self.plan.network.as_mut().context("the cluster has no network of its own")
    }

    /// All servers, nameservers first.
    pub fn servers(&self) -> impl Iterator<Item = &ServerProcess> {
        self.nameservers.iter().chain(&self.brokers)
    }

    /// The server at a node of the network.
    ///
    /// # Panics
    /// When the node is that of the clients, or the cluster has fewer servers.
    pub fn server_at(&self, node: ClusterNode) -> &ServerProcess {
        match node {
            ClusterNode::Nameserver(number) => &self.nameservers[number],
            ClusterNode::Broker(number) => &self.brokers[number],
            ClusterNode::Clients => panic!("no server is where the clients are"),
        }
    }

    /// The server at a node, for changes to it.
    ///
    /// # Panics
    /// See [`Self::server_at`].
    pub fn server_at_mut(&mut self, node: ClusterNode) -> &mut ServerProcess {
        match node {
            ClusterNode::Nameserver(number) => &mut self.nameservers[number],
            ClusterNode::Broker(number) => &mut self.brokers[number],
            ClusterNode::Clients => panic!("no server is where the clients are"),
        }
    }

    /// The wall clock of a server.
    ///
    /// # Errors
    /// When the plan gave it none of its own.
    pub fn clock_of(&self, server: &ServerProcess) -> Result<&LeapingClock> {
        self.clocks.get(server.name()).with_context(|| format!("{} has no clock of its own", server.name()))
    }

    /// The disk with a broker's data.
    ///
    /// # Errors
    /// When the plan gave it none of its own.
    pub fn disk_of(&self, broker: &ServerProcess) -> Result<&SmallDisk> {
        self.disks.get(broker.name()).with_context(|| format!("{} has no disk of its own", broker.name()))
    }

    /// What clients are configured with: all nameservers, or the standalone broker, separated by commas.
    ///
    /// # Panics
    /// When one of them was never started.
    pub fn access_points(&self) -> String {
        let servers = if self.nameservers.is_empty() { &self.brokers } else { &self.nameservers };
        addresses_of(servers).expect("clients come when the cluster has started").join(",")
    }

    /// A client of the cluster with default settings.
    ///
    /// # Panics
    /// When nothing was started.
    pub fn client(&self) -> Client {
        Client::builder(self.access_points()).build().expect("servers have addresses that clients take")
    }

    /// Where a broker is, for [`kerolox_client::admin::Admin::broker`].
    ///
    /// # Panics
    /// When it was never started.
    pub fn broker_address(&self, number: usize) -> Address {
        let address = self.brokers[number].address().expect("the broker has started");
        address.parse().expect("brokers print addresses")
    }

    /// Makes a topic on every broker; `kind` is a `message.type`. For clusters whose groups have one member.
    ///
    /// # Errors
    /// When a broker refuses.
    pub async fn create_topic(&self, topic: &str, kind: &str) -> Result<()> {
        for number in 0..self.brokers.len() {
            self.create_topic_at(number, topic, kind).await?;
        }
        Ok(())
    }

    /// Makes a topic on one broker.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn create_topic_at(&self, broker: usize, topic: &str, kind: &str) -> Result<()> {
        let request = UpdateTopicRequest {
            name: topic.to_owned(),
            read_queues: self.plan.queues,
            write_queues: self.plan.queues,
            attributes: vec![format!("+message.type={kind}")],
            ..Default::default()
        };
        let broker = self.client().admin().broker(&self.broker_address(broker));
        broker.update_topic(request).await.with_context(|| format!("making topic {topic}"))?;
        Ok(())
    }

    /// Makes a consumer group on the first broker that reads topics from their beginning.
    ///
    /// # Errors
    /// When it refuses.
    pub async fn create_group(&self, name: &str) -> Result<()> {
        let group =
            UpdateGroupRequest { name: name.to_owned(), consume_from_min: Some(true), ..Default::default() };
        self.client().admin().broker(&self.broker_address(0)).update_group(group).await?;
        Ok(())
    }

    /// A consumer of all messages of `topic` that waits for half a second in each receive.
    ///
    /// # Errors
    /// When it cannot start.
    pub async fn consumer(&self, group: &str, topic: &str) -> Result<SimpleConsumer> {
        let consumer = self.client().simple_consumer(group).subscribe(topic, FilterExpression::all());
        Ok(consumer.await_duration(POLL).start().await?)
    }

    /// The ends of all servers' logs.
    pub fn log_tails(&self) -> String {
        let tails = self.servers().map(|server| format!("--- {}:\n{}", server.name(), server.log_tail()));
        tails.collect::<Vec<_>>().join("\n")
    }
}

fn addresses_of(servers: &[ServerProcess]) -> Result<Vec<String>> {
    servers.iter().map(|server| server.address().map(str::to_owned)).collect()
}

impl Drop for Cluster {
    /// Shows the logs of a test that failed.
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- servers in {}\n{}", self.folder().display(), self.log_tails());
        }
    }
}
