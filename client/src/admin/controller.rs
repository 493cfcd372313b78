//! The way to the controller in the nameservers, for brokers and for administrators.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kerolox_model::limits::{HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW};
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::controller_client as generated;
use kerolox_proto::kerolox::{
    AddNameserverRequest, AddNameserverResponse, ChangeInSyncRequest, ChangeInSyncResponse,
    DescribeGroupsRequest, DescribeGroupsResponse, DescribeLossRequest, DescribeQuorumRequest,
    DescribeQuorumResponse, ElectMasterRequest, ElectMasterResponse, ElectionLoss, ErrorKind,
    HandOverRequest, HandOverResponse, RemoveMemberRequest, RemoveMemberResponse, RemoveNameserverRequest,
    RemoveNameserverResponse, ReportRequest, ReportResponse, ResetGroupRequest, ResetGroupResponse,
};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::address::{Address, AddressError};

/// How long the connection to a nameserver may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a call may take, besides the time that it asks the controller to wait.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(2);
/// A connection over which nothing has come for this long is tried; after as long again it is given up.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How long a change among the nameservers may take: a new one fetches everything first.
const QUORUM_TIMEOUT: Duration = Duration::from_secs(20);

/// A connection to the nameserver at `address` (`host:port`), made with the first call and again when it breaks.
///
/// # Errors
/// [`AddressError`] when the address cannot be understood.
pub fn connection(address: &str) -> Result<Channel, AddressError> {
    let parsed: Address = address.parse()?;
    let endpoint = Endpoint::from_shared(format!("http://{parsed}"));
    let endpoint = endpoint.map_err(|_| AddressError::malformed(address))?;
    let endpoint = endpoint.connect_timeout(CONNECT_TIMEOUT);
    Ok(endpoint
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(HTTP2_STREAM_WINDOW)
        .initial_connection_window_size(HTTP2_CONNECTION_WINDOW)
        .connect_lazy())
}

/// Calls the controller by whichever nameserver answers. Each call begins with the nameserver that answered last and goes
/// once around. A call that changes something may have been carried out although its answer was lost; all of them may be
/// repeated.
pub struct ControllerClient {
    nameservers: Vec<(String, generated::ControllerClient<Channel>)>,
    /// Index of the nameserver that answered last.
    current: AtomicUsize,
}

/// Declares a method for each call of the service.
macro_rules! calls {
    ($($(#[$doc:meta])* $name:ident($request:ident) -> $response:ident, $timeout:expr;)+) => {
        impl ControllerClient {
            $(
                $(#[$doc])*
                ///
                /// # Errors
                /// What the controller refused ([`RpcError::read`]); UNAVAILABLE or DEADLINE_EXCEEDED when no nameserver could answer.
                pub async fn $name(&self, request: $request) -> Result<$response, Status> {
                    let timeout: fn(&$request) -> Duration = $timeout;
                    let patience = timeout(&request);
                    let mut round = Round::of(self);
                    while let Some(mut client) = round.next() {
                        let mut call = Request::new(request.clone());
                        call.set_timeout(patience);
                        // The server is told the limit as well; this one holds when it does not keep it.
                        let answer = tokio::time::timeout(patience, client.$name(call)).await;
                        let answer = answer.unwrap_or_else(|_| {
                            Err(Status::deadline_exceeded(format!("no answer within {patience:?}")))
                        });
                        if let Some(outcome) = round.outcome(answer) {
                            return outcome;
                        }
                    }
                    Err(round.failure)
                }
            )+
        }
    };
}

calls! {
    /// A member's sign of life, which waits as long as it says.
    report(ReportRequest) -> ReportResponse,
        |request| CALL_TIMEOUT + Duration::from_millis(request.wait_ms.into());
    /// The master asks for another in-sync set.
    change_in_sync(ChangeInSyncRequest) -> ChangeInSyncResponse, |_| CALL_TIMEOUT;
    /// The master gives up its leadership.
    hand_over(HandOverRequest) -> HandOverResponse, |_| CALL_TIMEOUT;
    /// All groups and their members.
    describe_groups(DescribeGroupsRequest) -> DescribeGroupsResponse, |_| CALL_TIMEOUT;
    /// An administrator's election.
    elect_master(ElectMasterRequest) -> ElectMasterResponse, |_| CALL_TIMEOUT;
    /// The losses of an election by force.
    describe_loss(DescribeLossRequest) -> ElectionLoss, |_| CALL_TIMEOUT;
    /// Lets a group whose data folders are all gone begin without messages.
    reset_group(ResetGroupRequest) -> ResetGroupResponse, |_| CALL_TIMEOUT;
    /// Takes a dead member out of its group.
    remove_member(RemoveMemberRequest) -> RemoveMemberResponse, |_| CALL_TIMEOUT;
    /// The nameservers that decide.
    describe_quorum(DescribeQuorumRequest) -> DescribeQuorumResponse, |_| CALL_TIMEOUT;
    /// Adds a nameserver, or notes another address of one.
    add_nameserver(AddNameserverRequest) -> AddNameserverResponse, |_| QUORUM_TIMEOUT;
    /// Takes a nameserver out.
    remove_nameserver(RemoveNameserverRequest) -> RemoveNameserverResponse, |_| QUORUM_TIMEOUT;
}

impl ControllerClient {
    /// A client of the nameservers at these addresses (`host:port`). Connects with the first call.
    ///
    /// # Errors
    /// [`AddressError`] when an address cannot be understood.
    pub fn new(nameservers: &[String]) -> Result<Self, AddressError> {
        let clients = nameservers.iter().map(|address| {
            let client = generated::ControllerClient::new(connection(address)?);
            Ok((address.clone(), client.max_decoding_message_size(usize::MAX)))
        });
        Ok(Self { nameservers: clients.collect::<Result<_, _>>()?, current: AtomicUsize::new(0) })
    }

    /// How many nameservers it knows.
    pub fn nameservers(&self) -> usize {
        self.nameservers.len()
    }

    /// Has the next call begin with another nameserver than the one that answered last.
    pub fn turn_to_next(&self) {
        let next = (self.current.load(Ordering::Relaxed) + 1) % self.nameservers.len().max(1);
        self.current.store(next, Ordering::Relaxed);
    }
}

/// One call's way around the nameservers.
struct Round<'a> {
    client: &'a ControllerClient,
    first: usize,
    turn: usize,
    failure: Status,
}

impl<'a> Round<'a> {
    fn of(client: &'a ControllerClient) -> Self {
        let first = client.current.load(Ordering::Relaxed);
        Self { client, first, turn: 0, failure: Status::unavailable("no nameserver is configured") }
    }

    fn index(&self, turn: usize) -> usize {
        (self.first + turn) % self.client.nameservers.len()
    }

    /// The next one to be asked.
    fn next(&mut self) -> Option<generated::ControllerClient<Channel>> {
        if self.turn == self.client.nameservers.len() {
            return None;
        }
        self.turn += 1;
        Some(self.client.nameservers[self.index(self.turn - 1)].1.clone())
    }

    /// The outcome of the call, or `None` when the next nameserver is to be asked.
    fn outcome<A>(&mut self, answer: Result<tonic::Response<A>, Status>) -> Option<Result<A, Status>> {
        let index = self.index(self.turn - 1);
        match answer {
            Ok(answer) => {
                self.client.current.store(index, Ordering::Relaxed);
                Some(Ok(answer.into_inner()))
            }
            Err(status) if !is_elsewhere(&status) => Some(Err(status)),
            Err(status) => {
                let message =
                    format!("nameserver {}: {}", self.client.nameservers[index].0, status.message());
                // What a service decided stays told from trouble on the way.
                self.failure = match RpcError::read(&status) {
                    Some(RpcError { kind, .. }) => RpcError { kind, message }.into(),
                    None => Status::new(status.code(), message),
                };
                None
            }
        }
    }
}

/// Whether another nameserver may do better.
fn is_elsewhere(status: &Status) -> bool {
    match RpcError::read(status) {
        Some(refusal) => refusal.kind == ErrorKind::Unavailable,
        None => matches!(
            status.code(),
            Code::Unavailable
                | Code::DeadlineExceeded
                | Code::Cancelled
                | Code::Unknown
                | Code::Unimplemented
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> ControllerClient {
        ControllerClient::new(&["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()]).expect("addresses")
    }

    #[tokio::test]
    async fn only_a_nameserver_that_cannot_decide_sends_the_call_on() {
        let client = client();
        let mut round = Round::of(&client);
        round.next().expect("the first");
        assert!(round.outcome::<()>(Err(RpcError::unavailable("no leader").into())).is_none());
        let told = RpcError::read(&round.failure).expect("it stays a refusal");
        assert_eq!(
            (told.kind, told.message.as_str()),
            (ErrorKind::Unavailable, "nameserver 127.0.0.1:1: no leader")
        );
        round.next().expect("the second");
        assert!(round.outcome::<()>(Err(Status::unavailable("broken"))).is_none());
        assert_eq!(RpcError::read(&round.failure), None);
        for decided in [RpcError::stale("x"), RpcError::internal("x"), RpcError::not_allowed("x")] {
            let outcome = round.outcome::<()>(Err(decided.clone().into())).expect("no other one is asked");
            assert_eq!(RpcError::read(&outcome.expect_err("refused")), Some(decided));
        }
    }
}
