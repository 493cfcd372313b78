//! Receives that are passed on: their owner learns when the client's call breaks, whenever that is.
//!
//! The owner sees only that this server took its answer. So each receive goes on under a number, and when the client did not get
//! the answer, or gave the call up while the answer was on its way here, an AckMessage that acknowledges nothing says so under
//! that number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kerolox_proto::v2;
use tokio::runtime::Handle;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Extensions, Request};
use uuid::Uuid;

use super::CallRelay;

/// Header with the number of a receive that is passed on, and of an AckMessage that says that it broke.
pub(crate) const CALL_NUMBER: &str = "x-kerolox-call";
/// How often an owner is told that a call broke, until it has heard.
const TELLS: u32 = 10;
/// Pause between these.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// The number under which another server passed a call on.
pub fn call_number(metadata: &MetadataMap) -> Option<&str> {
    metadata.get(CALL_NUMBER).and_then(|number| number.to_str().ok())
}

/// A receive that may have been answered by its owner and not reached its client. Dropped while that is so, it tells the owner.
pub(super) struct UnderWay {
    /// `None` when there is nothing that could be lost.
    call: Option<PassedCall>,
    /// Whether the owner may have handed something out.
    is_asked: AtomicBool,
}

/// A receive as its owner knows it.
pub(super) struct PassedCall {
    relay: Arc<CallRelay>,
    owner: String,
    metadata: MetadataMap,
    group: Option<v2::Resource>,
    topic: Option<v2::Resource>,
    runtime: Handle,
}

impl UnderWay {
    /// Gives a receive its number.
    pub(super) fn begin(
        relay: &Arc<CallRelay>,
        owner: &str,
        request: &mut Request<v2::ReceiveMessageRequest>,
    ) -> Self {
        let number = Uuid::new_v4().simple().to_string();
        let number = MetadataValue::try_from(number).expect("digits are fit for a header");
        request.metadata_mut().insert(CALL_NUMBER, number);
        let message = request.get_ref();
        let call = PassedCall {
            relay: Arc::clone(relay),
            owner: owner.to_owned(),
            metadata: request.metadata().clone(),
            group: message.group.clone(),
            topic: message.message_queue.as_ref().and_then(|queue| queue.topic.clone()),
            runtime: Handle::current(),
        };
        Self { call: Some(call), is_asked: AtomicBool::new(false) }
    }

    /// The owner is asked.
    pub(super) fn asked(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
    }

    /// There is nothing in the answer that could be lost here.
    pub(super) fn settle(mut self) -> Option<PassedCall> {
        self.call.take()
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if *self.is_asked.get_mut()
            && let Some(call) = self.call.take()
        {
            call.tell();
        }
    }
}

impl PassedCall {
    /// Tells the owner, in the background, that the answer did not reach the client.
    pub(super) fn tell(mut self) {
        // The call that broke may have been given less time than this takes.
        self.metadata.remove("grpc-timeout");
        self.runtime.clone().spawn(self.tell_until_heard());
    }

    async fn tell_until_heard(self) {
        let broken = v2::AckMessageRequest { group: self.group, topic: self.topic, entries: Vec::new() };
        for _ in 0..TELLS {
            let request = Request::from_parts(self.metadata.clone(), Extensions::new(), broken.clone());
            match self.relay.unary(&self.owner, request).await {
                Ok(_) => return,
                Err(refusal) => {
                    tracing::debug!(owner = self.owner, %refusal, "a broken call was not reported");
                }
            }
            tokio::time::sleep(TELL_AGAIN).await;
        }
    }
}
