//! The answers to calls that never reach a service.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use http_body::Frame;
use kerolox_proto::path::service_and_method;
use kerolox_proto::v2::{self, Code, admin_server, messaging_service_server};
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::codegen::http::{HeaderMap, HeaderValue};

use super::request::{MESSAGES_MAX, REQUEST_BYTES_MAX};
use super::work::End;
use crate::memory::MemoryBudget;

/// Services of the protocol, whose answers all carry their status in the first field.
const WITH_STATUS: [&str; 2] = [messaging_service_server::SERVICE_NAME, admin_server::SERVICE_NAME];
/// Streams end with a status of gRPC, and SDKs keep the receipt handle of an answer, whatever its status is.
const WITHOUT_STATUS: [&str; 2] = ["Telemetry", "ChangeInvisibleDuration"];

/// Why a call is refused although no service has an objection to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallRefusal {
    /// There is no room for the call in the memory for callers.
    #[error(
        "the memory for callers of this server is used up; try again in a moment, with fewer calls at a time, and see \
         memory.budget of the server if that lasts"
    )]
    MemoryExhausted,
    /// The request did not come in time.
    #[error(
        "the request did not come in time (connections.request of the server); send less at a time, or over a faster line"
    )]
    RequestTimeout,
    /// The request has more messages than one may have.
    #[error("the request has more than {MESSAGES_MAX} messages, which is the limit; send fewer at a time")]
    TooManyMessages,
    /// The request has more bytes than this limit.
    #[error("the request has more than {0} bytes, which is the limit of such calls; send less at a time")]
    TooLarge(usize),
}

impl CallRefusal {
    /// The code of the SDKs' protocol. All SDKs know these.
    pub fn code(self) -> Code {
        match self {
            Self::MemoryExhausted => Code::TooManyRequests,
            Self::RequestTimeout => Code::RequestTimeout,
            Self::TooManyMessages | Self::TooLarge(_) => Code::PayloadTooLarge,
        }
    }

    fn grpc_code(self) -> tonic::Code {
        match self {
            Self::RequestTimeout => tonic::Code::DeadlineExceeded,
            Self::MemoryExhausted | Self::TooManyMessages | Self::TooLarge(_) => {
                tonic::Code::ResourceExhausted
            }
        }
    }
}

/// How the caller is told.
#[derive(Debug, Clone, Copy)]
pub(super) struct Refusing {
    has_status: bool,
}

impl Refusing {
    pub(super) fn of(request: &http::Request<Body>) -> Self {
        let (service, method) = service_and_method(request.uri().path());
        Self { has_status: WITH_STATUS.contains(&service) && !WITHOUT_STATUS.contains(&method) }
    }

    /// In a status of the protocol; else in one of gRPC.
    pub(super) fn answer(self, refusal: CallRefusal) -> http::Response<Body> {
        if !self.has_status {
            return Status::new(refusal.grpc_code(), refusal.to_string()).into_http();
        }
        // Any answer will do: the field is the first one in all of them.
        let status = v2::Status { code: refusal.code().into(), message: refusal.to_string() };
        let answer = v2::HeartbeatResponse { status: Some(status) };
        let mut response = http::Response::new(Body::new(OneAnswer::of(&answer)));
        let kind = HeaderValue::from_static("application/grpc");
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }

    /// The call was ended.
    pub(super) fn ended(self, why: End, memory: &MemoryBudget) -> http::Response<Body> {
        self.answer(match why {
            End::Room => memory.refuse(),
            End::Slow => CallRefusal::RequestTimeout,
            End::Large => CallRefusal::TooLarge(REQUEST_BYTES_MAX),
        })
    }
}

/// How a stream ends that was ended.
pub(super) fn trailers(why: End) -> HeaderMap {
    let text = match why {
        End::Large => {
            format!("a message on this stream has more than {REQUEST_BYTES_MAX} bytes; send less at a time")
        }
        End::Room | End::Slow => {
            "the memory for callers of this server is used up; try again in a moment".to_owned()
        }
    };
    let mut trailers = HeaderMap::new();
    if Status::resource_exhausted(text).add_header(&mut trailers).is_err() {
        trailers.insert("grpc-status", HeaderValue::from_static("8"));
    }
    trailers
}

/// One message, and success in the words of gRPC.
struct OneAnswer {
    message: Option<Bytes>,
    is_over: bool,
}

impl OneAnswer {
    fn of(answer: &v2::HeartbeatResponse) -> Self {
        let mut message = vec![0; 5];
        answer.encode(&mut message).expect("a vector grows");
        let len = u32::try_from(message.len() - 5).expect("a refusal is short");
        message[1..5].copy_from_slice(&len.to_be_bytes());
        Self { message: Some(message.into()), is_over: false }
    }
}

impl HttpBody for OneAnswer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        if std::mem::replace(&mut self.is_over, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }
}
