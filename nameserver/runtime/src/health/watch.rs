//! A log line for each change of a check: answers to probes are in the log, too.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::{HealthCheck, HealthChecks, HealthState};
use crate::process::ShutdownSignal;

/// How often the checks are looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// The worst state of each check by its name, with the reason.
type Seen = BTreeMap<&'static str, (HealthState, String)>;

/// Logs the changes of checks until `shutdown` is requested. Health need not be served for that.
pub async fn watch(checks: HealthChecks, shutdown: ShutdownSignal) {
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // An ordinary start is over by the second one.
    ticks.tick().await;
    let mut seen = Seen::new();
    loop {
        ticks.tick().await;
        if shutdown.is_requested() {
            return;
        }
        let found = worst(&checks());
        for name in changed(&seen, &found) {
            match found.get(name) {
                Some((HealthState::Failed, reason)) => tracing::warn!(check = name, reason, "not ready"),
                Some((HealthState::Warning, reason)) => {
                    tracing::warn!(check = name, reason, "ready, with a warning")
                }
                Some((HealthState::Ok, reason)) => tracing::info!(check = name, reason, "all is well again"),
                None => tracing::info!(check = name, "no longer checked"),
            }
        }
        seen = found;
    }
}

fn worst(checks: &[HealthCheck]) -> Seen {
    let mut seen = Seen::new();
    for check in checks {
        let known = seen.entry(check.name).or_insert_with(|| (check.state, check.reason.clone()));
        if check.state > known.0 {
            *known = (check.state, check.reason.clone());
        }
    }
    seen
}

/// The checks whose state has changed. Reasons alone may change all the time, as progress does. A check that
/// is well from the beginning is no news.
fn changed<'a>(before: &'a Seen, now: &'a Seen) -> Vec<&'static str> {
    let state = |seen: &Seen, name: &str| seen.get(name).map_or(HealthState::Ok, |(state, _)| *state);
    let mut names: Vec<&'static str> = before.keys().chain(now.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    names.retain(|name| state(before, name) != state(now, name));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(checks: &[HealthCheck]) -> Seen {
        worst(checks)
    }

    #[test]
    fn each_change_of_a_state_is_news_once() {
        let well = seen(&[HealthCheck::ok("disk", "has room"), HealthCheck::ok("log", "takes records")]);
        let full =
            seen(&[HealthCheck::failed("disk", "nearly full"), HealthCheck::ok("log", "takes records")]);
        let fuller =
            seen(&[HealthCheck::failed("disk", "fuller still"), HealthCheck::ok("log", "takes records")]);
        assert!(changed(&Seen::new(), &well).is_empty(), "a good start is no news");
        assert_eq!(changed(&Seen::new(), &full), ["disk"]);
        assert_eq!(changed(&well, &full), ["disk"]);
        assert!(changed(&full, &fuller).is_empty());
        assert_eq!(changed(&fuller, &well), ["disk"]);
        assert_eq!(changed(&full, &seen(&[])), ["disk"]);
    }

    #[test]
    fn the_worst_of_several_checks_of_a_name_counts() {
        let found = seen(&[
            HealthCheck::ok("log", "a"),
            HealthCheck::failed("log", "b"),
            HealthCheck::warning("log", "c"),
        ]);
        assert_eq!(found["log"], (HealthState::Failed, "b".to_owned()));
    }
}
