//! The way of every call to its service: its memory is counted, and it is refused when there is no room for it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Bytes, HttpBody};
use http_body::Frame;
use kerolox_proto::kerolox::{consensus_server, controller_server, registry_server, replication_server};
use kerolox_proto::path::service_and_method;
use kerolox_proto::v2::messaging_service_server;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tower::Layer;

use super::link::ClientLink;
use super::refused::{CallRefusal, Refusing, trailers};
use super::request::{Gathered, SessionBody, gather};
use super::work::{CALL_BYTES, Kind, Phase, SERVED, Visit, Work};

/// Marks a call that a server has passed on: one hop has to be enough.
pub const RELAYED: &str = "x-kerolox-relayed";

/// Memory for a header besides its letters.
const HEADER_BYTES: usize = 64;
/// Smaller parts of an answer are not counted by themselves: they are within what a call takes anyhow.
const LENT_MIN: usize = 512;

type Answered = Result<http::Response<Body>, Infallible>;

/// Puts [`CallLayer`] around services.
#[derive(Debug, Clone, Copy)]
pub struct CallsLayer;

impl<S> Layer<S> for CallsLayer {
    type Service = CallLayer<S>;

    fn layer(&self, services: S) -> CallLayer<S> {
        CallLayer { services }
    }
}

/// Services, with a look at each of their calls.
#[derive(Debug, Clone)]
pub struct CallLayer<S> {
    services: S,
}

impl<S> Service<http::Request<Body>> for CallLayer<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answered> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let Some(link) = request.extensions_mut().remove::<Arc<ClientLink>>() else {
            return Box::pin(self.services.call(request));
        };
        if let Some(info) = link.info() {
            request.extensions_mut().insert(info);
        }
        if request.headers().contains_key(RELAYED) {
            link.note_relay();
        }
        let visit = Visit::begin(&link, kind(request.uri().path()));
        // The one that is ready, and not its clone.
        let clone = self.services.clone();
        let services = std::mem::replace(&mut self.services, clone);
        Box::pin(serve(visit, link, services, request))
    }
}

/// What kind of call has this path.
fn kind(path: &str) -> Kind {
    match service_and_method(path) {
        (messaging_service_server::SERVICE_NAME, method) => match method {
            "SendMessage" => Kind::Send,
            "ReceiveMessage" | "PullMessage" => Kind::Poll,
            "Telemetry" => Kind::Session,
            _ => Kind::Other,
        },
        (
            replication_server::SERVICE_NAME
            | registry_server::SERVICE_NAME
            | controller_server::SERVICE_NAME
            | consensus_server::SERVICE_NAME,
            _,
        ) => Kind::Vital,
        _ => Kind::Other,
    }
}

async fn serve<S>(
    visit: Visit,
    link: Arc<ClientLink>,
    mut services: S,
    request: http::Request<Body>,
) -> Answered
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    let work = visit.work.clone();
    let refusing = Refusing::of(&request);
    let headers =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
    if !work.acquire(CALL_BYTES + headers.sum::<usize>(), work.kind.level()).await {
        return Ok(refusing.answer(link.memory.refuse()));
    }
    let (head, body) = request.into_parts();
    let body = match work.kind {
        Kind::Vital => body,
        Kind::Session => Body::new(SessionBody::new(body, work.clone())),
        _ => match gather(&work, body).await {
            Gathered::Request(request) => Body::new(request),
            Gathered::Ended(why) => return Ok(refusing.ended(why, &link.memory)),
            Gathered::TooLarge(most) => return Ok(refusing.answer(CallRefusal::TooLarge(most))),
            Gathered::TooMany => return Ok(refusing.answer(CallRefusal::TooManyMessages)),
            Gathered::Broken(status) => return Ok(status.into_http()),
        },
    };
    work.move_to(Phase::Serving);
    let serving = services.call(http::Request::from_parts(head, body));
    let answer = tokio::select! {
        biased;
        answer = SERVED.scope(work.clone(), serving) => answer?,
        why = poll_fn(|cx| work.poll_over(cx)), if matches!(work.kind, Kind::Poll | Kind::Session) => {
            return Ok(refusing.ended(why, &link.memory));
        }
    };
    work.move_to(Phase::Blocked);
    Ok(answer.map(|body| Body::new(Answer { body, visit, is_over: false })))
}

/// The body of an answer. While it is there, the call is under way.
struct Answer {
    body: Body,
    visit: Visit,
    /// It was ended before the service has.
    is_over: bool,
}

impl Answer {
    fn work(&self) -> &Work {
        &self.visit.work
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        match frame {
            Poll::Ready(Some(Ok(frame))) => {
                self.work().move_to(Phase::Blocked);
                let lend = |bytes: Bytes| match bytes.len() {
                    ..LENT_MIN => bytes,
                    // A link between members is never ended to make room.
                    _ if self.work().kind == Kind::Vital => bytes,
                    _ => self.work().lend(bytes),
                };
                Poll::Ready(Some(Ok(frame.map_data(lend))))
            }
            Poll::Pending if self.is_over => Poll::Ready(None),
            Poll::Pending => {
                self.work().move_to(Phase::Source);
                let why = ready!(self.work().poll_over(cx));
                self.is_over = true;
                Poll::Ready(Some(Ok(Frame::trailers(trailers(why)))))
            }
            over => over,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_told_apart_by_their_paths() {
        let messaging = |method: &str| kind(&format!("/{}/{method}", messaging_service_server::SERVICE_NAME));
        assert_eq!(messaging("SendMessage"), Kind::Send);
        assert_eq!(messaging("ReceiveMessage"), Kind::Poll);
        assert_eq!(messaging("Telemetry"), Kind::Session);
        assert_eq!(messaging("AckMessage"), Kind::Other);
        assert_eq!(kind("/kerolox.v1.Replication/Replicate"), Kind::Vital);
        assert_eq!(kind("/kerolox.v1.BrokerAdmin/ListTopics"), Kind::Other);
        assert_eq!(kind(""), Kind::Other);
    }
}
