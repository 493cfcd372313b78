//! Calls over the wire: one channel per address, the protocol's headers, time limits, and statuses turned into errors.

use crate::address::{Address, Endpoints};
use crate::credentials::Credentials;
use crate::error::{Error, Result};
use crate::observer::Observed;
use crate::tls::Encryption;
use kerolox_model::limits::{GRPC_DECODE_BYTES_MAX, HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW};
use kerolox_proto::v2;
use kerolox_proto::v2::messaging_service_client::MessagingServiceClient;
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::metadata::AsciiMetadataValue;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Response, Status, Streaming};

/// A connection that is not used sends a ping this often, so that a dead peer is noticed.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// The connections of a client, made when first used and shared by all its producers and consumers.
#[derive(Debug)]
pub(crate) struct Pool {
    connect_timeout: Duration,
    encryption: Option<Encryption>,
    links: Mutex<HashMap<Endpoints, Arc<Link>>>,
}

/// The way to one server, over one of its addresses at a time.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) endpoints: Endpoints,
    channels: Vec<(Address, Channel)>,
    current: AtomicUsize,
    /// Cleared when a call fails in transport, set again by a heartbeat or an open telemetry stream.
    healthy: AtomicBool,
}

impl Pool {
    pub(crate) fn new(connect_timeout: Duration, encryption: Option<Encryption>) -> Self {
        Self { connect_timeout, encryption, links: Mutex::default() }
    }

    /// The link to `endpoints`; nothing is sent before the first call. Must be called within a Tokio runtime.
    pub(crate) fn link(&self, endpoints: &Endpoints) -> Arc<Link> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(link) = links.get(endpoints) {
            return Arc::clone(link);
        }
        let channels =
            endpoints.addresses().iter().map(|address| (address.clone(), self.channel(address))).collect();
        let link = Arc::new(Link {
            endpoints: endpoints.clone(),
            channels,
            current: AtomicUsize::new(0),
            healthy: AtomicBool::new(true),
        });
        links.insert(endpoints.clone(), Arc::clone(&link));
        link
    }

    fn channel(&self, address: &Address) -> Channel {
        let scheme = if self.encryption.is_some() { "https" } else { "http" };
        let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .expect("an Address contains nothing that a URI does not allow")
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(HTTP2_STREAM_WINDOW)
            .initial_connection_window_size(HTTP2_CONNECTION_WINDOW);
        let Some(encryption) = self.encryption.clone() else {
            return endpoint.connect_lazy();
        };
        let (host, port) = (address.host().to_owned(), address.port());
        endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            encryption.clone().connect(host.clone(), port)
        }))
    }
}

impl Link {
    pub(crate) fn current(&self) -> (&Address, Channel) {
        let (address, channel) = &self.channels[self.current.load(Ordering::Relaxed) % self.channels.len()];
        (address, channel.clone())
    }

    pub(crate) fn len(&self) -> usize {
        self.channels.len()
    }

    /// Notes how a call went: after a transport failure the next address is tried and other brokers are preferred, until one
    /// succeeds.
    pub(crate) fn note<T>(&self, result: &Result<T>) {
        match result {
            Ok(_) => self.mark_healthy(),
            Err(error) if error.is_transport() => {
                self.healthy.store(false, Ordering::Relaxed);
                self.current.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => {}
        }
    }

    pub(crate) fn mark_healthy(&self) {
        self.healthy.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }
}

/// Makes calls in the name of one client id.
#[derive(Debug)]
pub(crate) struct Caller {
    pub(crate) pool: Arc<Pool>,
    pub(crate) access_points: Endpoints,
    pub(crate) client_id: String,
    pub(crate) namespace: String,
    pub(crate) request_timeout: Duration,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) observed: Observed,
}

impl Caller {
    /// A name in this client's namespace.
    pub(crate) fn resource(&self, name: &str) -> v2::Resource {
        v2::Resource { resource_namespace: self.namespace.clone(), name: name.to_owned() }
    }

    /// One call to one server, at its current address.
    pub(crate) async fn call<Req, Resp, Fut>(
        &self,
        link: &Link,
        request: Req,
        method: impl FnOnce(MessagingServiceClient<Channel>, Request<Req>) -> Fut,
    ) -> Result<Resp>
    where
        Resp: Answer,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        let (address, channel) = link.current();
        let address = address.to_string();
        // Boxed, because these futures are large, and everything around them would be moved along with them.
        let call = Box::pin(method(messaging(channel), self.request(request, Some(self.request_timeout))));
        let result = within(&address, self.request_timeout, call).await.and_then(|mut answer| {
            check(&address, answer.take_status())?;
            Ok(answer)
        });
        link.note(&result);
        result
    }

    /// One call whose answer is a stream, for which the server may wait for `wait`. `take` gets each item, and gives the status that it
    /// carries, if any: OK and MESSAGE_NOT_FOUND are no errors.
    pub(crate) async fn poll<Req, Item, Fut>(
        &self,
        link: &Link,
        request: Req,
        wait: Duration,
        method: impl FnOnce(Channel, Request<Req>) -> Fut,
        mut take: impl FnMut(Item) -> Result<Option<v2::Status>>,
    ) -> Result<()>
    where
        Fut: Future<Output = Result<Response<Streaming<Item>>, Status>>,
    {
        let limit = wait + self.request_timeout;
        let (address, channel) = link.current();
        let address = address.to_string();
        let grpc = |status| Error::from_grpc(&address, limit, &status);
        let poll = Box::pin(async {
            let answer = method(channel, self.request(request, Some(limit))).await.map_err(grpc)?;
            let mut stream = answer.into_inner();
            while let Some(item) = stream.message().await.map_err(grpc)? {
                if let Some(status) = take(item)? {
                    empty_or_ok(&address, status)?;
                }
            }
            Ok(())
        });
        let timeout = || Error::Timeout { endpoint: address.clone(), after: limit };
        let result = tokio::time::timeout(limit, poll).await.unwrap_or_else(|_| Err(timeout()));
        link.note(&result);
        result
    }

    /// One call to any access point: those that cannot be reached or do not answer are skipped.
    pub(crate) async fn call_access_point<Req, Resp, Fut>(
        &self,
        request: Req,
        method: impl Fn(MessagingServiceClient<Channel>, Request<Req>) -> Fut,
    ) -> Result<Resp>
    where
        Req: Clone,
        Resp: Answer,
        Fut: Future<Output = Result<Response<Resp>, Status>>,
    {
        let link = self.pool.link(&self.access_points);
        for _ in 1..link.len() {
            match self.call(&link, request.clone(), &method).await {
                Err(error) if error.is_transport() => tracing::debug!(%error, "trying the next access point"),
                result => return result,
            }
        }
        self.call(&link, request, &method).await
    }

    /// `message` with the protocol's headers, and the deadline that the server is told.
    pub(crate) fn request<T>(&self, message: T, timeout: Option<Duration>) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(timeout) = timeout {
            request.set_timeout(timeout);
        }
        let request_id = uuid::Uuid::new_v4().to_string();
        let date_time = chrono::Utc::now().format("%Y%m%dT%H%M%SZ").to_string();
        let credentials = self.credentials.as_ref();
        let authorization = credentials.map(|credentials| credentials.authorization(&date_time));
        let headers = [
            ("x-mq-client-id", self.client_id.as_str()),
            ("x-mq-language", "RUST"),
            ("x-mq-client-version", env!("CARGO_PKG_VERSION")),
            ("x-mq-protocol", "v2"),
            ("x-mq-request-id", &request_id),
            ("x-mq-date-time", &date_time),
            ("x-mq-namespace", &self.namespace),
        ];
        let proofs = [
            ("authorization", authorization.as_deref()),
            ("x-mq-session-token", credentials.and_then(Credentials::token)),
        ];
        let proofs = proofs.into_iter().filter_map(|(name, value)| Some((name, value?)));
        for (name, value) in headers.into_iter().chain(proofs) {
            // What comes from settings is checked when the client is built; the rest is ASCII by construction.
            if let Ok(value) = AsciiMetadataValue::try_from(value) {
                request.metadata_mut().insert(name, value);
            }
        }
        request
    }
}

pub(crate) fn messaging(channel: Channel) -> MessagingServiceClient<Channel> {
    MessagingServiceClient::new(channel)
        .max_decoding_message_size(GRPC_DECODE_BYTES_MAX)
        .max_encoding_message_size(GRPC_DECODE_BYTES_MAX)
}

/// Waits for `call` to `address` at most `limit`. The server's deadline is the same; this one also covers a server that
/// accepted the connection and fell silent.
pub(crate) async fn within<T>(
    address: &str,
    limit: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(Error::from_grpc(address, limit, &status)),
        Err(_) => Err(Error::Timeout { endpoint: address.to_owned(), after: limit }),
    }
}

/// Accepts OK; anything else is an error that carries the server's message.
pub(crate) fn check(endpoint: &str, status: Option<v2::Status>) -> Result<()> {
    match status {
        Some(status) if status.code == i32::from(v2::Code::Ok) => Ok(()),
        Some(status) => Err(server_error(endpoint, status)),
        None => Err(Error::Protocol { endpoint: endpoint.to_owned(), what: "it has no status" }),
    }
}

/// The status of a receive: "no new message" is no error.
fn empty_or_ok(endpoint: &str, status: v2::Status) -> Result<()> {
    match status.code {
        code if code == i32::from(v2::Code::Ok) || code == i32::from(v2::Code::MessageNotFound) => Ok(()),
        _ => Err(server_error(endpoint, status)),
    }
}

fn server_error(endpoint: &str, status: v2::Status) -> Error {
    Error::Server {
        endpoint: endpoint.to_owned(),
        code: crate::error::Code(status.code),
        message: status.message,
    }
}

/// A response whose status says whether the call succeeded.
pub(crate) trait Answer {
    /// Takes the status that decides. Responses with entries of their own report only what concerns them all.
    fn take_status(&mut self) -> Option<v2::Status>;
}

macro_rules! answers {
    ($($response:ident),+) => {
        $(impl Answer for v2::$response {
            fn take_status(&mut self) -> Option<v2::Status> {
                self.status.take()
            }
        })+
    };
}

answers!(
    QueryRouteResponse,
    QueryAssignmentResponse,
    HeartbeatResponse,
    EndTransactionResponse,
    QueryOffsetResponse,
    GetOffsetResponse,
    UpdateOffsetResponse,
    SyncLiteSubscriptionResponse,
    RecallMessageResponse,
    NotifyClientTerminationResponse,
    ChangeInvisibleDurationResponse,
    ForwardMessageToDeadLetterQueueResponse
);

/// With entries, each entry's status counts and the one above them only sums up.
fn status_above(status: Option<v2::Status>, entries: bool) -> Option<v2::Status> {
    if entries { Some(v2::Status { code: v2::Code::Ok.into(), message: String::new() }) } else { status }
}

impl Answer for v2::SendMessageResponse {
    fn take_status(&mut self) -> Option<v2::Status> {
        status_above(self.status.take(), !self.entries.is_empty())
    }
}

impl Answer for v2::AckMessageResponse {
    fn take_status(&mut self) -> Option<v2::Status> {
        status_above(self.status.take(), !self.entries.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::address::parse_addresses;

    fn caller(address: &str) -> Caller {
        Caller {
            pool: Arc::new(Pool::new(Duration::from_secs(1), None)),
            access_points: Endpoints::new(parse_addresses(address).unwrap()).unwrap(),
            client_id: "host@1#0".into(),
            namespace: String::new(),
            request_timeout: Duration::from_millis(300),
            credentials: Some(Credentials::new("AK", "SK")),
            observed: Observed::default(),
        }
    }

    async fn query_route(caller: &Caller) -> Result<v2::QueryRouteResponse> {
        let request = v2::QueryRouteRequest::default();
        caller
            .call_access_point(
                request,
                |mut client, request| async move { client.query_route(request).await },
            )
            .await
    }

    #[tokio::test]
    async fn a_refused_connection_was_surely_not_used() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = query_route(&caller(&format!("{free},{free}"))).await.unwrap_err();
        assert!(matches!(&error, Error::Unreachable { reason, .. } if reason.contains("refused")), "{error}");
        assert!(!error.may_have_taken_effect() && error.is_retryable());
    }

    #[tokio::test]
    async fn a_silent_server_times_out() {
        let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = query_route(&caller(&silent.local_addr().unwrap().to_string())).await.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }), "{error}");
    }

    #[tokio::test]
    async fn transport_failures_turn_to_the_next_address() {
        let caller = caller("h1:1,h2:2");
        let link = caller.pool.link(&caller.access_points);
        assert_eq!(link.current().0.host(), "h1");
        link.note::<()>(&Err(Error::invalid("not the server's fault")));
        assert_eq!((link.current().0.host(), link.is_healthy()), ("h1", true));
        link.note::<()>(&Err(Error::Unreachable { endpoint: "h1:1".into(), reason: "refused".into() }));
        assert_eq!((link.current().0.host(), link.is_healthy()), ("h2", false));
        link.note(&Err::<(), _>(Error::invalid("not the server's fault")));
        assert!(!link.is_healthy(), "a refusal says nothing");
        link.note(&Ok(()));
        assert!(link.is_healthy(), "it answers, also at addresses that no route names any more");
        assert!(Arc::ptr_eq(&link, &caller.pool.link(&caller.access_points)), "one link per server");
    }

    #[test]
    fn headers_name_the_client() {
        let request = caller("h:1").request((), None);
        let header = |name: &str| request.metadata().get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(header("x-mq-client-id"), "host@1#0");
        assert_eq!(header("x-mq-language"), "RUST");
        assert_ne!(header("x-mq-client-version"), "5.0.0");
        assert_eq!(header("x-mq-date-time").len(), "20260101T000000Z".len());
        let expected = Credentials::new("AK", "SK").authorization(&header("x-mq-date-time"));
        assert_eq!(header("authorization"), expected);
        assert!(request.metadata().get("x-mq-session-token").is_none());
    }

    #[test]
    fn statuses_become_errors() {
        assert!(check("b:1", Some(v2::Status { code: 20000, message: String::new() })).is_ok());
        assert!(matches!(check("b:1", None), Err(Error::Protocol { .. })));
        let refused = v2::Status { code: 40402, message: "no such topic; create it".into() };
        let error = check("b:1", Some(refused)).unwrap_err();
        assert!(error.code().unwrap().is_not_found());
        assert_eq!(error.to_string(), "b:1 answered TOPIC_NOT_FOUND (40402): no such topic; create it");
    }

    #[test]
    fn no_new_message_is_no_error() {
        let status = |code: v2::Code| v2::Status { code: code.into(), message: String::new() };
        assert!(empty_or_ok("b:1", status(v2::Code::Ok)).is_ok());
        assert!(empty_or_ok("b:1", status(v2::Code::MessageNotFound)).is_ok());
        let error = empty_or_ok("b:1", status(v2::Code::ConsumerGroupNotFound)).unwrap_err();
        assert!(error.code().unwrap().is_not_found());
    }
}
