//! How calls of `kerolox.v1` fail at a broker: one type, one conversion from each error, one into the gRPC status.

use kerolox_gateway::refusal::Refusal;
use kerolox_proto::errors;
use kerolox_proto::kerolox::ErrorKind;
use kerolox_proto::v2::Code;
use kerolox_store::StoreError;
use tonic::Status;

use crate::log_client::LogRefusal;
use crate::metadata::ChangeError;
use crate::refused::refused_by_store;

/// Why a call fails, with a sentence that says what to do.
#[derive(Debug)]
pub(super) enum RpcError {
    /// The request cannot work as it is.
    Invalid(String),
    /// What the request is about is not there.
    NotFound(String),
    /// The broker cannot do it now.
    Unavailable(String),
}

impl From<StoreError> for RpcError {
    fn from(error: StoreError) -> Self {
        refused_by_store(&error).into()
    }
}

impl From<LogRefusal> for RpcError {
    fn from(refusal: LogRefusal) -> Self {
        Refusal::from(refusal).into()
    }
}

impl From<Refusal> for RpcError {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal.code {
            Code::NotFound => Self::NotFound(text),
            Code::BadRequest => Self::Invalid(text),
            _ => Self::Unavailable(text),
        }
    }
}

impl From<ChangeError> for RpcError {
    fn from(error: ChangeError) -> Self {
        match &error {
            ChangeError::Invalid(_) => Self::Invalid(error.to_string()),
            ChangeError::Log(_) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<RpcError> for Status {
    fn from(error: RpcError) -> Self {
        let (kind, message) = match error {
            RpcError::Invalid(message) => (ErrorKind::Invalid, message),
            RpcError::NotFound(message) => (ErrorKind::NotFound, message),
            RpcError::Unavailable(message) => (ErrorKind::Unavailable, message),
        };
        errors::status_of(kind, message)
    }
}
