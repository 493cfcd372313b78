//! # Topics by themselves
//!
//! Topics that are created with their first message. A route query creates none: it does not tell a producer from a consumer. Where
//! a broker creates topics (`topics.auto-create`), routes show a missing one there as if it existed, for every type
//! (`gateway/src/routes/queries.rs`). The first message creates it, with its type; a consumer that comes earlier waits. Brokers
//! learn from the routes which topics others created.

use std::sync::Arc;

use kerolox_core::topic::{MessageType, Topic};
use kerolox_core::topic_change::of_first_messages;
use kerolox_gateway::refusal::Refusal;
use kerolox_gateway::routes::stored_topic;
use kerolox_model::names::may_be_auto_created;
use kerolox_proto::v2::{self, Code};
use tokio::time::Instant;

use super::Context;
use crate::announce::Announcer;
use crate::creation_quota::CreationQuota;
use crate::metadata::ChangeError;

/// Rules for the automatic creation of topics.
pub(crate) struct AutoTopics {
    /// Number of topics at which automatic creation stops.
    pub(crate) max: usize,
    /// Quota of each client.
    pub(crate) made: CreationQuota,
    pub(crate) announcer: Announcer,
}

impl Context {
    /// The topic to which `client` sends messages of these `types`; it is created if that is allowed.
    pub(super) async fn topic_of_messages(
        &self,
        client: &str,
        resource: Option<&v2::Resource>,
        types: impl FnOnce() -> Vec<MessageType>,
    ) -> Result<Arc<Topic>, Refusal> {
        let missing = match self.topic(resource) {
            Ok(topic) => return Ok(topic),
            Err(missing) => missing,
        };
        let Some(auto) = self.auto_topics.as_ref().filter(|_| self.may_come(resource)) else {
            return Err(missing);
        };
        let name = stored_topic(resource)?;
        let Some(wanted) = of_first_messages(&name, types()) else {
            return Err(missing);
        };
        let refused = |why: String| {
            let text = format!(
                "broker {} has no topic {name:?} and creates none automatically any more, because {why}; create it with `mqadmin updateTopic -t {name}`",
                self.broker
            );
            Err(Refusal::new(Code::TopicNotFound, text))
        };
        let count = self.log.store().state().topics.all().len();
        if count >= auto.max {
            return refused(format!("it has {count} (topics.auto-create-max is {})", auto.max));
        }
        // Another broker may have created it a moment ago: its nameservers know. Then the topic accepts the same types
        // everywhere.
        auto.announcer.announce().await;
        if !self.may_come(resource) {
            return Err(missing);
        }
        let elsewhere = self.routes.topic(&name).and_then(|route| {
            let types = route.message_types.iter().filter_map(|kind| MessageType::try_from(*kind).ok());
            of_first_messages(&name, types)
        });
        let change = elsewhere.unwrap_or(wanted);
        if !auto.made.take(client) {
            let each = auto.made.max();
            return refused(format!(
                "client {client} has made {each} (topics.auto-create-max-per-client is {each})"
            ));
        }
        let made = self.metadata.make_topic(&change).await;
        if !matches!(made, Ok((_, true))) {
            auto.made.give_back(client);
        }
        let (topic, is_new) = made.map_err(|error| match error {
            ChangeError::Invalid(text) => Refusal::new(Code::IllegalTopic, text),
            ChangeError::Log(refusal) => refusal.into(),
        })?;
        if is_new {
            tracing::info!(topic = name, types = topic.type_words(), "topic created with its first message");
            auto.announcer.announce().await;
        }
        Ok(topic)
    }

    /// The topic that a consumer receives from. For one that may still be created, it waits.
    pub(super) async fn topic_to_come(
        &self,
        resource: Option<&v2::Resource>,
        until: Instant,
    ) -> Result<Arc<Topic>, Refusal> {
        let mut topics = self.metadata.topics_version();
        loop {
            let missing = match self.topic(resource) {
                Ok(topic) => return Ok(topic),
                Err(missing) => missing,
            };
            if self.auto_topics.is_none() || !self.may_come(resource) {
                return Err(missing);
            }
            let has_changed = tokio::select! {
                changed = topics.changed() => changed.is_ok(),
                () = tokio::time::sleep_until(until) => false,
                () = self.shutdown.requested() => false,
            };
            if !has_changed {
                let text = "no new message; the topic does not exist yet and comes with its first message";
                return Err(Refusal::new(Code::MessageNotFound, text));
            }
        }
    }

    /// Whether a topic that this broker does not have may be created here: other topics were created on purpose.
    fn may_come(&self, resource: Option<&v2::Resource>) -> bool {
        let is_free = resource.is_some_and(|resource| may_be_auto_created(&resource.name));
        let name = stored_topic(resource).ok();
        is_free && name.is_some_and(|name| self.routes.topic(&name).is_none_or(|route| route.auto_created))
    }
}
