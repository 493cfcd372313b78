//! `produce`: messages from the standard input or a file.

use crate::target::{Common, Where};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use kerolox_client::{Batcher, Batching, Message, Pending};
use kerolox_model::units::TimeSpan;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::CommandReport;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Messages that may be without answer at a time.
const UNANSWERED: usize = 10_000;

/// The form of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Input {
    /// The body
    Lines,
    /// A message in JSON, as `browse --output json` writes it: body or bodyBase64, tag, keys, properties, messageGroup, liteTopic,
    /// priority, deliveryMs
    Json,
}

/// Send a message for each line of the standard input or a file
///
/// Prints the number of stored messages and of failed ones at the end. It stops at the first malformed line, and soon
/// after the first refused one, and names it. Lines that were under way by then may be stored.
#[derive(Debug, Args)]
pub(crate) struct Produce {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(flatten)]
    place: Where,
    /// Name of the topic
    #[arg(short = 't', long)]
    topic: String,
    /// The file; without it the standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// How to read a line
    #[arg(long, value_enum, default_value = "lines")]
    input: Input,
    /// Keys of each message, separated by blanks
    #[arg(short = 'k', long = "key", alias = "keys")]
    keys: Option<String>,
    /// Tag of each message
    #[arg(long)]
    tag: Option<String>,
    /// Property of each message, NAME=VALUE; may be repeated
    #[arg(short = 'p', long = "property", value_name = "NAME=VALUE", value_parser = parse_property)]
    properties: Vec<(String, String)>,
    /// Message group: all messages come in order
    #[arg(long, value_name = "NAME")]
    message_group: Option<String>,
    /// Lite topic, of a topic of type LITE
    #[arg(long, value_name = "NAME")]
    lite: Option<String>,
    /// Priority of each message
    #[arg(long, value_name = "N")]
    priority: Option<u32>,
    /// Deliver each message so long after it was sent
    #[arg(long, value_name = "DURATION")]
    delay: Option<TimeSpan>,
    /// Messages a second, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
}

fn parse_property(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Produce {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let client = self.place.client(&self.common)?;
        let producer = Arc::new(client.producer().topic(&self.topic).start().await?);
        let batcher = Batcher::new(Arc::clone(&producer), Batching::default())?;
        let mut lines = self.lines()?;
        let mut sent = Sent::default();
        let (started, mut number) = (Instant::now(), 0_u64);
        let wrong = loop {
            let due = started + self.pause(number);
            // A refusal is noticed while the next line is waited for, however long that takes.
            let line = tokio::select! {
                biased;
                () = sent.next_answer(), if !sent.waiting.is_empty() => {
                    if sent.refused > 0 { break None } else { continue }
                }
                line = next_line(&mut lines, due), if sent.waiting.len() < UNANSWERED => line,
            };
            let Some(line) = line else { break None };
            number += 1;
            let message = match line.map_err(|error| error.to_string()).and_then(|line| self.message(line)) {
                Ok(message) => message,
                Err(reason) => break Some(CommandFailure::usage(format!("line {number}: {reason}"))),
            };
            let bytes = message.body().len() as u64;
            match batcher.send(message).await {
                Ok(answer) => sent.waiting.push_back((number, bytes, answer)),
                Err(error) => break Some(CommandFailure::from(error).during(format!("line {number}"))),
            }
        };
        // Messages that were sent before the trouble are stored.
        batcher.flush().await;
        while !sent.waiting.is_empty() {
            sent.next_answer().await;
        }
        let summary = sent.summary();
        match sent.first.or(wrong) {
            Some(failure) => Err(failure.during(&summary)),
            None => Ok(CommandReport::ok(summary, json!({ "messages": sent.stored, "bytes": sent.bytes }))),
        }
    }

    /// From the start to line `number`, counted from 0.
    fn pause(&self, number: u64) -> Duration {
        #[allow(clippy::cast_precision_loss, reason = "so many lines take years")]
        self.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(number as f64 / f64::from(rate)))
    }

    /// The lines, read on a thread of their own: the standard input may be a terminal.
    fn lines(&self) -> Result<tokio::sync::mpsc::Receiver<std::io::Result<Vec<u8>>>> {
        let file = self.file.as_deref().filter(|file| *file != Path::new("-"));
        let input: Box<dyn BufRead + Send> = match file {
            None => Box::new(std::io::BufReader::new(std::io::stdin())),
            Some(file) => {
                let opened = std::fs::File::open(file).map_err(|error| {
                    CommandFailure::not_found(format!("cannot read {}: {error}", file.display()))
                })?;
                Box::new(std::io::BufReader::new(opened))
            }
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(1_000);
        std::thread::spawn(move || {
            for line in input.split(b'\n') {
                if sender.blocking_send(line).is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    fn message(&self, line: Vec<u8>) -> std::result::Result<Message, String> {
        let mut message = Message::builder(&self.topic);
        match self.input {
            Input::Lines => message = message.body(line),
            Input::Json => {
                let value: Value = serde_json::from_slice(&line).map_err(|error| error.to_string())?;
                message = described(message, &value)?;
            }
        }
        if let Some(keys) = &self.keys {
            message = message.keys(keys.split_whitespace());
        }
        if let Some(tag) = &self.tag {
            message = message.tag(tag);
        }
        for (name, value) in &self.properties {
            message = message.property(name, value);
        }
        if let Some(group) = &self.message_group {
            message = message.message_group(group);
        }
        if let Some(name) = &self.lite {
            message = message.lite_topic(name);
        }
        if let Some(priority) = self.priority {
            message = message.priority(priority);
        }
        if let Some(delay) = self.delay {
            message = message.deliver_after(delay.duration());
        }
        Ok(message.build())
    }
}

/// A message as JSON describes it.
fn described(
    message: kerolox_client::MessageBuilder,
    value: &Value,
) -> std::result::Result<kerolox_client::MessageBuilder, String> {
    let fields = value.as_object().ok_or("a line is an object: {\"body\": \"...\"}")?;
    let mut message = message;
    for (name, field) in fields {
        let text = || field.as_str().ok_or(format!("{name} is no text"));
        message = match name.as_str() {
            _ if field.is_null() => message,
            "body" => message.body(text()?.to_owned()),
            "bodyBase64" => {
                message.body(STANDARD.decode(text()?).map_err(|error| format!("{name}: {error}"))?)
            }
            "tag" => message.tag(text()?),
            "messageGroup" => message.message_group(text()?),
            "liteTopic" => message.lite_topic(text()?),
            "keys" => {
                let keys = field.as_array().ok_or("keys are a list")?;
                message.keys(keys.iter().filter_map(Value::as_str).map(str::to_owned))
            }
            "priority" => {
                let priority = field.as_u64().and_then(|priority| u32::try_from(priority).ok());
                message.priority(priority.ok_or("priority is no number")?)
            }
            "deliveryMs" => {
                let millis = field.as_u64().ok_or("deliveryMs is no number")?;
                message.delivery_timestamp(UNIX_EPOCH + Duration::from_millis(millis))
            }
            "properties" => {
                let properties = field.as_object().ok_or("properties are an object")?;
                properties.iter().fold(message, |message, (name, value)| match value {
                    Value::String(text) => message.property(name, text),
                    other => message.property(name, other.to_string()),
                })
            }
            // Where it stood before.
            "messageId" | "topic" | "broker" | "queue" | "offset" | "storeMs" | "bornMs" | "type" | "crc" => {
                message
            }
            other => return Err(format!("{other:?} is no part of a message")),
        };
    }
    Ok(message)
}

/// The next line, not before it is due. Nothing is lost when it is dropped.
async fn next_line(
    lines: &mut tokio::sync::mpsc::Receiver<std::io::Result<Vec<u8>>>,
    due: Instant,
) -> Option<std::io::Result<Vec<u8>>> {
    tokio::time::sleep_until(due.into()).await;
    lines.recv().await
}

/// What became of the messages that were sent.
#[derive(Default)]
struct Sent {
    /// Line, bytes of the body, and the answer, in the order of the lines.
    waiting: VecDeque<(u64, u64, Pending)>,
    stored: u64,
    bytes: u64,
    refused: u64,
    /// Why the first one was refused.
    first: Option<CommandFailure>,
}

impl Sent {
    /// Waits for the answer of the oldest message. Nothing is lost when it is dropped.
    async fn next_answer(&mut self) {
        let Some((_, _, answer)) = self.waiting.front_mut() else { return };
        let answer = answer.await;
        let Some((number, bytes, _)) = self.waiting.pop_front() else { return };
        match answer {
            Ok(_) => {
                self.stored += 1;
                self.bytes += bytes;
            }
            Err(error) => {
                self.refused += 1;
                self.first
                    .get_or_insert_with(|| CommandFailure::from(error).during(format!("line {number}")));
            }
        }
    }

    fn summary(&self) -> String {
        let stored = format!("{} messages with {} bytes were stored", self.stored, self.bytes);
        match self.refused {
            0 => stored,
            refused => format!("{stored}, {refused} refused"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> std::result::Result<Message, String> {
        let value = serde_json::from_str(line).map_err(|error| error.to_string())?;
        described(Message::builder("t"), &value).map(kerolox_client::MessageBuilder::build)
    }

    #[test]
    fn a_line_of_json_is_a_message() {
        let line = r#"{"body":"hi","tag":"a","keys":["k"],"properties":{"n":1,"s":"x"},"messageGroup":"g","offset":7,"liteTopic":null}"#;
        let message = parsed(line).unwrap();
        assert_eq!(
            (&message.body()[..], message.tag(), message.message_group()),
            (&b"hi"[..], Some("a"), Some("g"))
        );
        assert_eq!((message.properties()["n"].as_str(), message.properties()["s"].as_str()), ("1", "x"));
        assert_eq!(parsed(r#"{"bodyBase64":"/wA="}"#).unwrap().body()[..], [0xff, 0]);
        for wrong in ["[]", r#"{"bodi":"x"}"#, r#"{"bodyBase64":"?"}"#, r#"{"tag":1}"#] {
            assert!(parsed(wrong).is_err(), "{wrong}");
        }
    }
}
