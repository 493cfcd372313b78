//! What every call passes on its way to its service: its connection is known to have it.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tower::Layer;

use super::link::Link;

/// Puts [`Calls`] around services.
#[derive(Debug, Clone, Copy)]
pub struct CallsLayer;

impl<S> Layer<S> for CallsLayer {
    type Service = Calls<S>;

    fn layer(&self, services: S) -> Calls<S> {
        Calls { services }
    }
}

/// Services, with a look at each of their calls.
#[derive(Debug, Clone)]
pub struct Calls<S> {
    services: S,
}

impl<S> Service<http::Request<Body>> for Calls<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.services.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let visit = request.extensions_mut().remove::<Arc<Link>>().map(Visit::begin);
        if let Some(info) = visit.as_ref().and_then(|visit| visit.0.info()) {
            request.extensions_mut().insert(info);
        }
        let answer = self.services.call(request);
        Box::pin(async move {
            let answer = answer.await?;
            Ok(answer.map(|body| Body::new(Answer { body, _visit: visit })))
        })
    }
}

/// A call that is under way on a connection.
struct Visit(Arc<Link>);

impl Visit {
    fn begin(link: Arc<Link>) -> Self {
        link.enter();
        Self(link)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The body of an answer. While it is there, the call is under way.
struct Answer {
    body: Body,
    _visit: Option<Visit>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
