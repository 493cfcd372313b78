//! A network of its own: every server and the clients live in network namespaces, connected by a router in one more. The
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
const PREFIX: &str = "kerolox-chaos-";
/// Rules have this priority and the following ones, ahead of the kernel's own tables.
const FIRST_RULE: usize = 100;
/// Tries to remove a namespace, a tenth of a second apart: a killed process may hold it for a moment.
const REMOVE_TRIES: u32 = 50;

/// A place in the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Node {
    /// A nameserver, by its number from 0 on.
    Nameserver(usize),
    /// A broker, by its number from 0 on.
    Broker(usize),
    /// Where the clients are, and this program.
    Clients,
}

/// Nameservers of the world.
pub(super) const NAMESERVERS: usize = 3;
/// Brokers of the world.
pub(super) const BROKERS: usize = 3;

impl Node {
    pub(super) fn nameservers() -> impl Iterator<Item = Self> {
        (0..NAMESERVERS).map(Self::Nameserver)
    }

    pub(super) fn brokers() -> impl Iterator<Item = Self> {
        (0..BROKERS).map(Self::Broker)
    }

    fn all() -> impl Iterator<Item = Self> {
        Self::nameservers().chain(Self::brokers()).chain([Self::Clients])
    }

    /// From 1 on.
    fn number(self) -> usize {
        match self {
            Self::Nameserver(number) => 1 + number,
            Self::Broker(number) => 1 + NAMESERVERS + number,
            Self::Clients => 1 + NAMESERVERS + BROKERS,
        }
    }

    /// The name of its files and its namespace.
    pub(super) fn name(self) -> String {
        match self {
            Self::Nameserver(number) => format!("nameserver-{}", number + 1),
            Self::Broker(number) => format!("broker-{}", number + 1),
            Self::Clients => "clients".to_owned(),
        }
    }

    /// Where the others reach it.
    pub(super) fn host(self) -> String {
        format!("10.77.{}.2", self.number())
    }
}

/// The namespaces of one run.
#[derive(Debug)]
pub(super) struct Network {
    prefix: String,
    /// How many cuts ask for a pair to be cut, from one node to another one.
    cuts: HashMap<(Node, Node), usize>,
}

impl Network {
    /// Makes the namespaces. Those of runs that are over are removed first.
    pub(super) fn build() -> Result<Self> {
        remove_leftovers()?;
        let network = Self::of(std::process::id());
        let made = network.make();
        if made.is_err() {
            network.remove();
        }
        made.context("making network namespaces")?;
        Ok(network)
    }

    /// The network that the process with the number `owner` made.
    pub(super) fn of(owner: u32) -> Self {
        Self { prefix: format!("{PREFIX}{owner}-"), cuts: HashMap::new() }
    }

    fn make(&self) -> Result<()> {
        let router = self.router();
        ip(&["netns", "add", &router])?;
        ip(&["netns", "exec", &router, "sysctl", "-qw", "net.ipv4.ip_forward=1"])?;
        for node in Node::all() {
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
    pub(super) fn remove(&self) {
        remove_all(&self.prefix);
    }

    /// The command that runs `program` in the place of `node`; the process is that of the program.
    pub(super) fn command(&self, node: Node, program: &str) -> Vec<String> {
        ["netns", "exec", &self.space(node), program].map(str::to_owned).to_vec()
    }

    /// Drops what the first of each pair sends to the second.
    pub(super) fn cut(&mut self, pairs: &[(Node, Node)]) -> Result<()> {
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
    pub(super) fn mend(&mut self, pairs: &[(Node, Node)]) -> Result<()> {
        for &pair in pairs {
            let asked = self.cuts.get_mut(&pair).context("only what was cut can be mended")?;
            *asked -= 1;
            if *asked == 0 {
                self.rule("delete", pair)?;
            }
        }
        Ok(())
    }

    fn rule(&self, verb: &str, (from, to): (Node, Node)) -> Result<()> {
        let priority = (FIRST_RULE + 10 * from.number() + to.number()).to_string();
        let (source, target) = (from.host(), to.host());
        ip(&["-n", &self.router(), "rule", verb, "from", &source, "to", &target]
            .into_iter()
            .chain(["priority", &priority, "blackhole"])
            .collect::<Vec<_>>())
    }

    fn router(&self) -> String {
        format!("{}router", self.prefix)
    }

    fn space(&self, node: Node) -> String {
        format!("{}{}", self.prefix, node.name())
    }
}

/// Both directions between `node` and each of `others`.
pub(super) fn both_ways(node: Node, others: impl IntoIterator<Item = Node>) -> Vec<(Node, Node)> {
    others
        .into_iter()
        .filter(|other| *other != node)
        .flat_map(|other| [(node, other), (other, node)])
        .collect()
}

/// Why namespaces cannot be made here; `None` when they can.
pub(super) fn obstacle() -> Option<String> {
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
    use super::*;

    #[test]
    fn nodes_have_numbers_and_hosts_of_their_own() {
        let numbers: Vec<usize> = Node::all().map(Node::number).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(Node::Broker(0).host(), "10.77.4.2");
    }

    #[test]
    fn a_cut_both_ways_leaves_the_node_itself_out() {
        let pairs = both_ways(Node::Broker(1), Node::brokers());
        assert_eq!(pairs.len(), 4);
        assert!(pairs.iter().all(|(from, to)| from != to));
    }
}
