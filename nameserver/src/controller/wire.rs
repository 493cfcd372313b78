//! Groups on the wire.

use std::collections::BTreeSet;

use kerolox_controller::{
    ElectionLoss, ElectionPolicy, GroupName, GroupRecord, GroupTable, JoiningMember, MemberId,
    MemberSighting, MemberWatch, StateMark, TenureState, waiting_for,
};
use kerolox_proto::kerolox as wire;
use kerolox_proto::kerolox::{GroupDescription, GroupMember, GroupState, MemberHealth, ReportRequest};

pub(super) fn group_name(cluster: &str, group: &str) -> GroupName {
    GroupName { cluster: cluster.to_owned(), group: group.to_owned() }
}

pub(super) fn state(groups: &GroupTable, group: &GroupRecord) -> GroupState {
    let members = group.members.iter().map(|(id, member)| GroupMember {
        id: *id,
        incarnation: member.incarnation.clone(),
        host: member.host.clone(),
        port: member.port,
        replication_address: member.replication_address.clone(),
        holds: group.holds(*id),
    });
    GroupState {
        cluster: group.name.cluster.clone(),
        group: group.name.group.clone(),
        epoch: group.epoch,
        master: group.master,
        master_process: group.master_process.clone(),
        in_sync: group.in_sync.iter().copied().collect(),
        members: members.collect(),
        version: group.version,
        quorum: group.quorum,
        released: group.released,
        unclean_epoch: group.unclean_epoch,
        cluster_id: groups.cluster_id().to_owned(),
        lineage: group.lineage.clone(),
        tenure: group.tenure.clone(),
        set_version: group.set_version,
        set_tenure: group.set_tenure.clone(),
        origins: group
            .origins()
            .into_iter()
            .map(|TenureState { tenure, version }| wire::TenureState { tenure, version })
            .collect(),
    }
}

pub(super) fn description(
    (groups, group): (&GroupTable, &GroupRecord),
    watch: &MemberWatch,
    now: u64,
    policy: &ElectionPolicy,
) -> GroupDescription {
    let health = group.members.keys().map(|id| health(*id, watch.sighting(&group.name, *id), now));
    GroupDescription {
        state: Some(state(groups, group)),
        health: health.collect(),
        waiting_for: waiting_for(group, watch, now, policy),
    }
}

fn health(id: MemberId, sighting: Option<&MemberSighting>, now: u64) -> MemberHealth {
    let Some(said) = sighting else { return MemberHealth { id, ..MemberHealth::default() } };
    MemberHealth {
        id,
        silent_ms: Some(now.saturating_sub(said.at)),
        promised: said.promised,
        last_epoch: said.last_epoch,
        end: said.end,
        unfit: said.unfit.clone(),
    }
}

pub(super) fn joiner(report: &ReportRequest) -> JoiningMember {
    JoiningMember {
        incarnation: report.incarnation.clone(),
        process: report.process.clone(),
        host: report.host.clone(),
        port: report.port,
        replication_address: report.replication_address.clone(),
        last_epoch: report.last_epoch,
        promised: report.promised,
        end: report.end,
        known_members: report.known_members.clone(),
        mark: report.mark.as_ref().filter(|_| !is_sabotaged("trust-any-copy")).map(mark),
    }
}

#[cfg(feature = "sabotage")]
use kerolox_log::sabotage::is as is_sabotaged;

/// A release does nothing wrong on purpose.
#[cfg(not(feature = "sabotage"))]
const fn is_sabotaged(_: &str) -> bool {
    false
}

fn mark(said: &wire::StateMark) -> StateMark {
    let origin =
        |origin: &wire::TenureState| TenureState { tenure: origin.tenure.clone(), version: origin.version };
    StateMark {
        cluster_id: said.cluster_id.clone(),
        lineage: said.lineage.clone(),
        tenure: said.tenure.clone(),
        version: said.version,
        set_of: (said.set_epoch, said.set_version),
        set_tenure: said.set_tenure.clone(),
        in_sync: said.in_sync.iter().cloned().collect(),
        origins: said.origins.iter().map(origin).collect(),
    }
}

pub(super) fn sighting(report: ReportRequest, at: u64) -> MemberSighting {
    MemberSighting {
        at,
        process: report.process,
        promised: report.promised,
        last_epoch: report.last_epoch,
        end: report.end,
        confirmed: (report.confirmed_epoch, report.confirmed),
        in_sync: report.mark.map(|mark| mark.in_sync.into_iter().collect()).unwrap_or_default(),
        unfit: report.unfit,
    }
}

pub(super) fn loss(loss: &ElectionLoss) -> wire::ElectionLoss {
    let ahead = loss.ahead.iter().map(|(id, last_epoch, end)| MemberHealth {
        id: *id,
        last_epoch: *last_epoch,
        end: *end,
        ..MemberHealth::default()
    });
    wire::ElectionLoss {
        member: loss.member,
        last_epoch: loss.last_epoch,
        end: loss.end,
        confirmed: loss.confirmed,
        ahead: ahead.collect(),
        unheard: loss.unheard.clone(),
        bytes: loss.bytes(),
        certain: loss.is_certain(),
        text: loss.text(),
    }
}

pub(super) fn members(ids: &[MemberId]) -> BTreeSet<MemberId> {
    ids.iter().copied().collect()
}
