//! Protobuf fields in place: read and written without decoding the message around them.

use std::ops::Range;

use prost_types::Duration;

/// Bytes that are malformed, or valid but in a form that not every protobuf library accepts or reads alike: longer
/// numbers than necessary, groups, a repeated singular field. Decoding tells which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its fields are not in the form in which protobuf libraries write them")]
pub(crate) struct Irregular;

/// The fields of one encoded message, in order.
pub(super) struct Fields<'a> {
    bytes: &'a [u8],
    next: usize,
    /// One bit for each field number below 64.
    seen: u64,
}

/// One field.
pub(super) struct WireField<'a> {
    pub(super) number: u32,
    /// Whether the message had this field before; tracked for numbers below 64.
    pub(super) repeated: bool,
    /// Its range in the message, with its key.
    pub(super) at: Range<usize>,
    value: Value<'a>,
}

enum Value<'a> {
    Varint(u64),
    Bytes(&'a [u8]),
    /// Four or eight bytes; the protocol has no such field.
    Fixed,
}

impl<'a> Fields<'a> {
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self { bytes, next: 0, seen: 0 }
    }

    /// The next field; `None` at the end of the message.
    pub(super) fn next(&mut self) -> Result<Option<WireField<'a>>, Irregular> {
        let start = self.next;
        if start == self.bytes.len() {
            return Ok(None);
        }
        let key = u32::try_from(self.varint()?).map_err(|_| Irregular)?;
        let number = key >> 3;
        let value = match key & 7 {
            _ if number == 0 => return Err(Irregular),
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed)?,
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(len)?)
            }
            5 => self.take(4).map(|_| Value::Fixed)?,
            _ => return Err(Irregular),
        };
        let bit = if number < 64 { 1 << number } else { 0 };
        let repeated = self.seen & bit != 0;
        self.seen |= bit;
        Ok(Some(WireField { number, repeated, at: start..self.next, value }))
    }

    /// A number in its shortest form.
    fn varint(&mut self) -> Result<u64, Irregular> {
        let mut value = 0;
        for (place, &byte) in self.bytes[self.next..].iter().enumerate() {
            let bits = u64::from(byte & 0x7f);
            if place == 9 && byte > 1 {
                return Err(Irregular);
            }
            value |= bits << (7 * place);
            if byte < 0x80 {
                self.next += place + 1;
                return if byte == 0 && place > 0 { Err(Irregular) } else { Ok(value) };
            }
        }
        Err(Irregular)
    }

    fn take(&mut self, len: u64) -> Result<&'a [u8], Irregular> {
        let len = usize::try_from(len).map_err(|_| Irregular)?;
        let taken = self.bytes[self.next..].get(..len).ok_or(Irregular)?;
        self.next += len;
        Ok(taken)
    }
}

impl<'a> WireField<'a> {
    pub(super) fn bytes(&self) -> Result<&'a [u8], Irregular> {
        match self.value {
            Value::Bytes(bytes) => Ok(bytes),
            Value::Varint(_) | Value::Fixed => Err(Irregular),
        }
    }

    pub(super) fn text(&self) -> Result<&'a str, Irregular> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Irregular)
    }

    /// Two strings with numbers 1 and 2: a resource, or an entry of a map.
    pub(super) fn pair(&self) -> Result<(&'a str, &'a str), Irregular> {
        let (mut first, mut second) = ("", "");
        let mut fields = Fields::of(self.bytes()?);
        while let Some(field) = fields.next()? {
            match field.number {
                1 if !field.repeated => first = field.text()?,
                2 if !field.repeated => second = field.text()?,
                _ => return Err(Irregular),
            }
        }
        Ok((first, second))
    }

    /// A timestamp or a duration, which share a form.
    pub(super) fn time(&self) -> Result<Duration, Irregular> {
        let mut time = Duration::default();
        let mut fields = Fields::of(self.bytes()?);
        while let Some(field) = fields.next()? {
            match field.number {
                1 if !field.repeated => time.seconds = field.varint()?.cast_signed(),
                2 if !field.repeated => time.nanos = field.int32()?,
                _ => return Err(Irregular),
            }
        }
        Ok(time)
    }

    pub(super) fn int32(&self) -> Result<i32, Irregular> {
        // Protobuf truncates a longer number.
        Ok(self.varint()? as i32)
    }

    fn varint(&self) -> Result<u64, Irregular> {
        match self.value {
            Value::Varint(value) => Ok(value),
            Value::Bytes(_) | Value::Fixed => Err(Irregular),
        }
    }
}

/// Appends a number, even a zero: an explicit zero replaces an earlier value.
pub(super) fn put_varint(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number) << 3);
    varint(out, value);
}

/// Appends an `int32`, a number that is sent with its sign extended.
pub(super) fn put_int32(out: &mut Vec<u8>, number: u32, value: i32) {
    put_varint(out, number, i64::from(value).cast_unsigned());
}

/// Appends a string, bytes or an encoded message.
pub(super) fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_len(out, number, value.len());
    out.extend_from_slice(value);
}

/// Begins a string, bytes or an encoded message of `len` bytes, which the caller appends.
pub(super) fn put_len(out: &mut Vec<u8>, number: u32, len: usize) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, len as u64);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, 536_870_911, value);
            put_bytes(&mut out, 2, b"text");
            let mut fields = Fields::of(&out);
            let field = fields.next().expect("regular").expect("first");
            assert_eq!((field.number, field.varint()), (536_870_911, Ok(value)));
            let second = fields.next().expect("regular").expect("second");
            assert_eq!((second.text(), second.at.end), (Ok("text"), out.len()));
            assert!(fields.next().expect("regular").is_none());
        }
        let mut out = Vec::new();
        put_int32(&mut out, 1, -2);
        assert_eq!(Fields::of(&out).next().expect("regular").expect("one").int32(), Ok(-2));
    }

    #[test]
    fn what_libraries_would_not_write_is_irregular() {
        let cases: [&[u8]; 11] = [
            &[0x00, 0x01],                                                             // field number 0
            &[0x88, 0x00, 0x01], // a key longer than necessary
            &[0x08, 0x81, 0x00], // a value longer than necessary
            &[0x08, 0x80],       // a value cut off
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02], // beyond 64 bits
            &[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], // eleven bytes
            &[0x0a, 0x02, b'x'], // bytes cut off
            &[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01], // a length of 2^64 - 1
            &[0x0b, 0x0c],       // a group
            &[0x0d, 1, 2, 3],    // four bytes cut off
            &[0x0f],             // no such wire type
        ];
        for case in cases {
            assert!(Fields::of(case).next().is_err(), "{case:02x?}");
        }
    }
}
