//! The audit trail: what administrators decided by hand, kept with the data that it is about.

use prost::Message;

/// Entries that a broker keeps; of more, the oldest go.
pub const AUDIT_MAX: usize = 10_000;

/// One decision; field numbers are part of the index format and of snapshots.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AuditEntry {
    /// When it was stored, milliseconds since the Unix epoch.
    #[prost(int64, tag = "1")]
    pub at_ms: i64,
    /// Who decided, as they called themselves.
    #[prost(string, tag = "2")]
    pub by: String,
    /// What was to be done, as in `transaction commit`.
    #[prost(string, tag = "3")]
    pub action: String,
    /// To what.
    #[prost(string, tag = "4")]
    pub object: String,
    /// Why.
    #[prost(string, tag = "5")]
    pub reason: String,
    /// What came of it.
    #[prost(string, tag = "6")]
    pub outcome: String,
}

/// An entry and where its record was stored.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct AuditedEntry {
    /// Position of the record in the log.
    #[prost(uint64, tag = "1")]
    pub position: u64,
    /// What was decided.
    #[prost(message, required, tag = "2")]
    pub entry: AuditEntry,
}
