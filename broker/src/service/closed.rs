//! What callers are told while the store is being opened, and the door that lets them in afterwards.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use kerolox_kit::access::{Answer, Items, answer, refused_stream};
use kerolox_kit::headers::ClientHeaders;
use kerolox_kit::refusal::Refusal;
use kerolox_kit::relay::refuse_relayed;
use kerolox_kit::telemetry::TelemetryStream;
use kerolox_proto::kerolox::replication_server::ReplicationServer;
use kerolox_proto::v2::messaging_service_server::{MessagingService, MessagingServiceServer};
use kerolox_proto::v2::{self, Code};
use kerolox_store::Opening;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http;
use tonic::service::interceptor::InterceptedService;
use tonic::service::{AxumRouter, Routes};
use tonic::{Request, Response, Status, Streaming};

use crate::replication::ReplicationService;

/// How long callers are held at most while another member takes over, or while it is not known yet what this one is.
const HOLD: Duration = Duration::from_secs(5);
/// How long those who were let in before may take to be done. Whoever takes longer may be told to try again.
const DONE: Duration = Duration::from_millis(500);
/// Where the other members of the group call; it is open at any time.
const REPLICATION_PATH: &str = "/kerolox.v1.Replication/";
/// Calls that wait for messages, for up to half a minute: nothing is lost when they end, so nobody waits for that.
const POLLS: [&str; 2] = ["/ReceiveMessage", "/PullMessage"];

/// Where a call goes.
#[derive(Clone)]
enum Way {
    /// To services that refuse whatever they are asked.
    Closed,
    /// Nowhere, until it is known where, or this moment has come.
    Held(Instant),
    Open(Routes),
}

impl Way {
    fn services(&self) -> Option<&Routes> {
        match self {
            Self::Open(services) => Some(services),
            _ => None,
        }
    }
}

/// All services of the broker: closed ones first, that refuse whatever they are asked, and those of its role once it has one.
/// Clones share one door.
#[derive(Clone)]
pub(crate) struct Door {
    way: watch::Sender<Way>,
    closed: Routes,
    opening: Arc<Opening>,
    /// Whom it was open for last.
    last: Arc<Mutex<Option<Routes>>>,
    /// How many calls are with the services of the role.
    inside: Arc<AtomicUsize>,
}

/// A call that is with the services.
struct Visit(Arc<AtomicUsize>);

impl Visit {
    fn begin(inside: &Arc<AtomicUsize>) -> Self {
        inside.fetch_add(1, Ordering::SeqCst);
        Self(inside.clone())
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Door {
    /// A closed door; whoever calls is told how far `opening` is. Other members of the group find `replication` at any time; as
    /// one of several, this one may soon know to whom calls can go, so callers wait a moment.
    pub(crate) fn closed(
        opening: Arc<Opening>,
        replication: Option<ReplicationServer<ReplicationService>>,
    ) -> Self {
        let refusing = Closed { opening: opening.clone() };
        let told = opening.clone();
        let unavailable = move || {
            let status = Status::unavailable(reason(&told));
            async move { status.into_http::<Body>() }
        };
        let way = if replication.is_some() { Way::Held(Instant::now() + HOLD) } else { Way::Closed };
        let mut closed = Routes::from(AxumRouter::new().fallback(unavailable));
        if let Some(replication) = replication {
            closed = closed.add_service(replication);
        }
        let told = opening.clone();
        let refusing = MessagingServiceServer::new(refusing);
        let refusing = InterceptedService::new(refusing, refuse_relayed(move || reason(&told)));
        let closed = closed.add_service(refusing);
        Self {
            way: watch::Sender::new(way),
            closed: closed.prepare(),
            opening,
            last: Arc::default(),
            inside: Arc::default(),
        }
    }

    /// Lets everybody in from now on, those too who have come before.
    pub(crate) fn open(&self, services: Routes) {
        self.way.send_replace(Way::Open(services.prepare()));
    }

    /// Lets those who come from now on wait until the door opens again, for some seconds at most.
    pub(crate) fn hold(&self) {
        let before = self.way.send_replace(Way::Held(Instant::now() + HOLD));
        if let Some(services) = before.services() {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(services.clone());
        }
    }

    /// Returns when those who were let in before it was held are done, or have taken too long.
    pub(crate) async fn done(&self) {
        let done = async {
            while self.inside.load(Ordering::SeqCst) > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        // Who takes long must not keep the others waiting.
        let _ = timeout(DONE, done).await;
    }

    /// Opens again as it was before it was held.
    pub(crate) fn reopen(&self) {
        if let Some(services) = self.last.lock().unwrap_or_else(PoisonError::into_inner).take() {
            self.way.send_replace(Way::Open(services));
        }
    }

    /// Whether the index is being made, which may take long. When that is done, its progress still tells of it.
    fn is_rebuilding(&self) -> bool {
        self.opening.progress().is_some_and(|progress| progress.position < progress.end)
    }

    /// Where a call goes now, or until when it waits to learn that.
    fn way(&self, path: &str) -> Result<(Routes, Option<Visit>), Instant> {
        if path.starts_with(REPLICATION_PATH) {
            return Ok((self.closed.clone(), None));
        }
        // Counted before it is looked at, so that whoever holds the door knows of all who found it open.
        let is_poll = POLLS.iter().any(|poll| path.ends_with(poll));
        let visit = (!is_poll).then(|| Visit::begin(&self.inside));
        match &*self.way.borrow() {
            Way::Open(services) => Ok((services.clone(), visit)),
            Way::Held(until) if Instant::now() < *until && !self.is_rebuilding() => Err(*until),
            Way::Held(_) | Way::Closed => Ok((self.closed.clone(), None)),
        }
    }
}

impl Service<http::Request<Body>> for Door {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Routes are ready at any time.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.way(request.uri().path()) {
            Ok((mut services, visit)) => {
                let answer = services.call(request);
                Box::pin(async move {
                    let answer = answer.await;
                    drop(visit);
                    answer
                })
            }
            Err(until) => {
                let mut door = self.clone();
                Box::pin(async move {
                    let mut way = door.way.subscribe();
                    let is_known = |way: &Way| !matches!(way, Way::Held(_));
                    // Whoever waited long enough is told to try again.
                    let _ = timeout_at(until, way.wait_for(is_known)).await;
                    door.call(request).await
                })
            }
        }
    }
}

fn reason(opening: &Opening) -> String {
    match opening.progress() {
        Some(progress) => format!("the index is being rebuilt from the log: {progress}; try again"),
        None => "the broker is opening its log; try again in a moment".to_owned(),
    }
}

/// The SDK protocol of a broker that cannot serve yet. INTERNAL_SERVER_ERROR is what SDKs repeat elsewhere or later.
struct Closed {
    opening: Arc<Opening>,
}

impl Closed {
    fn refusal(&self) -> Refusal {
        Refusal::new(Code::InternalServerError, reason(&self.opening))
    }
}

/// Calls with one answer are all refused in the same way; macros cannot be used inside the attribute, so it is in here.
macro_rules! refuse {
    ($($call:ident: $request:ident => $response:ident),* $(,)?) => {
        #[tonic::async_trait]
        impl MessagingService for Closed {
            type ReceiveMessageStream = Items<v2::ReceiveMessageResponse>;
            type PullMessageStream = Items<v2::PullMessageResponse>;
            type TelemetryStream = TelemetryStream;

            $(async fn $call(&self, request: Request<v2::$request>) -> Answer<v2::$response> {
                let headers = ClientHeaders::lenient(request.metadata());
                answer(&headers, Err(self.refusal()))
            })*

            async fn change_invisible_duration(
                &self,
                request: Request<v2::ChangeInvisibleDurationRequest>,
            ) -> Answer<v2::ChangeInvisibleDurationResponse> {
                let headers = ClientHeaders::lenient(request.metadata());
                // SDKs keep the handle of the answer whatever its status, so they get back the one that they have.
                let receipt_handle = request.into_inner().receipt_handle;
                let status = Some(self.refusal().to_status(&headers));
                Ok(Response::new(v2::ChangeInvisibleDurationResponse { status, receipt_handle }))
            }

            async fn receive_message(
                &self,
                request: Request<v2::ReceiveMessageRequest>,
            ) -> Answer<Self::ReceiveMessageStream> {
                let headers = ClientHeaders::lenient(request.metadata());
                Ok(Response::new(refused_stream(&headers, &self.refusal())))
            }

            async fn pull_message(
                &self,
                request: Request<v2::PullMessageRequest>,
            ) -> Answer<Self::PullMessageStream> {
                let headers = ClientHeaders::lenient(request.metadata());
                Ok(Response::new(refused_stream(&headers, &self.refusal())))
            }

            async fn telemetry(
                &self,
                _request: Request<Streaming<v2::TelemetryCommand>>,
            ) -> Answer<TelemetryStream> {
                Err(Status::unavailable(reason(&self.opening)))
            }
        }
    };
}

refuse! {
    query_route: QueryRouteRequest => QueryRouteResponse,
    query_assignment: QueryAssignmentRequest => QueryAssignmentResponse,
    heartbeat: HeartbeatRequest => HeartbeatResponse,
    notify_client_termination: NotifyClientTerminationRequest => NotifyClientTerminationResponse,
    send_message: SendMessageRequest => SendMessageResponse,
    end_transaction: EndTransactionRequest => EndTransactionResponse,
    ack_message: AckMessageRequest => AckMessageResponse,
    forward_message_to_dead_letter_queue:
        ForwardMessageToDeadLetterQueueRequest => ForwardMessageToDeadLetterQueueResponse,
    recall_message: RecallMessageRequest => RecallMessageResponse,
    update_offset: UpdateOffsetRequest => UpdateOffsetResponse,
    get_offset: GetOffsetRequest => GetOffsetResponse,
    query_offset: QueryOffsetRequest => QueryOffsetResponse,
    sync_lite_subscription: SyncLiteSubscriptionRequest => SyncLiteSubscriptionResponse,
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn call(door: &Door, path: &str) -> tokio::task::JoinHandle<Result<http::Response<Body>, Infallible>> {
        let request = http::Request::builder().uri(path).body(Body::empty());
        tokio::spawn(door.clone().call(request.expect("a request")))
    }

    /// An open door to a service that takes so long, and whether it has answered somebody.
    fn open(takes: Duration) -> (Door, Arc<AtomicBool>) {
        let answered = Arc::new(AtomicBool::new(false));
        let told = answered.clone();
        let service = move || async move {
            sleep(takes).await;
            told.store(true, Ordering::SeqCst);
            http::Response::new(Body::empty())
        };
        let door = Door::closed(Arc::default(), None);
        door.open(Routes::from(AxumRouter::new().fallback(service)));
        (door, answered)
    }

    #[tokio::test]
    async fn who_is_inside_is_waited_for_and_the_others_wait_until_it_opens_again() {
        let (door, answered) = open(Duration::from_millis(100));
        let inside = call(&door, "/some.Service/Call");
        door.hold();
        let held = call(&door, "/some.Service/Call");
        door.done().await;
        assert!(answered.swap(false, Ordering::SeqCst), "it was let in before");
        inside.await.expect("no panic").expect("infallible");
        sleep(Duration::from_millis(200)).await;
        assert!(!held.is_finished() && !answered.load(Ordering::SeqCst));
        door.reopen();
        held.await.expect("no panic").expect("infallible");
        assert!(answered.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn who_waits_for_messages_is_not_waited_for() {
        let (door, answered) = open(DONE / 2);
        let _poll = call(&door, "/apache.rocketmq.v2.MessagingService/ReceiveMessage");
        door.hold();
        door.done().await;
        assert!(!answered.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn who_takes_too_long_is_not_waited_for() {
        let (door, answered) = open(2 * DONE);
        let _inside = call(&door, "/some.Service/Call");
        door.hold();
        let begun = Instant::now();
        door.done().await;
        assert!(begun.elapsed() >= DONE && !answered.load(Ordering::SeqCst));
    }
}
