//! Progress and cancellation of the index update when a store is opened.
//!
//! # Start
//!
//! Ports first, then the store, on its own thread: `rpc/admission.rs` holds callers for some seconds, Telemetry streams
//! longer, and tells the others to retry until the index is up to date (`store/src/opening.rs`), and only then does the
//! broker register. A long rebuild makes its result durable every two seconds, so the next start continues from there.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kerolox_log::{LogError, sabotage};

use crate::error::StoreError;
use crate::indexer::{FLUSH_KEYS, flush};
use crate::retention;
use crate::state::ApplyOutcome;
use crate::store::Shared;

/// A rebuild that takes longer than this regularly logs its progress and makes its result durable: the next start continues
/// from there.
const TELL_INTERVAL: Duration = Duration::from_secs(2);
/// The backlog of unflushed changes is checked once per this many records.
const RECORDS_PER_COUNT: u64 = 64;
/// The clock is checked once per this many records.
const RECORDS_PER_LOOK: u64 = 1024;

/// Observes a store being opened, and can cancel that. Shared by the opening thread and its observers.
#[derive(Debug, Default)]
pub struct StoreOpening {
    rebuild: Mutex<Option<Rebuild>>,
    position: AtomicU64,
    is_stopped: AtomicBool,
}

/// A running rebuild.
#[derive(Debug, Clone, Copy)]
struct Rebuild {
    from: u64,
    end: u64,
    began: Instant,
}

impl StoreOpening {
    /// Progress of the index; `None` before the log was read.
    pub fn progress(&self) -> Option<RebuildProgress> {
        let rebuild = (*self.rebuild.lock().unwrap_or_else(PoisonError::into_inner))?;
        let position = self.position.load(Ordering::Relaxed).clamp(rebuild.from, rebuild.end);
        Some(RebuildProgress {
            from: rebuild.from,
            position,
            end: rebuild.end,
            elapsed: rebuild.began.elapsed(),
        })
    }

    /// Requests cancellation: opening the store fails with [`StoreError::Stopped`] at the next record to apply.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    fn begin(&self, from: u64, end: u64) {
        self.position.store(from, Ordering::Relaxed);
        let rebuild = Rebuild { from, end, began: Instant::now() };
        *self.rebuild.lock().unwrap_or_else(PoisonError::into_inner) = Some(rebuild);
    }

    fn reached(&self, position: u64) {
        self.position.store(position, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }
}

/// Progress of the index, in log positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RebuildProgress {
    /// Position at the start of the rebuild.
    pub from: u64,
    /// Everything before this is in the index.
    pub position: u64,
    /// Position at which it will be up to date.
    pub end: u64,
    /// Time elapsed so far.
    pub elapsed: Duration,
}

impl RebuildProgress {
    /// Percentage of the work that is done, rounded down.
    pub fn percent(&self) -> u8 {
        let all = u128::from(self.end - self.from);
        let percent = u128::from(self.position - self.from) * 100 / all.max(1);
        if all == 0 { 100 } else { u8::try_from(percent).unwrap_or(100) }
    }

    /// Remaining time at the pace so far; `None` while it cannot be estimated.
    pub fn left(&self) -> Option<Duration> {
        let nanos_so_far = self.elapsed.as_nanos();
        let done = u128::from(self.position - self.from);
        let nanos = nanos_so_far.checked_mul(u128::from(self.end - self.position))?.checked_div(done)?;
        Some(Duration::from_nanos(u64::try_from(nanos).ok()?))
    }
}

impl fmt::Display for RebuildProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} % (position {} of {})", self.percent(), self.position, self.end)?;
        match self.left() {
            // The next whole second: the last one is not "about 0 s left".
            Some(left) => write!(f, ", about {} s left", left.as_secs() + 1),
            None => Ok(()),
        }
    }
}

/// Applies the records of the log beyond the index; returns their number. Damaged ranges are skipped.
///
/// Everything applied here is durable: opening the log synced it. So the index may be flushed after any record, except
/// in the middle of a snapshot.
pub(crate) fn catch_up(shared: &Shared, opening: &StoreOpening) -> Result<u64, StoreError> {
    let from = apply_from(shared)?;
    opening.begin(from, shared.reader.end());
    let mut records = 0;
    let mut events = Vec::new();
    let mut told = Instant::now();
    let mut scan = shared.reader.scan(from);
    while let Some(frame) = scan.next() {
        if opening.is_stopped() {
            flush_some(shared)?;
            return Err(StoreError::Stopped);
        }
        let frame = match frame.map_err(|error| shared.damage.notice(error)) {
            Ok(frame) => frame,
            Err(LogError::Damaged(range)) => {
                shared.write_state().pass_damage(&range)?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let _: ApplyOutcome = shared.write_state().apply(&frame, &mut events)?;
        events.clear();
        records += 1;
        opening.reached(scan.position());
        if records % RECORDS_PER_COUNT == 0 && shared.read_state().pending_len() >= FLUSH_KEYS {
            flush(shared)?;
        }
        if records % RECORDS_PER_LOOK == 0 && told.elapsed() >= TELL_INTERVAL {
            tell(opening);
            flush_some(shared)?;
            shared.kv.persist()?;
            told = Instant::now();
        }
    }
    flush(shared)?;
    opening.reached(scan.position());
    Ok(records)
}

/// Position from which records are to be applied: that of the state, or the beginning.
pub(crate) fn apply_from(shared: &Shared) -> Result<u64, StoreError> {
    let applied = shared.read_state().applied();
    match applied {
        0 => retention::apply_start(shared),
        _ if sabotage::is("forget-applied") => Ok(shared.reader.start()),
        applied => Ok(applied.max(shared.reader.start())),
    }
}

/// Flushes, unless there is nothing to flush, or half of a snapshot, which is no state to start from.
fn flush_some(shared: &Shared) -> Result<(), StoreError> {
    if shared.read_state().pending_len() > 0 { flush(shared) } else { Ok(()) }
}

fn tell(opening: &StoreOpening) {
    if let Some(progress) = opening.progress() {
        tracing::info!("the index is being rebuilt from the log: {progress}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64, seconds: u64) -> RebuildProgress {
        RebuildProgress { from: 1000, position, end: 2000, elapsed: Duration::from_secs(seconds) }
    }

    #[test]
    fn progress_says_how_much_and_how_long() {
        assert_eq!(at(1000, 5).to_string(), "0 % (position 1000 of 2000)");
        assert_eq!(at(1430, 9).to_string(), "43 % (position 1430 of 2000), about 12 s left");
        assert_eq!((at(1999, 1).percent(), at(2000, 1).percent()), (99, 100));
        assert_eq!(at(1250, 10).left(), Some(Duration::from_secs(30)));
        assert_eq!(at(1000, 0).left(), None);
        let nothing = RebuildProgress { from: 7, position: 7, end: 7, elapsed: Duration::ZERO };
        assert_eq!((nothing.percent(), nothing.left()), (100, None));
    }
}
