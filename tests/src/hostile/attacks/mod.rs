//! The attacks, one in a file, or several where they differ in a word.

mod connections;
mod requests;
mod responses;
mod strangers;

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::target::Target;

/// An attack that goes on until the moment that it is given.
pub(super) struct Attack {
    pub(super) name: &'static str,
    /// Whether it is against nameservers and members, and there has to be a group.
    pub(super) needs_group: bool,
    /// What stays open when it is over is closed by dropping the tasks.
    pub(super) begin: Begin,
}

/// All of them.
pub(super) const ALL: [Attack; 13] = [
    on_all("1100 idle connections", connections::idle),
    on_all("1100 times `PRI * HT`", connections::half_a_preface),
    on_all("slow writers of big messages", requests::slow_writers),
    on_all("streams whose requests never end", requests::open_streams),
    on_all("headers that never end", requests::open_headers),
    on_all("settings of 13 MB", requests::large_settings),
    on_all("filters of 16 KiB on long polls", requests::large_filters),
    on_all("empty DATA frames", requests::empty_frames),
    on_all("800 pulls with a window of 0", responses::shut_pulls),
    on_all("connections that never read", responses::never_read),
    on_all("receives whose filter wants nothing", responses::unwanted),
    on_group("brokers that are not there", strangers::registrations),
    on_group("members that are not there", strangers::reports),
];

type Begin = fn(&Target, Instant) -> JoinSet<()>;

const fn on_all(name: &'static str, begin: Begin) -> Attack {
    Attack { name, needs_group: false, begin }
}

const fn on_group(name: &'static str, begin: Begin) -> Attack {
    Attack { name, needs_group: true, begin }
}

/// Runs `attempt` again and again in `count` tasks, until it is over: a server may close what attacks it.
fn repeatedly<F, Fut>(count: u32, until: Instant, attempt: F) -> JoinSet<()>
where
    F: Fn(u32) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for number in 0..count {
        let attempt = attempt.clone();
        tasks.spawn(async move {
            while Instant::now() < until {
                // It fails when the server closes the connection, which is what it should do.
                let _ = tokio::time::timeout_at(until, attempt(number)).await;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    tasks
}

/// One of three addresses to come from.
fn host(number: u32) -> u8 {
    2 + u8::try_from(number % 3).expect("a small number")
}
