//! A network for a cluster: every server and the clients live in network namespaces, connected by a router in one more. The
//! network of the machine is not touched.
//!
//! A cut is a rule of the router that drops what one node sends to another one, without a word to either: the other direction
//! goes on unless it is cut as well.

use std::collections::HashMap;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// What the names of all namespaces begin with; the number of the process that made them follows.
const PREFIX: &str = "kerolox-test-";
/// Rules have this priority and the following ones, ahead of the kernel's own tables.
const FIRST_RULE: usize = 100;
/// Tries to remove a namespace, a tenth of a second apart: a killed process may hold it for a moment.
const REMOVE_TRIES: u32 = 50;

/// Most nameservers of a network, and most brokers.
const NODES_MAX: usize = 40;

/// A place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClusterNode {
    /// A nameserver, by its number from 0 on.
    Nameserver(usize),
    /// A broker, by its number from 0 on.
    Broker(usize),
    /// Where the clients are, and this program.
    Clients,
}

impl ClusterNode {
    /// From 1 on.
    fn number(self) -> usize {
        match self {
            Self::Nameserver(number) => 1 + number,
            Self::Broker(number) => 1 + NODES_MAX + number,
            Self::Clients => 1 + 2 * NODES_MAX,
        }
    }

    /// The name of its files and its namespace.
    pub fn name(self) -> String {
        match self {
            Self::Nameserver(number) => format!("nameserver-{}", number + 1),
            Self::Broker(number) => format!("broker-{}", number + 1),
            Self::Clients => "clients".to_owned(),
        }
    }

    /// Where the others reach it.
    pub fn host(self) -> String {
        format!("10.77.{}.2", self.number())
    }
}

/// The namespaces of one run.
#[derive(Debug, Clone)]
pub struct ClusterNetwork {
    prefix: String,
    nodes: Vec<ClusterNode>,
    /// How many cuts ask for a pair to be cut, from one node to another one.
    cuts: HashMap<(ClusterNode, ClusterNode), usize>,
}

impl ClusterNetwork {
    /// Makes the namespaces of so many nameservers and brokers, and of the clients. Those of runs that are over are removed first.
    ///
    /// # Errors
    /// When the system refuses, as it does without root.
    ///
    /// # Panics
    /// With more than 40 nameservers or brokers.
    pub fn build(nameservers: usize, brokers: usize) -> Result<Self> {
        assert!(nameservers <= NODES_MAX && brokers <= NODES_MAX, "nodes have numbers up to 254");
        remove_leftovers()?;
        let network = Self::of(std::process::id(), nameservers, brokers);
        let made = network.make();
        if made.is_err() {
            network.remove();
        }
        made.context("making network namespaces")?;
        Ok(network)
    }

    /// The network that the process with the number `owner` made.
    pub fn of(owner: u32, nameservers: usize, brokers: usize) -> Self {
        let nodes = (0..nameservers).map(ClusterNode::Nameserver);
        let nodes = nodes.chain((0..brokers).map(ClusterNode::Broker)).chain([ClusterNode::Clients]);
        Self { prefix: format!("{PREFIX}{owner}-"), nodes: nodes.collect(), cuts: HashMap::new() }
    }

    fn make(&self) -> Result<()> {
        let router = self.router();
        ip(&["netns", "add", &router])?;
        ip(&["netns", "exec", &router, "sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        for &node in &self.nodes {
            let (space, number) = (self.space(node), node.number());
            let (port, gateway) = (format!("node{number}"), format!("10.77.{number}.1"));
            ip(&["netns", "add", &space])?;
            ip(&["-n", &router, "link", "add", &port, "type", "veth", "peer", "eth0", "netns", &space])?;
            ip(&["-n", &router, "address", "add", &format!("{gateway}/24"), "dev", &port])?;
            ip(&["-n", &router, "link", "set", &port, "up"])?;
            ip(&["-n", &space, "address", "add", &format!("{}/24", node.host()), "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
            ip(&["-n", &space, "route", "add", "default", "via", &gateway])?;
        }
        Ok(())
    }

    /// Ends every process in the namespaces and removes them. What cannot be removed is left to the next run.
    pub fn remove(&self) {
        remove_all(&self.prefix);
    }

    /// The command that runs a program in the place of `node`; the process is that of the program.
    pub fn launcher(&self, node: ClusterNode) -> Vec<String> {
        ["ip", "netns", "exec", &self.space(node)].map(str::to_owned).to_vec()
    }

    /// Drops what the first of each pair sends to the second.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn cut(&mut self, pairs: &[(ClusterNode, ClusterNode)]) -> Result<()> {
        for &pair in pairs {
            let asked = self.cuts.entry(pair).or_insert(0);
            *asked += 1;
            if *asked == 1 {
                self.rule("add", pair)?;
            }
        }
        Ok(())
    }

    /// Ends a cut; a pair that another cut asks for stays cut.
    ///
    /// # Errors
    /// When a pair was not cut, or the system refuses.
    pub fn mend(&mut self, pairs: &[(ClusterNode, ClusterNode)]) -> Result<()> {
        for &pair in pairs {
            let asked = self.cuts.get_mut(&pair).context("only what was cut can be mended")?;
            *asked -= 1;
            if *asked == 0 {
                self.rule("delete", pair)?;
            }
        }
        Ok(())
    }

    fn rule(&self, verb: &str, (from, to): (ClusterNode, ClusterNode)) -> Result<()> {
        let priority = (FIRST_RULE + 100 * from.number() + to.number()).to_string();
        let (source, target) = (from.host(), to.host());
        ip(&["-n", &self.router(), "rule", verb, "from", &source, "to", &target]
            .into_iter()
            .chain(["priority", &priority, "blackhole"])
            .collect::<Vec<_>>())
    }

    fn router(&self) -> String {
        format!("{}router", self.prefix)
    }

    fn space(&self, node: ClusterNode) -> String {
        format!("{}{}", self.prefix, node.name())
    }
}

/// Both directions between `node` and each of `others`.
pub fn both_ways(
    node: ClusterNode,
    others: impl IntoIterator<Item = ClusterNode>,
) -> Vec<(ClusterNode, ClusterNode)> {
    others
        .into_iter()
        .filter(|other| *other != node)
        .flat_map(|other| [(node, other), (other, node)])
        .collect()
}

/// Why namespaces cannot be made here; `None` when they can.
pub(crate) fn obstacle() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some("it needs Linux".to_owned());
    }
    let name = format!("{PREFIX}{}-probe", std::process::id());
    let probe = ip(&["netns", "add", &name]).and_then(|()| {
        let rule = ip(&["-n", &name, "rule", "add", "from", "10.77.1.2", "priority", "100", "blackhole"]);
        rule.and(ip(&["netns", "delete", &name]))
    });
    probe.err().map(|error| format!("it needs root and network namespaces: {error:#}"))
}

/// Removes what runs left that are over.
fn remove_leftovers() -> Result<()> {
    for name in spaces()? {
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if let Some(owner) = owner.and_then(|owner| owner.parse::<u32>().ok())
            && !std::path::Path::new(&format!("/proc/{owner}")).exists()
        {
            remove_all(&format!("{PREFIX}{owner}-"));
        }
    }
    Ok(())
}

fn remove_all(prefix: &str) {
    for name in spaces().unwrap_or_default().iter().filter(|name| name.starts_with(prefix)) {
        let mut tries = 0;
        while kill_inside(name).and_then(|()| ip(&["netns", "delete", name])).is_err() && tries < REMOVE_TRIES
        {
            tries += 1;
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Kills what runs in a namespace.
fn kill_inside(name: &str) -> Result<()> {
    let inside = output(&["netns", "pids", name])?;
    for process in inside.split_whitespace() {
        // One that ended meanwhile is fine.
        Command::new("kill").args(["-KILL", process]).output().context("starting kill")?;
    }
    Ok(())
}

fn spaces() -> Result<Vec<String>> {
    let listed = output(&["netns", "list"])?;
    Ok(listed.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect())
}

fn ip(arguments: &[&str]) -> Result<()> {
    output(arguments).map(drop)
}

fn output(arguments: &[&str]) -> Result<String> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("starting ip; install iproute2 if it is missing")?;
    if !output.status.success() {
        bail!("ip {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nodes_have_hosts_of_their_own() {
        let network = ClusterNetwork::of(1, 3, 3);
        let hosts: HashSet<String> = network.nodes.iter().map(|node| node.host()).collect();
        assert_eq!((network.nodes.len(), hosts.len()), (7, 7));
        assert_eq!(ClusterNode::Clients.number(), 81);
    }

    #[test]
    fn a_cut_both_ways_leaves_the_node_itself_out() {
        let pairs = both_ways(ClusterNode::Broker(1), (0..3).map(ClusterNode::Broker));
        assert_eq!(pairs.len(), 4);
        assert!(pairs.iter().all(|(from, to)| from != to));
    }
}
