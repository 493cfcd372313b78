//! What every call passes on its way to its service, in this order, on a nameserver as on a broker.
//!
//! | layer | what it does | where |
//! |---|---|---|
//! | connection | a place among the connections, TLS, greeting | [`kerolox_runtime::listen::ServerListener`] |
//! | deadline | ends a call whose `grpc-timeout` is over | [`Server`] |
//! | limits | memory and time for the request and its answer; refuses what there is no room for | [`CallsLayer`] |
//! | client | reads who calls, into the request's extensions | [`ClientLayer`] |
//! | trace | a span with the call's path, its request id and its client | [`TraceLayer`] |
//! | admission | brokers only: holds or refuses calls while there is no leader to serve them | the broker's `rpc/admission.rs` |
//! | loop guard | slaves only: refuses calls that were passed on to the wrong server | [`crate::relay::refuse_relayed`] |
//! | session | counts the call as a sign of life | [`crate::sdk::layers::SessionLayer`] |
//! | owner | passes a call on to the broker group that owns its subject | [`crate::access_point::AccessPoint`] |
//!
//! A service behind the layers knows who calls, and answers only for what its own group owns.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use kerolox_runtime::listen::{CallsLayer, grpc_server};
use kerolox_runtime::memory::MemoryBudget;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::transport::Server;
use tower::Layer;
use tower::layer::util::{Identity, Stack};
use tracing::Instrument as _;
use tracing::instrument::Instrumented;

use crate::headers::ClientHeaders;
use crate::sdk::layers::ClientLayer;

/// Limits, client and trace, of which the last stands outermost here and innermost on the way of a call.
pub type CallStack = Stack<TraceLayer, Stack<ClientLayer, Stack<CallsLayer, Identity>>>;

/// A gRPC server whose calls pass the common part of the stack; services, or an admission in front of them, are added to it.
pub fn server(memory: &MemoryBudget) -> Server<CallStack> {
    grpc_server(memory).layer(ClientLayer).layer(TraceLayer)
}

/// Runs each call of an SDK in a span of level DEBUG.
#[derive(Debug, Clone, Copy)]
pub struct TraceLayer;

/// See [`TraceLayer`].
#[derive(Debug, Clone)]
pub struct TraceService<S> {
    inner: S,
}

impl<S> Layer<S> for TraceLayer {
    type Service = TraceService<S>;

    fn layer(&self, inner: S) -> TraceService<S> {
        TraceService { inner }
    }
}

impl<S> Service<http::Request<Body>> for TraceService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Instrumented<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let span = match request.extensions().get::<Arc<ClientHeaders>>() {
            Some(client) => tracing::debug_span!(
                "call",
                path = request.uri().path(),
                client_id = client.client_id,
                request_id = client.request_id
            ),
            None => tracing::Span::none(),
        };
        self.inner.call(request).instrument(span)
    }
}
