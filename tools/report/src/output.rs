//! What commands print: text for people, JSON for scripts.

use crate::outcome::{CommandFailure, ExitStatus};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{ErrorKind, Write};

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum OutputFormat {
    /// Aligned columns and sentences.
    Table,
    /// One JSON document.
    Json,
    /// One YAML document.
    Yaml,
}

impl OutputFormat {
    /// A value as a document of its own; `None` for tables, which are made of text.
    pub fn document(self, value: &Value) -> Option<String> {
        match self {
            OutputFormat::Table => None,
            OutputFormat::Json => Some(format!("{value:#}")),
            OutputFormat::Yaml => Some(yaml(value)),
        }
    }

    /// A value as one of many: a line of JSON, or a YAML document with its separator.
    pub fn item(self, value: &Value) -> Option<String> {
        match self {
            OutputFormat::Table => None,
            OutputFormat::Json => Some(value.to_string()),
            OutputFormat::Yaml => Some(format!("---\n{}", yaml(value))),
        }
    }
}

fn yaml(value: &Value) -> String {
    // What JSON can say, YAML can say.
    let text = serde_saphyr::to_string(value).unwrap_or_else(|error| format!("# {error}"));
    text.trim_end().to_owned()
}

/// The result of a command in both forms, and what did not work on the way.
#[derive(Debug)]
pub struct CommandReport {
    /// For people.
    pub text: String,
    /// For scripts.
    pub json: Value,
    /// What did not work on the way.
    pub warnings: Vec<CommandFailure>,
    /// How the process ends.
    pub exit: ExitStatus,
}

impl CommandReport {
    /// The result of a command that did everything.
    pub fn ok(text: String, json: Value) -> Self {
        Self { text, json, warnings: Vec::new(), exit: ExitStatus::Ok }
    }

    /// Prints the result to stdout and the warnings to stderr.
    pub fn print(&self, format: OutputFormat) -> ExitStatus {
        let printed = match format.document(&self.json) {
            None if self.text.is_empty() => Ok(()),
            None => print_line(self.text.trim_end()),
            Some(_) if self.json.is_null() => Ok(()),
            Some(document) => print_line(&document),
        };
        for warning in &self.warnings {
            print_error(&warning.message);
        }
        match printed {
            Ok(()) => self.exit,
            // The reader of our output has seen enough.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.exit,
            Err(error) => {
                print_error(&format!("cannot write to the standard output: {error}"));
                ExitStatus::Failed
            }
        }
    }
}

/// Text that moves no cursor and rings no bell: control characters and those that turn the direction of writing, which a
/// stranger may have put into a message, are written as in JSON. Ends of lines and tabs stay; see [`one_line`].
pub fn harmless(text: &str) -> Cow<'_, str> {
    escaped(text, |c| is_command(c) && c != '\n' && c != '\t')
}

/// Text as [`harmless`] makes it, without ends of lines and tabs.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escaped(text, is_command)
}

/// Lines, each of which stays one.
pub fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| one_line(line)).collect::<Vec<_>>().join("\n")
}

/// Whether a terminal does something else with a character than show it.
fn is_command(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, is_escaped: fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' if is_escaped(c) => shown.push_str("\\n"),
            '\t' if is_escaped(c) => shown.push_str("\\t"),
            _ if is_escaped(c) => write!(shown, "\\u{:04x}", u32::from(c)).expect("a String grows as needed"),
            _ => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// Writes one line to the standard output.
///
/// # Errors
/// The system's, such as a reader that is gone.
pub fn print_line(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}", harmless(line))?;
    out.flush()
}

/// A value without the quotes of JSON.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Writes one line to the standard error; a failure cannot be reported anywhere.
pub fn print_error(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{}", harmless(line));
}

/// Aligned columns without borders; the header starts with `#`, as in RocketMQ's tables.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(header.iter().map(|name| format!("#{name}")));
    for row in rows {
        table.add_row(row.iter().map(|cell| one_line(cell)));
    }
    let lines: Vec<String> = table.lines().map(|line| line.trim().to_owned()).collect();
    lines.join("\n")
}

/// A time in milliseconds since the Unix epoch as local time; empty for 0, which stands for "never".
pub fn local_time(millis: i64) -> String {
    match chrono::DateTime::from_timestamp_millis(millis) {
        Some(time) if millis != 0 => {
            time.with_timezone(&chrono::Local).format("%Y-%m-%d %H:%M:%S,%3f").to_string()
        }
        _ => String::new(),
    }
}

/// A duration in milliseconds in its two largest units.
pub fn short_duration(millis: u64) -> String {
    let seconds = millis / 1000;
    match seconds {
        86400.. => format!("{}d {}h", seconds / 86400, seconds % 86400 / 3600),
        3600.. => format!("{}h {}m", seconds / 3600, seconds % 3600 / 60),
        60.. => format!("{}m {}s", seconds / 60, seconds % 60),
        _ => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_aligned_and_have_no_borders() {
        let text =
            table(&["Topic", "Queues"], [vec!["orders".into(), "8".into()], vec!["x".into(), "16".into()]]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].starts_with("#Topic"));
        let columns: Vec<usize> = [("#Queues", 0), ("8", 1), ("16", 2)]
            .iter()
            .map(|(word, line)| lines[*line].find(word).unwrap())
            .collect();
        assert!(columns.iter().all(|column| *column == columns[0]), "{text}");
    }

    #[test]
    fn values_are_documents_in_json_and_yaml() {
        let value = serde_json::json!({ "name": "yes", "queues": [1, 2], "tag": null });
        assert_eq!(OutputFormat::Table.document(&value), None);
        assert_eq!(OutputFormat::Json.item(&value).unwrap(), r#"{"name":"yes","queues":[1,2],"tag":null}"#);
        let again: Value = serde_saphyr::from_str(&OutputFormat::Yaml.document(&value).unwrap()).unwrap();
        assert_eq!(again, value);
        assert!(OutputFormat::Yaml.item(&value).unwrap().starts_with("---\n"));
    }

    #[test]
    fn what_a_stranger_wrote_commands_no_terminal() {
        let attack = "\u{1b}[2J\u{9b}2J\u{7f}\u{7}\r\u{202e}x\u{85}";
        let shown = harmless(attack);
        assert_eq!(shown, r"\u001b[2J\u009b2J\u007f\u0007\u000d\u202ex\u0085");
        assert_eq!(harmless("two\nlines\tand ümläuts 漢字"), "two\nlines\tand ümläuts 漢字");
        assert_eq!(one_line("two\nlines\t"), r"two\nlines\t");
        let value = serde_json::json!({ "id": attack });
        let document = OutputFormat::Json.document(&value).unwrap();
        assert_eq!(
            serde_json::from_str::<Value>(&harmless(&document)).unwrap(),
            value,
            "it is the same JSON"
        );
        let text = table(&["Id", "State"], [vec!["\n#Id forged".into(), "ok".into()]]);
        assert!(text.lines().count() == 2 && text.contains(r"\n#Id"), "{text}");
    }

    #[test]
    fn durations_and_times_are_short() {
        assert_eq!(short_duration(59_999), "59s");
        assert_eq!(short_duration(3_600_000 * 25), "1d 1h");
        assert_eq!(short_duration(61_000), "1m 1s");
        assert_eq!(local_time(0), "");
        assert_eq!(local_time(1_700_000_000_123).len(), "2023-11-14 22:13:20,123".len());
    }
}
