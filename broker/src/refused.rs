//! How failures of the log and of the store reach clients.

use kerolox_gateway::refusal::Refusal;
use kerolox_proto::v2::Code;
use kerolox_store::{ProposeError, StoreError};

use crate::log_client::LogRefusal;

impl From<LogRefusal> for Refusal {
    fn from(refusal: LogRefusal) -> Self {
        let code = match &refusal.0 {
            ProposeError::Busy { .. } | ProposeError::NoRoom | ProposeError::NotNow(_) => {
                Code::TooManyRequests
            }
            ProposeError::ReadOnly(_) | ProposeError::Closed => Code::InternalServerError,
            ProposeError::NotMaster | ProposeError::NotInSync { .. } => Code::HaNotAvailable,
            ProposeError::Deposed | ProposeError::Unconfirmed(_) => Code::SlavePersistenceTimeout,
        };
        Self::new(code, refusal.to_string())
    }
}

/// Maps a failed look-up to a refusal for clients. The cause is logged: the operator has to fix it, unless the broker does.
pub(crate) fn refused_by_store(error: &StoreError) -> Refusal {
    if error.index_damage().is_some() {
        let text = "the broker's index is damaged and is being rebuilt from the log; try again in a moment";
        return Refusal::new(Code::InternalServerError, text);
    }
    tracing::error!(%error, "reading the store failed");
    Refusal::new(Code::InternalServerError, format!("the broker cannot read its store: {error}"))
}
