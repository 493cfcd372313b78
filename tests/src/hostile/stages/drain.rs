//! A consumer with much before it, one message at a time, and the sender of that.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use tokio::time::{Instant, sleep};

use super::super::target::{SMALL_TOPIC, Target};
use kerolox_harness::raw_calls::{self, MessagingStub};

const GROUP: &str = "hostile-drain";
/// What a full disk is answered with.
const REFUSED: &str = "TooManyRequests";
/// Lengths of messages that are sent until none fits.
const LENGTHS: [usize; 4] = [50_000, 5_000, 500, 50];
/// Between two acknowledgements.
const PAUSE: Duration = Duration::from_millis(10);
const POLL: Duration = Duration::from_secs(1);

/// Sends, receives and acknowledges; an error of the last two ends it.
pub(super) struct Drain {
    stub: MessagingStub,
    /// Messages that the broker has taken; each has a number, and the number is its id.
    pub(super) sent: u64,
    number: u64,
    acknowledged: HashSet<String>,
    /// How long receives and acknowledgements took since [`Self::take`].
    times: Vec<Duration>,
    /// The most memory that the broker was seen to have, in bytes.
    pub(super) peak: u64,
}

impl Drain {
    pub(super) async fn start(target: &Target) -> Result<Self> {
        let stub = raw_calls::stub(&target.broker).await?;
        let (acknowledged, times) = (HashSet::new(), Vec::new());
        Ok(Self { stub, sent: 0, number: 0, acknowledged, times, peak: 0 })
    }

    /// Goes on with a broker that was started again.
    pub(super) async fn reconnect(&mut self, target: &Target) -> Result<()> {
        self.stub = raw_calls::stub(&target.broker).await?;
        Ok(())
    }

    /// Sends so many messages of so many bytes.
    pub(super) async fn send(&mut self, count: u64, bytes: usize) -> Result<()> {
        for _ in 0..count {
            self.send_one(bytes).await?;
        }
        Ok(())
    }

    async fn send_one(&mut self, bytes: usize) -> Result<()> {
        self.number += 1;
        raw_calls::send(&mut self.stub, vec![raw_calls::message(SMALL_TOPIC, self.number, bytes)]).await?;
        self.sent += 1;
        Ok(())
    }

    /// Sends until not even a small message is taken; how many were.
    ///
    /// # Errors
    /// When all are taken, or one is refused with other words than those of a full disk.
    pub(super) async fn send_until_refused(&mut self) -> Result<u64> {
        let before = self.sent;
        for bytes in LENGTHS {
            let refused = loop {
                if let Err(error) = self.send_one(bytes).await {
                    break error.to_string();
                }
                ensure!(self.sent < before + 10_000, "the disk is full, and everything is taken");
            };
            ensure!(refused.starts_with(REFUSED), "a full disk is refused with {refused}");
        }
        Ok(self.sent - before)
    }

    /// Receives and acknowledges for a while, unhurried.
    pub(super) async fn work(&mut self, target: &Target, lasts: Duration) -> Result<()> {
        let until = Instant::now() + lasts;
        while Instant::now() < until && self.left() > 0 {
            self.some(target, PAUSE).await?;
        }
        Ok(())
    }

    /// Receives and acknowledges until there is nothing left.
    pub(super) async fn finish(&mut self, target: &Target, patience: Duration) -> Result<()> {
        let until = Instant::now() + patience;
        while self.left() > 0 {
            ensure!(
                Instant::now() < until,
                "{} of {} acknowledged sends did not come",
                self.left(),
                self.sent
            );
            self.some(target, Duration::ZERO).await?;
        }
        Ok(())
    }

    pub(super) fn left(&self) -> u64 {
        self.sent.saturating_sub(self.acknowledged.len() as u64)
    }

    /// How long the calls took since this was called last.
    pub(super) fn take(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.times)
    }

    async fn some(&mut self, target: &Target, pause: Duration) -> Result<()> {
        let began = Instant::now();
        let entries = raw_calls::receive(&mut self.stub, SMALL_TOPIC, GROUP, POLL).await?;
        self.times.push(began.elapsed());
        for entry in entries {
            let id = entry.message_id.clone();
            if self.acknowledged.contains(&id) {
                bail!("message {id} came again after its acknowledgement");
            }
            let began = Instant::now();
            raw_calls::acknowledge(&mut self.stub, SMALL_TOPIC, GROUP, vec![entry]).await?;
            self.times.push(began.elapsed());
            self.acknowledged.insert(id);
            self.peak = self.peak.max(target.memory()?);
            sleep(pause).await;
        }
        Ok(())
    }
}
