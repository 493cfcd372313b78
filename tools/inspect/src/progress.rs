//! How far a long read is: a bar on a terminal, lines elsewhere when asked for.

use crate::folder::Source;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use kerolox_log::inspect::LogInspector;
use kerolox_report::output::print_error;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

const LINE_INTERVAL: Duration = Duration::from_secs(1);

pub(crate) struct Progress {
    start: u64,
    total: u64,
    shown: Shown,
}

enum Shown {
    Nothing,
    Bar(ProgressBar),
    Lines { last: Instant },
}

impl Progress {
    /// Progress through the log up to its end, as far as that is known.
    pub(crate) fn of(log: &LogInspector, source: &Source) -> Self {
        let start = log.segments().next().map_or(0, |segment| segment.base);
        let last = log.segments().last().map_or(0, |segment| segment.base + segment.len);
        // The last segment is longer than what was written; the checkpoint is the better guess.
        let total = log.durable().filter(|durable| *durable > start).unwrap_or(last) - start;
        let shown = if std::io::stderr().is_terminal() {
            let style = ProgressStyle::with_template(
                "{bar:40} {bytes} of {total_bytes}, {binary_bytes_per_sec}, {eta}",
            );
            let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
            Shown::Bar(bar.with_style(style.expect("a constant that tests have seen")))
        } else if source.progress {
            Shown::Lines { last: Instant::now() }
        } else {
            Shown::Nothing
        };
        let progress = Self { start, total, shown };
        progress.line(start);
        progress
    }

    /// Everything before `position` was read.
    pub(crate) fn at(&mut self, position: u64) {
        match &mut self.shown {
            Shown::Nothing => {}
            Shown::Bar(bar) => bar.set_position((position - self.start).min(self.total)),
            Shown::Lines { last } if last.elapsed() >= LINE_INTERVAL => {
                *last = Instant::now();
                self.line(position);
            }
            Shown::Lines { .. } => {}
        }
    }

    /// The end was reached.
    pub(crate) fn done(self) {
        self.line(self.start + self.total);
        if let Shown::Bar(bar) = self.shown {
            bar.finish_and_clear();
        }
    }

    fn line(&self, position: u64) {
        if matches!(self.shown, Shown::Lines { .. }) {
            print_error(&progress_line(position - self.start, self.total));
        }
    }
}

fn progress_line(read: u64, total: u64) -> String {
    let read = read.min(total);
    let percent = (read * 100).checked_div(total).unwrap_or(100);
    format!("read {read} of {total} bytes of the log ({percent}%)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_never_exceed_the_whole() {
        assert_eq!(progress_line(50, 200), "read 50 of 200 bytes of the log (25%)");
        assert_eq!(progress_line(300, 200), "read 200 of 200 bytes of the log (100%)");
        assert_eq!(progress_line(0, 0), "read 0 of 0 bytes of the log (100%)");
    }
}
