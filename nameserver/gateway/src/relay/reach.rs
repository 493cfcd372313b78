//! Reaching the master of a broker group, through an election if need be.
//!
//! A group with slaves has another master soon after one is lost. A call that was on its way to the lost one is made again, at
//! the other one, as the client itself would do it; so it may be carried out twice, as any call whose answer was lost.

use kerolox_proto::v2::Code;
use tokio::time::Instant;
use tonic::client::Grpc;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, KeyAndValueRef};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::under_way::CALL_NUMBER;
use super::{CallRelay, RELAYED, is_relayed};
use crate::refusal::Refusal;
use crate::routes::{BrokerAddress, ELECTION_WAIT, GroupMaster};

impl CallRelay {
    /// Makes a call at the master of the group `owner`. A group that is about to have another master is given a moment.
    ///
    /// # Errors
    /// INTERNAL_SERVER_ERROR when the call was passed on before, when there is no master, or when it cannot be reached;
    /// PROXY_TIMEOUT when it does not answer in time.
    pub(super) async fn reach<Q, R, F>(
        &self,
        owner: &str,
        request: Request<Q>,
        call: impl Fn(Grpc<Channel>, Request<Q>) -> F,
    ) -> Result<(BrokerAddress, R), Refusal>
    where
        Q: Clone,
        F: Future<Output = Result<Response<R>, Status>>,
    {
        if is_relayed(request.metadata()) {
            return Err(Refusal::new(
                Code::InternalServerError,
                format!(
                    "the call was passed on to a server that is not {owner:?} either; try again in a moment"
                ),
            ));
        }
        let deadline = Instant::now() + ELECTION_WAIT;
        loop {
            let master = self.master_of(owner, deadline).await.ok_or_else(|| not_there(owner))?;
            let broker = self.channels.client(&master.address, &self.routes)?;
            let answer = tokio::select! {
                answer = call(broker, pass_on(&request)) => answer,
                () = self.replaced(owner, &master) => continue,
            };
            match answer {
                Ok(answer) => return Ok((master.address, answer.into_inner())),
                Err(status)
                    if is_lost(&status) && self.routes.has_slaves(owner) && Instant::now() < deadline =>
                {
                    self.routes.look().await;
                }
                Err(status) => return Err(no_answer(owner, &master.address, &status)),
            }
        }
    }

    /// The master of a group. While any of its members is there, one is awaited: it is being elected.
    async fn master_of(&self, owner: &str, deadline: Instant) -> Option<GroupMaster> {
        loop {
            let master = self.routes.master(owner);
            if master.is_some() || Instant::now() >= deadline {
                return master;
            }
            if !self.routes.has_members(owner) {
                // One may have come between the two.
                return self.routes.master(owner);
            }
            self.routes.look().await;
        }
    }

    /// Completes when the group has another master than this one, which may stand still.
    async fn replaced(&self, owner: &str, master: &GroupMaster) {
        let mut changes = self.routes.changes();
        loop {
            changes.borrow_and_update();
            let now = self.routes.master(owner);
            if now.is_some_and(|now| now != *master && now.epoch >= master.epoch) {
                return;
            }
            // The sender lives as long as the routes.
            let _ = changes.changed().await;
        }
    }
}

/// Whether a call ended because its server was lost, or is no master. Business errors travel in the body.
fn is_lost(status: &Status) -> bool {
    use tonic::Code::{Aborted, Cancelled, Internal, Unavailable, Unknown};
    matches!(status.code(), Unavailable | Unknown | Internal | Cancelled | Aborted)
}

fn not_there(owner: &str) -> Refusal {
    Refusal::new(
        Code::InternalServerError,
        format!(
            "the broker group {owner:?}, which this call is for, is not there at the moment; try again later"
        ),
    )
}

/// The call as the owner gets it: with the client's own headers, its deadline, the mark against loops, and the number of a
/// receive.
pub(super) fn pass_on<Q: Clone>(request: &Request<Q>) -> Request<Q> {
    let mut passed_on = Request::new(request.get_ref().clone());
    let headers = passed_on.metadata_mut();
    for header in request.metadata().iter() {
        let KeyAndValueRef::Ascii(name, value) = header else { continue };
        if is_the_clients(name) {
            headers.append(name.clone(), value.clone());
        }
    }
    headers.insert(RELAYED, AsciiMetadataValue::from_static("1"));
    passed_on
}

/// Headers of the transport belong to each connection by itself; only these go on.
fn is_the_clients(name: &AsciiMetadataKey) -> bool {
    let name = name.as_str();
    name.starts_with("x-mq-") || name == "authorization" || name == "grpc-timeout" || name == CALL_NUMBER
}

/// What to tell the client when the owner gave a gRPC error instead of an answer.
pub(super) fn no_answer(owner: &str, address: &BrokerAddress, status: &Status) -> Refusal {
    let reason = status.message();
    match status.code() {
        tonic::Code::DeadlineExceeded | tonic::Code::Cancelled => Refusal::new(
            Code::ProxyTimeout,
            format!("the broker {owner:?} at {address} did not answer in time ({reason}); try again"),
        ),
        tonic::Code::Unimplemented => Refusal::new(
            Code::NotImplemented,
            format!("the broker {owner:?} at {address} does not offer this call ({reason})"),
        ),
        _ => Refusal::new(
            Code::InternalServerError,
            format!("the broker {owner:?} at {address} cannot be reached ({reason}); try again later"),
        ),
    }
}
