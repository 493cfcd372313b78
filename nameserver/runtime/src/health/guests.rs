//! Connections to the health port: few at a time, and not for long, so that no caller can keep probes from being
//! answered.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::{Sleep, sleep};

/// Most connections at a time; the oldest one goes when another one comes.
const GUESTS_MAX: usize = 64;
/// A connection is closed after this time. A prober that keeps one makes another.
const STAY: Duration = Duration::from_secs(30);
/// Pause after a failed accept, such as out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The port for health checks.
pub(super) struct Guests {
    tcp: TcpListener,
    /// Dropping one of these ends its connection; oldest first.
    staying: VecDeque<oneshot::Sender<()>>,
}

impl Guests {
    pub(super) fn new(tcp: TcpListener) -> Self {
        Self { tcp, staying: VecDeque::new() }
    }
}

impl axum::serve::Listener for Guests {
    type Io = Guest;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Guest, SocketAddr) {
        loop {
            match self.tcp.accept().await {
                Ok((stream, peer)) => {
                    self.staying.retain(|guest| !guest.is_closed());
                    if self.staying.len() >= GUESTS_MAX {
                        self.staying.pop_front();
                    }
                    let (staying, leaving) = oneshot::channel();
                    self.staying.push_back(staying);
                    return (Guest { stream, leaving, stay: Box::pin(sleep(STAY)) }, peer);
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// A connection.
pub(super) struct Guest {
    stream: TcpStream,
    leaving: oneshot::Receiver<()>,
    stay: Pin<Box<Sleep>>,
}

impl Guest {
    /// Ready when it is to be closed.
    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The channel carries no value: this completes when the sender is dropped.
        if Pin::new(&mut self.leaving).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        self.stay.as_mut().poll(cx)
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            return Poll::Ready(read);
        }
        ready!(self.poll_over(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, bytes) {
            return Poll::Ready(written);
        }
        ready!(self.poll_over(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
