//! Answers whose client may not have got them, on both legs of their way.
//!
//! A connection remembers its answers until they have arrived ([`OpenAnswers`]). Where the other end is a server that passed the
//! call on, that server watches the client's connection in the same way, and says that the call broke.
//!
//! # Answers that break
//!
//! The protocol has no receipt for an answer, and a consumer that works on one message for an hour says nothing
//! about it meanwhile. The sign that an answer has arrived is therefore its connection: each remembers the answers
//! that it carried until its peer is heard 5 s later (`gateway/src/answers/`), and when it ends before, the engine
//! takes back what they held (`rpc/messaging/handed.rs`, `core::delivery`'s `broken_receives.rs`), unless the
//! client acted on a part of it or said goodbye. Nothing else will do: that the transport took the trailers says
//! nothing about a proxy, a later receive follows a success as well as a failure, and a heartbeat shows that the
//! client lives, not what it has. The keepalive of HTTP/2 ends a dead connection before a lease of the default
//! length is renewed for the first time. A server that passes a receive on gives it a number
//! (`relay/under_way.rs`), watches the client's connection in the same way, and reports a break under that number
//! in an AckMessage without entries, which older brokers refuse. A client's break cancels the call at the owner,
//! and the owner's break that of the client. Each receive has a number in the engine: a receive that was repeated
//! under its attempt id is not undone by the end of the first one.

mod passed;

use std::sync::Arc;

use parking_lot::Mutex;
use tonic::Extensions;

pub use passed::PassedAnswers;

use kerolox_runtime::listen::{AnswerReader, ConnectionInfo, LostAnswer, OpenAnswers};

/// How an answer goes to its client.
#[derive(Debug, Clone, Default)]
pub struct AnswerWay {
    /// Over this connection.
    connection: Option<Arc<OpenAnswers>>,
    /// And then through a server that passed the call on under this number.
    passed: Option<(String, Arc<PassedAnswers>)>,
}

impl AnswerWay {
    /// The way back over the connection that a call came on; `extensions` are those of its request.
    pub fn back(extensions: &Extensions) -> Self {
        let connection = extensions.get::<ConnectionInfo>();
        Self { connection: connection.map(|connection| Arc::clone(&connection.answers)), passed: None }
    }

    /// This way, continued through the server that passed the call on under `number`, if one did.
    #[must_use]
    pub fn through(self, number: Option<&str>, answers: &Arc<PassedAnswers>) -> Self {
        Self { passed: number.map(|number| (number.to_owned(), Arc::clone(answers))), ..self }
    }

    /// An answer with so many items was sent. `lost` is carried out, once, if it turns out that it may not have arrived.
    pub fn sent(&self, items: usize, lost: impl FnOnce() + Send + 'static) {
        let Some((number, answers)) = &self.passed else {
            if let Some(connection) = &self.connection {
                connection.written(items, AnswerReader::Client, Box::new(lost));
            }
            return;
        };
        let lost = Arc::new(Mutex::new(Some(lost)));
        let either = || -> LostAnswer {
            let lost = Arc::clone(&lost);
            Box::new(move || {
                let lost = lost.lock().take();
                if let Some(lost) = lost {
                    lost();
                }
            })
        };
        answers.sent(number.clone(), items, either());
        if let Some(connection) = &self.connection {
            connection.written(items, AnswerReader::Server, either());
        }
    }
}
