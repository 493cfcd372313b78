//! Calls from one nameserver to another.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_client::admin::controller::connection;
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::ConsensusRequest;
use kerolox_proto::kerolox::consensus_client::ConsensusClient;
use openraft::error::{InstallSnapshotError, NetworkError, RPCError, RaftError, RemoteError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, InstallSnapshotRequest, InstallSnapshotResponse,
    VoteRequest, VoteResponse,
};
use openraft::{AnyError, BasicNode};
use parking_lot::Mutex;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use super::types::Types;

/// Header with the number of the nameserver that a call is for: an address may have gone to another one.
pub(super) const TARGET_HEADER: &str = "x-kerolox-nameserver";
/// Pause before a nameserver that does not answer is called again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Kinds of calls.
pub(super) mod kind {
    pub(crate) const APPEND: &str = "append";
    pub(crate) const VOTE: &str = "vote";
    pub(crate) const SNAPSHOT: &str = "snapshot";
}

/// How a call to another nameserver ended.
#[derive(Clone, Copy)]
struct LastCall {
    began: Instant,
    is_answered: bool,
}

/// Connections to the other nameservers, and which of them answer.
#[derive(Clone, Default)]
pub(super) struct Network {
    channels: Arc<Mutex<BTreeMap<String, Channel>>>,
    calls: Arc<watch::Sender<BTreeMap<u64, LastCall>>>,
}

impl Network {
    /// A connection to `address`, one for everybody.
    pub(super) fn channel(&self, address: &str) -> Result<Channel, RpcError> {
        let mut channels = self.channels.lock();
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = connection(address).map_err(|error| RpcError::unavailable(error.to_string()))?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }

    /// Whether this nameserver answered when it was last called; `None` when it was never called.
    pub(super) fn answers(&self, id: u64) -> Option<bool> {
        self.calls.borrow().get(&id).map(|call| call.is_answered)
    }

    /// Which of these nameservers answer a call that begins from now on, as a leader makes them all the time. Those that were not
    /// called within `patience` do not.
    pub(super) async fn answering(&self, ids: &BTreeSet<u64>, patience: Duration) -> BTreeSet<u64> {
        let asked = Instant::now();
        let mut calls = self.calls.subscribe();
        let later = |call: &LastCall| call.began >= asked;
        let all_called =
            |calls: &BTreeMap<u64, LastCall>| ids.iter().all(|id| calls.get(id).is_some_and(later));
        drop(tokio::time::timeout(patience, calls.wait_for(all_called)).await);
        let calls = self.calls.borrow();
        let answers = |id: &&u64| calls.get(id).is_some_and(|call| later(call) && call.is_answered);
        ids.iter().filter(answers).copied().collect()
    }

    fn note(&self, id: u64, began: Instant, is_answered: bool) {
        self.calls.send_modify(|calls| {
            calls.insert(id, LastCall { began, is_answered });
        });
    }
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &BasicNode) -> Peer {
        Peer { network: self.clone(), target, address: node.addr.clone() }
    }
}

/// Another nameserver.
pub(super) struct Peer {
    network: Network,
    target: u64,
    address: String,
}

type Failure<E> = RPCError<u64, BasicNode, RaftError<u64, E>>;

impl Peer {
    async fn call<Q, A, E>(&self, kind: &str, request: &Q, option: &RPCOption) -> Result<A, Failure<E>>
    where
        Q: Serialize,
        A: DeserializeOwned,
        E: std::error::Error + DeserializeOwned,
    {
        let body = serde_json::to_vec(request).map_err(|error| NetworkError::new(&error))?;
        let mut request = Request::new(ConsensusRequest { kind: kind.to_owned(), body });
        request.metadata_mut().insert(TARGET_HEADER, MetadataValue::from(self.target));
        request.set_timeout(option.hard_ttl());
        let began = Instant::now();
        let answer = match self.network.channel(&self.address) {
            Ok(channel) => with_limits(ConsensusClient::new(channel)).call(request).await,
            Err(error) => Err(error.into()),
        };
        self.network.note(self.target, began, answer.is_ok());
        let answer = answer.map_err(|status| unanswered(&status))?.into_inner();
        let outcome: Result<A, RaftError<u64, E>> =
            serde_json::from_slice(&answer.body).map_err(|error| NetworkError::new(&error))?;
        outcome.map_err(|error| RPCError::RemoteError(RemoteError::new(self.target, error)))
    }
}

/// Largest message between nameservers. Snapshots come in parts of 3 MiB, which as text are up to four times as long; entries are
/// small, and some hundreds of them go together.
pub(super) const CONSENSUS_MESSAGE_BYTES_MAX: usize = 64 << 20;

fn with_limits(client: ConsensusClient<Channel>) -> ConsensusClient<Channel> {
    client
        .max_decoding_message_size(CONSENSUS_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(CONSENSUS_MESSAGE_BYTES_MAX)
}

/// One that cannot be reached gets a pause; anything else is tried again at once.
fn unanswered<E: std::error::Error>(status: &Status) -> Failure<E> {
    match status.code() {
        Code::DeadlineExceeded | Code::Cancelled => NetworkError::new(status).into(),
        _ => Unreachable::from(AnyError::new(status)).into(),
    }
}

impl RaftNetwork<Types> for Peer {
    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        self.call(kind::APPEND, &request, &option).await
    }

    async fn install_snapshot(
        &mut self,
        request: InstallSnapshotRequest<Types>,
        option: RPCOption,
    ) -> Result<InstallSnapshotResponse<u64>, RPCError<u64, BasicNode, RaftError<u64, InstallSnapshotError>>>
    {
        self.call(kind::SNAPSHOT, &request, &option).await
    }

    async fn vote(
        &mut self,
        request: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, BasicNode, RaftError<u64>>> {
        self.call(kind::VOTE, &request, &option).await
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(RETRY_PAUSE))
    }
}
