//! Addresses of servers: as users write them, as routes carry them.

use kerolox_proto::v2;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Host and port of one server. The host is a name, an IPv4 address or an IPv6 address (without brackets).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    host: String,
    port: u16,
}

/// An address that cannot be used; the text says how to write one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a server address ({why}); write host:port, for example 127.0.0.1:9876")]
pub struct AddressError {
    text: String,
    why: &'static str,
}

impl AddressError {
    /// An address that no URI can be made of.
    pub(crate) fn malformed(text: &str) -> Self {
        Self { text: text.to_owned(), why: "it makes no URI" }
    }
}

impl Address {
    /// An address from its parts; IPv6 hosts go without brackets.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Name or IP address, IPv6 without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// TCP port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn scheme(&self) -> v2::AddressScheme {
        if self.host.parse::<Ipv4Addr>().is_ok() {
            v2::AddressScheme::IPv4
        } else if self.host.parse::<Ipv6Addr>().is_ok() {
            v2::AddressScheme::IPv6
        } else {
            v2::AddressScheme::DomainName
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = |why| AddressError { text: text.to_owned(), why };
        let (host, port) = text.rsplit_once(':').ok_or(error("no port"))?;
        let port = port
            .parse()
            .ok()
            .filter(|port| *port > 0)
            .ok_or(error("the port is not a number from 1 to 65535"))?;
        let host = match host.strip_prefix('[') {
            Some(rest) => rest
                .strip_suffix(']')
                .filter(|host| host.parse::<Ipv6Addr>().is_ok())
                .ok_or(error("not an IPv6 address in brackets"))?,
            None if host.contains(':') => return Err(error("put an IPv6 address in brackets")),
            None => host,
        };
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || matches!(c, '/' | '@' | '?' | '#'))
        {
            return Err(error("the host is empty or not a host name"));
        }
        Ok(Self::new(host, port))
    }
}

/// Reads a list of addresses separated by `,` or `;`, as in `NAMESRV_ADDR`.
///
/// # Errors
/// When the list is empty or one of the addresses is malformed.
///
/// ```
/// let addresses = kerolox_client::parse_addresses("ns1:9876; ns2:9876")?;
/// assert_eq!(addresses[1].to_string(), "ns2:9876");
/// # Ok::<(), kerolox_client::AddressError>(())
/// ```
pub fn parse_addresses(text: &str) -> Result<Vec<Address>, AddressError> {
    let parts: Vec<&str> = text.split([',', ';']).map(str::trim).filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(AddressError { text: text.to_owned(), why: "it is empty" });
    }
    parts.into_iter().map(Address::from_str).collect()
}

/// One server under one or more addresses, tried in turn. The key under which connections are kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Endpoints(Vec<Address>);

impl Endpoints {
    /// `addresses` must not be empty; `None` when it is.
    pub(crate) fn new(addresses: Vec<Address>) -> Option<Self> {
        (!addresses.is_empty()).then_some(Self(addresses))
    }

    pub(crate) fn addresses(&self) -> &[Address] {
        &self.0
    }

    pub(crate) fn from_wire(wire: &v2::Endpoints) -> Option<Self> {
        let address = |address: &v2::Address| {
            let port = u16::try_from(address.port).ok().filter(|port| *port > 0)?;
            Some(Address::new(address.host.clone(), port))
        };
        Self::new(wire.addresses.iter().filter_map(address).collect())
    }

    pub(crate) fn to_wire(&self) -> v2::Endpoints {
        v2::Endpoints {
            scheme: self.0[0].scheme().into(),
            addresses: self
                .0
                .iter()
                .map(|address| v2::Address { host: address.host.clone(), port: address.port.into() })
                .collect(),
        }
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, address) in self.0.iter().enumerate() {
            write!(f, "{}{address}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_with_either_separator_are_read() {
        let addresses = parse_addresses("127.0.0.1:9876;[::1]:8081, broker-a.local:10911,").unwrap();
        assert_eq!(
            addresses,
            [
                Address::new("127.0.0.1", 9876),
                Address::new("::1", 8081),
                Address::new("broker-a.local", 10911),
            ]
        );
        assert_eq!(addresses[1].to_string(), "[::1]:8081");
        let schemes: Vec<_> = addresses.iter().map(Address::scheme).collect();
        use v2::AddressScheme::{DomainName, IPv4, IPv6};
        assert_eq!(schemes, [IPv4, IPv6, DomainName]);
    }

    #[test]
    fn malformed_addresses_are_refused() {
        for text in [
            "",
            " ; ",
            "host",
            "host:",
            "host:0",
            "host:65536",
            ":9876",
            "::1:9876",
            "[::1:9876",
            "http://h:1",
        ] {
            assert!(parse_addresses(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn endpoints_survive_the_wire() {
        let endpoints = Endpoints::new(parse_addresses("10.0.0.1:1,10.0.0.2:2").unwrap()).unwrap();
        assert_eq!(Endpoints::from_wire(&endpoints.to_wire()), Some(endpoints));
        assert_eq!(Endpoints::from_wire(&v2::Endpoints::default()), None);
    }
}
