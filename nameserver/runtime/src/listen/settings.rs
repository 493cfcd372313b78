//! How many connections there may be, and how long each may take to become useful.

use rustix::process::{Resource, getrlimit};
use serde::{Deserialize, Serialize};

use crate::config::TimeSpan;

/// Open files that are left to data, logs, and connections to other servers, at the least.
const FILES_MIN: u64 = 256;
/// Most connections where nothing is configured, however many files may be open.
const CONNECTIONS_MAX: u64 = 65_536;

/// Connections that others make to this server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct ConnectionSettings {
    /// Most connections at a time: of clients, other servers and tools. Those that have no call under way go when others need the
    /// place, the oldest first; further ones are closed at once. 0 means as many as the limit of open files allows (`ulimit -n`) when
    /// a quarter of it, 256 at the least, is left to data; 65,536 at the most.
    pub max: usize,
    /// Most connections from one address, or from one /64 network of IPv6; 0 means half of `max`. A proxy in front of all clients
    /// is one address.
    pub max_per_address: usize,
    /// A connection that has not finished its greeting (TLS handshake, preface and first settings of HTTP/2) after this time is
    /// closed.
    pub greeting: TimeSpan,
    /// A connection that has made no call after this time is closed. One that has made a call may be idle for ever, as long as
    /// its peer answers the pings that it gets every minute.
    pub first_call: TimeSpan,
    /// A call whose request has not come completely after this time is ended.
    pub request: TimeSpan,
    /// A connection that takes none of the answers that wait for it is closed after this time.
    pub answer: TimeSpan,
}

impl Default for ConnectionSettings {
    fn default() -> Self {
        Self {
            max: 0,
            max_per_address: 0,
            greeting: TimeSpan::from_secs(10),
            first_call: TimeSpan::from_secs(60),
            request: TimeSpan::from_secs(60),
            answer: TimeSpan::from_secs(60),
        }
    }
}

/// How many connections are let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConnectionLimits {
    /// In all.
    pub(crate) all: usize,
    /// From one address.
    pub(crate) of_address: usize,
}

impl ConnectionSettings {
    /// The limits of this process.
    pub(crate) fn limits(&self) -> ConnectionLimits {
        self.limits_with(getrlimit(Resource::Nofile).current)
    }

    /// The limits of a process that may have so many files open; `None` is no limit.
    fn limits_with(&self, files: Option<u64>) -> ConnectionLimits {
        let allowed = files.map_or(CONNECTIONS_MAX, |files| {
            files.saturating_sub((files / 4).max(FILES_MIN)).clamp(FILES_MIN / 4, CONNECTIONS_MAX)
        });
        let all = match self.max {
            0 => usize::try_from(allowed).unwrap_or(usize::MAX),
            max => max,
        };
        let of_address = match self.max_per_address {
            0 => all.div_ceil(2),
            max => max.min(all),
        };
        ConnectionLimits { all, of_address }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_left_to_data() {
        let limits = |files| ConnectionSettings::default().limits_with(files);
        assert_eq!(limits(Some(1024)), ConnectionLimits { all: 768, of_address: 384 });
        assert_eq!(limits(Some(20_000)).all, 15_000);
        assert_eq!(limits(Some(1 << 30)).all, 65_536);
        assert_eq!(limits(None).all, 65_536);
        assert_eq!(limits(Some(100)).all, 64, "some have to be let in");
        let set = ConnectionSettings { max: 10, max_per_address: 90, ..ConnectionSettings::default() };
        assert_eq!(set.limits_with(Some(64)), ConnectionLimits { all: 10, of_address: 10 });
    }
}
