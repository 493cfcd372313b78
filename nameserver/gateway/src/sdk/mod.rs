//! The SDKs' calls, once for all servers: what each one is ([`calls`]), what surrounds them ([`layers`]), and which of them a
//! broker answers itself ([`OwnCalls`]).

pub mod calls;
pub mod layers;

use kerolox_proto::path::service_and_method;
use kerolox_proto::raw;
use kerolox_proto::v2::messaging_service_server::SERVICE_NAME;
use kerolox_proto::v2::{self, AckMessageEntry, AckMessageResultEntry};
use tonic::Request;

use crate::access::ItemStream;
use crate::headers::ClientHeaders;
use crate::refusal::Refusal;

pub use calls::{OwnedCall, SdkCall};

/// Whether a path is that of a call of the SDKs' protocol; their administration is another service.
pub(crate) fn is_sdk_call(path: &str) -> bool {
    service_and_method(path).0 == SERVICE_NAME
}

/// Entries of an AckMessage, or their results, with their places in the request.
pub type PlacedEntries<T> = Vec<(usize, T)>;

/// The calls about messages as a broker answers them that owns what they are about. Each refusal goes into the body of the answer;
/// callers have said who they are ([`ClientHeaders::of`]).
#[tonic::async_trait]
pub trait OwnCalls: Send + Sync + 'static {
    /// Name of the broker group: the owner of the answers given here.
    fn group(&self) -> &str;

    /// A client said goodbye.
    fn client_left(&self, client_id: &str);

    /// The answer to a call that another server had passed on under this number did not reach its client.
    fn call_broke(&self, number: &str);

    /// SendMessage.
    async fn send_message(
        &self,
        request: Request<raw::SendMessageRequest>,
    ) -> Result<v2::SendMessageResponse, Refusal>;

    /// EndTransaction.
    async fn end_transaction(
        &self,
        request: Request<v2::EndTransactionRequest>,
    ) -> Result<v2::EndTransactionResponse, Refusal>;

    /// ReceiveMessage.
    async fn receive_message(
        &self,
        request: Request<v2::ReceiveMessageRequest>,
    ) -> Result<ItemStream<raw::ReceiveMessageResponse>, Refusal>;

    /// AckMessage: the entries that belong to this group, never none.
    async fn ack_message(
        &self,
        client: &ClientHeaders,
        group: Option<&v2::Resource>,
        topic: Option<&v2::Resource>,
        entries: PlacedEntries<AckMessageEntry>,
    ) -> Result<PlacedEntries<AckMessageResultEntry>, Refusal>;

    /// ChangeInvisibleDuration.
    async fn change_invisible_duration(
        &self,
        request: Request<v2::ChangeInvisibleDurationRequest>,
    ) -> Result<v2::ChangeInvisibleDurationResponse, Refusal>;

    /// ForwardMessageToDeadLetterQueue.
    async fn forward_message_to_dead_letter_queue(
        &self,
        request: Request<v2::ForwardMessageToDeadLetterQueueRequest>,
    ) -> Result<v2::ForwardMessageToDeadLetterQueueResponse, Refusal>;

    /// RecallMessage.
    async fn recall_message(
        &self,
        request: Request<v2::RecallMessageRequest>,
    ) -> Result<v2::RecallMessageResponse, Refusal>;

    /// PullMessage.
    async fn pull_message(
        &self,
        request: Request<v2::PullMessageRequest>,
    ) -> Result<ItemStream<raw::PullMessageResponse>, Refusal>;

    /// UpdateOffset.
    async fn update_offset(
        &self,
        request: Request<v2::UpdateOffsetRequest>,
    ) -> Result<v2::UpdateOffsetResponse, Refusal>;

    /// GetOffset.
    async fn get_offset(
        &self,
        request: Request<v2::GetOffsetRequest>,
    ) -> Result<v2::GetOffsetResponse, Refusal>;

    /// QueryOffset.
    async fn query_offset(
        &self,
        request: Request<v2::QueryOffsetRequest>,
    ) -> Result<v2::QueryOffsetResponse, Refusal>;

    /// SyncLiteSubscription, here and at the other groups of the topic.
    async fn sync_lite_subscription(
        &self,
        request: Request<v2::SyncLiteSubscriptionRequest>,
    ) -> Result<v2::SyncLiteSubscriptionResponse, Refusal>;
}
