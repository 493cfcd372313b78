//! `kerolox-inspect dump`.

use crate::describe::{self, BodyForm};
use crate::folder::{Source, unreadable};
use clap::Args;
use kerolox_core::record::Record;
use kerolox_log::Frame;
use kerolox_log::inspect::LogFinding;
use kerolox_report::outcome::{CommandFailure, ExitStatus, Result};
use kerolox_report::output::{CommandReport, OutputFormat, harmless, local_time, one_line, print_error};
use serde_json::{Value, json};
use std::io::{BufWriter, ErrorKind, Write};

/// Print the records of the log, oldest first, one line each
#[derive(Debug, Args)]
pub(crate) struct Dump {
    #[command(flatten)]
    pub(crate) source: Source,
    /// Begin with the record at this position or the first one behind it
    #[arg(long, value_name = "POS", default_value_t = 0)]
    from: u64,
    /// End before the record at this position
    #[arg(long, value_name = "POS", default_value_t = u64::MAX, hide_default_value = true)]
    to: u64,
    /// Only records of this kind: message, release, discard, progress, meta, epoch, snapshot or trim
    #[arg(long, value_parser = describe::parse_kind)]
    kind: Option<u8>,
    /// Print at most this many records
    #[arg(long, value_name = "N", default_value_t = u64::MAX, hide_default_value = true)]
    limit: u64,
    /// Print the bodies of messages, too
    #[arg(long, value_enum, value_name = "FORM", num_args = 0..=1, require_equals = true, default_missing_value = "text")]
    body: Option<BodyForm>,
}

impl Dump {
    pub(crate) fn run(self) -> Result<CommandReport> {
        let mut data = self.source.open()?;
        data.log.skip_to_segment_of(self.from);
        let mut out = BufWriter::new(std::io::stdout().lock());
        let mut exit = ExitStatus::Ok;
        let mut printed =
            if self.source.output == OutputFormat::Table { self.write_header(&mut out) } else { Ok(()) };
        let mut left = self.limit;
        while left > 0
            && printed.is_ok()
            && let Some(finding) = data.log.next()
        {
            match finding.map_err(|error| unreadable(&error))? {
                LogFinding::Record(frame) if frame.position >= self.to => break,
                LogFinding::Record(frame) => {
                    if frame.position >= self.from && self.kind.is_none_or(|kind| kind == frame.kind) {
                        left -= 1;
                        printed = self.write(&frame, &mut out);
                    }
                }
                LogFinding::Damaged(damage) => {
                    exit = ExitStatus::Failed;
                    // What was printed so far comes first when both streams go to one place.
                    printed = out.flush();
                    let (from, until) = (damage.position, damage.until);
                    print_error(&format!(
                        "{}: damaged from {from} to {until}: {}",
                        damage.file, damage.reason
                    ));
                }
                LogFinding::End { .. } => {}
            }
        }
        match printed.and_then(|()| out.flush()) {
            Ok(()) => {}
            // The reader of our output has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            Err(error) => {
                return Err(CommandFailure::failed(format!("cannot write to the standard output: {error}")));
            }
        }
        Ok(CommandReport { exit, ..CommandReport::ok(String::new(), Value::Null) })
    }

    fn write_header(&self, out: &mut impl Write) -> std::io::Result<()> {
        let [position, time, kind, epoch, bytes] = ["#Position", "#Time", "#Kind", "#Epoch", "#Bytes"];
        writeln!(out, "{position:>12}  {time:23}  {kind:8}  {epoch:>6}  {bytes:>7}  #Record")
    }

    fn write(&self, frame: &Frame, out: &mut impl Write) -> std::io::Result<()> {
        let kind = describe::kind_name(frame.kind);
        let fields = Record::decode(frame.kind, frame.body.clone())
            .map_err(|error| error.to_string())
            .and_then(|record| describe::fields(&record, self.body))
            .unwrap_or_else(|error| vec![("malformed", json!(error))]);
        let value = || {
            json!({
                "position": frame.position, "bytes": frame.len, "kind": kind, "epoch": frame.epoch,
                "storeMs": frame.store_ms, "record": describe::object(fields.clone()),
            })
        };
        if self.source.output != OutputFormat::Table
            && let Some(item) = self.source.output.item(&value())
        {
            return writeln!(out, "{}", harmless(&item));
        }
        let Frame { position, epoch, len, store_ms, .. } = frame;
        let (time, words) = (local_time(*store_ms), describe::words(&fields));
        let words = one_line(&words);
        writeln!(out, "{position:>12}  {time:23}  {kind:8}  {epoch:>6}  {len:>7}  {words}")
    }
}
