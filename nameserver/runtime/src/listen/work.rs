//! One call for as long as it takes memory: its share of the budget, and its phase.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use futures_util::task::AtomicWaker;
use tokio::time::timeout;

use super::link::ClientLink;
use super::refused::CallRefusal;
use crate::memory::Level;

/// Memory of a call besides its bytes: state of the connection, of the HTTP/2 library, of the service.
pub(super) const CALL_BYTES: usize = 16 << 10;
/// How long a call waits for room before it is refused.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most calls of a connection that wait for room; others are refused at once.
const WAITING_MAX: usize = 32;
/// A session that holds more than this gives way when there is no room; common ones take a few kilobytes.
const SESSION_BYTES: usize = 64 << 10;

tokio::task_local! {
    /// The call that a task serves.
    pub(super) static SERVED: Arc<Work>;
}

/// What kind of call it is, as far as its memory is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A call with messages to store.
    Send,
    /// A call that waits for messages: nothing is lost when it ends.
    Poll,
    /// Any other call with one request.
    Other,
    /// A stream that lasts as long as its client.
    Session,
    /// What members of the cluster tell each other. They bound it themselves.
    Vital,
}

impl Kind {
    /// The level at which such work takes memory.
    pub(super) fn level(self) -> Level {
        match self {
            Self::Session => Level::Stay,
            Self::Vital => Level::Vital,
            _ => Level::New,
        }
    }

    /// How many bytes it may take per byte of its request: messages are kept as they come, with a copy. Of anything else
    /// structures are made; the smallest fields make the largest.
    pub(super) fn factor(self) -> usize {
        if self == Self::Send { 2 } else { 16 }
    }
}

/// How far a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Its request is on the way.
    Reading,
    /// A service works on it, or it waits for messages.
    Serving,
    /// Its answer waits for the service.
    Source,
    /// Its answer waits for the client.
    Blocked,
}

/// Why a call is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum End {
    /// Others need the memory.
    Room = 1,
    /// The request did not come in time.
    Slow = 2,
    /// The request is too large.
    Large = 3,
}

/// A call.
#[derive(Debug)]
pub(crate) struct Work {
    link: Arc<ClientLink>,
    pub(super) kind: Kind,
    begun: Instant,
    held: AtomicUsize,
    phase: AtomicU8,
    /// When the phase began, in milliseconds after `begun`.
    moved_ms: AtomicU64,
    end: AtomicU8,
    /// The tasks that read the request and write the answer.
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Work {
    pub(super) fn new(link: Arc<ClientLink>, kind: Kind) -> Self {
        Self {
            link,
            kind,
            begun: Instant::now(),
            held: AtomicUsize::new(0),
            phase: AtomicU8::new(Phase::Reading as u8),
            moved_ms: AtomicU64::new(0),
            end: AtomicU8::new(0),
            reader: AtomicWaker::new(),
            writer: AtomicWaker::new(),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Reading,
            1 => Phase::Serving,
            2 => Phase::Source,
            _ => Phase::Blocked,
        }
    }

    pub(super) fn move_to(&self, phase: Phase) {
        let moved_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.store(moved_ms, Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// How long it has been in its phase.
    pub(super) fn since(&self, now: Instant) -> Duration {
        let moved = Duration::from_millis(self.moved_ms.load(Ordering::Relaxed));
        now.saturating_duration_since(self.begun + moved)
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Whether it can be ended by itself, and nothing is lost.
    pub(super) fn gives_way(&self) -> bool {
        match (self.kind, self.phase()) {
            (Kind::Vital, _) => false,
            (Kind::Session, _) => self.held() > SESSION_BYTES,
            (_, Phase::Reading) => true,
            (kind, phase) => kind == Kind::Poll && phase == Phase::Serving,
        }
    }

    /// Ends it; `false` when that was so already.
    pub(super) fn end(&self, why: End) -> bool {
        let is_first = self.end.compare_exchange(0, why as u8, Ordering::AcqRel, Ordering::Acquire).is_ok();
        self.reader.wake();
        self.writer.wake();
        is_first
    }

    pub(super) fn ended(&self) -> Option<End> {
        match self.end.load(Ordering::Acquire) {
            0 => None,
            1 => Some(End::Room),
            2 => Some(End::Slow),
            _ => Some(End::Large),
        }
    }

    /// Ready when it is ended, for who writes the answer.
    pub(super) fn poll_over(&self, cx: &mut Context<'_>) -> Poll<End> {
        self.writer.register(cx.waker());
        self.ended().map_or(Poll::Pending, Poll::Ready)
    }

    /// Ready when it is ended, for who reads the request.
    pub(super) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<End> {
        self.reader.register(cx.waker());
        self.ended().map_or(Poll::Pending, Poll::Ready)
    }

    /// Takes bytes if there is room for them.
    pub(super) fn take(&self, bytes: usize, level: Level) -> bool {
        let is_taken = self.link.take(bytes, level);
        if is_taken {
            self.held.fetch_add(bytes, Ordering::Relaxed);
        }
        is_taken
    }

    /// Gives bytes back to the budget.
    pub(super) fn give(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        self.link.give(bytes);
    }

    /// Takes bytes, waiting for room for some time; `false` when there is none.
    pub(super) async fn acquire(&self, bytes: usize, level: Level) -> bool {
        if self.take(bytes, level) {
            return true;
        }
        let memory = &self.link.memory;
        if !memory.may_wait(self.link.held()) {
            return false;
        }
        let Some(_waiting) = Waiting::begin(&self.link.waiting) else { return false };
        timeout(PATIENCE, memory.wait_until(|| self.take(bytes, level))).await.is_ok()
    }
}

/// A call that waits for room, among a few of its connection.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize) -> Option<Self> {
        let waiting = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call that is under way on its connection. Dropping it gives back its share of the budget.
pub(super) struct Visit {
    pub(super) work: Arc<Work>,
    key: usize,
}

impl Visit {
    pub(super) fn begin(link: &Arc<ClientLink>, kind: Kind) -> Self {
        let work = Arc::new(Work::new(link.clone(), kind));
        let key = link.enter(work.clone());
        Self { work, key }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.work.link.leave(self.key);
        self.work.link.give(self.work.held.swap(0, Ordering::Relaxed));
    }
}

/// Bytes of an answer, until the connection has written them.
struct Lent {
    bytes: Bytes,
    link: Arc<ClientLink>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.link.written(self.bytes.len());
    }
}

impl Work {
    /// The given bytes; they count until the last copy is dropped.
    pub(super) fn lend(&self, bytes: Bytes) -> Bytes {
        self.link.lend(bytes.len());
        Bytes::from_owner(Lent { bytes, link: self.link.clone() })
    }
}

/// Memory for an answer. Dropping it gives back the part that was not kept.
#[derive(Debug)]
pub struct ReservedMemory {
    work: Option<Arc<Work>>,
    bytes: usize,
}

impl ReservedMemory {
    /// So many bytes are kept for the answer. They count until it is handed over.
    pub fn keep(mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Drop for ReservedMemory {
    fn drop(&mut self) {
        if let Some(work) = &self.work {
            work.give(self.bytes);
        }
    }
}

/// Makes sure that there is memory for so many bytes of the answer to the call that this task serves, before they are read.
/// Waits a moment for room. Where no call is served, there is nothing to count.
///
/// # Errors
/// [`CallRefusal::MemoryExhausted`] when there is none.
pub async fn reserve(bytes: usize) -> Result<ReservedMemory, CallRefusal> {
    let Ok(work) = SERVED.try_with(Arc::clone) else { return Ok(ReservedMemory { work: None, bytes: 0 }) };
    match work.acquire(bytes, Level::Grow).await {
        true => Ok(ReservedMemory { work: Some(work), bytes }),
        false => Err(work.link.memory.refuse()),
    }
}

/// Like [`reserve`], without waiting.
///
/// # Errors
/// [`CallRefusal::MemoryExhausted`] when there is no room.
pub fn try_reserve(bytes: usize) -> Result<ReservedMemory, CallRefusal> {
    let Ok(work) = SERVED.try_with(Arc::clone) else { return Ok(ReservedMemory { work: None, bytes: 0 }) };
    match work.take(bytes, Level::Grow) {
        true => Ok(ReservedMemory { work: Some(work), bytes }),
        false => Err(work.link.memory.refuse()),
    }
}
