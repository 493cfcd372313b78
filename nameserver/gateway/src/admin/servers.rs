//! The other servers of the cluster, as far as administration needs them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox as pb;
use kerolox_proto::kerolox::broker_admin_client::BrokerAdminClient;
use kerolox_proto::kerolox::server_client::ServerClient;
use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::{self, Code};
use prost::Message;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::clients::ClientSessions;
use crate::refusal::Refusal;
use crate::relay::Channels;
use crate::routes::ClusterRoutes;
use kerolox_model::limits::GRPC_DECODE_BYTES_MAX;

/// How long one server may take for an answer, besides deliberate waits.
const CALL_TIMEOUT: Duration = Duration::from_secs(5);

/// A client, wherever it is connected.
#[derive(Debug, Clone)]
pub(super) struct Connected {
    pub(super) client_id: String,
    pub(super) settings: v2::Settings,
    pub(super) address: String,
    pub(super) silent: Duration,
    pub(super) is_reachable: bool,
}

impl Connected {
    fn from_wire(client: &pb::ConnectedClient) -> Self {
        Self {
            client_id: client.client_id.clone(),
            settings: v2::Settings::decode(client.settings.as_slice()).unwrap_or_default(),
            address: client.address.clone(),
            silent: Duration::from_millis(client.silent_ms),
            is_reachable: client.reachable,
        }
    }

    /// Its subscriptions, if it is a consumer.
    pub(super) fn subscription(&self) -> Option<&v2::Subscription> {
        match &self.settings.pub_sub {
            Some(PubSub::Subscription(subscription)) => Some(subscription),
            _ => None,
        }
    }
}

/// A master.
#[derive(Debug, Clone)]
pub(super) struct Master {
    pub(super) broker: String,
    channel: Channel,
}

impl Master {
    fn admin(&self) -> BrokerAdminClient<Channel> {
        BrokerAdminClient::new(self.channel.clone())
            .max_decoding_message_size(GRPC_DECODE_BYTES_MAX)
            .max_encoding_message_size(GRPC_DECODE_BYTES_MAX)
    }
}

/// The servers of the cluster, to be asked one by one or together.
pub(super) struct Servers {
    pub(super) routes: Arc<ClusterRoutes>,
    clients: Arc<ClientSessions>,
    nameservers: Vec<(String, Channel)>,
    channels: Channels,
}

impl Servers {
    pub(super) fn new(
        routes: Arc<ClusterRoutes>,
        clients: Arc<ClientSessions>,
        nameservers: Vec<(String, Channel)>,
    ) -> Self {
        Self { routes, clients, nameservers, channels: Channels::default() }
    }

    /// All masters, or those that have a topic.
    ///
    /// # Errors
    /// TOPIC_NOT_FOUND; INTERNAL_SERVER_ERROR when there is no master at all.
    pub(super) fn masters(&self, topic: Option<&str>) -> Result<Vec<Master>, Refusal> {
        let snapshot = self.routes.believed();
        let wanted = |broker: &&pb::RegisteredBroker| {
            let is_master = broker.broker.as_ref().is_some_and(|info| info.role() == pb::BrokerRole::Master);
            is_master && topic.is_none_or(|topic| broker.topics.iter().any(|known| known.name == topic))
        };
        let groups = snapshot.brokers.iter().filter(wanted).filter_map(|broker| broker.broker.as_ref());
        let masters = groups.filter_map(|info| {
            let address = self.routes.master(&info.group)?.address;
            let channel = self.channels.channel(&address, &self.routes).ok()?;
            Some(Master { broker: info.group.clone(), channel })
        });
        let masters: Vec<Master> = masters.collect();
        match (masters.is_empty(), topic) {
            (false, _) => Ok(masters),
            (true, Some(topic)) => Err(Refusal::topic_not_found(topic)),
            (true, None) => Err(Refusal::new(
                Code::InternalServerError,
                "no master broker is registered; see mqadmin clusterList",
            )),
        }
    }

    /// Asks masters at the same time; what each says, with the name of its broker group.
    pub(super) async fn ask_masters<A: Ask>(
        &self,
        masters: &[Master],
        ask: A,
    ) -> Vec<(String, Result<A::Answer, Refusal>)> {
        let asked = masters.iter().map(|master| {
            let (broker, call) = (master.broker.clone(), ask.clone().call(master.admin()));
            async move {
                let outcome = match tokio::time::timeout(CALL_TIMEOUT, call).await {
                    Ok(Ok(answer)) => Ok(answer.into_inner()),
                    Ok(Err(status)) => Err(RpcError::read(&status).map(Refusal::from).unwrap_or_else(|| {
                        Refusal::new(
                            Code::InternalServerError,
                            format!("broker {broker} does not answer: {}", status.message()),
                        )
                    })),
                    Err(_) => Err(Refusal::new(
                        Code::ProxyTimeout,
                        format!("broker {broker} did not answer within {CALL_TIMEOUT:?}"),
                    )),
                };
                (broker, outcome)
            }
        });
        join_all(asked).await
    }

    /// All clients of all servers, each once; servers that do not answer are left out.
    pub(super) async fn clients(&self, only: Option<&str>) -> Vec<Connected> {
        let request = pb::ListClientsRequest { client_id: only.unwrap_or_default().to_owned() };
        let others = self.others().into_iter().map(|channel| {
            let mut server = ServerClient::new(channel).max_decoding_message_size(GRPC_DECODE_BYTES_MAX);
            let request = request.clone();
            async move {
                let call = server.list_clients(request);
                let answer = tokio::time::timeout(CALL_TIMEOUT, call).await.ok()?.ok()?;
                Some(answer.into_inner().clients)
            }
        });
        let others = join_all(others).await.into_iter().flatten().flatten();
        let own = self.clients.views(only).into_iter().map(|view| pb::ConnectedClient {
            settings: view.settings.map(|settings| settings.encode_to_vec()).unwrap_or_default(),
            client_id: view.client_id,
            address: view.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            silent_ms: u64::try_from(view.silent.as_millis()).unwrap_or(u64::MAX),
            reachable: view.is_reachable,
            ..Default::default()
        });
        let mut by_id: HashMap<String, Connected> = HashMap::new();
        for client in own.chain(others) {
            let client = Connected::from_wire(&client);
            let known = by_id.get(&client.client_id);
            // A server that has a stream of it, or that heard of it last, knows best.
            let is_better = known.is_none_or(|known| {
                (client.is_reachable, known.silent) > (known.is_reachable, client.silent)
                    && client.settings.pub_sub.is_some() >= known.settings.pub_sub.is_some()
            });
            if is_better {
                by_id.insert(client.client_id.clone(), client);
            }
        }
        let mut clients: Vec<Connected> = by_id.into_values().collect();
        clients.sort_by(|a, b| a.client_id.cmp(&b.client_id));
        clients
    }

    /// Puts a command to a client, wherever it is connected, and waits for its reply.
    ///
    /// # Errors
    /// NOT_FOUND when no server has a stream of it, PROXY_TIMEOUT when it does not reply.
    pub(super) async fn ask(
        &self,
        client_id: &str,
        command: v2::TelemetryCommand,
        nonce: &str,
    ) -> Result<v2::TelemetryCommand, Refusal> {
        let silent = || {
            let text = format!("client {client_id} did not reply; its SDK may not know the command");
            Refusal::new(Code::ProxyTimeout, text)
        };
        if let Some(reply) = self.clients.ask(client_id, command.clone(), nonce, CALL_TIMEOUT).await {
            return reply.ok_or_else(silent);
        }
        let request = pb::AskClientRequest {
            client_id: client_id.to_owned(),
            command: command.encode_to_vec(),
            nonce: nonce.to_owned(),
            wait_ms: u32::try_from(CALL_TIMEOUT.as_millis()).unwrap_or(u32::MAX),
        };
        for channel in self.others() {
            let call = async { ServerClient::new(channel).ask_client(request.clone()).await };
            let answer = tokio::time::timeout(CALL_TIMEOUT * 2, call).await;
            let Ok(Ok(answer)) = answer.map(|answer| answer.map(Response::into_inner)) else { continue };
            if answer.taken {
                let reply =
                    answer.reply.and_then(|reply| v2::TelemetryCommand::decode(reply.as_slice()).ok());
                return reply.ok_or_else(silent);
            }
        }
        Err(Refusal::new(
            Code::NotFound,
            format!("client {client_id} is not connected; see mqadmin client list"),
        ))
    }

    /// Connections, producers and consumers of this server.
    pub(super) fn count_own_clients(&self) -> (i64, i64, i64) {
        let views = self.clients.views(None);
        let of = |wanted: fn(&PubSub) -> bool| {
            let settings = views.iter().filter_map(|view| view.settings.as_ref()?.pub_sub.clone());
            settings.filter(wanted).count()
        };
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let open = views.iter().filter(|view| view.is_reachable).count();
        (
            number(open),
            number(of(|pub_sub| matches!(pub_sub, PubSub::Publishing(_)))),
            number(of(|pub_sub| matches!(pub_sub, PubSub::Subscription(_)))),
        )
    }

    /// Every other server that is known. A broker is among its own neighbours, which does no harm.
    fn others(&self) -> Vec<Channel> {
        let brokers = self.routes.addresses().into_iter();
        let brokers = brokers.filter_map(|address| self.channels.channel(&address, &self.routes).ok());
        self.nameservers.iter().map(|(_, channel)| channel.clone()).chain(brokers).collect()
    }
}

/// A question to a master.
pub(super) trait Ask: Clone + Send {
    type Answer: Send;

    /// Asks it.
    fn call(
        self,
        admin: BrokerAdminClient<Channel>,
    ) -> impl Future<Output = Result<Response<Self::Answer>, Status>> + Send;
}

macro_rules! asks {
    ($($request:ident $answer:ident $method:ident,)*) => {$(
        impl Ask for pb::$request {
            type Answer = pb::$answer;

            async fn call(self, mut admin: BrokerAdminClient<Channel>) -> Result<Response<Self::Answer>, Status> {
                admin.$method(self).await
            }
        }
    )*};
}

asks!(
    DeleteGroupRequest DeleteGroupResponse delete_group,
    DescribeGroupRequest DescribeGroupResponse describe_group,
    DescribeTopicRequest DescribeTopicResponse describe_topic,
    ListGroupsRequest ListGroupsResponse list_groups,
    ListLitesRequest ListLitesResponse list_lites,
    QueryMessagesRequest QueryMessagesResponse query_messages,
    ResetOffsetsRequest ResetOffsetsResponse reset_offsets,
);

/// What masters answered, but for those that know nothing of it.
///
/// # Errors
/// What a master says that has another reason to refuse, and that of the first one when none knows of it.
pub(super) fn known<T>(answers: Vec<(String, Result<T, Refusal>)>) -> Result<Vec<(String, T)>, Refusal> {
    let (mut known, mut missing) = (Vec::new(), None);
    for (broker, answer) in answers {
        match answer {
            Ok(answer) => known.push((broker, answer)),
            Err(refusal) if refusal.code == Code::NotFound => {
                missing.get_or_insert(refusal);
            }
            Err(refusal) => return Err(refusal),
        }
    }
    match missing {
        Some(missing) if known.is_empty() => Err(missing),
        _ => Ok(known),
    }
}
