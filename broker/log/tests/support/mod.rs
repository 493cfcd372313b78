//! Shared parts of the log's tests.

#![allow(dead_code, reason = "every test file uses a part of it")]

use std::sync::Arc;

use kerolox_log::fs::MemFolder;
use kerolox_log::{
    DamagedRange, Frame, FrameSalt, Log, LogError, LogOptions, LogReader, NewFrame, RecoveredLog,
};

/// Small segments, and a checkpoint that lags behind.
pub(crate) const SMALL: LogOptions =
    LogOptions { segment_bytes: 512, checkpoint_bytes: 256, ..LogOptions::new(FrameSalt::new(7)) };

pub(crate) fn open(folder: &MemFolder) -> (Log, RecoveredLog) {
    open_with(folder, SMALL)
}

pub(crate) fn open_with(folder: &MemFolder, options: LogOptions) -> (Log, RecoveredLog) {
    Log::open(Arc::new(folder.clone()), options).expect("the log opens")
}

pub(crate) fn record(i: usize) -> NewFrame {
    NewFrame { kind: 1, body: format!("record {i} {}", "x".repeat(i * 7 % 90)).into() }
}

/// Appends one record; the answer is its position and length.
pub(crate) fn append(log: &mut Log, i: usize) -> (u64, u32) {
    log.append(&[record(i)], 1, 5).expect("appended")[0]
}

/// A reader's view of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) frames: Vec<Frame>,
    pub(crate) damaged: Vec<DamagedRange>,
    pub(crate) end: u64,
}

impl Content {
    pub(crate) fn of(reader: &LogReader) -> Self {
        let mut content = Self { frames: Vec::new(), damaged: Vec::new(), end: reader.end() };
        for frame in reader.scan(reader.start()) {
            match frame {
                Ok(frame) => content.frames.push(frame),
                Err(LogError::Damaged(range)) => content.damaged.push(range),
                Err(error) => panic!("{error}"),
            }
        }
        for pair in content.damaged.windows(2) {
            assert!(pair[0].until <= pair[1].position, "each range comes once: {pair:?}");
        }
        content
    }

    pub(crate) fn ranges(&self) -> Vec<(u64, u64)> {
        self.damaged.iter().map(|range| (range.position, range.until)).collect()
    }

    pub(crate) fn positions(&self) -> Vec<u64> {
        self.frames.iter().map(|frame| frame.position).collect()
    }
}

/// All frames of a log in which nothing is damaged.
pub(crate) fn frames(log: &Log) -> Vec<Frame> {
    let content = Content::of(&log.reader());
    assert_eq!(content.damaged, [], "everything reads back");
    content.frames
}

pub(crate) fn name(base: u64) -> String {
    format!("{base:020}.log")
}

/// Names of the segments and their bases, in order.
pub(crate) fn segments(folder: &MemFolder) -> Vec<(String, u64)> {
    folder
        .names()
        .into_iter()
        .filter_map(|name| name.strip_suffix(".log")?.parse().ok().map(|base| (name.clone(), base)))
        .collect()
}

/// Changes one bit at a position of the log.
pub(crate) fn flip(folder: &MemFolder, position: u64, mask: u8) {
    let (name, base) =
        segments(folder).into_iter().rfind(|(_, base)| *base <= position).expect("inside the log");
    folder.flip_bits(&name, usize::try_from(position - base).expect("small"), mask);
}
