//! A peer that speaks HTTP/2 as badly as it likes: frames written by hand on a connection, with nothing that corrects them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use prost::Message;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::credit::{Credit, listen};

/// What a client of HTTP/2 begins with.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A whole frame that asks for a sign of life.
pub(super) const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0hostile!";
/// The largest frame that every peer takes, in bytes.
const FRAME_MAX: usize = 16 << 10;
/// The largest window that HTTP/2 knows.
const WINDOW_MAX: u32 = (1 << 31) - 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const SETTING_WINDOW: u16 = 4;

/// How much the peer is ready to take.
#[derive(Debug, Clone, Copy)]
pub(super) enum Windows {
    /// As much as there is.
    Open,
    /// Nothing on any stream.
    Shut,
}

/// A connection. Sends no more than it may: a server closes those who do.
pub(super) struct RawPeer {
    writer: OwnedWriteHalf,
    next_stream: u32,
    credit: Arc<Credit>,
    listening: Listening,
}

/// The reader of the server's frames.
enum Listening {
    /// A task that discards them.
    Task(JoinHandle<()>),
    /// No reader.
    Deaf(#[allow(dead_code, reason = "it keeps the connection open")] OwnedReadHalf),
}

/// How long the server may take to say how much it takes.
const GREETING: Duration = Duration::from_secs(5);

/// Opens a connection, from another address of this machine for each `host`.
pub(super) async fn dial(address: &str, host: u8) -> Result<TcpStream> {
    let address: SocketAddr = address.parse().context("an address of IPv4")?;
    let socket = TcpSocket::new_v4()?;
    socket.bind(([127, 0, 0, host], 0).into())?;
    Ok(socket.connect(address).await?)
}

impl RawPeer {
    /// A connection that has greeted, and knows how much it may send.
    pub(super) async fn greet(address: &str, host: u8, windows: Windows) -> Result<Self> {
        let mut peer = Self::connect(address, host, windows, false).await?;
        timeout(GREETING, peer.credit.greeted()).await?;
        let mut bytes = Vec::new();
        frame(&mut bytes, SETTINGS, ACK, 0, &[]);
        peer.write(&bytes).await?;
        Ok(peer)
    }

    /// A connection that never reads, and so sends little.
    pub(super) async fn deaf(address: &str, host: u8) -> Result<Self> {
        Self::connect(address, host, Windows::Open, true).await
    }

    async fn connect(address: &str, host: u8, windows: Windows, is_deaf: bool) -> Result<Self> {
        let (reader, writer) = dial(address, host).await?.into_split();
        let credit = Arc::<Credit>::default();
        let listening = match is_deaf {
            true => Listening::Deaf(reader),
            false => Listening::Task(tokio::spawn(listen(reader, credit.clone()))),
        };
        let mut peer = Self { writer, next_stream: 1, credit, listening };
        let window = match windows {
            Windows::Open => WINDOW_MAX,
            Windows::Shut => 0,
        };
        let mut setting = SETTING_WINDOW.to_be_bytes().to_vec();
        setting.extend(window.to_be_bytes());
        let mut bytes = PREFACE.to_vec();
        frame(&mut bytes, SETTINGS, 0, 0, &setting);
        if matches!(windows, Windows::Open) {
            let more = WINDOW_MAX - u32::from(u16::MAX);
            frame(&mut bytes, WINDOW_UPDATE, 0, 0, &more.to_be_bytes());
        }
        peer.write(&bytes).await?;
        Ok(peer)
    }

    /// Bytes as they are.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.writer.write_all(bytes).await?)
    }

    /// Begins a call of the protocol, and returns its stream. With `fill` bytes of further headers.
    pub(super) async fn open(&mut self, method: &str, fill: usize) -> Result<u32> {
        let mut bytes = Vec::new();
        let stream = self.head(&mut bytes, method, fill, END_HEADERS);
        self.write(&bytes).await?;
        Ok(stream)
    }

    /// Begins a call whose headers go on for ever.
    pub(super) async fn open_headers(&mut self, method: &str) -> Result<u32> {
        let mut bytes = Vec::new();
        let stream = self.head(&mut bytes, method, 1024, 0);
        self.write(&bytes).await?;
        Ok(stream)
    }

    /// More of such headers.
    pub(super) async fn continue_headers(&mut self, stream: u32) -> Result<()> {
        let mut bytes = Vec::new();
        frame(&mut bytes, CONTINUATION, 0, stream, &[]);
        self.write(&bytes).await
    }

    fn head(&mut self, bytes: &mut Vec<u8>, method: &str, fill: usize, flags: u8) -> u32 {
        let stream = self.next_stream;
        self.next_stream += 2;
        let path = format!("/apache.rocketmq.v2.MessagingService/{method}");
        let client = format!("hostile-{stream}");
        let mut block = Vec::new();
        for (name, value) in [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path.as_str()),
            (":authority", "hostile"),
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("x-mq-client-id", client.as_str()),
        ] {
            literal(&mut block, name, value);
        }
        if fill > 0 {
            literal(&mut block, "x-fill", &"f".repeat(fill));
        }
        frame(bytes, HEADERS, flags, stream, &block);
        stream
    }

    /// Part of a request, as the server takes it.
    pub(super) async fn data(&mut self, stream: u32, mut payload: &[u8], is_end: bool) -> Result<()> {
        loop {
            let len = match (payload.len(), &self.listening) {
                (0, _) => 0,
                (len, Listening::Deaf(_)) => len,
                (len, Listening::Task(_)) => self.credit.take(stream, len.min(FRAME_MAX)).await?,
            };
            let (part, rest) = payload.split_at(len);
            payload = rest;
            let flags = if is_end && payload.is_empty() { END_STREAM } else { 0 };
            let mut bytes = Vec::with_capacity(len + 9);
            frame(&mut bytes, DATA, flags, stream, part);
            self.write(&bytes).await?;
            if payload.is_empty() {
                return Ok(());
            }
        }
    }

    /// A whole call.
    pub(super) async fn call(&mut self, method: &str, request: &impl Message) -> Result<u32> {
        let stream = self.open(method, 0).await?;
        self.data(stream, &framed(request), true).await?;
        Ok(stream)
    }

    /// Reads what comes, and forgets it, until the server ends the connection.
    pub(super) async fn drain(&mut self) {
        if let Listening::Task(task) = &mut self.listening {
            // It ends with the connection.
            let _ = task.await;
        }
    }
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        if let Listening::Task(task) = &self.listening {
            task.abort();
        }
    }
}

/// A message as gRPC sends it.
pub(super) fn framed(message: &impl Message) -> Vec<u8> {
    let mut bytes = prefix(message.encoded_len());
    message.encode(&mut bytes).expect("a vector grows");
    bytes
}

/// What stands in front of a message of so many bytes.
pub(super) fn prefix(len: usize) -> Vec<u8> {
    let len = u32::try_from(len).expect("no message is so long");
    let mut bytes = vec![0];
    bytes.extend(len.to_be_bytes());
    bytes
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let len = u32::try_from(payload.len()).expect("a frame is short");
    bytes.extend(&len.to_be_bytes()[1..]);
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
}

/// A header in the longest form: neither compressed nor remembered.
fn literal(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    for text in [name, value] {
        integer(block, text.len());
        block.extend(text.as_bytes());
    }
}

/// A number in seven bits and as many more as it takes.
fn integer(block: &mut Vec<u8>, mut number: usize) {
    const PREFIX_MAX: usize = 127;
    if number < PREFIX_MAX {
        block.push(u8::try_from(number).expect("seven bits"));
        return;
    }
    block.push(127);
    number -= PREFIX_MAX;
    while number >= 128 {
        block.push(u8::try_from(number % 128).expect("seven bits") | 128);
        number /= 128;
    }
    block.push(u8::try_from(number).expect("seven bits"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_hpack_wants_them() {
        let written = |number| {
            let mut block = Vec::new();
            integer(&mut block, number);
            block
        };
        assert_eq!(written(10), [10]);
        assert_eq!(written(127), [127, 0]);
        assert_eq!(written(1337), [127, 186, 9]);
    }
}
