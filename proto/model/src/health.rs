//! What a server says of its parts: the core decides it, the process tells it.

use serde::Serialize;

/// How one part of a server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HealthState {
    /// As it should be.
    Ok,
    /// It needs attention; the server serves.
    Warning,
    /// The server does not serve, or not as it should.
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// The subject of the check, in one word.
    pub name: &'static str,
    /// Its state.
    pub state: HealthState,
    /// The reason for the state in plain words, with the remedy.
    pub reason: String,
}

impl HealthCheck {
    /// All is well.
    pub fn ok(name: &'static str, reason: impl Into<String>) -> Self {
        Self { name, state: HealthState::Ok, reason: reason.into() }
    }

    /// It needs attention.
    pub fn warning(name: &'static str, reason: impl Into<String>) -> Self {
        Self { name, state: HealthState::Warning, reason: reason.into() }
    }

    /// It does not work.
    pub fn failed(name: &'static str, reason: impl Into<String>) -> Self {
        Self { name, state: HealthState::Failed, reason: reason.into() }
    }
}
