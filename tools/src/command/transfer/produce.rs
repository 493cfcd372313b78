//! `produce`: messages from the standard input or a file.

use crate::outcome::{Failure, Result};
use crate::output::Report;
use crate::target::{Common, Where};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use kerolox_client::{Batcher, Batching, Message, Pending};
use kerolox_model::units::Span;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Messages that may be without answer at a time.
const UNANSWERED: usize = 10_000;

/// What a line is.
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
/// Ends with the number of messages that were stored. It stops at the first line that is wrong or cannot be sent, and says which.
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
    /// What a line is
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
    delay: Option<Span>,
    /// Messages a second, at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rate: Option<u32>,
}

fn parse_property(text: &str) -> std::result::Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Produce {
    pub(crate) async fn run(self) -> Result<Report> {
        let client = self.place.client(&self.common)?;
        let producer = Arc::new(client.producer().topic(&self.topic).start().await?);
        let batcher = Batcher::new(Arc::clone(&producer), Batching::default())?;
        let mut lines = self.lines()?;
        let mut pending: VecDeque<(u64, Pending)> = VecDeque::new();
        let (started, mut number, mut sent, mut bytes) = (Instant::now(), 0_u64, 0_u64, 0_u64);
        let outcome = loop {
            let Some(line) = lines.recv().await else { break Ok(()) };
            number += 1;
            let message = match line.map_err(|error| error.to_string()).and_then(|line| self.message(line)) {
                Ok(message) => message,
                Err(reason) => break Err(Failure::usage(format!("line {number}: {reason}"))),
            };
            if let Some(rate) = self.rate {
                #[allow(clippy::cast_precision_loss, reason = "so many lines take years")]
                let due = Duration::from_secs_f64((number - 1) as f64 / f64::from(rate));
                tokio::time::sleep_until((started + due).into()).await;
            }
            bytes += message.body().len() as u64;
            pending.push_back((number, batcher.send(message).await?));
            if pending.len() > UNANSWERED
                && let Err(failure) = settle(&mut pending, UNANSWERED / 2, &mut sent).await
            {
                break Err(failure);
            }
        };
        // What was sent before the trouble is stored all the same.
        batcher.flush().await;
        let settled = settle(&mut pending, 0, &mut sent).await;
        let summary = format!("{sent} messages with {bytes} bytes were stored");
        outcome.and(settled).map_err(|failure| failure.during(&summary))?;
        Ok(Report::ok(summary, json!({ "messages": sent, "bytes": bytes })))
    }

    /// The lines, read on a thread of their own: the standard input may be a terminal.
    fn lines(&self) -> Result<tokio::sync::mpsc::Receiver<std::io::Result<Vec<u8>>>> {
        let file = self.file.as_deref().filter(|file| *file != Path::new("-"));
        let input: Box<dyn BufRead + Send> = match file {
            None => Box::new(std::io::BufReader::new(std::io::stdin())),
            Some(file) => {
                let opened = std::fs::File::open(file).map_err(|error| {
                    Failure::not_found(format!("cannot read {}: {error}", file.display()))
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

/// Waits until no more than `left` are without answer.
async fn settle(pending: &mut VecDeque<(u64, Pending)>, left: usize, sent: &mut u64) -> Result<()> {
    while pending.len() > left
        && let Some((number, answer)) = pending.pop_front()
    {
        answer.await.map_err(|error| Failure::from(error).during(format!("line {number}")))?;
        *sent += 1;
    }
    Ok(())
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
