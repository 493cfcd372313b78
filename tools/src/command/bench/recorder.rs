//! The measurements: latencies, messages, errors.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Digits of a latency that count.
const DIGITS: u8 = 3;
/// Longest latency that is told apart, in microseconds: ten minutes.
const LONGEST: u64 = 600_000_000;

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Latencies {
    pub(super) mean: f64,
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    #[serde(rename = "p99.9")]
    pub(super) p999: f64,
    pub(super) max: f64,
}

impl Latencies {
    #[allow(clippy::cast_precision_loss, reason = "microseconds up to ten minutes are exact")]
    fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            mean: histogram.mean() / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: histogram.max() as f64 / 1000.0,
        }
    }
}

/// The events of a span of time.
#[derive(Debug, Clone)]
pub(super) struct Measured {
    pub(super) messages: u64,
    pub(super) failures: u64,
    pub(super) first_failure: Option<String>,
    pub(super) latencies: Latencies,
}

struct TimeSpan {
    messages: u64,
    failures: u64,
    first_failure: Option<String>,
    latencies: Histogram<u64>,
    /// When the first of it was begun, and the last was over.
    between: Option<(Instant, Instant)>,
}

impl TimeSpan {
    fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, LONGEST, DIGITS).expect("the bounds make sense");
        Self { messages: 0, failures: 0, first_failure: None, latencies, between: None }
    }

    fn measured(&self) -> Measured {
        Measured {
            messages: self.messages,
            failures: self.failures,
            first_failure: self.first_failure.clone(),
            latencies: Latencies::of(&self.latencies),
        }
    }
}

/// Records events: all of them from a moment on, and the new ones since the last look.
pub(super) struct Recorder {
    from: Instant,
    spans: Mutex<(TimeSpan, TimeSpan)>,
}

impl Recorder {
    /// Events that begin before `from` are not counted in the end: they are the warm-up.
    pub(super) fn new(from: Instant) -> Self {
        Self { from, spans: Mutex::new((TimeSpan::new(), TimeSpan::new())) }
    }

    /// `messages` that were begun at a moment have taken so long.
    pub(super) fn note(&self, begun: Instant, latency: Duration, messages: u64) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(LONGEST).clamp(1, LONGEST);
        self.change(begun, |span| {
            span.messages += messages;
            let over = begun + latency;
            span.between =
                Some(span.between.map_or((begun, over), |(first, last)| (first.min(begun), last.max(over))));
            span.latencies.saturating_record_n(micros, messages);
        });
    }

    /// `messages` that were begun at a moment have failed.
    pub(super) fn fail(&self, begun: Instant, messages: u64, reason: &str) {
        self.change(begun, |span| {
            span.failures += messages;
            span.first_failure.get_or_insert_with(|| reason.to_owned());
        });
    }

    fn change(&self, begun: Instant, act: impl Fn(&mut TimeSpan)) {
        let (all, news) = &mut *self.lock();
        act(news);
        if begun >= self.from {
            act(all);
        }
    }

    /// All that counts.
    pub(super) fn all(&self) -> Measured {
        self.lock().0.measured()
    }

    /// How long it took, from when the first message was begun to when the last was over.
    pub(super) fn span(&self) -> Option<Duration> {
        self.lock().0.between.map(|(first, last)| last.saturating_duration_since(first))
    }

    /// The new events, the warm-up included.
    pub(super) fn news(&self) -> Measured {
        let (_, news) = &mut *self.lock();
        let measured = news.measured();
        *news = TimeSpan::new();
        measured
    }

    fn lock(&self) -> MutexGuard<'_, (TimeSpan, TimeSpan)> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warm_up_is_seen_and_does_not_count() {
        let start = Instant::now();
        let recorder = Recorder::new(start + Duration::from_secs(1));
        recorder.note(start, Duration::from_millis(500), 1);
        recorder.fail(start, 1, "cold");
        for millis in 1..=100 {
            recorder.note(start + Duration::from_secs(2), Duration::from_millis(millis), 1);
        }
        recorder.fail(start + Duration::from_secs(2), 2, "refused");
        let all = recorder.all();
        assert_eq!((all.messages, all.failures, all.first_failure.as_deref()), (100, 2, Some("refused")));
        let near = |value: f64, wanted: f64| (value - wanted).abs() < wanted / 500.0;
        assert!(
            near(all.latencies.p50, 50.0) && near(all.latencies.p99, 99.0) && near(all.latencies.max, 100.0)
        );
        let news = recorder.news();
        assert_eq!((news.messages, news.failures), (101, 3));
        assert_eq!(recorder.news().messages, 0);
    }
}
