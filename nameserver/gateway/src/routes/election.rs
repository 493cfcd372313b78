//! Patience with broker groups that are about to have another master.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::ClusterRoutes;
use crate::refusal::Refusal;

/// How long to go on looking for the master of a group with slaves: an election with default settings takes about 2 s.
pub(crate) const ELECTION_WAIT: Duration = Duration::from_secs(4);
/// After so long without a master, an election is not expected at any moment: queries no longer wait for it.
const ELECTION_LATELY: Duration = Duration::from_secs(20);
/// How often to look.
const ELECTION_LOOK: Duration = Duration::from_millis(50);

impl ClusterRoutes {
    /// Asks for newer routes, and waits a moment for them.
    pub(crate) async fn look(&self) {
        let mut changes = self.changes();
        self.want_news();
        // Whether they are there shows at the next look.
        let _ = timeout_at(Instant::now() + ELECTION_LOOK, changes.changed()).await;
    }

    /// What `query` says of a topic. Slaves hear of a topic a little later than their master, so one that is not found while a
    /// group is being given another master is looked for again until it has one, for some seconds at most.
    ///
    /// # Errors
    /// Those of `query`.
    pub async fn through_election<T>(
        &self,
        query: impl Fn(&Self) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let is_answered = |outcome: &Result<T, Refusal>| match outcome {
            Err(refusal) => !refusal.is_of_unknown_topic(),
            Ok(_) => true,
        };
        self.patiently(query, is_answered).await
    }

    /// Waits until a consumer group is known, likewise; a process that has just started, until it has heard of any broker. A group
    /// that was made a moment ago shows in newer routes.
    pub(crate) async fn until_known(&self, is_known: impl Fn() -> bool) {
        if !is_known() {
            self.look().await;
        }
        while !is_known() && self.began.elapsed() < ELECTION_WAIT && self.addresses().is_empty() {
            self.look().await;
        }
        self.patiently(|_| is_known(), |is_known| *is_known).await;
    }

    /// Asks until there is an answer, while a master that may know it is about to come.
    async fn patiently<T>(&self, query: impl Fn(&Self) -> T, is_answered: impl Fn(&T) -> bool) -> T {
        let deadline = Instant::now() + ELECTION_WAIT;
        loop {
            let outcome = query(self);
            if is_answered(&outcome) || Instant::now() >= deadline {
                return outcome;
            }
            if !self.lock().is_electing(ELECTION_LATELY, std::time::Instant::now()) {
                // A master may have come between the two.
                return query(self);
            }
            self.look().await;
        }
    }
}
