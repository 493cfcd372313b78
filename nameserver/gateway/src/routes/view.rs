//! A broker group as clients see it: one broker, which can be reached at the addresses of all its members.
//!
//! The master comes first. Slaves pass on what reaches them, and wait a moment for a master that is being
//! elected, so a client whose master is gone only has to take the next address, as the SDKs do by themselves.
//! Without a master, the slaves are all there is, and what they know of the topics counts.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kerolox_proto::v2::{self, AddressScheme};

use super::registration::{BrokerIdentity, BrokerRegistration};

/// A group of brokers that are believed to be there; there is at least one.
#[derive(Debug, Clone)]
pub(super) struct GroupView<'a> {
    /// In the order in which clients are told them.
    members: Vec<&'a BrokerRegistration>,
}

impl<'a> GroupView<'a> {
    /// All groups, in stable order.
    pub(super) fn all(brokers: &BTreeMap<BrokerIdentity, &'a BrokerRegistration>) -> Vec<Self> {
        // Ordered by cluster, group and number, in which the master's is 0.
        let members: Vec<(&BrokerIdentity, &BrokerRegistration)> =
            brokers.iter().map(|(id, it)| (id, *it)).collect();
        let groups =
            members.chunk_by(|(one, _), (other, _)| one.cluster == other.cluster && one.group == other.group);
        groups.map(|group| Self { members: group.iter().map(|(_, member)| *member).collect() }).collect()
    }

    /// Who speaks for the group: the master, and while there is none, the slave that knows most.
    pub(super) fn speaker(&self) -> &'a BrokerRegistration {
        let first = self.first();
        if first.is_master() {
            return first;
        }
        let slaves = self.members.iter().rev();
        slaves.max_by_key(|slave| slave.topics_len()).copied().unwrap_or(first)
    }

    /// Whether there is more than a master.
    pub(super) fn is_replicated(&self) -> bool {
        self.members.len() > 1 || !self.first().is_master()
    }

    /// The group as the SDKs see it. Those who can use only one address get `instead`, the server that they asked, if the group
    /// has slaves: that one finds the master for them.
    pub(super) fn to_v2(&self, instead: Option<&v2::Endpoints>) -> v2::Broker {
        let instead = instead.filter(|endpoints| self.is_replicated() && !endpoints.addresses.is_empty());
        let endpoints = instead.cloned().unwrap_or_else(|| self.endpoints());
        v2::Broker { name: self.first().group().to_owned(), id: 0, endpoints: Some(endpoints) }
    }

    /// The addresses, master first. The SDKs accept several of one kind, IPv4 or IPv6, but only one name.
    fn endpoints(&self) -> v2::Endpoints {
        let scheme = scheme(self.first());
        let fits = |member: &&&BrokerRegistration| {
            scheme != AddressScheme::DomainName && self::scheme(member) == scheme
        };
        let others = self.members.iter().skip(1).filter(fits);
        let members = std::iter::once(self.first()).chain(others.copied());
        let addresses = members.map(|member| {
            let address = member.address();
            v2::Address { host: address.host.clone(), port: address.port.into() }
        });
        v2::Endpoints { scheme: scheme.into(), addresses: addresses.collect() }
    }

    fn first(&self) -> &'a BrokerRegistration {
        self.members[0]
    }
}

fn scheme(broker: &BrokerRegistration) -> AddressScheme {
    match broker.address().host.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => AddressScheme::IPv4,
        Ok(IpAddr::V6(_)) => AddressScheme::IPv6,
        Err(_) => AddressScheme::DomainName,
    }
}
