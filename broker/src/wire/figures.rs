//! What handing messages on costs, beside decoding and encoding them:
//! `cargo test --release -p kerolox-broker --lib wire::figures -- --ignored --nocapture`

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use kerolox_core::topic::MessageType;
use kerolox_proto::{raw, v2};
use prost::Message;

use super::tests::{delivery, expected, placed, sent_by_sdk};

/// How long one message takes, on average of a second.
fn cost(batch: usize, mut work: impl FnMut()) -> Duration {
    let started = Instant::now();
    let mut rounds = 0;
    while started.elapsed() < Duration::from_secs(1) {
        for _ in 0..64 {
            work();
        }
        rounds += 64;
    }
    started.elapsed() / rounds / u32::try_from(batch).expect("small")
}

fn encoded<M: Message>(item: &M) -> usize {
    black_box(item.encode_to_vec()).len()
}

#[test]
#[ignore = "takes ten seconds, and is only worth something on a quiet machine"]
fn bytes_are_handed_on_faster_than_messages_are_decoded() {
    for (body, batch) in [(100, 1), (100, 64), (1024, 1), (1024, 64)] {
        let message = v2::Message { body: vec![b'x'; body].into(), ..sent_by_sdk() };
        let request = Bytes::from(v2::SendMessageRequest { messages: vec![message; batch] }.encode_to_vec());
        let kind = MessageType::Normal;
        let delivery = delivery(1, Some(9));
        let typed = cost(batch, || {
            let request = v2::SendMessageRequest::decode(request.clone()).expect("encoded above");
            for message in request.messages {
                // Stored and, later, delivered: twice decoded, changed and encoded.
                let stored = expected(&message.encode_to_vec(), kind, &delivery).expect("a message");
                let content = v2::receive_message_response::Content::Message(stored);
                encoded(&v2::ReceiveMessageResponse { content: Some(content) });
            }
        });
        let handed_on = cost(batch, || {
            let request = raw::SendMessageRequest::decode(request.clone()).expect("encoded above");
            for message in super::scan(&request.messages).expect("regular") {
                let record = placed(kind, 1, |placement| super::record(&message, placement));
                let content =
                    raw::receive_message_response::Content::Message(super::message(&record, &delivery));
                encoded(&raw::ReceiveMessageResponse { content: Some(content) });
            }
        });
        println!(
            "{body} B, batch {batch}: decoded {typed:?}, handed on {handed_on:?} per message, send to delivery"
        );
        assert!(handed_on < typed, "handing bytes on must not cost more than decoding them");
    }
}
