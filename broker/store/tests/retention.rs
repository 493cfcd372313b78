//! Old segments are removed, and every needed record stays.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use bytes::Bytes;
use kerolox_core::flush::FlushRequirement;
use kerolox_core::group::Group;
use kerolox_core::queue_offset::QueueOffset;
use kerolox_core::record::{
    AckRange, CheckedHalf, DiscardRecord, FailedAttempts, MessageHeader, MessageHold, MessageRecord,
    MetaChange, MetaRecord, ProgressItem, ProgressRecord, QueueProgress, QueueState, Record, ReleaseRecord,
    TimerDecision, TimerEnded,
};
use kerolox_core::topic::Topic;
use kerolox_log::fs::MemFolder;
use kerolox_log::inspect::{InspectMode, LogFinding, LogInspector};
use kerolox_log::{FrameSalt, LogOptions};
use kerolox_store::kv::{KeyFamily, Kv, MemKv, WriteOp};
use kerolox_store::state::check::{DifferenceKind, LogReplay, StateComparison, applied_of};
use kerolox_store::{AppliedRecord, ApplyOutcome, QueueBounds, Store, StoreOptions, TrimPoint};

fn at(offset: u64) -> QueueOffset {
    QueueOffset::new(offset)
}

fn open(folder: &MemFolder, kv: &Arc<MemKv>) -> Store {
    static CLOCK: AtomicI64 = AtomicI64::new(1_000);
    let options = StoreOptions {
        broker: "a".to_owned(),
        log: LogOptions { segment_bytes: 8192, checkpoint_bytes: 1024, ..LogOptions::new(FrameSalt::new(7)) },
        waiting_bytes_max: 1 << 20,
        flush_interval: Duration::from_millis(5),
        tail_bytes: 0,
    };
    let clock = || CLOCK.fetch_add(1, Ordering::Relaxed);
    Store::open(options, Arc::new(folder.clone()), kv.clone(), clock, |_| {}).expect("opens")
}

fn propose(store: &Store, record: &Record) -> AppliedRecord {
    let (sender, answer) = mpsc::channel();
    store.propose(
        record,
        FlushRequirement::Sync,
        Box::new(move |applied| sender.send(applied).expect("the test waits")),
    );
    answer.recv().expect("every proposal is answered").expect("stored")
}

fn message(queue: u32, hold: MessageHold, id: &str) -> Record {
    let header = MessageHeader {
        topic_id: 1,
        queue,
        hold: hold.into(),
        hold_ms: 1,
        message_id: id.to_owned(),
        lookups: vec![id.len() as u64],
        ..MessageHeader::default()
    };
    Record::Message(MessageRecord { header, system: Bytes::new(), content: Bytes::from(vec![7; 200]) })
}

fn progress(acked: Vec<AckRange>, attempted: Vec<FailedAttempts>) -> Record {
    let queue =
        QueueProgress { group_id: 1, topic_id: 1, queue: 0, acked, attempted, ..QueueProgress::default() };
    Record::Progress(ProgressRecord::new([ProgressItem::Queue(queue)]))
}

fn commit(held: u64) -> Record {
    Record::Release(ReleaseRecord { held, by: "p".into(), ..ReleaseRecord::default() })
}

fn ended(held: u64, decision: TimerDecision) -> Record {
    let item = TimerEnded { held, decision: decision.into(), by: "p".into() };
    Record::Progress(ProgressRecord::new([ProgressItem::TimerEnded(item)]))
}

fn fill(store: &Store, queue: u32, count: usize) {
    for i in 0..count {
        propose(store, &message(queue, MessageHold::None, &format!("{queue}-{i}")));
    }
}

fn id_at(store: &Store, queue: u32, offset: u64) -> Option<String> {
    let entry = store.state().entry(1, queue, offset).expect("reads")?;
    Some(store.read_message(entry.position, entry.len).expect("reads").1.header.message_id)
}

fn trim_points(store: &Store) -> Vec<TrimPoint> {
    store.trim_points().collect::<Result<_, _>>().expect("reads")
}

/// Compares the index of a closed store with the state that follows from the rest of the log.
fn compare(folder: &MemFolder, kv: &MemKv) -> StateComparison {
    let log = LogInspector::open(folder, InspectMode::Offline).expect("opens");
    let applied = applied_of(kv).expect("reads").expect("an index");
    let mut replay = LogReplay::of_trimmed(log.position(), applied);
    for finding in log {
        if let LogFinding::Record(frame) = finding.expect("reads") {
            replay.take(&frame).expect("a known record");
        }
    }
    assert!(replay.begin().is_some_and(|begin| begin > 64), "the log was trimmed, and a snapshot is there");
    replay.compare(kv).expect("reads")
}

struct Built {
    folder: MemFolder,
    kv: Arc<MemKv>,
    store: Store,
    undecided: u64,
    rolled_back: u64,
    /// Waits for its delivery time.
    scheduled: u64,
    recalled: u64,
    /// Delivered after the cut; its offset in queue 1.
    fired: (u64, u64),
    /// Committed after the cut; its offset in queue 1.
    late: (u64, u64),
}

/// Several segments, with records of all kinds in the first one.
fn build() -> Built {
    let (folder, kv) = (MemFolder::new(), Arc::new(MemKv::default()));
    let store = open(&folder, &kv);
    propose(&store, &Record::Meta(MetaRecord { change: Some(MetaChange::PutTopic(Topic::new("t", 2))) }));
    propose(&store, &Record::Meta(MetaRecord { change: Some(MetaChange::PutGroup(Group::new("g"))) }));
    let undecided = propose(&store, &message(1, MessageHold::Half, "undecided")).position;
    let rolled_back = propose(&store, &message(1, MessageHold::Half, "rolled back")).position;
    let late = propose(&store, &message(1, MessageHold::Half, "late")).position;
    let [scheduled, recalled, fired] = ["scheduled", "recalled", "fired"]
        .map(|id| propose(&store, &message(1, MessageHold::Until, id)).position);
    propose(&store, &ended(recalled, TimerDecision::Recall));
    propose(
        &store,
        &Record::Discard(DiscardRecord { held: rolled_back, by: "p".into(), ..DiscardRecord::default() }),
    );
    fill(&store, 0, 10);
    propose(
        &store,
        &progress(
            vec![AckRange { start: 0, end: 3 }],
            vec![FailedAttempts { offset: 4, attempts: 2, visible_ms: 5 }],
        ),
    );
    fill(&store, 0, 90);
    let ApplyOutcome::Visible { offset, .. } = propose(&store, &commit(late)).outcome else {
        panic!("committed")
    };
    let ApplyOutcome::Visible { offset: fired_offset, .. } =
        propose(&store, &ended(fired, TimerDecision::Deliver)).outcome
    else {
        panic!("delivered")
    };
    fill(&store, 0, 20);
    let (late, fired) = ((late, offset), (fired, fired_offset));
    Built { folder, kv, store, undecided, rolled_back, scheduled, recalled, fired, late }
}

fn check(store: &Store, built: &Built, trimmed: u64) {
    let min = store.state().queues.bounds(1, 0).min;
    assert!(min > 10, "old messages are gone ({min})");
    assert_eq!(store.state().queues.bounds(1, 0).next, 120, "no offset is given twice");
    for offset in 0..120 {
        let expected = match offset {
            4 => true,
            offset => offset >= min,
        };
        assert_eq!(id_at(store, 0, offset).is_some(), expected, "offset {offset}");
    }
    assert_eq!(id_at(store, 0, 4).as_deref(), Some("0-4"), "it waits for its next attempt");
    assert_eq!(id_at(store, 1, built.late.1).as_deref(), Some("late"));
    let acks = store.state().acks(1, 1, 0).expect("reads").expect("known");
    assert_eq!((acks.committed().get(), acks.next_open(at(5)).get(), acks.attempts_of(at(4))), (4, min, 2));
    let half = store.state().transactions.get(built.undecided).expect("reads").expect("kept");
    assert!(half.is_undecided() && half.location(built.undecided) >= trimmed);
    assert_eq!(store.state().transactions.open(1), 1);
    assert_eq!(store.state().transactions.get(built.rolled_back).expect("reads"), None, "decided long ago");
    let timer = store.state().timers.get(built.scheduled).expect("reads").expect("kept");
    assert!(timer.is_pending() && timer.location(built.scheduled) >= trimmed);
    let (_, message) = store.read_message(timer.location(built.scheduled), timer.frame_len).expect("reads");
    assert_eq!(message.header.message_id, "scheduled");
    assert_eq!(store.state().timers.due(1, None, 9).expect("reads"), [(built.scheduled, timer)]);
    assert_eq!(store.state().timers.open(1), 1);
    assert_eq!(store.state().timers.get(built.recalled).expect("reads"), None, "decided long ago");
    assert_eq!(id_at(store, 1, built.fired.1).as_deref(), Some("fired"), "it is younger than the cut");
}

#[test]
fn a_trim_keeps_what_is_needed_and_removes_the_files() {
    let built = build();
    let points = trim_points(&built.store);
    assert!(points.len() >= 2, "{points:?}");
    assert!(points.is_sorted_by_key(|point| (point.before, point.since_ms)));
    let before = built.store.log_bytes();
    let trimmed = built.store.trim(&points[0]).expect("trims");
    assert!(trimmed.bytes > 0 && built.store.log_bytes() < before + 4096);
    // Undecided, scheduled, waiting for its next attempt, and committed and delivered behind the cut.
    assert_eq!(trimmed.carried, 5);
    assert_eq!(built.store.trim(&points[0]).expect("again").carried, 0, "doing it again does nothing");
    check(&built.store, &built, points[0].before);

    // The transaction id from before still settles the transaction.
    let Built { folder, kv, store, undecided, late, .. } = built;
    assert_eq!(propose(&store, &commit(late.0)).outcome, ApplyOutcome::Repeated);
    let ApplyOutcome::Visible { queue: 1, offset } = propose(&store, &commit(undecided)).outcome else {
        panic!("commits")
    };
    assert_eq!(id_at(&store, 1, offset).as_deref(), Some("undecided"));
    drop(store);
    let store = open(&folder, &kv);
    assert_eq!(id_at(&store, 1, offset).as_deref(), Some("undecided"));
}

#[test]
fn an_index_rebuilt_from_what_is_left_shows_the_same() {
    let built = build();
    let points = trim_points(&built.store);
    built.store.trim(&points[1]).expect("trims");
    check(&built.store, &built, points[1].before);
    built.store.close();
    let rebuilt = open(&built.folder, &Arc::new(MemKv::default()));
    check(&rebuilt, &built, points[1].before);
    fill(&rebuilt, 0, 1);
    assert_eq!(rebuilt.state().queues.bounds(1, 0).next, 121);
    rebuilt.close();
    // An index that is older than the log's beginning is useless, and replaced.
    let stale = build();
    stale.store.close();
    let old = Arc::new(MemKv::clone(&stale.kv));
    let store = open(&stale.folder, &stale.kv);
    fill(&store, 0, 60);
    let points = trim_points(&store);
    store.trim(points.last().expect("some")).expect("trims");
    drop(store);
    let store = open(&stale.folder, &old);
    assert_eq!(store.state().queues.bounds(1, 0).next, 180);
    assert_eq!(id_at(&store, 0, 4).as_deref(), Some("0-4"));
}

/// The index was never rebuilt; the log holds the rest.
#[test]
fn an_index_of_a_trimmed_log_agrees_with_what_is_left_of_it() {
    let built = build();
    built.store.close();
    for round in 0..3 {
        let store = open(&built.folder, &built.kv);
        fill(&store, 1, 60);
        store.trim(&trim_points(&store)[0]).expect("trims");
        fill(&store, 0, 5);
        store.close();
        let found = compare(&built.folder, &built.kv);
        assert_eq!(found.differences, 0, "round {round}: {:?}", found.examples);
        assert!(found.keys > 15, "{found:?}");
        // The snapshot that the log begins with cannot be read: the next one does as well.
        let folder = built.folder.fork();
        let first =
            folder.names().into_iter().filter(|name| name.ends_with(".log")).min().expect("a segment");
        folder.flip(&first, 100);
        let found = compare(&folder, &built.kv);
        assert_eq!(found.differences, 0, "round {round}: {:?}", found.examples);
    }
}

#[test]
fn what_does_not_follow_from_a_trimmed_log_is_found() {
    let built = build();
    built.store.trim(&trim_points(&built.store)[1]).expect("trims");
    built.store.close();
    for family in [
        KeyFamily::Queues,
        KeyFamily::Entries,
        KeyFamily::Halves,
        KeyFamily::Timers,
        KeyFamily::Progress,
        KeyFamily::Kept,
        KeyFamily::Lookups,
    ] {
        let (key, value) = built.kv.scan(family, b"", 100).expect("memory").pop().expect("there is one");
        let mut other = value.clone();
        *other.last_mut().expect("not empty") ^= 1;
        for (op, how) in [
            (WriteOp::Delete(family, key.clone()), DifferenceKind::Missing),
            (WriteOp::Put(family, key.clone(), other), DifferenceKind::Different),
        ] {
            let kv = MemKv::clone(&built.kv);
            kv.write(vec![op]).expect("memory");
            let found = compare(&built.folder, &kv);
            assert_eq!((found.differences, found.examples[0].how), (1, how), "{family:?}");
        }
    }
}

#[test]
fn a_needed_message_that_cannot_be_read_does_not_stop_retention() {
    let built = build();
    let points = trim_points(&built.store);
    let name =
        built.folder.names().into_iter().filter(|name| name.ends_with(".log")).min().expect("a segment");
    let position = usize::try_from(built.undecided).expect("small");
    built.folder.flip_bits(&name, position + 40, 1);
    let trimmed = built.store.trim(&points[0]).expect("trims");
    assert_eq!(trimmed.carried, 4, "the undecided one is lost");
    assert!(trimmed.bytes > 0);
    assert_eq!(built.store.state().transactions.get(built.undecided).expect("reads"), None);
    assert_eq!(built.store.state().transactions.open_total(), 0, "no producer is asked about it any more");
    assert_eq!(id_at(&built.store, 0, 4).as_deref(), Some("0-4"));
}

/// The segment of an undecided message, and the offset in it of a byte of the record.
fn place_in_file(folder: &MemFolder, position: u64) -> (String, usize) {
    let bases = folder.names().into_iter().filter_map(|name| {
        let base = name.strip_suffix(".log")?.parse::<u64>().ok()?;
        (base < position).then_some((base, name))
    });
    let (base, name) = bases.max().expect("a segment");
    (name, usize::try_from(position - base).expect("small") + 40)
}

#[test]
fn a_half_message_that_cannot_be_carried_is_gone_for_everybody() {
    for is_parked in [false, true] {
        let built = build();
        if is_parked {
            let checked = CheckedHalf {
                held: built.undecided,
                checks: 1,
                next_check_ms: None,
                asked: "p".into(),
                ..CheckedHalf::default()
            };
            let item = ProgressItem::Checked(checked);
            propose(&built.store, &Record::Progress(ProgressRecord::new([item])));
        }
        let other = propose(&built.store, &message(1, MessageHold::Half, "other")).position;
        fill(&built.store, 0, 60);
        let (name, at) = place_in_file(&built.folder, built.undecided);
        built.folder.flip_bits(&name, at, 1);
        let points = trim_points(&built.store);
        built.store.trim(points.last().expect("some")).expect("trims");
        let damaged = built.store.damaged();
        assert!(damaged.iter().any(|range| range.position == built.undecided), "{damaged:?}");
        let gone = |store: &Store| {
            assert_eq!(store.state().transactions.get(built.undecided).expect("reads"), None);
            let due = store.state().transactions.due(i64::MAX, None, 100).expect("reads");
            assert_eq!(due.iter().map(|(position, _)| *position).collect::<Vec<_>>(), [other]);
            assert_eq!(store.state().transactions.open_total(), 1);
            assert_eq!(propose(store, &commit(built.undecided)).outcome, ApplyOutcome::NoSuchHalf);
        };
        gone(&built.store);
        built.store.close();
        assert_eq!(compare(&built.folder, &built.kv).differences, 0);
        // The log does not have it any more, so another index does not bring it back.
        let rebuilt = open(&built.folder, &Arc::new(MemKv::default()));
        assert_eq!(rebuilt.damaged(), [], "the damaged record is gone");
        gone(&rebuilt);
        let ApplyOutcome::Visible { offset, .. } = propose(&rebuilt, &commit(other)).outcome else {
            panic!("the other one can be committed")
        };
        assert_eq!(id_at(&rebuilt, 1, offset).as_deref(), Some("other"));
    }
}

#[test]
fn a_segment_whose_snapshot_is_damaged_is_no_place_to_cut_the_log() {
    let built = build();
    let whole = trim_points(&built.store);
    assert!(whole.len() >= 3, "{whole:?}");
    let (name, at) = place_in_file(&built.folder, whole[1].before + 64);
    built.folder.flip_bits(&name, at, 1);
    let left = trim_points(&built.store);
    assert_eq!(left, [&whole[..1], &whole[2..]].concat(), "the others are as good as before");
    let damaged = built.store.damaged();
    assert!(damaged.iter().any(|range| range.file == name), "{damaged:?}");
    // A cut before the damage leaves it in the log; one behind it removes it. Nothing is missing either way.
    for point in [&left[0], &left[1]] {
        built.store.trim(point).expect("trims");
        check(&built.store, &built, point.before);
        let kv = Arc::new(MemKv::default());
        let rebuilt = open(&built.folder.fork(), &kv);
        check(&rebuilt, &built, point.before);
    }
}

/// The snapshot of the log's first segment is damaged after the trim. The next one has the offsets of its messages.
#[test]
fn a_damaged_snapshot_at_the_beginning_of_the_log_costs_no_message() {
    let built = build();
    let points = trim_points(&built.store);
    built.store.trim(&points[0]).expect("trims");
    let truth = built.store.state().queues.entries(1, 0, 0, 1000).expect("reads");
    let acks = built.store.state().acks(1, 1, 0).expect("reads");
    built.store.close();
    let (name, at) = place_in_file(&built.folder, points[0].before + 64);
    built.folder.flip_bits(&name, at, 1);
    let rebuilt = open(&built.folder, &Arc::new(MemKv::default()));
    assert_eq!(rebuilt.state().queues.entries(1, 0, 0, 1000).expect("reads"), truth);
    assert_eq!(rebuilt.state().acks(1, 1, 0).expect("reads"), acks);
    check(&rebuilt, &built, points[0].before);
}

#[test]
fn a_second_trim_carries_again_what_still_waits() {
    let built = build();
    let points = trim_points(&built.store);
    built.store.trim(&points[0]).expect("trims");
    fill(&built.store, 1, 60);
    let points = trim_points(&built.store);
    let last = points.last().expect("some");
    built.store.trim(last).expect("trims");
    assert_eq!(id_at(&built.store, 0, 4).as_deref(), Some("0-4"));
    let half = built.store.state().transactions.get(built.undecided).expect("reads").expect("kept");
    assert!(half.location(built.undecided) >= last.before);
    // Finished messages are not carried any more.
    propose(&built.store, &progress(vec![AckRange { start: 4, end: 5 }], vec![]));
    fill(&built.store, 1, 60);
    let points = trim_points(&built.store);
    built.store.trim(points.last().expect("some")).expect("trims");
    assert_eq!(id_at(&built.store, 0, 4), None);
}

fn expire(store: &Store, queue: u32, next: u64) -> usize {
    store.expire(vec![QueueState { topic_id: 1, queue, next, newest_ms: 0 }]).expect("expires")
}

/// Checks the store after the messages of queue 0 before offset 60 expired.
fn check_expired(store: &Store) {
    let bounds = store.state().queues.bounds(1, 0);
    assert_eq!((bounds.min, bounds.next), (60, 120));
    for offset in 0..120 {
        assert_eq!(id_at(store, 0, offset).is_some(), offset == 4 || offset >= 60, "offset {offset}");
    }
    assert_eq!(id_at(store, 0, 4).as_deref(), Some("0-4"), "it waits for its next attempt");
    let acks = store.state().acks(1, 1, 0).expect("reads").expect("known");
    assert_eq!((acks.committed().get(), acks.next_open(at(5)).get(), acks.attempts_of(at(4))), (4, 60, 2));
    assert_eq!(acks.open_below(at(120)), 61, "what expired is no lag");
    assert_eq!(store.state().offset_at(1, 0, i64::MIN).expect("reads"), 60);
}

#[test]
fn messages_expire_while_their_segments_stay() {
    let Built { folder, kv, store, .. } = build();
    let before = store.log_bytes();
    assert_eq!(expire(&store, 0, 60), 1, "the failed one is carried forward");
    check_expired(&store);
    assert!(store.log_bytes() > before, "no file goes");
    assert_eq!((expire(&store, 0, 60), expire(&store, 0, 30)), (0, 0), "doing it again does nothing");
    check_expired(&store);
    drop(store);

    check_expired(&open(&folder, &kv));
    let rebuilt = open(&folder, &Arc::new(MemKv::default()));
    check_expired(&rebuilt);
    // Not even the next offset is dropped before there is a message.
    assert_eq!(expire(&rebuilt, 0, 10_000), 0);
    assert_eq!(
        rebuilt.state().queues.bounds(1, 0),
        QueueBounds { min: 120, next: 120, ..rebuilt.state().queues.bounds(1, 0) }
    );
    fill(&rebuilt, 0, 1);
    assert_eq!(id_at(&rebuilt, 0, 120).as_deref(), Some("0-0"));
}

#[test]
fn what_expired_is_not_carried_when_its_segment_goes() {
    let built = build();
    assert_eq!(built.late.1, 0, "it is the first of its queue");
    assert_eq!(built.fired.1, 1, "it is the second one");
    expire(&built.store, 1, 2);
    let trimmed = built.store.trim(&trim_points(&built.store)[0]).expect("trims");
    assert_eq!(trimmed.carried, 3, "undecided, scheduled, and waiting for its next attempt");
    assert_eq!(id_at(&built.store, 1, 0), None);
    assert_eq!(propose(&built.store, &commit(built.late.0)).outcome, ApplyOutcome::Repeated);
}

#[test]
fn a_failed_message_that_expired_outlives_any_number_of_trims() {
    let built = build();
    expire(&built.store, 0, 60);
    for queue in [0, 1] {
        fill(&built.store, queue, 60);
        built.store.trim(trim_points(&built.store).last().expect("some")).expect("trims");
        assert_eq!(id_at(&built.store, 0, 4).as_deref(), Some("0-4"));
    }
    built.store.close();
    let rebuilt = open(&built.folder, &Arc::new(MemKv::default()));
    assert_eq!(id_at(&rebuilt, 0, 4).as_deref(), Some("0-4"));
    propose(&rebuilt, &progress(vec![AckRange { start: 4, end: 5 }], vec![]));
    fill(&rebuilt, 1, 60);
    rebuilt.trim(trim_points(&rebuilt).last().expect("some")).expect("trims");
    assert_eq!(id_at(&rebuilt, 0, 4), None, "done");
}
