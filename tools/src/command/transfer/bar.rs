//! How far a long job is, where there is a terminal.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal;

/// A progress bar, or nothing.
pub(super) struct Bar(Option<ProgressBar>);

impl Bar {
    pub(super) fn new(name: &str, total: u64) -> Self {
        if !std::io::stderr().is_terminal() {
            return Self(None);
        }
        let style = ProgressStyle::with_template("{prefix} {bar:40} {pos} of {len}, {per_sec}, {eta}");
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(5));
        let bar = bar.with_style(style.expect("a constant that the terminal test has seen"));
        bar.set_prefix(name.to_owned());
        Self(Some(bar))
    }

    pub(super) fn step(&self) {
        self.advance(1);
    }

    pub(super) fn advance(&self, by: u64) {
        if let Some(bar) = &self.0 {
            bar.inc(by);
        }
    }

    pub(super) fn done(self) {
        if let Some(bar) = self.0 {
            bar.finish_and_clear();
        }
    }
}
