//! What this member does at each moment: rule, follow a master, or neither. One thing after the other, by one task.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use kerolox_kit::data_folder::DataFolder;
use kerolox_kit::process::Shutdown;
use kerolox_kit::reminder::Reminder;
use kerolox_log::Salt;
use kerolox_log::fs::Folder;
use kerolox_proto::kerolox::{GroupState, HandOverRequest};
use kerolox_replication::{Master, MemberId};
use kerolox_store::index::Index;
use kerolox_store::{Event, GuardedClock, Opening, Store, StoreError, StoreOptions, mono_ms};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::follow::{FollowError, Target, follow};
use super::reign::{self, Reign, in_sync, standing};
use super::{GiveUp, Group, Seen};
use crate::broker::BrokerError;
use crate::index_folder::IndexFolder;
use crate::serving::{Parts, Serving};

/// Pause before a master that was lost is followed again.
const RETRY: Duration = Duration::from_millis(50);
/// Pause after this member refused what its master wanted: only an operator can change that.
const REFUSED: Duration = Duration::from_secs(1);
/// A hand-over whose answer did not come is not carried out any more after this long: twice the time that the call may take.
const LATE: Duration = Duration::from_secs(4);
/// Longer than anything waits.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// The store of this member, once there is one. It is replaced when the log has to begin anew. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct StoreCell(Arc<RwLock<Option<Arc<Store>>>>);

impl StoreCell {
    /// The store, if it is open.
    pub(crate) fn get(&self) -> Option<Arc<Store>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, store: Option<Arc<Store>>) -> Option<Arc<Store>> {
        std::mem::replace(&mut *self.0.write().unwrap_or_else(PoisonError::into_inner), store)
    }
}

/// How this member's store is opened.
pub(crate) struct Stores {
    pub(crate) options: StoreOptions,
    pub(crate) folder: Arc<dyn Folder>,
    /// The folder in which both lie.
    pub(crate) data: Arc<DataFolder>,
    pub(crate) index: Arc<IndexFolder>,
    pub(crate) clock: Arc<GuardedClock>,
    pub(crate) listener: Arc<dyn Fn(&Event) + Send + Sync>,
}

impl Stores {
    /// Whether there is no log yet.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(crate) fn is_blank(&self) -> Result<bool, StoreError> {
        Ok(kerolox_log::is_blank(&*self.folder)?)
    }

    /// Opens the store, and begins a log if there is none. Blocks.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(crate) fn open(&self, cell: &StoreCell) -> Result<Arc<Store>, StoreError> {
        if let Some(store) = cell.get() {
            return Ok(store);
        }
        let store = match self.open_once() {
            Err(error) => {
                self.index.absorb(error)?;
                self.index.renew(0)?;
                self.open_once()?
            }
            Ok(store) => store,
        };
        let store = Arc::new(store);
        cell.set(Some(store.clone()));
        Ok(store)
    }

    fn open_once(&self) -> Result<Store, StoreError> {
        let (options, folder, listener) = (self.options.clone(), self.folder.clone(), self.listener.clone());
        let clock = self.clock.clone();
        let now_ms = move || clock.now_ms();
        Store::open_parked(options, folder, self.index.kv(), now_ms, move |event| listener(event))
    }

    /// Opens the store anew with an empty index, in place of one whose index is damaged. Blocks.
    ///
    /// # Errors
    /// [`StoreError`], also when the log failed: that one is not opened again.
    pub(crate) fn renew(&self, cell: &StoreCell) -> Result<Arc<Store>, StoreError> {
        let held = match cell.set(None) {
            Some(old) => {
                old.retire()?;
                old.index().applied()
            }
            None => 0,
        };
        self.index.renew(held)?;
        self.open(cell)
    }

    /// Begins the copy of another member's log, without what was there. Blocks.
    ///
    /// # Errors
    /// [`StoreError`]
    pub(super) fn begin_anew(&self, cell: &StoreCell, salt: u64, base: u64) -> Result<(), StoreError> {
        if let Some(old) = cell.set(None) {
            tracing::warn!("this member is too far behind its master, and copies its log from the beginning");
            old.close();
        }
        // The index first: one that is ahead of its log must not be left.
        if let Err(error) = Index::empty(self.index.kv()) {
            self.index.absorb(error)?;
            self.index.renew(0)?;
        }
        kerolox_log::remove_log(&*self.folder)?;
        kerolox_log::begin_copy(&*self.folder, Salt::new(salt), base)?;
        self.open(cell).map(drop)
    }
}

/// What a member is at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Doing {
    Nothing,
    Following(Target),
    Ruling(u32),
}

/// What is to be done next.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Stay,
    /// Give up what it is at.
    Stop,
    /// Promise not to go back behind this epoch.
    Promise(u32),
    Follow(Target),
    /// Rule, after so many milliseconds in which another master may still go by this member's grant.
    Rule {
        epoch: u32,
        after_ms: u64,
    },
}

/// Decides. `process` is this process, `grants_ms` how long its grants last.
fn next_step(doing: &Doing, promised: u32, process: &str, grants_ms: u64, seen: &Seen) -> Step {
    let Seen { me, state, .. } = seen;
    let rules = state.master == *me && state.master_process == process;
    let target = |state: &GroupState| {
        let master = seen.master().filter(|master| master.id != *me)?;
        Some(Target { epoch: state.epoch, me: *me, address: master.replication_address.clone() })
    };
    match doing {
        Doing::Ruling(epoch) if rules && state.epoch == *epoch => return Step::Stay,
        Doing::Following(current) if target(state).as_ref() == Some(current) => return Step::Stay,
        Doing::Nothing => {}
        _ => return Step::Stop,
    }
    if state.epoch > promised {
        return Step::Promise(state.epoch);
    }
    if state.epoch < promised {
        return Step::Stay;
    }
    if rules {
        let after_ms = if state.released { 0 } else { grants_ms };
        return Step::Rule { epoch: state.epoch, after_ms };
    }
    target(state).map_or(Step::Stay, Step::Follow)
}

/// The work that goes with [`Doing`].
enum Activity {
    Nothing,
    Following {
        target: Target,
        stop: Shutdown,
        task: JoinHandle<Result<(), FollowError>>,
    },
    Ruling {
        reign: Arc<Reign>,
        keeping: JoinHandle<()>,
        settling: Option<JoinHandle<bool>>,
        serving: Option<Serving>,
    },
}

/// The task that changes roles.
pub(crate) struct Member {
    group: Arc<Group>,
    cell: StoreCell,
    stores: Arc<Stores>,
    parts: Arc<Parts>,
    opening: Arc<Opening>,
    activity: Activity,
    leaving: watch::Sender<bool>,
    /// Why following failed last.
    troubles: Reminder,
}

impl Member {
    pub(crate) fn new(
        group: Arc<Group>,
        cell: StoreCell,
        stores: Arc<Stores>,
        parts: Arc<Parts>,
        opening: Arc<Opening>,
    ) -> Self {
        let leaving = watch::Sender::new(false);
        Self {
            group,
            cell,
            stores,
            parts,
            opening,
            activity: Activity::Nothing,
            leaving,
            troubles: Reminder::default(),
        }
    }

    /// Opens the log that is there, if there is one: an earlier life of this member may be counted as in sync for what it holds.
    ///
    /// # Errors
    /// [`BrokerError`] when this member's storage fails.
    pub(crate) async fn recover(&self) -> Result<(), BrokerError> {
        let (cell, stores) = (self.cell.clone(), self.stores.clone());
        let has_others = self.group.file().now().has_others();
        let opened = tokio::task::spawn_blocking(move || -> Result<Option<(u32, u64)>, StoreError> {
            if stores.is_blank()? {
                return Ok(None);
            }
            let store = stores.open(&cell)?;
            if has_others && let Some(mut parked) = store.parked() {
                parked.cut_torn()?;
            }
            let epoch =
                store.parked().map(|mut parked| parked.newest()).transpose()?.map(|newest| newest.epoch);
            Ok(Some((epoch.unwrap_or(0), store.index().applied())))
        });
        let applied = opened.await.expect("a panic would end the process")?;
        if let Some((epoch, position)) = applied.filter(|_| has_others) {
            // Only what was confirmed is applied.
            self.group.hear_confirmed(epoch, position).map_err(|source| self.file_error(source))?;
        }
        self.tell_standing()
    }

    /// Plays the role that the controller gives this member, until `shutdown` is requested; then hands over what it rules and
    /// leaves the in-sync set, so that the group can do without it at once.
    ///
    /// # Errors
    /// [`BrokerError`] when this member's storage fails.
    pub(crate) async fn run(mut self, shutdown: &Shutdown) -> Result<(), BrokerError> {
        let mut seen = self.group.seen();
        let stopping = shutdown.requested();
        tokio::pin!(stopping);
        let asking = self.group.asking.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut asking = asking.expect("one task changes roles");
        let mut deadline = None;
        loop {
            if self.stores.data.missed().is_some() {
                self.leave().await?;
                shutdown.requested().await;
                return Ok(());
            }
            if self.stores.index.damage().now.is_some() {
                self.renew_index().await?;
            }
            let now = seen.borrow_and_update().clone();
            if let Some(now) = &now {
                self.parts.routes.note_epoch(&self.group.cluster, &self.group.name, now.state.epoch);
            }
            if deadline.is_some() && self.may_go(now.as_ref()) {
                break;
            }
            let step = now.as_ref().map_or(Step::Stay, |now| self.step(now));
            let pause = match step {
                Step::Stop => {
                    self.stop().await?;
                    continue;
                }
                Step::Promise(epoch) => {
                    self.promise(epoch)?;
                    continue;
                }
                Step::Follow(target) => {
                    self.start_following(target);
                    continue;
                }
                Step::Rule { epoch, after_ms: 0 } => {
                    let now = now.expect("it says who rules");
                    self.begin_reign(epoch, now.me, &now.state).await?;
                    continue;
                }
                Step::Rule { after_ms, .. } => Duration::from_millis(after_ms),
                Step::Stay => FOR_EVER,
            };
            tokio::select! {
                changed = seen.changed() => if changed.is_err() { break },
                () = self.stores.index.is_damaged() => {}
                () = self.stores.data.is_missed() => {}
                () = Self::progress(&mut self.activity, &self.parts, &self.stores, &mut self.troubles) => {}
                () = tokio::time::sleep(pause) => {}
                () = &mut stopping, if deadline.is_none() => {
                    deadline = Some(tokio::time::Instant::now() + self.group.config.hand_over_timeout.duration());
                    self.leaving.send_replace(true);
                    if let Err(reason) = self.give_up_reign(0).await {
                        tracing::warn!("the reign is not handed over: {reason}");
                    }
                }
                Some(GiveUp { to, answer }) = asking.recv() => {
                    // Who asked may have gone away.
                    let _ = answer.send(self.give_up_reign(to).await);
                }
                () = tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => break,
            }
        }
        self.parts.linger().await;
        self.stop().await?;
        self.group.note_confirmed().map_err(|source| self.file_error(source))
    }

    /// Whether the group can do without this member, which is about to end.
    fn may_go(&self, seen: Option<&Seen>) -> bool {
        let Some(Seen { me, state, .. }) = seen else { return true };
        match &self.activity {
            Activity::Ruling { reign, .. } => reign.in_sync_len() == 1,
            // Elsewhere somebody has to rule first: whoever waits here is passed on then.
            _ => {
                state.master != 0 && state.master != *me && !state.in_sync.contains(me)
                    || state.members.len() == 1
            }
        }
    }

    fn step(&self, seen: &Seen) -> Step {
        let doing = match &self.activity {
            Activity::Nothing => Doing::Nothing,
            Activity::Following { target, .. } => Doing::Following(target.clone()),
            Activity::Ruling { reign, .. } => Doing::Ruling(reign.epoch),
        };
        let promised = self.group.file().now().promised;
        let grants_ms = self.group.grants().left(mono_ms());
        next_step(&doing, promised, &self.group.process, grants_ms, seen)
    }

    /// Waits until what this member is at gets on by itself.
    async fn progress(activity: &mut Activity, parts: &Arc<Parts>, stores: &Stores, troubles: &mut Reminder) {
        match activity {
            Activity::Following { task, target, .. } => {
                let outcome = task.await.expect("a panic would end the process");
                let mut pause = RETRY;
                if let Err(error) = outcome {
                    if troubles.is_due(&error.to_string(), Instant::now()) {
                        tracing::warn!(master = target.address, %error, "cannot follow; trying on");
                    }
                    match error {
                        FollowError::Confirmed { .. } => pause = REFUSED,
                        // Anything else in the store may be over the next time.
                        FollowError::Store(error) => drop(stores.index.absorb(error)),
                        _ => {}
                    }
                }
                *activity = Activity::Nothing;
                tokio::time::sleep(pause).await;
            }
            Activity::Ruling { reign, settling: settling @ Some(_), serving, .. } => {
                let task = settling.as_mut().expect("matched above");
                let is_settled = task.await.expect("a panic would end the process");
                *settling = None;
                if is_settled {
                    *serving = Some(parts.serve(reign.store.clone(), Some(reign.clone())));
                    tracing::info!(epoch = reign.epoch, "ruling");
                }
            }
            _ => std::future::pending().await,
        }
    }

    /// Ends what this member is at; nothing of it is at work afterwards.
    async fn stop(&mut self) -> Result<(), BrokerError> {
        match std::mem::replace(&mut self.activity, Activity::Nothing) {
            Activity::Nothing => {}
            Activity::Following { stop, task, .. } => {
                stop.request();
                if let Err(FollowError::Store(error)) = task.await.expect("a panic would end the process") {
                    self.stores.index.absorb(error)?;
                }
            }
            Activity::Ruling { reign, keeping, settling, serving } => {
                tracing::info!(epoch = reign.epoch, "the reign is over");
                self.parts.hold();
                reign.over.request();
                self.group.reign.send_replace(None);
                // What waits to be confirmed is given up first, so that whoever waits for it ends.
                let store = reign.store.clone();
                let stepping = tokio::task::spawn_blocking(move || store.step_down());
                let stepped = stepping.await.expect("a panic would end the process");
                if let Some(serving) = serving {
                    serving.stop().await;
                }
                keeping.abort();
                drop(settling);
                if let Err(error) = stepped {
                    self.stores.index.absorb(error)?;
                }
                self.tell_standing()?;
                self.parts.relay_all(reign.me);
            }
        }
        Ok(())
    }

    /// Ends what this member is at. A master hands its reign over first, if there is somebody, so that clients need not wait.
    async fn leave(&mut self) -> Result<(), BrokerError> {
        if let Activity::Ruling { serving: Some(_), .. } = &self.activity
            && let Err(reason) = self.give_up_reign(0).await
        {
            tracing::warn!("the reign is not handed over: {reason}");
        }
        self.stop().await
    }

    /// Makes the damaged index anew.
    async fn renew_index(&mut self) -> Result<(), BrokerError> {
        self.leave().await?;
        tokio::time::sleep(self.stores.index.pause()).await;
        let (cell, stores) = (self.cell.clone(), self.stores.clone());
        let renewed = tokio::task::spawn_blocking(move || stores.renew(&cell));
        renewed.await.expect("a panic would end the process")?;
        self.tell_standing()
    }

    fn file_error(&self, source: std::io::Error) -> BrokerError {
        BrokerError::MemberFile { folder: self.parts.data().to_owned(), source }
    }

    /// Promises, durably, and says so.
    fn promise(&mut self, epoch: u32) -> Result<(), BrokerError> {
        let promised = self.group.file().change(|now| now.promised = now.promised.max(epoch));
        promised.map_err(|source| self.file_error(source))?;
        self.tell_standing()
    }

    /// Reads what the controller is to know of this member's log.
    fn tell_standing(&self) -> Result<(), BrokerError> {
        let promised = self.group.file().now().promised;
        let store = self.cell.get();
        let log = match store.as_ref().and_then(|store| store.parked()) {
            Some(mut parked) => Some((parked.newest()?.epoch, parked.held())),
            None => None,
        };
        self.group.standing.send_modify(|standing| {
            standing.promised = promised;
            standing.followers.clear();
            if let Some((last_epoch, end)) = log {
                (standing.last_epoch, standing.end) = (last_epoch, end);
            }
        });
        Ok(())
    }

    fn start_following(&mut self, target: Target) {
        let stop = Shutdown::new();
        self.parts.relay_all(target.me);
        let (group, cell, stores) = (self.group.clone(), self.cell.clone(), self.stores.clone());
        let leaving = self.leaving.subscribe();
        let task = tokio::spawn(follow(group, target.clone(), cell, stores, leaving, stop.requested()));
        self.activity = Activity::Following { target, stop, task };
    }

    async fn begin_reign(&mut self, epoch: u32, me: MemberId, state: &GroupState) -> Result<(), BrokerError> {
        let remembered = self.group.file().change(|now| now.granted = 0);
        let remembered = remembered.and_then(|()| self.group.remember(state));
        remembered.map_err(|source| self.file_error(source))?;
        self.group.set_refuses(None);
        let set = in_sync(state);
        let is_alone = set.members.len() == 1;
        let (cell, stores, opening) = (self.cell.clone(), self.stores.clone(), self.opening.clone());
        tracing::info!(epoch, in_sync = ?set.members, "beginning to rule");
        let begun = tokio::task::spawn_blocking(move || -> Result<_, StoreError> {
            let store = stores.open(&cell)?;
            let salt = store.parked().map(|mut parked| parked.salt()).unwrap_or_default();
            let (opened, settled) = if is_alone {
                store.rule_alone(Some(epoch), &opening)?;
                (store.reader().end(), None)
            } else {
                let (opened, settled) = store.rule(epoch)?;
                (opened, Some(settled))
            };
            Ok((store, salt, opened, settled))
        });
        let (store, salt, opened, settled) = match begun.await.expect("a panic would end the process") {
            Ok(begun) => begun,
            // It is tried again with a new one.
            Err(error) => return Ok(self.stores.index.absorb(error)?),
        };
        let master = Master::new(me, self.group.config.policy(), set, opened, mono_ms());
        store.confirm(standing(&master));
        let reign = Arc::new(Reign::new(self.group.clone(), epoch, me, (store, salt), master));
        self.group.reign.send_replace(Some(reign.clone()));
        let wants_quorum = self.parts.wants_quorum(reign.store.clone());
        let keeping = tokio::spawn(reign::keep(self.group.clone(), reign.clone(), wants_quorum));
        let settling =
            tokio::task::spawn_blocking(move || settled.is_none_or(|settled| settled.recv().is_ok()));
        self.activity = Activity::Ruling { reign, keeping, settling: Some(settling), serving: None };
        Ok(())
    }

    /// Lets nobody in, waits until everything that was let in is done and confirmed, and hands the reign over, to a certain member if
    /// `to` is not 0. Why that cannot be is told in words.
    async fn give_up_reign(&self, to: MemberId) -> Result<(), String> {
        let Activity::Ruling { reign, serving: Some(_), .. } = &self.activity else {
            return Err("this member does not rule".into());
        };
        if reign.in_sync_len() == 1 {
            return Err("no other member is in sync".into());
        }
        self.parts.hold();
        self.parts.done().await;
        let handed_over = self.hand_over(reign, to).await;
        let Err((reason, is_certain)) = handed_over else { return Ok(()) };
        if !is_certain {
            // It may be carried out yet, and whoever is elected then does not wait for leases: so nobody is let in until it
            // either shows or cannot come any more.
            let mut seen = self.group.seen();
            let is_over =
                |seen: &Option<Seen>| seen.as_ref().is_some_and(|seen| seen.state.epoch > reign.epoch);
            if tokio::time::timeout(LATE, seen.wait_for(is_over)).await.is_ok() {
                return Ok(());
            }
        }
        self.parts.let_in();
        Err(reason)
    }

    /// An error says why not, and whether that is certain.
    async fn hand_over(&self, reign: &Reign, to: MemberId) -> Result<(), (String, bool)> {
        let mut heard = reign.heard();
        // Slaves answer every ping, so a record that becomes durable here without them is noticed as well.
        let confirmed = heard.wait_for(|()| reign.store.safe() >= reign.store.reader().end());
        let patience = self.group.config.hand_over_timeout.duration();
        if tokio::time::timeout(patience, confirmed).await.is_err() {
            return Err((format!("the slaves did not confirm what is stored within {patience:?}"), true));
        }
        let request = HandOverRequest {
            cluster: self.group.cluster.clone(),
            group: self.group.name.clone(),
            epoch: reign.epoch,
            member: reign.me,
            to,
        };
        let answer = self.group.controller.hand_over(request).await;
        let is_certain = |status: &Status| {
            matches!(status.code(), Code::FailedPrecondition | Code::NotFound | Code::InvalidArgument)
        };
        answer.map(drop).map_err(|status| (status.message().to_owned(), is_certain(&status)))
    }
}

#[cfg(test)]
mod tests {
    use kerolox_proto::kerolox::GroupMember;

    use super::*;

    fn seen(epoch: u32, master: u64, process: &str) -> Seen {
        let member =
            |id: u64| GroupMember { id, replication_address: format!("h:{id}"), ..GroupMember::default() };
        let state = GroupState {
            epoch,
            master,
            master_process: process.into(),
            members: vec![member(1), member(2)],
            ..GroupState::default()
        };
        Seen { me: 1, state, waiting_for: String::new() }
    }

    fn step(doing: &Doing, promised: u32, seen: &Seen) -> Step {
        next_step(doing, promised, "p", 70, seen)
    }

    #[test]
    fn a_promise_comes_before_everything_else() {
        assert_eq!(step(&Doing::Nothing, 3, &seen(4, 0, "")), Step::Promise(4));
        assert_eq!(step(&Doing::Nothing, 3, &seen(4, 1, "p")), Step::Promise(4));
        assert_eq!(step(&Doing::Ruling(3), 3, &seen(4, 0, "")), Step::Stop, "but not while it rules");
        assert_eq!(step(&Doing::Nothing, 5, &seen(4, 2, "q")), Step::Stay, "old news");
    }

    #[test]
    fn only_the_process_that_was_elected_rules_and_after_its_grants() {
        assert_eq!(step(&Doing::Nothing, 4, &seen(4, 1, "p")), Step::Rule { epoch: 4, after_ms: 70 });
        assert_eq!(step(&Doing::Nothing, 4, &seen(4, 1, "earlier")), Step::Stay);
        let mut released = seen(4, 1, "p");
        released.state.released = true;
        assert_eq!(step(&Doing::Nothing, 4, &released), Step::Rule { epoch: 4, after_ms: 0 });
        assert_eq!(step(&Doing::Ruling(4), 4, &seen(4, 1, "p")), Step::Stay);
    }

    #[test]
    fn a_slave_follows_whoever_rules() {
        let target = Target { epoch: 4, me: 1, address: "h:2".into() };
        assert_eq!(step(&Doing::Nothing, 4, &seen(4, 2, "q")), Step::Follow(target.clone()));
        assert_eq!(step(&Doing::Following(target.clone()), 4, &seen(4, 2, "q")), Step::Stay);
        assert_eq!(step(&Doing::Following(target.clone()), 4, &seen(5, 0, "")), Step::Stop);
        assert_eq!(step(&Doing::Following(target), 4, &seen(4, 1, "p")), Step::Stop);
    }
}
