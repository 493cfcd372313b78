//! The slave's end of the stream: connects, agrees with the master on where the log goes on, and follows until either side ends it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kerolox_model::limits::{REPLICATION_CONNECTION_WINDOW, REPLICATION_STREAM_WINDOW};
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::replication_client::ReplicationClient;
use kerolox_proto::kerolox::{self as wire, ErrorKind, FromFollower, FromLeader, from_follower, from_leader};
use kerolox_replication::handshake::{self, EpochEnd};
use kerolox_replication::{
    ConfirmedMark, FollowRefusal, FollowTarget, FollowerLog, GroupMember, LeaderAnswer, LogRepair,
    MemberEffect, MemberInput,
};
use kerolox_store::{LogRecords, StoreError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Endpoint;

use super::Group;
use super::copying::{ConfirmedEnd, FollowerShared};
use super::handshake::{read_mark, wire_mark};
use super::server::MESSAGE_BYTES_MAX;
use super::stores::{StoreCell, Stores};

/// Messages that wait to be written; with the transport's window they cover a link of 100 ms.
const QUEUED: usize = 8;
/// Answers that wait to be sent. An ack that finds no room is left out: the next one says more.
const ANSWERS: usize = 64;
/// How long a connection may take.
const CONNECT: Duration = Duration::from_millis(500);

/// Tells a follower that this process is about to stop.
pub(super) type Leaving = tokio::sync::watch::Receiver<bool>;

/// Why following ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    /// The master cannot be reached, or ended the stream.
    #[error("{0}")]
    Stream(String),
    /// The master has the log of another broker group, or another one of this group.
    #[error("{0}")]
    Foreign(String),
    /// This member's own storage failed.
    #[error(transparent)]
    Store(#[from] StoreError),
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
    /// The leader lacks what this member needs next.
    #[error("the master no longer has what this member, which is in sync, would need next")]
    InSync,
}

impl From<FollowRefusal> for FollowError {
    fn from(refusal: FollowRefusal) -> Self {
        match refusal {
            FollowRefusal::LosesConfirmed { to, end, confirmed } => Self::Confirmed { to, end, confirmed },
            FollowRefusal::InSync => Self::InSync,
        }
    }
}

impl From<tonic::Status> for FollowError {
    fn from(status: tonic::Status) -> Self {
        match RpcError::read(&status) {
            Some(RpcError { kind: ErrorKind::Foreign, message }) => Self::Foreign(message),
            _ => Self::Stream(status.message().to_owned()),
        }
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
    target: FollowTarget,
    cell: StoreCell,
    stores: Arc<Stores>,
    mut leaving: Leaving,
    stop: impl Future<Output = ()>,
) -> Result<(), FollowError> {
    tokio::pin!(stop);
    if let Some(store) = cell.get() {
        store.check_allowed()?;
    }
    let (answers, outgoing) = mpsc::channel(ANSWERS);
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
    group.set_refuses(None);
    let (pieces, queue) = mpsc::channel::<FromLeader>(QUEUED);
    let shared = Arc::new(FollowerShared { group, store, confirmed: ConfirmedEnd::default() });
    let copying = {
        let (shared, answers) = (shared.clone(), answers.clone());
        tokio::task::spawn_blocking(move || shared.copy(queue, &answers))
    };
    let goodbye = tokio::spawn(async move {
        if leaving.wait_for(|leaving| *leaving).await.is_ok() {
            // The master that is gone needs no goodbye.
            let _ = answers
                .send(FromFollower { kind: Some(from_follower::Kind::Leaving(wire::Leaving {})) })
                .await;
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
    incoming: &mut Streaming<FromLeader>,
    pieces: mpsc::Sender<FromLeader>,
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
    target: &FollowTarget,
    cell: &StoreCell,
    stores: &Arc<Stores>,
    answers: &mpsc::Sender<FromFollower>,
    outgoing: mpsc::Receiver<FromFollower>,
) -> Result<Streaming<FromLeader>, FollowError> {
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
    drop(group.tell(MemberInput::Greeting));
    let log = log_found(cell)?;
    say_hello(group, target, answers, GroupMember::hello(log)).await;
    let mut incoming = client.replicate(ReceiverStream::new(outgoing)).await?.into_inner();
    loop {
        let message = incoming.next().await.transpose()?.and_then(|message| message.kind);
        let log = log_found(cell)?;
        let answer = leader_answer(message, cell)?;
        let (salt, log) = log.unzip();
        let input = MemberInput::Answered { answer, log, salt: salt.unwrap_or(0) };
        let mut pretended = None;
        let effects = group.tell(input);
        if effects.is_empty() {
            return Err(FollowError::Stream("this member follows another master".into()));
        }
        for effect in effects {
            match effect {
                MemberEffect::StartCopying => return Ok(incoming),
                MemberEffect::RefuseToFollow(refusal) => return Err(refusal.into()),
                MemberEffect::Repair(LogRepair::Pretend(hello)) => pretended = Some(hello),
                MemberEffect::Repair(repair) => {
                    let (cell, stores, known) = (cell.clone(), stores.clone(), group.member().known());
                    let repaired =
                        tokio::task::spawn_blocking(move || self::repair(&cell, &stores, repair, known));
                    repaired.await.expect("a panic would end the process")?;
                }
                _ => {}
            }
        }
        let hello = match pretended {
            Some(hello) => hello,
            None => GroupMember::hello(log_found(cell)?),
        };
        say_hello(group, target, answers, hello).await;
    }
}

async fn say_hello(
    group: &Group,
    target: &FollowTarget,
    answers: &mpsc::Sender<FromFollower>,
    said: handshake::FollowRequest,
) {
    let follow = wire::FollowRequest {
        cluster: group.cluster.clone(),
        group: group.name.clone(),
        member: target.me,
        epoch: target.epoch,
        salt: said.salt,
        end: said.end,
        last_epoch: said.last_epoch,
        last: said.last.map(wire_mark),
    };
    // A stream that is gone shows when it is read.
    let _ = answers.send(FromFollower { kind: Some(from_follower::Kind::Follow(follow)) }).await;
}

/// The log of this member with its salt, if there is one.
fn log_found(cell: &StoreCell) -> Result<Option<(u64, FollowerLog)>, StoreError> {
    let Some(store) = cell.get() else { return Ok(None) };
    let Some(mut parked) = store.standby_log() else { return Ok(None) };
    let last = parked.last_record()?;
    let (start, end, last_epoch) = (store.log_start(), parked.end(), parked.newest()?.epoch);
    Ok(Some((parked.salt(), FollowerLog { start, end, last_epoch, last })))
}

/// What the leader answered, with what this member has to say to it.
fn leader_answer(message: Option<from_leader::Kind>, cell: &StoreCell) -> Result<LeaderAnswer, FollowError> {
    match message {
        Some(from_leader::Kind::Start(_)) => Ok(LeaderAnswer::Start),
        Some(from_leader::Kind::Diverged(wire::Diverged { epoch, end, last })) => {
            let theirs = EpochEnd { epoch, end, last: last.as_ref().map(read_mark) };
            let to = match cell.get() {
                Some(store) => handshake::cut_at(&theirs, &LogRecords(store.reader()))?,
                None => 0,
            };
            Ok(LeaderAnswer::Diverged { epoch, to })
        }
        Some(from_leader::Kind::Reset(wire::ResetLog { salt, segment })) => {
            Ok(LeaderAnswer::Begin { salt, base: segment.unwrap_or_default().base })
        }
        _ => Err(FollowError::Stream("the master ended the handshake".into())),
    }
}

/// Gives up what the leader does not have. Blocks.
fn repair(
    cell: &StoreCell,
    stores: &Stores,
    repair: LogRepair,
    known: ConfirmedMark,
) -> Result<(), FollowError> {
    match repair {
        LogRepair::Truncate(to) => {
            let store = cell.get().ok_or_else(|| FollowError::Stream("nothing can differ".into()))?;
            let from = store.reader().frames_end();
            let confirmed = known.position;
            if to < confirmed.min(from) {
                tracing::warn!(
                    to,
                    from,
                    confirmed,
                    "giving up records that were confirmed and that the master does not have, as an operator accepted; a copy is \
                     kept beside the log"
                );
            } else {
                tracing::warn!(
                    to,
                    from,
                    "giving up records that the master does not have; this member never heard that they were confirmed, and a copy \
                     is kept beside the log"
                );
            }
            let mut parked =
                store.standby_log().ok_or_else(|| FollowError::Stream("this member rules".into()))?;
            parked.truncate(to)?;
        }
        LogRepair::Discard => stores.discard(cell)?,
        LogRepair::BeginAnew { salt, base } => stores.begin_anew(cell, salt, base)?,
        LogRepair::Pretend(_) => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_master_that_says_so_has_a_foreign_log() {
        assert!(matches!(
            FollowError::from(tonic::Status::from(RpcError::foreign("x"))),
            FollowError::Foreign(_)
        ));
        assert!(matches!(FollowError::from(tonic::Status::failed_precondition("x")), FollowError::Stream(_)));
    }
}
