//! All servers of a cluster, and what they say when asked.

use crate::outcome::Result;
use crate::target::Common;
use kerolox_client::Address;
use kerolox_client::admin::{Admin, address_of};

/// A nameserver or broker.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// "nameserver HOST:PORT", or "broker GROUP/ID".
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) is_broker: bool,
}

/// The nameservers that are named, and all brokers that the first of them to answer knows, slaves included.
pub(crate) async fn all(common: &Common) -> Result<(Admin, Vec<Server>)> {
    let (profile, addresses) = common.nameserver_addresses()?;
    let client = profile.client_of(&addresses)?;
    let snapshot = common.snapshot(&client).await?;
    let of_nameserver = |address| Server { name: format!("nameserver {address}"), address, is_broker: false };
    let mut servers: Vec<Server> = addresses.into_iter().map(of_nameserver).collect();
    for info in snapshot.brokers.iter().filter_map(|registered| registered.broker.as_ref()) {
        let address = address_of(info)?;
        // A standalone broker is its own nameserver.
        servers.retain(|server| server.address != address);
        servers.push(Server { name: format!("broker {}/{}", info.group, info.id), address, is_broker: true });
    }
    Ok((client.admin(), servers))
}
