//! Why an administrator gets no answer.

use kerolox_gateway::refusal::Refusal;
use kerolox_proto::kerolox::{AdminError, AdminErrorKind};
use kerolox_proto::v2::Code;
use kerolox_store::StoreError;

use crate::engine::{ChangeError, refused_by_store};

/// A failure, with a sentence that says what to do.
#[derive(Debug)]
pub(super) enum Failure {
    /// The request cannot work as it is.
    Invalid(String),
    NotFound(String),
    /// The broker cannot do it now.
    Unavailable(String),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        refused_by_store(&error).into()
    }
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        let text = refusal.to_string();
        match refusal.code {
            Code::NotFound => Self::NotFound(text),
            Code::BadRequest => Self::Invalid(text),
            _ => Self::Unavailable(text),
        }
    }
}

impl From<ChangeError> for Failure {
    fn from(error: ChangeError) -> Self {
        match &error {
            ChangeError::Invalid(_) => Self::Invalid(error.to_string()),
            ChangeError::Log(_) => Self::Unavailable(error.to_string()),
        }
    }
}

impl From<Failure> for AdminError {
    fn from(failure: Failure) -> Self {
        let (kind, message) = match failure {
            Failure::Invalid(message) => (AdminErrorKind::Invalid, message),
            Failure::NotFound(message) => (AdminErrorKind::NotFound, message),
            Failure::Unavailable(message) => (AdminErrorKind::Unavailable, message),
        };
        Self { kind: kind.into(), message }
    }
}
