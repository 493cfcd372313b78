//! Addresses as pages print them, and the free ones that take their place, so that pages run beside each other and beside whatever else
//! listens on this machine.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};

const HOSTS: [&str; 2] = ["127.0.0.1:", "localhost:"];
/// Ports that stand in for those of the text. They have four digits as well, so tables keep their columns, and lie below those that
/// systems give to connections.
const FREE_PORTS: std::ops::Range<u16> = 2000..9999;

/// Ports that were given to pages of this run.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// The ports of a page's text with those that are used instead.
#[derive(Debug, Default)]
pub(crate) struct PageAddresses {
    ports: BTreeMap<String, String>,
}

impl PageAddresses {
    /// The text with free ports in place of its own.
    ///
    /// # Errors
    /// When no port is free.
    pub(crate) fn filled_in(&mut self, text: &str) -> Result<String> {
        for port in ports(text) {
            if let Entry::Vacant(port) = self.ports.entry(port) {
                port.insert(free_port()?.to_string());
            }
        }
        Ok(replaced(text, |port| self.ports.get(port).cloned()))
    }

    /// An output with the page's own ports again.
    pub(crate) fn as_printed(&self, output: &str) -> String {
        replaced(output, |port| {
            let original = self.ports.iter().find(|(_, used)| used.as_str() == port);
            original.map(|(printed, _)| printed.clone())
        })
    }
}

/// The addresses that servers of a command listen on.
pub(crate) fn listened_to(command: &str) -> Vec<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let listens = words.windows(2).filter(|pair| pair[0].ends_with("-listen") || pair[0] == "--listen");
    listens
        .map(|pair| pair[1].to_owned())
        .filter(|address| HOSTS.iter().any(|host| address.starts_with(host)))
        .collect()
}

/// A free port that no other page was given.
fn free_port() -> Result<u16> {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    // Runs at a time begin at different places.
    let start = FREE_PORTS.start + (std::process::id() % 79) as u16 * 100;
    let candidates = (start..FREE_PORTS.end).chain(FREE_PORTS.start..start);
    let is_free = |port: &u16| !taken.contains(port) && TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let port = candidates.into_iter().find(is_free).context("no port with four digits is free")?;
    taken.insert(port);
    Ok(port)
}

fn ports(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    replaced(text, |port| {
        found.insert(port.to_owned());
        None
    });
    found
}

/// The text with other ports behind this machine's names.
fn replaced(text: &str, mut other: impl FnMut(&str) -> Option<String>) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((at, host)) = HOSTS.iter().filter_map(|host| rest.find(host).map(|at| (at, host))).min() {
        let (before, behind) = rest.split_at(at + host.len());
        let digits =
            behind.len() - behind.trim_start_matches(|character: char| character.is_ascii_digit()).len();
        let (port, others) = behind.split_at(digits);
        result.push_str(before);
        result.push_str(&if digits < 4 {
            port.to_owned()
        } else {
            other(port).unwrap_or_else(|| port.to_owned())
        });
        rest = others;
    }
    result + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_replaced_and_come_back() {
        let mut addresses = PageAddresses::default();
        let text = "broker --listen 127.0.0.1:8081 -n http://localhost:9876/x, 127.0.0.1:0";
        let filled = addresses.filled_in(text).unwrap();
        assert!(!filled.contains(":8081") && filled.ends_with("127.0.0.1:0"), "{filled}");
        assert_eq!(filled.len(), text.len());
        assert_eq!(addresses.as_printed(&filled), text);
    }

    #[test]
    fn servers_say_where_they_listen() {
        let command =
            "broker --listen 127.0.0.1:8081 --health-listen 127.0.0.1:5557 --nameserver 127.0.0.1:9876";
        assert_eq!(listened_to(command), ["127.0.0.1:8081", "127.0.0.1:5557"]);
    }
}
