//! Connected clients, and their answers to questions.

use std::collections::HashMap;

use kerolox_model::names::in_namespace;
use kerolox_proto::kerolox as pb;
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, ClientType, Code, Language, MessageModel};
use uuid::Uuid;

use super::messages;
use super::servers::{Connected, Servers, known};
use super::{stored, stored_if_any};
use crate::refusal::{Refusal, ok_status};

/// How the group of a client shares messages.
pub(super) fn model(settings: &v2::Settings) -> MessageModel {
    match settings.client_type() {
        ClientType::LitePushConsumer | ClientType::LiteSimpleConsumer => MessageModel::LiteSelective,
        _ => MessageModel::Clustering,
    }
}

pub(super) fn client_info(client: &Connected) -> v2::ClientInfo {
    let agent = client.settings.user_agent.clone().unwrap_or_default();
    let language = Language::try_from(agent.language).unwrap_or_default();
    v2::ClientInfo {
        client_id: client.client_id.clone(),
        version: agent.version,
        language: language.as_str_name().to_owned(),
        hostname: agent.hostname,
        egress_ip: client.address.rsplit_once(':').map_or("", |(host, _)| host).to_owned(),
        message_model: model(&client.settings).into(),
    }
}

/// Whether a client consumes as this group, and from this topic if one is named.
fn consumes(client: &Connected, group: &str, topic: Option<&str>) -> bool {
    let name = |resource: Option<&v2::Resource>| {
        resource.map(|it| in_namespace(&it.resource_namespace, &it.name)).unwrap_or_default()
    };
    client.subscription().is_some_and(|subscription| {
        let mut topics = subscription.subscriptions.iter().map(|entry| name(entry.topic.as_ref()));
        name(subscription.group.as_ref()) == group
            && topic.is_none_or(|topic| topics.any(|known| known == topic))
    })
}

/// ListConsumerConnection.
pub(super) async fn list(
    servers: &Servers,
    request: &v2::ListConsumerConnectionRequest,
) -> Result<v2::ListConsumerConnectionResponse, Refusal> {
    let group = stored(request.group.as_ref(), "group")?;
    let topic = stored_if_any(request.topic.as_ref());
    let clients = servers.clients(None).await;
    let fit = clients.iter().filter(|client| consumes(client, &group, topic.as_deref()));
    Ok(v2::ListConsumerConnectionResponse {
        status: Some(ok_status()),
        client_info: fit.map(client_info).collect(),
    })
}

/// PrintThreadStackTrace.
pub(super) async fn stack_trace(
    servers: &Servers,
    request: &v2::PrintThreadStackTraceRequest,
) -> Result<v2::PrintThreadStackTraceResponse, Refusal> {
    let nonce = Uuid::new_v4().to_string();
    let command = v2::PrintThreadStackTraceCommand { nonce: nonce.clone() };
    let command = to_client(Command::PrintThreadStackTraceCommand(command));
    let reply = servers.ask(&request.client_id, command, &nonce).await?;
    let thread_stack_trace = match reply.command {
        Some(Command::ThreadStackTrace(trace)) => trace.thread_stack_trace,
        _ => None,
    };
    Ok(v2::PrintThreadStackTraceResponse {
        status: Some(reply.status.unwrap_or_else(ok_status)),
        thread_stack_trace,
    })
}

/// VerifyMessage: the status is the listener's verdict on the message.
pub(super) async fn verify(
    servers: &Servers,
    request: &v2::VerifyMessageRequest,
) -> Result<v2::VerifyMessageResponse, Refusal> {
    let topic = stored(request.topic.as_ref(), "topic")?;
    let message = messages::by_id(servers, &topic, &request.message_id).await?;
    let nonce = Uuid::new_v4().to_string();
    let command = v2::VerifyMessageCommand { nonce: nonce.clone(), message: Some(message) };
    let command = to_client(Command::VerifyMessageCommand(command));
    let reply = servers.ask(&request.client_id, command, &nonce).await?;
    Ok(v2::VerifyMessageResponse { status: Some(reply.status.unwrap_or_else(ok_status)) })
}

fn to_client(command: Command) -> v2::TelemetryCommand {
    v2::TelemetryCommand { status: Some(ok_status()), command: Some(command) }
}

/// GetConsumerRunningInfo: what the servers know of a consumer. SDKs have no command that asks for more, so the queues are those of
/// its group, and there are no rates.
pub(super) async fn running_info(
    servers: &Servers,
    request: &v2::GetConsumerRunningInfoRequest,
) -> Result<v2::GetConsumerRunningInfoResponse, Refusal> {
    let group = stored(request.group.as_ref(), "group")?;
    let clients = servers.clients(Some(&request.client_id)).await;
    let client = clients.first().filter(|client| consumes(client, &group, None)).ok_or_else(|| {
        let text =
            format!("no client {} of group {group} is connected; see mqadmin client list", request.client_id);
        Refusal::new(Code::NotFound, text)
    })?;
    let entries = client.subscription().map(|subscription| subscription.subscriptions.as_slice());
    let subscriptions: HashMap<String, v2::FilterExpression> = entries
        .unwrap_or_default()
        .iter()
        .filter_map(|entry| {
            Some((stored_if_any(entry.topic.as_ref())?, entry.expression.clone().unwrap_or_default()))
        })
        .collect();
    let masters = servers.masters(None)?;
    let ask = pb::DescribeGroupRequest { name: group, topic: String::new() };
    let answers = servers.ask_masters(&masters, ask.clone()).await;
    let mut queues = Vec::new();
    for (broker, answer) in known(answers).unwrap_or_default() {
        queues.extend(answer.queues.iter().map(|status| queue_item(&broker, status)));
    }
    let info = client_info(client);
    let properties = HashMap::from([
        ("clientType".to_owned(), client.settings.client_type().as_str_name().to_owned()),
        ("language".to_owned(), info.language),
        ("version".to_owned(), info.version),
        ("hostname".to_owned(), info.hostname),
        ("address".to_owned(), client.address.clone()),
    ]);
    let consumer_running_info = v2::ConsumerRunningInfo {
        properties,
        subscriptions,
        message_queue_table: queues,
        consume_status_table: HashMap::new(),
    };
    Ok(v2::GetConsumerRunningInfoResponse {
        status: Some(ok_status()),
        consumer_running_info: Some(consumer_running_info),
    })
}

fn queue_item(broker: &str, status: &pb::GroupQueueStatus) -> v2::MessageQueueItem {
    v2::MessageQueueItem {
        message_queue: Some(v2::MessageQueue {
            topic: Some(v2::Resource { name: status.topic.clone(), ..Default::default() }),
            id: i32::try_from(status.queue).unwrap_or(i32::MAX),
            broker: Some(v2::Broker { name: broker.to_owned(), ..Default::default() }),
            ..Default::default()
        }),
        process_queue_info: Some(v2::ProcessQueueInfo {
            commit_offset: i64::try_from(status.consumer_offset).unwrap_or(i64::MAX),
            cached_msg_count: i32::try_from(status.in_flight).unwrap_or(i32::MAX),
            ..Default::default()
        }),
    }
}
