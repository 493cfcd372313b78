//! The salt of a log: the forgeries that it prevents, and its recovery.

mod support;

use std::sync::Arc;

use kerolox_log::fs::{Folder, MemFolder};
use kerolox_log::inspect::{InspectMode, LogFinding, LogInspector};
use kerolox_log::{FrameSalt, Log, LogError, LogOptions, NewFrame, frame};
use support::{Content, SMALL, append, flip, name, open_with, segments};

const SALT: FrameSalt = FrameSalt::new(0xC0FF_EE00_1234_5678);
const SALTED: LogOptions = LogOptions { salt: SALT, ..SMALL };

/// A log with records in several segments.
fn filled(options: LogOptions) -> (MemFolder, Vec<u64>) {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, options);
    let places = (0..20).map(|i| append(&mut log, i).0).collect();
    log.close().expect("closed");
    (folder, places)
}

fn damage_all_headers(folder: &MemFolder) {
    for (file, _) in segments(folder) {
        folder.flip(&file, 17);
    }
}

fn lose_the_checkpoint(folder: &MemFolder) {
    folder.remove("checkpoint").expect("removed");
}

/// Records that an inspection finds.
fn inspected(folder: &MemFolder) -> Vec<u64> {
    let findings = LogInspector::open(folder, InspectMode::Offline).expect("opens");
    let records = findings.filter_map(|finding| match finding.expect("reads") {
        LogFinding::Record(frame) => Some(frame.position),
        _ => None,
    });
    records.collect()
}

/// A client sends bytes that form a frame for the place where they will lie. Then the bytes in front of them are
/// damaged.
#[test]
fn bytes_of_a_message_are_no_record_whatever_they_look_like() {
    let lazy = LogOptions { segment_bytes: 4096, ..SALTED };
    for (salt, is_forged) in [(FrameSalt::new(0), false), (FrameSalt::new(1), false), (SALT, true)] {
        let folder = MemFolder::new();
        let (mut log, _) = open_with(&folder, lazy);
        let (position, _) = append(&mut log, 1);
        let within = log.end() + 32 + 16;
        let mut body = vec![b'x'; 16];
        let forged = NewFrame { kind: 1, body: b"pay the client".to_vec().into() };
        frame::encode(&forged, within, 1, 5, salt, &mut body);
        log.append(&[NewFrame { kind: 1, body: body.into() }], 1, 5).expect("appended");
        let (last, _) = append(&mut log, 2);
        log.sync().expect("synced");
        flip(&folder, position + 40, 1);
        flip(&folder, within - 20, 1);
        let content = Content::of(&log.reader());
        // With the right salt the forgery succeeds, so the attack itself is sound.
        assert_eq!(content.positions(), if is_forged { vec![within, last] } else { vec![last] });
        drop(log);
        lose_the_checkpoint(&folder);
        assert_eq!(Content::of(&open_with(&folder, lazy).0.reader()).positions(), content.positions());
        assert_eq!(inspected(&folder), content.positions());
    }
}

#[test]
fn the_salt_is_the_one_that_the_log_was_begun_with() {
    let (folder, places) = filled(SALTED);
    let other = LogOptions { salt: FrameSalt::new(99), ..SALTED };
    let (mut log, _) = open_with(&folder, other);
    assert_eq!(log.salt(), SALT);
    for i in 20..40 {
        append(&mut log, i);
    }
    log.close().expect("closed");
    let found = Content::of(&open_with(&folder, SALTED).0.reader());
    assert_eq!((found.damaged, found.frames.len()), (vec![], 40));
    assert!(found.frames.iter().map(|frame| frame.position).take(20).eq(places));
}

/// Whichever single copy of the salt is left, everything stays readable and the log continues.
#[test]
fn one_copy_of_the_salt_is_enough() {
    let (sample, places) = filled(SALTED);
    let headers = segments(&sample).len();
    assert!(headers > 3);
    // The last two leave the checkpoint, and nothing but the frames.
    for left in 0..headers + 2 {
        let folder = sample.fork();
        for (i, (file, _)) in segments(&folder).into_iter().enumerate() {
            if i != left {
                folder.flip(&file, 17);
            }
        }
        if left != headers {
            lose_the_checkpoint(&folder);
        }
        assert_eq!(inspected(&folder), places, "left {left}");
        let (mut log, _) = open_with(&folder, LogOptions { salt: FrameSalt::new(99), ..SALTED });
        assert_eq!(Content::of(&log.reader()).positions(), places, "left {left}");
        let new: Vec<u64> = (0..20).map(|i| append(&mut log, i).0).collect();
        log.close().expect("closed");
        // The new copies must do as well as the old ones.
        lose_the_checkpoint(&folder);
        let found = Content::of(&open_with(&folder, SALTED).0.reader());
        assert_eq!(found.positions(), [places.clone(), new].concat(), "left {left}");
    }
}

#[test]
fn without_any_copy_nothing_is_touched_and_the_error_says_what_to_do() {
    let (folder, places) = filled(LogOptions { segment_bytes: 1 << 16, ..SALTED });
    assert_eq!(segments(&folder).len(), 1);
    damage_all_headers(&folder);
    lose_the_checkpoint(&folder);
    // One of the first two frames: no two of them agree on a salt.
    flip(&folder, places[1] + 40, 1);
    let before = folder.content(&name(0));
    let error = Log::open(Arc::new(folder.clone()), SALTED).err().expect("refused");
    assert!(matches!(&error, LogError::Misplaced { file, .. } if *file == name(0)), "{error}");
    assert!(error.to_string().contains("restore the checkpoint"), "{error}");
    assert!(LogInspector::open(&folder, InspectMode::Offline).is_err());
    assert_eq!(folder.content(&name(0)), before);
}

/// The bytes behind the first frames belong to clients: they do not contribute to the salt.
#[test]
fn the_salt_is_not_taken_from_the_body_of_a_message() {
    let folder = MemFolder::new();
    let options = LogOptions { segment_bytes: 1 << 16, ..SALTED };
    let (mut log, _) = open_with(&folder, options);
    let mut body = vec![b'x'; 16];
    for _ in 0..4 {
        let position = log.end() + 32 + body.len() as u64;
        let forged = NewFrame { kind: 1, body: vec![7; 8].into() };
        frame::encode(&forged, position, 1, 5, FrameSalt::new(3), &mut body);
    }
    log.append(&[NewFrame { kind: 1, body: body.into() }], 1, 5).expect("appended");
    append(&mut log, 1);
    log.close().expect("closed");
    damage_all_headers(&folder);
    lose_the_checkpoint(&folder);
    let found = Content::of(&open_with(&folder.fork(), options).0.reader());
    assert_eq!(found.frames.len(), 2, "the log's own frames tell the salt");
    flip(&folder, 64 + 8, 1);
    assert!(Log::open(Arc::new(folder), options).is_err());
}

#[test]
fn segments_of_different_logs_are_refused() {
    let (folder, _) = filled(SALTED);
    let (other, _) = filled(LogOptions { salt: FrameSalt::new(99), ..SALTED });
    let (file, _) = segments(&folder).swap_remove(2);
    let foreign = other.content(&file).expect("the same records lie in the same places");
    folder.remove(&file).expect("removed");
    folder.create(&file).expect("created").write_at(&foreign, 0).expect("written");
    let error = Log::open(Arc::new(folder.clone()), SALTED).err().expect("refused");
    assert!(error.to_string().contains("belongs to another log"), "{error}");
    assert!(LogInspector::open(&folder, InspectMode::Offline).is_err());
}
