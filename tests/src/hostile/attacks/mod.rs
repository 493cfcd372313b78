//! The attacks, one in a file, or several where they differ in a word.

mod connections;
mod requests;
mod responses;

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::target::Target;

/// An attack that goes on until the moment that it is given.
pub(super) struct Attack {
    pub(super) name: &'static str,
    /// What stays open when it is over is closed by dropping the tasks.
    pub(super) begin: fn(&Target, Instant) -> JoinSet<()>,
}

/// All of them.
pub(super) const ALL: [Attack; 11] = [
    Attack { name: "1100 idle connections", begin: connections::idle },
    Attack { name: "1100 times `PRI * HT`", begin: connections::half_a_preface },
    Attack { name: "slow writers of big messages", begin: requests::slow_writers },
    Attack { name: "streams whose requests never end", begin: requests::open_streams },
    Attack { name: "headers that never end", begin: requests::open_headers },
    Attack { name: "settings of 13 MB", begin: requests::large_settings },
    Attack { name: "filters of 16 KiB on long polls", begin: requests::large_filters },
    Attack { name: "empty DATA frames", begin: requests::empty_frames },
    Attack { name: "800 pulls with a window of 0", begin: responses::shut_pulls },
    Attack { name: "connections that never read", begin: responses::never_read },
    Attack { name: "receives whose filter wants nothing", begin: responses::unwanted },
];

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
