//! Files with messages: lines of JSON, or a compact binary form.
//!
//! The binary form begins with [`MAGIC`]; then come frames: length of the payload and its CRC-32C, four bytes each with the lowest
//! first, and the payload, an encoded [`Item`]. A line of JSON has the CRC-32C of its body as `crc`. Whatever is torn at the end of a
//! file, as an interruption leaves it, is cut off when it is continued.

use super::item::Item;
use kerolox_report::outcome::{CommandFailure, Result};
use prost::Message as _;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// Version 1 of the binary form.
const MAGIC: &[u8; 8] = b"KRLXMSG\x01";
/// Largest payload that is believed: a message and its properties are far smaller.
const PAYLOAD_MAX: usize = 256 << 20;

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Form {
    /// Lines of JSON
    Jsonl,
    /// Compact, with a checksum for each message
    Binary,
}

impl Form {
    /// That of a file by its name: JSON if it ends in .jsonl or .json.
    pub(super) fn of(path: &Path) -> Self {
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if matches!(extension, "jsonl" | "json" | "ndjson") { Self::Jsonl } else { Self::Binary }
    }
}

/// A file that is written.
pub(super) struct Writer {
    path: PathBuf,
    form: Form,
    out: BufWriter<File>,
}

impl Writer {
    /// A new file; an existing one is not overwritten.
    pub(super) fn create(path: &Path, form: Form) -> Result<Self> {
        let file =
            File::options().write(true).create_new(true).open(path).map_err(|error| match error.kind() {
                ErrorKind::AlreadyExists => CommandFailure::usage(format!(
                    "{} is there already; pass --resume to go on with it, or choose another name",
                    path.display()
                )),
                _ => unwritable(path, &error),
            })?;
        let mut writer = Self { path: path.to_owned(), form, out: BufWriter::new(file) };
        if form == Form::Binary {
            writer.write(MAGIC)?;
        }
        Ok(writer)
    }

    /// Goes on with a file behind `length` bytes; the rest of it is cut off.
    pub(super) fn resume(path: &Path, form: Form, length: u64) -> Result<Self> {
        let open = || -> std::io::Result<File> {
            let mut file = File::options().write(true).open(path)?;
            file.set_len(length)?;
            file.seek(SeekFrom::Start(length))?;
            Ok(file)
        };
        let file = open().map_err(|error| unwritable(path, &error))?;
        let mut writer = Self { path: path.to_owned(), form, out: BufWriter::new(file) };
        if form == Form::Binary && length == 0 {
            writer.write(MAGIC)?;
        }
        Ok(writer)
    }

    pub(super) fn put(&mut self, item: &Item) -> Result<()> {
        let bytes = match self.form {
            Form::Jsonl => format!("{}\n", item.to_json()).into_bytes(),
            Form::Binary => frame(item),
        };
        self.write(&bytes)
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.out.flush().map_err(|error| unwritable(&self.path, &error))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).map_err(|error| unwritable(&self.path, &error))
    }
}

fn frame(item: &Item) -> Vec<u8> {
    let payload = item.encode_to_vec();
    let length = u32::try_from(payload.len()).expect("a message is smaller than 4 GiB");
    let mut frame = Vec::with_capacity(payload.len() + 8);
    frame.extend_from_slice(&length.to_le_bytes());
    frame.extend_from_slice(&crc32c::crc32c(&payload).to_le_bytes());
    frame.extend_from_slice(&payload);
    frame
}

fn unwritable(path: &Path, error: &std::io::Error) -> CommandFailure {
    CommandFailure::failed(format!("cannot write {}: {error}", path.display()))
}

/// A file that is read, item by item.
pub(super) struct Reader {
    path: PathBuf,
    form: Form,
    input: BufReader<File>,
    /// Where the last whole item ends.
    pub(super) good: u64,
}

/// The next part of a file.
pub(super) enum Next {
    Item(Box<Item>),
    End,
    /// The file ends in the middle of an item.
    Torn,
}

impl Reader {
    pub(super) fn open(path: &Path, form: Form) -> Result<Self> {
        let file = File::open(path)
            .map_err(|error| CommandFailure::not_found(format!("cannot read {}: {error}", path.display())))?;
        let mut reader = Self { path: path.to_owned(), form, input: BufReader::new(file), good: 0 };
        if form == Form::Binary {
            let mut magic = [0; MAGIC.len()];
            match reader.input.read_exact(&mut magic) {
                Ok(()) if magic == *MAGIC => reader.good = MAGIC.len() as u64,
                Ok(()) => {
                    return Err(CommandFailure::usage(format!(
                        "{} is no file of messages in binary form, or one of a later version; lines of JSON end in .jsonl",
                        path.display()
                    )));
                }
                // It was interrupted before anything was written.
                Err(_) => {}
            }
        }
        Ok(reader)
    }

    pub(super) fn next(&mut self) -> Result<Next> {
        match self.form {
            Form::Jsonl => self.next_line(),
            Form::Binary => self.next_frame(),
        }
    }

    fn next_line(&mut self) -> Result<Next> {
        let mut line = String::new();
        let read = self.input.read_line(&mut line).map_err(|error| self.unreadable(&error.to_string()))?;
        if read == 0 {
            return Ok(Next::End);
        }
        if !line.ends_with('\n') {
            return Ok(Next::Torn);
        }
        let item = serde_json::from_str(&line).map_err(|error| error.to_string());
        let item = item
            .and_then(|value: Value| Item::from_json(&value))
            .map_err(|reason| self.unreadable(&reason))?;
        self.good += read as u64;
        Ok(Next::Item(Box::new(item)))
    }

    fn next_frame(&mut self) -> Result<Next> {
        if self.good == 0 {
            return Ok(Next::End);
        }
        let mut head = [0; 8];
        match fill(&mut self.input, &mut head) {
            Ok(0) => return Ok(Next::End),
            Ok(8) => {}
            Ok(_) => return Ok(Next::Torn),
            Err(error) => return Err(self.unreadable(&error.to_string())),
        }
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (length, crc) = (word(0) as usize, word(4));
        if length > PAYLOAD_MAX {
            return Err(self.unreadable("a frame of impossible length: the file is damaged"));
        }
        let mut payload = vec![0; length];
        match fill(&mut self.input, &mut payload) {
            Ok(read) if read == length => {}
            Ok(_) => return Ok(Next::Torn),
            Err(error) => return Err(self.unreadable(&error.to_string())),
        }
        if crc32c::crc32c(&payload) != crc {
            return Err(self.unreadable("a frame does not fit its checksum: the file is damaged"));
        }
        let item = Item::decode(payload.as_slice()).map_err(|error| self.unreadable(&error.to_string()))?;
        self.good += 8 + length as u64;
        Ok(Next::Item(Box::new(item)))
    }

    fn unreadable(&self, reason: &str) -> CommandFailure {
        CommandFailure::failed(format!("{}, behind byte {}: {reason}", self.path.display(), self.good))
    }
}

/// Reads until the buffer is full or the file ends; returns how much there was.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// What a summary says about a file.
pub(super) fn summary(path: &Path, items: u64) -> Value {
    json!({ "file": path.display().to_string(), "messages": items })
}

#[cfg(test)]
mod tests {
    use super::super::item::SCHEDULED;
    use super::*;
    use crate::command::message::show::tests::example;
    use kerolox_proto::v2::MessageType;

    fn items() -> Vec<Item> {
        let mut second = Item::new(example(b"\xff\xfe"));
        (second.queue, second.offset) = SCHEDULED;
        let mut third = Item::new(example(b""));
        if let Some(system) = third.message.as_mut().and_then(|message| message.system_properties.as_mut()) {
            system.delivery_timestamp = Some(prost_types::Timestamp { seconds: 7, nanos: 8_000_000 });
            system.message_type = MessageType::Transaction.into();
            system.priority = Some(3);
        }
        vec![Item::new(example(b"text")), second, third]
    }

    fn read(path: &Path, form: Form) -> (Vec<Item>, bool, u64) {
        let mut reader = Reader::open(path, form).unwrap();
        let mut items = Vec::new();
        loop {
            match reader.next().unwrap() {
                Next::Item(item) => items.push(*item),
                Next::End => return (items, false, reader.good),
                Next::Torn => return (items, true, reader.good),
            }
        }
    }

    #[test]
    fn files_are_read_as_they_were_written_and_go_on_where_they_were_torn() {
        for form in [Form::Jsonl, Form::Binary] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("messages");
            let mut writer = Writer::create(&path, form).unwrap();
            items().iter().for_each(|item| writer.put(item).unwrap());
            writer.flush().unwrap();
            let (found, torn, length) = read(&path, form);
            assert_eq!((found, torn), (items(), false), "{form:?}");
            assert_eq!(length, std::fs::metadata(&path).unwrap().len());
            assert!(Writer::create(&path, form).is_err(), "nothing is overwritten");

            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
            let (found, torn, good) = read(&path, form);
            assert_eq!((found.len(), torn), (2, true), "{form:?}");
            let mut writer = Writer::resume(&path, form, good).unwrap();
            writer.put(&items()[2]).unwrap();
            writer.flush().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), whole, "{form:?}");
        }
    }

    #[test]
    fn damage_is_found() {
        for form in [Form::Jsonl, Form::Binary] {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("messages");
            let mut writer = Writer::create(&path, form).unwrap();
            writer.put(&items()[0]).unwrap();
            writer.flush().unwrap();
            let text = std::fs::read(&path).unwrap();
            let at = text.windows(4).position(|part| part == b"text").unwrap();
            let mut damaged = text.clone();
            damaged[at] = b'T';
            std::fs::write(&path, damaged).unwrap();
            let failure = Reader::open(&path, form).unwrap().next().err().unwrap();
            assert!(failure.message.contains("damaged"), "{}", failure.message);
        }
    }

    #[test]
    fn fixtures_of_version_1_are_read_and_written_alike() {
        for (name, form) in [("messages-v1.jsonl", Form::Jsonl), ("messages-v1.bin", Form::Binary)] {
            let fixture = Path::new("fixtures").join(name);
            assert_eq!(read(&fixture, form).0, items(), "{name}");
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(name);
            let mut writer = Writer::create(&path, form).unwrap();
            items().iter().for_each(|item| writer.put(item).unwrap());
            writer.flush().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&fixture).unwrap(), "{name}");
        }
    }
}
