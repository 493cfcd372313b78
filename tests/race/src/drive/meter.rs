//! The window on the clock, and the counts of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::task::DriverResult;

/// Where the leg stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    WarmUp,
    Measured,
    Over,
}

/// The phase, shared by all callers.
#[derive(Debug, Clone, Default)]
pub(crate) struct Clock(Arc<AtomicU8>);

impl Clock {
    /// The phase now.
    pub(crate) fn phase(&self) -> Phase {
        match self.0.load(Ordering::Acquire) {
            0 => Phase::WarmUp,
            1 => Phase::Measured,
            _ => Phase::Over,
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.phase() == Phase::Over
    }

    /// Has all callers stop.
    pub(crate) fn stop(&self) {
        self.0.store(2, Ordering::Release);
    }

    /// Starts the window, and tells who started this process.
    pub(crate) fn begin(&self) -> Instant {
        println!("begin");
        self.0.store(1, Ordering::Release);
        Instant::now()
    }

    /// Ends the window; returns its length.
    pub(crate) fn end(&self, begun: Instant) -> Duration {
        let length = begun.elapsed();
        self.stop();
        println!("end");
        length
    }

    /// Lets the callers warm up, then measures them; returns the length of the window.
    pub(crate) async fn run(&self, warm_up: Duration, window: Duration) -> Duration {
        tokio::time::sleep(warm_up).await;
        let begun = self.begin();
        tokio::time::sleep(window).await;
        self.end(begun)
    }
}

/// What one caller counted.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Messages in the window.
    pub(crate) messages: u64,
    /// Messages in all phases.
    pub(crate) total: u64,
    latencies: Histogram<u64>,
}

impl Tally {
    pub(crate) fn new() -> Self {
        let latencies = Histogram::new(3).expect("three digits are allowed");
        Self { messages: 0, total: 0, latencies }
    }

    /// Notes what ends now, for so many messages.
    pub(crate) fn note(&mut self, clock: &Clock, began: Instant, messages: u64) {
        self.total += messages;
        if clock.phase() == Phase::Measured {
            self.messages += messages;
            self.late(began.elapsed());
        }
    }

    /// Notes a latency in the window.
    pub(crate) fn late(&mut self, latency: Duration) {
        let nanos = latency.as_nanos().try_into().unwrap_or(u64::MAX);
        self.latencies.record(nanos).expect("a histogram that grows takes all values");
    }

    /// Adds what another caller counted.
    pub(crate) fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.total += other.total;
        self.latencies += &other.latencies;
    }

    /// All callers' tallies as one.
    pub(crate) async fn of(mut callers: JoinSet<Result<Self>>) -> Result<Self> {
        let mut sum = Self::new();
        while let Some(tally) = callers.join_next().await {
            sum.add(&tally??);
        }
        Ok(sum)
    }

    /// The result, where so many messages were acknowledged and so many are there.
    pub(crate) fn result(&self, window: Duration, acknowledged: u64, verified: u64) -> DriverResult {
        let at = |quantile| self.latencies.value_at_quantile(quantile) as f64 / 1000.0;
        DriverResult {
            messages: self.messages,
            seconds: window.as_secs_f64(),
            acknowledged,
            verified: Some(verified),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
        }
    }
}
