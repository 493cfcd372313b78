//! `top`: what goes on, live.

mod screen;
mod seen;

use crate::target::Common;
use clap::Args;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, OutputFormat};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use screen::{Screen, Sorting, Tab};
use seen::Seen;
use serde_json::json;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often a key is looked for.
const KEYS: Duration = Duration::from_millis(50);

/// Watch brokers, topics, groups and transactions in the terminal
///
/// Keys: Tab or 1 to 4 change the view, s changes the order, arrows scroll, q ends. Without a terminal, or with --once, it
/// prints all views once.
#[derive(Debug, Args)]
pub(crate) struct Top {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How often it looks
    #[arg(long, default_value = "2s", value_name = "DURATION")]
    interval: kerolox_model::units::TimeSpan,
    /// Look twice, print, and end
    #[arg(long)]
    once: bool,
}

impl Top {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let interval = self.interval.duration().max(Duration::from_millis(200));
        let first = Seen::look(&self.common).await?;
        if self.once || self.common.output != OutputFormat::Table || !std::io::stdout().is_terminal() {
            tokio::time::sleep(interval).await;
            let second = Seen::look(&self.common).await?.since(&first);
            let tabs =
                Tab::ALL.map(|tab| format!("{}\n{}", tab.title(), tab.text(&second, Sorting::default())));
            return Ok(CommandReport::ok(tabs.join("\n\n"), second.json()));
        }
        let mut terminal = ratatui::init();
        let watched = self.watch(&mut terminal, interval, first).await;
        ratatui::restore();
        watched.map(|()| CommandReport::ok(String::new(), json!(null)))
    }

    async fn watch(
        &self,
        terminal: &mut ratatui::DefaultTerminal,
        interval: Duration,
        first: Seen,
    ) -> Result<()> {
        let mut screen = Screen::new(first);
        let mut looked = Instant::now();
        let broken =
            |error: std::io::Error| CommandFailure::failed(format!("the terminal cannot be used: {error}"));
        loop {
            terminal.draw(|frame| screen.draw(frame)).map_err(broken)?;
            // Before looking, which may take a while.
            if event::poll(Duration::ZERO).map_err(broken)? {
                let Event::Key(key) = event::read().map_err(broken)? else { continue };
                let is_end = matches!(key.code, KeyCode::Char('q') | KeyCode::Esc)
                    || key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
                if key.kind == KeyEventKind::Press && is_end {
                    return Ok(());
                }
                screen.press(key.code);
                continue;
            }
            if looked.elapsed() >= interval {
                screen.take(Seen::look(&self.common).await);
                looked = Instant::now();
                continue;
            }
            tokio::time::sleep(KEYS).await;
        }
    }
}
