//! `kerolox-inspect stats`.

use crate::describe;
use crate::folder::{Source, unreadable};
use crate::progress::Progress;
use clap::Args;
use kerolox_core::record::{MessageRecord, RecordKind};
use kerolox_log::Frame;
use kerolox_log::inspect::LogFinding;
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::{CommandReport, local_time, table};
use kerolox_store::state::check::LogReplay;
use serde::Serialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::path::Path;

/// Count what the log holds: records by kind and topic, queues, undecided transactions, scheduled messages
#[derive(Debug, Args)]
pub(crate) struct Stats {
    #[command(flatten)]
    pub(crate) source: Source,
}

/// Records and their bytes in the log, frames included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Amount {
    records: u64,
    bytes: u64,
}

impl Amount {
    fn add(&mut self, frame: &Frame) {
        self.records += 1;
        self.bytes += u64::from(frame.len);
    }
}

#[derive(Debug, Default)]
struct Counts {
    kinds: BTreeMap<u8, Amount>,
    topics: BTreeMap<u32, Amount>,
    first_ms: Option<i64>,
    last_ms: Option<i64>,
    end: u64,
    /// A record was met that the state machine does not understand.
    unfoldable: bool,
    warnings: Vec<CommandFailure>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct TopicCount {
    topic: String,
    #[serde(flatten)]
    stored: Amount,
    /// Queues that hold messages, lite topics included, and how many messages are visible in all of them.
    queues: u64,
    visible: u64,
    undecided: u64,
    scheduled: u64,
}

impl Stats {
    pub(crate) fn run(self) -> Result<CommandReport> {
        let mut data = self.source.open()?;
        let mut counts = Counts::default();
        let mut replay = LogReplay::without_entries();
        let mut progress = Progress::of(&data.log, &self.source);
        while let Some(finding) = data.log.next() {
            match finding.map_err(|error| unreadable(&error))? {
                LogFinding::Record(frame) => counts.record(&frame, &mut replay),
                LogFinding::Damaged(damage) => counts.warn(format!(
                    "{}: damaged from {} to {}; what was there is not counted",
                    damage.file, damage.position, damage.until
                )),
                LogFinding::End { position, .. } => counts.end = position,
            }
            progress.at(data.log.position());
        }
        progress.done();
        let segments: Vec<_> = data.log.segments().cloned().collect();
        let topics = counts.by_topic(&replay);
        let kinds: BTreeMap<String, Amount> =
            counts.kinds.iter().map(|(kind, amount)| (describe::kind_name(*kind), *amount)).collect();
        let segment_bytes: u64 = segments.iter().map(|segment| segment.len).sum();
        let start = segments.first().map_or(0, |segment| segment.base);
        let index_bytes = folder_bytes(&data.index);
        let (undecided, scheduled) =
            (replay.state().transactions.open_total(), replay.state().timers.open_total());
        let (first_ms, last_ms) = (counts.first_ms, counts.last_ms);
        let json = json!({
            "broker": replay.state().broker(), "segments": segments.len(), "segmentBytes": segment_bytes,
            "start": start, "end": counts.end, "firstMs": first_ms, "lastMs": last_ms,
            "indexBytes": index_bytes, "kinds": kinds, "topics": topics, "undecided": undecided,
            "scheduled": scheduled,
        });
        let time = |ms: Option<i64>| local_time(ms.unwrap_or(0));
        let head = format!(
            "broker group  {}\nsegments      {} of {segment_bytes} bytes, positions {start} to {}\n\
             stored        {} to {}\nindex         {index_bytes} bytes\nundecided     {undecided} transactions\n\
             scheduled     {scheduled} messages\n",
            replay.state().broker(),
            segments.len(),
            counts.end,
            time(first_ms),
            time(last_ms),
        );
        let row = |name: &String, amount: &Amount| {
            vec![name.clone(), amount.records.to_string(), amount.bytes.to_string()]
        };
        let kinds =
            table(&["Kind", "Records", "Bytes"], kinds.iter().map(|(name, amount)| row(name, amount)));
        let topics = table(
            &["Topic", "Messages", "Bytes", "Queues", "Visible", "Undecided", "Scheduled"],
            topics.iter().map(|topic| {
                let mut row = row(&topic.topic, &topic.stored);
                row.extend([
                    topic.queues.to_string(),
                    topic.visible.to_string(),
                    topic.undecided.to_string(),
                    topic.scheduled.to_string(),
                ]);
                row
            }),
        );
        let exit = if counts.warnings.is_empty() { ExitStatus::Ok } else { ExitStatus::Failed };
        let report = CommandReport::ok(format!("{head}\n{kinds}\n\n{topics}"), json);
        Ok(CommandReport { exit, warnings: counts.warnings, ..report })
    }
}

impl Counts {
    fn record(&mut self, frame: &Frame, replay: &mut LogReplay) {
        self.kinds.entry(frame.kind).or_default().add(frame);
        self.first_ms.get_or_insert(frame.store_ms);
        self.last_ms = Some(frame.store_ms);
        if frame.kind == RecordKind::Message as u8
            && let Ok(message) = MessageRecord::decode(frame.body.clone())
        {
            self.topics.entry(message.header.topic_id).or_default().add(frame);
        }
        if !self.unfoldable
            && let Err(error) = replay.take(frame)
        {
            self.unfoldable = true;
            self.warn(format!("{error}; queues and transactions are counted up to there"));
        }
    }

    fn by_topic(&self, replay: &LogReplay) -> Vec<TopicCount> {
        let index = replay.state();
        let mut ids: Vec<u32> = self.topics.keys().copied().collect();
        ids.extend(index.topics.all().iter().map(|topic| topic.id));
        ids.sort_unstable();
        ids.dedup();
        let used = index.queues.visible();
        let count = |id: u32| {
            let topic = index.topics.by_id(id);
            let (queues, visible) = used.get(&id).copied().unwrap_or_default();
            TopicCount {
                topic: topic.map_or_else(|| format!("(deleted, id {id})"), |topic| topic.name.clone()),
                stored: self.topics.get(&id).copied().unwrap_or_default(),
                queues,
                visible,
                undecided: index.transactions.open(id),
                scheduled: index.timers.open(id),
            }
        };
        ids.into_iter().map(count).collect()
    }

    fn warn(&mut self, message: String) {
        self.warnings.push(CommandFailure::failed(message));
    }
}

/// Bytes of the files in a folder; 0 when it is not there.
fn folder_bytes(path: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
}
