//! What a master has while it rules: the count of who holds what, and the requests for other in-sync sets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kerolox_proto::kerolox::ChangeInSyncRequest;
use kerolox_replication::{FollowerView, InSyncChange, MemberEffect, MemberId, MemberInput};
use kerolox_runtime::process::ShutdownSignal;
use kerolox_runtime::reminder::LogReminder;
use kerolox_store::{QueueEntry, Store, clock_reading};

use super::Group;
use super::driver::log_ends;
use super::remote_read::{RemoteRead, RemoteReader};

/// How often a master looks at its slaves.
const TICK: Duration = Duration::from_millis(50);

/// A leadership of this member.
pub(crate) struct Leadership {
    pub(crate) epoch: u32,
    pub(crate) store: Arc<Store>,
    /// What the checksums of the log begin with.
    pub(crate) salt: u64,
    /// Requested when the leadership ends.
    pub(crate) over: ShutdownSignal,
    group: Arc<Group>,
    remote: RemoteReader,
    in_sync: AtomicUsize,
}

impl Leadership {
    pub(crate) fn new(group: Arc<Group>, epoch: u32, (store, salt): (Arc<Store>, u64)) -> Self {
        let (remote, over) = (RemoteReader::new(group.clone()), ShutdownSignal::new());
        Self { epoch, store, salt, over, group, remote, in_sync: AtomicUsize::new(0) }
    }

    /// Reads what the slaves have of the messages; the rest is missing in the answer.
    pub(crate) async fn read_elsewhere(&self, entries: &[QueueEntry]) -> RemoteRead {
        let slaves = self.slaves();
        self.remote.read(&self.store, &slaves, entries).await
    }

    /// Whether what lies far back is to be read at slaves.
    pub(crate) fn reads_far_back_elsewhere(&self) -> bool {
        self.remote.read_far_back()
    }

    /// Members in sync, this one included.
    pub(crate) fn in_sync_len(&self) -> usize {
        self.in_sync.load(Ordering::Relaxed)
    }

    /// Notes how many members are in sync.
    pub(super) fn count_in_sync(&self, members: usize) {
        self.in_sync.store(members, Ordering::Relaxed);
    }

    /// The slaves that were heard of.
    pub(crate) fn slaves(&self) -> Vec<FollowerView> {
        self.group.member().followers(clock_reading())
    }

    /// A slave holds this, and answered a ping.
    pub(super) fn on_ack(&self, member: MemberId, durable: u64, ping: u64) {
        let log = log_ends(&self.store);
        // What follows for the controller is done with the next tick.
        drop(self.group.tell(MemberInput::Acked { member, durable, ping, log }));
    }

    /// A slave begins to follow, or is about to stop.
    pub(super) fn on_slave(&self, member: MemberId, is_leaving: bool) {
        let input = if is_leaving { MemberInput::Leaves(member) } else { MemberInput::Follows(member) };
        drop(self.group.tell(input));
    }
}

/// Looks after a leadership until it is over: has time pass in it, and asks the controller for other in-sync sets.
pub(super) async fn keep(
    group: Arc<Group>,
    leadership: Arc<Leadership>,
    wants_quorum: impl Fn() -> bool + Send,
) {
    let mut troubles = LogReminder::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let over = leadership.over.requested();
    tokio::pin!(over);
    loop {
        let log = log_ends(&leadership.store);
        group.holds(leadership.epoch, log.durable);
        let slaves = leadership.slaves();
        group.followed_by(slaves.iter().filter(|slave| slave.durable > 0).map(|slave| slave.id).collect());
        // A member that cannot store any more lets another one rule.
        group.must_not_rule(&group.unfit(leadership.store.failure()));
        for effect in group.tell(MemberInput::Tick { log, wants_quorum: wants_quorum() }) {
            let MemberEffect::AskChange { epoch, me, change } = effect else { continue };
            tokio::select! {
                () = ask(&group, (epoch, me), change, &mut troubles) => {}
                () = &mut over => return,
            }
        }
        tokio::select! {
            _ = ticks.tick() => {}
            () = &mut over => return,
        }
    }
}

async fn ask(group: &Group, (epoch, me): (u32, MemberId), change: InSyncChange, troubles: &mut LogReminder) {
    let InSyncChange { members, quorum, version } = change;
    let in_sync: Vec<MemberId> = members.into_iter().collect();
    let request = ChangeInSyncRequest {
        cluster: group.cluster.clone(),
        group: group.name.clone(),
        epoch,
        member: me,
        version,
        in_sync: in_sync.clone(),
        quorum,
    };
    match group.controller.change_in_sync(request).await {
        Ok(answer) => {
            if let Some(state) = answer.state {
                troubles.end();
                tracing::info!(?in_sync, quorum, "in-sync set changed");
                // If it is not to be believed, another one comes with the next report.
                group.hear_state(me, &state);
            }
        }
        // A newer state comes with the next report, or the same request is made again.
        Err(status) if troubles.is_due(status.message(), Instant::now()) => {
            tracing::warn!(
                reason = status.message(),
                ?in_sync,
                "the in-sync set could not be changed; retrying"
            );
        }
        Err(_) => {}
    }
    drop(group.tell(MemberInput::ChangeAnswered));
}
