//! `kerolox.v1.Server`: a server's description of itself and of its clients.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox as pb;
use kerolox_proto::kerolox::server_server::{Server, ServerServer};
use kerolox_proto::v2::TelemetryCommand;
use kerolox_runtime::inspect::InspectedProcess;
use kerolox_runtime::process;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::clients::{ClientSessions, SessionView};

/// How long a client may take to reply, where nothing is said, and at most.
const REPLY_WAIT: Duration = Duration::from_secs(3);
const REPLY_WAIT_MAX: Duration = Duration::from_secs(60);

/// A server that can be asked about itself and about its clients. Clones share everything.
#[derive(Clone)]
pub struct InspectService {
    /// The process.
    pub process: InspectedProcess,
    /// The clients that are connected to it.
    pub clients: Arc<ClientSessions>,
}

impl InspectService {
    /// The gRPC service.
    pub fn server(self) -> ServerServer<Self> {
        ServerServer::new(self)
    }
}

#[tonic::async_trait]
impl Server for InspectService {
    async fn describe_server(
        &self,
        request: Request<pb::DescribeServerRequest>,
    ) -> Result<Response<pb::DescribeServerResponse>, Status> {
        let (inspected, in_full) = (self.process.clone(), request.into_inner().in_full);
        let metrics = tokio::runtime::Handle::current().metrics();
        let described = tokio::task::spawn_blocking(move || inspected.describe(in_full)).await;
        let described = described.map_err(|error| RpcError::internal(error.to_string()))?;
        Ok(Response::new(pb::DescribeServerResponse {
            clients: self.clients.len() as u64,
            tasks: metrics.num_alive_tasks() as u64,
            tasks_waiting: metrics.global_queue_depth() as u64,
            ..described
        }))
    }

    async fn set_log_filter(
        &self,
        request: Request<pb::SetLogFilterRequest>,
    ) -> Result<Response<pb::SetLogFilterResponse>, Status> {
        let before = process::log_filter();
        let filter = request.into_inner().filter;
        let error = process::set_log_filter(&filter).err().unwrap_or_default();
        if error.is_empty() {
            tracing::info!(before, filter, "log filter changed");
        }
        Ok(Response::new(pb::SetLogFilterResponse { error, before }))
    }

    async fn list_clients(
        &self,
        request: Request<pb::ListClientsRequest>,
    ) -> Result<Response<pb::ListClientsResponse>, Status> {
        let only = request.into_inner().client_id;
        let views = self.clients.views(Some(only.as_str()).filter(|only| !only.is_empty()));
        Ok(Response::new(pb::ListClientsResponse { clients: views.iter().map(client).collect() }))
    }

    async fn ask_client(
        &self,
        request: Request<pb::AskClientRequest>,
    ) -> Result<Response<pb::AskClientResponse>, Status> {
        let pb::AskClientRequest { client_id, command, nonce, wait_ms } = request.into_inner();
        let command = TelemetryCommand::decode(command.as_slice())
            .map_err(|error| RpcError::invalid(format!("the command cannot be decoded: {error}")))?;
        let limit = match wait_ms {
            0 => REPLY_WAIT,
            wait_ms => Duration::from_millis(wait_ms.into()).min(REPLY_WAIT_MAX),
        };
        let reply = self.clients.ask(&client_id, command, &nonce, limit).await;
        Ok(Response::new(pb::AskClientResponse {
            taken: reply.is_some(),
            reply: reply.flatten().map(|reply| reply.encode_to_vec()),
        }))
    }
}

fn client(view: &SessionView) -> pb::ConnectedClient {
    pb::ConnectedClient {
        client_id: view.client_id.clone(),
        settings: view.settings.as_ref().map(|settings| settings.encode_to_vec()).unwrap_or_default(),
        address: view.peer.as_ref().map(SocketAddr::to_string).unwrap_or_default(),
        known_ms: millis(view.known),
        silent_ms: millis(view.silent),
        reachable: view.is_reachable,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use kerolox_proto::v2::{self, telemetry_command::Command};

    use super::*;

    fn service(data: &Path) -> InspectService {
        let process = InspectedProcess {
            kind: "broker",
            version: "1.2.3",
            started: Instant::now(),
            data: data.to_owned(),
            config: String::new(),
            checks: Arc::new(Vec::new),
        };
        InspectService { process, clients: Arc::new(ClientSessions::new(Duration::from_secs(60))) }
    }

    #[tokio::test]
    async fn a_client_is_asked_and_replies() {
        let folder = tempfile::tempdir().unwrap();
        let server = service(folder.path());
        let ask = || pb::AskClientRequest {
            client_id: "c".into(),
            nonce: "n".into(),
            wait_ms: 2_000,
            ..Default::default()
        };
        let absent = server.ask_client(Request::new(ask())).await.unwrap().into_inner();
        assert!(!absent.taken && absent.reply.is_none());

        let peer: SocketAddr = "127.0.0.1:7".parse().unwrap();
        let (_lease, mut commands) = server.clients.open_stream("c", Some(peer));
        let clients = server.clients.clone();
        let answering = tokio::spawn(async move {
            commands.recv().await.unwrap().unwrap();
            let trace = v2::ThreadStackTrace { nonce: "n".into(), thread_stack_trace: Some("main".into()) };
            clients.replied(
                "n",
                TelemetryCommand { status: None, command: Some(Command::ThreadStackTrace(trace)) },
            );
            commands
        });
        let asked = server.ask_client(Request::new(ask())).await.unwrap().into_inner();
        let reply = TelemetryCommand::decode(asked.reply.unwrap().as_slice()).unwrap();
        assert!(matches!(reply.command, Some(Command::ThreadStackTrace(_))));

        let _commands = answering.await.unwrap();
        let listed = server.list_clients(Request::new(pb::ListClientsRequest::default())).await.unwrap();
        let listed = listed.into_inner().clients;
        assert_eq!((listed.len(), listed[0].address.as_str(), listed[0].reachable), (1, "127.0.0.1:7", true));
        assert!(!server.clients.replied("n", TelemetryCommand::default()), "no caller waits any more");
    }
}
