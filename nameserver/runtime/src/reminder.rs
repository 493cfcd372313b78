//! Lines for the log that are said when they change, and again ever more rarely while they do not.

use std::time::{Duration, Instant};

/// Shortest time between two lines.
const SHORTEST: Duration = Duration::from_secs(1);
/// After that an unchanged line is said again, then after twice the time, and so on.
const FIRST: Duration = Duration::from_secs(10);
/// Longest time between two repetitions.
const LONGEST: Duration = Duration::from_secs(600);

/// When a line that stays true was said, and when it is to be said again.
#[derive(Debug, Default)]
pub struct LogReminder {
    said: Option<Said>,
}

#[derive(Debug)]
struct Said {
    line: String,
    at: Instant,
    pause: Duration,
}

impl LogReminder {
    /// Whether `line`, which is true at the moment, is to be said at `now`; it counts as said then.
    pub fn is_due(&mut self, line: &str, now: Instant) -> bool {
        let pause = match &self.said {
            None => FIRST,
            Some(said) => {
                let since = now.saturating_duration_since(said.at);
                let is_changed = said.line != line;
                if since < if is_changed { SHORTEST } else { said.pause } {
                    return false;
                }
                if is_changed { FIRST } else { (said.pause * 2).min(LONGEST) }
            }
        };
        self.said = Some(Said { line: line.to_owned(), at: now, pause });
        true
    }

    /// The line is true no more. True if it was said: then its end is worth a line as well.
    pub fn end(&mut self) -> bool {
        self.said.take().is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_said_when_it_changes_and_ever_more_rarely_when_it_does_not() {
        let (mut reminder, begin) = (LogReminder::default(), Instant::now());
        let lines = |reminder: &mut LogReminder, line: fn(u64) -> String, from: u64, until: u64| {
            let times = (from * 10..until * 10).map(|tenth| begin + Duration::from_millis(tenth * 100));
            times.enumerate().filter(|(tenth, now)| reminder.is_due(&line(*tenth as u64), *now)).count()
        };
        assert_eq!(lines(&mut reminder, |_| "waits".into(), 0, 3600), 11);
        assert_eq!(lines(&mut reminder, |_| "waits for another".into(), 3600, 3605), 1);
        assert_eq!(lines(&mut reminder, |tenth| tenth.to_string(), 3605, 3615), 10, "once a second");
        assert!(reminder.end() && !reminder.end());
        assert_eq!(lines(&mut reminder, |_| "waits".into(), 3615, 3616), 1);
    }
}
