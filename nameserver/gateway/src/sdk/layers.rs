//! Layers around the SDKs' calls: who calls, and that a caller lives. [`crate::stack`] shows their order.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;
use tower::Layer;

use crate::clients::ClientSessions;
use crate::headers::ClientHeaders;
use crate::relay::CALL_NUMBER;
use crate::sdk::{SdkCall, is_sdk_call};

/// Reads what a client says about itself, once per call, and puts it into the extensions as `Arc<ClientHeaders>`.
#[derive(Debug, Clone, Copy)]
pub struct ClientLayer;

/// See [`ClientLayer`].
#[derive(Debug, Clone)]
pub struct ClientService<S> {
    inner: S,
}

impl<S> Layer<S> for ClientLayer {
    type Service = ClientService<S>;

    fn layer(&self, inner: S) -> ClientService<S> {
        ClientService { inner }
    }
}

impl<S> Service<http::Request<Body>> for ClientService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> S::Future {
        if is_sdk_call(request.uri().path()) {
            let headers = Arc::new(ClientHeaders::of_http(request.headers()));
            request.extensions_mut().insert(headers);
        }
        self.inner.call(request)
    }
}

/// Counts each call as a sign of life of its client, once. It stands behind the admission: a server that admits no call keeps no
/// sessions.
#[derive(Debug, Clone)]
pub struct SessionLayer {
    clients: Arc<ClientSessions>,
}

/// See [`SessionLayer`].
#[derive(Debug, Clone)]
pub struct SessionService<S> {
    inner: S,
    clients: Arc<ClientSessions>,
}

impl SessionLayer {
    /// Keeps the sessions in `clients`.
    pub fn new(clients: Arc<ClientSessions>) -> Self {
        Self { clients }
    }
}

impl<S> Layer<S> for SessionLayer {
    type Service = SessionService<S>;

    fn layer(&self, inner: S) -> SessionService<S> {
        SessionService { inner, clients: Arc::clone(&self.clients) }
    }
}

impl<S: NamedService> NamedService for SessionService<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for SessionService<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        if !is_report_of_a_break(&request)
            && let Some(headers) = request.extensions().get::<Arc<ClientHeaders>>()
            && headers.identified().is_ok()
        {
            self.clients.touch(&headers.client_id);
        }
        self.inner.call(request)
    }
}

/// Another server says that a call broke which it had passed on: the client may have gone with it.
fn is_report_of_a_break(request: &http::Request<Body>) -> bool {
    request.uri().path() == <kerolox_proto::v2::AckMessageRequest as SdkCall>::PATH
        && request.headers().contains_key(CALL_NUMBER)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clients::DEFAULT_EXPIRY;

    /// Answers with the client id that it finds in the extensions.
    #[derive(Clone)]
    struct Echo;

    impl Service<http::Request<Body>> for Echo {
        type Response = http::Response<Body>;
        type Error = Infallible;
        type Future = std::future::Ready<Result<Self::Response, Infallible>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: http::Request<Body>) -> Self::Future {
            let mut response = http::Response::new(Body::empty());
            if let Some(headers) = request.extensions().get::<Arc<ClientHeaders>>() {
                response.extensions_mut().insert(headers.client_id.clone());
            }
            std::future::ready(Ok(response))
        }
    }

    async fn call(clients: &Arc<ClientSessions>, path: &str, headers: &[(&str, &str)]) -> Option<String> {
        let mut request = http::Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut stack = ClientLayer.layer(SessionLayer::new(Arc::clone(clients)).layer(Echo));
        let response = stack.call(request.body(Body::empty()).unwrap()).await.unwrap();
        response.extensions().get::<String>().cloned()
    }

    #[tokio::test]
    async fn headers_are_read_and_a_call_is_a_sign_of_life() {
        let clients = Arc::new(ClientSessions::new(DEFAULT_EXPIRY));
        let heartbeat = <kerolox_proto::v2::HeartbeatRequest as SdkCall>::PATH;
        assert_eq!(call(&clients, heartbeat, &[("x-mq-client-id", "c")]).await.as_deref(), Some("c"));
        assert!(clients.is_alive("c"));
        assert_eq!(call(&clients, heartbeat, &[("x-mq-client-id", " ")]).await.as_deref(), Some(""));
        assert_eq!(clients.len(), 1, "a call without a client id is no sign of life");
        assert_eq!(call(&clients, "/kerolox.v1.Registry/Register", &[("x-mq-client-id", "d")]).await, None);
        assert_eq!(clients.len(), 1);
    }

    #[tokio::test]
    async fn a_report_of_a_break_is_no_sign_of_life() {
        let clients = Arc::new(ClientSessions::new(DEFAULT_EXPIRY));
        let ack = <kerolox_proto::v2::AckMessageRequest as SdkCall>::PATH;
        call(&clients, ack, &[("x-mq-client-id", "c"), (CALL_NUMBER, "7")]).await;
        assert_eq!(clients.len(), 0);
        call(&clients, ack, &[("x-mq-client-id", "c")]).await;
        assert_eq!(clients.len(), 1);
    }
}
