//! What a master has while it rules: the count of who holds what, and the requests for other in-sync sets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kerolox_kit::process::Shutdown;
use kerolox_kit::reminder::Reminder;
use kerolox_proto::kerolox::{ChangeInSyncRequest, GroupState};
use kerolox_replication::{Change, InSync, Master, MemberId, SlaveView};
use kerolox_store::{Entry, GroupStanding, Store, mono_ms};
use tokio::sync::watch;

use super::neighbours::{Elsewhere, Neighbours};
use super::{Group, Seen};

/// How often a master looks at its slaves.
const TICK: Duration = Duration::from_millis(50);

/// A reign of this member.
pub(crate) struct Reign {
    pub(crate) epoch: u32,
    pub(crate) me: MemberId,
    pub(crate) store: Arc<Store>,
    /// What the checksums of the log begin with.
    pub(crate) salt: u64,
    /// Requested when the reign ends.
    pub(crate) over: Shutdown,
    master: Mutex<Master>,
    neighbours: Neighbours,
    /// Changes with everything that may confirm records.
    heard: watch::Sender<()>,
    in_sync: AtomicUsize,
}

impl Reign {
    pub(crate) fn new(
        group: Arc<Group>,
        epoch: u32,
        me: MemberId,
        (store, salt): (Arc<Store>, u64),
        master: Master,
    ) -> Self {
        let in_sync = AtomicUsize::new(master.in_sync_len());
        let (neighbours, over, master) = (Neighbours::new(group), Shutdown::new(), Mutex::new(master));
        let heard = watch::Sender::new(());
        Self { epoch, me, store, salt, over, master, neighbours, heard, in_sync }
    }

    /// Reads what the slaves have of the messages; the rest is missing in the answer.
    pub(crate) async fn read_elsewhere(&self, entries: &[Entry]) -> Elsewhere {
        let slaves = self.slaves();
        self.neighbours.read(&self.store, &slaves, entries).await
    }

    /// Whether what lies far back is to be read at slaves.
    pub(crate) fn reads_far_back_elsewhere(&self) -> bool {
        self.neighbours.read_far_back()
    }

    /// Members in sync, this one included.
    pub(crate) fn in_sync_len(&self) -> usize {
        self.in_sync.load(Ordering::Relaxed)
    }

    /// Tells whenever more records may be confirmed.
    pub(super) fn heard(&self) -> watch::Receiver<()> {
        self.heard.subscribe()
    }

    /// The slaves that were heard of.
    pub(crate) fn slaves(&self) -> Vec<SlaveView> {
        self.master().slaves(mono_ms())
    }

    /// A slave holds this, and answered a ping.
    pub(super) fn on_held(&self, member: MemberId, durable: u64, ping: u64) {
        let end = self.store.reader().end();
        let standing = {
            let mut master = self.master();
            master.on_held(member, durable, ping, end, mono_ms());
            standing(&master)
        };
        self.store.confirm(standing);
        self.heard.send_replace(());
    }

    /// A slave begins to follow, or is about to stop.
    pub(super) fn on_slave(&self, member: MemberId, is_leaving: bool) {
        let mut master = self.master();
        if is_leaving { master.on_leaving(member) } else { master.on_follows(member) }
    }

    /// Takes over what the controller says of this reign.
    pub(super) fn on_state(&self, state: &GroupState) {
        if state.epoch != self.epoch {
            return;
        }
        let standing = {
            let mut master = self.master();
            master.on_state(in_sync(state), mono_ms());
            self.in_sync.store(master.in_sync_len(), Ordering::Relaxed);
            standing(&master)
        };
        self.store.confirm(standing);
        self.heard.send_replace(());
    }

    /// The change of the in-sync set to ask for, if it is time for one.
    fn wanted(&self, quorum: bool) -> Option<Change> {
        let reader = self.store.reader();
        let mut master = self.master();
        master.want_quorum(quorum);
        if master.plan(reader.durable(), mono_ms()) {
            // First the stricter rule, then the look at the end: what passes in between passes by that rule.
            self.store.confirm(standing(&master));
            master.arm(reader.end());
        }
        let change = master.request();
        self.store.confirm(standing(&master));
        change
    }

    fn master(&self) -> MutexGuard<'_, Master> {
        self.master.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the store goes by.
pub(super) fn standing(master: &Master) -> GroupStanding {
    let confirmed = master.confirmed();
    let rules_until = master.rules_until().unwrap_or(u64::MAX);
    GroupStanding { all: confirmed.all, safe: confirmed.safe, rules_until }
}

/// The in-sync set of a state.
pub(super) fn in_sync(state: &GroupState) -> InSync {
    InSync { members: state.in_sync.iter().copied().collect(), quorum: state.quorum, version: state.version }
}

/// Looks after a reign until it is over: hears what the controller says, and asks it for other in-sync sets.
pub(super) async fn keep(group: Arc<Group>, reign: Arc<Reign>, wants_quorum: impl Fn() -> bool + Send) {
    let mut seen = group.seen();
    let mut troubles = Reminder::default();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let over = reign.over.requested();
    tokio::pin!(over);
    loop {
        let state = seen.borrow_and_update().as_ref().map(|Seen { state, .. }| state.clone());
        if let Some(state) = state {
            reign.on_state(&state);
        }
        group.holds(reign.epoch, reign.store.reader().durable());
        let slaves = reign.slaves();
        group.followed_by(slaves.iter().filter(|slave| slave.durable > 0).map(|slave| slave.id).collect());
        // Who cannot store any more lets somebody else rule.
        group.must_not_rule(&group.unfit(reign.store.failure()));
        if let Err(error) = group.hear_confirmed(reign.epoch, reign.store.safe()) {
            tracing::error!(%error, "member.json cannot be written");
        }
        if let Some(change) = reign.wanted(wants_quorum()) {
            tokio::select! {
                () = ask(&group, &reign, change, &mut troubles) => {}
                () = &mut over => return,
            }
        }
        tokio::select! {
            _ = ticks.tick() => {}
            changed = seen.changed() => if changed.is_err() { return },
            () = &mut over => return,
        }
    }
}

async fn ask(group: &Group, reign: &Reign, change: Change, troubles: &mut Reminder) {
    let Change { members, quorum, version } = change;
    let in_sync: Vec<MemberId> = members.into_iter().collect();
    if let Err(error) = group.remember_wanted(&in_sync) {
        if troubles.is_due(&error.to_string(), Instant::now()) {
            tracing::error!(%error, "member.json cannot be written; no other in-sync set is asked for");
        }
        return;
    }
    let request = ChangeInSyncRequest {
        cluster: group.cluster.clone(),
        group: group.name.clone(),
        epoch: reign.epoch,
        member: reign.me,
        version,
        in_sync: in_sync.clone(),
        quorum,
    };
    match group.controller.change_in_sync(request).await {
        Ok(answer) => {
            if let Some(state) = answer.state {
                // Who counts as in sync must be known to exist first; it is asked again otherwise.
                if state.version > group.version()
                    && let Err(error) = group.remember(&state)
                {
                    tracing::error!(%error, "member.json cannot be written; the in-sync set is not taken over");
                    return;
                }
                troubles.end();
                tracing::info!(?in_sync, quorum, "the in-sync set is another one");
                reign.on_state(&state);
            }
        }
        // A newer state comes with the next report, or the same request is made again.
        Err(status) if troubles.is_due(status.message(), Instant::now()) => {
            tracing::warn!(
                reason = status.message(),
                ?in_sync,
                "the in-sync set could not be changed; trying on"
            );
        }
        Err(_) => {}
    }
}
