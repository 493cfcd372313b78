//! The listeners for events in the store.

use std::sync::Arc;

use kerolox_store::StateEvent;
use parking_lot::RwLock;

use crate::delivery::QueueArrivals;
use crate::tasks::DueArrivals;

/// The current listeners for events in the store. The store reports from its first record on. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct News(Arc<RwLock<Heard>>);

/// Channels of a leader's tasks.
#[derive(Clone, Default)]
pub(crate) struct Heard {
    pub(crate) arrivals: QueueArrivals,
    /// Half messages, by the time of their next check.
    pub(crate) halves: DueArrivals,
    /// Scheduled messages.
    pub(crate) due: DueArrivals,
}

impl News {
    /// Called on a thread of the store.
    pub(crate) fn notice(&self, event: &StateEvent) {
        let heard = self.0.read();
        heard.arrivals.notice(event);
        match event {
            StateEvent::HalfDue { due_ms } => heard.halves.notice(*due_ms),
            StateEvent::TimerDue { due_ms } => heard.due.notice(*due_ms),
            _ => {}
        }
    }

    /// Replaces the listeners.
    pub(crate) fn renew(&self) -> Heard {
        let heard = Heard::default();
        *self.0.write() = heard.clone();
        heard
    }
}
