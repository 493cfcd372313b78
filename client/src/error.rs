//! What can go wrong, and whether trying again makes sense.

use crate::address::AddressError;
use kerolox_proto::errors::RpcError;
use kerolox_proto::kerolox::ErrorKind;
use kerolox_proto::v2;
use std::fmt;
use std::time::Duration;

/// Result of this crate's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server understood the request and refused it. The message is the server's and says what to do.
    #[error("{endpoint} answered {code}: {message}")]
    Server {
        /// The server that answered.
        endpoint: String,
        /// The protocol's code.
        code: Code,
        /// The server's explanation.
        message: String,
    },
    /// No connection could be made; the request was never sent.
    #[error(
        "cannot connect to {endpoint}: {reason}; check that the server runs and that the address is right"
    )]
    Unreachable {
        /// The server that was called.
        endpoint: String,
        /// What the network said.
        reason: String,
    },
    /// The connection broke or the transport failed; the server may or may not have acted.
    #[error("the call to {endpoint} broke off: {reason}")]
    Broken {
        /// The server that was called.
        endpoint: String,
        /// What the transport said.
        reason: String,
    },
    /// No answer in time; the server may or may not have acted.
    #[error("{endpoint} did not answer within {after:?}")]
    Timeout {
        /// The server that was called.
        endpoint: String,
        /// How long the client waited.
        after: Duration,
    },
    /// The topic has no queue that can be used for this.
    #[error(
        "topic {topic:?} has no {purpose} queue at the moment; check its permission and that its brokers run"
    )]
    NoQueue {
        /// The topic.
        topic: String,
        /// "writable" or "readable".
        purpose: &'static str,
    },
    /// The answer does not follow the protocol.
    #[error("{endpoint} sent an answer that breaks the protocol: {what}")]
    Protocol {
        /// The server that answered.
        endpoint: String,
        /// The mistake in the answer.
        what: &'static str,
    },
    /// The call cannot work as it is; the text says what to change. Nothing was sent.
    #[error("{0}")]
    Invalid(String),
}

impl Error {
    /// The protocol's code, when a server refused the request.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Server { code, .. } => Some(*code),
            _ => None,
        }
    }

    /// Whether the same call may succeed when it is repeated, perhaps on another broker.
    pub fn is_retryable(&self) -> bool {
        match self {
            Error::Server { code, .. } => code.is_retryable(),
            Error::Unreachable { .. }
            | Error::Broken { .. }
            | Error::Timeout { .. }
            | Error::NoQueue { .. } => true,
            Error::Protocol { .. } | Error::Invalid(_) => false,
        }
    }

    /// Whether the server may have carried out the request although the call failed.
    pub fn may_have_taken_effect(&self) -> bool {
        match self {
            // Persistence and replication timeouts: the message is in the log, its safety is not confirmed.
            Error::Server { code, .. } => (50000..60000).contains(&code.0) && code.is_retryable(),
            Error::Broken { .. } | Error::Timeout { .. } | Error::Protocol { .. } => true,
            Error::Unreachable { .. } | Error::NoQueue { .. } | Error::Invalid(_) => false,
        }
    }

    /// Whether the failure speaks against the server itself rather than against the request.
    pub(crate) fn is_transport(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::Broken { .. } | Error::Timeout { .. })
    }

    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Error::Invalid(text.into())
    }

    /// Translates what the gRPC layer reports about a call to `endpoint` with the time limit `limit`.
    pub(crate) fn from_grpc(endpoint: &str, limit: Duration, status: &tonic::Status) -> Self {
        let endpoint = endpoint.to_owned();
        let reason = || deepest_reason(status);
        if let Some(RpcError { kind, message }) = RpcError::read(status) {
            let code = match kind {
                ErrorKind::Invalid => v2::Code::BadRequest,
                ErrorKind::NotFound => v2::Code::NotFound,
                ErrorKind::NotAllowed | ErrorKind::Stale | ErrorKind::Foreign => v2::Code::PreconditionFailed,
                ErrorKind::Unavailable | ErrorKind::Internal | ErrorKind::Unspecified => {
                    v2::Code::InternalError
                }
            };
            return Error::Server { endpoint, code: code.into(), message };
        }
        match status.code() {
            _ if caused_by::<tonic::ConnectError>(status) => {
                Error::Unreachable { endpoint, reason: reason() }
            }
            _ if caused_by::<tonic::TimeoutExpired>(status) => Error::Timeout { endpoint, after: limit },
            tonic::Code::DeadlineExceeded => Error::Timeout { endpoint, after: limit },
            tonic::Code::Unimplemented => {
                let message = match status.message() {
                    "" => "the server does not know this call".to_owned(),
                    text => text.to_owned(),
                };
                Error::Server { endpoint, code: v2::Code::NotImplemented.into(), message }
            }
            tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Error::Server {
                endpoint,
                code: v2::Code::BadRequest.into(),
                message: status.message().to_owned(),
            },
            tonic::Code::ResourceExhausted => Error::Server {
                endpoint,
                code: v2::Code::PayloadTooLarge.into(),
                message: status.message().to_owned(),
            },
            tonic::Code::Unauthenticated | tonic::Code::PermissionDenied => Error::Server {
                endpoint,
                code: v2::Code::Unauthorized.into(),
                message: status.message().to_owned(),
            },
            _ => Error::Broken { endpoint, reason: reason() },
        }
    }
}

impl From<AddressError> for Error {
    fn from(error: AddressError) -> Self {
        Error::Invalid(error.to_string())
    }
}

fn sources(error: &dyn std::error::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(error.source(), |error| error.source())
}

fn caused_by<E: std::error::Error + 'static>(status: &tonic::Status) -> bool {
    sources(status).any(|source| source.is::<E>())
}

/// The innermost cause says most ("Connection refused"); the outer ones repeat "transport error".
fn deepest_reason(status: &tonic::Status) -> String {
    sources(status)
        .last()
        .map_or_else(|| format!("{:?} {}", status.code(), status.message()), ToString::to_string)
}

/// A code of the protocol; unknown numbers of newer servers are kept as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub i32);

/// Codes that applications may want to tell apart; the protocol has more.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:ident),+ $(,)?) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self(v2::Code::$code as i32);)+
        }
    };
}

codes! {
    /// The request makes no sense as it is.
    BAD_REQUEST = BadRequest,
    /// The topic's name is none, or it cannot be used for this.
    ILLEGAL_TOPIC = IllegalTopic,
    /// The consumer group's name is none, or it cannot be used for this.
    ILLEGAL_CONSUMER_GROUP = IllegalConsumerGroup,
    /// The delivery time is too far away.
    ILLEGAL_DELIVERY_TIME = IllegalDeliveryTime,
    /// The invisible duration is too short or too long.
    ILLEGAL_INVISIBLE_TIME = IllegalInvisibleTime,
    /// The offset is outside the queue.
    ILLEGAL_OFFSET = IllegalOffset,
    /// The delivery has ended: another consumer has the message, or the group is done with it.
    INVALID_RECEIPT_HANDLE = InvalidReceiptHandle,
    /// There is no such transaction, or it was decided otherwise.
    INVALID_TRANSACTION_ID = InvalidTransactionId,
    /// The topic does not take messages of this type.
    MESSAGE_PROPERTY_CONFLICT_WITH_TYPE = MessagePropertyConflictWithType,
    /// The signature is missing or wrong, or its owner may not do this.
    UNAUTHORIZED = Unauthorized,
    /// The topic or group forbids this.
    FORBIDDEN = Forbidden,
    /// What was asked for is not there.
    NOT_FOUND = NotFound,
    /// There is no such message.
    MESSAGE_NOT_FOUND = MessageNotFound,
    /// There is no such topic.
    TOPIC_NOT_FOUND = TopicNotFound,
    /// There is no such consumer group.
    CONSUMER_GROUP_NOT_FOUND = ConsumerGroupNotFound,
    /// The group has no offset there.
    OFFSET_NOT_FOUND = OffsetNotFound,
    /// The body is larger than the server or the topic takes.
    MESSAGE_BODY_TOO_LARGE = MessageBodyTooLarge,
    /// The server is busy: try again later.
    TOO_MANY_REQUESTS = TooManyRequests,
    /// The client subscribes to as many lite topics as it may.
    LITE_SUBSCRIPTION_QUOTA_EXCEEDED = LiteSubscriptionQuotaExceeded,
    /// Too few members of the broker group are in sync.
    HA_NOT_AVAILABLE = HaNotAvailable,
    /// The server does not know this call.
    NOT_IMPLEMENTED = NotImplemented,
    /// The server does not do this.
    UNSUPPORTED = Unsupported,
}

impl Code {
    /// Whether the request may succeed when it is repeated.
    pub fn is_retryable(self) -> bool {
        match self.0 {
            40800 | 42900 => true,
            // 501xx and 505xx: the server will never be able to do it.
            50100..50200 | 50500..50600 => false,
            50000..60000 => true,
            _ => false,
        }
    }

    /// Whether the server asks to slow down.
    pub fn is_throttled(self) -> bool {
        self == v2::Code::TooManyRequests
    }

    /// Whether the thing that was asked for does not exist (404xx).
    pub fn is_not_found(self) -> bool {
        (40400..40500).contains(&self.0)
    }
}

impl From<v2::Code> for Code {
    fn from(code: v2::Code) -> Self {
        Code(code.into())
    }
}

impl PartialEq<v2::Code> for Code {
    fn eq(&self, other: &v2::Code) -> bool {
        self.0 == i32::from(*other)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match v2::Code::try_from(self.0) {
            Ok(code) => write!(f, "{} ({})", code.as_str_name(), self.0),
            Err(_) => write!(f, "code {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: v2::Code) -> Error {
        Error::Server { endpoint: "b:1".into(), code: code.into(), message: String::new() }
    }

    #[test]
    fn codes_say_whether_to_retry() {
        use v2::Code::*;
        for code in
            [TooManyRequests, InternalServerError, SlavePersistenceTimeout, ProxyTimeout, RequestTimeout]
        {
            assert!(server(code).is_retryable(), "{code:?}");
        }
        for code in
            [BadRequest, TopicNotFound, MessageBodyTooLarge, NotImplemented, Unsupported, Unauthorized]
        {
            assert!(!server(code).is_retryable(), "{code:?}");
        }
        assert!(!Error::invalid("x").is_retryable());
    }

    #[test]
    fn only_open_outcomes_may_have_taken_effect() {
        use v2::Code::*;
        assert!(server(SlavePersistenceTimeout).may_have_taken_effect());
        assert!(!server(TooManyRequests).may_have_taken_effect());
        assert!(
            !Error::Unreachable { endpoint: "b:1".into(), reason: String::new() }.may_have_taken_effect()
        );
        assert!(Error::Timeout { endpoint: "b:1".into(), after: Duration::ZERO }.may_have_taken_effect());
    }

    #[test]
    fn codes_print_name_and_number() {
        assert_eq!(Code::from(v2::Code::TopicNotFound).to_string(), "TOPIC_NOT_FOUND (40402)");
        assert_eq!(Code(49999).to_string(), "code 49999");
    }
}
