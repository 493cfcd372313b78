//! Answers whose client may not have got them.
//!
//! What is written to a connection is on its way, and nothing says when it has arrived: the other end may be a proxy, the line may
//! be dead. The sign that it has arrived is a peer that is heard a while later, on the connection that carried it: whatever breaks
//! an answer breaks the connection, and a dead line is found by the keepalive of HTTP/2. So an answer is remembered until then, and
//! a connection that ends before says so to those whose answers it may have lost. A client that closes its connection of its own will
//! has what it wanted. Where the other end is a server that passed the
//! call on, that server watches the client's connection in the same way, and says that the call broke.

mod connection;
mod farewell;
mod passed;

use std::sync::{Arc, Mutex, PoisonError};

use tonic::Extensions;

pub use connection::OpenAnswers;
pub(crate) use farewell::LastWords;
pub use passed::PassedAnswers;

use crate::listen::ConnectionInfo;
use connection::Reader;

/// What is to be done when an answer was lost.
type Lost = Box<dyn FnOnce() + Send>;

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

    /// The same where another server passed the call on under this number, if one did.
    #[must_use]
    pub fn through(self, number: Option<&str>, answers: &Arc<PassedAnswers>) -> Self {
        Self { passed: number.map(|number| (number.to_owned(), Arc::clone(answers))), ..self }
    }

    /// An answer with so many items was sent. `lost` is carried out, once, if it turns out that it may not have arrived.
    pub fn sent(&self, items: usize, lost: impl FnOnce() + Send + 'static) {
        let Some((number, answers)) = &self.passed else {
            if let Some(connection) = &self.connection {
                connection.written(items, Reader::Client, Box::new(lost));
            }
            return;
        };
        let lost = Arc::new(Mutex::new(Some(lost)));
        let either = || -> Lost {
            let lost = Arc::clone(&lost);
            Box::new(move || {
                let lost = lost.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(lost) = lost {
                    lost();
                }
            })
        };
        answers.sent(number.clone(), items, either());
        if let Some(connection) = &self.connection {
            connection.written(items, Reader::Server, either());
        }
    }
}
