//! The answer to a client's settings, pure: the client's values, corrected by the server's decisions.
//!
//! Each SDK breaks on something else here, so every field is set on purpose.

use std::time::Duration;

use kerolox_model::limits::{
    CLIENT_PROPERTIES_BYTES_MAX, CLIENT_PROPERTIES_MAX, CLIENT_PROPERTY_KEY_MAX, CLIENT_PROPERTY_VALUE_MAX,
    FILTER_BYTES_MAX, RECEIVE_BATCH_MAX, SETTINGS_BYTES_MAX, SETTINGS_TOPICS_MAX,
};
use kerolox_model::names::{in_namespace, validate_group, validate_topic};
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::{self, Code, Language, retry_policy::Strategy};
use prost::Message as _;

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
/// BAD_REQUEST when the client is neither producer nor consumer, or says too much, ILLEGAL_TOPIC, ILLEGAL_CONSUMER_GROUP,
/// ILLEGAL_FILTER_EXPRESSION, INVALID_CLIENT_PROPERTIES.
pub fn answer_settings(client: &v2::Settings, policy: &dyn SettingsPolicy) -> Result<v2::Settings, Refusal> {
    check_size(client)?;
    check_properties(client)?;
    let language = language(client);
    let mut answer = client.clone();
    answer.metric = Some(v2::Metric { on: false, endpoints: None });
    match &mut answer.pub_sub {
        Some(PubSub::Publishing(publishing)) => {
            complete_publishing(publishing, policy)?;
            answer.backoff_policy = Some(producer_retry());
        }
        Some(PubSub::Subscription(subscription)) => {
            let group = complete_subscription(subscription, client.client_type(), policy)?;
            answer.backoff_policy = Some(consumer_retry(&group, subscription.fifo(), language));
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

/// The stored name of the group of a consumer with these settings.
pub(super) fn consumer_group(settings: &v2::Settings) -> Option<String> {
    match &settings.pub_sub {
        Some(PubSub::Subscription(subscription)) => subscription.group.as_ref().map(stored_name),
        _ => None,
    }
}

fn stored_name(resource: &v2::Resource) -> String {
    in_namespace(&resource.resource_namespace, &resource.name)
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
            check_length(filter)?;
            policy.check_filter(filter)?;
        }
    }
    let group = subscription.group.as_ref().ok_or_else(|| {
        Refusal::new(Code::IllegalConsumerGroup, "the subscription names no consumer group; set its `group`")
    })?;
    validate_group(&group.name).map_err(|error| Refusal::illegal_group(&error))?;
    let group = policy.group(&stored_name(group)).unwrap_or_default();
    // Lite topics are ordered in every group; without this some SDKs consume a batch of one in parallel.
    subscription.fifo = Some(group.fifo || is_lite(client_type));
    subscription.receive_batch_size = i32::try_from(RECEIVE_BATCH_MAX).ok();
    subscription.long_polling_timeout = Some(to_proto(LONG_POLLING));
    subscription.lite_subscription_quota = i32::try_from(group.lite_quota).ok();
    subscription.max_lite_topic_size = Some(LITE_TOPIC_LENGTH_MAX);
    Ok(group)
}

/// Settings are kept while the client lives, and what consumers subscribe to is told to all brokers.
fn check_size(client: &v2::Settings) -> Result<(), Refusal> {
    let (topics, what) = match &client.pub_sub {
        Some(PubSub::Publishing(publishing)) => (publishing.topics.len(), "topics to publish to"),
        Some(PubSub::Subscription(subscription)) => (subscription.subscriptions.len(), "subscriptions"),
        None => (0, ""),
    };
    if topics > SETTINGS_TOPICS_MAX {
        return Err(Refusal::new(
            Code::BadRequest,
            format!(
                "{topics} {what}, the limit is {SETTINGS_TOPICS_MAX} for one client; use several clients"
            ),
        ));
    }
    let bytes = client.encoded_len();
    if bytes > SETTINGS_BYTES_MAX {
        return Err(Refusal::new(
            Code::BadRequest,
            format!(
                "the settings have {bytes} bytes, the limit is {SETTINGS_BYTES_MAX}; name fewer topics, or shorten the filters"
            ),
        ));
    }
    Ok(())
}

fn check_length(filter: &v2::FilterExpression) -> Result<(), Refusal> {
    let len = filter.expression.len();
    if len <= FILTER_BYTES_MAX {
        return Ok(());
    }
    Err(Refusal::new(
        Code::IllegalFilterExpression,
        format!("the filter expression has {len} bytes, the limit is {FILTER_BYTES_MAX}; shorten it"),
    ))
}

/// The server keeps a client's settings while it lives, and shows them to administrators.
fn check_properties(client: &v2::Settings) -> Result<(), Refusal> {
    let refusal = |reason: String| {
        let advice = "leave out client_properties, or shorten them";
        Err(Refusal::new(Code::InvalidClientProperties, format!("{reason}; {advice}")))
    };
    let properties = &client.client_properties;
    if properties.len() > CLIENT_PROPERTIES_MAX {
        return refusal(format!(
            "{} client properties, the limit is {CLIENT_PROPERTIES_MAX}",
            properties.len()
        ));
    }
    for (key, value) in properties {
        if key.trim().is_empty() || key.len() > CLIENT_PROPERTY_KEY_MAX {
            let len = key.len();
            return refusal(format!(
                "the key of a client property has {len} bytes or is blank, the limit is {CLIENT_PROPERTY_KEY_MAX}"
            ));
        }
        if value.len() > CLIENT_PROPERTY_VALUE_MAX {
            let len = value.len();
            return refusal(format!(
                "the client property {key:?} has {len} bytes, the limit is {CLIENT_PROPERTY_VALUE_MAX}"
            ));
        }
    }
    let bytes: usize = properties.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > CLIENT_PROPERTIES_BYTES_MAX {
        return refusal(format!(
            "the client properties have {bytes} bytes together, the limit is {CLIENT_PROPERTIES_BYTES_MAX}"
        ));
    }
    Ok(())
}

fn language(client: &v2::Settings) -> Language {
    client.user_agent.as_ref().map_or(Language::Unspecified, v2::Ua::language)
}

/// Says in the settings in which language the client is written, as its headers have it, if they do not say so themselves: C#
/// names it in the headers only.
pub(super) fn complete_language(settings: &mut v2::Settings, header: Language) {
    if language(settings) == Language::Unspecified && header != Language::Unspecified {
        settings.user_agent.get_or_insert_default().set_language(header);
    }
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

/// Node.js understands exponential strategies only, Python lists only, and C++ ignores the exponential ones of consumers. The others
/// take either, and a list is exact.
fn consumer_retry(group: &GroupPolicy, is_ordered: bool, language: Language) -> v2::RetryPolicy {
    let retries = group.max_attempts.saturating_sub(1);
    let backoff = group.backoff.clone().unwrap_or_else(|| Backoff::by_default(is_ordered));
    let strategy = match language {
        Language::NodeJs => Strategy::ExponentialBackoff(to_exponential(&backoff, retries)),
        _ => Strategy::CustomizedBackoff(to_customized(&backoff, retries)),
    };
    let max_attempts = i32::try_from(group.max_attempts).unwrap_or(i32::MAX);
    v2::RetryPolicy { max_attempts, strategy: Some(strategy) }
}
