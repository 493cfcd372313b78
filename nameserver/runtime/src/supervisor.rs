//! The background tasks of a process, or of one of its duties: each has a name, is begun again when it fails, and is joined at the end.
//!
//! | kind | when it fails | at the end |
//! |---|---|---|
//! | [`Supervisor::keep`] | begun again after a pause | dropped at its next await |
//! | [`Supervisor::keep_to_end`] | begun again after a pause, unless the end has come | waited for: it is told in a way of its own |
//! | [`Supervisor::once`] | over | dropped at its next await |
//!
//! Blocking work that a dropped task waits for goes on to its end.
//!
//! A task fails when it returns an error or panics. In the programs a panic ends the process before anything is begun again
//! ([`crate::process::abort_on_panic`]); a server inside another program, such as one in a test, has its task back.
//!
//! # Background tasks
//!
//! A supervisor stands for what its tasks belong to: the process, the membership in a group (`broker.rs`), a
//! leadership (`leader_tasks.rs`). A task that does not end is named in the log. A panic ends the process because a
//! task that died in the middle of a change leaves state behind that no code expects.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use parking_lot::Mutex;
use tokio_util::task::TaskTracker;

use crate::process::ShutdownSignal;

/// Pause after a first failure; every next one is twice as long.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause. A task that was at work for longer than this fails for the first time again.
const PAUSE_MAX: Duration = Duration::from_secs(15);
/// After this long a task that does not end is named in the log, again and again.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs tasks until it is stopped or dropped.
#[derive(Debug)]
pub struct Supervisor {
    /// Whose tasks these are, for the log.
    owner: &'static str,
    over: ShutdownSignal,
    tasks: TaskTracker,
    at_work: TasksAtWork,
}

/// How a task ended.
pub trait TaskOutcome {
    /// Why it failed, in words; `None` when it did its work.
    fn failure(self) -> Option<String>;
}

impl TaskOutcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: fmt::Display> TaskOutcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

/// Tasks that did not end in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("background tasks of the {owner} do not end: {}", .tasks.join(", "))]
pub struct LateTasks {
    /// Whose tasks they are.
    pub owner: &'static str,
    /// Their names.
    pub tasks: Vec<&'static str>,
}

impl Supervisor {
    /// A supervisor for the tasks of `owner`, which is named in the log.
    pub fn new(owner: &'static str) -> Self {
        let (tasks, at_work) = (TaskTracker::new(), TasksAtWork::default());
        Self { owner, over: ShutdownSignal::new(), tasks, at_work }
    }

    /// Keeps a task at work that has no end of its own. It is dropped at its next await when the end comes, and begun again when it
    /// fails.
    pub fn keep<B, F>(&self, name: &'static str, begin: B)
    where
        B: FnMut() -> F + Send + 'static,
        F: Future<Output: TaskOutcome> + Send + 'static,
    {
        let (over, kept) = (self.over.requested(), self.restarting(name, begin));
        self.spawn(name, async move {
            tokio::select! {
                biased;
                () = over => {}
                () = kept => {}
            }
        });
    }

    /// Keeps a task at work that learns of its end in a way of its own, and must come to it.
    pub fn keep_to_end<B, F>(&self, name: &'static str, begin: B)
    where
        B: FnMut() -> F + Send + 'static,
        F: Future<Output: TaskOutcome> + Send + 'static,
    {
        self.spawn(name, self.restarting(name, begin));
    }

    /// Runs a task that does its work once. It is dropped at its next await when the end comes.
    pub fn once<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output: TaskOutcome> + Send + 'static,
    {
        let (owner, over) = (self.owner, self.over.requested());
        self.spawn(name, async move {
            let failure = tokio::select! {
                biased;
                () = over => None,
                failure = outcome(task) => failure,
            };
            if let Some(reason) = failure {
                tracing::error!(task = name, owner, reason, "a background task failed");
            }
        });
    }

    /// Ends all tasks and returns when they have ended. Those that take long are named in the log.
    pub async fn stop(&self) {
        self.request_stop();
        while let Err(late) = self.ended_within(PATIENCE).await {
            tracing::warn!("{late}; waiting for them");
        }
    }

    /// Ends all tasks, and waits for that as long as `patience`.
    ///
    /// # Errors
    /// [`LateTasks`] names those that go on.
    pub async fn stop_within(&self, patience: Duration) -> Result<(), LateTasks> {
        self.request_stop();
        self.ended_within(patience).await
    }

    fn request_stop(&self) {
        self.over.request();
        self.tasks.close();
    }

    async fn ended_within(&self, patience: Duration) -> Result<(), LateTasks> {
        let ended = tokio::time::timeout(patience, self.tasks.wait()).await;
        ended.map_err(|_| LateTasks { owner: self.owner, tasks: self.at_work.names() })
    }

    fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let at_work = self.at_work.enter(name);
        self.tasks.spawn(async move {
            task.await;
            drop(at_work);
        });
    }

    fn restarting<B, F>(
        &self,
        name: &'static str,
        mut begin: B,
    ) -> impl Future<Output = ()> + Send + use<B, F>
    where
        B: FnMut() -> F + Send + 'static,
        F: Future<Output: TaskOutcome> + Send + 'static,
    {
        let (owner, over) = (self.owner, self.over.clone());
        async move {
            let mut pauses = RestartPauses::default();
            loop {
                let began = Instant::now();
                let Some(reason) = outcome(begin()).await else { return };
                let pause = pauses.after(began.elapsed());
                tracing::error!(
                    task = name,
                    owner,
                    reason,
                    ?pause,
                    "a background task failed and is begun again"
                );
                tokio::select! {
                    () = over.requested() => return,
                    () = tokio::time::sleep(pause) => {}
                }
            }
        }
    }
}

/// No task outlives the last handle that could stop it.
impl Drop for Supervisor {
    fn drop(&mut self) {
        self.request_stop();
    }
}

/// Why a task failed; `None` when it did its work.
async fn outcome<F: Future<Output: TaskOutcome>>(task: F) -> Option<String> {
    // Nothing that the task owned is looked at after a panic; what it shares is behind locks.
    match AssertUnwindSafe(task).catch_unwind().await {
        Ok(outcome) => outcome.failure(),
        Err(panic) => Some(format!("panicked: {}", panic_text(&*panic))),
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("for a reason without words")
}

/// How long to wait before a task is begun again.
#[derive(Debug, Default)]
struct RestartPauses {
    last: Duration,
}

impl RestartPauses {
    /// The pause after a failure that came `at_work` after the task was begun.
    fn after(&mut self, at_work: Duration) -> Duration {
        let before = if at_work > PAUSE_MAX { Duration::ZERO } else { self.last };
        self.last = (before * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.last
    }
}

/// Names of the tasks that have not ended, with their numbers. Clones share it.
#[derive(Debug, Clone, Default)]
struct TasksAtWork(Arc<Mutex<BTreeMap<&'static str, usize>>>);

impl TasksAtWork {
    fn enter(&self, name: &'static str) -> TaskAtWork {
        *self.0.lock().entry(name).or_default() += 1;
        TaskAtWork { all: self.clone(), name }
    }

    fn names(&self) -> Vec<&'static str> {
        self.0.lock().keys().copied().collect()
    }
}

/// Held by a task for as long as there is any of it.
struct TaskAtWork {
    all: TasksAtWork,
    name: &'static str,
}

impl Drop for TaskAtWork {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        if let Some(number) = all.get_mut(self.name) {
            *number -= 1;
            if *number == 0 {
                all.remove(self.name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// Set when it is dropped.
    struct Gone(Arc<AtomicU32>);

    impl Drop for Gone {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A task that fails in its first run by `fail`, and sleeps in the second one; the answer is whether there was one.
    async fn is_begun_again(fail: fn() -> Result<(), String>) -> bool {
        let tasks = Supervisor::new("test");
        let (sender, mut runs) = tokio::sync::mpsc::unbounded_channel();
        let mut run = 0;
        tasks.keep("failing", move || {
            run += 1;
            let (run, sender) = (run, sender.clone());
            async move {
                sender.send(run).unwrap();
                if run == 1 {
                    fail()?;
                }
                pending::<Result<(), String>>().await
            }
        });
        assert_eq!(runs.recv().await, Some(1));
        let again = tokio::time::timeout(SOON, runs.recv()).await == Ok(Some(2));
        tasks.stop_within(SOON).await.expect("ends");
        again
    }

    #[tokio::test]
    async fn a_task_that_fails_or_panics_is_begun_again() {
        assert!(is_begun_again(|| Err("no disk".to_owned())).await);
        assert!(is_begun_again(|| panic!("a test panics")).await);
    }

    #[tokio::test]
    async fn a_task_that_did_its_work_is_not_begun_again() {
        let tasks = Supervisor::new("test");
        let runs = Arc::new(AtomicU32::new(0));
        let counted = runs.clone();
        tasks.keep("short", move || {
            counted.fetch_add(1, Ordering::Relaxed);
            async {}
        });
        let failing = runs.clone();
        tasks.once("failing", async move {
            failing.fetch_add(1, Ordering::Relaxed);
            Err::<(), &str>("no disk")
        });
        tasks.tasks.close();
        tokio::time::timeout(SOON, tasks.tasks.wait()).await.expect("both end by themselves");
        assert_eq!(runs.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn all_end_when_the_supervisor_is_stopped_or_dropped() {
        let gone = Arc::new(AtomicU32::new(0));
        let begin = |tasks: &Supervisor| {
            let (kept, once) = (gone.clone(), Gone(gone.clone()));
            tasks.keep("kept", move || {
                let gone = Gone(kept.clone());
                async move {
                    let _gone = gone;
                    pending::<()>().await;
                }
            });
            tasks.once("once", async move {
                let _once = once;
                pending::<()>().await;
            });
        };
        let stopped = Supervisor::new("stopped");
        begin(&stopped);
        tokio::task::yield_now().await;
        stopped.stop().await;
        assert_eq!(gone.load(Ordering::Relaxed), 2);
        let dropped = Supervisor::new("dropped");
        begin(&dropped);
        tokio::task::yield_now().await;
        let tracker = dropped.tasks.clone();
        drop(dropped);
        tokio::time::timeout(SOON, tracker.wait()).await.expect("they end");
        assert_eq!(gone.load(Ordering::Relaxed), 4);
    }

    #[tokio::test]
    async fn a_task_that_does_not_end_in_time_is_named() {
        let tasks = Supervisor::new("broker");
        let end = ShutdownSignal::new();
        let told = end.clone();
        tasks.keep("quick", pending::<()>);
        tasks.keep_to_end("slow", move || told.requested());
        let late = tasks.stop_within(Duration::from_millis(50)).await.expect_err("it goes on");
        assert_eq!(late, LateTasks { owner: "broker", tasks: vec!["slow"] });
        assert_eq!(late.to_string(), "background tasks of the broker do not end: slow");
        end.request();
        tasks.stop_within(SOON).await.expect("it was told");
    }

    #[test]
    fn pauses_grow_up_to_a_bound_and_begin_again_after_a_good_run() {
        let mut pauses = RestartPauses::default();
        let at_once = Duration::ZERO;
        let grown: Vec<u64> = (0..6).map(|_| pauses.after(at_once).as_secs()).collect();
        assert_eq!(grown, [1, 2, 4, 8, 15, 15]);
        assert_eq!(pauses.after(PAUSE_MAX + Duration::from_millis(1)), PAUSE_MIN);
    }
}
