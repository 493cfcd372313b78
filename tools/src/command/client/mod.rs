//! Clients: who is connected where, and what they say when asked.

mod show;
mod verify;

use super::servers;
use crate::target::Common;
use clap::{Args, ValueEnum};
use kerolox_client::Address;
use kerolox_client::admin::wire;
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::{self, ClientType, Language, telemetry_command::Command};
use kerolox_report::outcome::{CommandFailure, Result, combined};
use kerolox_report::output::{CommandReport, short_duration, table};
use prost::Message as _;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(crate) use show::Show;
pub(crate) use verify::{Verify, show_to};

/// The roles of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Producer,
    Consumer,
}

/// Which clients are wanted.
#[derive(Debug, Default)]
struct Wanted {
    kind: Option<Kind>,
    group: Option<String>,
    topic: Option<String>,
    only_at: Option<Address>,
    id: Option<String>,
}

/// List the clients that are connected
#[derive(Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Only producers, or only consumers
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Only consumers of this group
    #[arg(short = 'g', long = "group", aliases = ["consumer-group", "consumerGroup"])]
    group: Option<String>,
    /// Only those that send to or receive from this topic
    #[arg(short = 't', long)]
    topic: Option<String>,
    /// Only those that are connected to this server, HOST:PORT; needs no nameserver
    #[arg(short = 'b', long = "broker-addr", aliases = ["brokerAddr", "broker"], value_name = "ADDR")]
    server: Option<Address>,
}

/// List the connected consumers of a group
#[derive(Debug, Args)]
pub(crate) struct Consumers {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Name of the consumer group
    #[arg(short = 'g', long = "consumer-group", alias = "consumerGroup")]
    group: String,
    /// Only those that are connected to this server, HOST:PORT; needs no nameserver
    #[arg(short = 'b', long = "broker-addr", alias = "brokerAddr", value_name = "ADDR")]
    server: Option<Address>,
}

/// List the connected producers of a topic
#[derive(Debug, Args)]
pub(crate) struct Producers {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Accepted and ignored: producers of RocketMQ 5 have no group
    #[arg(short = 'g', long = "producer-group", alias = "producerGroup")]
    _group: Option<String>,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: Option<String>,
    /// Only those that are connected to this server, HOST:PORT; needs no nameserver
    #[arg(short = 'b', long = "broker", aliases = ["broker-addr", "brokerAddr"], value_name = "ADDR")]
    server: Option<Address>,
}

impl List {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let Self { common, kind, group, topic, server } = self;
        let kind = kind.or(group.as_ref().map(|_| Kind::Consumer));
        list(&common, &Wanted { kind, group, topic, only_at: server, id: None }).await
    }
}

impl Consumers {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let wanted = Wanted {
            kind: Some(Kind::Consumer),
            group: Some(self.group),
            only_at: self.server,
            ..Default::default()
        };
        list(&self.common, &wanted).await
    }
}

impl Producers {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let wanted = Wanted {
            kind: Some(Kind::Producer),
            topic: self.topic,
            only_at: self.server,
            ..Default::default()
        };
        list(&self.common, &wanted).await
    }
}

/// How long a client may take for its reply, in milliseconds. A listener that is shown a message counts, too.
const REPLY_MS: u32 = 2_500;

/// A client, and the servers that know it.
#[derive(Debug, Clone)]
struct Found {
    client_id: String,
    settings: v2::Settings,
    address: String,
    known_ms: u64,
    silent_ms: u64,
    /// Where it has a stream on which it can be reached.
    reachable_at: Vec<Address>,
    servers: Vec<String>,
}

impl Found {
    fn kind(&self) -> Option<Kind> {
        match self.settings.pub_sub {
            Some(PubSub::Publishing(_)) => Some(Kind::Producer),
            Some(PubSub::Subscription(_)) => Some(Kind::Consumer),
            None => None,
        }
    }

    fn group(&self) -> Option<String> {
        match &self.settings.pub_sub {
            Some(PubSub::Subscription(subscription)) => subscription.group.as_ref().map(name),
            _ => None,
        }
    }

    /// Topics with the filter of each, if it is a consumer.
    fn topics(&self) -> Vec<(String, Option<String>)> {
        match &self.settings.pub_sub {
            Some(PubSub::Publishing(publishing)) => {
                publishing.topics.iter().map(|topic| (name(topic), None)).collect()
            }
            Some(PubSub::Subscription(subscription)) => {
                let entries = subscription.subscriptions.iter();
                let filter = |entry: &v2::SubscriptionEntry| {
                    entry.expression.as_ref().map(|filter| filter.expression.clone())
                };
                entries
                    .map(|entry| (entry.topic.as_ref().map(name).unwrap_or_default(), filter(entry)))
                    .collect()
            }
            None => Vec::new(),
        }
    }

    /// Clients without a known role that cannot be reached are tools such as this one.
    fn fits(&self, wanted: &Wanted) -> bool {
        (self.kind().is_some() || !self.reachable_at.is_empty())
            && wanted.kind.is_none_or(|kind| self.kind() == Some(kind))
            && wanted.group.as_ref().is_none_or(|group| self.group().as_ref() == Some(group))
            && wanted.topic.as_ref().is_none_or(|topic| self.topics().iter().any(|(known, _)| known == topic))
    }

    fn type_name(&self) -> &'static str {
        match self.settings.client_type.map(ClientType::try_from) {
            Some(Ok(kind)) => kind.as_str_name(),
            _ => "-",
        }
    }

    fn language(&self) -> String {
        let agent = self.settings.user_agent.clone().unwrap_or_default();
        match Language::try_from(agent.language) {
            Ok(Language::Unspecified) | Err(_) => "-".to_owned(),
            Ok(language) => format!("{} {}", language.as_str_name(), agent.version),
        }
    }

    fn view(&self) -> Value {
        let agent = self.settings.user_agent.clone().unwrap_or_default();
        let topics: Vec<Value> =
            self.topics().iter().map(|(topic, filter)| json!({ "topic": topic, "filter": filter })).collect();
        json!({
            "clientId": self.client_id, "type": self.type_name(), "group": self.group(), "topics": topics,
            "language": Language::try_from(agent.language).unwrap_or_default().as_str_name(), "version": agent.version,
            "hostname": agent.hostname, "address": self.address, "knownMs": self.known_ms, "silentMs": self.silent_ms,
            "reachable": !self.reachable_at.is_empty(), "servers": self.servers,
        })
    }

    fn row(&self) -> Vec<String> {
        let topic = |(topic, filter): &(String, Option<String>)| match filter.as_deref() {
            None | Some("*" | "") => topic.clone(),
            Some(filter) => format!("{topic} [{filter}]"),
        };
        vec![
            self.client_id.clone(),
            self.type_name().to_owned(),
            self.group().unwrap_or_else(|| "-".to_owned()),
            self.topics().iter().map(topic).collect::<Vec<_>>().join(", "),
            self.language(),
            if self.address.is_empty() { "-".to_owned() } else { self.address.clone() },
            short_duration(self.known_ms),
        ]
    }
}

impl Found {
    /// Puts a question to it through the servers that it is connected to; `nonce` is that of the command.
    async fn ask(&self, common: &Common, command: Command, nonce: String) -> Result<v2::TelemetryCommand> {
        let command = v2::TelemetryCommand {
            status: Some(v2::Status { code: v2::Code::Ok.into(), message: "OK".to_owned() }),
            command: Some(command),
        };
        for server in &self.reachable_at {
            let request = wire::AskClientRequest {
                client_id: self.client_id.clone(),
                command: command.encode_to_vec(),
                nonce: nonce.clone(),
                wait_ms: REPLY_MS,
            };
            let answer = common.client_of(server)?.admin().broker(server).ask_client(request).await?;
            if let Some(reply) = answer.reply {
                return v2::TelemetryCommand::decode(reply.as_slice())
                    .map_err(|error| CommandFailure::failed(format!("its reply is malformed: {error}")));
            }
        }
        Err(CommandFailure::failed("it did not reply; its SDK may not know the question"))
    }
}

fn name(resource: &v2::Resource) -> String {
    kerolox_model::names::in_namespace(&resource.resource_namespace, &resource.name)
}

async fn list(common: &Common, wanted: &Wanted) -> Result<CommandReport> {
    let (clients, failed) = find(common, wanted).await?;
    let header = ["ClientId", "Type", "Group", "Topics", "Language", "ClientAddr", "Connected"];
    Ok(CommandReport {
        text: table(&header, clients.iter().map(Found::row)),
        json: json!({ "clients": clients.iter().map(Found::view).collect::<Vec<_>>() }),
        exit: combined(std::iter::once(None).chain(failed.iter().map(Some))),
        warnings: failed,
    })
}

/// The connected consumers of a group, each as `ADDRESS CLIENT_ID`.
pub(crate) async fn of_group(common: &Common, group: &str) -> Result<Vec<String>> {
    let wanted = Wanted { kind: Some(Kind::Consumer), group: Some(group.to_owned()), ..Default::default() };
    let (clients, _) = find(common, &wanted).await?;
    Ok(clients.iter().map(|client| format!("{} {}", client.address, client.client_id)).collect())
}

/// The clients that are wanted, and the servers that did not answer.
async fn find(common: &Common, wanted: &Wanted) -> Result<(Vec<Found>, Vec<CommandFailure>)> {
    let (admin, servers) = match &wanted.only_at {
        Some(address) => {
            let server = servers::Server {
                name: format!("server {address}"),
                address: address.clone(),
                is_broker: false,
            };
            (common.client_of(address)?.admin(), vec![server])
        }
        None => servers::all(common).await?,
    };
    let mut found: BTreeMap<String, Found> = BTreeMap::new();
    let mut failed = Vec::new();
    for server in servers {
        let request = wire::ListClientsRequest { client_id: wanted.id.clone().unwrap_or_default() };
        match admin.broker(&server.address).list_clients(request).await {
            Ok(answer) => {
                for client in &answer.clients {
                    merge(&mut found, &server, client);
                }
            }
            Err(error) => failed.push(CommandFailure::from(error).during(&server.name)),
        }
    }
    Ok((found.into_values().filter(|client| client.fits(wanted)).collect(), failed))
}

fn merge(found: &mut BTreeMap<String, Found>, server: &servers::Server, client: &wire::ConnectedClient) {
    let settings = v2::Settings::decode(client.settings.as_slice()).unwrap_or_default();
    let known = found.entry(client.client_id.clone()).or_insert_with(|| Found {
        client_id: client.client_id.clone(),
        settings: v2::Settings::default(),
        address: String::new(),
        known_ms: client.known_ms,
        silent_ms: client.silent_ms,
        reachable_at: Vec::new(),
        servers: Vec::new(),
    });
    if settings.pub_sub.is_some() {
        known.settings = settings;
    }
    if !client.address.is_empty() {
        known.address.clone_from(&client.address);
    }
    known.known_ms = known.known_ms.max(client.known_ms);
    known.silent_ms = known.silent_ms.min(client.silent_ms);
    known.servers.push(server.name.clone());
    if client.reachable {
        known.reachable_at.push(server.address.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_of_two_servers_is_one() {
        let subscription = v2::Subscription {
            group: Some(v2::Resource { name: "g".into(), ..Default::default() }),
            subscriptions: vec![v2::SubscriptionEntry {
                topic: Some(v2::Resource { name: "t".into(), ..Default::default() }),
                expression: Some(v2::FilterExpression { expression: "a||b".into(), ..Default::default() }),
            }],
            ..Default::default()
        };
        let settings = v2::Settings {
            client_type: Some(ClientType::PushConsumer.into()),
            pub_sub: Some(PubSub::Subscription(subscription)),
            ..Default::default()
        };
        let client = |settings: Vec<u8>, reachable| wire::ConnectedClient {
            client_id: "c".into(),
            settings,
            reachable,
            ..Default::default()
        };
        let server = |port| servers::Server {
            name: format!("s{port}"),
            address: Address::new("h", port),
            is_broker: true,
        };
        let mut found = BTreeMap::new();
        merge(&mut found, &server(1), &client(settings.encode_to_vec(), true));
        merge(&mut found, &server(2), &client(Vec::new(), false));
        let one = &found["c"];
        assert_eq!((found.len(), one.servers.len(), one.reachable_at.len()), (1, 2, 1));
        assert_eq!(one.row()[1..4], ["PUSH_CONSUMER", "g", "t [a||b]"]);
        let wanted = |group: &str| Wanted { group: Some(group.into()), ..Default::default() };
        assert!(one.fits(&wanted("g")) && !one.fits(&wanted("h")));
        assert!(!one.fits(&Wanted { kind: Some(Kind::Producer), ..Default::default() }));
    }
}
