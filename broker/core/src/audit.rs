//! The audit trail: administrators' manual decisions, kept with the data that they concern.

use prost::Message;

/// Entries that a broker keeps; beyond that, the oldest go.
pub const AUDIT_MAX: usize = 10_000;

/// One decision; field numbers are part of the index format and of snapshots.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AuditEntry {
    /// When it was stored, milliseconds since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub at_ms: i64,
    /// Name that the administrator gave.
    #[prost(string, tag = "2")]
    pub by: String,
    /// The action, as in `transaction commit`.
    #[prost(string, tag = "3")]
    pub action: String,
    /// The object of the action.
    #[prost(string, tag = "4")]
    pub object: String,
    /// The reason given.
    #[prost(string, tag = "5")]
    pub reason: String,
    /// The outcome.
    #[prost(string, tag = "6")]
    pub outcome: String,
}

/// An entry and the position of its record.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AuditedEntry {
    /// Position of the record in the log.
    #[prost(uint64, tag = "1")]
    pub position: u64,
    /// The decision.
    #[prost(message, required, tag = "2")]
    pub entry: AuditEntry,
}
