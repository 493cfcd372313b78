//! What a server says of itself and of the clients that are connected to it: `kerolox.v1.Server`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_proto::kerolox as pb;
use kerolox_proto::kerolox::server_server::{Server, ServerServer};
use kerolox_proto::v2::TelemetryCommand;
use procfs::process::Process;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::clients::{Clients, SessionView};
use crate::health::{Check, Checks, State};
use crate::process;

/// Files of the data folder that are listed.
const FILES_MAX: usize = 10_000;
/// How long a client may take to reply, where nothing is said, and at most.
const REPLY_WAIT: Duration = Duration::from_secs(3);
const REPLY_WAIT_MAX: Duration = Duration::from_secs(60);
/// Words in names of settings whose values are not shown.
const SECRETS: [&str; 3] = ["secret", "password", "token"];

/// A server that can be asked about itself. Clones share everything.
#[derive(Clone)]
pub struct Inspected {
    /// "nameserver" or "broker".
    pub kind: &'static str,
    /// Version of the program.
    pub version: &'static str,
    /// When it started.
    pub started: Instant,
    /// Its data folder.
    pub data: PathBuf,
    /// Its settings as TOML.
    pub config: String,
    /// How it is.
    pub checks: Checks,
    /// Who is connected to it.
    pub clients: Arc<Clients>,
}

impl Inspected {
    /// The gRPC service.
    pub fn server(self) -> ServerServer<Self> {
        ServerServer::new(self)
    }

    /// Reads `/proc` and the data folder: call it where blocking is fine.
    fn describe(&self, in_full: bool) -> pb::DescribeServerResponse {
        let process = Process::myself().ok();
        let stat = process.as_ref().and_then(|process| process.stat().ok());
        let space = rustix::fs::statvfs(&self.data).ok();
        let bytes = |blocks: fn(&rustix::fs::StatVfs) -> u64| {
            space.as_ref().map_or(0, |space| blocks(space).saturating_mul(space.f_frsize))
        };
        pb::DescribeServerResponse {
            kind: self.kind.to_owned(),
            version: self.version.to_owned(),
            pid: std::process::id(),
            uptime_ms: millis(self.started.elapsed()),
            checks: (self.checks)().iter().map(check).collect(),
            cpu_ms: stat.as_ref().map_or(0, |stat| ticks_ms(stat.utime + stat.stime)),
            resident_bytes: stat.as_ref().map_or(0, |stat| stat.rss.saturating_mul(procfs::page_size())),
            open_files: process.as_ref().and_then(|process| process.fd_count().ok()).unwrap_or(0) as u64,
            clients: self.clients.len() as u64,
            log_filter: process::log_filter(),
            data: self.data.display().to_string(),
            disk_bytes: bytes(|space| space.f_blocks),
            disk_free_bytes: bytes(|space| space.f_bavail),
            threads: if in_full { process.as_ref().map(threads).unwrap_or_default() } else { Vec::new() },
            files: if in_full { files(&self.data) } else { Vec::new() },
            config: if in_full { masked(&self.config) } else { String::new() },
            ..Default::default()
        }
    }
}

#[tonic::async_trait]
impl Server for Inspected {
    async fn describe_server(
        &self,
        request: Request<pb::DescribeServerRequest>,
    ) -> Result<Response<pb::DescribeServerResponse>, Status> {
        let (inspected, in_full) = (self.clone(), request.into_inner().in_full);
        let metrics = tokio::runtime::Handle::current().metrics();
        let described = tokio::task::spawn_blocking(move || inspected.describe(in_full)).await;
        let described = described.map_err(|error| Status::internal(error.to_string()))?;
        Ok(Response::new(pb::DescribeServerResponse {
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
            tracing::info!(before, filter, "what is logged was changed");
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
            .map_err(|error| Status::invalid_argument(format!("the command cannot be decoded: {error}")))?;
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

fn check(check: &Check) -> pb::ServerCheck {
    let state = match check.state {
        State::Ok => "ok",
        State::Warning => "warning",
        State::Failed => "failed",
    };
    pb::ServerCheck { name: check.name.to_owned(), state: state.to_owned(), reason: check.reason.clone() }
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

fn ticks_ms(ticks: u64) -> u64 {
    ticks.saturating_mul(1000) / procfs::ticks_per_second().max(1)
}

fn threads(process: &Process) -> Vec<pb::ServerThread> {
    let stats = process.tasks().into_iter().flatten().filter_map(|task| task.ok()?.stat().ok());
    stats
        .map(|stat| pb::ServerThread {
            name: stat.comm,
            state: stat.state.to_string(),
            cpu_ms: ticks_ms(stat.utime + stat.stime),
        })
        .collect()
}

/// The files of a folder and of those in it, by name.
fn files(folder: &Path) -> Vec<pb::ServerFile> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop()
        && files.len() < FILES_MAX
    {
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => folders.push(entry.path()),
                Ok(metadata) => {
                    let path = entry.path();
                    let path = path.strip_prefix(folder).unwrap_or(&path).display().to_string();
                    files.push(pb::ServerFile { path, bytes: metadata.len() });
                }
                // Gone meanwhile.
                Err(_) => {}
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files.truncate(FILES_MAX);
    files
}

/// TOML without the values of secrets; names of files with secrets are none.
fn masked(toml: &str) -> String {
    let masked = |line: &str| match line.split_once('=') {
        Some((key, _)) if SECRETS.iter().any(|word| key.contains(word)) && !key.trim().ends_with("-file") => {
            format!("{}= \"***\"", key)
        }
        _ => line.to_owned(),
    };
    toml.lines().map(masked).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use kerolox_proto::v2::{self, telemetry_command::Command};

    fn inspected(data: &Path) -> Inspected {
        Inspected {
            kind: "broker",
            version: "1.2.3",
            started: Instant::now(),
            data: data.to_owned(),
            config: "group = \"a\"\nwebhook-secret = \"x\"\nwebhook-secret-file = \"/y\"".to_owned(),
            checks: Arc::new(|| vec![Check::warning("disk", "short")]),
            clients: Arc::new(Clients::new(Duration::from_secs(60))),
        }
    }

    #[test]
    fn a_server_describes_itself_without_its_secrets() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("log")).unwrap();
        std::fs::write(folder.path().join("log").join("0"), b"12345").unwrap();
        let said = inspected(folder.path()).describe(true);
        assert_eq!((said.kind.as_str(), said.pid), ("broker", std::process::id()));
        assert!(
            said.resident_bytes > 0 && said.disk_bytes >= said.disk_free_bytes && !said.threads.is_empty()
        );
        assert_eq!(said.files, [pb::ServerFile { path: "log/0".into(), bytes: 5 }]);
        assert_eq!(said.config, "group = \"a\"\nwebhook-secret = \"***\"\nwebhook-secret-file = \"/y\"");
        assert_eq!(said.checks[0].state, "warning");
        assert!(inspected(folder.path()).describe(false).files.is_empty());
    }

    #[tokio::test]
    async fn a_client_is_asked_and_replies() {
        let folder = tempfile::tempdir().unwrap();
        let server = inspected(folder.path());
        let ask = || pb::AskClientRequest {
            client_id: "c".into(),
            nonce: "n".into(),
            wait_ms: 2_000,
            ..Default::default()
        };
        let nobody = server.ask_client(Request::new(ask())).await.unwrap().into_inner();
        assert!(!nobody.taken && nobody.reply.is_none());

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
        assert!(!server.clients.replied("n", TelemetryCommand::default()), "nobody waits any more");
    }
}
