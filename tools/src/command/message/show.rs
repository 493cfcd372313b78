//! How messages are written: a line, JSON, or by a template.

use super::read::Read;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kerolox_proto::v2;
use kerolox_report::output::{OutputFormat, harmless, local_time, one_line};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::IsTerminal as _;

/// A message as JSON; the body as text if it is that, else in base64.
pub(crate) fn json(read: &Read) -> Value {
    let system = read.message.system_properties.clone().unwrap_or_default();
    let millis = |time: Option<prost_types::Timestamp>| {
        time.map(|time| time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos) / 1_000_000))
    };
    let mut value = json!({
        "messageId": system.message_id,
        "topic": read.message.topic.as_ref().map(|topic| topic.name.clone()),
        "broker": read.broker,
        "queue": read.queue,
        "offset": read.offset,
        "storeMs": read.store_ms,
        "bornMs": millis(system.born_timestamp),
        "tag": system.tag,
        "keys": system.keys,
        "properties": BTreeMap::from_iter(&read.message.user_properties),
    });
    let optional = [
        ("messageGroup", system.message_group.map(Value::from)),
        ("liteTopic", system.lite_topic.map(Value::from)),
        ("priority", system.priority.map(Value::from)),
        ("deliveryMs", millis(system.delivery_timestamp).map(Value::from)),
        ("attempt", system.delivery_attempt.map(Value::from)),
    ];
    if let Value::Object(fields) = &mut value {
        for (name, given) in optional {
            if let Some(given) = given {
                fields.insert(name.to_owned(), given);
            }
        }
        match std::str::from_utf8(&read.message.body) {
            Ok(text) => fields.insert("body".to_owned(), text.into()),
            Err(_) => fields.insert("bodyBase64".to_owned(), STANDARD.encode(&read.message.body).into()),
        };
    }
    value
}

/// How each message is written.
#[derive(Debug, Clone)]
pub(crate) enum Writing {
    Line,
    /// In the words of RocketMQ's consumeMessage.
    Classic,
    Document(OutputFormat),
    Template(Template),
}

impl Writing {
    pub(crate) fn new(format: OutputFormat, template: Option<&Template>) -> Self {
        match (template, format) {
            (Some(template), _) => Self::Template(template.clone()),
            (None, OutputFormat::Table) => Self::Line,
            (None, format) => Self::Document(format),
        }
    }

    /// With the end of its line, where it has one.
    pub(crate) fn write(&self, read: &Read) -> Vec<u8> {
        match self {
            Self::Line => format!("{}\n", one_line(&line(read))).into_bytes(),
            Self::Classic => format!("{}\n", one_line(&classic(read))).into_bytes(),
            Self::Document(format) => {
                format!("{}\n", harmless(&format.item(&json(read)).unwrap_or_default())).into_bytes()
            }
            // Files and pipes get the bytes as they are.
            Self::Template(template) => template.shown(read, std::io::stdout().is_terminal()),
        }
    }
}

fn line(read: &Read) -> String {
    let system = read.message.system_properties.clone().unwrap_or_default();
    format!(
        "{} {}/{} {} {} [{}] [{}] {}",
        local_time(read.store_ms),
        read.broker,
        read.queue,
        read.offset,
        system.message_id,
        system.tag.unwrap_or_default(),
        system.keys.join(" "),
        String::from_utf8_lossy(&read.message.body),
    )
}

fn classic(read: &Read) -> String {
    let system = read.message.system_properties.clone().unwrap_or_default();
    let attempt = system.delivery_attempt.map(|attempt| format!("Attempt: {attempt} ")).unwrap_or_default();
    format!(
        "MSGID: {} BrokerName: {} QID: {} Offset: {} Stored: {} Tag: {} Keys: {} {attempt}BODY: {}",
        system.message_id,
        read.broker,
        read.queue,
        read.offset,
        local_time(read.store_ms),
        system.tag.as_deref().unwrap_or("-"),
        if system.keys.is_empty() { "-".to_owned() } else { system.keys.join(" ") },
        String::from_utf8_lossy(&read.message.body),
    )
}

/// Text with places for parts of a message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Template(Vec<Part>);

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Field(char),
    Property(String),
}

/// The letters that may stand behind a `%`.
const FIELDS: &str = "tbqoisBgkGlP";

impl std::str::FromStr for Template {
    type Err = String;

    /// `%b` body, `%t` topic, `%i` message id, `%g` tag, `%k` keys, `%p{NAME}` a property, `%G` message group, `%l` lite topic, `%P`
    /// priority, `%B` broker, `%q` queue, `%o` offset, `%s` store time in milliseconds, `%%`; `\n`, `\t`.
    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let text = text.replace("\\n", "\n").replace("\\t", "\t");
        let (mut parts, mut plain) = (Vec::new(), String::new());
        let mut rest = text.chars();
        while let Some(next) = rest.next() {
            if next != '%' {
                plain.push(next);
                continue;
            }
            let part = match rest.next() {
                Some('%') => {
                    plain.push('%');
                    continue;
                }
                Some('p') => {
                    let name: String = rest.by_ref().take_while(|c| *c != '}').collect();
                    let name = name.strip_prefix('{').filter(|name| !name.is_empty());
                    Part::Property(name.ok_or("%p wants a name: %p{NAME}")?.to_owned())
                }
                Some(field) if FIELDS.contains(field) => Part::Field(field),
                Some(other) => {
                    return Err(format!(
                        "%{other} is nothing; there are %p{{NAME}}, %% and %{}",
                        FIELDS.chars().map(String::from).collect::<Vec<_>>().join(", %")
                    ));
                }
                None => return Err("a single % at the end; write %%".to_owned()),
            };
            parts.push(Part::Text(std::mem::take(&mut plain)));
            parts.push(part);
        }
        parts.push(Part::Text(plain));
        Ok(Self(parts))
    }
}

impl Template {
    /// The text for a message, to a terminal or elsewhere.
    fn shown(&self, read: &Read, is_terminal: bool) -> Vec<u8> {
        let filled = self.fill(read);
        if is_terminal {
            harmless(&String::from_utf8_lossy(&filled)).into_owned().into_bytes()
        } else {
            filled
        }
    }

    fn fill(&self, read: &Read) -> Vec<u8> {
        let v2::Message { topic, user_properties, system_properties, body } = &read.message;
        let system = system_properties.clone().unwrap_or_default();
        let mut filled = Vec::new();
        for part in &self.0 {
            let text = match part {
                Part::Text(text) => text.clone(),
                Part::Property(name) => user_properties.get(name).cloned().unwrap_or_default(),
                Part::Field('b') => {
                    filled.extend_from_slice(body);
                    continue;
                }
                Part::Field('t') => topic.as_ref().map(|topic| topic.name.clone()).unwrap_or_default(),
                Part::Field('i') => system.message_id.clone(),
                Part::Field('g') => system.tag.clone().unwrap_or_default(),
                Part::Field('k') => system.keys.join(" "),
                Part::Field('G') => system.message_group.clone().unwrap_or_default(),
                Part::Field('l') => system.lite_topic.clone().unwrap_or_default(),
                Part::Field('P') => system.priority.map(|priority| priority.to_string()).unwrap_or_default(),
                Part::Field('B') => read.broker.clone(),
                Part::Field('q') => read.queue.to_string(),
                Part::Field('o') => read.offset.to_string(),
                Part::Field(_) => read.store_ms.to_string(),
            };
            filled.extend_from_slice(text.as_bytes());
        }
        filled
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn example(body: &'static [u8]) -> Read {
        Read {
            broker: "broker-a".into(),
            queue: 3,
            offset: 7,
            store_ms: 1_700_000_000_123,
            message: v2::Message {
                topic: Some(v2::Resource { name: "orders".into(), ..Default::default() }),
                user_properties: [("colour".to_owned(), "red".to_owned())].into(),
                system_properties: Some(v2::SystemProperties {
                    message_id: "01F2".into(),
                    tag: Some("paid".into()),
                    keys: vec!["a".into(), "b".into()],
                    message_group: Some("customer-1".into()),
                    ..Default::default()
                }),
                body: body.into(),
            },
        }
    }

    #[test]
    fn a_template_is_filled() {
        let fill = |template: &str| {
            let template: Template = template.parse().unwrap();
            String::from_utf8(template.fill(&example(b"hello"))).unwrap()
        };
        assert_eq!(
            fill("%t/%B/%q/%o %i %g %k %p{colour}%p{size} %G %b%%\\n"),
            "orders/broker-a/3/7 01F2 paid a b red customer-1 hello%\n"
        );
        let body: Template = "%b".parse().unwrap();
        assert_eq!(body.shown(&example(b"\x1b[2J"), true), br"\u001b[2J");
        assert_eq!(body.shown(&example(b"\x1b[2J\xff"), false), b"\x1b[2J\xff");
        let line = String::from_utf8(Writing::Line.write(&example(b"\x1b[2J\nforged"))).unwrap();
        assert!(line.ends_with("\\u001b[2J\\nforged\n") && line.lines().count() == 1, "{line}");
        for wrong in ["%x", "%", "%p", "%p{}"] {
            assert!(wrong.parse::<Template>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn bodies_that_are_no_text_are_in_base64() {
        assert_eq!(json(&example(b"hello"))["body"], "hello");
        let binary = json(&example(b"\xff\x00"));
        assert_eq!((&binary["bodyBase64"], &binary["body"]), (&json!("/wA="), &Value::Null));
        assert_eq!(binary["messageGroup"], "customer-1");
    }
}
