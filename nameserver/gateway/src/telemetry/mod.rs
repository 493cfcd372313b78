//! The Telemetry RPC: clients send their settings, servers answer with theirs and keep the stream for commands.

mod policy;
mod settings;
#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use kerolox_proto::v2::settings::PubSub;
use kerolox_proto::v2::{self, TelemetryCommand, telemetry_command::Command};
use tokio::sync::oneshot;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

pub use kerolox_model::backoff::Backoff;
use kerolox_runtime::listen::ConnectionInfo;
pub use policy::{GroupPolicy, RegisteredPolicy, SettingsPolicy};
pub use settings::answer_settings;
use settings::consumer_group;

use crate::clients::{ClientSessions, CommandReceiver, CommandSender, RequestSide, StreamLease};
use crate::headers::ClientHeaders;
use crate::refusal::ok_status;
use crate::relay::CallRelay;
use crate::routes::ClusterRoutes;

/// At most once in this time are all consumers looked at for new settings because of what brokers registered.
const SETTINGS_PAUSE: Duration = Duration::from_millis(200);

/// The server's half of a Telemetry stream. Dropping it, as happens when the client goes, takes it out of the directory.
#[derive(Debug)]
pub struct TelemetryStream {
    commands: CommandReceiver,
    _lease: StreamLease,
    /// Dropped with the stream, which tells the reader to stop: as long as it reads, the connection cannot be closed.
    _open: oneshot::Sender<()>,
}

impl Stream for TelemetryStream {
    type Item = Result<TelemetryCommand, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.commands.poll_recv(cx)
    }
}

/// Serves one Telemetry call. The answer is the stream; it ends when the client has terminated and closed its half,
/// breaks the rules, or the server shuts down ([`ClientSessions::close_streams`]). What a consumer subscribes to is told to all brokers
/// through `relay` before it gets its answer.
///
/// # Errors
/// gRPC INVALID_ARGUMENT when the client id is missing. Illegal settings end the stream with INVALID_ARGUMENT.
pub fn telemetry<S>(
    request: Request<S>,
    clients: &Arc<ClientSessions>,
    policy: &Arc<dyn SettingsPolicy>,
    relay: &Arc<CallRelay>,
) -> Result<Response<TelemetryStream>, Status>
where
    S: Stream<Item = Result<TelemetryCommand, Status>> + Send + Unpin + 'static,
{
    let headers = ClientHeaders::of(&request);
    headers.identified().map_err(|refusal| refusal.to_grpc())?;
    let peer = request.extensions().get::<ConnectionInfo>().map(|info| info.peer);
    let (lease, commands) = clients.open_stream(&headers.client_id, peer);
    if headers.tries_each_address() {
        lease.note_members();
    }
    let reader = Reader {
        language: headers.sdk_language(),
        client_id: headers.client_id.clone(),
        clients: Arc::clone(clients),
        policy: Arc::clone(policy),
        relay: Arc::clone(relay),
        side: lease.request_side(),
    };
    let (open, closed) = oneshot::channel();
    let frames = request.into_inner();
    tokio::spawn(async move {
        tokio::select! {
            () = reader.run(frames) => {}
            _ = closed => {}
        }
    });
    Ok(Response::new(TelemetryStream { commands, _lease: lease, _open: open }))
}

/// Sends new settings to consumers whose last ones no longer hold: to be called when groups may have changed.
pub fn push_settings(clients: &ClientSessions, policy: &dyn SettingsPolicy) {
    for (consumer, told) in clients.consumers() {
        // What the client was told is better than a guess.
        if consumer_group(&told).is_none_or(|group| policy.group(&group).is_none()) {
            continue;
        }
        match answer_settings(&told, policy) {
            Ok(settings) if settings != *told => {
                clients.set_settings(&consumer.client_id, settings.clone());
                let command = Some(Command::Settings(settings));
                if !consumer.try_send(TelemetryCommand { status: Some(ok_status()), command }) {
                    tracing::debug!(client_id = ?consumer.client_id, "the client learns its new settings when it asks next");
                }
            }
            Ok(_) => {}
            Err(refusal) => {
                tracing::debug!(client_id = ?consumer.client_id, %refusal, "settings no longer fit")
            }
        }
    }
}

/// Sends new settings whenever brokers registered something and `is_wanted`. Has no end.
pub async fn keep_settings(
    routes: Arc<ClusterRoutes>,
    clients: Arc<ClientSessions>,
    policy: Arc<dyn SettingsPolicy>,
    is_wanted: impl Fn() -> bool,
) {
    let mut changes = routes.changes();
    // The sender lives in `routes`.
    while changes.changed().await.is_ok() {
        if is_wanted() {
            push_settings(&clients, &*policy);
        }
        // Brokers that start together register one after the other.
        tokio::time::sleep(SETTINGS_PAUSE).await;
    }
}

/// Reads the client's frames, until either side closes its half.
struct Reader {
    client_id: String,
    /// As the headers say.
    language: v2::Language,
    clients: Arc<ClientSessions>,
    policy: Arc<dyn SettingsPolicy>,
    relay: Arc<CallRelay>,
    side: RequestSide,
}

impl Reader {
    async fn run(self, mut frames: impl Stream<Item = Result<TelemetryCommand, Status>> + Unpin) {
        while let Some(Ok(frame)) = frames.next().await {
            // Ended from our side: the server shuts down.
            let Some(replies) = self.side.replies() else { return };
            if !self.handle(frame, &replies).await {
                return;
            }
        }
    }

    /// Returns whether to go on reading.
    async fn handle(&self, frame: TelemetryCommand, replies: &CommandSender) -> bool {
        self.clients.touch(&self.client_id);
        match &frame.command {
            Some(Command::Settings(settings)) => self.handle_settings(settings.clone(), replies).await,
            Some(Command::ThreadStackTrace(v2::ThreadStackTrace { nonce, .. }))
            | Some(Command::VerifyMessageResult(v2::VerifyMessageResult { nonce })) => {
                let nonce = nonce.clone();
                if !self.clients.replied(&nonce, frame) {
                    tracing::debug!(client_id = ?self.client_id, nonce, "unexpected telemetry reply");
                }
                true
            }
            other => {
                tracing::debug!(client_id = ?self.client_id, ?other, "unexpected telemetry frame");
                true
            }
        }
    }

    async fn handle_settings(&self, mut settings: v2::Settings, replies: &CommandSender) -> bool {
        settings::complete_language(&mut settings, self.language);
        if let Some(group) = consumer_group(&settings) {
            // The default for a group that was not heard of yet would have a consumer give up the order of its messages.
            self.relay.routes().until_known(|| self.policy.group(&group).is_some()).await;
        }
        match answer_settings(&settings, self.policy.as_ref()) {
            Ok(answer) => {
                let command = Command::Settings(answer.clone());
                let command = TelemetryCommand { status: Some(ok_status()), command: Some(command) };
                if matches!(answer.pub_sub, Some(PubSub::Subscription(_))) {
                    // The member counts everywhere when it hears that it is one.
                    let announced = self.clients.set_settings(&self.client_id, answer);
                    self.relay.announce(announced).await;
                    return replies.send(Ok(command)).await.is_ok();
                }
                // Before anything that the client is sent because of what it publishes.
                let is_open = replies.send(Ok(command)).await.is_ok();
                self.clients.set_settings(&self.client_id, answer);
                is_open
            }
            Err(refusal) => {
                tracing::info!(client_id = ?self.client_id, %refusal, "telemetry settings refused");
                // Whether or not the client still reads it, the stream is over.
                let _ = replies.send(Err(refusal.to_grpc())).await;
                false
            }
        }
    }
}
