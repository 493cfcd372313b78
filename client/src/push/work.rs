//! What a push consumer does: receives wherever the servers let it, hands over, settles.

use super::plan::Plan;
use super::room::{Place, Room};
use super::{Listener, Verdict};
use crate::consumer::receiver::receiving;
use crate::consumer::receiver::{Fetch, Receiver};
use crate::delivery::Delivery;
use crate::error::Result;
use crate::member::{AbortOnDrop, Member, Verifier};
use crate::observer::{Event, Noted, Operation};
use crate::route::Queue;
use kerolox_proto::v2;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::Instrument as _;

/// How often to look whether there are other queues to receive from.
const LOOK: Duration = Duration::from_secs(5);
/// How often a message is renewed within its invisible duration.
const RENEWALS: u32 = 3;
/// A message that no other consumer gets. It is renewed until this is dropped.
struct Held {
    /// Locked while its handle changes or is used up.
    delivery: Arc<Mutex<Delivery>>,
    /// Those of one chain come one after the other.
    chain: Option<String>,
    _place: Place,
    _renewal: AbortOnDrop,
}

/// Everything that the tasks of a push consumer share.
pub(super) struct Work {
    receiver: Receiver,
    listener: Listener,
    /// One for each message that may be with a listener.
    slots: Semaphore,
    room: Room,
    invisible_duration: Duration,
    is_stopping: watch::Sender<bool>,
}

/// A queue that is received from, and whether that is to end. A receive under way is not cut short: what it brings would be
/// invisible to the group for a while.
struct Polled {
    queue: Queue,
    is_over: Arc<AtomicBool>,
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

/// Keeps one task for each queue that the servers let this consumer receive from, until it is aborted.
pub(super) async fn feed(work: Arc<Work>) {
    let mut polled: HashMap<(String, String, i32), Polled> = HashMap::new();
    let mut polls = JoinSet::new();
    loop {
        match work.receiver.assigned().await {
            Ok(assigned) => {
                // One that moved to other addresses is received from anew.
                polled.retain(|_, held| assigned.iter().any(|(_, queue)| *queue == held.queue));
                for (topic, queue) in assigned.iter() {
                    let key = (topic.clone(), queue.broker.clone(), queue.id());
                    polled.entry(key).or_insert_with(|| {
                        let is_over = Arc::new(AtomicBool::new(false));
                        polls.spawn(poll(Arc::clone(&work), topic.clone(), queue.clone(), is_over.clone()));
                        Polled { queue: queue.clone(), is_over }
                    });
                }
            }
            Err(error) => tracing::debug!(%error, "no assignment; asking again"),
        }
        while polls.try_join_next().is_some() {}
        tokio::time::sleep(LOOK).await;
    }
}

/// Receives from one queue until that is over.
async fn poll(work: Arc<Work>, topic: String, queue: Queue, is_over: Arc<AtomicBool>) {
    let mut attempt_id = new_attempt();
    let mut failures = 0;
    while !is_over.load(Ordering::Relaxed) && !work.is_stopping() {
        work.room.wait().await;
        let plan = work.plan();
        let fetch = Fetch {
            max_messages: plan.batch,
            invisible_duration: work.invisible_duration,
            attempt_id: plan.is_fifo.then(|| attempt_id.clone()),
        };
        match work.receiver.receive(&topic, &queue, fetch).await {
            Ok(deliveries) => {
                (failures, attempt_id) = (0, new_attempt());
                Arc::clone(&work).hand_over(deliveries, &plan);
            }
            Err(error) => {
                failures += 1;
                if error.is_retryable() {
                    tracing::debug!(%error, topic, "receive failed; retrying");
                } else {
                    tracing::warn!(%error, topic, "receive failed; retrying");
                }
                tokio::time::sleep(receiving().pause_after(failures)).await;
            }
        }
    }
}

/// Lets administrators ask what the listener makes of a message, for as long as the consumer is there.
pub(super) fn offer_verification(work: &Arc<Work>) {
    let weak = Arc::downgrade(work);
    let verifier: Verifier = Box::new(move |message, server| {
        let work = weak.upgrade();
        Box::pin(async move {
            let code = match work {
                Some(work) => work.verify(Delivery::shown(message, server)).await,
                None => v2::Code::FailedToConsumeMessage,
            };
            v2::Status { code: code.into(), message: code.as_str_name().to_owned() }
        })
    });
    // It is set here only, once for each consumer.
    let _ = work.member().verifier.set(verifier);
}

fn new_attempt() -> String {
    uuid::Uuid::new_v4().to_string()
}

impl Work {
    pub(super) fn new(
        receiver: Receiver,
        listener: Listener,
        concurrency: usize,
        room: Room,
        invisible_duration: Duration,
    ) -> Self {
        let slots = Semaphore::new(concurrency.min(Semaphore::MAX_PERMITS));
        Self { receiver, listener, slots, room, invisible_duration, is_stopping: watch::Sender::new(false) }
    }

    pub(super) fn member(&self) -> &Arc<Member> {
        &self.receiver.member
    }

    pub(super) fn group(&self) -> &str {
        &self.receiver.group
    }

    pub(super) fn cached_messages(&self) -> usize {
        self.room.messages()
    }

    /// From now on no listener is begun.
    pub(super) fn stop(&self) {
        self.is_stopping.send_replace(true);
    }

    fn is_stopping(&self) -> bool {
        *self.is_stopping.borrow()
    }

    /// Waits until nothing is held any more; how many messages are.
    pub(super) async fn finished(&self, patience: Duration) -> usize {
        self.room.empty(patience).await
    }

    pub(super) async fn say_goodbye(&self) {
        self.receiver.member.say_goodbye().await;
    }

    fn plan(&self) -> Plan {
        Plan::of(&self.receiver.member.told.borrow())
    }

    /// Begins a task for each message, or for each message group where order counts.
    fn hand_over(self: Arc<Self>, deliveries: Vec<Delivery>, plan: &Plan) {
        let held: Vec<Held> = deliveries.into_iter().map(|delivery| self.hold(delivery)).collect();
        if plan.is_fifo {
            for chain in chains(held) {
                tokio::spawn(Arc::clone(&self).in_order(chain));
            }
        } else {
            for held in held {
                tokio::spawn(Arc::clone(&self).alone(held));
            }
        }
    }

    fn hold(self: &Arc<Self>, delivery: Delivery) -> Held {
        let place = self.room.admit(delivery.message().body().len());
        let chain = delivery.message().together().map(str::to_owned);
        let delivery = Arc::new(Mutex::new(delivery));
        let renewal = AbortOnDrop::spawn(renew(Arc::clone(self), Arc::clone(&delivery)));
        Held { delivery, chain, _place: place, _renewal: renewal }
    }

    /// One message that no other waits for.
    async fn alone(self: Arc<Self>, held: Held) {
        let Some(verdict) = self.ask(&held).await else { return self.give_back(&held).await };
        let mut delivery = held.delivery.lock().await;
        let delay = match verdict {
            Verdict::Done => return self.acknowledge(&delivery).await,
            Verdict::GiveUp => return self.give_up(&delivery, delivery.attempt()).await,
            Verdict::Again => self.plan().delay(delivery.attempt()),
            Verdict::AgainIn(delay) => delay,
        };
        let changed = self.receiver.change_invisible(&mut delivery, delay).await;
        tell(&delivery, "to come again later", changed);
    }

    /// Messages of one message group, one after the other. Where it ends early, the broker delivers the rest again, in order.
    async fn in_order(self: Arc<Self>, chain: Vec<Held>) {
        for held in chain {
            loop {
                let Some(verdict) = self.ask(&held).await else { break self.give_back(&held).await };
                let plan = self.plan();
                let mut delivery = held.delivery.lock().await;
                let delay = match verdict {
                    Verdict::Done => break self.acknowledge(&delivery).await,
                    Verdict::GiveUp => break self.give_up(&delivery, delivery.attempt()).await,
                    _ if delivery.attempt() >= plan.max_attempts => {
                        break self.give_up(&delivery, plan.max_attempts).await;
                    }
                    Verdict::Again => plan.delay(delivery.attempt()),
                    Verdict::AgainIn(delay) => delay,
                };
                delivery.attempt_again();
                drop(delivery);
                // Once the consumer stops, the loop gives the message back.
                self.pause(delay).await;
            }
        }
    }

    /// What the listener makes of a message; `None` when it is not asked any more.
    async fn ask(&self, held: &Held) -> Option<Verdict> {
        let _slot = self.slots.acquire().await.expect("it is never closed");
        if self.is_stopping() {
            return None;
        }
        let delivery = Arc::new(held.delivery.lock().await.clone());
        if let Some(damage) = delivery.damage() {
            tracing::error!(message_id = delivery.message_id(), %damage, "not handed to the listener; it comes again");
            return Some(Verdict::Again);
        }
        Some(self.listen(&delivery).await)
    }

    async fn listen(&self, delivery: &Arc<Delivery>) -> Verdict {
        let (topic, message_id) = (delivery.message().topic(), delivery.message_id());
        let span = tracing::info_span!("listen", topic, message_id, attempt = delivery.attempt());
        let started = Instant::now();
        // As a task of its own, so that a panic ends nothing else.
        let listening = tokio::spawn((self.listener)(Arc::clone(delivery)).instrument(span));
        let verdict = listening.await.unwrap_or_else(|error| {
            tracing::error!(%error, message_id, "a listener panicked; the message comes again");
            Verdict::Again
        });
        let group = Some(self.receiver.group.as_str());
        let event = Noted { operation: Operation::Listen, topic, group }.event(1, started.elapsed(), None);
        let is_unsettled = verdict != Verdict::Done;
        self.receiver.member.caller.observed.tell(&Event { is_unsettled, ..event });
        verdict
    }

    /// What the listener makes of a message that is not in flight; nothing is settled. A group that is delivered in order has
    /// none shown: it would come beside others of its message group.
    async fn verify(&self, delivery: Delivery) -> v2::Code {
        if self.plan().is_fifo {
            return v2::Code::VerifyFifoMessageUnsupported;
        }
        let _slot = self.slots.acquire().await.expect("it is never closed");
        if self.is_stopping() || self.listen(&Arc::new(delivery)).await != Verdict::Done {
            return v2::Code::FailedToConsumeMessage;
        }
        v2::Code::Ok
    }

    async fn acknowledge(&self, delivery: &Delivery) {
        tell(delivery, "to be acknowledged", self.receiver.ack(delivery).await);
    }

    async fn give_up(&self, delivery: &Delivery, max_attempts: u32) {
        tell(delivery, "to become a dead letter", self.receiver.give_up(delivery, max_attempts).await);
    }

    /// Lets others have a message that no listener was asked about.
    async fn give_back(&self, held: &Held) {
        let mut delivery = held.delivery.lock().await;
        let given = self.receiver.change_invisible(&mut delivery, Duration::ZERO).await;
        tell(&delivery, "to be given back", given);
    }

    /// Sleeps, unless this consumer stops meanwhile.
    async fn pause(&self, delay: Duration) {
        let mut is_stopping = self.is_stopping.subscribe();
        let stopped = is_stopping.wait_for(|is_stopping| *is_stopping);
        // Either is an end of it.
        let _ = tokio::time::timeout(delay, stopped).await;
    }
}

/// Keeps others from getting a message, until the task is aborted or the message is theirs.
async fn renew(work: Arc<Work>, delivery: Arc<Mutex<Delivery>>) {
    loop {
        tokio::time::sleep(work.invisible_duration / RENEWALS).await;
        let mut delivery = delivery.lock().await;
        let renewed = work.receiver.change_invisible(&mut delivery, work.invisible_duration).await;
        let refused = matches!(&renewed, Err(error) if !error.is_retryable());
        tell(&delivery, "to be held for longer", renewed);
        if refused {
            return;
        }
    }
}

/// Messages by message group or lite topic, in the order in which they came; those without one each by itself.
fn chains(held: Vec<Held>) -> Vec<Vec<Held>> {
    let mut chains: Vec<Vec<Held>> = Vec::new();
    let mut by_group: HashMap<String, usize> = HashMap::new();
    for held in held {
        let Some(group) = held.chain.clone() else {
            chains.push(vec![held]);
            continue;
        };
        let at = *by_group.entry(group).or_insert(chains.len());
        if at == chains.len() {
            chains.push(Vec::new());
        }
        chains[at].push(held);
    }
    chains
}

/// A message that could not be settled comes again by itself.
fn tell(delivery: &Delivery, what: &str, result: Result<()>) {
    if let Err(error) = result {
        let message_id = delivery.message_id();
        tracing::warn!(%error, message_id, "a message failed {what}; it may come again");
    }
}
