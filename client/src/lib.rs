//! Client of Kerolox and of other servers that speak the RocketMQ 5 protocol (`apache.rocketmq.v2`).
//!
//! A [`Client`] knows the access points and owns the connections. From it come [`Producer`]s, [`SimpleConsumer`]s,
//! [`PushConsumer`]s, [`PullConsumer`]s, consumers of lite topics and the [`admin::Admin`] interface. Each producer and consumer is a client of its own in the eyes of the servers, with its own
//! client id, telemetry streams and heartbeats; dropping it stops its background tasks.
//!
//! ```no_run
//! use kerolox_client::{Client, FilterExpression, Message, Resolution};
//! use std::time::Duration;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::builder("127.0.0.1:9876").build()?;
//!
//! // A transaction: the message becomes visible when the local work is done, or never.
//! let producer = client
//!     .producer()
//!     .topic("orders")
//!     .transaction_checker(|half| async move {
//!         // Asked about an undecided message: look the truth up where the local work is recorded.
//!         if half.message().keys().is_empty() { Resolution::Rollback } else { Resolution::Commit }
//!     })
//!     .start()
//!     .await?;
//! let done = producer
//!     .in_transaction(
//!         Message::builder("orders").body("order 4711").key("4711").build(),
//!         async |_half| {
//!             // ... the local work; an error rolls the message back.
//!             Ok::<_, std::io::Error>(4711)
//!         },
//!     )
//!     .await?;
//! println!("order {} is {}", done.value, done.commit);
//!
//! let consumer = client
//!     .simple_consumer("billing")
//!     .subscribe("orders", FilterExpression::all())
//!     .start()
//!     .await?;
//! for delivery in consumer.receive(16, Duration::from_secs(30)).await? {
//!     println!("{}: {:?}", delivery.message_id(), delivery.message().body());
//!     consumer.ack(&delivery).await?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Overview: [`Producer`] sends messages and keeps transactions, [`Batcher`] sends in batches, [`SimpleConsumer`]
//! receives, [`PushConsumer`] calls a listener, [`PullConsumer`] reads by offset, [`LiteTopics`] are subscribed to
//! while consumers are at work, [`Error`] says what went wrong and whether to try again, [`Observer`] is told of each
//! operation, [`admin`] speaks `kerolox.v1` with brokers and nameservers.
//!
//! Futures may be dropped at any time; where that leaves something open, the method says so. Requests have time limits
//! ([`ClientBuilder::request_timeout`]) and are repeated within a [`RetryPolicy`].

#![deny(rustdoc::private_intra_doc_links)]

mod address;
pub mod admin;
mod body;
mod client;
mod consumer;
mod credentials;
mod delivery;
mod error;
mod filter;
mod lanes;
mod lite;
mod member;
mod message;
mod message_id;
mod observer;
mod producer;
mod pull;
mod push;
mod queue;
mod retry;
mod route;
mod rpc;
mod session;
mod tls;

pub use address::{Address, AddressError, parse_addresses};
pub use body::BodyError;
pub use client::{Client, ClientBuilder};
pub use consumer::{SimpleConsumer, SimpleConsumerBuilder};
pub use credentials::Credentials;
pub use delivery::{Delivery, HalfMessage, PulledMessage};
pub use error::{Code, Error, Result};
pub use filter::FilterExpression;
pub use lite::{
    LitePushConsumer, LitePushConsumerBuilder, LiteSimpleConsumer, LiteSimpleConsumerBuilder, LiteTopics,
};
pub use message::{Message, MessageBuilder};
pub use observer::{Event, Observer, Operation};
pub use producer::batching::{Batcher, Batching, Pending};
pub use producer::local::{Commit, Executed, TransactionError};
pub use producer::transaction::{Resolution, Transaction};
pub use producer::{Producer, ProducerBuilder, SendReceipt};
pub use pull::{PullConsumer, PullConsumerBuilder, Pulled};
pub use push::{PushConsumer, PushConsumerBuilder, Verdict};
pub use queue::{MessageQueue, Position};
pub use retry::RetryPolicy;
pub use tls::Tls;

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever an application holds can go from task to task.
    #[test]
    fn what_is_public_is_send_and_sync() {
        fn holds<T: Send + Sync + std::fmt::Debug + 'static>() {}
        holds::<Client>();
        holds::<ClientBuilder>();
        holds::<Producer>();
        holds::<ProducerBuilder>();
        holds::<Batcher>();
        holds::<Transaction>();
        holds::<SimpleConsumer>();
        holds::<PushConsumer>();
        holds::<PullConsumer>();
        holds::<LiteSimpleConsumer>();
        holds::<LitePushConsumer>();
        holds::<LiteTopics>();
        holds::<admin::Admin>();
        holds::<admin::BrokerAdmin>();
        holds::<Message>();
        holds::<Delivery>();
        holds::<PulledMessage>();
        holds::<HalfMessage>();
        holds::<SendReceipt>();
        holds::<Tls>();
        holds::<Credentials>();
        fn fails<T: std::error::Error + Send + Sync + 'static>() {}
        fails::<Error>();
        fails::<AddressError>();
        fails::<BodyError>();
        fails::<TransactionError<std::io::Error>>();
    }
}
