//! Reading messages at the slaves: those that lie far back, if the operator wants to spare the master's disk, and those that
//! are damaged here. Their logs hold the same bytes at the same positions, and every record is checked on arrival like one
//! from the own disk.
//!
//! # Read at slaves
//!
//! A master that finds a message damaged, or far back while `replication.slave-reads` is set, asks a slave for the
//! bytes at that position (`message_reader.rs`, `replication/remote_read.rs`) and checks them like its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use kerolox_client::admin::controller::connection;
use kerolox_core::record::MessageRecord;
use kerolox_log::{Frame, Piece};
use kerolox_proto::kerolox::replication_client::ReplicationClient;
use kerolox_proto::kerolox::{Extent, ReadRecordsRequest, ReadRecordsResponse};
use kerolox_replication::{FollowerView, MemberId};
use kerolox_store::{QueueEntry, Store};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::Group;
use super::server::MESSAGE_BYTES_MAX;

/// Bytes of records that one request asks for; the rest is read here.
const BYTES_TOGETHER: u64 = 8 << 20;
/// Bytes of records that a slave reads for one request of any caller: more than a master ever asks for.
const READ_BYTES_MAX: usize = 64 << 20;
/// How long a slave may take to read them: its disk is in no hurry, and a client waits.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a slave that did not answer is left alone.
const PAUSE: Duration = Duration::from_secs(5);

/// Messages that other members read, by their positions.
pub(crate) type RemoteRead = HashMap<u64, (Frame, MessageRecord)>;

/// The slaves of a master, as places to read at.
pub(crate) struct RemoteReader {
    group: Arc<Group>,
    /// Connections by address, and until when each is left alone.
    connections: Mutex<HashMap<String, (Channel, Option<Instant>)>>,
    turn: AtomicUsize,
}

impl RemoteReader {
    pub(super) fn new(group: Arc<Group>) -> Self {
        Self { group, connections: Mutex::default(), turn: AtomicUsize::new(0) }
    }

    /// Whether what lies far back is to be read at slaves.
    pub(crate) fn read_far_back(&self) -> bool {
        self.group.config.slave_reads
    }

    /// Reads what a slave has of the messages; the rest is missing in the answer.
    pub(crate) async fn read(
        &self,
        store: &Store,
        slaves: &[FollowerView],
        entries: &[QueueEntry],
    ) -> RemoteRead {
        let mut bytes = 0;
        let fits = |entry: &&QueueEntry| {
            bytes += u64::from(entry.len);
            bytes <= BYTES_TOGETHER
        };
        let wanted: Vec<QueueEntry> = entries.iter().take_while(fits).copied().collect();
        let Some(end) = wanted.iter().map(|entry| entry.position + u64::from(entry.len)).max() else {
            return RemoteRead::new();
        };
        let holders: Vec<MemberId> =
            slaves.iter().filter(|slave| slave.durable >= end).map(|slave| slave.id).collect();
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        for i in 0..holders.len() {
            let Some(address) = self.address(holders[(first + i) % holders.len()]) else { continue };
            let Some(records) = self.ask(&address, &wanted).await else { continue };
            let read = wanted.iter().zip(records);
            // A copy that is damaged as well is none.
            let intact = |(entry, record): (&QueueEntry, Bytes)| {
                store.decode_message(&record, entry.position).ok().map(|message| (entry.position, message))
            };
            return read.filter_map(intact).collect();
        }
        RemoteRead::new()
    }

    fn address(&self, member: MemberId) -> Option<String> {
        let seen = self.group.seen.borrow();
        let members = &seen.as_ref()?.state.members;
        members.iter().find(|other| other.id == member).map(|other| other.replication_address.clone())
    }

    /// `None` when the slave does not answer in time, or did not lately.
    async fn ask(&self, address: &str, wanted: &[QueueEntry]) -> Option<Vec<Bytes>> {
        let channel = {
            let mut connections = self.connections.lock();
            let (channel, left_alone) = match connections.get(address) {
                Some(connection) => connection.clone(),
                None => {
                    let fresh = (connection(address).ok()?, None);
                    connections.insert(address.to_owned(), fresh.clone());
                    fresh
                }
            };
            if left_alone.is_some_and(|until| Instant::now() < until) {
                return None;
            }
            channel
        };
        let mut slave = ReplicationClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let request = ReadRecordsRequest {
            cluster: self.group.cluster.clone(),
            group: self.group.name.clone(),
            records: wanted
                .iter()
                .map(|QueueEntry { position, len, .. }| Extent { position: *position, len: *len })
                .collect(),
        };
        let answer = tokio::time::timeout(ANSWER, slave.read_records(request)).await;
        let reason = match answer {
            Ok(Ok(answer)) => return Some(answer.into_inner().records),
            Ok(Err(status)) => status.message().to_owned(),
            Err(_) => format!("no answer within {ANSWER:?}"),
        };
        tracing::warn!(slave = address, reason, "messages are read here instead of at the slave");
        let mut connections = self.connections.lock();
        if let Some((_, left_alone)) = connections.get_mut(address) {
            *left_alone = Some(Instant::now() + PAUSE);
        }
        None
    }
}

/// Reads for a master. Blocks.
pub(super) fn read_records(store: &Store, wanted: &[Extent]) -> ReadRecordsResponse {
    let reader = store.reader();
    let mut room = READ_BYTES_MAX;
    let read = |extent: &Extent| {
        let len = extent.len as usize;
        let Some(left) = room.checked_sub(len) else { return Bytes::new() };
        room = left;
        match reader.copy(extent.position, len) {
            Ok(Piece::Frames(bytes)) if bytes.len() == len => bytes,
            // Trimmed, damaged or not there yet.
            _ => Bytes::new(),
        }
    };
    ReadRecordsResponse { records: wanted.iter().map(read).collect() }
}
