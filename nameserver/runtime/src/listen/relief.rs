//! The calls and connections that give way when memory is short: those that hold most for longest, and whose loss costs
//! no more than a retry.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::link::ClientLink;
use super::work::{End, Kind, Phase, Work};
use crate::memory::MemoryBudget;

/// Longer than this counts as this long: who holds little for hours is no worse than who holds it for a while.
const LONG: Duration = Duration::from_secs(10);
/// Between two warnings.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// Something that can be ended.
enum Victim<'a> {
    /// A call that has not come yet, or waits.
    Work(Arc<Work>),
    /// A connection that does not take its answers.
    Link(&'a Arc<ClientLink>),
}

/// A victim, with the bytes that its end gives back.
struct Candidate<'a> {
    victim: Victim<'a>,
    bytes: usize,
    weight: u128,
}

impl<'a> Candidate<'a> {
    fn new(victim: Victim<'a>, bytes: usize, age: Duration) -> Self {
        // A millisecond more, so that even the newest ones weigh something.
        Self { victim, bytes, weight: bytes as u128 * (age.min(LONG).as_millis() + 1) }
    }
}

/// Ends as much as has to be given back, unless that is on its way.
pub(super) fn make_room(links: &[Arc<ClientLink>], memory: &MemoryBudget, now: Instant) {
    let mut excess = memory.excess();
    if excess == 0 {
        return;
    }
    let mut candidates = Vec::new();
    for link in links {
        excess = excess.saturating_sub(look(link, now, &mut candidates));
    }
    candidates.sort_by_key(|candidate| Reverse(candidate.weight));
    for candidate in candidates {
        if excess == 0 {
            return;
        }
        let is_ended = match candidate.victim {
            Victim::Work(work) => work.end(End::Room),
            Victim::Link(link) => link.end(),
        };
        if is_ended {
            excess = excess.saturating_sub(candidate.bytes);
            memory.gave_up();
        }
    }
}

/// Adds the candidates of a connection; returns the bytes that are being given back already.
fn look<'a>(link: &'a Arc<ClientLink>, now: Instant, candidates: &mut Vec<Candidate<'a>>) -> usize {
    let works = link.works();
    if link.is_ended() {
        return link.unwritten(now).0 + works.iter().map(|work| work.held()).sum::<usize>();
    }
    let mut ending = 0;
    let (mut stuck, mut age) = link.unwritten(now);
    for work in works.into_iter().filter(|work| work.kind != Kind::Vital) {
        if work.ended().is_some() {
            ending += work.held();
        } else if work.phase() == Phase::Blocked {
            stuck += work.held();
            age = age.max(work.since(now));
        } else if work.gives_way() {
            let (bytes, age) = (work.held(), work.since(now));
            candidates.push(Candidate::new(Victim::Work(work), bytes, age));
        }
    }
    if stuck > 0 {
        candidates.push(Candidate::new(Victim::Link(link), stuck, age));
    }
    ending
}

/// The shortages of memory that were reported to the operator.
#[derive(Debug, Default)]
pub(super) struct Told {
    troubles: (u64, u64),
    at: Option<Instant>,
}

impl Told {
    /// Reports new shortages, now and then.
    pub(super) fn tell(&mut self, memory: &MemoryBudget, now: Instant) {
        let troubles = memory.troubles();
        if troubles == self.troubles || self.at.is_some_and(|at| now < at + WARN_INTERVAL) {
            return;
        }
        self.at = Some(now);
        self.troubles = troubles;
        let (refused, given_up) = troubles;
        tracing::warn!(
            refused,
            given_up,
            "the memory for callers is used up ({}): calls are refused, and those that hold most are given up; find out who makes \
             them, or raise memory.budget",
            memory.check().reason
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::work::Visit;
    use super::*;
    use crate::config::ByteSize;
    use crate::memory::{Level, MemorySettings};

    fn memory(bytes: u64) -> Arc<MemoryBudget> {
        Arc::new(MemoryBudget::new(&MemorySettings { budget: ByteSize::from_bytes(bytes) }))
    }

    fn link(id: u64, memory: &Arc<MemoryBudget>) -> Arc<ClientLink> {
        Arc::new(ClientLink::new(id, ([127, 0, 0, 1], 1).into(), memory.clone()))
    }

    fn holding(link: &Arc<ClientLink>, kind: Kind, phase: Phase, bytes: usize) -> Visit {
        let visit = Visit::begin(link, kind);
        assert!(visit.work.take(bytes, Level::Vital));
        visit.work.move_to(phase);
        visit
    }

    #[test]
    fn what_holds_most_for_longest_gives_way_and_no_more_than_has_to() {
        let memory = memory(1000);
        let links = [link(1, &memory), link(2, &memory)];
        let small = holding(&links[0], Kind::Poll, Phase::Serving, 50);
        let sending = holding(&links[0], Kind::Send, Phase::Serving, 300);
        let slow = holding(&links[1], Kind::Send, Phase::Reading, 300);
        let large = holding(&links[1], Kind::Poll, Phase::Serving, 200);
        let told = |visit: &Visit| visit.work.ended();
        make_room(&links, &memory, Instant::now() + Duration::from_secs(1));
        assert_eq!(told(&slow), Some(End::Room), "850 are held, 700 may be");
        assert!(told(&small).is_none() && told(&sending).is_none() && told(&large).is_none());
        make_room(&links, &memory, Instant::now() + Duration::from_secs(1));
        assert!(told(&large).is_none(), "the ended call gives enough back");
        drop(slow);
        assert_eq!(memory.excess(), 0);
    }

    #[test]
    fn who_takes_little_finds_room_beside_those_who_take_all_they_can_get() {
        let memory = memory(100_000);
        let links: Vec<Arc<ClientLink>> = (0..8).map(|id| link(id, &memory)).collect();
        let visits: Vec<Visit> = links.iter().map(|link| Visit::begin(link, Kind::Poll)).collect();
        for _ in 0..1_000 {
            for visit in &visits {
                visit.work.take(100, Level::Grow);
            }
        }
        let quiet = Visit::begin(&link(9, &memory), Kind::Send);
        assert!(quiet.work.take(5_000, Level::New), "{}", memory.check().reason);
    }

    #[test]
    fn a_client_that_takes_no_answers_loses_its_connection() {
        let memory = memory(1000);
        let links = [link(1, &memory), link(2, &memory)];
        let _blocked = holding(&links[0], Kind::Poll, Phase::Blocked, 200);
        let sending = holding(&links[1], Kind::Send, Phase::Serving, 200);
        let bytes = sending.work.lend(vec![0; 400].into());
        make_room(&links, &memory, Instant::now());
        assert!(links[1].is_ended() && !links[0].is_ended());
        drop(bytes);
        assert_eq!(memory.excess(), 0);
    }

    #[test]
    fn vital_calls_and_common_sessions_stay() {
        let memory = memory(1000);
        let links = [link(1, &memory)];
        let vital = holding(&links[0], Kind::Vital, Phase::Blocked, 500);
        let session = holding(&links[0], Kind::Session, Phase::Source, 400);
        make_room(&links, &memory, Instant::now());
        assert!(vital.work.ended().is_none() && session.work.ended().is_none() && !links[0].is_ended());
    }
}
