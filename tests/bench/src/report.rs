//! Figures, the tables that show them, and the file that keeps them.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::machine::MachineFacts;

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum FigureUnit {
    /// Messages or records per second.
    PerSecond,
    /// Bytes per second.
    BytesPerSecond,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// Just a number.
    Number,
}

impl FigureUnit {
    fn show(self, value: f64) -> String {
        match self {
            Self::PerSecond if value >= 1e6 => format!("{:.2} M/s", value / 1e6),
            Self::PerSecond => format!("{:.1} k/s", value / 1e3),
            Self::BytesPerSecond => format!("{:.0} MB/s", value / 1e6),
            Self::Bytes if value >= 1e9 => format!("{:.2} GB", value / 1e9),
            Self::Bytes if value >= 1e6 => format!("{:.1} MB", value / 1e6),
            Self::Bytes => format!("{value:.1} B"),
            Self::Seconds if value >= 1.0 => format!("{value:.2} s"),
            Self::Seconds if value >= 1e-3 => format!("{:.2} ms", value * 1e3),
            Self::Seconds => format!("{:.2} us", value * 1e6),
            Self::Number => format!("{value:.2}"),
        }
    }
}

/// The aim of a figure.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum AimOutcome {
    /// The smallest value.
    AtLeast(f64),
    /// The greatest value.
    AtMost(f64),
    /// The smallest ratio to the figure that it is set against.
    RatioAtLeast(f64),
    /// The greatest ratio to the figure that it is set against.
    RatioAtMost(f64),
}

/// One line of a table.
#[derive(Debug, Clone, Serialize)]
pub struct FigureLine {
    /// Name of the measurement.
    pub what: String,
    /// The figure.
    pub value: f64,
    /// Unit of the figure.
    pub unit: FigureUnit,
    /// What it is set against.
    pub against: Option<ComparedWith>,
    /// The figure divided by what it is set against; from the same turns, not from the two medians.
    pub ratio: Option<f64>,
    /// The aim, if there is one.
    pub aim: Option<AimOutcome>,
    /// Whether the aim is met; absent without an aim.
    pub met: Option<bool>,
}

/// What a figure is set against.
#[derive(Debug, Clone, Serialize)]
pub struct ComparedWith {
    /// Name of the other figure.
    pub what: String,
    /// In the unit of the figure; absent when it is what the ratio is called.
    pub value: Option<f64>,
}

impl FigureLine {
    /// A figure by itself.
    pub fn new(what: impl Into<String>, value: f64, unit: FigureUnit) -> Self {
        Self { what: what.into(), value, unit, against: None, ratio: None, aim: None, met: None }
    }

    /// Sets the figure against another one.
    #[must_use]
    pub fn against(self, what: impl Into<String>, value: f64) -> Self {
        let (what, ratio) = (what.into(), self.value / value);
        let ratio = ratio.is_finite().then_some(ratio);
        Self { against: Some(ComparedWith { what, value: Some(value) }), ratio, ..self }
    }

    /// Sets the figure against another one, with a ratio that was measured better than by dividing the two.
    #[must_use]
    pub fn against_with_ratio(mut self, what: impl Into<String>, value: f64, ratio: f64) -> Self {
        self.against = Some(ComparedWith { what: what.into(), value: Some(value) });
        self.ratio = Some(ratio);
        self
    }

    /// Sets the figure against something without a figure of its own, by a ratio.
    #[must_use]
    pub fn ratio(mut self, what: impl Into<String>, ratio: f64) -> Self {
        self.against = Some(ComparedWith { what: what.into(), value: None });
        self.ratio = Some(ratio);
        self
    }

    /// Sets the aim.
    #[must_use]
    pub fn aim(mut self, aim: AimOutcome) -> Self {
        let ratio = self.ratio.unwrap_or(f64::NAN);
        self.met = Some(match aim {
            AimOutcome::AtLeast(limit) => self.value >= limit,
            AimOutcome::AtMost(limit) => self.value <= limit,
            AimOutcome::RatioAtLeast(limit) => ratio >= limit,
            AimOutcome::RatioAtMost(limit) => ratio <= limit,
        });
        self.aim = Some(aim);
        self
    }

    fn row(&self, judged: bool) -> Vec<String> {
        let against = self.against.as_ref();
        vec![
            self.what.clone(),
            self.unit.show(self.value),
            against.map(|against| against.show(self.unit)).unwrap_or_default(),
            self.ratio.map(|ratio| format!("{ratio:.2}x")).unwrap_or_default(),
            self.aim.map(|aim| self.show_aim(aim)).unwrap_or_default(),
            match self.met {
                None => "",
                Some(_) if !judged => "not judged",
                Some(true) => "met",
                Some(false) => "MISSED",
            }
            .to_owned(),
        ]
    }

    fn show_aim(&self, aim: AimOutcome) -> String {
        match aim {
            AimOutcome::AtLeast(limit) => format!(">= {}", self.unit.show(limit)),
            AimOutcome::AtMost(limit) => format!("<= {}", self.unit.show(limit)),
            AimOutcome::RatioAtLeast(limit) => format!(">= {limit:.2}x"),
            AimOutcome::RatioAtMost(limit) => format!("<= {limit:.2}x"),
        }
    }
}

impl ComparedWith {
    fn show(&self, unit: FigureUnit) -> String {
        let value = self.value.map(|value| format!(" {}", unit.show(value)));
        format!("{}{}", self.what, value.unwrap_or_default())
    }
}

/// Figures that belong together.
#[derive(Debug, Clone, Serialize)]
pub struct FigureGroup {
    /// The name that selects it.
    pub name: &'static str,
    /// What it is about, a line.
    pub title: String,
    /// What one has to know to read the figures.
    pub notes: Vec<String>,
    /// The figures.
    pub figures: Vec<FigureLine>,
    /// Seconds that it took.
    pub seconds: f64,
}

impl FigureGroup {
    /// An empty group.
    pub fn new(name: &'static str, title: impl Into<String>) -> Self {
        Self { name, title: title.into(), notes: Vec::new(), figures: Vec::new(), seconds: 0.0 }
    }

    /// Adds a line of explanation.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Adds a figure.
    pub fn add(&mut self, figure: FigureLine) {
        self.figures.push(figure);
    }

    fn print(&self, judged: bool) {
        println!("\n{}: {} ({:.0} s)", self.name, self.title, self.seconds);
        self.notes.iter().for_each(|note| println!("  {note}"));
        let mut table = comfy_table::Table::new();
        table.load_style(comfy_table::presets::NOTHING);
        table.set_header(["", "Figure", "Against", "Ratio", "Aim", ""]);
        for column in [1, 3] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(comfy_table::CellAlignment::Right);
            }
        }
        for figure in &self.figures {
            table.add_row(figure.row(judged));
        }
        table.lines().for_each(|line| println!("  {}", line.trim_end()));
    }
}

/// All figures of a run.
#[derive(Debug, Serialize)]
pub struct BenchReport {
    /// Where it ran.
    pub machine: MachineFacts,
    /// The command line.
    pub arguments: Vec<String>,
    /// Whether aims count: a quick run is too short to tell.
    pub judged: bool,
    /// The groups so far.
    pub groups: Vec<FigureGroup>,
}

impl BenchReport {
    /// Takes up a finished group and prints it.
    pub fn take(&mut self, group: FigureGroup) {
        group.print(self.judged);
        self.groups.push(group);
    }

    /// Aims met and missed.
    pub fn aims(&self) -> (usize, usize) {
        let met = self.groups.iter().flat_map(|group| &group.figures).filter_map(|figure| figure.met);
        let met: Vec<bool> = if self.judged { met.collect() } else { Vec::new() };
        (met.iter().filter(|met| **met).count(), met.iter().filter(|met| !**met).count())
    }

    /// Writes everything as JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self).context("the report as JSON")?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))
    }
}
