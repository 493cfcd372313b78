//! Ports for servers that cannot choose one themselves.

use std::net::TcpListener;

use anyhow::{Result, bail};

/// Ports from which the search begins; they are below those that the system gives to clients.
const FIRST: u16 = 14_000;
const LAST: u16 = 31_000;

/// So many free ports, each with the two before it free as well: RocketMQ's broker listens on those, too.
pub(super) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let offset = u16::try_from(std::process::id() % 5000)?;
    let mut ports = Vec::new();
    for port in (FIRST + offset..LAST).step_by(3) {
        let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if (port - 2..=port).all(is_free) {
            ports.push(port);
        }
        if ports.len() == count {
            return Ok(ports);
        }
    }
    bail!("no free ports")
}
