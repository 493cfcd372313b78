//! The engine's clock, which can hold the writer thread up.
//!
//! The writer takes whatever waits for it, so the batches that it makes depend on who is faster. It asks for the time once
//! for each batch: a test that closes the gate, proposes one record and waits until the writer asks can then propose a batch
//! at leisure, and opens the gate.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    now_ms: i64,
    closed: bool,
    /// Set once the writer asks for the time, or will never ask.
    reached: bool,
}

impl Gate {
    /// The time in milliseconds, which each call advances by one. Waits while the gate is closed.
    pub(crate) fn now_ms(&self) -> i64 {
        let mut state = self.lock();
        state.reached = true;
        self.changed.notify_all();
        while state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.now_ms += 1;
        state.now_ms
    }

    /// Advances the time by `ms`.
    pub(crate) fn pass(&self, ms: i64) {
        self.lock().now_ms += ms;
    }

    /// The time in milliseconds, for callers other than the writer.
    pub(crate) fn peek_ms(&self) -> i64 {
        self.lock().now_ms
    }

    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.reached = false;
    }

    pub(crate) fn open(&self) {
        self.lock().closed = false;
        self.changed.notify_all();
    }

    /// Says that the record the gate waits for was answered, so that the writer will not ask for the time because of it.
    pub(crate) fn give_up(&self) {
        self.lock().reached = true;
        self.changed.notify_all();
    }

    /// Waits until the writer asks for the time at the closed gate.
    pub(crate) fn wait_until_reached(&self) {
        let mut state = self.lock();
        while !state.reached {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
