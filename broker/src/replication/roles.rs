//! What this member has at work: leading, following a master, or neither. One thing after the other, by one task, as its machine orders.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kerolox_replication::{DutyOrder, FollowTarget, LogEnds, MemberDuty, MemberInput};
use kerolox_runtime::process::ShutdownSignal;
use kerolox_runtime::reminder::LogReminder;
use kerolox_runtime::supervisor::Supervisor;
use kerolox_store::{StoreError, StoreOpening, clock_reading};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::follow::{FollowError, follow};
use super::leadership::{self, Leadership};
use super::stores::{StoreCell, Stores};
use super::{GiveUp, Group};
use crate::broker::BrokerError;
use crate::serving::{Parts, Serving};

/// Pause before a master that was lost is followed again.
const RETRY: Duration = Duration::from_millis(50);
/// Pause after this member or its master refused the other one's log: only an operator can change that.
const REFUSED: Duration = Duration::from_secs(1);
/// Longer than anything waits.
const FOR_EVER: Duration = Duration::from_secs(3600);

/// The work for the duty that was ordered.
enum Activity {
    Nothing,
    /// The duty failed, and is over at this moment.
    Pausing(tokio::time::Instant),
    Following {
        target: FollowTarget,
        stop: ShutdownSignal,
        task: JoinHandle<Result<(), FollowError>>,
    },
    Leading {
        leadership: Arc<Leadership>,
        keeping: Supervisor,
        settling: Option<JoinHandle<bool>>,
        serving: Option<Serving>,
    },
}

/// The task that changes roles.
pub(crate) struct Member {
    pub(super) group: Arc<Group>,
    cell: StoreCell,
    stores: Arc<Stores>,
    pub(super) parts: Arc<Parts>,
    opening: Arc<StoreOpening>,
    /// Number of the duty that is at work.
    number: u64,
    activity: Activity,
    leaving: watch::Sender<bool>,
    /// Why following failed last.
    troubles: LogReminder,
}

impl Member {
    pub(crate) fn new(
        group: Arc<Group>,
        cell: StoreCell,
        stores: Arc<Stores>,
        parts: Arc<Parts>,
        opening: Arc<StoreOpening>,
    ) -> Self {
        let leaving = watch::Sender::new(false);
        Self {
            group,
            cell,
            stores,
            parts,
            opening,
            number: 0,
            activity: Activity::Nothing,
            leaving,
            troubles: LogReminder::default(),
        }
    }

    /// Opens the log that is there, if there is one: an earlier life of this member may be counted as in sync for what it holds.
    ///
    /// # Errors
    /// [`BrokerError`] when this member's storage fails.
    pub(crate) async fn recover(&self) -> Result<(), BrokerError> {
        let (cell, stores) = (self.cell.clone(), self.stores.clone());
        let has_others = self.group.member().record().has_others();
        let opened = tokio::task::spawn_blocking(move || -> Result<Option<(u32, u64)>, StoreError> {
            if stores.is_blank()? {
                return Ok(None);
            }
            let store = stores.open(&cell)?;
            if has_others && let Some(mut parked) = store.standby_log() {
                parked.cut_torn()?;
            }
            let epoch =
                store.standby_log().map(|mut parked| parked.newest()).transpose()?.map(|newest| newest.epoch);
            Ok(Some((epoch.unwrap_or(0), store.state().applied())))
        });
        let found = opened.await.expect("a panic would end the process")?;
        if let Some((epoch, applied)) = found {
            // Only what was confirmed is applied.
            drop(self.group.tell(MemberInput::Recovered { epoch, applied }));
        }
        self.tell_standing()
    }

    /// Plays the role that the controller gives this member, until `shutdown` is requested; then hands over what it rules and
    /// leaves the in-sync set, so that the group can do without it at once.
    ///
    /// # Errors
    /// [`BrokerError`] when this member's storage fails.
    pub(crate) async fn run(mut self, shutdown: &ShutdownSignal) -> Result<(), BrokerError> {
        let (mut seen, mut orders) = (self.group.seen(), self.group.order.subscribe());
        let stopping = shutdown.requested();
        tokio::pin!(stopping);
        let asking = self.group.asking.lock().take();
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
            if let Some(now) = &*seen.borrow_and_update() {
                self.parts.routes.note_epoch(&self.group.cluster, &self.group.name, now.state.epoch);
            }
            if deadline.is_some() && self.group.member().may_leave() {
                break;
            }
            let order = orders.borrow_and_update().clone();
            if order.number != self.number {
                self.take_up(order).await?;
                continue;
            }
            let wait = self.group.member().wakes_after(clock_reading());
            tokio::select! {
                changed = seen.changed() => if changed.is_err() { break },
                changed = orders.changed() => if changed.is_err() { break },
                () = self.stores.index.is_damaged() => {}
                () = self.stores.data.is_missed() => {}
                () = Self::progress(&self.group, self.number, &mut self.activity, &self.parts, &self.stores, &mut self.troubles) => {}
                () = tokio::time::sleep(wait.map_or(FOR_EVER, Duration::from_millis)) => self.tick(),
                () = &mut stopping, if deadline.is_none() => {
                    deadline = Some(tokio::time::Instant::now() + self.group.config.hand_over_timeout.duration());
                    self.leaving.send_replace(true);
                    if let Err(reason) = self.give_up_leadership(0).await {
                        tracing::warn!("the leadership is not handed over: {reason}");
                    }
                }
                Some(GiveUp { to, answer }) = asking.recv() => {
                    // The caller may have gone away.
                    let _ = answer.send(self.give_up_leadership(to).await);
                }
                () = tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => break,
            }
        }
        self.parts.linger().await;
        self.stop().await?;
        self.tell(MemberInput::NoteConfirmed);
        Ok(())
    }

    /// Has the machine take an input. What it orders comes back through the watch; followers and leaders give their inputs themselves.
    pub(super) fn tell(&self, input: MemberInput) {
        drop(self.group.tell(input));
    }

    /// Has time pass for a member that waits for leases to end. A leader has its own ticks.
    fn tick(&self) {
        if !matches!(self.activity, Activity::Leading { .. }) {
            let wants_quorum = false;
            self.tell(MemberInput::Tick { log: LogEnds::default(), wants_quorum });
        }
    }

    /// Ends the duty at work and begins the ordered one.
    async fn take_up(&mut self, order: DutyOrder) -> Result<(), BrokerError> {
        self.stop().await?;
        self.number = order.number;
        match order.duty {
            MemberDuty::Idle => self.tell(MemberInput::Ended(order.number)),
            MemberDuty::Follow(target) => self.start_following(target),
            MemberDuty::Lead { epoch, is_alone, .. } => self.begin_leadership(epoch, is_alone).await?,
        }
        Ok(())
    }

    /// Waits until the work for the duty `number` gets on by itself, and tells the machine.
    async fn progress(
        group: &Group,
        number: u64,
        activity: &mut Activity,
        parts: &Arc<Parts>,
        stores: &Stores,
        troubles: &mut LogReminder,
    ) {
        match activity {
            Activity::Following { task, target, .. } => {
                let outcome = task.await.expect("a panic would end the process");
                let mut pause = RETRY;
                if let Err(error) = outcome {
                    if troubles.is_due(&error.to_string(), Instant::now()) {
                        tracing::warn!(master = target.address, %error, "cannot follow; retrying");
                    }
                    match error {
                        FollowError::Confirmed { .. } | FollowError::Foreign(_) => {
                            // Health checks tell why this member does not follow.
                            group.set_refuses(Some(error.to_string()));
                            pause = REFUSED;
                        }
                        // Anything else in the store may be over the next time.
                        FollowError::Store(error) => drop(stores.index.absorb(error)),
                        _ => {}
                    }
                }
                let until = tokio::time::Instant::now() + pause;
                *activity = Activity::Pausing(until);
                tokio::time::sleep_until(until).await;
                *activity = Activity::Nothing;
                drop(group.tell(MemberInput::Ended(number)));
            }
            Activity::Pausing(until) => {
                tokio::time::sleep_until(*until).await;
                *activity = Activity::Nothing;
                drop(group.tell(MemberInput::Ended(number)));
            }
            Activity::Leading { leadership, settling: settling @ Some(_), serving, .. } => {
                let task = settling.as_mut().expect("matched above");
                let is_settled = task.await.expect("a panic would end the process");
                *settling = None;
                if !is_settled {
                    return std::future::pending().await;
                }
                // From here on the announcements name a leader.
                drop(group.tell(MemberInput::Settled));
                *serving = Some(parts.serve(leadership.store.clone(), Some(leadership.clone())));
                tracing::info!(epoch = leadership.epoch, "ruling");
            }
            _ => std::future::pending().await,
        }
    }

    /// Ends what this member is at; nothing of it is at work afterwards.
    async fn stop(&mut self) -> Result<(), BrokerError> {
        match std::mem::replace(&mut self.activity, Activity::Nothing) {
            Activity::Nothing | Activity::Pausing(_) => {}
            Activity::Following { stop, task, .. } => {
                stop.request();
                if let Err(FollowError::Store(error)) = task.await.expect("a panic would end the process") {
                    self.stores.index.absorb(error)?;
                }
            }
            Activity::Leading { leadership, keeping, settling, serving } => {
                tracing::info!(epoch = leadership.epoch, "the leadership is over");
                self.parts.stop_leading();
                leadership.over.request();
                self.group.leadership.send_replace(None);
                // Records that wait to be confirmed are given up first, so that calls that wait for them end.
                let store = leadership.store.clone();
                let stepping = tokio::task::spawn_blocking(move || store.step_down());
                let stepped = stepping.await.expect("a panic would end the process");
                if let Some(serving) = serving {
                    serving.stop().await;
                }
                keeping.stop().await;
                drop(settling);
                if let Err(error) = stepped {
                    self.stores.index.absorb(error)?;
                }
                self.tell_standing()?;
                self.parts.relay_all();
            }
        }
        Ok(())
    }

    /// Ends what this member is at until it is resumed. A master hands its leadership over first, if there is another member, so that
    /// clients need not wait.
    async fn leave(&mut self) -> Result<(), BrokerError> {
        if let Activity::Leading { serving: Some(_), .. } = &self.activity
            && let Err(reason) = self.give_up_leadership(0).await
        {
            tracing::warn!("the leadership is not handed over: {reason}");
        }
        self.tell(MemberInput::Interrupted);
        self.stop().await?;
        self.number = self.group.order.borrow().number;
        self.tell(MemberInput::Ended(self.number));
        Ok(())
    }

    /// Makes the damaged index anew.
    async fn renew_index(&mut self) -> Result<(), BrokerError> {
        self.leave().await?;
        tokio::time::sleep(self.stores.index.pause()).await;
        let (cell, stores) = (self.cell.clone(), self.stores.clone());
        let renewed = tokio::task::spawn_blocking(move || stores.renew(&cell));
        renewed.await.expect("a panic would end the process")?;
        self.tell_standing()?;
        self.tell(MemberInput::Resumed);
        Ok(())
    }

    /// Reads what the controller is to know of this member's log.
    fn tell_standing(&self) -> Result<(), BrokerError> {
        let store = self.cell.get();
        let log = match store.as_ref().and_then(|store| store.standby_log()) {
            Some(mut parked) => Some((parked.newest()?.epoch, parked.held())),
            None => None,
        };
        self.group.standing.send_modify(|standing| {
            standing.followers.clear();
            if let Some((last_epoch, end)) = log {
                (standing.last_epoch, standing.end) = (last_epoch, end);
            }
        });
        Ok(())
    }

    fn start_following(&mut self, target: FollowTarget) {
        let stop = ShutdownSignal::new();
        self.parts.relay_all();
        let (group, cell, stores) = (self.group.clone(), self.cell.clone(), self.stores.clone());
        let leaving = self.leaving.subscribe();
        let task = tokio::spawn(follow(group, target.clone(), cell, stores, leaving, stop.requested()));
        self.activity = Activity::Following { target, stop, task };
    }

    async fn begin_leadership(&mut self, epoch: u32, is_alone: bool) -> Result<(), BrokerError> {
        self.group.set_refuses(None);
        let (cell, stores, opening) = (self.cell.clone(), self.stores.clone(), self.opening.clone());
        tracing::info!(epoch, is_alone, "beginning to rule");
        let begun = tokio::task::spawn_blocking(move || -> Result<_, StoreError> {
            let store = stores.open(&cell)?;
            let salt = store.standby_log().map(|mut parked| parked.salt()).unwrap_or_default();
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
            Err(error) => {
                self.stores.index.absorb(error)?;
                self.tell(MemberInput::Ended(self.number));
                return Ok(());
            }
        };
        let leadership = Arc::new(Leadership::new(self.group.clone(), epoch, (store, salt)));
        self.group.leadership.send_replace(Some(leadership.clone()));
        self.tell(MemberInput::Opened { number: self.number, end: opened });
        let wants_quorum = self.parts.wants_quorum(leadership.store.clone());
        let keeping = Supervisor::new("in-sync set");
        let (group, kept) = (self.group.clone(), leadership.clone());
        keeping.keep("count", move || leadership::keep(group.clone(), kept.clone(), wants_quorum.clone()));
        let settling =
            tokio::task::spawn_blocking(move || settled.is_none_or(|settled| settled.recv().is_ok()));
        self.activity = Activity::Leading { leadership, keeping, settling: Some(settling), serving: None };
        Ok(())
    }
}
