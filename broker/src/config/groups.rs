//! Settings of consumer groups.

use kerolox_runtime::config::TimeSpan;
use serde::{Deserialize, Serialize};

use crate::creation_quota::CreationQuota;
use crate::delivery::AutoGroups;

/// Consumer groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct GroupsConfig {
    /// Whether a group comes into being when it first receives.
    pub auto_create: bool,
    /// No group comes into being by itself on a broker that has so many.
    pub auto_create_max: usize,
    /// How many one client may have made by itself.
    pub auto_create_max_per_client: usize,
    /// Most members of all broadcast groups: each has a cursor of its own.
    pub members_max: usize,
    /// How long the cursor of a member of a broadcast group is kept that does not receive any more. Clients whose id changes
    /// with every start leave one behind each time.
    pub member_expiry: TimeSpan,
    /// How long a message stays at a time with a consumer that has it renewed (push consumers of the SDKs do). When the time is
    /// over and the consumer lives, it begins again, for three hours at the most.
    pub auto_renew: TimeSpan,
    /// After a start or an election, members of groups have so long to connect again: until then, messages that no known member
    /// wants are not passed over, but wait, in topics that were there before.
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
    /// How consumer groups come into being.
    pub(crate) fn auto_groups(&self) -> AutoGroups {
        AutoGroups {
            is_on: self.auto_create,
            max: self.auto_create_max,
            made: CreationQuota::at_most(self.auto_create_max_per_client),
            members_max: self.members_max,
        }
    }
}
