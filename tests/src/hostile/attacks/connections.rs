//! Connections that are made and not used.

use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::frames::{PREFACE, RawPeer, Windows, dial};
use super::super::target::Target;
use super::{host, repeatedly};

const COUNT: u32 = 1_100;

/// Greeted, and silent from then on.
pub(super) fn idle(target: &Target, until: Instant) -> JoinSet<()> {
    let address = target.broker.clone();
    repeatedly(COUNT, until, move |number| {
        let address = address.clone();
        async move {
            RawPeer::greet(&address, host(number), Windows::Open).await?.drain().await;
            Ok(())
        }
    })
}

/// The first eight bytes of a greeting.
pub(super) fn half_a_preface(target: &Target, until: Instant) -> JoinSet<()> {
    let address = target.broker.clone();
    repeatedly(COUNT, until, move |number| {
        let address = address.clone();
        async move {
            let mut stream = dial(&address, host(number)).await?;
            tokio::io::AsyncWriteExt::write_all(&mut stream, &PREFACE[..8]).await?;
            let mut byte = [0];
            stream.read_exact(&mut byte).await?;
            Ok(())
        }
    })
}
