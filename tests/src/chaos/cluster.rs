//! Three nameservers and three brokers of one group, each process in a network namespace of its own, each broker with a small
//! disk of its own.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use kerolox_client::Address;
use kerolox_client::admin::controller::ControllerClient;
use kerolox_proto::kerolox::{DescribeGroupsRequest, DescribeQuorumRequest, GroupState, RemoveMemberRequest};

use super::GROUP;
use super::network::{BROKERS, Network, Node};
use kerolox_harness::LeapingClock;
use kerolox_harness::ServerProcess;

const NAMESERVER_PORT: u16 = 9876;
const BROKER_PORT: u16 = 8081;
/// Size of a broker's disk.
const DISK_MIB: u32 = 192;
/// What a full disk is filled with, in pieces of so many bytes, the last ones small.
const PIECES: [usize; 3] = [1 << 20, 1 << 14, 1 << 10];
const FILLER: &str = "filler";
/// Small segments, so that faults meet the change from one to the next. No room is kept free: the disk is to be full
/// in the middle of a write. Nothing goes early because of that: the checks want to see every message.
const BROKER_SETTINGS: [(&str, &str); 6] = [
    ("KEROLOX_BROKER__LOG__SEGMENT_SIZE", "1MiB"),
    ("KEROLOX_BROKER__RETENTION__FREE_SPACE_LOW", "1B"),
    ("KEROLOX_BROKER__RETENTION__FREE_SPACE_MIN", "1B"),
    ("KEROLOX_BROKER__RETENTION__REMOVE_EARLY", "false"),
    ("KEROLOX_BROKER__TRANSACTION__FIRST_CHECK", "2s"),
    ("KEROLOX_BROKER__TRANSACTION__CHECK_INTERVAL", "1s"),
];
/// How long a server may take to find out that its data cannot be right.
const REFUSAL_LIMIT: Duration = Duration::from_secs(10);
/// Pause between two looks at the group.
const LOOK_PAUSE: Duration = Duration::from_millis(100);

/// The programs.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The nameserver.
    pub nameserver: PathBuf,
    /// The broker.
    pub broker: PathBuf,
}

/// The servers and the network between them.
pub(super) struct Cluster {
    pub(super) network: Network,
    servers: HashMap<Node, ServerProcess>,
    clocks: HashMap<Node, LeapingClock>,
    /// The nameservers' folders as they were when the group was new.
    copies: PathBuf,
    controller: ControllerClient,
    /// What the controller said last, for moments at which nobody answers.
    last: Option<GroupState>,
}

/// Who plays which role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Roles {
    pub(super) master: Node,
    pub(super) slaves: [Node; 2],
}

impl Cluster {
    /// Makes the disks and starts everything.
    pub(super) fn start(programs: &Programs, network: Network, folder: &Path) -> Result<Self> {
        let controller = ControllerClient::new(&nameservers())?;
        let mut cluster = Self {
            network,
            servers: HashMap::new(),
            clocks: HashMap::new(),
            copies: folder.join("copies"),
            controller,
            last: None,
        };
        for node in Node::nameservers().chain(Node::brokers()) {
            let files = folder.join(format!("{}-clock", node.name()));
            fs::create_dir_all(&files).with_context(|| format!("making {}", files.display()))?;
            cluster.clocks.insert(node, LeapingClock::new(&files)?);
            let server = cluster.server(node, programs, folder)?;
            cluster.servers.insert(node, server);
            cluster.begin(node)?;
        }
        Ok(cluster)
    }

    fn server(&self, node: Node, programs: &Programs, folder: &Path) -> Result<ServerProcess> {
        let (program, port) = match node {
            Node::Nameserver(_) => (&programs.nameserver, NAMESERVER_PORT),
            _ => (&programs.broker, BROKER_PORT),
        };
        let mut arguments = self.network.command(node, &program.to_string_lossy());
        arguments.extend(match node {
            Node::Nameserver(number) => {
                let peers: Vec<String> =
                    (1..).zip(nameservers()).map(|(id, at)| format!("{id}={at}")).collect();
                ["--id", &(number + 1).to_string(), "--peers", &peers.join(",")].map(str::to_owned)
            }
            _ => ["--group", GROUP, "--nameserver", &nameservers().join(",")].map(str::to_owned),
        });
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let server = ServerProcess::new(&node.name(), Path::new("ip"), folder, &arguments);
        let mut server = server.listen(&format!("{}:{port}", node.host()));
        for (name, value) in self.clocks[&node].environment() {
            server = server.env(name, value);
        }
        if let Node::Broker(_) = node {
            for (name, value) in BROKER_SETTINGS {
                server = server.env(name, value);
            }
            mount_disk(&server.data())?;
        }
        Ok(server)
    }

    pub(super) fn server_of(&mut self, node: Node) -> &mut ServerProcess {
        self.servers.get_mut(&node).expect("every node but the clients has a server")
    }

    /// Starts a server that does not run, and returns when its process answers health checks.
    pub(super) fn begin(&mut self, node: Node) -> Result<()> {
        let server = self.server_of(node);
        if server.is_running() { Ok(()) } else { server.begin() }
    }

    /// Fills the rest of a broker's disk.
    pub(super) fn fill_disk(&mut self, node: Node) -> Result<()> {
        let mut file = File::create(self.server_of(node).data().join(FILLER)).context("filling a disk")?;
        for piece in PIECES {
            loop {
                match file.write_all(&vec![b'.'; piece]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("filling a disk"),
                }
            }
        }
        Ok(())
    }

    /// Frees a disk, unless the end of an earlier fault did.
    pub(super) fn free_disk(&mut self, node: Node) -> Result<()> {
        match fs::remove_file(self.server_of(node).data().join(FILLER)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error).context("freeing a disk"),
            _ => Ok(()),
        }
    }

    /// Removes everything from the disk of a broker that does not run.
    pub(super) fn wipe_disk(&mut self, node: Node) -> Result<()> {
        let server = self.server_of(node);
        ensure!(!server.is_running(), "only the disk of a broker that is down is wiped");
        for entry in fs::read_dir(server.data()).context("wiping a disk")? {
            let path = entry?.path();
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) }
                .with_context(|| format!("wiping {}", path.display()))?;
        }
        Ok(())
    }

    /// The wall clock of a server.
    pub(super) fn clock_of(&self, node: Node) -> &LeapingClock {
        &self.clocks[&node]
    }

    /// Keeps copies of the nameservers' folders. Each is stopped for that, one after the other.
    pub(super) fn copy_nameservers(&mut self) -> Result<()> {
        for node in Node::nameservers() {
            self.server_of(node).kill()?;
            let (from, to) = (self.server_of(node).data(), self.copies.join(node.name()));
            copy_folder(&from, &to)?;
            self.begin(node)?;
        }
        Ok(())
    }

    /// Gives a nameserver that does not run the folder that it had at the beginning.
    pub(super) fn restore(&mut self, node: Node) -> Result<()> {
        self.wipe_disk(node)?;
        let to = self.server_of(node).data();
        copy_folder(&self.copies.join(node.name()), &to)
    }

    /// Exchanges the folders of two servers that do not run.
    pub(super) fn exchange_folders(&mut self, one: Node, other: Node) -> Result<()> {
        let (one, other) = (self.server_of(one).data(), self.server_of(other).data());
        let between = one.with_extension("exchanged");
        let moves = [(&one, &between), (&other, &one), (&between, &other)];
        moves.iter().try_for_each(|(from, to)| fs::rename(from, to)).context("exchanging folders")
    }

    /// Starts a server that is to find out that its data cannot be right, and waits until it has ended.
    pub(super) fn expect_refusal(&mut self, node: Node) -> Result<()> {
        let server = self.server_of(node);
        // It may end before it answers anything.
        let _ = server.begin();
        let started = Instant::now();
        while server.is_running() {
            ensure!(
                started.elapsed() < REFUSAL_LIMIT,
                "{} goes on with data that cannot be right:\n{}",
                node.name(),
                server.log_tail()
            );
            std::thread::sleep(LOOK_PAUSE);
        }
        server.kill()
    }

    /// The segments of a broker's log, the oldest one first.
    pub(super) fn segments(&mut self, node: Node) -> Result<Vec<PathBuf>> {
        let entries = fs::read_dir(self.log_folder(node)).context("looking at a log")?;
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        let mut paths: Vec<PathBuf> = paths.collect::<Result<_, _>>().context("looking at a log")?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
        paths.sort();
        Ok(paths)
    }

    /// The folder with a broker's log.
    pub(super) fn log_folder(&mut self, node: Node) -> PathBuf {
        self.server_of(node).data().join("log")
    }

    /// What the controller says of the group; `None` when nobody answers.
    pub(super) async fn state(&mut self) -> Option<GroupState> {
        let request = DescribeGroupsRequest { group: GROUP.to_owned() };
        let answer = self.controller.describe_groups(request).await.ok()?;
        let state = answer.groups.into_iter().find_map(|group| group.state)?;
        self.last = Some(state.clone());
        Some(state)
    }

    /// Who rules, by the last that was heard. The first broker when nobody does.
    pub(super) async fn roles(&mut self) -> Roles {
        let state = self.state().await.or_else(|| self.last.clone());
        let master = state.as_ref().and_then(|state| node_of(state, state.master)).unwrap_or(Node::Broker(0));
        let mut slaves = Node::brokers().filter(|node| *node != master);
        let mut slave = || slaves.next().expect("three brokers");
        Roles { master, slaves: [slave(), slave()] }
    }

    /// The nameserver that leads; the first one when nobody says.
    pub(super) async fn leader(&self) -> Node {
        let answer = self.controller.describe_quorum(DescribeQuorumRequest {}).await;
        let leads = answer.ok().and_then(|answer| answer.members.into_iter().find(|member| member.leads));
        leads
            .and_then(|leader| usize::try_from(leader.id).ok()?.checked_sub(1))
            .map_or(Node::Nameserver(0), Node::Nameserver)
    }

    /// Takes a member out of the group that will not come back.
    pub(super) async fn remove_member(&self, cluster: &str, member: u64) -> Result<()> {
        let (cluster, group) = (cluster.to_owned(), GROUP.to_owned());
        self.controller.remove_member(RemoveMemberRequest { cluster, group, member }).await?;
        Ok(())
    }

    /// Waits until a master rules and all brokers are in sync with it.
    pub(super) async fn wait_until_whole(&mut self, limit: Duration) -> Result<GroupState> {
        let started = Instant::now();
        loop {
            let state = self.state().await;
            if let Some(state) = &state
                && state.master != 0
                && state.in_sync.len() == BROKERS
                && state.members.len() == BROKERS
            {
                return Ok(state.clone());
            }
            if started.elapsed() > limit {
                bail!(
                    "the group is not whole {limit:?} after the last fault ended: {state:?}\n{}",
                    self.logs()
                );
            }
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    /// The address of the broker that rules.
    pub(super) async fn master_address(&mut self) -> Result<Address> {
        let Roles { master, .. } = self.roles().await;
        Ok(self.server_of(master).address()?.parse()?)
    }

    /// The ends of all servers' logs.
    pub(super) fn logs(&self) -> String {
        let mut nodes: Vec<Node> = Node::nameservers().chain(Node::brokers()).collect();
        nodes.retain(|node| self.servers.contains_key(node));
        let tails =
            nodes.iter().map(|node| format!("--- {}\n{}", node.name(), self.servers[node].log_tail()));
        tails.collect::<Vec<_>>().join("\n")
    }
}

/// Copies a folder with everything in it.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    let failed = || format!("copying {} to {}", from.display(), to.display());
    fs::create_dir_all(to).with_context(failed)?;
    for entry in fs::read_dir(from).with_context(failed)? {
        let (from, name) = entry.map(|entry| (entry.path(), entry.file_name())).with_context(failed)?;
        let to = to.join(name);
        if from.is_dir() {
            copy_folder(&from, &to)?;
        } else {
            fs::copy(from, to).with_context(failed)?;
        }
    }
    Ok(())
}

/// Where clients and brokers reach the nameservers.
pub(super) fn nameservers() -> Vec<String> {
    Node::nameservers().map(|node| format!("{}:{NAMESERVER_PORT}", node.host())).collect()
}

/// The broker that is a member of the group now.
pub(super) fn node_of(state: &GroupState, member: u64) -> Option<Node> {
    let host = &state.members.iter().find(|known| known.id == member)?.host;
    Node::brokers().find(|node| node.host() == *host)
}

fn mount_disk(at: &Path) -> Result<()> {
    fs::create_dir_all(at).with_context(|| format!("making {}", at.display()))?;
    let output = Command::new("mount")
        .args(["-t", "tmpfs", "-o", &format!("size={DISK_MIB}m"), "kerolox-chaos"])
        .arg(at)
        .output()
        .context("starting mount")?;
    if !output.status.success() {
        bail!("mounting a disk at {}: {}", at.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
