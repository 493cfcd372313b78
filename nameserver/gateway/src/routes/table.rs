//! The route table: which brokers there are, and until when that is believed.
//!
//! Three kinds of knowledge live here. A nameserver holds *leases*, refreshed by registrations. A broker holds its *own*
//! registration, always current, and *copies* of what each nameserver said last. One table serves both, because a
//! standalone process is both.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use kerolox_proto::kerolox::{ClusterSnapshot, RegisterRequest, UnregisterRequest};

use super::registration::{BrokerIdentity, BrokerRegistration, RegistrationError};

/// The effect of a registration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteChange {
    /// Only the lease was refreshed.
    Nothing,
    /// A broker that was not there before.
    Joined,
    /// Another process took the place of a member.
    Restarted,
    /// Address, role or topics are different.
    Updated,
}

#[derive(Debug)]
struct Lease {
    registration: BrokerRegistration,
    refreshed: Instant,
}

/// What one nameserver said last.
#[derive(Debug)]
struct Copy {
    brokers: BTreeMap<BrokerIdentity, BrokerRegistration>,
    confirmed: Instant,
}

/// Cluster and name of a broker's group.
fn group_of<'a>(broker: &&'a BrokerRegistration) -> (&'a str, &'a str) {
    (broker.cluster(), broker.group())
}

/// How much brokers may register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteBounds {
    /// Brokers of all clusters.
    pub brokers: usize,
    /// Topics, and consumer groups, of one broker.
    pub topics: usize,
}

impl Default for RouteBounds {
    fn default() -> Self {
        Self { brokers: 1_000, topics: 100_000 }
    }
}

impl RouteBounds {
    fn check(&self, registration: &BrokerRegistration) -> Result<(), RegistrationError> {
        let counts = [
            ("topics of one broker", registration.topics_len()),
            ("consumer groups of one broker", registration.groups_len()),
        ];
        let max = self.topics;
        match counts.into_iter().find(|(_, len)| *len > max) {
            Some((what, len)) => {
                Err(RegistrationError::TooMany { what, len, max, setting: "max-topics-per-broker" })
            }
            None => Ok(()),
        }
    }

    fn check_brokers(&self, len: usize) -> Result<(), RegistrationError> {
        let max = self.brokers;
        match len > max {
            true => Err(RegistrationError::TooMany { what: "brokers", len, max, setting: "max-brokers" }),
            false => Ok(()),
        }
    }
}

/// The state; every method that depends on time takes `now`.
#[derive(Debug)]
pub struct RouteTable {
    lease: Duration,
    bounds: RouteBounds,
    version: u64,
    own: Option<BrokerRegistration>,
    leases: BTreeMap<BrokerIdentity, Lease>,
    copies: BTreeMap<String, Copy>,
    /// The epoch of each group, by cluster and group, as far as a broker has heard of it from the controller.
    epochs: BTreeMap<(String, String), u32>,
    /// Groups that have live members but no master, and since when that is known.
    masterless: BTreeMap<(String, String), Instant>,
}

impl RouteTable {
    /// An empty table. Registrations last for `lease`; versions of snapshots start above `first_version`, which should differ
    /// from run to run.
    pub fn new(lease: Duration, first_version: u64) -> Self {
        Self {
            lease,
            bounds: RouteBounds::default(),
            version: first_version,
            own: None,
            leases: BTreeMap::new(),
            copies: BTreeMap::new(),
            epochs: BTreeMap::new(),
            masterless: BTreeMap::new(),
        }
    }

    /// Sets other bounds for registrations.
    #[must_use]
    pub fn bounded(self, bounds: RouteBounds) -> Self {
        Self { bounds, ..self }
    }

    /// How long a registration lasts without another one.
    pub fn lease(&self) -> Duration {
        self.lease
    }

    /// Version of [`Self::snapshot`]; grows whenever its content changes.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Takes a registration and starts its lease anew. `peer` stands in for an empty host.
    ///
    /// # Errors
    /// A [`RegistrationError`] when the broker is not named or cannot be reached, or there is too much of something; nothing changes
    /// then.
    pub fn register(
        &mut self,
        request: RegisterRequest,
        peer: Option<IpAddr>,
        now: Instant,
    ) -> Result<RouteChange, RegistrationError> {
        let registration = BrokerRegistration::from_request(request, peer)?;
        self.bounds.check(&registration)?;
        let member = registration.member();
        if let Some(lease) = self.leases.get(&member)
            && self.lasts(lease, now)
            && lease.registration.epoch() > registration.epoch()
        {
            return Err(RegistrationError::Superseded { epoch: lease.registration.epoch() });
        }
        let others = self.leases.iter().filter(|(other, lease)| {
            **other != member && !lease.registration.is_same_process(&registration) && self.lasts(lease, now)
        });
        self.bounds.check_brokers(others.count() + 1)?;
        // A member that became the master, or is it no longer, has another number.
        self.leases
            .retain(|other, lease| *other == member || !lease.registration.is_same_process(&registration));
        let change = match self.leases.entry(member) {
            btree_map::Entry::Vacant(entry) => {
                entry.insert(Lease { registration, refreshed: now });
                RouteChange::Joined
            }
            btree_map::Entry::Occupied(mut entry) => {
                let lease = entry.get_mut();
                lease.refreshed = now;
                if lease.registration == registration {
                    return Ok(RouteChange::Nothing);
                }
                let is_same_process = lease.registration.incarnation() == registration.incarnation();
                lease.registration = registration;
                if is_same_process { RouteChange::Updated } else { RouteChange::Restarted }
            }
        };
        self.version += 1;
        Ok(change)
    }

    /// Takes a broker out at once, unless another process has taken its place meanwhile. Returns whether it was there. The number in
    /// the request is not looked at: a process may have changed its role since it registered last.
    pub fn unregister(&mut self, request: &UnregisterRequest) -> bool {
        let before = self.leases.len();
        self.leases.retain(|member, lease| {
            let is_it = member.cluster == request.cluster
                && member.group == request.group
                && lease.registration.incarnation() == request.incarnation;
            !is_it
        });
        let was_there = self.leases.len() < before;
        self.version += u64::from(was_there);
        was_there
    }

    /// Takes out the brokers whose lease has ended, and returns them.
    pub fn expire(&mut self, now: Instant) -> Vec<BrokerIdentity> {
        let has_ended = |(_, held): &(&BrokerIdentity, &Lease)| !self.lasts(held, now);
        let ended: Vec<BrokerIdentity> =
            self.leases.iter().filter(has_ended).map(|(member, _)| member.clone()).collect();
        for member in &ended {
            self.leases.remove(member);
        }
        if !ended.is_empty() {
            self.version += 1;
        }
        ended
    }

    /// Sets the registration of the broker that this process is. It never expires and wins over what others say of it.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn set_own(&mut self, request: RegisterRequest) -> Result<(), RegistrationError> {
        let registration = BrokerRegistration::from_request(request, None)?;
        if self.own.as_ref() != Some(&registration) {
            self.own = Some(registration);
            self.version += 1;
        }
        Ok(())
    }

    /// Replaces the earlier state of the nameserver `source`. Entries that make no sense are left out.
    pub fn replace_copy(&mut self, source: &str, snapshot: ClusterSnapshot, now: Instant) {
        let valid =
            snapshot.brokers.into_iter().filter_map(|entry| BrokerRegistration::from_snapshot(entry).ok());
        let brokers = valid.map(|registration| (registration.member(), registration)).collect();
        self.copies.insert(source.to_owned(), Copy { brokers, confirmed: now });
    }

    /// Notes that the earlier state of the nameserver `source` still holds.
    pub fn confirm_copy(&mut self, source: &str, now: Instant) {
        if let Some(copy) = self.copies.get_mut(source) {
            copy.confirmed = now;
        }
    }

    /// Notes the epoch that a group is in: masters of earlier ones rule no more, whatever they or others say. Returns whether
    /// that is news.
    pub fn note_epoch(&mut self, cluster: &str, group: &str, epoch: u32) -> bool {
        let known = self.epochs.entry((cluster.to_owned(), group.to_owned())).or_default();
        let is_news = *known < epoch;
        *known = epoch.max(*known);
        is_news
    }

    /// Whether a broker is a master whose epoch is over.
    fn is_deposed(&self, broker: &BrokerRegistration) -> bool {
        let group = (broker.cluster().to_owned(), broker.group().to_owned());
        broker.is_master() && self.epochs.get(&group).is_some_and(|epoch| broker.epoch() < *epoch)
    }

    /// Everything that is registered *here*: own registration and leases, not the copies.
    pub fn snapshot(&self, now: Instant) -> ClusterSnapshot {
        let own = self.own.iter().map(|own| own.to_snapshot(0));
        let own_member = self.own.as_ref().map(BrokerRegistration::member);
        let leases = self.leases.iter().filter(|(member, _)| Some(*member) != own_member.as_ref());
        let leased = leases.map(|(_, lease)| {
            let age = now.saturating_duration_since(lease.refreshed).as_millis();
            lease.registration.to_snapshot(u64::try_from(age).unwrap_or(u64::MAX))
        });
        ClusterSnapshot { version: self.version, brokers: own.chain(leased).collect() }
    }

    /// All brokers that are believed to be there, by identity.
    ///
    /// Own knowledge wins over leases, leases over copies. Of the copies those count that were confirmed within a lease;
    /// when no nameserver can be reached, the one confirmed last, since old routes are better than none.
    pub fn brokers(&self, now: Instant) -> BTreeMap<BrokerIdentity, &BrokerRegistration> {
        let mut found = BTreeMap::new();
        for broker in self.registrations(now).filter(|broker| !self.is_deposed(broker)) {
            // Later entries replace earlier ones, unless they are of an earlier epoch.
            let held = found.entry(broker.member()).or_insert(broker);
            if broker.epoch() >= held.epoch() {
                *held = broker;
            }
        }
        found
    }

    /// Looks at which groups have a master: to be called after every change.
    pub fn note_masters(&mut self, now: Instant) {
        let brokers = self.brokers(now);
        let ruled: BTreeSet<_> = brokers.values().filter(|broker| broker.is_master()).map(group_of).collect();
        let without =
            self.registrations(now).map(|broker| group_of(&broker)).filter(|group| !ruled.contains(group));
        let since = |(cluster, group): (&str, &str)| {
            let group = (cluster.to_owned(), group.to_owned());
            let since = self.masterless.get(&group).copied().unwrap_or(now);
            (group, since)
        };
        self.masterless = without.map(since).collect();
    }

    /// Whether some group with live members lost its master less than `lately` ago: another one is about to come.
    pub fn is_electing(&mut self, lately: Duration, now: Instant) -> bool {
        // Leases end without an event.
        self.note_masters(now);
        self.masterless.values().any(|since| now.saturating_duration_since(*since) < lately)
    }

    /// Whether any member of a broker group is there. One that ruled in an earlier epoch counts, which [`Self::brokers`] leaves out.
    pub fn has_members(&self, group: &str, now: Instant) -> bool {
        self.registrations(now).any(|broker| broker.group() == group)
    }

    /// The registrations of brokers that are believed to be there; later ones count more.
    fn registrations(&self, now: Instant) -> impl Iterator<Item = &BrokerRegistration> {
        let is_fresh = |copy: &&Copy| now.saturating_duration_since(copy.confirmed) < self.lease;
        let mut copies: Vec<&Copy> = self.copies.values().filter(is_fresh).collect();
        copies.sort_by_key(|copy| copy.confirmed);
        if copies.is_empty() {
            copies.extend(self.copies.values().max_by_key(|copy| copy.confirmed));
        }
        let copied = copies.into_iter().flat_map(|copy| copy.brokers.values());
        let lasting = self.leases.values().filter(move |lease| self.lasts(lease, now));
        let leased = lasting.map(|lease| &lease.registration);
        // What others say of this process in another role is out of date.
        let is_current = move |broker: &&BrokerRegistration| {
            self.own.as_ref().is_none_or(|own| !own.is_same_process(broker))
        };
        let others = copied.chain(leased).filter(is_current);
        others.chain(&self.own)
    }

    fn lasts(&self, lease: &Lease, now: Instant) -> bool {
        now.saturating_duration_since(lease.refreshed) < self.lease
    }
}
