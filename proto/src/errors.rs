//! How calls of `kerolox.v1` fail: a gRPC status whose details say that a service decided so, and why.
//!
//! A service fails with an [`RpcError`], which becomes the status; a caller reads it back, and takes a status without one for trouble
//! on the way.

use prost::Message as _;
use tonic::{Code, Status};

use crate::kerolox::{ErrorDetail, ErrorKind};

/// Why a service refuses a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RpcError {
    /// The kind of the error, for programs.
    pub kind: ErrorKind,
    /// The error and its remedy, for people.
    pub message: String,
}

/// Declares a constructor for each kind.
macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident = $kind:ident;)+) => {
        impl RpcError {
            $($(#[$doc])* pub fn $name(message: impl Into<String>) -> Self {
                Self { kind: ErrorKind::$kind, message: message.into() }
            })+
        }
    };
}

constructors! {
    /// The request cannot work as it is.
    invalid = Invalid;
    /// What the request is about is not there.
    not_found = NotFound;
    /// The server cannot do it now.
    unavailable = Unavailable;
    /// The state of things does not allow it.
    not_allowed = NotAllowed;
    /// The request goes by a state that has changed since.
    stale = Stale;
    /// The caller, or its data folder, belongs elsewhere.
    foreign = Foreign;
    /// The server failed at it.
    internal = Internal;
}

impl RpcError {
    /// Why a service refused a call; `None` when the status is none that a service of `kerolox.v1` gave.
    pub fn read(status: &Status) -> Option<Self> {
        let detail = Some(status.details()).filter(|details| !details.is_empty())?;
        let kind = ErrorDetail::decode(detail).ok()?.kind();
        (kind != ErrorKind::Unspecified).then(|| Self { kind, message: status.message().to_owned() })
    }
}

impl From<RpcError> for Status {
    fn from(RpcError { kind, message }: RpcError) -> Self {
        let code = match kind {
            ErrorKind::Invalid => Code::InvalidArgument,
            ErrorKind::NotFound => Code::NotFound,
            ErrorKind::Unavailable | ErrorKind::Unspecified => Code::Unavailable,
            ErrorKind::NotAllowed | ErrorKind::Foreign => Code::FailedPrecondition,
            ErrorKind::Stale => Code::Aborted,
            ErrorKind::Internal => Code::Internal,
        };
        let detail = ErrorDetail { kind: kind.into() };
        Status::with_details(code, message, detail.encode_to_vec().into())
    }
}

#[cfg(test)]
mod tests {
    use tonic::codegen::http::HeaderMap;

    use super::*;

    const KINDS: [(ErrorKind, Code); 7] = [
        (ErrorKind::Invalid, Code::InvalidArgument),
        (ErrorKind::NotFound, Code::NotFound),
        (ErrorKind::Unavailable, Code::Unavailable),
        (ErrorKind::NotAllowed, Code::FailedPrecondition),
        (ErrorKind::Stale, Code::Aborted),
        (ErrorKind::Foreign, Code::FailedPrecondition),
        (ErrorKind::Internal, Code::Internal),
    ];

    /// As a caller reads it from the headers of an answer, and once more behind a server that passed it on.
    #[test]
    fn every_kind_is_read_as_it_was_told() {
        for (kind, code) in KINDS {
            let told = RpcError { kind, message: format!("{kind:?}: start \u{fc}ber") };
            let mut status = Status::from(told.clone());
            for _ in 0..2 {
                assert_eq!((status.code(), RpcError::read(&status)), (code, Some(told.clone())));
                let mut headers = HeaderMap::new();
                status.add_header(&mut headers).expect("the details are base64");
                status = Status::from_header_map(&headers).expect("a status");
            }
        }
        assert_eq!(ErrorKind::try_from(KINDS.len() as i32 + 1).ok(), None, "each kind has its code here");
    }

    #[test]
    fn trouble_on_the_way_is_no_refusal() {
        assert_eq!(RpcError::read(&Status::unavailable("x")), None);
        assert_eq!(RpcError::read(&Status::with_details(Code::NotFound, "x", vec![255, 255].into())), None);
    }
}
