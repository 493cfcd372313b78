//! The nameservers that decide: who they are, who leads, who comes and goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kerolox_client::admin::controller::CALL_TIMEOUT;
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::controller_client::ControllerClient;
use kerolox_proto::kerolox::{DescribeQuorumRequest, DescribeQuorumResponse, NameserverMember};
use openraft::error::ClientWriteError;
use openraft::{BasicNode, ChangeMembers};
use tonic::Request;
use tonic::metadata::MetadataValue;
use tonic::transport::Channel;

use super::network::Network;
use super::service::RELAYED_HEADER;
use super::types::{Metrics, Raft};

/// How long a nameserver that is added may take to fetch everything.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a nameserver may take to show that it is alive: several heartbeats.
const SIGN_OF_LIFE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a change of the members may take.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// This nameserver's view of all of them.
#[derive(Clone)]
pub(super) struct Quorum {
    pub(super) id: u64,
    pub(super) raft: Raft,
    pub(super) network: Network,
}

impl Quorum {
    /// Number of this nameserver.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Who leads, as far as this nameserver knows.
    pub(super) fn leader(&self) -> Option<u64> {
        self.raft.metrics().borrow().current_leader
    }

    pub(super) fn seen(&self) -> Metrics {
        self.raft.metrics().borrow().clone()
    }

    /// The way to another nameserver's controller.
    pub(super) fn client(&self, id: u64) -> Result<ControllerClient<Channel>, RpcError> {
        let seen = self.seen();
        let address = seen.membership_config.membership().get_node(&id).map(|node| node.addr.clone());
        let address = address.ok_or_else(|| {
            RpcError::unavailable(format!("nameserver {id} leads, but its address is not known here"))
        })?;
        self.client_at(&address)
    }

    fn client_at(&self, address: &str) -> Result<ControllerClient<Channel>, RpcError> {
        let client = ControllerClient::new(self.network.channel(address)?);
        Ok(client.max_decoding_message_size(usize::MAX))
    }

    /// The reason in words, for callers and health checks.
    pub(super) fn why_no_leader(&self) -> String {
        let seen = self.seen();
        let voters: Vec<u64> = seen.membership_config.membership().voter_ids().collect();
        if voters.is_empty() {
            return format!(
                "nameserver {} waits to be added to others that decide; add it with mqadmin controllerAdd",
                self.id
            );
        }
        let silent: Vec<String> = voters
            .iter()
            .filter(|id| self.network.answers(**id) == Some(false))
            .map(|id| self.label(&seen, *id))
            .collect();
        let total = voters.len();
        match silent.as_slice() {
            [] => format!("no nameserver of {total} leads; an election is under way"),
            _ => format!(
                "no nameserver leads: {} of {total} do not answer; start {}",
                silent.len(),
                silent.join(", ")
            ),
        }
    }

    fn label(&self, seen: &Metrics, id: u64) -> String {
        match seen.membership_config.membership().get_node(&id) {
            Some(node) => format!("nameserver {id} ({})", node.addr),
            None => format!("nameserver {id}"),
        }
    }

    /// All nameservers as this one sees them.
    pub(super) fn describe(&self) -> DescribeQuorumResponse {
        let seen = self.seen();
        let membership = seen.membership_config.membership();
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let behind = |id: u64| {
            let replication = seen.replication.as_ref()?;
            let has = replication.get(&id).copied().flatten().map_or(0, |upto| upto.index + 1);
            Some(seen.last_log_index.map_or(0, |last| last + 1).saturating_sub(has))
        };
        let members = membership.nodes().map(|(id, node)| NameserverMember {
            id: *id,
            address: node.addr.clone(),
            leads: seen.current_leader == Some(*id),
            votes: voters.contains(id),
            behind: behind(*id),
        });
        DescribeQuorumResponse { members: members.collect(), answered_by: self.id, term: seen.current_term }
    }

    /// Adds a nameserver, or notes its address. Only the leader can.
    pub(super) async fn add(&self, id: u64, address: &str) -> Result<(), RpcError> {
        if id == 0 {
            return Err(RpcError::invalid("ids of nameservers begin with 1"));
        }
        let seen = self.seen();
        let membership = seen.membership_config.membership();
        let node = BasicNode::new(address);
        let is_voter = membership.voter_ids().any(|voter| voter == id);
        if is_voter && membership.get_node(&id) == Some(&node) {
            return Ok(());
        }
        self.check_candidate(&seen, id, address).await?;
        if membership.get_node(&id).is_some() {
            self.change(ChangeMembers::SetNodes(BTreeMap::from([(id, node)]))).await?;
            if is_voter {
                return Ok(());
            }
        } else {
            self.catch_up(id, node).await?;
        }
        self.change(ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await?;
        tracing::info!(id, address, "nameserver added");
        Ok(())
    }

    /// The nameserver at the address must be the one that is meant, and must not have decided anything with others.
    async fn check_candidate(&self, seen: &Metrics, id: u64, address: &str) -> Result<(), RpcError> {
        let refused = |text: String| Err(RpcError::not_allowed(text));
        let nodes = seen.membership_config.membership();
        let is_local = |address: &str| address.starts_with("127.") || address.starts_with("localhost:");
        if let Some((other, node)) = nodes.nodes().find(|(_, node)| is_local(&node.addr) != is_local(address))
        {
            return refused(format!(
                "{address} and the address {} of nameserver {other} cannot be reached from the same machines; give the \
                 nameservers addresses that all of them reach, with --advertise or mqadmin controllerAdd",
                node.addr
            ));
        }
        let mut request = Request::new(DescribeQuorumRequest {});
        request.metadata_mut().insert(RELAYED_HEADER, MetadataValue::from_static("1"));
        request.set_timeout(CALL_TIMEOUT);
        let answer = self.client_at(address)?.describe_quorum(request).await;
        let answer = answer.map_err(|status| {
            let text = format!(
                "no nameserver answers at {address}: {}; start it with --join --id {id}",
                status.message()
            );
            RpcError::unavailable(text)
        })?;
        let answer = answer.into_inner();
        if answer.answered_by != id {
            return refused(format!(
                "the nameserver at {address} has the id {}, not {id}",
                answer.answered_by
            ));
        }
        let is_ours = |member: &NameserverMember| {
            nodes.get_node(&member.id).is_some_and(|node| node.addr == member.address)
        };
        if !answer.members.is_empty() && !answer.members.iter().any(is_ours) {
            return refused(format!(
                "the nameserver at {address} already decides by itself or with others; stop it, empty its data folder and \
                 start it with --join --id {id}"
            ));
        }
        Ok(())
    }

    /// Has a nameserver fetch everything before it votes; otherwise it would be missing from every majority for a while.
    async fn catch_up(&self, id: u64, node: BasicNode) -> Result<(), RpcError> {
        let address = node.addr.clone();
        match tokio::time::timeout(CATCH_UP_TIMEOUT, self.raft.add_learner(id, node, true)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(RpcError::unavailable(format!("nameserver {id} cannot be added: {error}"))),
            Err(_) => {
                self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await?;
                let text = format!(
                    "nameserver {id} at {address} did not fetch what was decided within {CATCH_UP_TIMEOUT:?}; look at its \
                     log and try again"
                );
                Err(RpcError::unavailable(text))
            }
        }
    }

    /// Takes a nameserver out. Only the leader can.
    pub(super) async fn remove(&self, id: u64) -> Result<(), RpcError> {
        let seen = self.seen();
        let membership = seen.membership_config.membership();
        if membership.get_node(&id).is_none() {
            return Err(RpcError::not_found(format!(
                "no nameserver has the id {id}; see mqadmin controllerStatus"
            )));
        }
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        if voters.contains(&id) {
            let others: BTreeSet<u64> = voters.into_iter().filter(|voter| *voter != id).collect();
            self.check_remaining(&seen, &others).await?;
            self.change(ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await?;
        } else {
            self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await?;
        }
        tracing::info!(id, "nameserver removed");
        Ok(())
    }

    /// Without a majority of those that remain, the change would never be over, and nothing could be decided any longer.
    async fn check_remaining(&self, seen: &Metrics, others: &BTreeSet<u64>) -> Result<(), RpcError> {
        if others.is_empty() {
            return Err(RpcError::not_allowed("the last nameserver cannot be taken out"));
        }
        let peers: BTreeSet<u64> = others.iter().copied().filter(|id| *id != self.id).collect();
        // The last answer of one that died just now was a good one.
        let answering = self.network.answering(&peers, SIGN_OF_LIFE_TIMEOUT).await;
        let is_there = |id: &&u64| **id == self.id || answering.contains(*id);
        let (there, gone): (Vec<&u64>, Vec<&u64>) = others.iter().partition(is_there);
        if there.len() > others.len() / 2 {
            return Ok(());
        }
        let gone: Vec<String> = gone.into_iter().map(|id| self.label(seen, *id)).collect();
        let text = format!(
            "only {} of the {} nameservers that would remain answer, which is no majority; start {} first",
            there.len(),
            others.len(),
            gone.join(", ")
        );
        Err(RpcError::not_allowed(text))
    }

    /// Changes the members. Who leaves is forgotten altogether.
    pub(super) async fn change(&self, change: ChangeMembers<u64, BasicNode>) -> Result<(), RpcError> {
        match tokio::time::timeout(CHANGE_TIMEOUT, self.raft.change_membership(change, false)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => match error.into_api_error() {
                Some(ClientWriteError::ChangeMembershipError(error)) => {
                    Err(RpcError::not_allowed(format!("the nameservers cannot change like that: {error}")))
                }
                Some(error) => Err(RpcError::unavailable(error.to_string())),
                None => Err(RpcError::unavailable("the controller of this nameserver has stopped")),
            },
            Err(_) => Err(RpcError::unavailable(format!(
                "the nameservers did not agree on the change within {CHANGE_TIMEOUT:?}; see mqadmin controllerStatus"
            ))),
        }
    }
}
