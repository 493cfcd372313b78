//! What callers are told while the store is being opened, and the door that lets them in afterwards.

use std::convert::Infallible;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use kerolox_kit::access::{Answer, Items, answer, refused_stream};
use kerolox_kit::headers::ClientHeaders;
use kerolox_kit::refusal::Refusal;
use kerolox_kit::telemetry::TelemetryStream;
use kerolox_proto::v2::messaging_service_server::{MessagingService, MessagingServiceServer};
use kerolox_proto::v2::{self, Code};
use kerolox_store::Opening;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http;
use tonic::service::{AxumRouter, Routes};
use tonic::{Request, Response, Status, Streaming};

/// All services of the broker: closed ones first, that refuse whatever they are asked, and the real ones once they are
/// there. Clones share one door.
#[derive(Clone)]
pub(crate) struct Door {
    opened: Arc<OnceLock<Routes>>,
    closed: Routes,
}

impl Door {
    /// A closed door; whoever calls is told how far `opening` is.
    pub(crate) fn closed(opening: Arc<Opening>) -> Self {
        let refusing = Closed { opening: opening.clone() };
        let unavailable = move || {
            let status = Status::unavailable(reason(&opening));
            async move { status.into_http::<Body>() }
        };
        let closed = Routes::from(AxumRouter::new().fallback(unavailable));
        let closed = closed.add_service(MessagingServiceServer::new(refusing));
        Self { opened: Arc::default(), closed: closed.prepare() }
    }

    /// Lets everybody in from now on, those too who have come before.
    pub(crate) fn open(self, services: Routes) {
        // Nobody opens it a second time.
        let _ = self.opened.set(services.prepare());
    }
}

impl Service<http::Request<Body>> for Door {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = <Routes as Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Routes are ready at any time.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        self.opened.get().unwrap_or(&self.closed).clone().call(request)
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
