//! Durations and sizes as people write them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is no duration or size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct UnitError {
    text: String,
    expected: &'static str,
}

/// A duration in whole milliseconds, written as `500ms`, `6s`, `5m`, `2h` or `7d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeSpan {
    milliseconds: u64,
}

/// A size in bytes, written as `512B`, `64KiB`, `64MiB`, `1GiB` or `2TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize {
    bytes: u64,
}

/// Units from the smallest to the largest, each with its worth in the smallest.
type Units = &'static [(&'static str, u64)];

const SPAN_UNITS: Units = &[("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: Units = &[("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40)];

impl TimeSpan {
    /// So many milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self { milliseconds }
    }

    /// So many seconds, fewer than 10^16.
    pub const fn from_secs(seconds: u64) -> Self {
        Self { milliseconds: seconds * 1000 }
    }

    /// The duration in milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.milliseconds
    }

    /// The duration as the standard library has it.
    pub const fn duration(self) -> Duration {
        Duration::from_millis(self.milliseconds)
    }
}

impl ByteSize {
    /// So many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self { bytes }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.bytes
    }

    /// The size in bytes, or the largest that this machine can address.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }
}

impl FromStr for TimeSpan {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let expected = "a duration; write a whole number and a unit, as in 500ms, 6s, 5m, 2h or 7d";
        let milliseconds =
            parse(text, SPAN_UNITS).ok_or_else(|| UnitError { text: text.to_owned(), expected })?;
        Ok(Self { milliseconds })
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let expected = "a size; write a whole number and a unit, as in 512B, 64KiB, 64MiB or 1GiB";
        let bytes = parse(text, SIZE_UNITS).ok_or_else(|| UnitError { text: text.to_owned(), expected })?;
        Ok(Self { bytes })
    }
}

impl fmt::Display for TimeSpan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_in(f, self.milliseconds, SPAN_UNITS)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_in(f, self.bytes, SIZE_UNITS)
    }
}

fn parse(text: &str, units: Units) -> Option<u64> {
    let text = text.trim();
    let number_end = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(number_end);
    let (_, worth) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*worth)
}

/// Writes the amount in the largest unit that leaves no rest; zero in the smallest.
fn write_in(f: &mut fmt::Formatter<'_>, amount: u64, units: Units) -> fmt::Result {
    let fits = |(_, worth): &&(&str, u64)| amount >= *worth && amount.is_multiple_of(*worth);
    let (unit, worth) = units.iter().rev().find(fits).unwrap_or(&units[0]);
    write!(f, "{}{unit}", amount / worth)
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

serde_as_text!(TimeSpan);
serde_as_text!(ByteSize);
