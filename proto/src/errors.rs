//! How calls of `kerolox.v1` fail: a gRPC status whose details say that a service decided so, and why.

use prost::Message as _;
use tonic::{Code, Status};

use crate::kerolox::{ErrorDetail, ErrorKind};

/// The status of a call that a service refuses; `message` says what to do.
pub fn status_of(kind: ErrorKind, message: impl Into<String>) -> Status {
    let code = match kind {
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Unavailable | ErrorKind::Unspecified => Code::Unavailable,
    };
    let detail = ErrorDetail { kind: kind.into() };
    Status::with_details(code, message, detail.encode_to_vec().into())
}

/// Why a service refused a call; `None` when the status is none that a service of `kerolox.v1` gave.
pub fn kind_of(status: &Status) -> Option<ErrorKind> {
    let detail = Some(status.details()).filter(|details| !details.is_empty())?;
    let kind = ErrorDetail::decode(detail).ok()?.kind();
    (kind != ErrorKind::Unspecified).then_some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_from_trouble_on_the_way() {
        for kind in [ErrorKind::Invalid, ErrorKind::NotFound, ErrorKind::Unavailable] {
            assert_eq!(kind_of(&status_of(kind, "x")), Some(kind));
        }
        assert_eq!(kind_of(&Status::unavailable("x")), None);
        assert_eq!(kind_of(&Status::with_details(Code::NotFound, "x", vec![255, 255].into())), None);
        assert_eq!(status_of(ErrorKind::NotFound, "x").code(), Code::NotFound);
    }
}
