//! All servers of a cluster, and what they say when asked.

use crate::target::Common;
use kerolox_client::Address;
use kerolox_client::admin::{Admin, address_of, wire};
use kerolox_report::outcome::Result;

/// A nameserver or broker.
#[derive(Debug, Clone)]
pub(crate) struct Server {
    /// "nameserver HOST:PORT", or "broker GROUP/MEMBER"; the member is 0 for a broker without a group of members.
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) is_broker: bool,
}

/// The number of a broker in its group. Brokers of earlier versions do not tell it while they are masters.
pub(crate) fn member(info: &wire::BrokerInfo) -> u32 {
    if info.member == 0 { info.id } else { info.member }
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
        servers.push(Server {
            name: format!("broker {}/{}", info.group, member(info)),
            address,
            is_broker: true,
        });
    }
    Ok((client.admin(), servers))
}
