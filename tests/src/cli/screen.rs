//! The terminal view in a real terminal: tmux captures its screen.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::cluster::CliCluster;

/// How long the screen may take to show something.
const PATIENCE: Duration = Duration::from_secs(15);

/// A tmux server of our own, which ends with this.
struct Terminal {
    socket: String,
}

impl Terminal {
    fn tmux(&self, words: &[&str]) -> Result<String> {
        let output =
            Command::new("tmux").args(["-L", &self.socket]).args(words).output().context("running tmux")?;
        ensure!(output.status.success(), "tmux {words:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn shows(&self, wanted: &[&str]) -> Result<String> {
        let started = Instant::now();
        loop {
            let screen = self.tmux(&["capture-pane", "-p"])?;
            if wanted.iter().all(|text| screen.contains(text)) {
                return Ok(screen);
            }
            ensure!(started.elapsed() < PATIENCE, "the screen does not show {wanted:?}:\n{screen}");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.tmux(&["kill-server"]);
    }
}

pub(super) async fn watch(cluster: &CliCluster) -> Result<String> {
    let terminal = Terminal { socket: format!("kerolox-cli-{}", std::process::id()) };
    let program = cluster.program().display().to_string();
    let line =
        format!("NAMESRV_ADDR={} {program} top --interval 300ms; echo over; sleep 60", cluster.address()?);
    terminal.tmux(&["-f", "/dev/null", "new-session", "-d", "-x", "120", "-y", "30", &line])?;
    let first = terminal.shows(&["kerolox  4 brokers", "1 Brokers", "broker-a/1", "broker-b/2", "q end"])?;
    ensure!(first.lines().count() <= 30, "more than the screen has");
    terminal.tmux(&["send-keys", "2"])?;
    terminal.shows(&["Topic", "Messages", "orders"])?;
    terminal.tmux(&["send-keys", "Tab"])?;
    terminal.shows(&["Group", "Lag", "In flight", "billing"])?;
    terminal.tmux(&["send-keys", "s"])?;
    terminal.shows(&["Topic▾"])?;
    terminal.tmux(&["send-keys", "4"])?;
    terminal.shows(&["Prepared", "Parked"])?;
    terminal.tmux(&["resize-window", "-x", "60", "-y", "12"])?;
    // crossterm may keep a key that comes together with another size until the next one.
    terminal.shows(&["Prepared"])?;
    std::thread::sleep(Duration::from_millis(500));
    terminal.tmux(&["send-keys", "1"])?;
    terminal.shows(&["broker-a/1"])?;
    terminal.tmux(&["send-keys", "q"])?;
    let last = terminal.shows(&["over"])?;
    ensure!(!last.contains("panicked"), "{last}");
    Ok("four views, their order, a small window, and its end".to_owned())
}
