//! Results of a race, as they are kept.
//!
//! # Format
//! A JSON object: `format` is 1; `date` (UTC), `machine` and `commit` say where the figures are from; `seconds`, `warmup` and
//! `repeats` how they were measured. `lanes` has an object for each lane: `name`, `system`, `version`, `client`, `settings`,
//! and `ours`, true for those of Kerolox. `turns` has an object for each lane, leg, flush mode and repeat, in the order of the
//! race: `lane`, `leg`, `flush`, `repeat` (from 1 on), and either `figures`, see [`TurnFigures`], or `error`, a text. `ratios`
//! follow from them: `leg`, `flush`, `ours` and `peer` (lanes), and `rate` and `server_cpu`, each with `median`, `least` and
//! `most` over the repeats of ours divided by the peer's; a `rate` above 1 and a `server_cpu` below 1 are good for Kerolox.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::lane::Lane;
use crate::leg::{FlushMode, LegName};
use crate::turn::TurnFigures;

/// The version of the format.
const FORMAT: u32 = 1;

/// A whole race.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RaceReport {
    format: u32,
    /// Day of the race.
    pub(crate) date: String,
    /// The machine, in one line.
    pub(crate) machine: String,
    /// Commit of Kerolox, or nothing outside of a repository.
    pub(crate) commit: String,
    /// Seconds of a window.
    pub(crate) seconds: f64,
    /// Seconds before a window.
    pub(crate) warmup: f64,
    /// Turns of each leg and lane.
    pub(crate) repeats: u32,
    /// See the format.
    pub(crate) lanes: Vec<LaneReport>,
    /// See the format.
    pub(crate) turns: Vec<TurnReport>,
    /// See the format.
    pub(crate) ratios: Vec<LegRatio>,
}

/// A lane.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LaneReport {
    /// Name.
    pub(crate) name: String,
    /// System of the server.
    pub(crate) system: String,
    /// Its version.
    pub(crate) version: String,
    /// Client.
    pub(crate) client: String,
    /// Settings of the server that are not the defaults.
    pub(crate) settings: String,
    /// Whether it is one of Kerolox.
    pub(crate) ours: bool,
}

/// A turn with its outcome.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TurnReport {
    /// Lane.
    pub(crate) lane: String,
    /// Leg.
    pub(crate) leg: LegName,
    /// Flush mode.
    pub(crate) flush: FlushMode,
    /// Number of the repeat, from 1 on.
    pub(crate) repeat: u32,
    /// Figures of a turn that went well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) figures: Option<TurnFigures>,
    /// Why there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// Ours divided by the peer's in a leg.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LegRatio {
    /// Leg.
    pub(crate) leg: LegName,
    /// Flush mode.
    pub(crate) flush: FlushMode,
    /// Lane of Kerolox.
    pub(crate) ours: String,
    /// Lane of the peer.
    pub(crate) peer: String,
    /// Messages a second.
    pub(crate) rate: RatioSpread,
    /// Processor time of the server for a message.
    pub(crate) server_cpu: RatioSpread,
}

/// A ratio over the repeats.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) struct RatioSpread {
    /// The middle one.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) least: f64,
    /// The largest.
    pub(crate) most: f64,
}

impl RatioSpread {
    /// The spread of some ratios; none without any.
    pub(crate) fn of(mut ratios: Vec<f64>) -> Option<Self> {
        ratios.sort_by(f64::total_cmp);
        let (least, most) = (*ratios.first()?, *ratios.last()?);
        let middle = ratios.len() / 2;
        let median = if ratios.len() % 2 == 1 {
            ratios[middle]
        } else {
            f64::midpoint(ratios[middle - 1], ratios[middle])
        };
        Some(Self { median, least, most })
    }
}

impl RaceReport {
    /// A race with these lanes and no turn yet.
    ///
    /// # Errors
    /// When the programs of a lane are not there.
    pub(crate) fn new(
        lanes: &[Lane],
        machine: String,
        seconds: f64,
        warmup: f64,
        repeats: u32,
    ) -> Result<Self> {
        let lane = |lane: &Lane| {
            Ok(LaneReport {
                name: lane.name.to_owned(),
                system: lane.system.title().to_owned(),
                version: lane.system.version()?,
                client: lane.client.to_owned(),
                settings: lane.system.settings().to_owned(),
                ours: lane.is_ours(),
            })
        };
        Ok(Self {
            format: FORMAT,
            date: chrono::Utc::now().format("%Y-%m-%d").to_string(),
            machine,
            commit: commit(),
            seconds,
            warmup,
            repeats,
            lanes: lanes.iter().map(lane).collect::<Result<_>>()?,
            turns: Vec::new(),
            ratios: Vec::new(),
        })
    }

    /// Reads a report.
    ///
    /// # Errors
    /// When there is none, or it has another format.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        let report: Self =
            serde_json::from_str(&text).with_context(|| format!("{} is no report", path.display()))?;
        ensure!(report.format == FORMAT, "{} has format {}, not {FORMAT}", path.display(), report.format);
        Ok(report)
    }

    /// Writes it.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("writing {}", path.display()))
    }

    /// Turns of a lane in a leg, by repeat.
    pub(crate) fn figures<'a>(
        &'a self,
        lane: &'a str,
        leg: LegName,
        flush: FlushMode,
    ) -> impl Iterator<Item = (u32, &'a TurnFigures)> {
        let turns =
            self.turns.iter().filter(move |turn| turn.lane == lane && turn.leg == leg && turn.flush == flush);
        turns.filter_map(|turn| Some((turn.repeat, turn.figures.as_ref()?)))
    }

    /// Legs in the order of the race.
    pub(crate) fn legs(&self) -> Vec<(LegName, FlushMode)> {
        let mut legs: Vec<_> = self.turns.iter().map(|turn| (turn.leg, turn.flush)).collect();
        legs.dedup();
        legs
    }

    /// Compares the lanes of Kerolox with the others, in the repeats in which both have figures.
    pub(crate) fn compare(&mut self) {
        let mut ratios = Vec::new();
        for (leg, flush) in self.legs() {
            for ours in self.lanes.iter().filter(|lane| lane.ours) {
                for peer in self.lanes.iter().filter(|lane| !lane.ours) {
                    ratios.extend(self.ratio(leg, flush, &ours.name, &peer.name));
                }
            }
        }
        self.ratios = ratios;
    }

    fn ratio(&self, leg: LegName, flush: FlushMode, ours: &str, peer: &str) -> Option<LegRatio> {
        let (mut rates, mut cpus) = (Vec::new(), Vec::new());
        for (repeat, ours) in self.figures(ours, leg, flush) {
            for (_, peer) in self.figures(peer, leg, flush).filter(|(number, _)| *number == repeat) {
                rates.push(ours.rate / peer.rate);
                cpus.push(ours.server_cpu_us / peer.server_cpu_us);
            }
        }
        let (rate, server_cpu) = (RatioSpread::of(rates)?, RatioSpread::of(cpus)?);
        Some(LegRatio { leg, flush, ours: ours.to_owned(), peer: peer.to_owned(), rate, server_cpu })
    }
}

/// The commit that is checked out.
fn commit() -> String {
    let git = std::process::Command::new("git").args(["rev-parse", "--short", "HEAD"]).output();
    git.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_of_the_ratios() {
        let spread = |ratios: &[f64]| {
            RatioSpread::of(ratios.to_vec()).map(|spread| (spread.least, spread.median, spread.most))
        };
        assert_eq!(spread(&[]), None);
        assert_eq!(spread(&[3.0, 1.0, 1.5]), Some((1.0, 1.5, 3.0)));
        assert_eq!(spread(&[1.0, 2.0]), Some((1.0, 1.5, 2.0)));
    }
}
