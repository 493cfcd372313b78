//! An accepted connection as a stream of bytes.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use super::connections::Place;
use super::farewell::LastWords;
use super::link::{ClientLink, Stage};
use super::open_answers::OpenAnswers;

/// The preface of HTTP/2, and the head of the frame with the client's settings that follows it.
const GREETING_BYTES: usize = 24 + 9;

/// An accepted connection, encrypted or not.
#[derive(Debug)]
pub struct ClientConnection {
    transport: Transport,
    place: Place,
    /// Bytes of the greeting that have come.
    greeted: usize,
    /// Answers on their way to the client.
    answers: Arc<OpenAnswers>,
    last_words: LastWords,
}

#[derive(Debug)]
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl ClientConnection {
    pub(super) fn new(transport: Transport, place: Place, answers: Arc<OpenAnswers>) -> Self {
        Self { transport, place, greeted: 0, answers, last_words: LastWords::default() }
    }

    /// The connection, unless it is to be closed.
    fn open(&mut self, cx: &mut Context<'_>) -> io::Result<&mut Transport> {
        match self.place.link.poll_ended(cx) {
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "closed by the server")),
            Poll::Pending => Ok(&mut self.transport),
        }
    }
}

impl Connected for ClientConnection {
    type ConnectInfo = Arc<ClientLink>;

    fn connect_info(&self) -> Arc<ClientLink> {
        self.place.link.clone()
    }
}

impl Drop for ClientConnection {
    fn drop(&mut self) {
        self.answers.end(self.last_words.is_goodbye());
    }
}

impl AsyncRead for ClientConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = match self.open(cx)? {
            Transport::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Transport::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        };
        let heard = &buffer.filled()[before..];
        if !heard.is_empty() {
            self.last_words.heard(heard);
            self.answers.heard();
        }
        if self.greeted < GREETING_BYTES {
            self.greeted += heard.len();
            if self.greeted >= GREETING_BYTES {
                self.place.link.reach(Stage::Ready);
            }
        }
        read
    }
}

impl AsyncWrite for ClientConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.open(cx)? {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.open(cx)? {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.open(cx)? {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.open(cx)? {
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
