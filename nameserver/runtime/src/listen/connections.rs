//! All connections to a server: who is let in, and who has to go.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};

use super::link::{CONNECTION_BYTES, ClientLink, Stage};
use super::relief;
use super::settings::{ConnectionLimits, ConnectionSettings};
use super::work::{End, Kind, Phase};
use crate::health::HealthCheck;
use crate::memory::{Level, MemoryBudget, MemorySettings};

/// How often deadlines are looked at.
const SWEEP: Duration = Duration::from_millis(500);
/// Between two warnings about connections that were refused or closed.
const WARN_INTERVAL: Duration = Duration::from_secs(10);
/// Near the limit, which is so far below it, each connection that comes lets an idle one go: those take a moment.
const MARGIN: usize = 32;
/// Between two looks at who can give memory back.
const RELIEF_PAUSE: Duration = Duration::from_millis(10);
/// How long health checks report refused connections.
const TOLD: Duration = Duration::from_secs(60);

/// The connections of one server. Its watchers hold clones of the [`Arc`].
#[derive(Debug)]
pub struct ConnectionTable {
    limits: ConnectionLimits,
    settings: ConnectionSettings,
    memory: Arc<MemoryBudget>,
    table: Mutex<Table>,
    /// Connections that were not let in, and those that were closed for others.
    refused: AtomicU64,
    displaced: AtomicU64,
}

#[derive(Debug, Default)]
struct Table {
    next_id: u64,
    open: HashMap<u64, Arc<ClientLink>>,
    of_address: HashMap<IpAddr, usize>,
    /// When a connection was refused last.
    refused_at: Option<Instant>,
    warned: Option<Instant>,
}

/// A place among the connections; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) link: Arc<ClientLink>,
    connections: Arc<ConnectionTable>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.link.memory.give(CONNECTION_BYTES);
        let mut table = self.connections.table();
        table.open.remove(&self.link.id);
        if let Some(count) = table.of_address.get_mut(&self.link.origin) {
            *count -= 1;
            if *count == 0 {
                table.of_address.remove(&self.link.origin);
            }
        }
    }
}

impl ConnectionTable {
    pub(crate) fn new(settings: &ConnectionSettings, memory: &MemorySettings) -> Self {
        Self {
            limits: settings.limits(),
            settings: settings.clone(),
            memory: Arc::new(MemoryBudget::new(memory)),
            table: Mutex::default(),
            refused: AtomicU64::new(0),
            displaced: AtomicU64::new(0),
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock()
    }

    /// The memory that they share.
    pub fn memory(&self) -> &Arc<MemoryBudget> {
        &self.memory
    }

    /// Lets a connection in, if there is a place. Idle ones make place for it.
    pub(crate) fn admit(self: &Arc<Self>, peer: SocketAddr) -> Option<Place> {
        let mut table = self.table();
        let link = Arc::new(ClientLink::new(table.next_id, peer, self.memory.clone()));
        let of_address = table.of_address.get(&link.origin).copied().unwrap_or(0);
        let now = Instant::now();
        if is_near(of_address, self.limits.of_address) {
            self.displace(&table, now, |other| other.origin == link.origin);
        } else if is_near(table.open.len(), self.limits.all) {
            self.displace(&table, now, |_| true);
        }
        let is_full = of_address >= self.limits.of_address || table.open.len() >= self.limits.all;
        let has_memory = !is_full && self.memory.take(CONNECTION_BYTES, Level::Stay);
        if !has_memory {
            if !is_full {
                self.displace(&table, now, |_| true);
            }
            self.refused.fetch_add(1, Ordering::Relaxed);
            table.refused_at = Some(now);
            self.warn(&mut table, now);
            return None;
        }
        table.next_id += 1;
        *table.of_address.entry(link.origin).or_default() += 1;
        table.open.insert(link.id, link.clone());
        Some(Place { link, connections: self.clone() })
    }

    /// Closes the idle connection among `those` that is missed least.
    fn displace(&self, table: &Table, now: Instant, those: impl Fn(&ClientLink) -> bool) {
        let links = table.open.values().filter(|link| !link.is_ended() && those(link));
        let views = links.filter_map(|link| Some((link, link.stage(), link.idle(now)?)));
        let least = views.min_by_key(|(_, stage, idle)| (*stage, Reverse(*idle)));
        if let Some((link, ..)) = least
            && link.end()
        {
            self.displaced.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn warn(&self, table: &mut Table, now: Instant) {
        if table.warned.is_some_and(|warned| now < warned + WARN_INTERVAL) {
            return;
        }
        table.warned = Some(now);
        tracing::warn!(
            open = table.open.len(),
            max = self.limits.all,
            max_per_address = self.limits.of_address,
            refused = self.refused.load(Ordering::Relaxed),
            closed_for_others = self.displaced.load(Ordering::Relaxed),
            "connections are refused; find out who makes them, raise the limit of open files, or set connections.max and \
             connections.max-per-address"
        );
    }

    fn links(&self) -> Vec<Arc<ClientLink>> {
        self.table().open.values().cloned().collect()
    }

    /// Closes those that are too slow, and makes room when memory is short, for ever.
    pub(crate) async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        let mut told = relief::Told::default();
        loop {
            tokio::select! {
                _ = ticks.tick() => self.sweep(Instant::now()),
                () = self.memory.shortage() => {
                    relief::make_room(&self.links(), &self.memory, Instant::now());
                    // What was ended needs a moment to give its memory back.
                    tokio::time::sleep(RELIEF_PAUSE).await;
                }
            }
            told.tell(&self.memory, Instant::now());
        }
    }

    /// Ends what has taken longer than it may.
    fn sweep(&self, now: Instant) {
        for link in self.links() {
            let allowed = match link.stage() {
                Stage::Greeting => Some(self.settings.greeting.duration()),
                Stage::Ready => Some(self.settings.first_call.duration()),
                Stage::Used => None,
            };
            let age = now.saturating_duration_since(link.opened);
            let is_late = allowed.is_some_and(|allowed| age > allowed);
            if (is_late || self.is_stuck(&link, now)) && link.end() {
                tracing::debug!(origin = %link.origin, stage = ?link.stage(), "connection given up: the peer is too slow");
            }
        }
    }

    /// Whether a client does not take its answers. Calls that do not come are ended by themselves.
    fn is_stuck(&self, link: &ClientLink, now: Instant) -> bool {
        let (request, answer) = (self.settings.request.duration(), self.settings.answer.duration());
        let mut is_stuck = link.unwritten(now).1 > answer;
        for work in link.works().iter().filter(|work| work.kind != Kind::Vital) {
            match work.phase() {
                Phase::Reading if work.kind != Kind::Session && work.since(now) > request => {
                    work.end(End::Slow);
                }
                Phase::Blocked => is_stuck |= work.since(now) > answer,
                _ => {}
            }
        }
        // Behind another server are many clients; it knows which of them is slow.
        is_stuck && !link.is_relay()
    }

    /// How many connections there are, and the memory that their calls use.
    pub fn checks(&self) -> [HealthCheck; 2] {
        [self.check(), self.memory.check()]
    }

    fn check(&self) -> HealthCheck {
        let (open, refused_at) = {
            let table = self.table();
            (table.open.len(), table.refused_at)
        };
        let (refused, displaced) =
            (self.refused.load(Ordering::Relaxed), self.displaced.load(Ordering::Relaxed));
        let said = format!(
            "{open} of {}, {} at the most from one address; {refused} were refused since the start, {displaced} idle ones closed for others",
            self.limits.all, self.limits.of_address
        );
        if refused_at.is_some_and(|at| at.elapsed() < TOLD) {
            return HealthCheck::warning("connections", format!("some are refused: {said}"));
        }
        HealthCheck::ok("connections", said)
    }
}

/// Whether so many connections are close to the limit.
fn is_near(count: usize, limit: usize) -> bool {
    count + MARGIN.min(limit / 8) >= limit
}

#[cfg(test)]
mod tests {
    use super::super::work::Visit;
    use super::*;
    use crate::health::HealthState;

    fn connections(max: usize, max_per_address: usize) -> Arc<ConnectionTable> {
        let settings = ConnectionSettings { max, max_per_address, ..ConnectionSettings::default() };
        Arc::new(ConnectionTable::new(&settings, &MemorySettings::default()))
    }

    fn peer(host: u8) -> SocketAddr {
        ([127, 0, 0, host], 1).into()
    }

    #[test]
    fn who_has_a_call_under_way_stays_and_idle_ones_make_place() {
        let connections = connections(3, 3);
        let places: Vec<Place> = (1..=3).map(|host| connections.admit(peer(host)).unwrap()).collect();
        let _visit = Visit::begin(&places[0].link, Kind::Other);
        drop(Visit::begin(&places[1].link, Kind::Other));
        assert!(connections.admit(peer(4)).is_none(), "its place is not free yet");
        assert_eq!(connections.check().state, HealthState::Warning);
        let ended = |at: usize| places[at].link.is_ended();
        assert!(!ended(0) && !ended(1) && ended(2), "one that has made no call goes first");
        assert!(connections.admit(peer(4)).is_none() && ended(1) && !ended(0));
        drop(places);
        assert!(connections.admit(peer(4)).is_some());
        assert_eq!(connections.table().of_address.len(), 0);
    }

    #[test]
    fn one_address_does_not_take_all_places() {
        let connections = connections(10, 2);
        let busy = |place: Place| (Visit::begin(&place.link, Kind::Other), place);
        let places: Vec<_> = (0..2).map(|_| busy(connections.admit(peer(1)).unwrap())).collect();
        assert!(connections.admit(peer(1)).is_none());
        assert!(connections.admit(peer(2)).is_some());
        assert!(places.iter().all(|(_, place)| !place.link.is_ended()));
    }

    #[test]
    fn requests_that_do_not_come_end_and_so_do_connections_that_take_no_answers() {
        let connections = connections(10, 10);
        let places: Vec<Place> = (0..2).map(|_| connections.admit(peer(1)).unwrap()).collect();
        let reading = Visit::begin(&places[0].link, Kind::Send);
        let blocked = Visit::begin(&places[1].link, Kind::Poll);
        blocked.work.move_to(Phase::Blocked);
        connections.sweep(Instant::now() + Duration::from_secs(59));
        assert!(reading.work.ended().is_none() && !places[1].link.is_ended());
        connections.sweep(Instant::now() + Duration::from_secs(61));
        assert_eq!(reading.work.ended(), Some(End::Slow));
        assert!(places[1].link.is_ended() && !places[0].link.is_ended());
    }

    #[test]
    fn each_stage_before_the_first_call_has_its_time() {
        let connections = connections(10, 10);
        let places: Vec<Place> = (0..3).map(|_| connections.admit(peer(1)).unwrap()).collect();
        places[1].link.reach(Stage::Ready);
        drop(Visit::begin(&places[2].link, Kind::Other));
        let ended = || places.iter().map(|place| place.link.is_ended()).collect::<Vec<_>>();
        connections.sweep(Instant::now() + Duration::from_secs(9));
        assert_eq!(ended(), [false; 3]);
        connections.sweep(Instant::now() + Duration::from_secs(11));
        assert_eq!(ended(), [true, false, false]);
        connections.sweep(Instant::now() + Duration::from_secs(3_600));
        assert_eq!(ended(), [true, true, false], "one that was used may be idle");
    }
}
