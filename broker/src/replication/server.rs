//! The master's end of the streams to its slaves.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt as _;
use kerolox_log::Piece;
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::replication_server::{Replication, ReplicationServer};
use kerolox_proto::kerolox::{
    CommitUpdate, DescribeReplicationRequest, DescribeReplicationResponse, FollowRequest, FromFollower,
    FromLeader, ReadRecordsRequest, ReadRecordsResponse, Records, Segment, SetDrainedRequest,
    SetDrainedResponse, StepDownRequest, StepDownResponse, from_follower, from_leader,
};
use kerolox_replication::MemberId;
use kerolox_store::clock_reading;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Group, Leadership, StoreCell, handshake, remote_read, status};

/// Bytes of records in one message.
const CHUNK: usize = 1 << 20;
/// Messages on their way to the transport, which has its own window besides.
const QUEUED: usize = 4;
/// A slave is pinged at least this often, and learns this late at the most what was confirmed.
const PING: Duration = Duration::from_millis(50);
/// Largest message that a master sends: one record at least, however large it is.
pub(super) const MESSAGE_BYTES_MAX: usize = kerolox_log::frame::LEN_MAX + CHUNK;
/// Largest message that a member takes at this port, which is open to everybody: slaves say where they are, and masters name the
/// records that they want to read.
const REQUEST_BYTES_MAX: usize = 1 << 20;

type Outgoing = mpsc::Sender<Result<FromLeader, Status>>;

/// Streams the log to slaves while this member rules.
pub(crate) struct ReplicationService {
    group: Arc<Group>,
    cell: StoreCell,
}

impl ReplicationService {
    /// The gRPC service.
    pub(crate) fn server(group: Arc<Group>, cell: StoreCell) -> ReplicationServer<Self> {
        ReplicationServer::new(Self { group, cell })
            .max_decoding_message_size(REQUEST_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }

    /// Whether a member means this group.
    fn check_group(&self, of_cluster: &str, group: &str) -> Result<(), RpcError> {
        let Group { cluster, name, .. } = &*self.group;
        if of_cluster != cluster || group != name {
            return Err(RpcError::foreign(format!(
                "this is broker group {name:?} of cluster {cluster:?}, not {group:?} of {of_cluster:?}"
            )));
        }
        Ok(())
    }

    /// The leadership that a slave means, if it is the one at work.
    fn leadership(&self, asked: &FollowRequest) -> Result<Arc<Leadership>, RpcError> {
        self.check_group(&asked.cluster, &asked.group)?;
        let leadership = self.group.leadership().filter(|leadership| leadership.epoch == asked.epoch);
        leadership.ok_or_else(|| {
            RpcError::unavailable(format!(
                "this member does not rule in epoch {}; ask the controller",
                asked.epoch
            ))
        })
    }
}

#[tonic::async_trait]
impl Replication for ReplicationService {
    type ReplicateStream = ReceiverStream<Result<FromLeader, Status>>;

    async fn replicate(
        &self,
        request: Request<Streaming<FromFollower>>,
    ) -> Result<Response<Self::ReplicateStream>, Status> {
        let mut incoming = request.into_inner();
        let asked = next_request(&mut incoming).await?;
        let leadership = self.leadership(&asked)?;
        let (outgoing, stream) = mpsc::channel(QUEUED);
        tokio::spawn(async move {
            if let Err(status) = serve(&leadership, asked, incoming, &outgoing).await {
                // A slave that is gone needs no reason.
                let _ = outgoing.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn describe_replication(
        &self,
        _request: Request<DescribeReplicationRequest>,
    ) -> Result<Response<DescribeReplicationResponse>, Status> {
        Ok(Response::new(status::describe(&self.group)))
    }

    async fn read_records(
        &self,
        request: Request<ReadRecordsRequest>,
    ) -> Result<Response<ReadRecordsResponse>, Status> {
        let ReadRecordsRequest { cluster, group, records } = request.into_inner();
        self.check_group(&cluster, &group)?;
        let store = self.cell.get().ok_or_else(|| RpcError::unavailable("this member has no log yet"))?;
        self.group.read_for_master.fetch_add(records.len() as u64, Ordering::Relaxed);
        let reading = tokio::task::spawn_blocking(move || remote_read::read_records(&store, &records));
        Ok(Response::new(reading.await.map_err(|_| RpcError::internal("the log could not be read"))?))
    }

    async fn step_down(
        &self,
        request: Request<StepDownRequest>,
    ) -> Result<Response<StepDownResponse>, Status> {
        status::give_up_leadership(&self.group, request.into_inner().to).await?;
        Ok(Response::new(StepDownResponse {}))
    }

    async fn set_drained(
        &self,
        request: Request<SetDrainedRequest>,
    ) -> Result<Response<SetDrainedResponse>, Status> {
        status::set_drained(&self.group, request.into_inner().drained).await?;
        Ok(Response::new(SetDrainedResponse {}))
    }
}

async fn next_request(incoming: &mut Streaming<FromFollower>) -> Result<FollowRequest, Status> {
    match incoming.next().await.transpose()?.and_then(|message| message.kind) {
        Some(from_follower::Kind::Follow(asked)) => Ok(asked),
        _ => Err(RpcError::invalid("the stream does not begin with FollowRequest").into()),
    }
}

/// Agrees with the slave on where its log goes on, and keeps it up to date until either side is gone or the leadership is over.
async fn serve(
    leadership: &Arc<Leadership>,
    mut request: FollowRequest,
    mut incoming: Streaming<FromFollower>,
    outgoing: &Outgoing,
) -> Result<(), Status> {
    let member = request.member;
    loop {
        let (store, salt, asked) = (leadership.store.clone(), leadership.salt, request.clone());
        let answer = tokio::task::spawn_blocking(move || handshake::answer(&store, salt, &asked)).await;
        let kind = answer.map_err(|_| RpcError::internal("the master's log could not be read"))??;
        let is_agreed = matches!(kind, from_leader::Kind::Start(_));
        if outgoing.send(Ok(FromLeader { kind: Some(kind) })).await.is_err() {
            return Ok(());
        }
        if is_agreed {
            break;
        }
        request = next_request(&mut incoming).await?;
    }
    tracing::info!(slave = member, from = request.end, "a slave follows");
    leadership.on_slave(member, false);
    let feeding = feed(leadership.clone(), request.end, outgoing.clone());
    let heard = hear(leadership, member, incoming);
    tokio::select! {
        outcome = feeding => Ok(outcome?),
        outcome = heard => outcome,
        () = leadership.over.requested() => Err(RpcError::unavailable("the leadership of this master is over").into()),
    }
}

/// Counts what the slave holds.
async fn hear(
    leadership: &Leadership,
    member: MemberId,
    mut incoming: Streaming<FromFollower>,
) -> Result<(), Status> {
    while let Some(message) = incoming.next().await {
        match message?.kind {
            Some(from_follower::Kind::Ack(held)) => leadership.on_ack(member, held.durable, held.ping),
            Some(from_follower::Kind::Leaving(_)) => leadership.on_slave(member, true),
            _ => return Err(RpcError::invalid("FollowRequest comes at the beginning only").into()),
        }
    }
    Ok(())
}

/// Sends the log from `position` on, on a thread of its own, since reading it blocks.
async fn feed(leadership: Arc<Leadership>, position: u64, outgoing: Outgoing) -> Result<(), RpcError> {
    let feeding = tokio::task::spawn_blocking(move || feed_blocking(&leadership, position, &outgoing));
    feeding.await.unwrap_or_else(|_| Err(RpcError::internal("the master's log could not be read")))
}

fn feed_blocking(leadership: &Leadership, mut position: u64, outgoing: &Outgoing) -> Result<(), RpcError> {
    let reader = leadership.store.reader();
    let mut told = CommitUpdate::default();
    while !leadership.over.is_requested() && !outgoing.is_closed() {
        let piece = reader.copy(position, CHUNK);
        let piece = piece.map_err(|error| RpcError::internal(format!("the master's log: {error}")))?;
        let commit = commit_update(leadership);
        let kind = match piece {
            Piece::Segment { base, capacity } => {
                position = base + kerolox_log::SEGMENT_HEADER_LEN;
                from_leader::Kind::Segment(Segment { base, capacity })
            }
            Piece::Frames(bytes) => {
                let from = position;
                position += bytes.len() as u64;
                told = commit;
                from_leader::Kind::Records(Records { position: from, bytes, commit: Some(commit) })
            }
            Piece::End => {
                let is_due = commit.ping.saturating_sub(told.ping) >= millis(PING);
                if !is_due && commit.confirmed == told.confirmed {
                    reader.wait_for_end(position, PING);
                    continue;
                }
                // Where many records come one by one, the high watermark goes with them.
                if !is_due {
                    reader.wait_for_end(position, PING / 10);
                    if reader.end() != position {
                        continue;
                    }
                }
                told = commit;
                from_leader::Kind::Commit(commit)
            }
        };
        if outgoing.blocking_send(Ok(FromLeader { kind: Some(kind) })).is_err() {
            break;
        }
    }
    Ok(())
}

/// What the slave is told beside the records. The ping is the time before anything is sent.
fn commit_update(leadership: &Leadership) -> CommitUpdate {
    let reader = leadership.store.reader();
    let update = leadership.store.commit_status().update(reader.durable(), clock_reading());
    CommitUpdate { confirmed: update.high_watermark, ping: update.ping, end: reader.end() }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
