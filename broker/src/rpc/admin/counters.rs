//! What a broker counts of the messages that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;

use super::rates::{self, Rates};

/// Counters since the process started.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) messages_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
    /// Which queue is next for messages whose producer does not choose.
    pub(crate) turn: AtomicU32,
    /// While writing is withheld.
    pub(crate) quiet: Quiet,
    pub(crate) rates: Rates,
}

impl Counters {
    /// Messages a second that came and went lately.
    pub(crate) fn per_second(&self) -> (f64, f64) {
        self.rates.now(Instant::now(), self.totals())
    }

    fn totals(&self) -> (u64, u64) {
        (self.messages_in.load(Ordering::Relaxed), self.messages_out.load(Ordering::Relaxed))
    }

    /// Keeps the rates up to date; runs as long as the runtime.
    pub(crate) async fn keep_rates(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(rates::SAMPLED);
        loop {
            ticks.tick().await;
            self.rates.note(Instant::now(), self.totals());
        }
    }
}

/// The time since which no client has sent anything here.
#[derive(Debug)]
pub(crate) struct Quiet(Mutex<Instant>);

impl Default for Quiet {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Quiet {
    /// The silence begins anew.
    pub(crate) fn broken(&self) {
        *self.0.lock() = Instant::now();
    }

    /// How long the silence lasts, in milliseconds.
    pub(super) fn elapsed_ms(&self) -> u64 {
        let since = *self.0.lock();
        u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}
