//! Sends to a broker group without write permission: another group of the topic takes them.
//!
//! Clients keep using a route that they looked up half a minute ago, and some send to read-only queues. None of these sends may
//! fail.

use kerolox_gateway::relay::is_relayed;
use kerolox_proto::raw;
use kerolox_proto::v2::{self, Code};
use prost::Message;
use tonic::{Extensions, Request};

use super::Context;

/// Passes the messages of a request on to another broker group, if writing is withheld here. `None` when they are to be stored
/// here: writing is not withheld, the call was passed on before, or no other group accepts them. So a send fails only where it
/// would have failed anyway.
pub(super) async fn pass_on(
    context: &Context,
    request: &Request<raw::SendMessageRequest>,
) -> Option<v2::SendMessageResponse> {
    if !context.metadata.withholds_writing() {
        return None;
    }
    context.counters.quiet.broken();
    if is_relayed(request.metadata()) {
        return None;
    }
    let first = v2::Message::decode(request.get_ref().messages.first()?.clone()).ok()?;
    let mut groups = context.routes.writable_groups(first.topic.as_ref()).ok()?;
    groups.retain(|group| context.is_foreign(group));
    for group in context.spread.order(groups, &first) {
        let send = request.get_ref().clone();
        let send = Request::from_parts(request.metadata().clone(), Extensions::new(), send);
        match context.relay.unary(&group, send).await {
            Ok(answer) if !was_declined(&answer) => return Some(answer),
            Ok(answer) => tracing::debug!(group, ?answer, "a send that was passed on was declined"),
            Err(refusal) => tracing::debug!(group, %refusal, "a send could not be passed on"),
        }
    }
    None
}

/// Whether a broker group stored nothing for a reason of its own, which may not hold elsewhere.
fn was_declined(answer: &v2::SendMessageResponse) -> bool {
    let code = answer.status.as_ref().map_or(Code::Unspecified, v2::Status::code);
    matches!(
        code,
        Code::TopicNotFound
            | Code::Forbidden
            | Code::TooManyRequests
            | Code::HaNotAvailable
            | Code::InternalServerError
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_message_is_wrong_everywhere() {
        let answer = |code: Code| v2::SendMessageResponse {
            status: Some(v2::Status { code: code.into(), message: String::new() }),
            entries: Vec::new(),
        };
        for code in [Code::Ok, Code::MessageBodyTooLarge, Code::MultipleResults] {
            assert!(!was_declined(&answer(code)), "{code:?}");
        }
        for code in [Code::TopicNotFound, Code::Forbidden, Code::HaNotAvailable, Code::TooManyRequests] {
            assert!(was_declined(&answer(code)), "{code:?}");
        }
    }
}
