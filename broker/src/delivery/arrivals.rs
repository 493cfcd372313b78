//! What the store tells of its queues, and which subscriptions hear of it.

use std::collections::HashMap;
use std::sync::Arc;

use kerolox_core::lite::is_lite;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_runtime::process::now_ms;
use kerolox_store::StateEvent;
use parking_lot::RwLock;

use super::lites::Lites;
use super::subscription::TopicSubscription;
use super::watch::Watches;

/// Active subscriptions by topic id and group id.
pub(super) type ByTopic = HashMap<u32, HashMap<u32, Arc<TopicSubscription>>>;

/// Tells active subscriptions what happens in the store. It exists before the store does, because the store reports from
/// its first record on.
#[derive(Clone, Default)]
pub struct QueueArrivals {
    pub(super) active: Arc<RwLock<ByTopic>>,
    pub(super) lites: Arc<Lites>,
    pub(super) watches: Arc<Watches>,
}

impl QueueArrivals {
    /// Called on a thread of the store.
    pub fn notice(&self, event: &StateEvent) {
        let each = |topic_id: &u32, queue: &u32, act: &dyn Fn(&TopicSubscription)| {
            if is_lite(*queue) {
                return self.lites.each(*topic_id, *queue, act);
            }
            let active = self.active.read();
            active
                .get(topic_id)
                .into_iter()
                .flat_map(HashMap::values)
                .for_each(|subscription| act(subscription));
        };
        match event {
            StateEvent::Arrived { topic_id, queue, end } => {
                each(topic_id, queue, &|s| s.extend(*queue, *end));
                self.notice_lite(*topic_id, *queue);
                self.watches.arrived(*topic_id, *queue);
            }
            StateEvent::Trimmed { topic_id, queue, min } => each(topic_id, queue, &|s| {
                s.with(|engine| engine.expire_below(*queue, QueueOffset::new(*min)))
            }),
            StateEvent::Reopened { group_id, topic_id, queue, offset } => {
                each(topic_id, queue, &|s| {
                    if s.group_id() == *group_id {
                        s.reopen(now_ms(), *queue, QueueOffset::new(*offset));
                    }
                });
                self.notice_lite(*topic_id, *queue);
            }
            StateEvent::LiteCreated { topic_id, queue, name } => {
                self.lites.directory.created(*topic_id, *queue, name)
            }
            StateEvent::LiteDropped { topic_id, queue, name } => {
                self.lites.drop_queue(*topic_id, *queue);
                self.lites.directory.dropped(*topic_id, *queue, name);
            }
            _ => {}
        }
    }

    /// There is something in a lite topic, be it at work or not.
    fn notice_lite(&self, topic_id: u32, queue: u32) {
        if is_lite(queue) {
            self.lites.directory.ready(topic_id, queue, None);
        }
    }
}
