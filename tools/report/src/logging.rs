//! Log lines of a command, for those who look for a fault: on standard error, as `RUST_LOG` says.

use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Starts logging: errors only, or the levels in `RUST_LOG`, such as `debug` or `kerolox_client=trace`.
///
/// # Panics
/// When the process logs already.
pub fn init() {
    let wanted = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let levels: Option<Targets> = wanted.and_then(|text| text.parse().ok());
    let levels = levels.unwrap_or_else(|| Targets::new().with_default(LevelFilter::ERROR));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    tracing_subscriber::registry().with(levels).with(lines).init();
}
