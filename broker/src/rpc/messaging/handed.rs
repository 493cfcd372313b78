//! Messages that were handed out in an answer that may not have arrived.

use std::sync::{Arc, Weak};

use kerolox_core::delivery::{DeliveredMessage, DeliveryEngine};
use kerolox_runtime::process::now_ms;

use crate::delivery::TopicSubscription;

/// The messages of one answer.
#[derive(Default)]
pub(super) struct HandedOut {
    /// A subscription that is no longer in use has no messages to take back.
    by_owner: Vec<(Weak<TopicSubscription>, Vec<DeliveredMessage>)>,
}

impl HandedOut {
    pub(super) fn add(&mut self, owner: &Arc<TopicSubscription>, messages: Vec<DeliveredMessage>) {
        self.by_owner.push((Arc::downgrade(owner), messages));
    }

    /// The answer ended before all of it was sent.
    pub(super) fn never_came(&self) {
        self.take_back(DeliveryEngine::never_came);
    }

    /// All of the answer was sent, but may not have arrived.
    pub(super) fn may_not_have_come(&self) {
        self.take_back(DeliveryEngine::may_not_have_come);
    }

    fn take_back(&self, act: impl Fn(&mut DeliveryEngine, i64, &[DeliveredMessage])) {
        let now_ms = now_ms();
        let owners = self.by_owner.iter().filter_map(|(owner, messages)| Some((owner.upgrade()?, messages)));
        let owners: Vec<(Arc<TopicSubscription>, &Vec<DeliveredMessage>)> = owners.collect();
        if !owners.iter().any(|(owner, messages)| owner.with(|engine| engine.is_known_to_have(messages))) {
            for (owner, messages) in owners {
                owner.change(now_ms, |engine| act(engine, now_ms, messages));
            }
        }
    }
}
