//! The handshake over real logs: a follower's log becomes a part of its leader's, also when an epoch had two writers.

use std::sync::Arc;

use kerolox_log::fs::MemFolder;
use kerolox_log::{Frame, FrameSalt, Log, LogOptions, NewFrame, Piece};
use kerolox_replication::handshake::{
    FollowRequest, HandshakeAnswer, HandshakeRecords as _, LeaderLog, answer, cut_at,
};
use kerolox_store::LogRecords;
use proptest::prelude::*;

const OPTIONS: LogOptions =
    LogOptions { segment_bytes: 512, checkpoint_bytes: 256, ..LogOptions::new(FrameSalt::new(7)) };

/// Appends a number of records to each of these epochs. Records of different writers differ in their bodies only.
fn write(log: &mut Log, epochs: &[(u32, usize)], writer: &str) {
    for (epoch, records) in epochs {
        for i in 0..*records {
            let body = format!("{writer} {i} {}", "x".repeat(i * 7 % 90)).into();
            log.append(&[NewFrame { kind: 1, body }], *epoch, 5).expect("appended");
        }
    }
    log.sync().expect("synced");
}

fn log_of(common: &[(u32, usize)], own: &[(u32, usize)], writer: &str) -> (MemFolder, Log) {
    let folder = MemFolder::new();
    let (mut log, _) = Log::open(Arc::new(folder.clone()), OPTIONS).expect("the log opens");
    write(&mut log, common, "common");
    write(&mut log, own, writer);
    (folder, log)
}

fn frames(log: &Log) -> Vec<Frame> {
    let reader = log.reader();
    reader.scan(reader.start()).collect::<Result<_, _>>().expect("readable")
}

/// What a follower does until its leader lets it start; `None` when it has to begin anew.
fn follow(follower: &mut Log, folder: &MemFolder, leader: &Log) -> Option<usize> {
    let leader = leader.reader();
    let own = LeaderLog { salt: 7, base: leader.segments()[0].base };
    for cuts in 0..100 {
        let reader = follower.reader();
        let own_end = LogRecords(&reader).end_of_epoch(u32::MAX).expect("readable");
        assert!(own_end.last.is_some(), "it ends with an intact record");
        let hello =
            FollowRequest { salt: 7, end: own_end.end, last_epoch: own_end.epoch, last: own_end.last };
        match answer(&hello, &own, &LogRecords(&leader)).expect("readable") {
            HandshakeAnswer::Start => return Some(cuts),
            HandshakeAnswer::Diverged(theirs) => {
                let to = cut_at(&theirs, &LogRecords(&reader)).expect("readable");
                follower.truncate(folder, to).expect("truncated");
            }
            HandshakeAnswer::Begin => return None,
            HandshakeAnswer::Foreign => panic!("the salts are alike"),
        }
    }
    panic!("the handshake does not end");
}

/// Sends what the follower lacks.
fn catch_up(follower: &mut Log, leader: &Log) {
    let leader = leader.reader();
    let mut position = follower.reader().frames_end();
    loop {
        match leader.copy(position, 300).expect("readable") {
            Piece::Segment { base, .. } => {
                follower.begin_copied_segment(base).expect("begun");
                position = follower.end();
            }
            Piece::Frames(frames) => {
                follower.append_copy(position, &frames).expect("copied");
                position += frames.len() as u64;
            }
            Piece::End => break,
        }
    }
    follower.sync().expect("synced");
}

proptest! {
    #[test]
    fn an_epoch_with_two_writers_is_cut_off(
        common in 1usize..20, theirs in 1usize..20, ours in 1usize..20, later in 0usize..20,
    ) {
        let (_, leader) = log_of(&[(1, common)], &[(2, theirs), (3, later)], "leader");
        let (folder, mut follower) = log_of(&[(1, common)], &[(2, ours)], "follower");
        let cuts = follow(&mut follower, &folder, &leader);
        prop_assert!(cuts.is_some_and(|cuts| cuts > 0), "both have epoch 2: {cuts:?}");
        catch_up(&mut follower, &leader);
        prop_assert_eq!(frames(&follower), frames(&leader));
    }

    #[test]
    fn logs_that_agree_are_not_cut(common in 1usize..20, missing in 0usize..20) {
        let (_, leader) = log_of(&[(1, common)], &[(1, missing), (2, missing)], "leader");
        let (folder, mut follower) = log_of(&[(1, common)], &[], "");
        prop_assert_eq!(follow(&mut follower, &folder, &leader), Some(0));
    }
}
