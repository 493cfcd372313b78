//! Requests whose answers are not read.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::super::frames::{PING, RawPeer, Windows};
use super::super::target::{BIG_TOPIC, SMALL_TOPIC, Target, pull, receive};
use super::{host, repeatedly};

/// Eight connections with a hundred pulls of big messages on each, and no window for the answers.
pub(super) fn shut_pulls(target: &Target, until: Instant) -> JoinSet<()> {
    let (address, broker) = (target.broker.clone(), target.group.clone());
    repeatedly(8, until, move |number| {
        let (address, broker) = (address.clone(), broker.clone());
        async move {
            let mut peer = RawPeer::greet(&address, host(number), Windows::Shut).await?;
            for call in 0..100 {
                peer.call("PullMessage", &pull(BIG_TOPIC, &broker, call % 4)).await?;
            }
            peer.drain().await;
            Ok(())
        }
    })
}

/// Many pulls of big messages, with the largest windows, on connections that are not read.
pub(super) fn never_read(target: &Target, until: Instant) -> JoinSet<()> {
    let (address, broker) = (target.broker.clone(), target.group.clone());
    repeatedly(12, until, move |number| {
        let (address, broker) = (address.clone(), broker.clone());
        async move {
            let mut peer = RawPeer::deaf(&address, host(number)).await?;
            for call in 0..400 {
                peer.call("PullMessage", &pull(BIG_TOPIC, &broker, call % 4)).await?;
            }
            loop {
                sleep(Duration::from_secs(1)).await;
                // Pings are allowed; nothing is read, so only a connection that is closed shows.
                peer.write(PING).await?;
            }
        }
    })
}

/// Receives of several groups that look through all messages and want none.
pub(super) fn unwanted(target: &Target, until: Instant) -> JoinSet<()> {
    let address = target.broker.clone();
    repeatedly(8, until, move |number| {
        let address = address.clone();
        async move {
            let mut peer = RawPeer::greet(&address, host(number), Windows::Open).await?;
            let group = format!("hostile-unwanted-{number}-{}", uuid());
            peer.call(
                "ReceiveMessage",
                &receive(SMALL_TOPIC, &group, "nothing = 'of this' AND other LIKE '%x%y%z'"),
            )
            .await?;
            let draining = tokio::time::timeout(Duration::from_secs(2), peer.drain());
            let _ = draining.await;
            Ok(())
        }
    })
}

/// A name that was not there before.
fn uuid() -> u128 {
    std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos())
}
