//! The answer to a client's settings, pure: what the client said, corrected by what the server decides.
//!
//! Each SDK breaks on something else here, so every field is set on purpose.

use std::time::Duration;

use kerolox_model::limits::RECEIVE_BATCH_MAX;
use kerolox_model::names::{in_namespace, validate_group, validate_topic};
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::{self, Code, Language, retry_policy::Strategy};

use super::Backoff;
use super::policy::{GroupPolicy, SettingsPolicy, to_customized, to_exponential, to_proto};
use crate::refusal::Refusal;

/// How long consumers are to wait for messages in one ReceiveMessage.
const LONG_POLLING: Duration = Duration::from_secs(20);
/// Send attempts of a producer, the first one included.
const PRODUCER_ATTEMPTS: i32 = 3;
const LITE_TOPIC_LENGTH_MAX: i32 = 64;

/// Checks a client's settings and gives those that it is to use.
///
/// # Errors
/// BAD_REQUEST when the client is neither producer nor consumer, ILLEGAL_TOPIC, ILLEGAL_CONSUMER_GROUP,
/// ILLEGAL_FILTER_EXPRESSION.
pub fn answer_settings(client: &v2::Settings, policy: &dyn SettingsPolicy) -> Result<v2::Settings, Refusal> {
    let language = client.user_agent.as_ref().map_or(Language::Unspecified, v2::Ua::language);
    let mut answer = client.clone();
    answer.metric = Some(v2::Metric { on: false, endpoints: None });
    match &mut answer.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            complete_publishing(publishing, policy)?;
            answer.backoff_policy = Some(producer_retry());
        }
        Some(PubSub::Subscription(subscription)) => {
            let group = complete_subscription(subscription, client.client_type(), policy)?;
            answer.backoff_policy = Some(consumer_retry(&group, language));
        }
        None => {
            return Err(Refusal::new(
                Code::BadRequest,
                "the settings say neither what the client publishes nor what it subscribes to; fill in `publishing` \
                 or `subscription`",
            ));
        }
    }
    Ok(answer)
}

fn complete_publishing(publishing: &mut v2::Publishing, policy: &dyn SettingsPolicy) -> Result<(), Refusal> {
    for topic in &publishing.topics {
        check_topic(topic)?;
    }
    publishing.max_body_size = i32::try_from(policy.max_body_bytes()).unwrap_or(i32::MAX);
    publishing.validate_message_type = true;
    Ok(())
}

fn complete_subscription(
    subscription: &mut v2::Subscription,
    client_type: v2::ClientType,
    policy: &dyn SettingsPolicy,
) -> Result<GroupPolicy, Refusal> {
    for entry in &subscription.subscriptions {
        let topic = entry.topic.as_ref();
        let nameless = || Refusal::new(Code::IllegalTopic, "a subscription names no topic; set its `topic`");
        check_topic(topic.ok_or_else(nameless)?)?;
        if let Some(filter) = &entry.expression {
            policy.check_filter(filter)?;
        }
    }
    let group = subscription.group.as_ref().ok_or_else(|| {
        Refusal::new(Code::IllegalConsumerGroup, "the subscription names no consumer group; set its `group`")
    })?;
    validate_group(&group.name).map_err(|error| Refusal::illegal_group(&error))?;
    let group = policy.group(&in_namespace(&group.resource_namespace, &group.name));
    // Lite topics are ordered in every group; without this some SDKs consume a batch of one in parallel.
    subscription.fifo = Some(group.fifo || is_lite(client_type));
    subscription.receive_batch_size = i32::try_from(RECEIVE_BATCH_MAX).ok();
    subscription.long_polling_timeout = Some(to_proto(LONG_POLLING));
    subscription.lite_subscription_quota = i32::try_from(group.lite_quota).ok();
    subscription.max_lite_topic_size = Some(LITE_TOPIC_LENGTH_MAX);
    Ok(group)
}

fn is_lite(client_type: v2::ClientType) -> bool {
    matches!(client_type, v2::ClientType::LitePushConsumer | v2::ClientType::LiteSimpleConsumer)
}

fn check_topic(topic: &v2::Resource) -> Result<(), Refusal> {
    validate_topic(&topic.name).map_err(|error| Refusal::illegal_topic(&error))
}

/// Producers of most SDKs accept nothing but an exponential strategy.
fn producer_retry() -> v2::RetryPolicy {
    let backoff = Backoff::Exponential {
        initial: Duration::from_millis(10),
        max: Duration::from_secs(1),
        multiplier: 2.0,
    };
    let strategy = Strategy::ExponentialBackoff(to_exponential(&backoff, 1));
    v2::RetryPolicy { max_attempts: PRODUCER_ATTEMPTS, strategy: Some(strategy) }
}

/// Python understands lists only, Node.js exponential strategies only; the others take either.
fn consumer_retry(group: &GroupPolicy, language: Language) -> v2::RetryPolicy {
    let retries = group.max_attempts.saturating_sub(1);
    let strategy = match language {
        Language::Python => Strategy::CustomizedBackoff(to_customized(&group.backoff, retries)),
        _ => Strategy::ExponentialBackoff(to_exponential(&group.backoff, retries)),
    };
    let max_attempts = i32::try_from(group.max_attempts).unwrap_or(i32::MAX);
    v2::RetryPolicy { max_attempts, strategy: Some(strategy) }
}
