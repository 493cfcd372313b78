//! The one list of the SDKs' calls: each with its answer, its path, and the broker group whose business it is.

use kerolox_model::token::{RecallHandle, ReceiptHandle, TransactionId};
use kerolox_proto::v2::messaging_service_server::SERVICE_NAME;
use kerolox_proto::v2::{self, Code};
use kerolox_proto::{call_path, raw};
use prost::Message;

use crate::refusal::{Refusable, Refusal};

/// A call of the SDKs' protocol, as the type of its request. Messages in it are left encoded.
pub trait SdkCall: Message + Clone + Default + Send + Sync + 'static {
    /// The answer, or one item of the stream that answers.
    type Answer: Message + Default + Refusable + Send + 'static;
    /// `/SERVICE/METHOD`, as in the request's URI.
    const PATH: &'static str;

    /// What a refusal has to repeat of the request: SDKs keep the receipt handle of an answer, whatever its status.
    fn repeated(&self) -> String {
        String::new()
    }

    /// The answer that says nothing but `status`, with what [`Self::repeated`] gave.
    fn refused(status: v2::Status, _repeated: String) -> Self::Answer {
        Self::Answer::refused(status)
    }
}

/// A call that belongs to one broker group, which its request names.
pub trait OwnedCall: SdkCall {
    /// Name of the group.
    ///
    /// # Errors
    /// The refusal of a request that names none.
    fn owner(&self) -> Result<String, Refusal>;
}

/// Declares calls: `METHOD: request => answer;`.
macro_rules! sdk_calls {
    ($($method:literal: $request:ty => $answer:ty;)+) => {
        $(impl SdkCall for $request {
            type Answer = $answer;
            const PATH: &'static str = call_path!(SERVICE_NAME, $method);
        })+
    };
}

sdk_calls! {
    "QueryRoute": v2::QueryRouteRequest => v2::QueryRouteResponse;
    "Heartbeat": v2::HeartbeatRequest => v2::HeartbeatResponse;
    "SendMessage": raw::SendMessageRequest => v2::SendMessageResponse;
    "QueryAssignment": v2::QueryAssignmentRequest => v2::QueryAssignmentResponse;
    "ReceiveMessage": v2::ReceiveMessageRequest => raw::ReceiveMessageResponse;
    "AckMessage": v2::AckMessageRequest => v2::AckMessageResponse;
    "ForwardMessageToDeadLetterQueue": v2::ForwardMessageToDeadLetterQueueRequest => v2::ForwardMessageToDeadLetterQueueResponse;
    "PullMessage": v2::PullMessageRequest => raw::PullMessageResponse;
    "UpdateOffset": v2::UpdateOffsetRequest => v2::UpdateOffsetResponse;
    "GetOffset": v2::GetOffsetRequest => v2::GetOffsetResponse;
    "QueryOffset": v2::QueryOffsetRequest => v2::QueryOffsetResponse;
    "EndTransaction": v2::EndTransactionRequest => v2::EndTransactionResponse;
    "NotifyClientTermination": v2::NotifyClientTerminationRequest => v2::NotifyClientTerminationResponse;
    "RecallMessage": v2::RecallMessageRequest => v2::RecallMessageResponse;
    "SyncLiteSubscription": v2::SyncLiteSubscriptionRequest => v2::SyncLiteSubscriptionResponse;
}

impl SdkCall for v2::ChangeInvisibleDurationRequest {
    type Answer = v2::ChangeInvisibleDurationResponse;
    const PATH: &'static str = call_path!(SERVICE_NAME, "ChangeInvisibleDuration");

    fn repeated(&self) -> String {
        self.receipt_handle.clone()
    }

    fn refused(status: v2::Status, receipt_handle: String) -> Self::Answer {
        v2::ChangeInvisibleDurationResponse { status: Some(status), receipt_handle }
    }
}

/// The broker group that handed out a receipt handle.
///
/// # Errors
/// INVALID_RECEIPT_HANDLE.
pub fn owner_of_receipt(handle: &str) -> Result<String, Refusal> {
    let handle = ReceiptHandle::from_text(handle).map_err(|error| Refusal::invalid_receipt_handle(&error))?;
    Ok(handle.broker)
}

/// The broker group whose queue a request names.
fn owner_of_queue(queue: Option<&v2::MessageQueue>) -> Result<String, Refusal> {
    let broker = queue.and_then(|queue| queue.broker.as_ref());
    match broker {
        Some(broker) if !broker.name.is_empty() => Ok(broker.name.clone()),
        _ => Err(Refusal::new(
            Code::BadRequest,
            "the request does not say which broker it is for; set message_queue.broker.name as QueryRoute gives it",
        )),
    }
}

/// Calls about the queue that they name.
macro_rules! owned_by_queue {
    ($($request:ident),+) => {
        $(impl OwnedCall for v2::$request {
            fn owner(&self) -> Result<String, Refusal> {
                owner_of_queue(self.message_queue.as_ref())
            }
        })+
    };
}

owned_by_queue!(
    ReceiveMessageRequest,
    PullMessageRequest,
    UpdateOffsetRequest,
    GetOffsetRequest,
    QueryOffsetRequest
);

impl OwnedCall for v2::ChangeInvisibleDurationRequest {
    fn owner(&self) -> Result<String, Refusal> {
        owner_of_receipt(&self.receipt_handle)
    }
}

impl OwnedCall for v2::ForwardMessageToDeadLetterQueueRequest {
    fn owner(&self) -> Result<String, Refusal> {
        if self.receipt_handle.is_empty() {
            // The C++ SDK names nothing but the message id. The message is delivered again, and becomes a dead letter when its
            // attempts are used up.
            return Err(Refusal::invalid_receipt_handle(
                "the request names no receipt handle; set it to the handle that came with the message",
            ));
        }
        owner_of_receipt(&self.receipt_handle)
    }
}

impl OwnedCall for v2::EndTransactionRequest {
    fn owner(&self) -> Result<String, Refusal> {
        let id = TransactionId::from_text(&self.transaction_id);
        id.map(|id| id.broker).map_err(|error| Refusal::invalid_transaction_id(&error))
    }
}

impl OwnedCall for v2::RecallMessageRequest {
    fn owner(&self) -> Result<String, Refusal> {
        let handle = RecallHandle::from_text(&self.recall_handle);
        handle.map(|handle| handle.broker).map_err(|error| Refusal::invalid_recall_handle(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handle(broker: &str) -> String {
        ReceiptHandle { broker: broker.into(), ..ReceiptHandle::default() }.to_text()
    }

    #[test]
    fn owners_are_read_from_tokens_and_queues() {
        let change = |receipt_handle: &str| v2::ChangeInvisibleDurationRequest {
            receipt_handle: receipt_handle.to_owned(),
            ..Default::default()
        };
        assert_eq!(change(&handle("a")).owner().unwrap(), "a");
        assert_eq!(change("garbage").owner().unwrap_err().code, Code::InvalidReceiptHandle);
        let end = |transaction_id: String| v2::EndTransactionRequest { transaction_id, ..Default::default() };
        assert_eq!(end(TransactionId::new("b", 7, "id").to_text()).owner().unwrap(), "b");
        assert_eq!(end(" ".to_owned()).owner().unwrap_err().code, Code::InvalidTransactionId);
        assert_eq!(v2::PullMessageRequest::default().owner().unwrap_err().code, Code::BadRequest);
        let forward = v2::ForwardMessageToDeadLetterQueueRequest::default().owner().unwrap_err();
        assert!(forward.message.contains("names no receipt handle"), "{forward}");
    }

    #[test]
    fn a_refused_change_repeats_the_handle() {
        let change = v2::ChangeInvisibleDurationRequest { receipt_handle: "h".into(), ..Default::default() };
        let refused = v2::ChangeInvisibleDurationRequest::refused(v2::Status::default(), change.repeated());
        assert_eq!(refused.receipt_handle, "h");
    }
}
