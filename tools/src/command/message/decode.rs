//! `DecodeMessageId`.

use clap::Args;
use kerolox_report::outcome::{CommandFailure, Result};
use kerolox_report::output::{CommandReport, OutputFormat, local_time};
use serde_json::json;

/// 1 January 2021 in UTC, from which the ids of RocketMQ 5 count: milliseconds since the Unix epoch.
const EPOCH_2021_MS: i64 = 1_609_459_200_000;
/// Hexadecimal digits of such an id: version, machine, process, seconds, number.
const LENGTH: usize = 34;

/// Decode the id of a message: the machine and process that sent it, the time, and its sequence number
#[derive(Debug, Args)]
pub(crate) struct DecodeMessageId {
    /// Id of the message
    #[arg(value_name = "ID", required_unless_present = "named", conflicts_with = "named")]
    id: Option<String>,
    /// Id of the message, as a flag
    #[arg(short = 'i', long = "message-id", alias = "messageId", value_name = "ID", id = "named")]
    named: Option<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value_t = OutputFormat::Table)]
    pub(crate) output: OutputFormat,
}

/// The parts of an id.
#[derive(Debug, PartialEq)]
struct Decoded {
    machine: String,
    process: u16,
    sent_ms: i64,
    number: u32,
}

impl DecodeMessageId {
    pub(crate) async fn run(self) -> Result<CommandReport> {
        let id = self.id.or(self.named).unwrap_or_default();
        let decoded = decode(&id).ok_or_else(|| {
            CommandFailure::usage(format!(
                "{id:?} is no message id of RocketMQ 5: those have {LENGTH} hexadecimal digits and begin with 01"
            ))
        })?;
        let Decoded { machine, process, sent_ms, number } = decoded;
        let text = format!(
            "machine  {machine}\nprocess  {process} (the lower 16 bits of its id)\nsent     {} (whole seconds)\nnumber   {number}",
            local_time(sent_ms)
        );
        let json = json!({ "machine": machine, "process": process, "sentMs": sent_ms, "number": number });
        Ok(CommandReport::ok(text, json))
    }
}

fn decode(id: &str) -> Option<Decoded> {
    let is_hex = id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if id.len() != LENGTH || !is_hex || !id.starts_with("01") {
        return None;
    }
    let number = |from: usize, to: usize| u32::from_str_radix(&id[from..to], 16).ok();
    let machine: Vec<&str> = (2..14).step_by(2).map(|at| &id[at..at + 2]).collect();
    Some(Decoded {
        machine: machine.join(":"),
        process: u16::try_from(number(14, 18)?).ok()?,
        sent_ms: EPOCH_2021_MS + i64::from(number(18, 26)?) * 1000,
        number: number(26, 34)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_apart() {
        let decoded = decode("01AABBCCDDEEFF12340000003C00000007").unwrap();
        assert_eq!(
            (decoded.machine.as_str(), decoded.process, decoded.number),
            ("AA:BB:CC:DD:EE:FF", 0x1234, 7)
        );
        assert_eq!(decoded.sent_ms, EPOCH_2021_MS + 60_000);
        for wrong in ["", "01F2", "02AABBCCDDEEFF12340000003C00000007", "01ZABBCCDDEEFF12340000003C00000007"]
        {
            assert_eq!(decode(wrong), None, "{wrong}");
        }
    }
}
