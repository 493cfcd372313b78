//! A broker that records what it is told and answers as scripted, for what a real one cannot be made to do on demand.

use kerolox_proto::v2::messaging_service_server::{MessagingService, MessagingServiceServer};
use kerolox_proto::v2::*;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status as GrpcStatus, Streaming};

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, GrpcStatus>> + Send>>;
type Reply<T> = Result<Response<T>, GrpcStatus>;
/// The server's end of a telemetry stream.
pub(crate) type CommandSender = mpsc::Sender<Result<TelemetryCommand, GrpcStatus>>;

/// How the next SendMessage is answered.
pub(crate) enum SendScript {
    /// One code per message.
    Codes(Vec<Code>),
    /// Not within any client's patience.
    Silence,
}

/// What happened, and what shall happen.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) sends: Vec<Vec<Message>>,
    pub(crate) send_scripts: VecDeque<SendScript>,
    pub(crate) endings: Vec<EndTransactionRequest>,
    pub(crate) acks: Vec<AckMessageRequest>,
    pub(crate) receives: Vec<ReceiveMessageRequest>,
    pub(crate) to_deliver: VecDeque<Message>,
    pub(crate) telemetry: Vec<(Settings, CommandSender)>,
    pub(crate) telemetry_ended: usize,
    pub(crate) heartbeats: usize,
    pub(crate) terminations: usize,
    /// Headers of the requests for routes, to send, to settle and to greet.
    pub(crate) headers: Vec<MetadataMap>,
}

#[derive(Clone)]
pub(crate) struct FakeBroker {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
    route: Arc<Mutex<Vec<(&'static str, SocketAddr)>>>,
}

impl FakeBroker {
    /// Starts brokers that are all access points for topics on all of them, with one queue each.
    pub(crate) async fn start<const N: usize>(names: [&'static str; N]) -> [FakeBroker; N] {
        let route = Arc::new(Mutex::new(Vec::new()));
        let mut brokers = Vec::new();
        for name in names {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            route.lock().unwrap().push((name, address));
            let broker = FakeBroker { name, address, state: Arc::default(), route: Arc::clone(&route) };
            let service = MessagingServiceServer::new(broker.clone());
            let server = tonic::transport::Server::builder().add_service(service);
            tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
            brokers.push(broker);
        }
        brokers.try_into().ok().unwrap()
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Waits until `condition` holds.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(&State) -> bool) {
        for _ in 0..500 {
            if condition(&self.state()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{}: waited 5 s for {what}", self.name);
    }

    /// The newest telemetry stream's sending end.
    pub(crate) fn stream(&self) -> CommandSender {
        self.state().telemetry.last().unwrap().1.clone()
    }

    fn queues(&self, topic: &Resource, id: i32) -> Vec<MessageQueue> {
        let queue = |(name, address): &(&str, SocketAddr)| MessageQueue {
            topic: Some(topic.clone()),
            id,
            permission: Permission::ReadWrite.into(),
            broker: Some(Broker {
                name: (*name).to_owned(),
                id: 0,
                endpoints: Some(Endpoints {
                    scheme: AddressScheme::IPv4.into(),
                    addresses: vec![Address { host: address.ip().to_string(), port: address.port().into() }],
                }),
            }),
            accept_message_types: vec![],
        };
        self.route.lock().unwrap().iter().map(queue).collect()
    }
}

pub(crate) fn status(code: Code) -> Option<Status> {
    Some(Status { code: code.into(), message: format!("scripted {}", code.as_str_name()) })
}

fn unimplemented<T>() -> Reply<T> {
    Err(GrpcStatus::unimplemented("not part of the fake"))
}

#[tonic::async_trait]
impl MessagingService for FakeBroker {
    async fn query_route(&self, request: Request<QueryRouteRequest>) -> Reply<QueryRouteResponse> {
        self.state().headers.push(request.metadata().clone());
        let topic = request.into_inner().topic.unwrap_or_default();
        if topic.name == "missing" {
            let status = status(Code::TopicNotFound);
            return Ok(Response::new(QueryRouteResponse { status, message_queues: vec![] }));
        }
        let message_queues = self.queues(&topic, 0);
        Ok(Response::new(QueryRouteResponse { status: status(Code::Ok), message_queues }))
    }

    async fn query_assignment(
        &self,
        request: Request<QueryAssignmentRequest>,
    ) -> Reply<QueryAssignmentResponse> {
        let topic = request.into_inner().topic.unwrap_or_default();
        let assignment = |queue| Assignment { message_queue: Some(queue) };
        let assignments = self.queues(&topic, -1).into_iter().map(assignment).collect();
        Ok(Response::new(QueryAssignmentResponse { status: status(Code::Ok), assignments }))
    }

    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Reply<HeartbeatResponse> {
        self.state().heartbeats += 1;
        Ok(Response::new(HeartbeatResponse { status: status(Code::Ok) }))
    }

    async fn send_message(&self, request: Request<SendMessageRequest>) -> Reply<SendMessageResponse> {
        self.state().headers.push(request.metadata().clone());
        let messages = request.into_inner().messages;
        let script = {
            let mut state = self.state();
            state.sends.push(messages.clone());
            state.send_scripts.pop_front()
        };
        let codes = match script {
            None => vec![Code::Ok; messages.len()],
            Some(SendScript::Codes(codes)) => codes,
            Some(SendScript::Silence) => std::future::pending().await,
        };
        let entry = |(message, code): (Message, Code)| {
            let system = message.system_properties.unwrap();
            let half = system.message_type() == MessageType::Transaction && code == Code::Ok;
            SendResultEntry {
                status: status(code),
                transaction_id: if half { format!("tx-{}", system.message_id) } else { String::new() },
                message_id: system.message_id,
                ..Default::default()
            }
        };
        let entries = messages.into_iter().zip(codes).map(entry).collect();
        Ok(Response::new(SendMessageResponse { status: status(Code::MultipleResults), entries }))
    }

    type ReceiveMessageStream = Answers<ReceiveMessageResponse>;

    async fn receive_message(
        &self,
        request: Request<ReceiveMessageRequest>,
    ) -> Reply<Self::ReceiveMessageStream> {
        use receive_message_response::Content;
        let mut state = self.state();
        state.receives.push(request.into_inner());
        let messages: Vec<Message> = state.to_deliver.drain(..).collect();
        let code = if messages.is_empty() { Code::MessageNotFound } else { Code::Ok };
        let status = std::iter::once(Content::Status(status(code).unwrap()));
        let items: Vec<_> = status
            .chain(messages.into_iter().map(Content::Message))
            .map(|content| Ok(ReceiveMessageResponse { content: Some(content) }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(items))))
    }

    async fn ack_message(&self, request: Request<AckMessageRequest>) -> Reply<AckMessageResponse> {
        self.state().headers.push(request.metadata().clone());
        let request = request.into_inner();
        let entry = |entry: &AckMessageEntry| AckMessageResultEntry {
            message_id: entry.message_id.clone(),
            receipt_handle: entry.receipt_handle.clone(),
            status: status(if entry.receipt_handle == "stale" {
                Code::InvalidReceiptHandle
            } else {
                Code::Ok
            }),
        };
        let entries = request.entries.iter().map(entry).collect();
        self.state().acks.push(request);
        Ok(Response::new(AckMessageResponse { status: status(Code::Ok), entries }))
    }

    async fn change_invisible_duration(
        &self,
        request: Request<ChangeInvisibleDurationRequest>,
    ) -> Reply<ChangeInvisibleDurationResponse> {
        let receipt_handle = format!("{}+", request.into_inner().receipt_handle);
        Ok(Response::new(ChangeInvisibleDurationResponse { status: status(Code::Ok), receipt_handle }))
    }

    async fn end_transaction(
        &self,
        request: Request<EndTransactionRequest>,
    ) -> Reply<EndTransactionResponse> {
        self.state().headers.push(request.metadata().clone());
        self.state().endings.push(request.into_inner());
        Ok(Response::new(EndTransactionResponse { status: status(Code::Ok) }))
    }

    type TelemetryStream = Answers<TelemetryCommand>;

    async fn telemetry(&self, request: Request<Streaming<TelemetryCommand>>) -> Reply<Self::TelemetryStream> {
        self.state().headers.push(request.metadata().clone());
        let (sender, receiver) = mpsc::channel(8);
        let mut incoming = request.into_inner();
        let this = self.clone();
        let own = sender.clone();
        tokio::spawn(async move {
            while let Some(Ok(command)) = incoming.next().await {
                if let Some(telemetry_command::Command::Settings(settings)) = command.command.clone() {
                    this.state().telemetry.push((settings, own.clone()));
                    let _ = own.send(Ok(TelemetryCommand { status: status(Code::Ok), ..command })).await;
                }
            }
            this.state().telemetry_ended += 1;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn notify_client_termination(
        &self,
        _: Request<NotifyClientTerminationRequest>,
    ) -> Reply<NotifyClientTerminationResponse> {
        self.state().terminations += 1;
        Ok(Response::new(NotifyClientTerminationResponse { status: status(Code::Ok) }))
    }

    type PullMessageStream = Answers<PullMessageResponse>;

    async fn pull_message(&self, _: Request<PullMessageRequest>) -> Reply<Self::PullMessageStream> {
        unimplemented()
    }
    async fn forward_message_to_dead_letter_queue(
        &self,
        _: Request<ForwardMessageToDeadLetterQueueRequest>,
    ) -> Reply<ForwardMessageToDeadLetterQueueResponse> {
        unimplemented()
    }
    async fn update_offset(&self, _: Request<UpdateOffsetRequest>) -> Reply<UpdateOffsetResponse> {
        unimplemented()
    }
    async fn get_offset(&self, _: Request<GetOffsetRequest>) -> Reply<GetOffsetResponse> {
        unimplemented()
    }
    async fn query_offset(&self, _: Request<QueryOffsetRequest>) -> Reply<QueryOffsetResponse> {
        unimplemented()
    }
    async fn recall_message(&self, _: Request<RecallMessageRequest>) -> Reply<RecallMessageResponse> {
        unimplemented()
    }
    async fn sync_lite_subscription(
        &self,
        _: Request<SyncLiteSubscriptionRequest>,
    ) -> Reply<SyncLiteSubscriptionResponse> {
        unimplemented()
    }
}
