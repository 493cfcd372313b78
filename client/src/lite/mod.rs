//! Lite topics: many small topics below one, subscribed to while the consumer is at work.

mod push;
mod simple;

use crate::error::{Error, Result};
use crate::member::{AbortOnDrop, Member};
use crate::message::unix_ms;
use crate::queue::Position;
use crate::retry::RetryPolicy;
use kerolox_proto::v2;
use kerolox_proto::v2::LiteSubscriptionAction as Action;
use kerolox_proto::v2::offset_option::{OffsetType, Policy};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::sync::mpsc;

pub use push::{LitePushConsumer, LitePushConsumerBuilder};
pub use simple::{LiteSimpleConsumer, LiteSimpleConsumerBuilder};

/// How often the servers are told everything again: as often as RocketMQ's SDKs do.
const SYNC: Duration = Duration::from_secs(30);

/// The lite topics that a consumer subscribes to. Cheap to clone; clones are one.
///
/// The client tells the servers each change at once, and everything every 30 s and whenever a server was away.
#[derive(Clone)]
pub struct LiteTopics {
    shared: Arc<Shared>,
}

struct Shared {
    member: Arc<Member>,
    group: String,
    parent: String,
    names: Mutex<BTreeSet<String>>,
    /// Held while the servers are told, so that they hear of changes in order. It is the last version that they were told.
    version: tokio::sync::Mutex<i64>,
}

impl LiteTopics {
    fn new(member: &Arc<Member>, group: &str, parent: String) -> Self {
        let (member, group) = (Arc::clone(member), group.to_owned());
        Self {
            shared: Arc::new(Shared { member, group, parent, names: Mutex::default(), version: 0.into() }),
        }
    }

    /// Subscribes to a lite topic, which need not exist yet. The group goes on where it was, or at the first message.
    ///
    /// # Errors
    /// `LITE_SUBSCRIPTION_QUOTA_EXCEEDED` when this client has as many as it may; `ILLEGAL_LITE_TOPIC` for an
    /// unsuitable name; otherwise when no server answers. It is not subscribed to then.
    pub async fn subscribe(&self, name: impl Into<String>) -> Result<()> {
        self.add(name.into(), None).await
    }

    /// Subscribes to a lite topic from a position on, wherever the group was.
    ///
    /// # Errors
    /// Those of [`Self::subscribe`].
    pub async fn subscribe_from(&self, name: impl Into<String>, from: Position) -> Result<()> {
        self.add(name.into(), Some(offset_option(from)?)).await
    }

    /// Ends the subscription to a lite topic. What was received of it may be acknowledged still.
    ///
    /// # Errors
    /// When no server answers; it is ended with the next message to them that does arrive.
    pub async fn unsubscribe(&self, name: &str) -> Result<()> {
        self.names().remove(name);
        self.tell(Action::PartialRemove, || vec![name.to_owned()], None).await
    }

    /// The subscribed lite topics, in alphabetical order. A lite topic that a group gives to one client only leaves
    /// this list when another client subscribes to it.
    pub fn subscribed(&self) -> Vec<String> {
        self.names().iter().cloned().collect()
    }

    fn names(&self) -> std::sync::MutexGuard<'_, BTreeSet<String>> {
        self.shared.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn add(&self, name: String, from: Option<v2::OffsetOption>) -> Result<()> {
        // First, so that a concurrent report of all subscriptions to the servers includes it.
        let is_new = self.names().insert(name.clone());
        let told = self.tell(Action::PartialAdd, || vec![name.clone()], from).await;
        if told.is_err() && is_new {
            self.names().remove(&name);
        }
        told
    }

    /// `names` are those at the moment at which it is this change's turn.
    async fn tell(
        &self,
        action: Action,
        names: impl FnOnce() -> Vec<String> + Send,
        from: Option<v2::OffsetOption>,
    ) -> Result<()> {
        let Shared { member, group, parent, version, .. } = &*self.shared;
        let mut version = version.lock().await;
        // A successor with this client id still has newer versions.
        *version = unix_ms(SystemTime::now()).max(*version + 1);
        let caller = &member.caller;
        let request = v2::SyncLiteSubscriptionRequest {
            action: action.into(),
            topic: Some(caller.resource(parent)),
            group: Some(caller.resource(group)),
            lite_topic_set: names(),
            version: Some(*version),
            offset_option: from,
        };
        let sync = || async {
            let _: v2::SyncLiteSubscriptionResponse = caller
                .call_access_point(request.clone(), |mut client, request| async move {
                    client.sync_lite_subscription(request).await
                })
                .await?;
            Ok(())
        };
        RetryPolicy::default().persist(member, sync).await
    }

    async fn tell_everything(&self) {
        if let Err(error) = self.tell(Action::CompleteAdd, || self.subscribed(), None).await {
            tracing::debug!(%error, "the servers were not told of the lite topics; telling them again");
        }
    }

    /// Tells the servers everything now and then, and hears what they take away.
    fn keep(&self, mut evictions: mpsc::UnboundedReceiver<String>) -> AbortOnDrop {
        let topics = self.clone();
        AbortOnDrop::spawn(async move {
            let mut greeted = topics.shared.member.greeted.subscribe();
            let mut known = greeted.borrow_and_update().clone();
            let mut sync = tokio::time::interval(SYNC);
            sync.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            sync.reset();
            loop {
                tokio::select! {
                    _ = sync.tick() => topics.tell_everything().await,
                    Some(name) = evictions.recv() => {
                        tracing::info!(lite_topic = name, "the servers gave this lite topic to another client");
                        topics.names().remove(&name);
                    }
                    Ok(()) = greeted.changed() => {
                        let now = greeted.borrow_and_update().clone();
                        if !now.is_subset(&known) {
                            topics.tell_everything().await;
                            sync.reset();
                        }
                        known = now;
                    }
                }
            }
        })
    }
}

impl fmt::Debug for LiteTopics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LiteTopics")
            .field("below", &self.shared.parent)
            .field("subscribed", &self.subscribed())
            .finish_non_exhaustive()
    }
}

fn offset_option(from: Position) -> Result<v2::OffsetOption> {
    let number = |number: u64| {
        i64::try_from(number).map_err(|_| Error::invalid(format!("{number} is no offset; it is too large")))
    };
    let offset_type = match from {
        Position::Earliest => OffsetType::Policy(Policy::Min.into()),
        Position::Latest => OffsetType::Policy(Policy::Max.into()),
        Position::Committed => OffsetType::Policy(Policy::Last.into()),
        Position::Offset(offset) => OffsetType::Offset(number(offset)?),
        Position::Tail(count) => OffsetType::TailN(number(count)?),
        Position::Since(time) => OffsetType::Timestamp(unix_ms(time)),
    };
    Ok(v2::OffsetOption { offset_type: Some(offset_type) })
}
