//! The hosts that webhooks may be on. Any client that may create a topic can name any URL, and the broker runs in its
//! operator's network: by default, only public addresses are asked.

use std::error::Error;
use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const PUBLIC: &str = "public";
/// Networks inside the public range of IPv4 that no host of the Internet has: RFC 6890 and its successors, as in IANA's
/// registry of special-purpose addresses.
const SPECIAL_V4: [(Ipv4Addr, u8); 14] = [
    (Ipv4Addr::new(0, 0, 0, 0), 8),
    (Ipv4Addr::new(10, 0, 0, 0), 8),
    (Ipv4Addr::new(100, 64, 0, 0), 10),
    (Ipv4Addr::new(127, 0, 0, 0), 8),
    (Ipv4Addr::new(169, 254, 0, 0), 16),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 0, 0, 0), 24),
    (Ipv4Addr::new(192, 0, 2, 0), 24),
    (Ipv4Addr::new(192, 88, 99, 0), 24),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
    (Ipv4Addr::new(198, 18, 0, 0), 15),
    (Ipv4Addr::new(198, 51, 100, 0), 24),
    (Ipv4Addr::new(203, 0, 113, 0), 24),
    // Multicast and reserved addresses.
    (Ipv4Addr::new(224, 0, 0, 0), 3),
];
/// All assigned global unicast addresses of IPv6.
const GLOBAL_V6: (Ipv6Addr, u8) = (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
/// Networks in it that no host of the Internet has, or that map to an arbitrary address of IPv4: protocol assignments with
/// Teredo, documentation, 6to4.
const SPECIAL_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23),
    (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0), 32),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16),
    (Ipv6Addr::new(0x3fff, 0, 0, 0, 0, 0, 0, 0), 20),
];

/// One entry of the list of allowed hosts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookHost {
    /// `public`: every address of the Internet except special ones.
    Public,
    /// A network, as in `10.1.0.0/16`, or an address.
    Network(IpNet),
    /// A host name, with any addresses.
    Name(String),
}

impl FromStr for WebhookHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == PUBLIC {
            return Ok(Self::Public);
        }
        if let Ok(network) = text.parse::<IpNet>() {
            return Ok(Self::Network(network.trunc()));
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.into()));
        }
        let is_name = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
        };
        // A malformed address is a typing error.
        let is_number =
            text.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        match text.split('.').all(is_name) && !is_number {
            true => Ok(Self::Name(text.to_ascii_lowercase())),
            false => Err(format!(
                "{text:?} is no entry for webhook hosts; write public, an address, a network as in 10.1.0.0/16, or a host name"
            )),
        }
    }
}

impl Display for WebhookHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str(PUBLIC),
            Self::Network(network) => network.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl Serialize for WebhookHost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for WebhookHost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The allowed hosts: a host is asked when an entry matches it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct WebhookHosts(Arc<[WebhookHost]>);

/// A webhook that is not allowed.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} is not in `transaction.webhook-allow` of the broker, which lists the allowed hosts of webhooks; by default, public addresses are allowed"
)]
pub struct NotAllowed(String);

impl WebhookHosts {
    /// The hosts that match `entries`.
    pub fn new(entries: Vec<WebhookHost>) -> Self {
        Self(entries.into())
    }

    /// Refuses a URL whose host is surely not allowed, without resolving its name.
    ///
    /// # Errors
    /// [`NotAllowed`] when the host is an address that is not allowed.
    fn check(&self, url: &Url) -> Result<(), NotAllowed> {
        let Some(host) = url.host_str() else { return Err(NotAllowed(url.to_string())) };
        match host.trim_start_matches('[').trim_end_matches(']').parse() {
            Ok(address) if !self.has(host, address) => Err(NotAllowed(host.to_owned())),
            _ => Ok(()),
        }
    }

    /// Refuses a URL like [`Self::check`]; a malformed URL passes, because it is never asked.
    ///
    /// # Errors
    /// [`NotAllowed`].
    pub fn check_url(&self, url: &str) -> Result<(), NotAllowed> {
        let parsed = url.parse().map_err(|_| NotAllowed(url.to_owned()))?;
        self.check(&parsed)
    }

    /// Whether `address`, which belongs to `host`, may be asked.
    fn has(&self, host: &str, address: IpAddr) -> bool {
        // An IPv4-mapped IPv6 address reaches the IPv4 host.
        let address = address.to_canonical();
        self.0.iter().any(|entry| match entry {
            WebhookHost::Public => is_public(address),
            WebhookHost::Network(network) => network.contains(&address),
            WebhookHost::Name(name) => name.eq_ignore_ascii_case(host),
        })
    }

    /// The addresses of a host that may be asked.
    async fn look_up(self, name: Name) -> Result<Addrs, Box<dyn Error + Send + Sync>> {
        let host = name.as_str();
        let found: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
        let allowed: Vec<SocketAddr> =
            found.iter().filter(|address| self.has(host, address.ip())).copied().collect();
        match allowed.is_empty() && !found.is_empty() {
            true => Err(NotAllowed(format!("{host} ({})", found[0].ip())).into()),
            false => Ok(Box::new(allowed.into_iter())),
        }
    }
}

/// The connection is made to the checked addresses: a later change of the name's addresses does not count.
impl Resolve for WebhookHosts {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(self.clone().look_up(name))
    }
}

fn is_public(address: IpAddr) -> bool {
    let is_in = |(network, prefix): (IpAddr, u8)| {
        IpNet::new(network, prefix).is_ok_and(|network| network.contains(&address))
    };
    match address {
        IpAddr::V4(_) => !SPECIAL_V4.iter().any(|(network, prefix)| is_in(((*network).into(), *prefix))),
        IpAddr::V6(_) => {
            is_in((GLOBAL_V6.0.into(), GLOBAL_V6.1))
                && !SPECIAL_V6.iter().any(|(network, prefix)| is_in(((*network).into(), *prefix)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(entries: &[&str]) -> WebhookHosts {
        WebhookHosts::new(entries.iter().map(|entry| entry.parse().expect("an entry")).collect())
    }

    fn allows(entries: &[&str], url: &str) -> bool {
        hosts(entries).check(&url.parse().expect("a URL")).is_ok()
    }

    #[test]
    fn only_public_addresses_are_asked_without_leave() {
        for url in ["https://8.8.8.8/x", "http://[2606:4700::1111]/", "https://hooks.example.com/x"] {
            assert!(allows(&["public"], url), "{url}");
        }
        for url in [
            "http://127.0.0.1:8080/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0.0.0.0/",
            "http://10.0.0.1/",
            "http://172.31.255.255/",
            "http://192.168.1.1/",
            "http://169.254.169.254/latest/meta-data",
            "http://100.64.0.1/",
            "http://224.0.0.1/",
            "http://255.255.255.255/",
            "http://[::1]/",
            "http://[::]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://[2002:7f00:1::]/",
            "http://[2001:0:1::]/",
            "http://[fe80::1]/",
            "http://[fd00::1]/",
            "http://[ff02::1]/",
        ] {
            assert!(!allows(&["public"], url), "{url}");
        }
        assert!(!allows(&[], "https://8.8.8.8/"));
    }

    #[test]
    fn an_operator_allows_networks_and_names() {
        assert!(allows(&["10.1.0.0/16"], "http://10.1.2.3:80/"));
        assert!(!allows(&["10.1.0.0/16"], "http://10.2.2.3/"));
        assert!(!allows(&["10.1.0.0/16"], "http://8.8.8.8/"));
        assert!(allows(&["127.0.0.1"], "http://[::ffff:127.0.0.1]/"));
        assert!(allows(&["::1"], "http://[::1]/"));
        for bad in ["", "10.0.0.0/33", "300.1.1.1", "http://host", "a..b", "host:80", "*"] {
            assert!(bad.parse::<WebhookHost>().is_err(), "{bad}");
        }
        for entry in ["public", "10.1.0.0/16", "hooks.internal", "::1/128"] {
            assert_eq!(entry.parse::<WebhookHost>().expect("an entry").to_string(), entry);
        }
    }

    #[tokio::test]
    async fn names_lead_to_allowed_addresses_only() {
        let look_up = async |entries: &[&str]| {
            let name = "localhost".parse::<Name>().expect("a name");
            hosts(entries).look_up(name).await.map(Iterator::count)
        };
        let refused = look_up(&["public"]).await.expect_err("it is loopback");
        assert!(
            refused.to_string().starts_with("localhost (") && refused.to_string().contains("webhook-allow")
        );
        assert!(look_up(&["127.0.0.0/8", "::1"]).await.expect("allowed") > 0);
        assert!(look_up(&["LocalHost"]).await.expect("allowed") > 0);
    }
}
