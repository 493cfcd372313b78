//! What every server process does at its start and its end: limits, files, logging, panics, signals.

use std::fs::{self, Permissions};
use std::io::IsTerminal;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use kerolox_model::limits::LOG_FILTER_BYTES_MAX;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

/// The log filter without `RUST_LOG`. The consensus library reports every call that fails; the controller says what matters.
const DEFAULT_FILTER: &str = "info,openraft=off";

/// The filter of the process's one subscriber.
static FILTER: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// Starts logging to standard error, filtered by `RUST_LOG`, or `info` without it. A second call does nothing.
pub fn init_tracing() {
    let wanted = std::env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let filter: Option<Targets> = wanted.and_then(|text| parse_filter(&text).ok());
    let filter = filter.unwrap_or_else(|| DEFAULT_FILTER.parse().expect("the default is a filter"));
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer()
        .compact()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A second call finds a subscriber in place, which is fine.
    if tracing_subscriber::registry().with(filter).with(lines).try_init().is_ok() {
        // It is still unset: there is one subscriber.
        let _ = FILTER.set(handle);
    }
}

/// The log filter, in the words of `RUST_LOG`; empty when [`init_tracing`] was not called.
pub fn log_filter() -> String {
    FILTER.get().and_then(|filter| filter.with_current(ToString::to_string).ok()).unwrap_or_default()
}

/// Changes the log filter from now on.
///
/// # Errors
/// In words, when `text` is no filter, or when nothing is logged.
pub fn set_log_filter(text: &str) -> Result<(), String> {
    if text.len() > LOG_FILTER_BYTES_MAX {
        return Err(format!(
            "the filter has {} bytes, the limit is {LOG_FILTER_BYTES_MAX}; name fewer modules, as in info,kerolox_broker=debug",
            text.len()
        ));
    }
    let filter = parse_filter(text)?;
    let handle = FILTER.get().ok_or("this process does not log by itself")?;
    handle.reload(filter).map_err(|error| error.to_string())
}

/// Reads levels by module. The library takes any text for the name of a module.
fn parse_filter(text: &str) -> Result<Targets, String> {
    let is_in_names = |c: char| c.is_ascii_alphanumeric() || "_:-".contains(c);
    for directive in text.split(',') {
        let module = directive.split('=').next().unwrap_or(directive);
        if !module.chars().all(is_in_names) {
            return Err(format!(
                "{text:?} is no filter: {module:?} is no module; write levels by module, as in info,kerolox_broker=debug"
            ));
        }
    }
    text.parse().map_err(|error| format!("{text:?} is no filter: {error}"))
}

/// Whatever this process makes from now on is for its user only: data of a broker holds what was sent, and keys.
pub fn keep_files_private() {
    umask(Mode::RWXG | Mode::RWXO);
}

/// Makes the folder of a process's data if it is not there, and keeps others out of it. One whose mode cannot be changed, as on some
/// mounted file systems, is used as it is.
///
/// # Errors
/// When it cannot be made.
pub fn private_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)?;
    if let Err(error) = fs::set_permissions(path, Permissions::from_mode(0o700)) {
        tracing::warn!(path = %path.display(), %error, "cannot restrict the mode of the data folder; other users may read it");
    }
    Ok(())
}

/// Raises the number of files and connections that this process may have open to the most that the system lets it have. The usual
/// limit of 1,024 is for programs that use `select`.
pub fn raise_open_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => tracing::debug!(?current, ?maximum, "the limit of open files was raised"),
        Err(error) => tracing::warn!(?current, %error, "the limit of open files cannot be raised"),
    }
}

/// Makes any panic end the process after logging it.
///
/// A thread that died in the middle of a change leaves state behind that no code expects; recovery from the
/// log is a path that is tested.
pub fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        tracing::error!("a panic ends this process: {panic}");
        std::process::abort();
    }));
}

/// Milliseconds since the Unix epoch; 0 when the clock stands before it.
pub fn now_ms() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since_epoch.as_millis()).unwrap_or(i64::MAX)
}

/// Tells every part of a process, or of a duty, that it is to end. Clones share one state.
#[derive(Debug, Clone, Default)]
pub struct ShutdownSignal(CancellationToken);

impl ShutdownSignal {
    /// A shutdown that is not requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The end of a part, which comes when it is asked for, or that of the whole.
    pub fn of_part(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Asks for the end; more calls change nothing.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Whether the end was asked for.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Completes when the end is asked for, at once when it has been.
    pub fn requested(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.clone().cancelled_owned()
    }
}

/// Starts to listen for SIGINT (Ctrl-C) and SIGTERM; the returned future completes with the first of them.
///
/// To be called before the process says that it is ready: until then these signals kill it.
///
/// # Errors
/// The system refuses to install a signal handler.
pub fn shutdown_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        let name = tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        };
        tracing::info!("{name} received, shutting down");
    })
}

/// Runs a server until it ends by itself or `signal` completes; then asks it to end and waits for that.
///
/// # Errors
/// The server's task panicked.
pub async fn serve_until<T: Send + 'static>(
    serving: impl Future<Output = T> + Send + 'static,
    signal: impl Future<Output = ()>,
    shutdown: &ShutdownSignal,
) -> Result<T, tokio::task::JoinError> {
    let mut serving = tokio::spawn(serving);
    tokio::select! {
        outcome = &mut serving => return outcome,
        () = signal => shutdown.request(),
    }
    serving.await
}

/// Says on standard output where a server listens, for people and for programs that wait for it. A closed
/// standard output does no harm.
pub fn announce_listening(name: &str, address: SocketAddr) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{name} listening on {address}").and_then(|()| stdout.flush());
}

/// Says on standard output where a server answers health checks.
pub fn announce_health(name: &str, address: SocketAddr) {
    let mut stdout = std::io::stdout();
    let _ = writeln!(stdout, "{name} answers health checks on {address}").and_then(|()| stdout.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shutdown_reaches_early_and_late_listeners() {
        let shutdown = ShutdownSignal::new();
        let early = tokio::spawn(shutdown.clone().requested());
        assert!(!shutdown.is_requested());
        shutdown.request();
        early.await.unwrap();
        shutdown.requested().await;
        assert!(shutdown.is_requested());
    }

    #[tokio::test]
    async fn a_part_ends_before_the_whole_or_with_it() {
        let whole = ShutdownSignal::new();
        let (first, second) = (whole.of_part(), whole.of_part());
        first.request();
        assert!(first.is_requested() && !whole.is_requested() && !second.is_requested());
        whole.request();
        second.requested().await;
        assert!(whole.of_part().is_requested());
    }

    #[test]
    fn filters_are_levels_by_module() {
        for good in ["info", "info,kerolox_broker=debug", DEFAULT_FILTER, "kerolox_log::segment=trace"] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        for bad in ["a b c[", "info,kerolox broker=debug", "kerolox_broker=loud", "info;debug"] {
            assert!(parse_filter(bad).is_err(), "{bad}");
        }
    }
}
