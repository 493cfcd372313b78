//! Clients wherever they are connected: commands for them (checks of half messages for producers, notices for consumers), and what
//! consumers have announced.
//!
//! A producer need not be connected to the broker that holds its half message: the official Rust SDK listens to the server
//! only that it was configured with, and others lose a stream and do not open it again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use kerolox_model::limits::GRPC_DECODE_BYTES_MAX;
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::producers_client::ProducersClient;
use kerolox_proto::kerolox::producers_server::{Producers, ProducersServer};
use kerolox_proto::kerolox::{
    AnnounceRequest, AnnounceResponse, CheckTransactionRequest, CheckTransactionResponse,
    ListAnnouncedRequest, ListAnnouncedResponse, TellRequest, TellResponse,
};
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{RecoverOrphanedTransactionCommand, TelemetryCommand};
use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::clients::{ClientSessions, FilterAnnouncements};
use crate::relay::Channels;
use crate::routes::ClusterRoutes;

/// How long another server may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// Largest list of filters announced at one server, in bytes: some hundred thousand filters.
const ANNOUNCED_BYTES_MAX: usize = 64 << 20;
/// How long a server that did not answer is left alone.
const SILENCE: Duration = Duration::from_secs(5);

impl ClientSessions {
    /// Puts a check to a producer of the topic (stored name) with an open stream at this server, another one if that does
    /// not take it. Returns who took it.
    pub fn check(&self, topic: &str, command: &RecoverOrphanedTransactionCommand) -> Option<String> {
        let command = Command::RecoverOrphanedTransactionCommand(command.clone());
        let command = TelemetryCommand { status: None, command: Some(command) };
        let takes = |producer: &crate::clients::ClientHandle| producer.try_send(command.clone());
        self.producers_of(topic).into_iter().find(takes).map(|producer| producer.client_id)
    }

    /// Puts a command to a client with an open stream at this server; returns whether it took it.
    pub fn tell(&self, client_id: &str, command: TelemetryCommand) -> bool {
        self.reach(client_id).is_some_and(|client| client.try_send(command))
    }
}

/// Lets brokers reach the clients that are connected to this process.
#[derive(Debug)]
pub struct ProducersService {
    clients: Arc<ClientSessions>,
    /// The announcements of a master; `None` on other servers.
    announcements: Option<Arc<FilterAnnouncements>>,
}

impl ProducersService {
    /// The gRPC service over the client sessions of this process. A master keeps what others announce to it in `announcements`.
    pub fn server(
        clients: Arc<ClientSessions>,
        announcements: Option<Arc<FilterAnnouncements>>,
    ) -> ProducersServer<Self> {
        ProducersServer::new(Self { clients, announcements })
            .max_decoding_message_size(GRPC_DECODE_BYTES_MAX)
            .max_encoding_message_size(ANNOUNCED_BYTES_MAX)
    }
}

#[tonic::async_trait]
impl Producers for ProducersService {
    async fn check_transaction(
        &self,
        request: Request<CheckTransactionRequest>,
    ) -> Result<Response<CheckTransactionResponse>, Status> {
        let CheckTransactionRequest { topic, command } = request.into_inner();
        let command = RecoverOrphanedTransactionCommand::decode(command.as_slice())
            .map_err(|error| RpcError::invalid(format!("the command cannot be decoded: {error}")))?;
        Ok(Response::new(CheckTransactionResponse { client_id: self.clients.check(&topic, &command) }))
    }

    async fn tell(&self, request: Request<TellRequest>) -> Result<Response<TellResponse>, Status> {
        let TellRequest { client_id, command } = request.into_inner();
        let command = TelemetryCommand::decode(command.as_slice())
            .map_err(|error| RpcError::invalid(format!("the command cannot be decoded: {error}")))?;
        Ok(Response::new(TellResponse { taken: self.clients.tell(&client_id, command) }))
    }

    async fn announce(
        &self,
        request: Request<AnnounceRequest>,
    ) -> Result<Response<AnnounceResponse>, Status> {
        let AnnounceRequest { incarnation, version, filters } = request.into_inner();
        if let Some(announcements) = &self.announcements {
            announcements.note(&incarnation, version, filters.into_iter().map(Into::into));
        }
        Ok(Response::new(AnnounceResponse { taken: self.announcements.is_some() }))
    }

    async fn list_announced(
        &self,
        request: Request<ListAnnouncedRequest>,
    ) -> Result<Response<ListAnnouncedResponse>, Status> {
        let ListAnnouncedRequest { known_incarnation, known_version } = request.into_inner();
        let incarnation = self.clients.incarnation().to_owned();
        if known_incarnation == incarnation && known_version == self.clients.announced_version() {
            let known = ListAnnouncedResponse {
                incarnation,
                version: known_version,
                unchanged: true,
                filters: Vec::new(),
            };
            return Ok(Response::new(known));
        }
        let (version, filters) = self.clients.announced();
        let filters = filters.into_iter().map(Into::into).collect();
        Ok(Response::new(ListAnnouncedResponse { incarnation, version, unchanged: false, filters }))
    }
}

/// The way of one broker to all clients.
#[derive(Debug)]
pub struct ClientReach {
    group: String,
    clients: Arc<ClientSessions>,
    nameservers: Vec<(String, Channel)>,
    routes: Arc<ClusterRoutes>,
    channels: Channels,
    /// Servers that did not answer, and when.
    silent: Mutex<HashMap<String, Instant>>,
    /// Incarnation and version of the announcements of each server, as last heard.
    announced: Mutex<HashMap<String, (String, u64)>>,
}

impl ClientReach {
    /// For the master of the broker group `group`: its own clients come first, then those of the nameservers, then those of the
    /// other brokers in `routes`, its slaves among them.
    pub fn new(
        group: String,
        clients: Arc<ClientSessions>,
        nameservers: Vec<(String, Channel)>,
        routes: Arc<ClusterRoutes>,
    ) -> Self {
        Self {
            group,
            clients,
            nameservers,
            routes,
            channels: Channels::default(),
            silent: Mutex::default(),
            announced: Mutex::default(),
        }
    }

    /// The clients of this process.
    pub fn clients(&self) -> &ClientSessions {
        &self.clients
    }

    /// Puts a check to some producer of the topic (stored name). Returns the producer that took it; `None`
    /// when none did, as far as can be told now.
    pub async fn check(&self, topic: &str, command: &RecoverOrphanedTransactionCommand) -> Option<String> {
        if let Some(client_id) = self.clients.check(topic, command) {
            return Some(client_id);
        }
        let encoded = command.encode_to_vec();
        for (name, channel) in self.servers() {
            let request = CheckTransactionRequest { topic: topic.to_owned(), command: encoded.clone() };
            let call = async move |mut producers: ProducersClient<Channel>| {
                producers.check_transaction(request).await
            };
            if let Some(client_id) = self.call(&name, channel, call).await.and_then(|answer| answer.client_id)
            {
                return Some(client_id);
            }
        }
        None
    }

    /// Puts a command to a client, wherever it has an open stream; returns whether it took it, as far as can be told now.
    pub async fn tell(&self, client_id: &str, command: TelemetryCommand) -> bool {
        let encoded = command.encode_to_vec();
        if self.clients.tell(client_id, command) {
            return true;
        }
        for (name, channel) in self.servers() {
            let request = TellRequest { client_id: client_id.to_owned(), command: encoded.clone() };
            let call = async move |mut producers: ProducersClient<Channel>| producers.tell(request).await;
            if self.call(&name, channel, call).await.is_some_and(|answer| answer.taken) {
                return true;
            }
        }
        false
    }

    /// Asks the other servers what members of consumer groups have announced there.
    pub async fn gather_announced(&self, announcements: &FilterAnnouncements) {
        let servers = self.servers();
        join_all(
            servers.into_iter().map(|(name, channel)| self.list_announced(name, channel, announcements)),
        )
        .await;
        announcements.expire();
    }

    async fn list_announced(&self, name: String, channel: Channel, announcements: &FilterAnnouncements) {
        let known = || self.announced.lock().expect("nothing panics while it holds this lock");
        let (known_incarnation, known_version) = known().get(&name).cloned().unwrap_or_default();
        let request = ListAnnouncedRequest { known_incarnation, known_version };
        let call =
            async move |mut producers: ProducersClient<Channel>| producers.list_announced(request).await;
        let Some(answer) = self.call(&name, channel, call).await else { return };
        if answer.unchanged {
            if !announcements.confirm(&answer.incarnation) {
                known().remove(&name);
            }
        } else {
            let filters = answer.filters.into_iter().map(Into::into);
            announcements.replace(&answer.incarnation, answer.version, filters);
            known().insert(name, (answer.incarnation, answer.version));
        }
    }

    /// The other servers, but for those that did not answer lately.
    fn servers(&self) -> Vec<(String, Channel)> {
        // Slaves, too: a client that lost its master has its stream with whichever member it found.
        let own = self.routes.master(&self.group).map(|master| master.address);
        let brokers = self.routes.addresses().into_iter().filter(|address| Some(address) != own.as_ref());
        let brokers = brokers.filter_map(|address| {
            let channel = self.channels.channel(&address, &self.routes).ok()?;
            Some((address.to_string(), channel))
        });
        let mut silent = self.silent.lock().expect("nothing panics while it holds this lock");
        silent.retain(|_, since| since.elapsed() < SILENCE);
        let all = self.nameservers.iter().cloned().chain(brokers);
        all.filter(|(name, _)| !silent.contains_key(name)).collect()
    }

    /// Calls another server, and remembers if it does not answer.
    async fn call<T>(
        &self,
        name: &str,
        channel: Channel,
        call: impl AsyncFnOnce(ProducersClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Option<T> {
        let producers = ProducersClient::new(channel)
            .max_encoding_message_size(GRPC_DECODE_BYTES_MAX)
            .max_decoding_message_size(ANNOUNCED_BYTES_MAX);
        match tokio::time::timeout(CALL_TIMEOUT, call(producers)).await {
            Ok(Ok(answer)) => return Some(answer.into_inner()),
            Ok(Err(status)) => {
                tracing::debug!(
                    server = name,
                    reason = status.message(),
                    "cannot reach the server's clients"
                );
            }
            Err(_) => tracing::debug!(server = name, "cannot reach the server's clients: no answer in time"),
        }
        let mut silent = self.silent.lock().expect("nothing panics while it holds this lock");
        silent.insert(name.to_owned(), Instant::now());
        None
    }
}
