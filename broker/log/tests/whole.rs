//! Missing or replaced files of the log: the start is refused, says what to do, and changes nothing.

mod support;

use std::sync::Arc;

use kerolox_log::fs::{Folder, MemFolder};
use kerolox_log::inspect::{InspectMode, LogFinding, LogInspector};
use kerolox_log::{FrameSalt, Log, LogError, LogOptions, LogReader, begin_copy, remove_log};
use support::{Content, SMALL, append, flip, frames, name, open, open_with, segments};

/// One segment that is never full.
const ONE: LogOptions = LogOptions { segment_bytes: 8192, ..SMALL };

fn refused(folder: &MemFolder, options: LogOptions) -> LogError {
    let files = |folder: &MemFolder| {
        let names = folder.names().into_iter();
        names.map(|name| (name.clone(), folder.content(&name))).collect::<Vec<_>>()
    };
    let before = files(folder);
    let error = Log::open(Arc::new(folder.clone()), options).err().expect("refused");
    assert_eq!(files(folder), before, "nothing was changed: {error}");
    error
}

fn filled(options: LogOptions, records: usize) -> (MemFolder, Vec<u64>) {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, options);
    let places = (0..records).map(|i| append(&mut log, i).0).collect();
    log.close().expect("closed");
    (folder, places)
}

/// A copy of the file as it is.
fn copy_of(folder: &MemFolder, file: &str) -> Vec<u8> {
    folder.content(file).expect("there")
}

fn put(folder: &MemFolder, file: &str, content: &[u8]) {
    folder.remove(file).expect("removed");
    folder.create(file).and_then(|new| new.write_at(content, 0)).expect("written");
}

fn trim(folder: &MemFolder, reader: &LogReader, before: u64) {
    reader.remove_before(folder, before).expect("trimmed");
}

#[test]
fn a_log_whose_oldest_segments_are_missing_is_refused_until_the_operator_gives_them_up() {
    let (sample, places) = filled(SMALL, 60);
    let bases: Vec<u64> = segments(&sample).into_iter().map(|(_, base)| base).collect();
    for missing in 1..3 {
        let folder = sample.fork();
        let taken: Vec<_> =
            bases[..missing].iter().map(|base| (name(*base), copy_of(&folder, &name(*base)))).collect();
        taken.iter().for_each(|(file, _)| folder.remove(file).expect("removed"));
        let error = refused(&folder, SMALL);
        assert!(matches!(error, LogError::Missing { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(&name(0)) && text.contains(&name(bases[missing])), "{text}");
        let first =
            LogInspector::open(&folder, InspectMode::Offline).expect("opens").next().expect("something");
        let LogFinding::Damaged(range) = first.expect("reads") else {
            panic!("the inspection says it first")
        };
        assert_eq!((range.position, range.until), (0, bases[missing]));

        // The files are put back.
        let again = folder.fork();
        taken.iter().for_each(|(file, content)| {
            again.create(file).and_then(|new| new.write_at(content, 0)).expect("written");
        });
        assert_eq!(Content::of(&open(&again).0.reader()).positions(), places);

        // Or given up, as the error says: the log then begins there.
        folder.remove("00000000000000000000.begin").expect("as the error says");
        let kept: Vec<u64> = places.iter().copied().filter(|at| *at > bases[missing]).collect();
        for _ in 0..2 {
            assert_eq!(Content::of(&open(&folder).0.reader()).positions(), kept);
        }
        folder.remove(&name(bases[missing])).expect("removed");
        assert!(matches!(refused(&folder, SMALL), LogError::Missing { .. }), "and it is watched again");
    }
}

#[test]
fn what_a_trim_gave_up_is_not_missed_and_what_it_left_is() {
    let (sample, _) = filled(SMALL, 60);
    let bases: Vec<u64> = segments(&sample).into_iter().map(|(_, base)| base).collect();
    for cut in 0.. {
        let folder = sample.fork();
        let (log, _) = open(&folder);
        let begin = folder.operations();
        folder.power_off_at(cut);
        let trimmed = log.reader().remove_before(&folder, bases[2]);
        for seed in 0..16 {
            let folder = folder.fork();
            folder.crash(seed);
            let (log, _) = open(&folder);
            let start = log.reader().segments()[0].base;
            assert!(start == 0 || start == bases[2], "all or none: {start}");
            drop(log);
            folder.remove(&name(start)).expect("removed");
            assert!(matches!(refused(&folder, SMALL), LogError::Missing { .. }), "cut {cut}, seed {seed}");
        }
        if trimmed.is_ok() {
            assert!(folder.operations() - begin >= 6, "there was something to interrupt");
            break;
        }
    }
}

#[test]
fn a_segment_that_was_given_up_may_be_there_again() {
    let (folder, places) = filled(SMALL, 60);
    let bases: Vec<u64> = segments(&folder).into_iter().map(|(_, base)| base).collect();
    let old = copy_of(&folder, &name(0));
    let (log, _) = open(&folder);
    trim(&folder, &log.reader(), bases[1]);
    log.close().expect("closed");
    folder.create(&name(0)).and_then(|new| new.write_at(&old, 0)).expect("restored");
    assert_eq!(Content::of(&open(&folder).0.reader()).positions(), places);
    folder.remove(&name(0)).expect("removed");
    assert!(matches!(refused(&folder, SMALL), LogError::Missing { .. }));
}

/// A folder of a version that did not note where its log begins.
#[test]
fn an_older_folder_is_believed_and_watched_from_then_on() {
    let (folder, _) = filled(SMALL, 60);
    let bases: Vec<u64> = segments(&folder).into_iter().map(|(_, base)| base).collect();
    let (log, _) = open(&folder);
    trim(&folder, &log.reader(), bases[1]);
    log.close().expect("closed");
    let begin = format!("{:020}.begin", bases[1]);
    folder.remove(&begin).expect("it is there");
    drop(open(&folder));
    assert!(folder.names().contains(&begin));
    folder.remove(&name(bases[1])).expect("removed");
    assert!(matches!(refused(&folder, SMALL), LogError::Missing { .. }));
}

#[test]
fn a_copy_that_was_begun_at_a_position_begins_there() {
    let folder = MemFolder::new();
    let (old, _) = filled(SMALL, 20);
    drop(old);
    for base in [5120, 1024, 9216] {
        begin_copy(&folder, SMALL.salt, base).expect("begun");
        let (mut log, _) = open(&folder);
        (0..30).for_each(|i| _ = append(&mut log, i));
        let reader = log.reader();
        assert_eq!(reader.segments()[0].base, base);
        log.close().expect("closed");
        let broken = folder.fork();
        broken.remove(&name(base)).expect("removed");
        assert!(matches!(refused(&broken, SMALL), LogError::Missing { .. }));
        remove_log(&folder).expect("removed");
        assert_eq!(folder.names(), Vec::<String>::new());
    }
}

/// Stopped cleanly; then an older copy of the newest file, with its usual length, comes back.
#[test]
fn an_older_copy_of_the_newest_segment_is_refused() {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, ONE);
    let mut older = vec![copy_of(&folder, &name(0))];
    for i in 0..20 {
        append(&mut log, i);
        log.sync().expect("synced");
        older.push(copy_of(&folder, &name(0)));
    }
    log.close().expect("closed");
    let newest = older.pop().expect("one");
    for (records, old) in older.iter().enumerate() {
        assert_eq!(old.len(), newest.len());
        put(&folder, &name(0), old);
        let error = refused(&folder, ONE);
        assert!(matches!(&error, LogError::Misplaced { file, .. } if *file == name(0)), "{records}: {error}");
        assert!(error.to_string().contains("checkpoint"), "{error}");
    }
    put(&folder, &name(0), &newest);
    assert_eq!(frames(&open_with(&folder, ONE).0).len(), 20);
    // Only the operator can decide to continue with an older file.
    put(&folder, &name(0), &older[7]);
    folder.remove("checkpoint").expect("as the error says");
    assert_eq!(frames(&open_with(&folder, ONE).0).len(), 7);
}

/// A member's copy that diverged: the salt and the position are right, and so is every frame.
#[test]
fn a_newest_segment_that_went_another_way_is_refused() {
    let (folder, _) = filled(ONE, 20);
    for first in [1, 3, 9] {
        let other = MemFolder::new();
        let (mut log, _) = open_with(&other, ONE);
        (0..25).for_each(|i| _ = append(&mut log, i + first));
        log.close().expect("closed");
        let broken = folder.fork();
        put(&broken, &name(0), &copy_of(&other, &name(0)));
        let error = refused(&broken, ONE);
        assert!(matches!(&error, LogError::Misplaced { file, .. } if *file == name(0)), "{first}: {error}");
    }
}

#[test]
fn a_segment_of_another_log_is_refused_even_if_it_is_the_only_one() {
    let (folder, _) = filled(ONE, 20);
    let (other, _) = filled(LogOptions { salt: FrameSalt::new(8), ..ONE }, 20);
    put(&folder, &name(0), &copy_of(&other, &name(0)));
    let error = refused(&folder, ONE);
    assert!(matches!(&error, LogError::Misplaced { file, .. } if *file == name(0)), "{error}");
    assert!(error.to_string().contains("another log"), "{error}");
}

/// A file with only its header, as an interrupted start leaves it.
#[test]
fn a_blank_newest_segment_is_refused_where_something_was_durable() {
    for records in [20, 60] {
        let (folder, _) = filled(SMALL, records);
        let (newest, base) = segments(&folder).pop().expect("some");
        let blank = MemFolder::new();
        begin_copy(&blank, SMALL.salt, base).expect("begun");
        drop(open(&blank));
        let mut content = copy_of(&blank, &newest);
        content.resize(copy_of(&folder, &newest).len().max(content.len()), 0);
        put(&folder, &newest, &content);
        assert!(matches!(refused(&folder, SMALL), LogError::Misplaced { .. }));
        put(&folder, &newest, &vec![0; content.len()]);
        assert!(matches!(refused(&folder, SMALL), LogError::Misplaced { .. }));
    }
}

/// Damage of the very record that the checkpoint remembers is damage, not another file.
#[test]
fn a_damaged_last_record_is_reported_and_the_log_goes_on() {
    let (sample, places) = filled(ONE, 20);
    let end = open_with(&sample.fork(), ONE).1.end;
    let last = *places.last().expect("some");
    for offset in 0..end - last {
        let folder = sample.fork();
        flip(&folder, last + offset, 1);
        let (log, recovered) = open_with(&folder, ONE);
        assert_eq!(recovered.damaged.len(), 1, "byte {offset}");
        assert_eq!((recovered.damaged[0].position, recovered.damaged[0].until), (last, end));
        assert_eq!(Content::of(&log.reader()).positions(), places[..19]);
    }
}

/// Killed right after a roll: a checkpoint knows only the beginning of the newest segment.
#[test]
fn a_newest_segment_that_is_missing_is_reported_also_right_after_it_was_begun() {
    for crash in [false, true] {
        let folder = MemFolder::new();
        let (mut log, _) = open_with(&folder, LogOptions { checkpoint_bytes: 1 << 20, ..SMALL });
        let mut i = 0;
        while segments(&folder).len() < 3 {
            append(&mut log, i);
            i += 1;
        }
        log.sync().expect("synced");
        drop(log);
        if crash {
            folder.crash_with(|_| false);
        }
        let (newest, base) = segments(&folder).pop().expect("some");
        folder.remove(&newest).expect("removed");
        let (_, recovered) = open(&folder);
        let ranges: Vec<u64> = recovered.damaged.iter().map(|range| range.position).collect();
        assert_eq!(ranges, [base]);
    }
}
