//! The client port: plaintext HTTP/2 and TLS on one TCP port, told apart by the first byte.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use kerolox_model::limits::{HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use crate::answers::{LastWords, OpenAnswers};

/// First byte of every TLS handshake record.
const TLS_HANDSHAKE: u8 = 0x16;
/// How long a new connection may take to say what it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, such as out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Long polls take a stream each; SDKs open several per queue.
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
    /// What the system said.
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
pub struct Listener {
    tcp: TcpListener,
    local: SocketAddr,
}

impl Listener {
    /// Binds `host:port`; port 0 takes any free one.
    ///
    /// # Errors
    /// [`ListenError`] when the address is malformed, not of this machine, or in use.
    pub async fn bind(address: &str) -> Result<Self, ListenError> {
        let bind = async {
            let tcp = TcpListener::bind(address).await?;
            let local = tcp.local_addr()?;
            Ok(Self { tcp, local })
        };
        bind.await.map_err(|source| ListenError { address: address.to_owned(), source })
    }

    /// The address that is really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Accepts connections until the returned stream is dropped. Each is greeted in a task of its own, so a silent peer
    /// hinders nobody.
    pub fn incoming(self, tls: Arc<ServerConfig>) -> ReceiverStream<io::Result<Connection>> {
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(accept_all(self.tcp, TlsAcceptor::from(tls), sender));
        ReceiverStream::new(receiver)
    }
}

/// A gRPC server with the transport settings that the SDKs need.
pub fn grpc_server() -> Server {
    Server::builder()
        .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS_MAX))
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
}

async fn accept_all(tcp: TcpListener, tls: TlsAcceptor, connections: mpsc::Sender<io::Result<Connection>>) {
    loop {
        let accepted = tokio::select! {
            accepted = tcp.accept() => accepted,
            () = connections.closed() => return,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (tls, connections) = (tls.clone(), connections.clone());
                tokio::spawn(async move {
                    match tokio::time::timeout(GREETING_TIMEOUT, greet(stream, peer, &tls)).await {
                        // When the server is gone, so is the connection.
                        Ok(Ok(connection)) => drop(connections.send(Ok(connection)).await),
                        Ok(Err(error)) => tracing::debug!(%peer, %error, "connection given up"),
                        Err(_) => tracing::debug!(%peer, "connection given up: the peer stays silent"),
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
async fn greet(stream: TcpStream, peer: SocketAddr, tls: &TlsAcceptor) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the first byte"));
    }
    let is_tls = first[0] == TLS_HANDSHAKE;
    let transport =
        if is_tls { Transport::Tls(Box::new(tls.accept(stream).await?)) } else { Transport::Plain(stream) };
    let info = ConnectionInfo { local, peer, is_tls, answers: Arc::default() };
    Ok(Connection { transport, info, last_words: LastWords::default() })
}

/// An accepted connection, encrypted or not.
#[derive(Debug)]
pub struct Connection {
    transport: Transport,
    info: ConnectionInfo,
    last_words: LastWords,
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.info.answers.end(self.last_words.is_goodbye());
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        if buffer.filled().len() > before {
            self.last_words.heard(&buffer.filled()[before..]);
            self.info.answers.heard();
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
