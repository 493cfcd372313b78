//! `kerolox-inspect verify`.

use crate::describe;
use crate::folder::{DataFolder, Source, unreadable};
use crate::progress::Progress;
use clap::Args;
use kerolox_core::record::Record;
use kerolox_log::inspect::LogFinding;
use kerolox_log::{DamagedRange, Frame};
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::{CommandReport, table};
use kerolox_rocks::RocksKv;
use kerolox_store::state::check::{self, LogReplay, StateComparison};
use serde::Serialize;
use serde_json::json;

/// Problems that are listed; the others are counted.
const LISTED: usize = 100;

/// Check every record of the log, and compare the index with it
///
/// Exit codes: 0 clean, 1 damage found, 2 wrong command line or a broker works in the folder, 4 no such folder.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) source: Source,
}

/// A place that is not as it should be.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Problem {
    place: String,
    from: Option<u64>,
    until: Option<u64>,
    reason: String,
}

/// The findings about the log so far.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Checked {
    segments: usize,
    segment_bytes: u64,
    start: u64,
    end: u64,
    records: u64,
    record_bytes: u64,
    checkpoint: Option<u64>,
    torn_bytes: u64,
    problems: u64,
    #[serde(rename = "damage")]
    listed: Vec<Problem>,
    index: String,
    /// What becomes of which queues if the index has to be made again from a damaged log.
    if_made_again: Vec<String>,
}

/// What can be said of the index before the log was read.
enum Index {
    /// Held against the log up to its position.
    Comparable { kv: RocksKv, applied: u64 },
    /// Not compared, for this reason.
    Not(String),
    /// Cannot be read.
    Broken(String),
}

impl Verify {
    pub(crate) fn run(self) -> Result<CommandReport> {
        let mut data = self.source.open()?;
        let index = if self.source.online {
            Index::Not("not compared: a broker may be writing it".to_owned())
        } else {
            open_index(&data)
        };
        let mut replay = match &index {
            Index::Comparable { applied, .. } if is_trimmed(&data) => {
                Some(LogReplay::of_trimmed(data.log.position(), *applied))
            }
            Index::Comparable { applied, .. } => Some(LogReplay::until(*applied)),
            Index::Not(_) | Index::Broken(_) => None,
        };
        let mut checked = Checked {
            segments: data.log.segments().count(),
            segment_bytes: data.log.segments().map(|segment| segment.len).sum(),
            start: data.log.segments().next().map_or(0, |segment| segment.base),
            checkpoint: data.log.durable(),
            ..Checked::default()
        };
        let mut progress = Progress::of(&data.log, &self.source);
        while let Some(finding) = data.log.next() {
            match finding.map_err(|error| unreadable(&error))? {
                LogFinding::Record(frame) => checked.record(&frame, &mut replay),
                LogFinding::Damaged(damage) => {
                    if let Some(passed) = &mut replay {
                        passed
                            .pass_damage(&damage)
                            .map_err(|error| CommandFailure::failed(error.to_string()))?;
                    }
                    checked.damaged(damage);
                }
                LogFinding::End { position, torn_bytes } => {
                    (checked.end, checked.torn_bytes) = (position, torn_bytes);
                }
            }
            progress.at(data.log.position());
        }
        progress.done();
        checked.index(index, replay)?;
        Ok(checked.report())
    }
}

/// Whether old segments were given up.
fn is_trimmed(data: &DataFolder) -> bool {
    data.log.segments().next().is_some_and(|segment| segment.base > 0)
}

fn open_index(data: &DataFolder) -> Index {
    if !data.index.exists() {
        return Index::Not("there is none; a broker makes it from the log".to_owned());
    }
    let opened = RocksKv::open_read_only(&data.index);
    let applied = opened.map_err(Into::into).and_then(|kv| Ok((check::applied_of(&kv)?, kv)));
    match applied {
        Ok((Some(applied), kv)) => Index::Comparable { kv, applied },
        Ok((None, _)) => Index::Not("empty or of another format; a broker makes it anew".to_owned()),
        Err(error) => Index::Broken(kerolox_store::StoreError::to_string(&error)),
    }
}

impl Checked {
    fn record(&mut self, frame: &Frame, replay: &mut Option<LogReplay>) {
        self.records += 1;
        self.record_bytes += u64::from(frame.len);
        let decoded = Record::decode(frame.kind, frame.body.clone()).map_err(|error| error.to_string());
        let understood = decoded.and_then(|record| describe::fields(&record, None).map(drop));
        let folded = understood.and_then(|()| match replay {
            Some(replay) => replay.take(frame).map_err(|error| error.to_string()),
            None => Ok(()),
        });
        if let Err(reason) = folded {
            *replay = None;
            let place = format!("{} record", describe::kind_name(frame.kind));
            self.problem(Problem { place, from: Some(frame.position), until: Some(frame.end()), reason });
        }
    }

    fn damaged(&mut self, damage: DamagedRange) {
        let DamagedRange { file, position, until, reason } = damage;
        self.problem(Problem { place: file, from: Some(position), until: Some(until), reason });
    }

    fn index(&mut self, index: Index, replay: Option<LogReplay>) -> Result<()> {
        self.index = match (index, replay) {
            (Index::Not(reason), _) => reason,
            (Index::Broken(reason), _) => {
                self.index_problem(reason);
                "cannot be read; delete the folder, and a broker makes it anew".to_owned()
            }
            (Index::Comparable { applied, .. }, _) if applied > self.end => {
                format!("ahead of the log (it stands at {applied}); a broker makes it anew")
            }
            (Index::Comparable { .. }, None) => {
                "not compared: the log holds what cannot be understood".to_owned()
            }
            // What the index should be cannot be told without the records that are gone.
            (Index::Comparable { .. }, Some(mut replay)) if self.problems > 0 => match replay.repairs() {
                Ok(repairs) => {
                    self.if_made_again = repairs.iter().map(ToString::to_string).collect();
                    "not compared: the log is damaged".to_owned()
                }
                Err(error) => format!("not compared: the log is damaged, and its replay fails: {error}"),
            },
            (Index::Comparable { applied, .. }, Some(_)) if applied <= self.start => {
                format!(
                    "older than the beginning of the log (it stands at {applied}); a broker makes it anew"
                )
            }
            (Index::Comparable { .. }, Some(replay)) if replay.begin().is_none() => {
                "not compared: no segment begins with a whole snapshot".to_owned()
            }
            (Index::Comparable { kv, applied }, Some(mut replay)) => {
                let found = replay.compare(&kv).map_err(|error| CommandFailure::failed(error.to_string()))?;
                self.compared(&found);
                let StateComparison { keys, differences, .. } = found;
                format!("holds the log up to {applied}; {keys} keys compared, {differences} differ")
            }
        };
        Ok(())
    }

    fn compared(&mut self, found: &StateComparison) {
        for difference in &found.examples {
            let key: String = difference.key.iter().map(|byte| format!("{byte:02x}")).collect();
            let how = format!("{:?}", difference.how).to_lowercase();
            self.index_problem(format!("family {}, key {key}: {how}", difference.family.name()));
        }
        self.problems += found.differences - found.examples.len() as u64;
    }

    fn index_problem(&mut self, reason: String) {
        self.problem(Problem { place: "index".to_owned(), from: None, until: None, reason });
    }

    fn problem(&mut self, problem: Problem) {
        self.problems += 1;
        if self.listed.len() < LISTED {
            self.listed.push(problem);
        }
    }

    fn report(self) -> CommandReport {
        let exit = if self.problems == 0 { ExitStatus::Ok } else { ExitStatus::Failed };
        let mut json = json!(self);
        json["clean"] = json!(self.problems == 0);
        CommandReport { exit, ..CommandReport::ok(self.text(), json) }
    }

    fn text(&self) -> String {
        let checkpoint = match self.checkpoint {
            Some(durable) => format!("durable up to {durable}"),
            None => "none".to_owned(),
        };
        let torn = match self.torn_bytes {
            0 => "none".to_owned(),
            bytes => format!("{bytes} bytes at {}; the next start of the broker cuts them off", self.end),
        };
        let mut text = format!(
            "segments    {} of {} bytes, positions {} to {}\nrecords     {} of {} bytes\ncheckpoint  {checkpoint}\n\
             torn tail   {torn}\nindex       {}\n",
            self.segments,
            self.segment_bytes,
            self.start,
            self.end,
            self.records,
            self.record_bytes,
            self.index
        );
        if self.problems == 0 {
            text.push_str("result      clean\n");
            return text;
        }
        text.push_str(&format!("result      {} problems\n\n", self.problems));
        text.push_str(&self.problems_table());
        if !self.if_made_again.is_empty() {
            text.push_str("\n\nThe index has what the log has lost. If it is made again:\n");
            text.push_str(&self.if_made_again.join("\n"));
        }
        text
    }

    fn problems_table(&self) -> String {
        let number = |number: Option<u64>| number.map_or_else(String::new, |number| number.to_string());
        let rows = self.listed.iter().map(|problem| {
            let bytes = problem.from.zip(problem.until).map(|(from, until)| until.saturating_sub(from));
            let place = [problem.place.clone(), number(problem.from), number(problem.until), number(bytes)];
            place.into_iter().chain([problem.reason.clone()]).collect()
        });
        table(&["Place", "From", "Until", "Bytes", "Problem"], rows)
    }
}
