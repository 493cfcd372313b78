//! Load: many equal tasks, as fast as they can or at a rate.

use super::recorder::Recorder;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// Who waits in line and how fast.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Tasks at the same time.
    pub(super) in_flight: usize,
    /// Messages a second of all of them together; as many as they can without.
    pub(super) rate: Option<f64>,
    /// Messages of one step.
    pub(super) batch: u64,
    pub(super) start: Instant,
    pub(super) end: Instant,
}

impl Pace {
    /// When a step is to begin; `None` when it is to begin at once.
    fn begin(&self, step: u64) -> Option<Instant> {
        #[allow(clippy::cast_precision_loss, reason = "so many steps take years")]
        let seconds = (step * self.batch) as f64 / self.rate?;
        Some(self.start + Duration::from_secs_f64(seconds))
    }
}

/// Runs `step` again and again until the end. At a rate, latencies count from when a step was to begin: that the steps before it
/// were late is part of what a user would see.
pub(super) async fn run<F, Fut>(pace: Pace, recorder: &Arc<Recorder>, step: F)
where
    F: Fn(u64) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = Result<(), String>> + Send,
{
    let steps = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for _ in 0..pace.in_flight {
        let (steps, recorder, step) = (Arc::clone(&steps), Arc::clone(recorder), step.clone());
        tasks.spawn(async move {
            loop {
                let number = steps.fetch_add(1, Ordering::Relaxed);
                let planned = pace.begin(number);
                if planned.unwrap_or_else(Instant::now) >= pace.end {
                    return;
                }
                if let Some(planned) = planned {
                    tokio::time::sleep_until(planned.into()).await;
                }
                let begun = planned.unwrap_or_else(Instant::now);
                match step(number).await {
                    Ok(()) => recorder.note(begun, begun.elapsed(), pace.batch),
                    Err(reason) => recorder.fail(begun, pace.batch, &reason),
                }
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            recorder.fail(Instant::now(), 1, &error.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_rate_is_kept_and_lateness_counts() {
        let start = Instant::now();
        let recorder = Arc::new(Recorder::new(start));
        let end = start + Duration::from_millis(400);
        let pace = Pace { in_flight: 1, rate: Some(100.0), batch: 2, start, end };
        // One task can do five steps in this time; fifteen of twenty are begun too late.
        run(pace, &recorder, |_| async {
            tokio::time::sleep(Duration::from_millis(80)).await;
            Ok(())
        })
        .await;
        let all = recorder.all();
        assert_eq!(all.messages, 40);
        assert!(all.latencies.max > 1_000.0, "{all:?}");
    }

    #[tokio::test]
    async fn failures_are_counted_with_their_reason() {
        let start = Instant::now();
        let recorder = Arc::new(Recorder::new(start));
        let pace = Pace { in_flight: 2, rate: None, batch: 1, start, end: start + Duration::from_millis(50) };
        run(pace, &recorder, |_| async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            Err("no".to_owned())
        })
        .await;
        let all = recorder.all();
        assert!(all.messages == 0 && all.failures > 4, "{all:?}");
        assert_eq!(all.first_failure.as_deref(), Some("no"));
    }
}
