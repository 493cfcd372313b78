//! The client port: plaintext HTTP/2 and TLS on one TCP port, told apart by the first byte.
//!
//! # Callers and what they take
//!
//! Each connection has a place (`runtime/src/listen/connections.rs`): in all and per address there are fewer than
//! files that may be open, idle ones make place for new ones, and those that come no further are closed. Each call
//! passes `listen/calls.rs`: the received part of its request and the unwritten part of its answer are taken from one
//! budget (`runtime/src/memory`), before a service sees it. Services reserve what they read for an answer
//! (`listen::reserve`). When the budget is used up, new calls wait a moment and are refused, and `listen/relief.rs`
//! ends what holds most for longest.

mod calls;
mod connections;
mod farewell;
mod link;
mod open_answers;
mod refused;
mod relief;
mod request;
mod settings;
mod stream;
mod work;

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kerolox_model::limits::{HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW};
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tower::layer::util::{Identity, Stack};

pub use calls::{CallLayer, CallsLayer, RELAYED};
pub use connections::ConnectionTable;
pub use link::ClientLink;
pub use open_answers::{AnswerReader, LostAnswer, OpenAnswers};
pub use refused::CallRefusal;
pub use settings::ConnectionSettings;
pub use stream::ClientConnection;
pub use work::{ReservedMemory, reserve, try_reserve};

use crate::memory::{MemoryBudget, MemorySettings};
use connections::Place;
use stream::Transport;

/// First byte of every TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// Pause after a failed accept, such as out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Long polls take a stream each; SDKs open several per queue. Between these, as many as the memory of a connection holds.
const CONCURRENT_STREAMS_MIN: u32 = 250;
/// Memory of a stream before its purpose is known: its headers, as they come and as they are read.
const STREAM_BYTES: usize = 64 << 10;
const CONCURRENT_STREAMS_MAX: u32 = 10_000;
/// Streams that a client may reset before they were served. The HTTP/2 library's default takes a consumer that gives up
/// its long polls for an attacker.
const PENDING_RESETS_MAX: usize = 1000;

/// How long a connection may be silent before its peer is asked for a sign of life, and how long that may take. Together they are
/// shorter than the default of `groups.auto-renew`: what a dead line swallowed is found before it is renewed for the first time.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// See [`KEEPALIVE_INTERVAL`].
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {address:?}: {source}; choose a free port of this machine, as in 127.0.0.1:8081 (port 0 takes any)"
)]
pub struct ListenError {
    /// The address as configured.
    pub address: String,
    /// The system's error.
    pub source: io::Error,
}

/// A connection; services find it in the extensions of their requests.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Our end.
    pub local: SocketAddr,
    /// The client's end.
    pub peer: SocketAddr,
    /// Whether the connection is encrypted.
    pub is_tls: bool,
    /// Answers on their way to the client.
    pub answers: Arc<OpenAnswers>,
}

/// A bound client port.
#[derive(Debug)]
pub struct ServerListener {
    tcp: TcpListener,
    local: SocketAddr,
    connections: Arc<ConnectionTable>,
}

impl ServerListener {
    /// Binds `host:port`; port 0 takes any free one.
    ///
    /// # Errors
    /// [`ListenError`] when the address is malformed, not of this machine, or in use.
    pub async fn bind(
        address: &str,
        settings: &ConnectionSettings,
        memory: &MemorySettings,
    ) -> Result<Self, ListenError> {
        let bind = async {
            let tcp = TcpListener::bind(address).await?;
            let local = tcp.local_addr()?;
            Ok(Self { tcp, local, connections: Arc::new(ConnectionTable::new(settings, memory)) })
        };
        bind.await.map_err(|source| ListenError { address: address.to_owned(), source })
    }

    /// The address that is really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The connections that there are.
    pub fn connections(&self) -> Arc<ConnectionTable> {
        self.connections.clone()
    }

    /// Accepts connections until the returned stream is dropped. Each is greeted in a task of its own, so a
    /// silent peer does not hinder others.
    pub fn incoming(self, tls: Arc<ServerConfig>) -> ReceiverStream<io::Result<ClientConnection>> {
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(accept_all(self.tcp, self.connections, TlsAcceptor::from(tls), sender));
        ReceiverStream::new(receiver)
    }
}

/// A gRPC server with the transport settings that the SDKs need, for connections of a [`ServerListener`] with this memory.
pub fn grpc_server(memory: &MemoryBudget) -> Server<Stack<CallsLayer, Identity>> {
    let streams = u32::try_from(memory.share() / STREAM_BYTES).unwrap_or(u32::MAX);
    Server::builder()
        .max_concurrent_streams(streams.clamp(CONCURRENT_STREAMS_MIN, CONCURRENT_STREAMS_MAX))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(memory.window().min(HTTP2_STREAM_WINDOW))
        .initial_connection_window_size(memory.window().min(HTTP2_CONNECTION_WINDOW))
        .layer(CallsLayer)
}

async fn accept_all(
    tcp: TcpListener,
    places: Arc<ConnectionTable>,
    tls: TlsAcceptor,
    connections: mpsc::Sender<io::Result<ClientConnection>>,
) {
    // Connections outlive the port, and so does who watches over them.
    tokio::spawn(places.clone().watch());
    loop {
        let accepted = tokio::select! {
            accepted = tcp.accept() => accepted,
            () = connections.closed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                // A client that is not let in sees its connection closed at once.
                let Some(place) = places.admit(peer) else { continue };
                let (tls, connections) = (tls.clone(), connections.clone());
                tokio::spawn(async move {
                    let link = place.link.clone();
                    tokio::select! {
                        greeted = greet(stream, peer, &tls, place) => match greeted {
                            // When the server is gone, so is the connection.
                            Ok(connection) => drop(connections.send(Ok(connection)).await),
                            Err(error) => tracing::debug!(%peer, %error, "connection given up"),
                        },
                        () = poll_fn(|cx| link.poll_ended(cx)) => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Waits for the first byte and makes the connection that it announces.
async fn greet(
    stream: TcpStream,
    peer: SocketAddr,
    tls: &TlsAcceptor,
    place: Place,
) -> io::Result<ClientConnection> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the first byte"));
    }
    let is_tls = first[0] == TLS_HANDSHAKE;
    let transport =
        if is_tls { Transport::Tls(Box::new(tls.accept(stream).await?)) } else { Transport::Plain(stream) };
    let answers = Arc::new(OpenAnswers::default());
    place.link.introduce(ConnectionInfo { local, peer, is_tls, answers: answers.clone() });
    Ok(ClientConnection::new(transport, place, answers))
}
