//! Settings of consumer groups.

use kerolox_runtime::config::TimeSpan;
use serde::{Deserialize, Serialize};

use crate::creation_quota::CreationQuota;
use crate::delivery::AutoGroups;

/// Consumer groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct GroupsConfig {
    /// Whether a group is created when it first receives.
    pub auto_create: bool,
    /// Number of groups on the broker at which automatic creation stops.
    pub auto_create_max: usize,
    /// Maximum number of groups that one client may create automatically.
    pub auto_create_max_per_client: usize,
    /// Maximum number of members of all broadcast groups: each has its own cursor.
    pub members_max: usize,
    /// How long the cursor of a broadcast group's member is kept after its last receive. Clients whose id changes with every
    /// start leave a cursor behind each time.
    pub member_expiry: TimeSpan,
    /// Length of one lease of a consumer that has its leases renewed (as push consumers of the SDKs do). A lease that ends
    /// while the consumer lives is renewed, for three hours at the most.
    pub auto_renew: TimeSpan,
    /// Time for members of groups to reconnect after a start or an election: until then, messages that no known member wants
    /// are held instead of passed over, in topics that existed before.
    pub gather_time: TimeSpan,
}

impl Default for GroupsConfig {
    fn default() -> Self {
        Self {
            auto_create: true,
            auto_create_max: 10_000,
            auto_create_max_per_client: 100,
            members_max: 10_000,
            member_expiry: TimeSpan::from_secs(24 * 3600),
            auto_renew: TimeSpan::from_secs(60),
            gather_time: TimeSpan::from_secs(10),
        }
    }
}

impl GroupsConfig {
    /// Rules for the automatic creation of consumer groups.
    pub(crate) fn auto_groups(&self) -> AutoGroups {
        AutoGroups {
            is_on: self.auto_create,
            max: self.auto_create_max,
            made: CreationQuota::at_most(self.auto_create_max_per_client),
            members_max: self.members_max,
        }
    }
}
