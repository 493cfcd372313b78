//! When and how often half messages are checked back.

use std::collections::BTreeMap;

use kerolox_model::units::TimeSpan;

use super::HalfMessage;

/// Attribute of a topic: the time from storing a half message to its first check, as in `10s`.
pub const FIRST_CHECK_ATTRIBUTE: &str = "transaction.first-check";
/// Attribute of a topic: the time between checks.
pub const CHECK_INTERVAL_ATTRIBUTE: &str = "transaction.check-interval";
/// Attribute of a topic: how many checks reach a producer before a half message is parked.
pub const CHECK_MAX_ATTRIBUTE: &str = "transaction.check-max";
/// Attribute of a topic: the age at which an undecided half message is parked, however few checks reached a producer.
pub const AGE_MAX_ATTRIBUTE: &str = "transaction.max-age";

/// Attribute of a topic: the URL that is asked about half messages when no producer can be, as in `https://host/path`.
pub const WEBHOOK_ATTRIBUTE: &str = "transaction.webhook";

/// When and how often half messages are checked back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckPolicy {
    /// From store time to the first check, unless the message asks for more; milliseconds.
    pub first_ms: u64,
    /// Between checks, milliseconds.
    pub interval_ms: u64,
    /// Checks that reach a producer before the half message is parked.
    pub max: u32,
    /// Milliseconds from store time to the moment at which an undecided half message is parked in any case.
    pub age_max_ms: u64,
}

/// The action for a half message whose check is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DueCheck {
    /// Ask a producer.
    Ask,
    /// It was checked often enough, or is too old.
    Park,
}

impl CheckPolicy {
    /// The policy for a topic with these attributes; `self` provides the defaults.
    #[must_use]
    pub fn of_topic(self, attributes: &BTreeMap<String, String>) -> Self {
        let span = |name: &str| {
            let text = attributes.get(name)?;
            text.parse::<TimeSpan>().ok().map(TimeSpan::as_millis)
        };
        let max = attributes.get(CHECK_MAX_ATTRIBUTE).and_then(|text| text.parse().ok());
        Self {
            first_ms: span(FIRST_CHECK_ATTRIBUTE).unwrap_or(self.first_ms),
            interval_ms: span(CHECK_INTERVAL_ATTRIBUTE).unwrap_or(self.interval_ms),
            max: max.unwrap_or(self.max),
            age_max_ms: span(AGE_MAX_ATTRIBUTE).unwrap_or(self.age_max_ms),
        }
    }

    /// Milliseconds from store time to the first check of a message that asks for `wanted_ms` (0 = no request). The
    /// larger time counts, as in RocketMQ: no producer is asked before the broker's own delay has passed.
    pub fn first_check_after_ms(&self, wanted_ms: u64) -> u64 {
        wanted_ms.max(self.first_ms)
    }

    /// The values to log after a producer was asked at `now_ms`: the number of checks so far, and when the next is due.
    /// Only checks that reached a producer count: while none is connected, time passes without using up the budget.
    pub fn after_check(&self, half: &HalfMessage, now_ms: i64) -> (u32, i64) {
        // The answer to the last check gets as long as any other before the half message is parked.
        (half.checks.saturating_add(1), now_ms.saturating_add_unsigned(self.interval_ms))
    }

    /// Decides about a half message whose `next_check_ms` has come.
    pub fn when_due(&self, half: &HalfMessage, now_ms: i64) -> DueCheck {
        let is_old = half.stored_ms.saturating_add_unsigned(self.age_max_ms) <= now_ms;
        if half.checks >= self.max || is_old { DueCheck::Park } else { DueCheck::Ask }
    }
}

/// Checks an attribute of a topic, if it is one of these.
///
/// # Errors
/// A sentence that describes the error and the expected form.
pub fn check_attribute(name: &str, value: &str) -> Result<(), String> {
    match name {
        FIRST_CHECK_ATTRIBUTE => span(name, value).map(drop),
        CHECK_INTERVAL_ATTRIBUTE | AGE_MAX_ATTRIBUTE => match span(name, value)? {
            0 => Err(format!("{name} is 0; give a time, as in 30s, or remove it with -{name}")),
            _ => Ok(()),
        },
        CHECK_MAX_ATTRIBUTE => match value.parse::<u32>() {
            Ok(_) => Ok(()),
            Err(_) => {
                Err(format!("{name} {value:?} is not a number of checks; give a whole number, as in 15"))
            }
        },
        WEBHOOK_ATTRIBUTE if !is_url(value) => Err(format!(
            "{name} {value:?} is not a URL that can be asked; it begins with http:// or https:// and names a host"
        )),
        _ => Ok(()),
    }
}

fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_plain = text.chars().all(|letter| letter.is_ascii_graphic());
    is_plain && rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':', '?', '#']))
}

fn span(name: &str, value: &str) -> Result<u64, String> {
    value.parse::<TimeSpan>().map(TimeSpan::as_millis).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::held::HeldMessage;

    const POLICY: CheckPolicy =
        CheckPolicy { first_ms: 6_000, interval_ms: 30_000, max: 3, age_max_ms: 1_000_000 };

    #[test]
    fn a_half_is_asked_about_max_times_and_then_parked() {
        let mut half = HalfMessage::default();
        let mut asked = 0;
        let mut now = 6_000;
        while POLICY.when_due(&half, now) == DueCheck::Ask {
            asked += 1;
            let (checks, next) = POLICY.after_check(&half, now);
            half.checks = checks;
            now = next;
        }
        assert_eq!((asked, now), (3, 6_000 + 3 * 30_000));
    }

    #[test]
    fn an_old_half_is_parked_however_few_checks_it_had() {
        let half = HalfMessage {
            message: HeldMessage { stored_ms: 500, ..HeldMessage::default() },
            ..HalfMessage::default()
        };
        assert_eq!(POLICY.when_due(&half, 1_000_499), DueCheck::Ask);
        assert_eq!(POLICY.when_due(&half, 1_000_500), DueCheck::Park);
    }

    #[test]
    fn a_message_may_ask_for_a_later_first_check_only() {
        assert_eq!(POLICY.first_check_after_ms(0), 6_000);
        assert_eq!(POLICY.first_check_after_ms(60_000), 60_000);
        assert_eq!(POLICY.first_check_after_ms(1_000), 6_000);
    }

    #[test]
    fn a_topic_may_have_a_policy_of_its_own() {
        let attributes = [(CHECK_MAX_ATTRIBUTE, "5"), (AGE_MAX_ATTRIBUTE, "2s")];
        let attributes =
            attributes.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let expected = CheckPolicy { max: 5, age_max_ms: 2_000, ..POLICY };
        assert_eq!(POLICY.of_topic(&attributes), expected);
    }

    #[test]
    fn senseless_attributes_are_refused() {
        for (name, value) in [
            (FIRST_CHECK_ATTRIBUTE, "soon"),
            (CHECK_INTERVAL_ATTRIBUTE, "0s"),
            (AGE_MAX_ATTRIBUTE, "0ms"),
            (CHECK_MAX_ATTRIBUTE, "-1"),
            (WEBHOOK_ATTRIBUTE, "host/path"),
            (WEBHOOK_ATTRIBUTE, "ftp://host"),
            (WEBHOOK_ATTRIBUTE, "https:///path"),
            (WEBHOOK_ATTRIBUTE, "https://a b"),
        ] {
            assert!(check_attribute(name, value).is_err_and(|text| text.contains(name)), "{name} {value}");
        }
        assert_eq!(check_attribute(FIRST_CHECK_ATTRIBUTE, "0s"), Ok(()));
        assert_eq!(check_attribute(WEBHOOK_ATTRIBUTE, "http://127.0.0.1:80/checks?x=1"), Ok(()));
        assert_eq!(check_attribute("something.else", "x"), Ok(()));
    }
}
