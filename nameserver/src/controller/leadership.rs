//! The duties of the leading nameserver: it hears members, decides, proposes, and makes sure that it leads.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kerolox_controller::{
    CommandRefusal, CommandReply, ElectionPolicy, GroupCommand, GroupTable, MemberWatch, RefusalReason,
    decide, why_elect,
};
use kerolox_proto::errors::RpcError;
use kerolox_runtime::supervisor::Supervisor;
use openraft::error::{CheckIsLeaderError, RaftError};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::machine::Machine;
use super::types::{Metrics, Proposal, Raft};

/// How often it is looked whether something is to be decided.
const DECIDE_EVERY: Duration = Duration::from_millis(100);
/// After this long without a majority, or without getting to run, silence of members says nothing about them.
const DEAF_AFTER: Duration = Duration::from_millis(500);
/// How long a proposal may take.
const PROPOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a leader tries to confirm that it leads.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause between two tries of that.
const CONFIRM_PAUSE: Duration = Duration::from_millis(20);
/// Calls that may wait for the next confirmation.
const CONFIRM_QUEUE: usize = 4096;

/// One nameserver's time as leader.
pub(super) struct Tenure {
    term: u64,
    watch: Mutex<MemberWatch>,
}

impl Tenure {
    /// What this leader has heard.
    pub(super) fn watch(&self) -> MutexGuard<'_, MemberWatch> {
        // A panic ends the process, so no other thread sees what it left behind.
        self.watch.lock()
    }
}

/// A caller that waits for a confirmation that this nameserver leads.
type Waiting = oneshot::Sender<Result<(), RpcError>>;

/// This nameserver's part in leading.
pub(super) struct Leadership {
    id: u64,
    raft: Raft,
    machine: Machine,
    policy: ElectionPolicy,
    /// The policy of a nameserver whose data match those of another nameserver that led.
    assured: ElectionPolicy,
    has_followed: AtomicBool,
    start: Instant,
    tenure: watch::Sender<Option<Arc<Tenure>>>,
    unconfirmed: mpsc::Sender<Waiting>,
    hurry: Notify,
    is_ending: AtomicBool,
}

impl Leadership {
    /// Starts its tasks, which end with the consensus at the latest.
    pub(super) fn start(
        id: u64,
        raft: Raft,
        machine: Machine,
        policy: ElectionPolicy,
        tasks: &Supervisor,
    ) -> Arc<Self> {
        let (unconfirmed, waiting) = mpsc::channel(CONFIRM_QUEUE);
        let leadership = Arc::new(Self {
            id,
            raft,
            machine,
            policy,
            assured: ElectionPolicy { cautious_until: 0, ..policy },
            has_followed: AtomicBool::new(false),
            start: Instant::now(),
            tenure: watch::Sender::new(None),
            unconfirmed,
            hurry: Notify::new(),
            is_ending: AtomicBool::new(false),
        });
        let leading = Arc::clone(&leadership);
        tasks.keep("decisions", move || Arc::clone(&leading).lead());
        tasks.once("confirmations", confirm_all(leadership.raft.clone(), waiting));
        leadership
    }

    /// Milliseconds of a clock that never runs backwards.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Times that elections go by.
    pub(super) fn policy(&self) -> &ElectionPolicy {
        if self.has_followed.load(Ordering::Relaxed) { &self.assured } else { &self.policy }
    }

    /// The groups as far as this nameserver knows.
    pub(super) fn groups(&self) -> Arc<GroupTable> {
        self.machine.groups()
    }

    /// Changes when [`Self::groups`] may have.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.machine.changes()
    }

    /// This nameserver's time as leader, if it leads.
    pub(super) fn tenure(&self) -> Option<Arc<Tenure>> {
        self.tenure.borrow().clone()
    }

    /// Waits until this nameserver leads; false when it does not within `patience`.
    pub(super) async fn wait_tenure(&self, patience: Duration) -> bool {
        let mut tenure = self.tenure.subscribe();
        let leads = tenure.wait_for(Option::is_some);
        matches!(tokio::time::timeout(patience, leads).await, Ok(Ok(_)))
    }

    /// Completes when a time as leader is over.
    pub(super) async fn over(&self, tenure: &Arc<Tenure>) {
        let mut current = self.tenure.subscribe();
        let is_other = |now: &Option<Arc<Tenure>>| now.as_ref().is_none_or(|now| !Arc::ptr_eq(now, tenure));
        // An error means that the sender is gone, and the leadership with it.
        let _ = current.wait_for(is_other).await;
    }

    /// Stops to act as leader for good.
    pub(super) fn end(&self) {
        self.is_ending.store(true, Ordering::Relaxed);
        self.resign();
    }

    fn resign(&self) {
        self.tenure.send_replace(None);
    }

    /// Makes sure that this nameserver led when the call came, and has applied everything that was decided until then.
    pub(super) async fn confirm(&self, tenure: &Arc<Tenure>) -> Result<(), RpcError> {
        let (waiting, confirmed) = oneshot::channel();
        let gone = || RpcError::unavailable("this nameserver is shutting down");
        self.unconfirmed.send(waiting).await.map_err(|_| gone())?;
        confirmed.await.map_err(|_| gone())??;
        match self.tenure() {
            Some(current) if Arc::ptr_eq(&current, tenure) => Ok(()),
            _ => Err(RpcError::unavailable(format!("nameserver {} no longer leads; try again", self.id))),
        }
    }

    /// Has something looked at at once.
    pub(super) fn hurry(&self) {
        self.hurry.notify_one();
    }

    /// Carries a command out, when a majority of the nameservers has it on disk.
    pub(super) async fn propose(&self, command: GroupCommand) -> Result<CommandReply, RpcError> {
        match self.write(Some(command)).await? {
            CommandReply::Refused(refusal) => Err(refused(refusal)),
            reply => Ok(reply),
        }
    }

    async fn write(&self, proposal: Proposal) -> Result<CommandReply, RpcError> {
        match tokio::time::timeout(PROPOSE_TIMEOUT, self.raft.client_write(proposal)).await {
            Ok(Ok(written)) => Ok(written.data),
            Ok(Err(error)) => Err(RpcError::unavailable(format!("nothing can be decided: {error}"))),
            Err(_) => Err(no_majority()),
        }
    }

    /// Follows who leads, and decides while this nameserver does.
    async fn lead(self: Arc<Self>) {
        let mut metrics = self.raft.metrics();
        let mut ticks = tokio::time::interval(DECIDE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut known_leader = None;
        loop {
            let before = self.now();
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.hurry.notified() => {}
                changed = metrics.changed() => if changed.is_err() { break },
            }
            let was_stopped = Duration::from_millis(self.now() - before) > DEAF_AFTER;
            let seen = metrics.borrow_and_update().clone();
            if seen.running_state.is_err() {
                break;
            }
            if std::mem::replace(&mut known_leader, seen.current_leader) != seen.current_leader {
                tracing::info!(leader = seen.current_leader, term = seen.current_term, "controller");
            }
            if seen.current_leader.is_some_and(|leader| leader != self.id) {
                self.has_followed.store(true, Ordering::Relaxed);
            }
            self.follow(&seen).await;
            let Some(tenure) = self.tenure() else { continue };
            if was_stopped || lacks_majority(&seen) {
                tenure.watch().was_deaf(self.now());
            }
            self.decide(&tenure).await;
        }
        self.resign();
    }

    /// Begins and ends this nameserver's time as leader. It begins with an entry of its own: once that is
    /// applied, all earlier decisions are, and later ones differ from those of an older copy of the data.
    async fn follow(&self, seen: &Metrics) {
        if seen.current_leader != Some(self.id) || self.is_ending.load(Ordering::Relaxed) {
            self.resign();
            return;
        }
        if self.tenure().is_some_and(|tenure| tenure.term == seen.current_term) {
            return;
        }
        self.resign();
        let tenure = uuid::Uuid::new_v4().to_string();
        if self.write(Some(GroupCommand::BeginTenure { tenure })).await.is_ok() {
            let watch = Mutex::new(MemberWatch::new(self.now()));
            self.tenure.send_replace(Some(Arc::new(Tenure { term: seen.current_term, watch })));
        }
    }

    async fn decide(&self, tenure: &Tenure) {
        let groups = self.machine.groups();
        let due = decide(&groups, &mut tenure.watch(), self.now(), self.policy());
        for command in due {
            match &command {
                GroupCommand::Appoint { name, master, in_sync, .. } => {
                    tracing::info!(%name, master, ?in_sync, "master elected");
                }
                GroupCommand::BeginElection { name, .. } => {
                    let group = groups.iter().find(|group| group.name == *name);
                    let reason =
                        group.map(|group| why_elect(group, &tenure.watch(), self.now(), self.policy()));
                    tracing::warn!(%name, reason, "election of a master");
                }
                _ => {}
            }
            if let Err(error) = self.propose(command).await {
                // What was decided goes by a version; whatever changed it calls for another decision.
                tracing::debug!(reason = error.message, "a decision was not carried out");
            }
        }
    }
}

/// Whether a leader of several nameservers has not been heard by a majority of them for too long.
pub(super) fn lacks_majority(seen: &Metrics) -> bool {
    let is_alone = seen.membership_config.membership().voter_ids().count() <= 1;
    let since_heard = seen.millis_since_quorum_ack.map(Duration::from_millis);
    !is_alone && since_heard.is_none_or(|since| since > DEAF_AFTER)
}

/// Confirms for many at a time: one confirmation serves all callers that came before it began.
async fn confirm_all(raft: Raft, mut waiting: mpsc::Receiver<Waiting>) {
    while let Some(first) = waiting.recv().await {
        let mut batch = vec![first];
        while let Ok(next) = waiting.try_recv() {
            batch.push(next);
        }
        let confirmed = tokio::time::timeout(CONFIRM_TIMEOUT, confirm(&raft)).await;
        let outcome = confirmed.unwrap_or_else(|_| Err(no_majority()));
        for one in batch {
            // A caller that has stopped waiting needs no answer.
            let _ = one.send(outcome.clone());
        }
    }
}

async fn confirm(raft: &Raft) -> Result<(), RpcError> {
    loop {
        match raft.ensure_linearizable().await {
            Ok(_) => return Ok(()),
            Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
                tokio::time::sleep(CONFIRM_PAUSE).await;
            }
            Err(error) => return Err(RpcError::unavailable(format!("nothing can be said: {error}"))),
        }
    }
}

fn no_majority() -> RpcError {
    RpcError::unavailable("no majority of the nameservers answers; start the missing ones")
}

/// A refusal as callers see it.
pub(super) fn refused(CommandRefusal { why, text }: CommandRefusal) -> RpcError {
    match why {
        RefusalReason::Unknown => RpcError::not_found(text),
        RefusalReason::Stale => RpcError::stale(text),
        RefusalReason::NotAllowed => RpcError::not_allowed(text),
        RefusalReason::Invalid => RpcError::invalid(text),
        RefusalReason::Foreign => RpcError::foreign(text),
    }
}
