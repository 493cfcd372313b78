//! One message that was handed out and is not done: who holds it, or when its next attempt may begin.

/// Number of one delivery or extension. It grows across restarts, so a number is never issued twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(u64);

impl LeaseId {
    /// A lease by its number, as a receipt handle carries it.
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }

    /// The lease after this one.
    #[must_use]
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Number of one receive call within a [`super::DeliveryEngine`]. A repeated receive has a number of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct ReceiveId(u64);

impl ReceiveId {
    #[must_use]
    pub(super) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// How long a message may stay with a living client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeaseRenewal {
    /// The lease is not extended beyond this time, milliseconds since the Unix epoch.
    pub(super) until_ms: i64,
    /// Length of each extension in milliseconds.
    pub(super) every_ms: u64,
}

/// A delivery that a consumer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ActiveLease {
    /// Only a handle with this number may act on the message.
    pub(super) id: LeaseId,
    /// Client id of the holder.
    pub(super) client: String,
    /// The receive that brought it to its holder last.
    pub(super) receive: ReceiveId,
    /// Present while the lease is extended as long as its holder lives.
    pub(super) renewal: Option<LeaseRenewal>,
}

/// Why a message cannot be handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FlightState {
    /// Out with a consumer.
    Leased(ActiveLease),
    /// Put off by its consumer, whose new handle counts until the next attempt begins.
    Postponed {
        /// The lease of that handle.
        id: LeaseId,
        /// Client id of that consumer.
        client: String,
    },
    /// Held by no consumer; the next attempt begins when the message is visible.
    Delayed,
    /// Out of attempts. The message stays, with its message group, until an administrator decides.
    Blocked,
}

/// An undone message that a consumer had, or may have had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Flight {
    /// Deliveries so far.
    pub(super) attempts: u32,
    /// When it becomes visible again, milliseconds since the Unix epoch.
    pub(super) visible_ms: i64,
    /// Whether its `attempts` are in the log, or on their way there.
    pub(super) is_logged: bool,
    /// Why the message cannot be handed out.
    pub(super) state: FlightState,
}

impl Flight {
    /// A message without a holder that is visible from `visible_ms` on, and whose attempts are logged.
    pub(super) fn delayed(attempts: u32, visible_ms: i64) -> Self {
        Self { attempts, visible_ms, is_logged: true, state: FlightState::Delayed }
    }

    /// The lease whose handle may act on the message.
    pub(super) fn lease(&self) -> Option<LeaseId> {
        match &self.state {
            FlightState::Leased(lease) => Some(lease.id),
            FlightState::Postponed { id, .. } => Some(*id),
            FlightState::Delayed | FlightState::Blocked => None,
        }
    }

    /// Client id of the consumer that holds the message or put it off; empty without one.
    pub(super) fn client(&self) -> &str {
        match &self.state {
            FlightState::Leased(ActiveLease { client, .. }) | FlightState::Postponed { client, .. } => client,
            FlightState::Delayed | FlightState::Blocked => "",
        }
    }

    /// The delivery that is out with a consumer.
    pub(super) fn active_lease(&self) -> Option<&ActiveLease> {
        match &self.state {
            FlightState::Leased(lease) => Some(lease),
            _ => None,
        }
    }

    pub(super) fn renewal(&self) -> Option<LeaseRenewal> {
        self.active_lease().and_then(|lease| lease.renewal)
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.state == FlightState::Blocked
    }

    /// Whether no other consumer may have the message at this time. A lease that is renewed ends when a sweep says so.
    pub(super) fn is_invisible(&self, now_ms: i64) -> bool {
        self.visible_ms > now_ms || self.renewal().is_some()
    }

    /// Whether a consumer had the message and may have acted on it; false for one that came back from a broken call.
    pub(super) fn reached_a_consumer(&self) -> bool {
        self.lease().is_some() || self.attempts > 0
    }

    /// Becomes visible at a time, without renewal.
    #[must_use]
    pub(super) fn without_renewal(mut self, visible_ms: i64) -> Self {
        self.visible_ms = visible_ms;
        if let FlightState::Leased(lease) = &mut self.state {
            lease.renewal = None;
        }
        self
    }
}
