//! The guarded wall clock: when it leaps ahead of the monotonic clock, messages that are due only because of the leap
//! are held back for a grace period.
//!
//! Delivery times are wall-clock times. A clock that is set an hour ahead by mistake would deliver in one moment everything
//! that was scheduled for that hour, and no delivery can be undone. So a leap is accepted only after a grace period; until
//! then time advances at the pace of the monotonic clock. A clock that is set back only delays.

/// When a step of the clock counts as a leap, and how long the leap is doubted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockPolicy {
    /// A step ahead of the monotonic clock by more than this is a leap, in milliseconds.
    pub leap_ms: i64,
    /// A leap is accepted when it lasts this long, in milliseconds.
    pub grace_ms: u64,
}

/// An event that the caller should report to the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockAlarm {
    /// The wall clock leapt ahead by this many milliseconds; the leap is not accepted yet.
    Leapt(i64),
    /// The leap lasted for the grace period and is accepted: this many milliseconds.
    Believed(i64),
    /// The wall clock went back to its expected time before the leap was accepted.
    Returned,
    /// The wall clock was set back by this many milliseconds: scheduled messages are delivered later.
    SetBack(i64),
}

/// The result of one reading of both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClockReading {
    /// The time to use, milliseconds since the Unix epoch; never ahead of the wall clock.
    pub now_ms: i64,
    /// Present when the state of the clock changed.
    pub alarm: Option<ClockAlarm>,
}

/// Watches the wall clock.
#[derive(Debug, Clone)]
pub struct ClockGuard {
    policy: ClockPolicy,
    /// Wall and monotonic time of the last reading that was accepted.
    believed: Option<(i64, u64)>,
    /// Monotonic time at which the leap was noticed, and how far it goes.
    doubted: Option<(u64, i64)>,
}

impl ClockGuard {
    /// A guard that accepts the first reading.
    pub fn new(policy: ClockPolicy) -> Self {
        Self { policy, believed: None, doubted: None }
    }

    /// Reads both clocks: milliseconds since the Unix epoch, and milliseconds that never run backwards.
    pub fn look(&mut self, wall_ms: i64, monotonic_ms: u64) -> ClockReading {
        let Some((wall_before, monotonic_before)) = self.believed else {
            return self.believe(wall_ms, monotonic_ms, None);
        };
        let passed = monotonic_ms.saturating_sub(monotonic_before);
        let expected = wall_before.saturating_add_unsigned(passed);
        let ahead = wall_ms.saturating_sub(expected);
        if ahead <= self.policy.leap_ms {
            let returned = self.doubted.take().map(|_| ClockAlarm::Returned);
            let set_back = (ahead < -self.policy.leap_ms).then_some(ClockAlarm::SetBack(-ahead));
            return self.believe(wall_ms, monotonic_ms, set_back.or(returned));
        }
        let since = self.doubted.map_or(monotonic_ms, |(since, _)| since);
        let alarm = self.doubted.is_none().then_some(ClockAlarm::Leapt(ahead));
        if alarm.is_none() && monotonic_ms.saturating_sub(since) >= self.policy.grace_ms {
            self.doubted = None;
            return self.believe(wall_ms, monotonic_ms, Some(ClockAlarm::Believed(ahead)));
        }
        self.doubted = Some((since, ahead));
        assert!(
            expected <= wall_ms && since <= monotonic_ms,
            "a doubted leap is one ahead, and began before"
        );
        ClockReading { now_ms: expected, alarm }
    }

    /// How far ahead the wall clock leapt, in milliseconds, while the leap is doubted.
    pub fn doubted_ms(&self) -> Option<i64> {
        self.doubted.map(|(_, ahead)| ahead)
    }

    fn believe(&mut self, wall_ms: i64, monotonic_ms: u64, alarm: Option<ClockAlarm>) -> ClockReading {
        self.believed = Some((wall_ms, monotonic_ms));
        ClockReading { now_ms: wall_ms, alarm }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: ClockPolicy = ClockPolicy { leap_ms: 5_000, grace_ms: 10_000 };
    const START: i64 = 1_700_000_000_000;
    const HOUR: i64 = 3_600_000;

    fn guard() -> ClockGuard {
        let mut guard = ClockGuard::new(POLICY);
        assert_eq!(guard.look(START, 0), ClockReading { now_ms: START, alarm: None });
        guard
    }

    #[test]
    fn a_leap_is_doubted_for_the_grace_and_then_believed() {
        let mut guard = guard();
        let leapt = guard.look(START + 1_000 + HOUR, 1_000);
        assert_eq!(leapt, ClockReading { now_ms: START + 1_000, alarm: Some(ClockAlarm::Leapt(HOUR)) });
        assert_eq!(guard.doubted_ms(), Some(HOUR));
        // Meanwhile time advances at the pace of the monotonic clock.
        let during = guard.look(START + 10_999 + HOUR, 10_999);
        assert_eq!(during, ClockReading { now_ms: START + 10_999, alarm: None });
        let after = guard.look(START + 11_000 + HOUR, 11_000);
        assert_eq!(
            after,
            ClockReading { now_ms: START + 11_000 + HOUR, alarm: Some(ClockAlarm::Believed(HOUR)) }
        );
        assert_eq!(guard.doubted_ms(), None);
        assert_eq!(guard.look(START + 12_000 + HOUR, 12_000).alarm, None);
    }

    #[test]
    fn a_leap_that_is_taken_back_never_counted() {
        let mut guard = guard();
        guard.look(START + HOUR, 10);
        let back = guard.look(START + 2_000, 2_000);
        assert_eq!(back, ClockReading { now_ms: START + 2_000, alarm: Some(ClockAlarm::Returned) });
        // The next leap has a grace of its own.
        assert_eq!(guard.look(START + HOUR, 11_000).now_ms, START + 11_000);
    }

    #[test]
    fn a_small_step_and_a_long_sleep_are_no_leaps() {
        let mut guard = guard();
        assert_eq!(guard.look(START + 5_000, 0), ClockReading { now_ms: START + 5_000, alarm: None });
        let day = 24 * HOUR;
        let later = guard.look(START + 5_000 + day, day.unsigned_abs());
        assert_eq!(later, ClockReading { now_ms: START + 5_000 + day, alarm: None });
    }

    #[test]
    fn a_clock_that_is_set_back_delays() {
        let mut guard = guard();
        let back = guard.look(START - HOUR, 1_000);
        assert_eq!(
            back,
            ClockReading { now_ms: START - HOUR, alarm: Some(ClockAlarm::SetBack(HOUR + 1_000)) }
        );
        assert_eq!(
            guard.look(START - HOUR + 9, 1_009),
            ClockReading { now_ms: START - HOUR + 9, alarm: None }
        );
    }

    proptest! {
        /// Whatever the wall clock does, the guarded time is never ahead of it, and never runs ahead of the monotonic
        /// clock by more than the leap threshold, unless a leap lasted for the grace period.
        #[test]
        fn time_never_leaps_by_itself(steps in prop::collection::vec((0u64..20_000, -20_000i64..20_000), 1..60)) {
            let mut guard = guard();
            let (mut wall, mut monotonic, mut last) = (START, 0, START);
            for (passed, jump) in steps {
                monotonic += passed;
                wall = wall.saturating_add_unsigned(passed).saturating_add(jump);
                let look = guard.look(wall, monotonic);
                prop_assert!(look.now_ms <= wall);
                if !matches!(look.alarm, Some(ClockAlarm::Believed(_))) {
                    prop_assert!(look.now_ms - last <= i64::try_from(passed).expect("small") + POLICY.leap_ms);
                }
                last = look.now_ms;
            }
        }
    }
}
