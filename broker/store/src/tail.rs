//! The newest messages, kept in memory: most are read once or twice soon after they are stored, and then need neither
//! the disk nor another checksum.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};

use kerolox_core::record::RecordKind;
use kerolox_log::Frame;

/// The newest frames in the order of their positions, up to a number of bytes.
pub(crate) struct Tail {
    bytes_max: usize,
    frames: RwLock<Frames>,
}

#[derive(Default)]
struct Frames {
    queue: VecDeque<Frame>,
    bytes: usize,
}

impl Tail {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, frames: RwLock::default() }
    }

    /// Adds messages, each behind all previous ones; other records are not read again and left out.
    pub(crate) fn extend(&self, frames: impl IntoIterator<Item = Frame>) {
        let mut tail = self.frames.write().unwrap_or_else(PoisonError::into_inner);
        for frame in frames.into_iter().filter(|frame| frame.kind == RecordKind::Message as u8) {
            let is_behind = |newest: &Frame| newest.end() <= frame.position;
            assert!(tail.queue.back().is_none_or(is_behind), "messages come in the order of the log");
            tail.bytes += frame.len as usize;
            tail.queue.push_back(frame);
            while tail.bytes > self.bytes_max
                && let Some(oldest) = tail.queue.pop_front()
            {
                tail.bytes -= oldest.len as usize;
            }
        }
    }

    /// Forgets frames at `from` or behind it.
    pub(crate) fn truncate(&self, from: u64) {
        let mut tail = self.frames.write().unwrap_or_else(PoisonError::into_inner);
        while tail.queue.back().is_some_and(|frame| frame.position >= from)
            && let Some(newest) = tail.queue.pop_back()
        {
            tail.bytes -= newest.len as usize;
        }
    }

    /// The message at a position, if it is among the newest.
    pub(crate) fn get(&self, position: u64) -> Option<Frame> {
        let tail = self.frames.read().unwrap_or_else(PoisonError::into_inner);
        let at = tail.queue.binary_search_by_key(&position, |frame| frame.position).ok()?;
        tail.queue.get(at).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn frame(position: u64, kind: RecordKind) -> Frame {
        Frame { position, len: 64, kind: kind as u8, epoch: 1, store_ms: 0, body: Bytes::new() }
    }

    #[test]
    fn the_newest_messages_are_kept_up_to_the_limit() {
        let tail = Tail::new(3 * 64);
        tail.extend((1..=5).map(|i| frame(i * 64, RecordKind::Message)));
        tail.extend([frame(6 * 64, RecordKind::Progress)]);
        let kept: Vec<u64> = (1..=7).filter(|i| tail.get(i * 64).is_some()).collect();
        assert_eq!(kept, [3, 4, 5]);
        assert_eq!(tail.get(65), None);
        tail.truncate(4 * 64);
        assert_eq!((tail.get(3 * 64).is_some(), tail.get(4 * 64), tail.get(5 * 64)), (true, None, None));
        let nothing = Tail::new(0);
        nothing.extend([frame(64, RecordKind::Message)]);
        assert_eq!(nothing.get(64), None);
    }
}
