//! A proxy that cuts a connection of HTTP/2 in the middle of an answer.
//!
//! It passes bytes on and reads the frames that the server sends. When it is told to, it ends the next connection that carries an
//! answer with the marker in it: both halves, so that either end sees a connection that broke.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// Length of the header of a frame.
const HEADER_BYTES: usize = 9;
/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// The flag of a stream's last frame.
const END_STREAM: u8 = 1;

/// The place in an answer where the connection is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyCut {
    /// Between the headers of the answer and the data with the marker.
    BeforeMessages,
    /// Right behind the marker.
    InMessage,
    /// Between the data and the trailers.
    BeforeTrailers,
}

impl ProxyCut {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::BeforeMessages, Self::InMessage, Self::BeforeTrailers];
}

/// The proxy. It runs until the runtime ends.
#[derive(Debug)]
pub struct CuttingProxy {
    address: SocketAddr,
    plan: Arc<Plan>,
}

#[derive(Debug)]
struct Plan {
    server: String,
    marker: Vec<u8>,
    /// The next cut, until it happens.
    next: Mutex<Option<ProxyCut>>,
    /// Notified to cut all connections.
    all: Notify,
}

impl CuttingProxy {
    /// A proxy on a free port for the server at `HOST:PORT`, which looks for `marker`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn to(server: &str, marker: &str) -> io::Result<Self> {
        Self::at("127.0.0.1:0", server, marker).await
    }

    /// A proxy as of [`Self::to`], which listens at `address`.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn at(address: &str, server: &str, marker: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (server, marker) = (server.to_owned(), marker.as_bytes().to_vec());
        let plan = Arc::new(Plan { server, marker, next: Mutex::new(None), all: Notify::new() });
        tokio::spawn(accept(listener, Arc::clone(&plan)));
        Ok(Self { address, plan })
    }

    /// The address for clients, `HOST:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Cuts the connection that carries the next answer with the marker in it.
    pub fn cut_next(&self, cut: ProxyCut) {
        *self.plan.next() = Some(cut);
    }

    /// Cuts all open connections.
    pub fn cut_now(&self) {
        self.plan.all.notify_waiters();
    }

    /// Whether the last requested cut has happened.
    pub fn has_cut(&self) -> bool {
        self.plan.next().is_none()
    }
}

impl Plan {
    fn next(&self) -> std::sync::MutexGuard<'_, Option<ProxyCut>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, plan: Arc<Plan>) {
    while let Ok((client, _)) = listener.accept().await {
        let plan = Arc::clone(&plan);
        tokio::spawn(async move {
            // What ends it is seen by both ends.
            let _ = pass(client, &plan).await;
        });
    }
}

async fn pass(client: TcpStream, plan: &Plan) -> io::Result<()> {
    let server = TcpStream::connect(&plan.server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    tokio::select! {
        passed = copy(&mut from_client, &mut to_server) => passed.map(drop),
        () = plan.all.notified() => Ok(()),
        passed = pass_answers(from_server, to_client, plan) => passed,
    }
}

/// Passes the server's frames on, up to the cut.
async fn pass_answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, plan: &Plan) -> io::Result<()> {
    let mut marked = None;
    loop {
        let mut frame = vec![0; HEADER_BYTES];
        from.read_exact(&mut frame).await?;
        let len = u32::from_be_bytes([0, frame[0], frame[1], frame[2]]) as usize;
        let (kind, flags, stream) = (frame[3], frame[4], [frame[5], frame[6], frame[7], frame[8]]);
        frame.resize(HEADER_BYTES + len, 0);
        from.read_exact(&mut frame[HEADER_BYTES..]).await?;
        let marker = frame.windows(plan.marker.len()).position(|bytes| bytes == plan.marker);
        let marker = marker.filter(|_| kind == DATA).map(|at| at + plan.marker.len());
        if marker.is_some() {
            marked = Some(stream);
        }
        let is_end = kind == HEADERS && flags & END_STREAM != 0 && marked == Some(stream);
        let passes = match (*plan.next(), marker) {
            (Some(ProxyCut::BeforeMessages), Some(_)) => Some(0),
            (Some(ProxyCut::InMessage), Some(end)) => Some(end),
            (Some(ProxyCut::BeforeTrailers), _) if is_end => Some(0),
            _ => None,
        };
        if let Some(passes) = passes {
            to.write_all(&frame[..passes]).await?;
            *plan.next() = None;
            return Ok(());
        }
        to.write_all(&frame).await?;
    }
}
