//! How the administration of a broker fails: one type, one conversion from each error.

use kerolox_gateway::refusal::Refusal;
use kerolox_proto::errors::RpcError;
use kerolox_store::StoreError;
use tonic::Status;

use crate::log_client::LogRefusal;
use crate::metadata::ChangeError;
use crate::refused::refused_by_store;

/// The reason of a failed call, for the caller.
#[derive(Debug)]
pub(super) struct AdminError(RpcError);

impl AdminError {
    /// The request cannot work as it is; `message` says what to change.
    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self(RpcError::invalid(message))
    }

    /// What the request is about is not there.
    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self(RpcError::not_found(message))
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        refused_by_store(&error).into()
    }
}

impl From<LogRefusal> for AdminError {
    fn from(refusal: LogRefusal) -> Self {
        Self(RpcError::unavailable(refusal.to_string()))
    }
}

impl From<Refusal> for AdminError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal.into())
    }
}

impl From<ChangeError> for AdminError {
    fn from(error: ChangeError) -> Self {
        match error {
            ChangeError::Invalid(text) => Self::invalid(text),
            ChangeError::Log(refusal) => refusal.into(),
        }
    }
}

impl From<AdminError> for Status {
    fn from(AdminError(error): AdminError) -> Self {
        error.into()
    }
}
