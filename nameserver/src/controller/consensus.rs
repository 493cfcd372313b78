//! The service that nameservers call each other by.

use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::consensus_server::{Consensus, ConsensusServer};
use kerolox_proto::kerolox::{ConsensusRequest, ConsensusResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Request, Response, Status};

use super::network::{CONSENSUS_MESSAGE_BYTES_MAX, TARGET_HEADER, kind};
use super::types::Raft;

/// Hands calls to the consensus.
pub(crate) struct ConsensusService {
    raft: Raft,
    id: u64,
}

impl ConsensusService {
    pub(super) fn server(raft: Raft, id: u64) -> ConsensusServer<Self> {
        ConsensusServer::new(Self { raft, id })
            .max_decoding_message_size(CONSENSUS_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(CONSENSUS_MESSAGE_BYTES_MAX)
    }

    fn check_target(&self, request: &Request<ConsensusRequest>) -> Result<(), RpcError> {
        let target = request.metadata().get(TARGET_HEADER).and_then(|value| value.to_str().ok());
        if target.and_then(|target| target.parse().ok()) == Some(self.id) {
            return Ok(());
        }
        let target = target.unwrap_or("?");
        let text = format!(
            "this is nameserver {}, not {target}; check --id and --peers, and mqadmin controllerStatus",
            self.id
        );
        Err(RpcError::foreign(text))
    }
}

#[tonic::async_trait]
impl Consensus for ConsensusService {
    async fn call(&self, request: Request<ConsensusRequest>) -> Result<Response<ConsensusResponse>, Status> {
        self.check_target(&request)?;
        let ConsensusRequest { kind, body } = request.into_inner();
        let body = match kind.as_str() {
            kind::APPEND => encode(&self.raft.append_entries(decode(&body)?).await),
            kind::VOTE => encode(&self.raft.vote(decode(&body)?).await),
            kind::SNAPSHOT => encode(&self.raft.install_snapshot(decode(&body)?).await),
            _ => Err(RpcError::invalid(format!("no call of the consensus is named {kind:?}"))),
        }?;
        Ok(Response::new(ConsensusResponse { body }))
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T, RpcError> {
    serde_json::from_slice(body)
        .map_err(|error| RpcError::invalid(format!("the call cannot be read: {error}")))
}

fn encode<T: Serialize>(outcome: &T) -> Result<Vec<u8>, RpcError> {
    serde_json::to_vec(outcome)
        .map_err(|error| RpcError::internal(format!("the answer cannot be written: {error}")))
}
