//! Commands for clients wherever they are connected: checks of half messages for producers, notices for consumers.
//!
//! A producer need not be connected to the broker that holds its half message: the official Rust SDK listens to the server
//! only that it was configured with, and others lose a stream and do not open it again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kerolox_model::limits::GRPC_DECODE_BYTES_MAX;
use kerolox_proto::kerolox::producers_client::ProducersClient;
use kerolox_proto::kerolox::producers_server::{Producers, ProducersServer};
use kerolox_proto::kerolox::{CheckTransactionRequest, CheckTransactionResponse, TellRequest, TellResponse};
use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{RecoverOrphanedTransactionCommand, TelemetryCommand};
use prost::Message as _;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::clients::Clients;
use crate::relay::Channels;
use crate::routes::Routes;

/// How long another server may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server that did not answer is left alone.
const SILENCE: Duration = Duration::from_secs(5);

impl Clients {
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
    clients: Arc<Clients>,
}

impl ProducersService {
    /// The gRPC service over the client sessions of this process.
    pub fn server(clients: Arc<Clients>) -> ProducersServer<Self> {
        ProducersServer::new(Self { clients }).max_decoding_message_size(GRPC_DECODE_BYTES_MAX)
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
            .map_err(|error| Status::invalid_argument(format!("the command cannot be decoded: {error}")))?;
        Ok(Response::new(CheckTransactionResponse { client_id: self.clients.check(&topic, &command) }))
    }

    async fn tell(&self, request: Request<TellRequest>) -> Result<Response<TellResponse>, Status> {
        let TellRequest { client_id, command } = request.into_inner();
        let command = TelemetryCommand::decode(command.as_slice())
            .map_err(|error| Status::invalid_argument(format!("the command cannot be decoded: {error}")))?;
        Ok(Response::new(TellResponse { taken: self.clients.tell(&client_id, command) }))
    }
}

/// The way of one broker to all clients.
#[derive(Debug)]
pub struct Reach {
    group: String,
    clients: Arc<Clients>,
    nameservers: Vec<(String, Channel)>,
    routes: Arc<Routes>,
    channels: Channels,
    /// Servers that did not answer, and when.
    silent: Mutex<HashMap<String, Instant>>,
}

impl Reach {
    /// For the master of the broker group `group`: its own clients come first, then those of the nameservers, then those of the
    /// other brokers in `routes`, its slaves among them.
    pub fn new(
        group: String,
        clients: Arc<Clients>,
        nameservers: Vec<(String, Channel)>,
        routes: Arc<Routes>,
    ) -> Self {
        Self { group, clients, nameservers, routes, channels: Channels::default(), silent: Mutex::default() }
    }

    /// The clients of this process.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Puts a check to some producer of the topic (stored name), and returns who took it; `None` when nobody did, as far as
    /// can be told now.
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
        let producers = ProducersClient::new(channel).max_encoding_message_size(GRPC_DECODE_BYTES_MAX);
        match tokio::time::timeout(CALL_TIMEOUT, call(producers)).await {
            Ok(Ok(answer)) => return Some(answer.into_inner()),
            Ok(Err(status)) => {
                tracing::debug!(server = name, reason = status.message(), "its clients cannot be reached");
            }
            Err(_) => tracing::debug!(server = name, "its clients cannot be reached: no answer in time"),
        }
        let mut silent = self.silent.lock().expect("nothing panics while it holds this lock");
        silent.insert(name.to_owned(), Instant::now());
        None
    }
}
