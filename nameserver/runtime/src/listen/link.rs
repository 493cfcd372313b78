//! The state of one connection while it is open.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};
use slab::Slab;

use super::ConnectionInfo;
use super::work::Work;
use crate::memory::{Level, MemoryBudget};

/// Memory of a connection: its buffers, and those of TLS.
pub(crate) const CONNECTION_BYTES: usize = 32 << 10;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Its protocol is not known yet: no TLS handshake, no preface of HTTP/2.
    Greeting,
    /// It could make calls, and has made none.
    Ready,
    /// It has made a call.
    Used,
}

/// An open connection, as its tasks and those who watch over it see it.
#[derive(Debug)]
pub struct ClientLink {
    pub(crate) id: u64,
    pub(crate) origin: IpAddr,
    pub(crate) opened: Instant,
    info: OnceLock<ConnectionInfo>,
    stage: AtomicU8,
    /// Calls under way, until their answers are handed over.
    works: Mutex<Slab<Arc<Work>>>,
    /// When the last call ended, in milliseconds after `opened`.
    idle_since_ms: AtomicU64,
    pub(super) memory: Arc<MemoryBudget>,
    /// Bytes that its calls hold, and answers that it has not written yet.
    held: AtomicUsize,
    /// Bytes of answers that it has not written yet.
    unwritten: AtomicUsize,
    /// When it wrote some of them last, in milliseconds after `opened`.
    wrote_ms: AtomicU64,
    /// Calls that wait for room.
    pub(super) waiting: AtomicUsize,
    /// Whether another server passes calls of its clients on here.
    is_relay: AtomicBool,
    is_ended: AtomicBool,
    waker: AtomicWaker,
}

impl ClientLink {
    pub(crate) fn new(id: u64, peer: SocketAddr, memory: Arc<MemoryBudget>) -> Self {
        Self {
            id,
            origin: origin(peer.ip()),
            opened: Instant::now(),
            info: OnceLock::new(),
            stage: AtomicU8::new(Stage::Greeting as u8),
            works: Mutex::default(),
            idle_since_ms: AtomicU64::new(0),
            memory,
            held: AtomicUsize::new(0),
            unwritten: AtomicUsize::new(0),
            wrote_ms: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            is_relay: AtomicBool::new(false),
            is_ended: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// The ends of the connection, once its protocol is known.
    pub fn info(&self) -> Option<ConnectionInfo> {
        self.info.get().cloned()
    }

    pub(crate) fn introduce(&self, info: ConnectionInfo) {
        // It is set once, by the task that greets.
        let _ = self.info.set(info);
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Greeting,
            1 => Stage::Ready,
            _ => Stage::Used,
        }
    }

    /// It has come so far; it never goes back.
    pub(crate) fn reach(&self, stage: Stage) {
        if self.stage() < stage {
            self.stage.fetch_max(stage as u8, Ordering::Relaxed);
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Arc<Work>>> {
        self.works.lock()
    }

    /// A call begins. Returns its number.
    pub(super) fn enter(&self, work: Arc<Work>) -> usize {
        self.reach(Stage::Used);
        self.lock().insert(work)
    }

    /// A call has ended.
    pub(super) fn leave(&self, key: usize) {
        self.idle_since_ms.store(self.now_ms(), Ordering::Relaxed);
        self.lock().try_remove(key);
    }

    /// The calls under way.
    pub(super) fn works(&self) -> Vec<Arc<Work>> {
        self.lock().iter().map(|(_, work)| work.clone()).collect()
    }

    /// How long it has had no call under way; `None` while it has one.
    pub(crate) fn idle(&self, now: Instant) -> Option<Duration> {
        let since = Duration::from_millis(self.idle_since_ms.load(Ordering::Relaxed));
        let is_idle = self.lock().is_empty();
        is_idle.then(|| now.saturating_duration_since(self.opened + since))
    }

    /// Takes bytes for a call, if there is room for them. A connection may not have more than is left then: however many take all
    /// that they can get, who takes little finds room.
    pub(super) fn take(&self, bytes: usize, level: Level) -> bool {
        let held = self.held.load(Ordering::Relaxed).saturating_add(bytes);
        let is_within = held <= self.memory.share() && held <= self.memory.fair();
        let is_taken = (is_within || level == Level::Vital) && self.memory.take(bytes, level);
        if is_taken {
            self.held.fetch_add(bytes, Ordering::Relaxed);
        }
        is_taken
    }

    /// Bytes that its calls hold, and answers that it has not written yet.
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Gives bytes of a call back.
    pub(super) fn give(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.memory.give(bytes);
    }

    /// So many bytes of an answer are to be written.
    pub(super) fn lend(&self, bytes: usize) {
        if self.unwritten.fetch_add(bytes, Ordering::Relaxed) == 0 {
            self.wrote_ms.store(self.now_ms(), Ordering::Relaxed);
        }
        self.held.fetch_add(bytes, Ordering::Relaxed);
        self.memory.force(bytes);
    }

    /// So many bytes of an answer were written, or are not needed any more.
    pub(super) fn written(&self, bytes: usize) {
        self.wrote_ms.store(self.now_ms(), Ordering::Relaxed);
        self.unwritten.fetch_sub(bytes, Ordering::Relaxed);
        self.give(bytes);
    }

    /// Bytes of answers that it has not written yet, and how long it has written none; no time when there are none.
    pub(super) fn unwritten(&self, now: Instant) -> (usize, Duration) {
        let wrote = Duration::from_millis(self.wrote_ms.load(Ordering::Relaxed));
        match self.unwritten.load(Ordering::Relaxed) {
            0 => (0, Duration::ZERO),
            bytes => (bytes, now.saturating_duration_since(self.opened + wrote)),
        }
    }

    pub(super) fn is_relay(&self) -> bool {
        self.is_relay.load(Ordering::Relaxed)
    }

    pub(super) fn note_relay(&self) {
        self.is_relay.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended.load(Ordering::Acquire)
    }

    /// Has the connection closed by its task; `false` when that was so already.
    pub(crate) fn end(&self) -> bool {
        let is_first = !self.is_ended.swap(true, Ordering::AcqRel);
        self.waker.wake();
        is_first
    }

    /// Ready when the connection is to be closed. One task may wait.
    pub(crate) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.waker.register(cx.waker());
        if self.is_ended() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// The origin of a connection: a whole /64 of IPv6, because one host can use all its addresses.
fn origin(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX)).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_of_ipv6_is_its_network() {
        let origin = |text: &str| origin(text.parse().unwrap()).to_string();
        assert_eq!(origin("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(origin("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(origin("10.0.0.1"), "10.0.0.1");
    }
}
