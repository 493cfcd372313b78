//! The controller's state of a cluster's groups, and waits for a wanted state.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kerolox_client::admin::controller::ControllerClient;
use kerolox_proto::kerolox::{DescribeGroupsRequest, GroupState};

use crate::cluster::Cluster;

/// How long a group may take to have a master, or to be in sync.
const CALM: Duration = Duration::from_secs(30);
/// Pause between two looks at a group.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

impl Cluster {
    /// The controller in the nameservers.
    ///
    /// # Panics
    /// When the nameservers were never started.
    pub fn controller(&self) -> ControllerClient {
        let addresses: Vec<String> = self.access_points().split(',').map(str::to_owned).collect();
        ControllerClient::new(&addresses).expect("nameservers have addresses that clients take")
    }

    /// The controller's state of a group; `None` when it does not know the group, or no nameserver answers.
    pub async fn group_state(&self, group: &str) -> Option<GroupState> {
        let request = DescribeGroupsRequest { group: group.to_owned() };
        let answer = self.controller().describe_groups(request).await.ok()?;
        answer.groups.into_iter().find_map(|group| group.state)
    }

    /// The index of the broker that is this member of a group.
    pub fn broker_of(&self, state: &GroupState, member: u64) -> Option<usize> {
        let member = state.members.iter().find(|known| known.id == member)?;
        let address = format!("{}:{}", member.host, member.port);
        self.brokers.iter().position(|broker| broker.address().is_ok_and(|at| at == address))
    }

    /// Waits for a master of a group, and returns the index of its broker.
    ///
    /// # Errors
    /// When the group has no master for half a minute.
    pub async fn wait_for_master(&self, group: &str) -> Result<usize> {
        let state = self.wait_for_state(group, CALM, |state| self.broker_of(state, state.master).is_some());
        let state = state.await.context("no master was elected")?;
        self.broker_of(&state, state.master).context("it was there")
    }

    /// Waits until a group has a master and exactly `members` members in sync.
    ///
    /// # Errors
    /// When the group does not get there within half a minute.
    pub async fn wait_until_in_sync(&self, group: &str, members: usize) -> Result<GroupState> {
        let is_in_sync = |state: &GroupState| state.master != 0 && state.in_sync.len() == members;
        let waited = self.wait_for_state(group, CALM, is_in_sync).await;
        waited.with_context(|| format!("there are no {members} members in sync"))
    }

    /// Waits until the state of a group satisfies `is_wanted`.
    ///
    /// # Errors
    /// When it does not within `limit`; the error includes the ends of all logs.
    pub async fn wait_for_state(
        &self,
        group: &str,
        limit: Duration,
        is_wanted: impl Fn(&GroupState) -> bool,
    ) -> Result<GroupState> {
        let started = Instant::now();
        loop {
            let state = self.group_state(group).await;
            if let Some(state) = state.as_ref().filter(|state| is_wanted(state)) {
                return Ok(state.clone());
            }
            ensure!(
                started.elapsed() < limit,
                "after {limit:?} the state of {group} is {state:?}\n{}",
                self.log_tails()
            );
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }
}
