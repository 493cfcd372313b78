//! Requests on their way in. What has come is counted as it comes, so that nobody is lent more than there is.

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
/// Most messages of one request: a message without anything takes two bytes there, and hundreds here.
pub(super) const MESSAGES_MAX: usize = 16 << 10;
/// Flag and length in front of each message of gRPC.
const HEAD: usize = 5;

/// What became of a request.
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

/// What a client says on a stream that lasts. Its last message is counted until the next one comes: what is made of it is kept.
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

/// What the service hears; the client is told why.
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
                    if self.left > REQUEST_BYTES_MAX {
                        return None;
                    }
                    self.head.clear();
                    self.counted = 0;
                    is_new = true;
                }
            } else {
                let part = bytes.len().min(self.left);
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
        assert_eq!(messages.add(&[0, 0, 16, 0, 1]), None);
    }
}
