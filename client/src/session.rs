//! The telemetry stream to one server: our settings go up, its commands come down.

use crate::address::Endpoints;
use crate::delivery::HalfMessage;
use crate::error::{Error, Result};
use crate::member::Member;
use crate::observer::{Noted, Operation};
use crate::producer::transaction::{Ending, Resolution};
use crate::rpc::{Link, messaging, within};
use kerolox_proto::v2;
use kerolox_proto::v2::telemetry_command::Command;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tracing::Instrument as _;

/// Pause before a stream that ended is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
/// Answers to commands that may wait for the network.
const OUTGOING_MAX: usize = 16;

/// Keeps the stream to one server open until the task is aborted. Check-backs outlive the stream that brought them.
pub(crate) async fn attend(member: Arc<Member>, link: Arc<Link>) {
    let mut tasks = JoinSet::new();
    loop {
        let end = converse(&member, &link, &mut tasks).await;
        member.greeted.send_modify(|greeted| {
            greeted.remove(&link.endpoints);
        });
        match end {
            Ok(()) => tracing::debug!(server = %link.endpoints, "telemetry stream closed by the server"),
            Err(error) => tracing::debug!(server = %link.endpoints, %error, "telemetry stream ended"),
        }
        tokio::time::sleep(RECONNECT_PAUSE).await;
    }
}

/// One stream from its opening to its end.
async fn converse(member: &Arc<Member>, link: &Arc<Link>, tasks: &mut JoinSet<()>) -> Result<()> {
    let (outgoing, commands) = mpsc::channel(OUTGOING_MAX);
    let mut settings = member.settings.subscribe();
    let greeting = settings_command(settings.borrow_and_update().clone());
    outgoing.try_send(greeting).expect("the channel is empty and its receiver is here");

    let limit = member.caller.request_timeout;
    let (address, channel) = link.current();
    let address = address.to_string();
    let mut client = messaging(channel);
    let request = member.caller.request(ReceiverStream::new(commands), None);
    let opened = within(&address, limit, client.telemetry(request)).await;
    link.note(&opened);
    let mut incoming = opened?;

    loop {
        tokio::select! {
            received = incoming.message() => {
                match received.map_err(|status| Error::from_grpc(&address, limit, &status))? {
                    Some(v2::TelemetryCommand { command: Some(Command::ReconnectEndpointsCommand(_)), .. }) => {
                        member.look_again();
                        return Ok(());
                    }
                    None => return Ok(()),
                    Some(command) => obey(member, link, command, tasks, &outgoing),
                }
            }
            Ok(()) = settings.changed() => {
                let update = settings_command(settings.borrow_and_update().clone());
                if outgoing.send(update).await.is_err() {
                    return Ok(());
                }
            }
            Some(done) = tasks.join_next() => {
                if let Err(error) = done {
                    tracing::error!(%error, "the transaction checker failed; the broker will ask again");
                }
            }
        }
    }
}

fn settings_command(settings: v2::Settings) -> v2::TelemetryCommand {
    v2::TelemetryCommand { status: None, command: Some(Command::Settings(settings)) }
}

/// Carries out one command; what takes time becomes a task, because the stream must be read on.
fn obey(
    member: &Arc<Member>,
    link: &Arc<Link>,
    command: v2::TelemetryCommand,
    tasks: &mut JoinSet<()>,
    outgoing: &mpsc::Sender<v2::TelemetryCommand>,
) {
    match command.command {
        Some(Command::Settings(settings)) => {
            link.mark_healthy();
            member.told.send_replace(settings);
            member.greeted.send_modify(|greeted| {
                greeted.insert(link.endpoints.clone());
            });
        }
        Some(Command::RecoverOrphanedTransactionCommand(check)) => {
            tasks.spawn(answer_check(Arc::clone(member), Arc::clone(link), check));
        }
        Some(Command::NotifyUnsubscribeLiteCommand(taken)) => {
            if let Some(evictions) = &member.evictions {
                // The receiver is gone when the application has dropped it.
                let _ = evictions.send(taken.lite_topic);
            }
        }
        Some(Command::VerifyMessageCommand(verify)) => {
            tasks.spawn(answer_verification(
                Arc::clone(member),
                link.endpoints.clone(),
                verify,
                outgoing.clone(),
            ));
        }
        Some(Command::PrintThreadStackTraceCommand(print)) => {
            let trace = v2::ThreadStackTrace { nonce: print.nonce, thread_stack_trace: None };
            let refusal = unsupported("a Rust process does not know what its threads do");
            let reply = v2::TelemetryCommand {
                status: Some(refusal),
                command: Some(Command::ThreadStackTrace(trace)),
            };
            // A full channel means that the server is not reading; it may do without this answer.
            let _ = outgoing.try_send(reply);
        }
        other => tracing::debug!(status = ?command.status, ?other, "nothing to do for this command"),
    }
}

fn unsupported(text: &str) -> v2::Status {
    v2::Status { code: v2::Code::Unsupported.into(), message: text.to_owned() }
}

/// Shows a message to the listener of a push consumer, and tells the server what it made of it.
async fn answer_verification(
    member: Arc<Member>,
    server: Endpoints,
    verify: v2::VerifyMessageCommand,
    outgoing: mpsc::Sender<v2::TelemetryCommand>,
) {
    let status = match member.verifier.get() {
        Some(verifier) => verifier(verify.message.unwrap_or_default(), server).await,
        None => unsupported("only push consumers have a listener that a message can be shown to"),
    };
    let result = v2::VerifyMessageResult { nonce: verify.nonce };
    let command = Some(Command::VerifyMessageResult(result));
    // A stream that ended takes no answer; the server tells the administrator so.
    let _ = outgoing.send(v2::TelemetryCommand { status: Some(status), command }).await;
}

/// Asks the application about an undecided transaction and tells the server that wanted to know.
async fn answer_check(member: Arc<Member>, link: Arc<Link>, check: v2::RecoverOrphanedTransactionCommand) {
    let Some(checker) = &member.checker else {
        tracing::warn!("a broker asks about a transaction, but this producer has no transaction checker");
        return;
    };
    let Ok(_permit) = member.check_permits.acquire().await else {
        return;
    };
    let half = HalfMessage::from_wire(check.message.unwrap_or_default(), check.transaction_id);
    let ending = Ending {
        topic: half.message().topic().to_owned(),
        message_id: half.message_id().to_owned(),
        transaction_id: half.transaction_id().to_owned(),
        source: v2::TransactionSource::SourceServerCheck,
    };
    let span = tracing::debug_span!("check_back", transaction_id = ending.transaction_id);
    let started = Instant::now();
    let resolution: Resolution = checker(half).instrument(span).await;
    let sent = ending.send(&member.caller, &link, resolution).await;
    let noted = Noted { operation: Operation::CheckBack, topic: &ending.topic, group: None };
    member.caller.observed.note(noted, 1, started.elapsed(), &sent);
    match sent {
        Ok(()) => tracing::debug!(?ending, ?resolution, "check-back answered"),
        Err(error) => tracing::warn!(?ending, %error, "check-back not answered; the broker will ask again"),
    }
}
