//! Subscriptions to lite topics on several brokers.

use kerolox_proto::v2::{self, Code};
use tonic::metadata::MetadataMap;
use tonic::{Extensions, Request};

use crate::refusal::Refusal;
use crate::relay::{CallRelay, is_relayed};

/// Passes a SyncLiteSubscription on to the brokers `owners`, unless it was passed on before. One that is not there is left out:
/// clients repeat their subscriptions every 30 s.
///
/// # Errors
/// The first refusal by a broker that is there; that of the last one when none is there.
pub async fn sync_everywhere(
    relay: &CallRelay,
    owners: Vec<String>,
    metadata: MetadataMap,
    message: &v2::SyncLiteSubscriptionRequest,
) -> Result<(), Refusal> {
    if is_relayed(&metadata) {
        return Ok(());
    }
    let count = owners.len();
    let mut absent = Vec::new();
    for owner in owners {
        let request = Request::from_parts(metadata.clone(), Extensions::new(), message.clone());
        match relay.sync_lite_subscription(&owner, request).await {
            Ok(answer) => {
                let status = answer.status.unwrap_or_default();
                if status.code() != Code::Ok {
                    return Err(Refusal::new(status.code(), status.message));
                }
            }
            Err(refusal) => {
                tracing::debug!(owner, %refusal, "subscriptions to lite topics were not passed on");
                absent.push(refusal);
            }
        }
    }
    match absent.pop() {
        Some(refusal) if absent.len() + 1 == count => Err(refusal),
        _ => Ok(()),
    }
}
