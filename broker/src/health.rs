//! Health checks of this broker: [`BrokerHealth`] observes, [`kerolox_core::health`] judges.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use kerolox_core::health::{GroupStanding, HealthFacts, LeadershipFacts, OwnLeadership, verdicts};
use kerolox_gateway::routes::ClusterRoutes;
use kerolox_log::DamagedRange;
use kerolox_replication::MemberRole;
use kerolox_runtime::data_folder::DataFolder;
use kerolox_runtime::health::HealthCheck;
use kerolox_runtime::listen::ConnectionTable;
use kerolox_runtime::process::ShutdownSignal;
use kerolox_store::{GuardedClock, StoreOpening};

use crate::index_folder::{Damage, IndexFolder};
use crate::replication::{Group, StoreCell};
use crate::tasks::early_removal::EarlyLosses;
use crate::tasks::retention::DiskSpace;

/// The inputs of health checks. Reading them never waits.
#[derive(Default)]
pub(crate) struct BrokerHealth {
    pub(crate) opening: Arc<StoreOpening>,
    pub(crate) store: StoreCell,
    pub(crate) index: OnceLock<Arc<IndexFolder>>,
    pub(crate) data: OnceLock<Arc<DataFolder>>,
    pub(crate) room: DiskSpace,
    pub(crate) losses: EarlyLosses,
    /// Whether nameservers have the routes of this broker.
    pub(crate) is_announced: AtomicBool,
    pub(crate) clock: OnceLock<Arc<GuardedClock>>,
    /// This member of its group, with its knowledge of the others; none of a standalone broker.
    pub(crate) group: OnceLock<Arc<Group>>,
    pub(crate) routes: OnceLock<Arc<ClusterRoutes>>,
    /// Connected clients and servers.
    pub(crate) connections: Option<Arc<ConnectionTable>>,
}

impl BrokerHealth {
    /// Runs all checks.
    pub(crate) fn checks(&self, shutdown: &ShutdownSignal) -> Vec<HealthCheck> {
        let standing = self.group.get().map(|group| standing(&group.role()));
        let store = self.store.get();
        let store = store.as_ref();
        let index = self.index.get();
        let Damage { now: index_damage, remade: index_remade } =
            index.map(|index| index.damage()).unwrap_or_default();
        let data = self.data.get().map(|data| data.check());
        let verdicts = verdicts(&HealthFacts {
            is_ending: shutdown.is_requested(),
            is_announced: self.is_announced.load(Ordering::Relaxed),
            standing,
            opening: self.opening.progress().map(|progress| progress.to_string()),
            is_open: store.is_some(),
            index_damage,
            index_remade,
            remaking: store.zip(index).and_then(|(store, index)| {
                let applied = store.positions().applied;
                let held = index.held().min(store.reader().frames_end());
                (applied < held).then_some((applied, held))
            }),
            failure: store.and_then(|store| store.failure()),
            damaged: store.map(|store| store.damaged().iter().map(shown).collect()).unwrap_or_default(),
            repairs: store
                .map(|store| store.repairs().iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            // Only a master checks its disk; observations from an earlier epoch do not count.
            is_room_short: self.room.is_short() && standing.is_none_or(GroupStanding::leads),
            lost: self.losses.all().to_string(),
            clock_leap_ms: self.clock.get().and_then(|clock| clock.doubted_ms()),
            leadership: self.leadership(),
            refuses: self.group.get().and_then(|group| group.refuses()),
            disowned: self.group.get().and_then(|group| group.disowned()),
        });
        let connections = self.connections.iter().flat_map(|connections| connections.checks());
        verdicts.into_iter().chain(data).chain(connections).collect()
    }

    /// This member's knowledge of the leadership of its group; `None` while there is none to report.
    fn leadership(&self) -> Option<LeadershipFacts> {
        let (group, routes) = (self.group.get()?, self.routes.get()?);
        let role = group.role();
        // Before it has heard of its group there is nothing to report.
        if role == MemberRole::Waiting && !self.is_announced.load(Ordering::Relaxed) {
            return None;
        }
        let own = group.leadership().map(|leadership| OwnLeadership {
            epoch: leadership.epoch,
            is_sure: !leadership.over.is_requested() && leadership.store.rules(),
            in_sync: leadership.in_sync_len(),
        });
        Some(LeadershipFacts {
            group: group.name.clone(),
            standing: standing(&role),
            own,
            has_leader: routes.master(&group.name).is_some(),
            min_in_sync: group.config.min_in_sync,
        })
    }
}

fn standing(role: &MemberRole) -> GroupStanding {
    match role {
        MemberRole::Waiting => GroupStanding::Waiting,
        MemberRole::Follower { .. } => GroupStanding::Follower,
        MemberRole::Candidate { .. } => GroupStanding::Candidate,
        MemberRole::Leader { .. } => GroupStanding::Leader,
        MemberRole::Resigning { .. } => GroupStanding::Resigning,
    }
}

fn shown(range: &DamagedRange) -> String {
    let DamagedRange { file, position, until, reason } = range;
    format!("{file} at {position}..{until} ({reason})")
}
