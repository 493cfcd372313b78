//! Refusals: how a business error reaches a client.
//!
//! The protocol carries business errors as gRPC OK with a `Status` in the body; gRPC statuses are for transport
//! trouble. A [`Refusal`] is such an error on its way to the body of an answer.

use std::fmt::Display;

use kerolox_model::names::NameError;
use kerolox_model::token::TokenError;
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::ErrorKind;
use kerolox_proto::raw;
use kerolox_proto::v2::{self, Code};

use kerolox_runtime::listen::CallRefusal;

use crate::headers::ClientHeaders;

/// Why a request is refused: the protocol's code and a sentence that tells the user what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({})", code.as_str_name())]
pub struct Refusal {
    /// The protocol's code.
    pub code: Code,
    /// The problem, and its remedy.
    pub message: String,
}

impl Refusal {
    /// A refusal with `code` that tells the user `message`.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A topic name that cannot be used.
    pub fn illegal_topic(error: &NameError) -> Self {
        Self::new(Code::IllegalTopic, error.to_string())
    }

    /// A consumer group name that cannot be used.
    pub fn illegal_group(error: &NameError) -> Self {
        Self::new(Code::IllegalConsumerGroup, error.to_string())
    }

    /// A receipt handle that cannot be used, and why. The text begins as RocketMQ's does: clients and their tests look for that.
    pub fn invalid_receipt_handle(reason: impl Display) -> Self {
        Self::new(Code::InvalidReceiptHandle, format!("INVALID_RECEIPT_HANDLE: {reason}"))
    }

    /// An invisible duration below the minimum, in the words of RocketMQ and ours. Milliseconds.
    pub fn invisible_time_too_small(asked_ms: i64, min_ms: u64) -> Self {
        Self::new(
            Code::IllegalInvisibleTime,
            format!(
                "the invisibleTime is too small. min is {min_ms}. {asked_ms} ms were asked for; choose a duration that covers the \
                 time that processing takes"
            ),
        )
    }

    /// An invisible duration above the maximum, in the words of RocketMQ and ours. Milliseconds.
    pub fn invisible_time_too_large(asked_ms: i64, max_ms: u64) -> Self {
        Self::new(
            Code::IllegalInvisibleTime,
            format!(
                "the invisibleTime is too large. max is {max_ms}. {asked_ms} ms were asked for; choose a shorter duration, and \
                 prolong it while the message is being processed"
            ),
        )
    }

    /// A malformed or foreign transaction id.
    pub fn invalid_transaction_id(error: &TokenError) -> Self {
        Self::new(Code::InvalidTransactionId, error.to_string())
    }

    /// A malformed or foreign recall handle.
    pub fn invalid_recall_handle(error: &TokenError) -> Self {
        Self::new(Code::BadRequest, error.to_string())
    }

    /// A topic that no reachable broker has.
    pub fn topic_not_found(stored_name: &str) -> Self {
        Self::new(
            Code::TopicNotFound,
            format!(
                "no reachable broker has the topic {stored_name:?}; create it with `mqadmin updateTopic`, have brokers \
                 create topics with their first message (topics.auto-create = \"on\"), or wait until its broker is back"
            ),
        )
    }

    /// A topic that no live broker has, while the groups `without` have no master: whether they have it is unknown.
    pub fn no_master(stored_name: &str, without: &[&str]) -> Self {
        Self::new(
            Code::InternalServerError,
            format!(
                "whether there is a topic {stored_name:?} is not known: broker group {} has no master at the moment; try again, \
                 and look at `mqadmin clusterList` if that lasts",
                without.join(", ")
            ),
        )
    }

    /// A topic, while no broker at all is there.
    pub fn no_broker(stored_name: &str) -> Self {
        Self::new(
            Code::InternalServerError,
            format!(
                "whether there is a topic {stored_name:?} is not known: no broker that may be asked is there at the moment; \
                 start the brokers, or wait until they have registered (see `mqadmin clusterList`)"
            ),
        )
    }

    /// Whether a question about a topic was refused because no broker that is there has it: another one may.
    pub fn is_of_unknown_topic(&self) -> bool {
        matches!(self.code, Code::TopicNotFound | Code::InternalServerError)
    }

    /// An RPC or feature that this server does not offer.
    pub fn not_implemented(what: &str) -> Self {
        Self::new(Code::NotImplemented, format!("{what} is not offered by this server"))
    }

    /// The status for the body of an answer, in a code that the client knows.
    pub fn to_status(&self, headers: &ClientHeaders) -> v2::Status {
        v2::Status { code: for_client(self.code, headers).into(), message: self.message.clone() }
    }

    /// The gRPC error for streams that end with the refusal (Telemetry).
    pub fn to_grpc(&self) -> tonic::Status {
        let is_callers_fault = (40_000..50_000).contains(&i32::from(self.code));
        let grpc = if is_callers_fault { tonic::Code::InvalidArgument } else { tonic::Code::Internal };
        tonic::Status::new(grpc, self.message.clone())
    }

    /// A whole answer that carries nothing but this refusal.
    pub fn answer<R: Refusable>(&self, headers: &ClientHeaders) -> R {
        R::refused(self.to_status(headers))
    }
}

impl From<CallRefusal> for Refusal {
    fn from(refusal: CallRefusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

/// As a service of `kerolox.v1` tells it.
impl From<Refusal> for RpcError {
    fn from(refusal: Refusal) -> Self {
        let message = refusal.to_string();
        match refusal.code {
            Code::NotFound => Self::not_found(message),
            Code::BadRequest => Self::invalid(message),
            _ => Self::unavailable(message),
        }
    }
}

/// What a service of `kerolox.v1` refused, in the words of the SDKs' protocol.
impl From<RpcError> for Refusal {
    fn from(RpcError { kind, message }: RpcError) -> Self {
        let code = match kind {
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::Invalid => Code::BadRequest,
            ErrorKind::NotAllowed | ErrorKind::Stale | ErrorKind::Foreign => Code::PreconditionFailed,
            ErrorKind::Unavailable | ErrorKind::Internal | ErrorKind::Unspecified => {
                Code::InternalServerError
            }
        };
        Self::new(code, message)
    }
}

impl From<Refusal> for v2::Status {
    fn from(refusal: Refusal) -> Self {
        Self { code: refusal.code.into(), message: refusal.message }
    }
}

/// The status of success.
pub fn ok_status() -> v2::Status {
    v2::Status { code: Code::Ok.into(), message: "OK".to_owned() }
}

/// One status for several results, in their order: the common code, or MULTIPLE_RESULTS when they differ.
pub fn common_status<'a>(results: impl IntoIterator<Item = &'a v2::Status>) -> v2::Status {
    let mut results = results.into_iter();
    let Some(first) = results.next() else { return ok_status() };
    if results.all(|other| other.code == first.code) {
        first.clone()
    } else {
        v2::Status {
            code: Code::MultipleResults.into(),
            message: "the entries have different results; look at the status of each".to_owned(),
        }
    }
}

/// The code to send instead of `code` to a client that would not survive it.
///
/// The Rust SDK 5.0.0 panics on numbers that its protocol version did not have.
pub fn for_client(code: Code, headers: &ClientHeaders) -> Code {
    let knows_new_codes = !headers.is_official_rust();
    if knows_new_codes {
        return code;
    }
    match code {
        Code::MessageBodyEmpty => Code::MessageCorrupted,
        Code::IllegalOffset
        | Code::IllegalLiteTopic
        | Code::InvalidClientProperties
        | Code::PreconditionFailed => Code::BadRequest,
        Code::OffsetNotFound => Code::NotFound,
        Code::LiteTopicQuotaExceeded | Code::LiteSubscriptionQuotaExceeded => Code::TooManyRequests,
        known => known,
    }
}

/// An answer that can consist of a refusal alone.
pub trait Refusable: Sized {
    /// The answer that carries `status` and nothing else.
    fn refused(status: v2::Status) -> Self;
}

macro_rules! refusable {
    ($($answer:ident),* $(,)?) => {$(
        impl Refusable for v2::$answer {
            fn refused(status: v2::Status) -> Self {
                let mut answer = Self::default();
                answer.status = Some(status);
                answer
            }
        }
    )*};
}

refusable!(
    QueryRouteResponse,
    HeartbeatResponse,
    SendMessageResponse,
    QueryAssignmentResponse,
    AckMessageResponse,
    ForwardMessageToDeadLetterQueueResponse,
    UpdateOffsetResponse,
    GetOffsetResponse,
    QueryOffsetResponse,
    EndTransactionResponse,
    NotifyClientTerminationResponse,
    ChangeInvisibleDurationResponse,
    RecallMessageResponse,
    SyncLiteSubscriptionResponse,
    DescribeTopicStatusResponse,
    ListSubscriptionResponse,
    DescribeSubscriptionResponse,
    DeleteSubscriptionResponse,
    DescribeGroupAccumulationResponse,
    ListConsumerConnectionResponse,
    ResetGroupOffsetResponse,
    ListMessageResponse,
    PrintThreadStackTraceResponse,
    VerifyMessageResponse,
    AdminSendMessageResponse,
    GetConsumerRunningInfoResponse,
    GetTopicRouteResponse,
    QueryTimeSpanResponse,
);

impl Refusable for raw::ReceiveMessageResponse {
    fn refused(status: v2::Status) -> Self {
        Self { content: Some(raw::receive_message_response::Content::Status(status)) }
    }
}

impl Refusable for raw::PullMessageResponse {
    fn refused(status: v2::Status) -> Self {
        Self { content: Some(raw::pull_message_response::Content::Status(status)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(language: &str, version: &str) -> ClientHeaders {
        ClientHeaders { language: language.into(), version: version.into(), ..ClientHeaders::default() }
    }

    #[test]
    fn only_the_old_rust_sdk_gets_old_codes() {
        let old = client("RUST", "5.0.0");
        let too_new = [41302, 40019, 40020, 40021, 40404, 42800, 42901, 42902];
        for number in too_new {
            let code = Code::try_from(number).expect("a code of the protocol");
            assert!(!too_new.contains(&i32::from(for_client(code, &old))), "{number}");
            for other in [client("RUST", "5.1.0"), client("JAVA", "5.0.0"), ClientHeaders::default()] {
                assert_eq!(for_client(code, &other), code);
            }
        }
        assert_eq!(for_client(Code::TopicNotFound, &old), Code::TopicNotFound);
    }

    #[test]
    fn differing_results_are_multiple_results() {
        let ok = ok_status();
        let bad = v2::Status::from(Refusal::new(Code::InvalidReceiptHandle, "x"));
        assert_eq!(common_status([&ok, &ok]).code, i32::from(Code::Ok));
        assert_eq!(common_status([&bad, &bad]).code, i32::from(Code::InvalidReceiptHandle));
        assert_eq!(common_status([&ok, &bad]).code, i32::from(Code::MultipleResults));
    }

    #[test]
    fn streams_end_with_the_matching_grpc_code() {
        let caller = Refusal::new(Code::IllegalTopic, "x").to_grpc();
        let server = Refusal::new(Code::InternalServerError, "x").to_grpc();
        assert_eq!((caller.code(), server.code()), (tonic::Code::InvalidArgument, tonic::Code::Internal));
    }
}
