//! The nameservers that begin together, as they are configured.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use openraft::BasicNode;

use crate::config::ControllerConfig;

/// Why the nameservers that are to decide together cannot.
#[derive(Debug, thiserror::Error)]
pub enum PeersError {
    /// Numbers begin with 1.
    #[error("the id 0 stands for no nameserver; give the nameservers ids from 1 on with --id")]
    NoId,
    /// An entry of the list is malformed.
    #[error(
        "{entry:?} in --peers is not a nameserver; write ID=HOST:PORT or HOST:PORT for each, with commas between them"
    )]
    Entry {
        /// The entry.
        entry: String,
    },
    /// Two entries have the same id.
    #[error("--peers gives two nameservers the id {id}")]
    Twice {
        /// The id.
        id: u64,
    },
    /// This nameserver is not in the list.
    #[error(
        "--peers lists no nameserver with the id {id}, which is this one's; --id says which of them it is"
    )]
    NotListed {
        /// The id of this one.
        id: u64,
    },
    /// The times cannot work.
    #[error(
        "the controller's election-timeout ({timeout} ms) must be longer than its heartbeat ({heartbeat} ms)"
    )]
    Times {
        /// Shortest time without a leader.
        timeout: u64,
        /// Between two signs of life.
        heartbeat: u64,
    },
}

/// All nameservers that begin together, by id. This one alone when none are configured; it listens on `local`.
pub(super) fn first_members(
    config: &ControllerConfig,
    local: SocketAddr,
) -> Result<BTreeMap<u64, BasicNode>, PeersError> {
    if config.id == 0 {
        return Err(PeersError::NoId);
    }
    if config.peers.is_empty() {
        return Ok(BTreeMap::from([(config.id, BasicNode::new(own_address(config, local)))]));
    }
    let mut members = BTreeMap::new();
    for (number, entry) in (1..).zip(&config.peers) {
        let (id, address) = read_entry(number, entry).ok_or(PeersError::Entry { entry: entry.clone() })?;
        if members.insert(id, BasicNode::new(address)).is_some() {
            return Err(PeersError::Twice { id });
        }
    }
    if !members.contains_key(&config.id) {
        return Err(PeersError::NotListed { id: config.id });
    }
    Ok(members)
}

/// Where the others reach this nameserver if no list says so.
fn own_address(config: &ControllerConfig, local: SocketAddr) -> String {
    match config.advertise.as_str() {
        "" if local.ip().is_unspecified() => format!("127.0.0.1:{}", local.port()),
        "" => local.to_string(),
        address => address.to_owned(),
    }
}

/// `ID=HOST:PORT`, or `HOST:PORT` of the nameserver with this number.
fn read_entry(number: u64, entry: &str) -> Option<(u64, &str)> {
    let (id, address) = match entry.split_once('=') {
        Some((id, address)) => (id.trim().parse().ok()?, address.trim()),
        None => (number, entry.trim()),
    };
    let (host, port) = address.rsplit_once(':')?;
    (id > 0 && !host.is_empty() && port.parse::<u16>().is_ok()).then_some((id, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(id: u64, peers: &[&str]) -> Result<Vec<(u64, String)>, String> {
        let peers = peers.iter().map(ToString::to_string).collect();
        let config = ControllerConfig { id, peers, ..ControllerConfig::default() };
        let members = first_members(&config, "0.0.0.0:9876".parse().unwrap());
        let members = members.map_err(|error| error.to_string())?;
        Ok(members.into_iter().map(|(id, node)| (id, node.addr)).collect())
    }

    #[test]
    fn lists_come_with_and_without_ids() {
        let expected = vec![(1, "a:1".to_owned()), (2, "b:2".to_owned())];
        assert_eq!(members(2, &["2=b:2", "1=a:1"]).unwrap(), expected);
        assert_eq!(members(1, &["a:1", " b:2"]).unwrap(), expected);
        assert_eq!(members(7, &[]).unwrap(), [(7, "127.0.0.1:9876".to_owned())]);
    }

    #[test]
    fn lists_that_make_no_sense_are_refused() {
        assert!(members(0, &[]).unwrap_err().contains("from 1 on"));
        for entry in ["a", "x=a:1", "0=a:1", "1=:1", "1=a:port"] {
            assert!(members(1, &[entry]).unwrap_err().contains(entry), "{entry}");
        }
        assert!(members(1, &["1=a:1", "1=b:1"]).unwrap_err().contains("id 1"));
        assert!(members(3, &["a:1", "b:1"]).unwrap_err().contains("id 3"));
    }
}
