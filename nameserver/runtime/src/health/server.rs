//! The HTTP side of health: a listener, a thread, and a handful of paths.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::sync::oneshot;

use super::guests::Guests;
use super::{HealthChecks, HealthListen, HealthReport, HealthSettings, liveness, report};
use crate::listen::ListenError;
use crate::supervisor::Supervisor;

/// How often the runtime shows that it runs tasks.
const BEAT: Duration = Duration::from_secs(1);

/// What there is, for those who ask for something else.
const PATHS: &str =
    "there is /healthz (is the process alive?) and /readyz (does it serve?), for GET and HEAD\n";

/// Why health checks cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The configured address cannot be had.
    #[error("health.listen: {0}; or set it to off")]
    Listen(ListenError),
    /// The thread cannot be started.
    #[error("cannot start the thread for health checks: {0}")]
    Thread(io::Error),
}

/// Answers health checks until it is dropped.
#[derive(Debug)]
pub struct HealthServer {
    address: SocketAddr,
    /// Dropped with this, which ends the thread.
    _running: oneshot::Sender<()>,
}

impl HealthServer {
    /// The address that is really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

/// Starts to answer health checks as `settings` say; `usual` is the address for [`HealthListen::Auto`]. Returns `None`
/// when there are to be none, or the usual port is taken. `tasks` are those of the runtime that is to be watched.
///
/// # Errors
/// [`HealthError`] when a configured address cannot be had.
pub fn start(
    settings: &HealthSettings,
    usual: SocketAddr,
    checks: HealthChecks,
    tasks: &Supervisor,
) -> Result<Option<HealthServer>, HealthError> {
    let Some(listener) = bind(&settings.listen, usual)? else { return Ok(None) };
    let address = listener.local_addr().map_err(HealthError::Thread)?;
    let pulse = Arc::new(Pulse::new());
    let beating = pulse.clone();
    tasks.keep("pulse", move || beating.clone().beat());
    let (running, stopped) = oneshot::channel();
    let router = router(pulse, checks);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(HealthError::Thread)?;
    let serve = move || runtime.block_on(serve(listener, router, stopped));
    std::thread::Builder::new().name("health".to_owned()).spawn(serve).map_err(HealthError::Thread)?;
    Ok(Some(HealthServer { address, _running: running }))
}

fn bind(listen: &HealthListen, usual: SocketAddr) -> Result<Option<TcpListener>, HealthError> {
    match listen {
        HealthListen::Off => Ok(None),
        HealthListen::At(address) => {
            let failed = |source| HealthError::Listen(ListenError { address: address.clone(), source });
            TcpListener::bind(address).map(Some).map_err(failed)
        }
        HealthListen::Auto => match TcpListener::bind(usual) {
            Ok(listener) => Ok(Some(listener)),
            Err(error) => {
                tracing::warn!(
                    address = %usual,
                    %error,
                    "health checks are not answered: their usual port is not available, perhaps because another server \
                     of this machine uses it; set health.listen to a free one, or to off"
                );
                Ok(None)
            }
        },
    }
}

async fn serve(listener: TcpListener, router: Router, stopped: oneshot::Receiver<()>) {
    let serving = async {
        listener.set_nonblocking(true)?;
        axum::serve(Guests::new(tokio::net::TcpListener::from_std(listener)?), router).await
    };
    tokio::select! {
        outcome = serving => if let Err(error) = outcome {
            tracing::error!(%error, "health checks are not answered any more");
        },
        // The channel carries no value: this completes when the sender is dropped.
        _ = stopped => {}
    }
}

/// Further paths go here.
fn router(pulse: Arc<Pulse>, checks: HealthChecks) -> Router {
    Router::new()
        .route("/healthz", get(move || async move { answer(report(&[liveness(pulse.age())])) }))
        .route("/readyz", get(move || async move { answer(report(&checks())) }))
        .method_not_allowed_fallback(|| async { (StatusCode::METHOD_NOT_ALLOWED, PATHS) })
        .fallback(|| async { (StatusCode::NOT_FOUND, PATHS) })
}

fn answer(report: HealthReport) -> Response {
    let status = StatusCode::from_u16(report.status).expect("a report has a status of HTTP");
    (status, [(header::CONTENT_TYPE, "application/json")], report.body).into_response()
}

/// When the watched runtime last ran a task.
#[derive(Debug)]
struct Pulse {
    started: Instant,
    /// Milliseconds after `started`.
    last_beat_ms: AtomicU64,
}

impl Pulse {
    fn new() -> Self {
        Self { started: Instant::now(), last_beat_ms: AtomicU64::new(0) }
    }

    /// Beats for ever.
    async fn beat(self: Arc<Self>) {
        loop {
            let now_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
            self.last_beat_ms.store(now_ms, Ordering::Relaxed);
            tokio::time::sleep(BEAT).await;
        }
    }

    fn age(&self) -> Duration {
        let last_beat = Duration::from_millis(self.last_beat_ms.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(last_beat)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::sync::Mutex;

    use super::super::HealthCheck;
    use super::*;

    fn local(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn at(address: &str) -> HealthSettings {
        HealthSettings { listen: HealthListen::At(address.to_owned()) }
    }

    /// Status line, headers and body of an answer.
    fn ask(address: SocketAddr, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    }

    #[tokio::test]
    async fn probes_are_answered_while_the_runtime_that_serves_is_busy() {
        let state = Arc::new(Mutex::new(HealthCheck::ok("log", "fine")));
        let shown = state.clone();
        let checks: HealthChecks = Arc::new(move || vec![shown.lock().unwrap().clone()]);
        let tasks = Supervisor::new("test");
        let health = start(&at("127.0.0.1:0"), local(1), checks, &tasks).unwrap().expect("it was asked for");
        // This test blocks the only thread of its runtime from here on.
        let ask = |method, path| ask(health.local_addr(), method, path);
        let alive = ask("GET", "/healthz");
        assert!(alive.starts_with("HTTP/1.1 200 ") && alive.contains("\"runtime\""), "{alive}");
        let ready = ask("GET", "/readyz");
        assert!(ready.starts_with("HTTP/1.1 200 ") && ready.contains("application/json"), "{ready}");
        *state.lock().unwrap() = HealthCheck::failed("log", "read-only");
        let unready = ask("GET", "/readyz");
        assert!(unready.starts_with("HTTP/1.1 503 ") && unready.contains("read-only"), "{unready}");
        assert!(ask("GET", "/healthz").starts_with("HTTP/1.1 200 "), "alive all the same");
        let head = ask("HEAD", "/readyz");
        assert!(head.starts_with("HTTP/1.1 503 ") && head.ends_with("\r\n\r\n"), "{head}");
        let unknown = ask("GET", "/");
        assert!(unknown.starts_with("HTTP/1.1 404 ") && unknown.contains("/readyz"), "{unknown}");
        let post = ask("POST", "/healthz").to_lowercase();
        assert!(post.starts_with("http/1.1 405 ") && post.contains("allow: get"), "{post}");
    }

    #[tokio::test]
    async fn silent_connections_keep_no_probe_from_being_answered() {
        let checks: HealthChecks = Arc::new(|| vec![HealthCheck::ok("log", "fine")]);
        let tasks = Supervisor::new("test");
        let health = start(&at("127.0.0.1:0"), local(1), checks, &tasks).unwrap().expect("it was asked for");
        let silent: Vec<TcpStream> =
            (0..100).map(|_| TcpStream::connect(health.local_addr()).unwrap()).collect();
        assert!(ask(health.local_addr(), "GET", "/healthz").starts_with("HTTP/1.1 200 "));
        let mut oldest = &silent[0];
        oldest.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(oldest.read(&mut [0]).unwrap_or(0), 0, "the oldest is closed");
    }

    #[tokio::test]
    async fn a_taken_port_is_an_error_only_where_it_was_asked_for() {
        let checks: HealthChecks = Arc::new(Vec::new);
        let tasks = Supervisor::new("test");
        let taken = TcpListener::bind(local(0)).unwrap();
        let address = taken.local_addr().unwrap();
        assert!(start(&HealthSettings::default(), address, checks.clone(), &tasks).unwrap().is_none());
        let error =
            start(&at(&address.to_string()), local(1), checks.clone(), &tasks).unwrap_err().to_string();
        assert!(error.contains("health.listen") && error.contains(&address.to_string()), "{error}");
        drop(taken);
        let health =
            start(&HealthSettings::default(), address, checks.clone(), &tasks).unwrap().expect("free now");
        assert_eq!(health.local_addr(), address);
        let off = HealthSettings { listen: HealthListen::Off };
        assert!(start(&off, local(0), checks, &tasks).unwrap().is_none());
    }

    #[test]
    fn a_dead_runtime_is_seen() {
        let pulse = Pulse { started: Instant::now(), last_beat_ms: AtomicU64::new(0) };
        std::thread::sleep(Duration::from_millis(20));
        assert!(pulse.age() >= Duration::from_millis(20));
    }
}
