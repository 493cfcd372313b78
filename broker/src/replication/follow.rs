//! The slave's end of the stream: copies the log, says what is on its disk, and applies what is confirmed.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use kerolox_model::limits::{REPLICATION_CONNECTION_WINDOW, REPLICATION_STREAM_WINDOW};
use kerolox_proto::kerolox::replication_client::ReplicationClient;
use kerolox_proto::kerolox::{
    self as wire, FromMaster, FromSlave, Held, Hello, Tidings, from_master, from_slave,
};
use kerolox_replication::Known;
use kerolox_replication::handshake::cut_at;
use kerolox_store::{Store, StoreError, mono_ms};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::roles::{StoreCell, Stores};
use super::server::MESSAGE_BYTES_MAX;
use super::{Group, handshake};

/// Messages that wait to be written; with the transport's window they cover a link of 100 ms.
const QUEUED: usize = 8;
/// Bytes that share a sync.
const SYNC_BYTES: usize = 8 << 20;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_millis(500);

/// Tells a follower that this process is about to stop.
pub(super) type Leaving = tokio::sync::watch::Receiver<bool>;

/// Whom to follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) epoch: u32,
    pub(super) me: u64,
    pub(super) address: String,
}

/// Why following ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    /// The master cannot be reached, or ended the stream.
    #[error("{0}")]
    Stream(String),
    /// This member's own storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the member file: {0}")]
    File(#[from] std::io::Error),
    /// The master lacks what was confirmed.
    #[error(
        "this member holds records up to {end} and heard that everything before {confirmed} was confirmed, but its master has \
         the same log only up to {to}; nothing is cut. Start the member that has them and elect it with mqadmin electMaster \
         --unclean --member, or elect the master of the moment that way to accept that they are lost"
    )]
    Confirmed {
        /// Where the logs part.
        to: u64,
        /// Where this one ends.
        end: u64,
        /// Up to where it was confirmed.
        confirmed: u64,
    },
}

impl From<tonic::Status> for FollowError {
    fn from(status: tonic::Status) -> Self {
        Self::Stream(status.message().to_owned())
    }
}

impl From<kerolox_log::LogError> for FollowError {
    fn from(error: kerolox_log::LogError) -> Self {
        Self::Store(error.into())
    }
}

/// Follows until the stream ends or `stop` completes. Nothing of it is at work any more when it returns.
pub(super) async fn follow(
    group: Arc<Group>,
    target: Target,
    cell: StoreCell,
    stores: Arc<Stores>,
    mut leaving: Leaving,
    stop: impl Future<Output = ()>,
) -> Result<(), FollowError> {
    tokio::pin!(stop);
    if let Some(store) = cell.get() {
        store.check_allowed()?;
    }
    let (answers, outgoing) = mpsc::unbounded_channel();
    let connecting = connect(&group, &target, &cell, &stores, &answers, outgoing);
    let mut incoming = tokio::select! {
        connected = connecting => connected?,
        () = &mut stop => return Ok(()),
    };
    let store = cell.get().expect("the handshake opened it");
    tracing::info!(
        master = target.address,
        epoch = target.epoch,
        from = store.reader().frames_end(),
        "following"
    );
    group.file().change(|now| now.granted = target.epoch)?;
    group.set_refuses(None);
    let (pieces, queue) = mpsc::channel::<FromMaster>(QUEUED);
    let shared = Arc::new(Following { group, store, epoch: target.epoch, confirmed: Confirmed::default() });
    let copying = {
        let (shared, answers) = (shared.clone(), answers.clone());
        tokio::task::spawn_blocking(move || shared.copy(queue, &answers))
    };
    let goodbye = tokio::spawn(async move {
        if leaving.wait_for(|leaving| *leaving).await.is_ok() {
            // The master that is gone needs no goodbye.
            let _ = answers.send(FromSlave { kind: Some(from_slave::Kind::Leaving(wire::Leaving {})) });
        }
    });
    let folding = {
        let shared = shared.clone();
        tokio::task::spawn_blocking(move || shared.fold())
    };
    let received = tokio::select! {
        received = receive(&mut incoming, pieces) => received,
        () = &mut stop => Ok(()),
    };
    goodbye.abort();
    // Without its queue the copying thread ends.
    let copied = copying.await.expect("a panic would end the process");
    shared.confirmed.end();
    let folded = folding.await.expect("a panic would end the process");
    copied?;
    folded?;
    received
}

async fn receive(
    incoming: &mut Streaming<FromMaster>,
    pieces: mpsc::Sender<FromMaster>,
) -> Result<(), FollowError> {
    while let Some(message) = incoming.next().await {
        if pieces.send(message?).await.is_err() {
            // The copying thread says why.
            return Ok(());
        }
    }
    Err(FollowError::Stream("the master ended the stream".into()))
}

/// Connects, and brings the log to where it agrees with the master's.
async fn connect(
    group: &Group,
    target: &Target,
    cell: &StoreCell,
    stores: &Arc<Stores>,
    answers: &mpsc::UnboundedSender<FromSlave>,
    outgoing: mpsc::UnboundedReceiver<FromSlave>,
) -> Result<Streaming<FromMaster>, FollowError> {
    let endpoint = Endpoint::from_shared(format!("http://{}", target.address));
    let endpoint =
        endpoint.map_err(|_| FollowError::Stream(format!("{:?} is no address", target.address)))?;
    let channel = endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .initial_stream_window_size(REPLICATION_STREAM_WINDOW)
        .initial_connection_window_size(REPLICATION_CONNECTION_WINDOW)
        .http2_keep_alive_interval(Duration::from_millis(500))
        .keep_alive_timeout(Duration::from_millis(1000))
        .connect()
        .await;
    let channel = channel
        .map_err(|error| FollowError::Stream(format!("{} cannot be reached: {error}", target.address)))?;
    let mut client = ReplicationClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let say_hello = || -> Result<(), FollowError> {
        let store = cell.get();
        let mut parked = store.as_ref().and_then(|store| store.parked());
        let said = handshake::hello(parked.as_mut())?;
        let hello = Hello {
            cluster: group.cluster.clone(),
            group: group.name.clone(),
            member: target.me,
            epoch: target.epoch,
            salt: said.salt,
            end: said.end,
            last_epoch: said.last_epoch,
        };
        // A stream that is gone shows when it is read.
        let _ = answers.send(FromSlave { kind: Some(from_slave::Kind::Hello(hello)) });
        Ok(())
    };
    say_hello()?;
    let mut incoming = client.replicate(UnboundedReceiverStream::new(outgoing)).await?.into_inner();
    loop {
        let message = incoming.next().await.transpose()?.and_then(|message| message.kind);
        match message {
            Some(from_master::Kind::Start(_)) => return Ok(incoming),
            Some(from_master::Kind::Diverged(diverged)) => {
                let store = cell.get().ok_or_else(|| FollowError::Stream("nothing can differ".into()))?;
                let (known, accepted) = (group.known(), group.accepted());
                let theirs = (diverged.epoch, diverged.end);
                let cut = tokio::task::spawn_blocking(move || truncate(&store, theirs, known, accepted));
                let cut = cut.await.expect("a panic would end the process");
                cut.inspect_err(|error| refuse(group, error))?;
            }
            Some(from_master::Kind::Begin(begin)) => {
                // Whoever counts as in sync holds what is confirmed, and must not give it up for a master that does not.
                let counts = |seen: &super::Seen| seen.state.in_sync.contains(&target.me);
                if cell.get().is_some() && group.seen.borrow().as_ref().is_some_and(counts) {
                    return Err(FollowError::Stream(
                        "the master no longer has what this member, which is in sync, would need next".into(),
                    ));
                }
                let segment = begin.segment.unwrap_or_default();
                let own = cell.get().and_then(|store| {
                    Some(store.parked()?.newest().map(|newest| (newest.epoch, store.reader().frames_end())))
                });
                if let Some((1.., end)) = own.transpose()? {
                    let allowed = allow_cut(segment.base, end, group.known(), group.accepted());
                    allowed.inspect_err(|error| refuse(group, error))?;
                }
                let (cell, stores) = (cell.clone(), stores.clone());
                let begun =
                    tokio::task::spawn_blocking(move || stores.begin_anew(&cell, begin.salt, segment.base));
                begun.await.expect("a panic would end the process")?;
            }
            _ => return Err(FollowError::Stream("the master ended the handshake".into())),
        }
        say_hello()?;
    }
}

/// Tells health checks why this member does not follow.
fn refuse(group: &Group, error: &FollowError) {
    if let FollowError::Confirmed { .. } = error {
        group.set_refuses(Some(error.to_string()));
    }
}

/// Whether a log that ends at `end` may be cut at `to`.
fn allow_cut(to: u64, end: u64, known: Known, accepted: u32) -> Result<(), FollowError> {
    if known.allows_cut(to, end, accepted) || kerolox_log::sabotage::is("cut-confirmed") {
        return Ok(());
    }
    Err(FollowError::Confirmed { to, end, confirmed: known.position })
}

/// Gives up what the master does not have, unless it was confirmed and no operator accepted that loss.
fn truncate(store: &Store, theirs: (u32, u64), known: Known, accepted: u32) -> Result<(), FollowError> {
    let own = store.reader().end_of_epoch(theirs.0)?;
    let to = cut_at(theirs, own);
    let from = store.reader().frames_end();
    allow_cut(to, from, known, accepted)?;
    if to < known.position.min(from) {
        let confirmed = known.position;
        tracing::warn!(
            to,
            from,
            confirmed,
            accepted,
            "giving up records that were confirmed and that the master does not have, as an operator accepted; a copy is kept \
             beside the log"
        );
    } else {
        tracing::warn!(
            to,
            from,
            epoch = theirs.0,
            "giving up records that the master does not have; this member never heard that they were confirmed, and a copy is \
             kept beside the log"
        );
    }
    let mut parked = store.parked().ok_or_else(|| FollowError::Stream("this member rules".into()))?;
    Ok(parked.truncate(to)?)
}

/// What the threads of a follower share.
struct Following {
    group: Arc<Group>,
    store: Arc<Store>,
    epoch: u32,
    confirmed: Confirmed,
}

/// What is confirmed and durable here, and so may be applied; the thread that applies waits for it.
#[derive(Default)]
struct Confirmed {
    /// Up to where, and whether nothing more is to come.
    now: Mutex<(u64, bool)>,
    changed: Condvar,
}

impl Confirmed {
    fn lock(&self) -> MutexGuard<'_, (u64, bool)> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reach(&self, position: u64) {
        let mut now = self.lock();
        if position > now.0 {
            now.0 = position;
            self.changed.notify_one();
        }
    }

    fn end(&self) {
        self.lock().1 = true;
        self.changed.notify_one();
    }

    /// Waits until there is more than `applied`, and says up to where; `None` when nothing more is to come.
    fn beyond(&self, applied: u64) -> Option<u64> {
        let has_nothing = |now: &mut (u64, bool)| now.0 <= applied && !now.1;
        let now = self.changed.wait_while(self.lock(), has_nothing).unwrap_or_else(PoisonError::into_inner);
        (!now.1).then_some(now.0)
    }
}

impl Following {
    /// Writes what comes, and answers with what is durable; everything that is there shares a sync.
    fn copy(
        &self,
        mut queue: mpsc::Receiver<FromMaster>,
        answers: &mpsc::UnboundedSender<FromSlave>,
    ) -> Result<(), FollowError> {
        let mut parked =
            self.store.parked().ok_or_else(|| FollowError::Stream("this member rules".into()))?;
        let mut confirmed = 0;
        while let Some(first) = queue.blocking_recv() {
            self.store.check_allowed()?;
            let mut bytes = 0;
            let mut newest: Option<Tidings> = None;
            let mut next = Some(first);
            while let Some(message) = next {
                match message.kind {
                    Some(from_master::Kind::Records(records)) => {
                        parked.append_copy(records.position, &records.bytes)?;
                        bytes += records.bytes.len();
                        newest = records.tidings.or(newest);
                    }
                    Some(from_master::Kind::Segment(segment)) => {
                        parked.begin_copied_segment(segment.base)?;
                    }
                    Some(from_master::Kind::Tidings(tidings)) => newest = Some(tidings),
                    _ => return Err(FollowError::Stream("the master began the handshake again".into())),
                }
                next = if bytes < SYNC_BYTES { queue.try_recv().ok() } else { None };
            }
            let durable = if bytes > 0 { parked.sync()? } else { parked.held() };
            if let Some(tidings) = newest {
                self.group.grants().give(self.group.config.lease_ms(), mono_ms());
                confirmed = confirmed.max(tidings.confirmed);
                self.group.hear_confirmed(self.epoch, tidings.confirmed)?;
                let held = Held { durable, ping: tidings.ping };
                let _ = answers.send(FromSlave { kind: Some(from_slave::Kind::Held(held)) });
                let last_epoch = parked.newest()?.epoch;
                self.group.holds(last_epoch, durable);
            }
            self.confirmed.reach(confirmed.min(durable));
        }
        Ok(())
    }

    /// Whoever cannot apply its log must not be elected.
    fn is_unfit(&self, error: &StoreError) {
        tracing::error!(%error, "this slave cannot apply its log, and is not elected");
        self.group.standing.send_modify(|standing| standing.unfit = error.to_string());
    }

    /// Applies what is confirmed.
    fn fold(&self) -> Result<(), FollowError> {
        let mut reached = 0;
        while let Some(confirmed) = self.confirmed.beyond(reached) {
            self.store.fold_to(confirmed, |_, _| {}).inspect_err(|error| self.is_unfit(error))?;
            reached = self.store.index().applied().max(confirmed);
        }
        Ok(self.store.flush_parked()?)
    }
}
