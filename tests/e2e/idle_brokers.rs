//! A broker group without work: nothing in it looks again and again whether there is some.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use procfs::process::Process;

use crate::support::{NO_CHECKS, create, group, master};

/// How long threads are watched.
const WATCHED: Duration = Duration::from_secs(5);
/// Slaves are pinged every 50 ms and answer; a thread that polls wakes much more often.
const WAKE_UPS_MAX: f64 = 90.0;

/// How often each thread of a process went to sleep by itself.
fn sleeps(pid: u32) -> BTreeMap<i32, u64> {
    let tasks = Process::new(pid.try_into().unwrap()).unwrap().tasks().unwrap();
    let tasks = tasks.filter_map(|task| task.ok().and_then(|task| Some((task.tid, task.status().ok()?))));
    tasks.map(|(thread, status)| (thread, status.voluntary_ctxt_switches.unwrap())).collect()
}

#[tokio::test]
async fn no_thread_of_an_idle_group_member_polls() {
    let servers = group(2, &NO_CHECKS, &[]).await;
    create(&servers, "orders", "NORMAL").await;
    let ruling = master(&servers).await;
    // What the start left to do is done.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let pids = servers.brokers.iter().map(|broker| broker.pid().unwrap());
    let (before, began): (Vec<_>, Instant) = (pids.map(|pid| (pid, sleeps(pid))).collect(), Instant::now());
    tokio::time::sleep(WATCHED).await;
    let seconds = began.elapsed().as_secs_f64();
    for (member, (pid, before)) in before.into_iter().enumerate() {
        let after = sleeps(pid);
        #[allow(clippy::cast_precision_loss, reason = "some thousands")]
        let per_second =
            |(thread, count): (&i32, &u64)| (count - before.get(thread).unwrap_or(&0)) as f64 / seconds;
        let most = after.iter().map(per_second).fold(0.0, f64::max);
        eprintln!("member {member} (the master is {ruling}): {most} wake-ups a second at the most");
        assert!(most < WAKE_UPS_MAX, "a thread of member {member} wakes {most} times a second: {after:?}");
    }
}
