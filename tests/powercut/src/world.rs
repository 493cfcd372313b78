//! One simulated machine: lives of a broker's store, with power cuts, kills and failing syncs between them.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use kerolox_core::flush::FlushRequirement;
use kerolox_core::lite::is_lite;
use kerolox_core::record::QueueState;
use kerolox_log::fs::{DiskFault, FaultTimes, Folder, MemFolder, SeededChoices};
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_powercut::DiskKv;
use kerolox_store::kv::Kv;
use kerolox_store::{Store, StoreError, StoreOptions};

use crate::gate::Gate;
use crate::model::{Answer, Model};
use crate::observe::View;
use crate::once;
use crate::plan::{self, Plan};

/// What a run did.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    pub(crate) cuts: u64,
    pub(crate) kills: u64,
    pub(crate) interrupted: u64,
    pub(crate) answered: u64,
    pub(crate) trims: u64,
    pub(crate) expiries: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        self.cuts += other.cuts;
        self.kills += other.kills;
        self.interrupted += other.interrupted;
        self.answered += other.answered;
        self.trims += other.trims;
        self.expiries += other.expiries;
    }
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Close,
    Kill,
    PowerCut,
}

pub(crate) struct PowercutWorld {
    chooser: SeededChoices,
    folder: MemFolder,
    kv: Arc<DiskKv>,
    gate: Arc<Gate>,
    model: Model,
    figures: Figures,
    messages: u64,
    trace: bool,
    /// The process was killed and the machine has lived since: unsynced data is in its memory.
    killed: bool,
}

impl PowercutWorld {
    pub(crate) fn new(seed: u64, trace: bool) -> Self {
        let folder = MemFolder::new();
        Self {
            chooser: SeededChoices::new(seed),
            kv: Arc::new(DiskKv::empty(&folder)),
            folder,
            gate: Arc::default(),
            model: Model::default(),
            figures: Figures::default(),
            messages: 0,
            trace,
            killed: false,
        }
    }

    /// Runs some lives; an error says what the store got wrong.
    pub(crate) fn run(mut self) -> Result<Figures, String> {
        let lives = 2 + self.chooser.below(5);
        for life in 0..lives {
            self.life().map_err(|wrong| format!("life {life}: {wrong}"))?;
        }
        // It goes on working: a last life on a healthy machine.
        let store = self.start().map_err(|wrong| format!("at the end: {wrong}"))?;
        for _ in 0..3 {
            if !self.batch(&store, true)? {
                return Err("at the end: a healthy store refuses records".to_owned());
            }
        }
        Ok(self.figures)
    }

    fn life(&mut self) -> Result<(), String> {
        let store = self.start()?;
        let steps = 4 + self.chooser.below(30);
        let ending = match self.chooser.below(10) {
            0 => Ending::Close,
            1 => Ending::Kill,
            _ => Ending::PowerCut,
        };
        let harm = self.chooser.below(8);
        let moment = self.chooser.below(steps * 4);
        match ending {
            Ending::PowerCut if harm == 0 => {
                self.folder.fail_nth(DiskFault::Sync, moment / 4, FaultTimes::Once)
            }
            Ending::PowerCut if harm == 1 => {
                self.folder.fail_nth(DiskFault::Write, moment / 4, FaultTimes::Once)
            }
            Ending::PowerCut if harm < 7 => self.folder.power_off_at(moment),
            _ => {}
        }
        self.tell(|| format!("a life of {steps} steps, {ending:?}, harm {harm} at {moment}"));
        for _ in 0..steps {
            if !self.step(&store)? {
                break;
            }
        }
        self.end(store, ending);
        Ok(())
    }

    /// Something random; false when the store does not work any more.
    fn step(&mut self, store: &Store) -> Result<bool, String> {
        match self.chooser.below(20) {
            0..=2 => {
                self.tell(|| "the index is flushed".to_owned());
                // The index waits for the log.
                let (sender, synced) = mpsc::channel();
                store.propose(
                    &plan::nothing(),
                    FlushRequirement::Sync,
                    Box::new(move |done| drop(sender.send(done))),
                );
                Ok(synced.recv().is_ok_and(|done| done.is_ok()) && store.flush_index().is_ok())
            }
            3 => self.trim(store),
            4 => self.expire(store),
            5 => {
                // Up to more than the window of the topic without duplicates.
                let ms = i64::try_from(self.chooser.below(1_200)).expect("small");
                self.tell(|| format!("{ms} ms pass"));
                self.gate.pass(ms);
                Ok(true)
            }
            _ => self.batch(store, false),
        }
    }

    /// Proposes a few records that the writer takes as one batch. False when one was refused.
    fn batch(&mut self, store: &Store, sync: bool) -> Result<bool, String> {
        let mut batch = Vec::new();
        for _ in 0..1 + self.chooser.below(6) {
            self.messages += 1;
            let plan = Plan::random(&mut self.chooser, &self.model.live, format!("m{}", self.messages));
            // The id tells what a message was sent as.
            let plan = match plan {
                Plan::Half { topic_id, queue, .. } => {
                    Plan::Half { id: format!("h{}", self.messages), topic_id, queue }
                }
                Plan::Scheduled { topic_id, queue, .. } => {
                    Plan::Scheduled { id: format!("s{}", self.messages), topic_id, queue }
                }
                plan => plan,
            };
            let flush = if sync { FlushRequirement::Sync } else { Plan::flush(&mut self.chooser) };
            self.model.propose(&plan);
            batch.push((plan, flush));
        }
        if !self.model.live.group {
            batch.insert(0, (Plan::PutGroup, FlushRequirement::Sync));
        }
        self.tell(|| format!("batch {batch:?}"));
        let (sender, answers) = mpsc::channel();
        self.hold_writer(store);
        for (i, (plan, flush)) in batch.iter().enumerate() {
            let sender = sender.clone();
            // The receiver lives until all have answered.
            let done = Box::new(move |applied| drop(sender.send((i, applied))));
            store.propose(&plan.record(&mut self.chooser), *flush, done);
        }
        drop(sender);
        self.gate.open();
        let (mut answered, mut refused, mut count) = (Vec::new(), None, 0);
        for (i, applied) in answers {
            count += 1;
            let (plan, flush) = batch[i].clone();
            match applied {
                Ok(applied) => answered.push(Answer { plan, flush, applied }),
                Err(error) => refused = Some(error),
            }
        }
        if count != batch.len() {
            return Err(format!("{count} answers to {} proposals", batch.len()));
        }
        self.figures.answered += answered.len() as u64;
        self.model.answer(store, answered)?;
        if let Some(error) = &refused {
            self.tell(|| format!("refused: {error}"));
        }
        Ok(refused.is_none())
    }

    /// Lets the writer wait for the gate, so that everything proposed until it opens becomes one batch.
    fn hold_writer(&self, store: &Store) {
        self.gate.close();
        let gate = self.gate.clone();
        store.propose(&plan::nothing(), FlushRequirement::Async, Box::new(move |_| gate.give_up()));
        self.gate.wait_until_reached();
    }

    fn trim(&mut self, store: &Store) -> Result<bool, String> {
        let Ok(points) = store.trim_points().collect::<Result<Vec<_>, _>>() else {
            return Ok(self.folder.list().is_ok());
        };
        if points.is_empty() {
            return Ok(true);
        }
        let at = usize::try_from(self.chooser.below(points.len() as u64)).expect("below the length");
        self.tell(|| format!("a trim before {}", points[at].before));
        self.model.trim(points[at].before);
        let trimmed = store.trim(&points[at]);
        self.tell(|| format!("{trimmed:?}"));
        if trimmed.is_err() {
            return Ok(false);
        }
        self.figures.trims += 1;
        self.model.trimmed(store);
        Ok(true)
    }

    /// Lets the oldest messages of a random queue expire.
    fn expire(&mut self, store: &Store) -> Result<bool, String> {
        // Messages of lite topics expire only with their topic.
        let queues = self.model.live.bounds.keys().copied().filter(|(_, queue)| !is_lite(*queue));
        let queues: Vec<_> = queues.collect();
        if queues.is_empty() {
            return Ok(true);
        }
        let at = usize::try_from(self.chooser.below(queues.len() as u64)).expect("below the length");
        let (topic_id, queue) = queues[at];
        let bounds = store.state().queues.bounds(topic_id, queue);
        let next = bounds.min + self.chooser.below(bounds.next - bounds.min + 1);
        self.tell(|| format!("messages of {:?} expire before {next}", queues[at]));
        self.model.expire(queues[at], next);
        let state = QueueState { topic_id, queue, next, newest_ms: 0 };
        let expired = store.expire(vec![state]);
        self.tell(|| format!("{expired:?}"));
        if expired.is_err() {
            return Ok(false);
        }
        self.figures.expiries += 1;
        self.model.trimmed(store);
        Ok(true)
    }

    fn end(&mut self, store: Store, ending: Ending) {
        match ending {
            Ending::Close => {
                drop(store);
                self.model.keep_all();
            }
            Ending::Kill => {
                // Writes of the dying process go to a folder that is thrown away.
                let folder = self.folder.fork();
                self.kv = Arc::new(self.kv.after_kill(&folder));
                self.folder = folder;
                drop(store);
                self.killed = true;
                self.figures.kills += 1;
            }
            Ending::PowerCut => {
                self.cut_power();
                // Its files are dead.
                drop(store);
                self.figures.cuts += 1;
            }
        }
        self.folder.fail(None);
        self.tell(|| format!("{ending:?}"));
    }

    fn cut_power(&mut self) {
        self.folder.crash(self.chooser.next_u64());
        let kv = if self.chooser.chance(1, 10) {
            DiskKv::empty(&self.folder)
        } else {
            self.kv.after_power_cut(&self.folder, &mut self.chooser)
        };
        self.kv = Arc::new(kv);
    }

    /// Opens the store, after some tries that a power cut interrupts, and compares it with what must be there.
    fn start(&mut self) -> Result<Store, String> {
        while self.chooser.chance(1, 4) {
            self.folder.power_off_at(self.chooser.below(12));
            let store = self.open(&self.folder, self.kv.clone());
            self.figures.interrupted += 1;
            self.tell(|| "a start that is interrupted".to_owned());
            self.cut_power();
            // What the killed process had not synced may be gone with the power.
            self.killed = false;
            drop(store);
        }
        if std::mem::take(&mut self.killed) {
            self.model.keep_all();
        }
        let store = self.open(&self.folder, self.kv.clone()).map_err(|error| format!("no start: {error}"))?;
        self.model.restart(&store)?;
        self.compare_with_scratch(&store)?;
        Ok(store)
    }

    /// The log alone leads to the same, and starting once more changes nothing.
    fn compare_with_scratch(&self, store: &Store) -> Result<(), String> {
        let folder = self.folder.fork();
        let kv = Arc::new(DiskKv::empty(&folder));
        let rebuilt =
            self.open(&folder, kv).map_err(|error| format!("no start without an index: {error}"))?;
        let (own, other) = (View::of(store)?, View::of(&rebuilt)?);
        if own == other {
            let now_ms = self.gate.peek_ms();
            let (own, other) = (once::remembered(store, now_ms)?, once::remembered(&rebuilt, now_ms)?);
            return if own == other {
                Ok(())
            } else {
                Err(format!("an index made anew remembers something else:\n  {own:?}\n  {other:?}"))
            };
        }
        Err(format!("an index made anew shows something else:\n  {own:?}\n  {other:?}"))
    }

    fn open(&self, folder: &MemFolder, kv: Arc<dyn Kv>) -> Result<Store, StoreError> {
        let options = StoreOptions {
            broker: "a".to_owned(),
            // Another one at every start: the log keeps the one that it was begun with.
            log: LogOptions {
                segment_bytes: 8192,
                step_bytes: 2048,
                checkpoint_bytes: 2048,
                ..LogOptions::new(FrameSalt::new(self.messages + 1))
            },
            waiting_bytes_max: 1 << 20,
            // Only records that ask for it are synced, so that nothing depends on the clock.
            flush_interval: Duration::from_secs(3600),
            tail_bytes: 1024,
        };
        let gate = self.gate.clone();
        Store::open(options, Arc::new(folder.clone()), kv, move || gate.now_ms(), |_| {})
    }

    fn tell(&self, what: impl FnOnce() -> String) {
        if self.trace {
            println!("        {}", what());
        }
    }
}
