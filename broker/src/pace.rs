//! Work over many stored messages, done in steps: a scan of a topic does not keep other tasks waiting.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kerolox_proto::errors::RpcError;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Messages after which a step ends.
const STEP_MESSAGES: usize = 256;
/// Bytes of the log after which a step ends; a single message may be larger.
const STEP_BYTES: usize = 4 << 20;
/// Time after which a step ends.
const STEP_TIME: Duration = Duration::from_millis(5);

/// The share of the process that scans may take: at least one of the runtime's threads stays free of them, if there are
/// several.
pub(crate) struct Scans {
    permits: Semaphore,
}

impl Scans {
    /// Capacity for scans on half of `threads`.
    pub(crate) fn on(threads: usize) -> Self {
        Self { permits: Semaphore::new((threads / 2).max(1)) }
    }

    /// A new scan, whose first step may run at once.
    pub(crate) fn pace(&self) -> Pace<'_> {
        Pace { scans: self, permit: None }
    }
}

/// The turn of one scan.
pub(crate) struct Pace<'a> {
    scans: &'a Scans,
    permit: Option<SemaphorePermit<'a>>,
}

impl Pace<'_> {
    /// Yields to other tasks before the next step; `false` when the time is up. Scans take turns.
    pub(crate) async fn rest(&mut self, until: Instant) -> bool {
        self.stop();
        tokio::task::yield_now().await;
        if Instant::now() >= until {
            return false;
        }
        let turn = tokio::time::timeout_at(until, self.scans.permits.acquire()).await;
        self.permit = turn.ok().and_then(Result::ok);
        self.permit.is_some()
    }

    /// Ends the scan, for the time being.
    pub(crate) fn stop(&mut self) {
        self.permit = None;
    }
}

/// Maximum number of concurrent look-ups by administrators; the others wait.
const LOOKUPS: usize = 2;

/// Runs look-ups where waiting for the disk blocks no other task. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lookups {
    permits: Arc<Semaphore>,
}

impl Default for Lookups {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(LOOKUPS)) }
    }
}

impl Lookups {
    /// Runs a look-up in its turn. If its caller goes away first, it is not started.
    ///
    /// # Errors
    /// INTERNAL when it cannot be run.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Caller) -> T + Send + 'static,
    ) -> Result<T, RpcError> {
        let failed = |reason: String| RpcError::internal(reason);
        let permit = self.permits.clone().acquire_owned().await.map_err(|error| failed(error.to_string()))?;
        let caller = Caller::default();
        let leaving = Leaving(caller.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            look(&caller)
        });
        let looked = looked.await.map_err(|error| failed(error.to_string()));
        drop(leaving);
        looked
    }
}

/// The caller of a look-up.
#[derive(Clone, Default)]
pub(crate) struct Caller {
    is_gone: Arc<AtomicBool>,
}

impl Caller {
    /// Whether the caller has gone away.
    pub(crate) fn is_gone(&self) -> bool {
        self.is_gone.load(Ordering::Relaxed)
    }
}

/// Dropped when the caller goes away.
struct Leaving(Caller);

impl Drop for Leaving {
    fn drop(&mut self) {
        self.0.is_gone.store(true, Ordering::Relaxed);
    }
}

/// The remaining budget of one step.
pub(crate) struct Step {
    messages: usize,
    bytes: usize,
    ends: Instant,
}

impl Step {
    /// A step that begins now.
    pub(crate) fn begin() -> Self {
        Self { messages: STEP_MESSAGES, bytes: STEP_BYTES, ends: Instant::now() + STEP_TIME }
    }

    /// Whether the budget is used up.
    pub(crate) fn is_over(&self) -> bool {
        self.messages == 0 || self.bytes == 0 || Instant::now() >= self.ends
    }

    /// Takes as many messages of these lengths, in bytes, as the budget allows, but at least one, and returns their number.
    pub(crate) fn take(&mut self, lengths: impl IntoIterator<Item = usize>) -> usize {
        let mut taken = 0;
        for length in lengths {
            if taken > 0 && (self.messages == 0 || length > self.bytes) {
                self.bytes = 0;
                break;
            }
            self.messages = self.messages.saturating_sub(1);
            self.bytes = self.bytes.saturating_sub(length);
            taken += 1;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_ends_by_messages_and_by_bytes() {
        let mut step = Step::begin();
        assert_eq!(step.take([10; 300]), STEP_MESSAGES);
        assert!(step.is_over());
        let mut step = Step::begin();
        assert_eq!(step.take([STEP_BYTES / 2, STEP_BYTES / 2 - 1, 2, 1]), 2);
        assert!(step.is_over());
        assert_eq!(Step::begin().take([STEP_BYTES * 8, 1]), 1, "the largest message comes through");
    }

    #[tokio::test]
    async fn scans_take_turns_and_end_in_time() {
        let scans = Scans::on(1);
        let soon = || Instant::now() + Duration::from_millis(50);
        let (mut first, mut second) = (scans.pace(), scans.pace());
        assert!(first.rest(soon()).await);
        assert!(!second.rest(soon()).await, "the other one is at work");
        first.stop();
        assert!(second.rest(soon()).await);
        assert!(!second.rest(Instant::now()).await, "its time is up");
        assert!(first.rest(soon()).await, "a stopped scan holds nothing");
    }
}
