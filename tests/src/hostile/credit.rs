//! How much a peer may send: the windows of HTTP/2, as the server opens them.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Result, bail};
use tokio::io::AsyncReadExt as _;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::Notify;

/// The window of a stream, and of a connection, before the server has said anything.
const WINDOW: i64 = 65_535;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const SETTING_WINDOW: u16 = 4;

/// What may be sent.
#[derive(Debug, Default)]
pub(super) struct Credit {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    connection: i64,
    /// Of a stream that begins.
    initial: i64,
    /// What each stream has had more, or less, than that.
    streams: HashMap<u32, i64>,
    /// Streams that the server has given up.
    reset: HashSet<u32>,
    has_greeted: bool,
    is_closed: bool,
}

impl Default for State {
    fn default() -> Self {
        Self {
            connection: WINDOW,
            initial: WINDOW,
            streams: HashMap::new(),
            reset: HashSet::new(),
            has_greeted: false,
            is_closed: false,
        }
    }
}

impl Credit {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_waiters();
    }

    /// Completes when the server has told its settings, or is gone.
    pub(super) async fn greeted(&self) {
        self.wait(|state| (state.has_greeted || state.is_closed).then_some(())).await;
    }

    /// Takes up to `most` bytes for a stream, and waits until there are some.
    ///
    /// # Errors
    /// When the server has given up the stream or the connection.
    pub(super) async fn take(&self, stream: u32, most: usize) -> Result<usize> {
        let taken = self.wait(|state| {
            if state.is_closed || state.reset.contains(&stream) {
                return Some(0);
            }
            let more = state.streams.entry(stream).or_default();
            let left = state.connection.min(state.initial + *more);
            let taken = usize::try_from(left).unwrap_or(0).min(most);
            let bytes = i64::try_from(taken).expect("a window is below 2 GiB");
            *more -= bytes;
            state.connection -= bytes;
            (taken > 0).then_some(taken)
        });
        match taken.await {
            0 => bail!("the server gave up the stream or the connection"),
            taken => Ok(taken),
        }
    }

    async fn wait<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(found) = look(&mut self.state()) {
                return found;
            }
            changed.await;
        }
    }
}

/// Reads frames until the connection ends, and notes what may be sent.
pub(super) async fn listen(reader: OwnedReadHalf, credit: Arc<Credit>) {
    let _ = frames(reader, &credit).await;
    credit.change(|state| state.is_closed = true);
}

async fn frames(reader: OwnedReadHalf, credit: &Credit) -> Result<()> {
    let mut reader = tokio::io::BufReader::new(reader);
    let mut head = [0; 9];
    let mut payload = Vec::new();
    loop {
        reader.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        payload.resize(usize::try_from(u32::from_be_bytes([0, a, b, c]))?, 0);
        reader.read_exact(&mut payload).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => {
                let mut settings =
                    payload.chunks_exact(6).filter(|setting| setting[..2] == SETTING_WINDOW.to_be_bytes());
                let window = settings.next_back().and_then(|setting| setting[2..].try_into().ok());
                credit.change(|state| {
                    state.initial = window.map_or(state.initial, |window| u32::from_be_bytes(window).into());
                    state.has_greeted = true;
                });
            }
            WINDOW_UPDATE if payload.len() == 4 => {
                let more = i64::from(u32::from_be_bytes(payload.as_slice().try_into()?));
                credit.change(|state| match u32::from_be_bytes(stream) {
                    0 => state.connection += more,
                    stream => *state.streams.entry(stream).or_default() += more,
                });
            }
            RST_STREAM => credit.change(|state| {
                state.reset.insert(u32::from_be_bytes(stream));
            }),
            _ => {}
        }
    }
}
