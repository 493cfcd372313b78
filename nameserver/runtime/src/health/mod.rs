//! Health over HTTP, on a port and a thread of its own, so that it answers while the data plane is busy.
//!
//! `GET /healthz` says whether the process works at all: a failure there is a reason to restart it. `GET /readyz` says
//! whether the server serves, check by check: a failure there is a reason to send clients elsewhere, or to wait. A
//! server describes itself as a list of [`HealthCheck`]s; [`report`] decides what a probe is told.
//!
//! # Health
//!
//! A broker's checks are decided in `core/src/health`, from what `broker/src/health.rs` saw.

mod guests;
mod server;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use kerolox_model::health::{HealthCheck, HealthState};
pub use server::{HealthError, HealthServer, start};
pub use watch::watch;

/// Port of brokers, where none is configured.
pub const BROKER_PORT: u16 = 5557;
/// Port of nameservers, where none is configured.
pub const NAMESERVER_PORT: u16 = 5558;

/// After this long without a sign of life from the runtime, the process counts as stuck.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// Health checks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HealthSettings {
    /// Where to answer: `auto`, `off`, or `host:port`; port 0 takes any free one.
    pub listen: HealthListen,
}

/// Where health checks are answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum HealthListen {
    /// On the usual port of the host that the server listens on; nowhere when that port is taken, as it is for a second
    /// server on one machine.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// On this `host:port`, or the server does not start.
    At(String),
}

impl From<String> for HealthListen {
    fn from(text: String) -> Self {
        match text.trim() {
            "auto" => Self::Auto,
            "off" => Self::Off,
            _ => Self::At(text),
        }
    }
}

impl fmt::Display for HealthListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Off => "off",
            Self::At(address) => address,
        })
    }
}

impl Serialize for HealthListen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HealthListen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

/// A server's report on its present state. Called for every probe, so it must not block: no lock that is held
/// while waiting for a disk or the network.
pub type HealthChecks = Arc<dyn Fn() -> Vec<HealthCheck> + Send + Sync>;

/// Answer to a probe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthReport {
    /// Status of the HTTP answer: 200 or 503.
    pub status: u16,
    /// JSON: the worst state, and each check.
    pub body: String,
}

/// Decides the answer to a probe: 503 if any check failed, 200 otherwise; warnings are shown and do no harm.
pub fn report(checks: &[HealthCheck]) -> HealthReport {
    #[derive(Serialize)]
    struct Body<'a> {
        status: HealthState,
        checks: &'a [HealthCheck],
    }
    let has = |state| checks.iter().any(|check| check.state == state);
    let worst = [HealthState::Failed, HealthState::Warning]
        .into_iter()
        .find(|state| has(*state))
        .unwrap_or(HealthState::Ok);
    let body = serde_json::to_string(&Body { status: worst, checks });
    HealthReport {
        status: if worst == HealthState::Failed { 503 } else { 200 },
        body: body.expect("texts and lists are always JSON") + "\n",
    }
}

/// Whether the process works, from the time since its runtime last ran the task that shows it.
fn liveness(since_beat: Duration) -> HealthCheck {
    if since_beat < STUCK_AFTER {
        return HealthCheck::ok("runtime", "tasks run");
    }
    let seconds = since_beat.as_secs();
    HealthCheck::failed(
        "runtime",
        format!("no task has run for {seconds} s: the process is stuck, restart it"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_is_enough_and_warnings_are_none() {
        let (ok, warning) =
            (HealthCheck::ok("index", "up to date"), HealthCheck::warning("log", "damaged range"));
        let failed = HealthCheck::failed("log", "read-only: \"disk\" on fire");
        assert_eq!(
            report(&[]),
            HealthReport { status: 200, body: "{\"status\":\"ok\",\"checks\":[]}\n".into() }
        );
        assert_eq!(report(&[ok.clone(), warning.clone()]).status, 200);
        let report = report(&[ok, failed, warning]);
        assert_eq!(report.status, 503);
        let body: serde_json::Value = serde_json::from_str(&report.body).unwrap();
        let expected = serde_json::json!({
            "status": "failed",
            "checks": [
                {"name": "index", "state": "ok", "reason": "up to date"},
                {"name": "log", "state": "failed", "reason": "read-only: \"disk\" on fire"},
                {"name": "log", "state": "warning", "reason": "damaged range"},
            ],
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn a_runtime_that_runs_no_tasks_is_not_alive() {
        assert_eq!(liveness(Duration::from_millis(9_999)).state, HealthState::Ok);
        let stuck = liveness(Duration::from_secs(10));
        assert!(stuck.state == HealthState::Failed && stuck.reason.contains("10 s"), "{stuck:?}");
    }

    #[test]
    fn where_to_listen_reads_back_as_it_was_written() {
        let kinds = [HealthListen::Auto, HealthListen::Off, HealthListen::At("[::1]:0".into())];
        for listen in kinds {
            let settings = HealthSettings { listen };
            let text = toml::to_string(&settings).unwrap();
            assert_eq!(toml::from_str::<HealthSettings>(&text).unwrap(), settings, "{text}");
        }
    }
}
