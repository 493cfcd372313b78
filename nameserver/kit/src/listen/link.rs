//! What is known of one connection while it is open.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use super::ConnectionInfo;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    /// It has not said yet what it wants: no TLS handshake, no preface of HTTP/2.
    Greeting,
    /// It could make calls, and has made none.
    Ready,
    /// It has made a call.
    Used,
}

/// An open connection, as its tasks and those who watch over it see it.
#[derive(Debug)]
pub struct Link {
    pub(crate) id: u64,
    pub(crate) origin: IpAddr,
    pub(crate) opened: Instant,
    info: OnceLock<ConnectionInfo>,
    stage: AtomicU8,
    /// Calls under way, until their answers are handed over.
    calls: AtomicUsize,
    /// When the last call ended, in milliseconds after `opened`.
    idle_since_ms: AtomicU64,
    is_ended: AtomicBool,
    waker: AtomicWaker,
}

impl Link {
    pub(crate) fn new(id: u64, peer: SocketAddr) -> Self {
        Self {
            id,
            origin: origin(peer.ip()),
            opened: Instant::now(),
            info: OnceLock::new(),
            stage: AtomicU8::new(Stage::Greeting as u8),
            calls: AtomicUsize::new(0),
            idle_since_ms: AtomicU64::new(0),
            is_ended: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    /// The ends of the connection, once it has said what it is.
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

    /// A call begins.
    pub(crate) fn enter(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.reach(Stage::Used);
    }

    /// A call has ended.
    pub(crate) fn leave(&self) {
        let now_ms = u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.idle_since_ms.store(now_ms, Ordering::Relaxed);
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }

    /// How long it has had no call under way; `None` while it has one.
    pub(crate) fn idle(&self, now: Instant) -> Option<Duration> {
        let since = Duration::from_millis(self.idle_since_ms.load(Ordering::Relaxed));
        let is_idle = self.calls.load(Ordering::Relaxed) == 0;
        is_idle.then(|| now.saturating_duration_since(self.opened + since))
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

/// What counts as one address: everybody has 2^64 of IPv6.
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
