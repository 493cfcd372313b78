//! Requests on their way in. Bytes are counted as they come, so that no caller is lent more than there is.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Bytes, HttpBody};
use http_body::Frame;
use kerolox_model::limits::GRPC_DECODE_BYTES_MAX;
use tonic::Status;
use tonic::body::Body;

use super::work::{End, Kind, Work};
use crate::memory::Level;

/// Most bytes of a request of the protocol that carries no messages, and of what a client says on its Telemetry stream.
pub(super) const REQUEST_BYTES_MAX: usize = 1 << 20;
/// Most bytes of a reply on a Telemetry stream, which shows the stacks of all threads of a client. It takes as much memory as it has
/// bytes, where settings may take fifty times as much.
const REPLY_BYTES_MAX: usize = 4 << 20;
/// Within so many bytes a large message shows that it is a reply.
const REPLY_HEAD_MAX: usize = 4 << 10;
/// Most messages of one request: a message without anything takes two bytes there, and hundreds here.
pub(super) const MESSAGES_MAX: usize = 16 << 10;
/// Flag and length in front of each message of gRPC.
const HEAD: usize = 5;

/// The outcome of reading a request.
pub(super) enum Gathered {
    /// It is all there.
    Request(Request),
    /// It was ended before.
    Ended(End),
    /// It has more bytes than it may have.
    TooLarge(usize),
    /// It has more messages than it may have.
    TooMany,
    /// The connection, or the client, broke it off.
    Broken(Status),
}

/// Reads all of a request before a service sees any of it: a service that waits with the first bytes would leave the others
/// where they are not counted.
pub(super) async fn gather(work: &Work, mut body: Body) -> Gathered {
    let most = if work.kind == Kind::Poll { REQUEST_BYTES_MAX } else { GRPC_DECODE_BYTES_MAX };
    let mut request = Request { frames: VecDeque::new() };
    let mut bytes = 0;
    loop {
        let frame = tokio::select! {
            biased;
            why = poll_fn(|cx| work.poll_ended(cx)) => return Gathered::Ended(why),
            frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)) => frame,
        };
        let frame = match frame {
            None if work.kind == Kind::Send && request.has_too_many() => return Gathered::TooMany,
            None => return Gathered::Request(request),
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Gathered::Broken(Status::from_error(error.into())),
        };
        let len = frame.data_ref().map_or(0, Bytes::len);
        if frame.is_data() && len == 0 {
            continue;
        }
        bytes += len;
        if bytes > most + HEAD {
            return Gathered::TooLarge(most);
        }
        let is_there = tokio::select! {
            biased;
            why = poll_fn(|cx| work.poll_ended(cx)) => return Gathered::Ended(why),
            is_there = work.acquire(len * work.kind.factor(), Level::Grow) => is_there,
        };
        if !is_there {
            return Gathered::Ended(End::Room);
        }
        request.frames.push_back(frame);
    }
}

/// A request that is all there.
pub(super) struct Request {
    frames: VecDeque<Frame<Bytes>>,
}

impl Request {
    /// Whether it holds more messages than one request may. Messages are passed over by their length.
    fn has_too_many(&self) -> bool {
        let mut parts = self.frames.iter().filter_map(Frame::data_ref).map(|bytes| bytes.as_ref());
        let mut left: &[u8] = parts.next().unwrap_or_default();
        let mut skip = HEAD;
        for _ in 0..=MESSAGES_MAX {
            // Past what came before, then past the tag, to the length.
            let mut length = 0_usize;
            let mut shift = 0;
            let mut is_length = false;
            loop {
                while skip >= left.len() {
                    skip -= left.len();
                    let Some(next) = parts.next() else { return false };
                    left = next;
                }
                let byte = left[skip];
                left = &left[skip + 1..];
                skip = 0;
                if is_length {
                    length |= usize::from(byte & 127).checked_shl(shift).unwrap_or(0);
                    shift += 7;
                    if byte < 128 || shift > 28 {
                        break;
                    }
                }
                // Tags of the fields that there are take one byte.
                is_length = true;
            }
            skip = length;
        }
        true
    }
}

impl HttpBody for Request {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Poll::Ready(self.frames.pop_front().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_empty()
    }
}

type Room = Pin<Box<dyn Future<Output = bool> + Send>>;

/// The client's side of a long stream. Its last message is counted until the next one comes: the server keeps what it made of
/// it.
pub(super) struct SessionBody {
    body: Body,
    work: Arc<Work>,
    messages: Messages,
    /// A frame for which there is no room yet.
    waiting: Option<(Room, Frame<Bytes>)>,
}

impl SessionBody {
    pub(super) fn new(body: Body, work: Arc<Work>) -> Self {
        Self { body, work, messages: Messages::default(), waiting: None }
    }

    /// Whether there is room for a frame.
    fn poll_room(&mut self, cx: &mut Context<'_>, frame: Frame<Bytes>) -> Poll<Result<Frame<Bytes>, Status>> {
        let Some(bytes) = frame.data_ref() else { return Poll::Ready(Ok(frame)) };
        let Some(Taken { give, take }) = self.messages.add(bytes) else {
            self.work.end(End::Large);
            return Poll::Ready(Err(over()));
        };
        let factor = self.work.kind.factor();
        self.work.give(give * factor);
        if self.work.take(take * factor, Level::Grow) {
            return Poll::Ready(Ok(frame));
        }
        let work = self.work.clone();
        let room: Room = Box::pin(async move { work.acquire(take * factor, Level::Grow).await });
        self.waiting = Some((room, frame));
        self.poll_waiting(cx)
    }

    fn poll_waiting(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame<Bytes>, Status>> {
        let Some((room, _)) = &mut self.waiting else { return Poll::Pending };
        let has_room = ready!(room.as_mut().poll(cx));
        let (_, frame) = self.waiting.take().expect("it was there");
        if has_room {
            return Poll::Ready(Ok(frame));
        }
        self.work.end(End::Room);
        Poll::Ready(Err(over()))
    }
}

/// The error for the service; the client gets the reason.
fn over() -> Status {
    Status::resource_exhausted("the server ended this stream")
}

impl HttpBody for SessionBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.work.poll_ended(cx).is_ready() {
            return Poll::Ready(Some(Err(over())));
        }
        if self.waiting.is_some() {
            return self.poll_waiting(cx).map(Some);
        }
        match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => self.poll_room(cx, frame).map(Some),
            other => Poll::Ready(other),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.waiting.is_none() && self.body.is_end_stream()
    }
}

/// Where the messages of a stream begin and end.
#[derive(Debug, Default)]
struct Messages {
    head: Vec<u8>,
    /// Bytes of the message that are still to come.
    left: usize,
    /// Bytes that are counted for the message.
    counted: usize,
    /// A large message begins, which may be a reply.
    large: Option<LargeReply>,
}

/// The beginning of a message that is larger than anything but a reply may be.
#[derive(Debug, Default)]
struct LargeReply {
    /// Bytes of the message in all.
    len: usize,
    begin: Vec<u8>,
}

impl LargeReply {
    /// More bytes of the message; whether it is a reply, once that shows.
    fn add(&mut self, bytes: &[u8]) -> Option<bool> {
        let room = REPLY_HEAD_MAX - self.begin.len();
        self.begin.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.is_reply().or((self.begin.len() == REPLY_HEAD_MAX).then_some(false))
    }

    /// Whether the message holds a status at most and one reply to its end; `None` while too little of it is there. The tags are those
    /// of `TelemetryCommand`.
    fn is_reply(&self) -> Option<bool> {
        const STATUS: u8 = 1 << 3 | 2;
        const THREAD_STACK_TRACE: u8 = 3 << 3 | 2;
        const VERIFY_MESSAGE_RESULT: u8 = 4 << 3 | 2;
        let mut at = 0;
        loop {
            let tag = *self.begin.get(at)?;
            let mut rest = self.begin.get(at + 1..)?;
            let len = match prost::encoding::decode_varint(&mut rest) {
                Ok(len) => usize::try_from(len).ok(),
                Err(_) if self.begin.len() < at + 11 => return None,
                Err(_) => return Some(false),
            };
            let begin = self.begin.len() - rest.len();
            let Some(end) = len.and_then(|len| begin.checked_add(len)) else { return Some(false) };
            match tag {
                STATUS if at == 0 && end < self.len => at = end,
                THREAD_STACK_TRACE | VERIFY_MESSAGE_RESULT => return Some(end == self.len),
                _ => return Some(false),
            }
        }
    }
}

/// What more bytes change.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    /// Bytes of messages before.
    give: usize,
    /// Bytes that came.
    take: usize,
}

impl Messages {
    /// More bytes came; `None` when a message is too large.
    fn add(&mut self, mut bytes: &[u8]) -> Option<Taken> {
        let before = self.counted;
        let mut is_new = false;
        while !bytes.is_empty() {
            if self.left == 0 {
                let (head, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
                self.head.extend_from_slice(head);
                bytes = rest;
                if let [_, len @ ..] = self.head.as_slice()
                    && let Ok(len) = <[u8; 4]>::try_from(len)
                {
                    self.left = usize::try_from(u32::from_be_bytes(len)).ok()?;
                    if self.left > REPLY_BYTES_MAX {
                        return None;
                    }
                    let is_large = self.left > REQUEST_BYTES_MAX;
                    self.large = is_large.then(|| LargeReply { len: self.left, begin: Vec::new() });
                    self.head.clear();
                    self.counted = 0;
                    is_new = true;
                }
            } else {
                let part = bytes.len().min(self.left);
                match self.large.as_mut().map(|large| large.add(&bytes[..part])) {
                    Some(Some(false)) => return None,
                    Some(Some(true)) => self.large = None,
                    Some(None) | None => {}
                }
                self.left -= part;
                self.counted += part;
                bytes = &bytes[part..];
            }
        }
        Some(match is_new {
            true => Taken { give: before, take: self.counted },
            false => Taken { give: 0, take: self.counted - before },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_request_are_counted_over_its_frames() {
        let request = |messages: usize, len: u8, frame: usize| {
            let mut bytes = vec![0; HEAD];
            for _ in 0..messages {
                bytes.extend([0x0a, len]);
                bytes.extend(vec![9; usize::from(len)]);
            }
            let frames = bytes.chunks(frame).map(|part| Frame::data(Bytes::copy_from_slice(part)));
            Request { frames: frames.collect() }
        };
        for frame in [1, 3, 7, 1 << 14] {
            assert!(!request(MESSAGES_MAX, 0, frame).has_too_many(), "{frame}");
            assert!(request(MESSAGES_MAX + 1, 0, frame).has_too_many(), "{frame}");
            assert!(!request(100, 100, frame).has_too_many(), "{frame}");
            assert!(request(MESSAGES_MAX + 2, 3, frame).has_too_many(), "{frame}");
        }
        assert!(!request(0, 0, 9).has_too_many());
    }

    #[test]
    fn a_message_counts_until_the_next_one_comes() {
        let mut messages = Messages::default();
        let taken = |give, take| Some(Taken { give, take });
        assert_eq!(messages.add(&[0, 0, 0]), taken(0, 0));
        assert_eq!(messages.add(&[0, 4, 1, 2]), taken(0, 2));
        assert_eq!(messages.add(&[3]), taken(0, 1));
        assert_eq!(messages.add(&[4]), taken(0, 1));
        assert_eq!(messages.add(&[0, 0, 0, 0, 1, 9, 0, 0, 0, 0, 2, 7]), taken(4, 1), "two at once");
        assert_eq!(messages.add(&[8, 0, 0, 0, 0, 0]), taken(1, 0));
        assert_eq!(messages.add(&[0, 0, 64, 0, 1]), None);
    }

    #[test]
    fn a_large_message_of_a_stream_has_to_be_a_reply() {
        use kerolox_proto::v2::{self, telemetry_command::Command};
        use prost::Message as _;
        let stream = |command: &v2::TelemetryCommand, then: &[u8]| {
            let mut message = command.encode_to_vec();
            message.extend(then);
            let mut bytes = vec![0];
            bytes.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
            bytes.extend(message);
            bytes
        };
        let is_taken = |bytes: &[u8], part: usize| {
            let mut messages = Messages::default();
            bytes.chunks(part).all(|part| messages.add(part).is_some())
        };
        let dump = |len: usize| {
            Command::ThreadStackTrace(v2::ThreadStackTrace {
                nonce: "n".to_owned(),
                thread_stack_trace: Some("t".repeat(len)),
            })
        };
        let reply =
            |command| v2::TelemetryCommand { status: Some(v2::Status::default()), command: Some(command) };
        let settings = v2::Settings {
            user_agent: Some(v2::Ua { hostname: "h".repeat(2 << 20), ..Default::default() }),
            ..Default::default()
        };
        let settings = reply(Command::Settings(settings));
        let empty_settings = [2 << 3 | 2, 0];
        for part in [1, 7, 1 << 14] {
            assert!(is_taken(&stream(&reply(dump(3 << 20)), &[]), part), "{part}");
            assert!(!is_taken(&stream(&reply(dump(3 << 20)), &empty_settings), part), "settings behind it");
            assert!(!is_taken(&stream(&reply(dump(5 << 20)), &[]), part), "too large");
            assert!(!is_taken(&stream(&settings, &[]), part));
        }
        let mut long = reply(dump(2 << 20));
        long.status = Some(v2::Status { code: 1, message: "s".repeat(REPLY_HEAD_MAX) });
        assert!(!is_taken(&stream(&long, &[]), 100), "the end of its status is out of sight");
    }
}
