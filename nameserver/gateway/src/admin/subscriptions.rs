//! Which groups listen to which topics.

use std::collections::BTreeMap;
use std::time::SystemTime;

use kerolox_model::names::in_namespace;
use kerolox_proto::kerolox as pb;
use kerolox_proto::v2::{self, Code, MessageModel};

use super::clients::{client_info, model};
use super::servers::{Connected, Servers, known};
use super::{stored, stored_if_any};
use crate::refusal::{Refusal, ok_status};

/// The subject of a query: a topic, a group, or both.
struct Wanted {
    topic: Option<String>,
    group: Option<String>,
}

impl Wanted {
    fn new(topic: Option<&v2::Resource>, group: Option<&v2::Resource>) -> Result<Self, Refusal> {
        let wanted = Self { topic: stored_if_any(topic), group: stored_if_any(group) };
        if wanted.topic.is_none() && wanted.group.is_none() {
            let text = "the request names neither topic nor group; name at least one of them";
            return Err(Refusal::new(Code::BadRequest, text));
        }
        Ok(wanted)
    }

    fn fits(&self, topic: &str, group: &str) -> bool {
        self.topic.as_deref().is_none_or(|wanted| wanted == topic)
            && self.group.as_deref().is_none_or(|wanted| wanted == group)
    }
}

/// One client's subscription to one topic.
struct Held<'a> {
    client: &'a Connected,
    group: String,
    topic: String,
    entry: &'a v2::SubscriptionEntry,
}

fn held<'a>(clients: &'a [Connected], wanted: &Wanted) -> Vec<Held<'a>> {
    let name = |resource: Option<&v2::Resource>| {
        resource.map(|it| in_namespace(&it.resource_namespace, &it.name)).unwrap_or_default()
    };
    let mut found = Vec::new();
    for client in clients {
        let Some(subscription) = client.subscription() else { continue };
        let group = name(subscription.group.as_ref());
        for entry in &subscription.subscriptions {
            let topic = name(entry.topic.as_ref());
            if wanted.fits(&topic, &group) {
                found.push(Held { client, group: group.clone(), topic, entry });
            }
        }
    }
    found
}

fn info(held: &Held<'_>, is_consistent: bool) -> v2::SubscriptionInfo {
    let seen = SystemTime::now().checked_sub(held.client.silent);
    v2::SubscriptionInfo {
        group: held.client.subscription().and_then(|subscription| subscription.group.clone()),
        topic: held.entry.topic.clone(),
        expression: held.entry.expression.clone(),
        online: true,
        last_update_timestamp: seen.map(prost_types::Timestamp::from),
        message_model: model(&held.client.settings).into(),
        subscription_consistency: is_consistent,
    }
}

/// Whether all clients of a group use one filter for a topic.
fn is_consistent(held: &Held<'_>, all: &[Held<'_>]) -> bool {
    let same = |other: &&Held<'_>| (&other.group, &other.topic) == (&held.group, &held.topic);
    all.iter().filter(same).all(|other| other.entry.expression == held.entry.expression)
}

/// ListSubscription: what connected clients ask for, and what groups without any have consumed before.
pub(super) async fn list(
    servers: &Servers,
    request: &v2::ListSubscriptionRequest,
) -> Result<v2::ListSubscriptionResponse, Refusal> {
    let wanted = Wanted::new(request.topic.as_ref(), request.group.as_ref())?;
    let clients = servers.clients(None).await;
    let online = held(&clients, &wanted);
    let mut found: BTreeMap<(String, String), v2::SubscriptionInfo> = BTreeMap::new();
    for each in &online {
        found
            .entry((each.group.clone(), each.topic.clone()))
            .or_insert_with(|| info(each, is_consistent(each, &online)));
    }
    for (group, topic) in consumed(servers, &wanted).await? {
        found.entry((group.clone(), topic.clone())).or_insert_with(|| v2::SubscriptionInfo {
            group: Some(v2::Resource { name: group, ..Default::default() }),
            topic: Some(v2::Resource { name: topic, ..Default::default() }),
            online: false,
            message_model: MessageModel::Clustering.into(),
            subscription_consistency: true,
            ..Default::default()
        });
    }
    Ok(v2::ListSubscriptionResponse {
        status: Some(ok_status()),
        subscription_info: found.into_values().collect(),
    })
}

/// Group and topic wherever a group has progress.
async fn consumed(servers: &Servers, wanted: &Wanted) -> Result<Vec<(String, String)>, Refusal> {
    let masters = servers.masters(None)?;
    let groups = match &wanted.group {
        Some(group) => vec![group.clone()],
        None => groups(servers).await?,
    };
    let mut found = Vec::new();
    for group in groups {
        let topic = wanted.topic.clone().unwrap_or_default();
        let ask = pb::DescribeGroupRequest { name: group.clone(), topic };
        let answers = servers.ask_masters(&masters, ask.clone()).await;
        for (_, answer) in known(answers).unwrap_or_default() {
            found.extend(answer.queues.into_iter().map(|queue| (group.clone(), queue.topic)));
        }
    }
    found.sort();
    found.dedup();
    Ok(found)
}

/// The names of all groups.
async fn groups(servers: &Servers) -> Result<Vec<String>, Refusal> {
    let masters = servers.masters(None)?;
    let ask = pb::ListGroupsRequest::default();
    let answers = servers.ask_masters(&masters, ask).await;
    let groups = known(answers)?.into_iter().flat_map(|(_, answer)| answer.groups);
    let mut names: Vec<String> = groups.map(|group| group.name).collect();
    names.sort();
    names.dedup();
    Ok(names)
}

/// DescribeSubscription.
pub(super) async fn describe(
    servers: &Servers,
    request: &v2::DescribeSubscriptionRequest,
) -> Result<v2::DescribeSubscriptionResponse, Refusal> {
    let wanted = Wanted::new(request.topic.as_ref(), request.group.as_ref())?;
    let clients = servers.clients(None).await;
    let online = held(&clients, &wanted);
    let one = |each: &Held<'_>| v2::describe_subscription_response::ClientSubscriptionInfo {
        client_info: Some(client_info(each.client)),
        subscription_info: Some(info(each, is_consistent(each, &online))),
    };
    Ok(v2::DescribeSubscriptionResponse {
        status: Some(ok_status()),
        client_subscription_info: online.iter().map(one).collect(),
    })
}

/// DeleteSubscription, for a group without connected clients. Clients make subscriptions, so only the remains
/// of such a group can be deleted; they are kept for the group as a whole.
pub(super) async fn delete(
    servers: &Servers,
    request: &v2::DeleteSubscriptionRequest,
) -> Result<v2::DeleteSubscriptionResponse, Refusal> {
    let group = stored(request.group.as_ref(), "group")?;
    let topic = stored(request.topic.as_ref(), "topic")?;
    let whole = Wanted { topic: None, group: Some(group.clone()) };
    let clients = servers.clients(None).await;
    let online = held(&clients, &whole);
    if let Some(each) = online.first() {
        let text = format!("client {} of group {group} is connected; stop it first", each.client.client_id);
        return Err(Refusal::new(Code::PreconditionFailed, text));
    }
    let topics: Vec<String> = consumed(servers, &whole).await?.into_iter().map(|(_, topic)| topic).collect();
    if !topics.contains(&topic) {
        let text = format!("group {group} has no subscription to topic {topic}");
        return Err(Refusal::new(Code::NotFound, text));
    }
    if topics.len() > 1 {
        return Err(Refusal::new(
            Code::PreconditionFailed,
            format!(
                "group {group} has progress in {} topics, which can only be deleted together: mqadmin deleteSubGroup",
                topics.len()
            ),
        ));
    }
    let masters = servers.masters(None)?;
    let ask = pb::DeleteGroupRequest { name: group };
    known(servers.ask_masters(&masters, ask.clone()).await)?;
    Ok(v2::DeleteSubscriptionResponse { status: Some(ok_status()) })
}
