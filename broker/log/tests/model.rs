//! The log against a simple model: random appends, syncs, stops, power cuts in the middle of anything, failing disks and
//! flipped bits.

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use kerolox_log::frame::frame_len;
use kerolox_log::fs::{DiskFault, FaultTimes, MemFolder, SeededChoices};
use kerolox_log::{Frame, FrameSalt, Log, LogError, LogOptions, NewFrame, SyncTask};
use proptest::prelude::*;
use support::{Content, flip, open_with};

/// Small steps, so that space runs out everywhere.
const OPTIONS: LogOptions = LogOptions {
    segment_bytes: 2048,
    step_bytes: 600,
    checkpoint_bytes: 700,
    ..LogOptions::new(FrameSalt::new(7))
};

#[derive(Debug, Clone)]
enum Step {
    /// Appends records of these sizes with one call.
    Append(Vec<usize>),
    Sync,
    /// Begins a sync on another thread.
    SyncElsewhere,
    /// Runs the sync on the other thread.
    RunTask,
    /// Writes the checkpoint.
    Note,
    /// The process ends without closing the log; the system stays up.
    Kill,
    Close,
    /// The power is cut after this many operations, or at the next step of this kind.
    Power {
        after: u64,
        seed: u64,
    },
    /// An operation fails once.
    Fail(DiskFault, u64),
    /// This many bytes are left on the disk, or no limit.
    Room(Option<u64>),
    /// A bit of a synced record that is not the last one flips.
    Flip {
        record: prop::sample::Index,
        byte: prop::sample::Index,
        bit: u8,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let sizes = prop::collection::vec(prop_oneof![8 => 0usize..200, 1 => 500usize..3000], 1..6);
    let fault = prop::sample::select(DiskFault::ALL.to_vec());
    prop_oneof![
        12 => sizes.prop_map(Step::Append),
        8 => Just(Step::Sync),
        4 => Just(Step::SyncElsewhere),
        4 => Just(Step::RunTask),
        4 => Just(Step::Note),
        1 => Just(Step::Kill),
        1 => Just(Step::Close),
        3 => (0u64..8, any::<u64>()).prop_map(|(after, seed)| Step::Power { after, seed }),
        1 => (fault, 0u64..4).prop_map(|(fault, nth)| Step::Fail(fault, nth)),
        2 => prop::option::of(0u64..3000).prop_map(Step::Room),
        1 => (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0u8..8)
            .prop_map(|(record, byte, bit)| Step::Flip { record, byte, bit }),
    ]
}

#[derive(Debug, Clone)]
struct Known {
    len: u32,
    body: Vec<u8>,
    /// Set once a sync or a start reported it durable.
    synced: bool,
    flipped: bool,
}

struct World {
    folder: MemFolder,
    log: Option<Log>,
    /// A sync for another thread, and the end of the log when it was begun.
    task: Option<(SyncTask, u64)>,
    /// Appended records, by position.
    records: BTreeMap<u64, Known>,
    /// Bodies of appends that failed or were cut short: they may be in the log or not.
    perhaps: Vec<Vec<u8>>,
    /// Ranges of unsynced bytes that a power cut destroyed.
    holes: Vec<(u64, u64)>,
    counter: u32,
    /// Seed of the current power cut.
    power: Option<u64>,
    /// Whether the space on the disk is limited.
    is_short: bool,
}

impl World {
    fn new() -> Self {
        let folder = MemFolder::new();
        let log = Some(open_with(&folder, OPTIONS).0);
        Self {
            folder,
            log,
            task: None,
            records: BTreeMap::new(),
            perhaps: Vec::new(),
            holes: Vec::new(),
            counter: 0,
            power: None,
            is_short: false,
        }
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(sizes) => self.append(sizes),
            Step::Sync => self.sync(),
            Step::SyncElsewhere => self.sync_elsewhere(),
            Step::RunTask => self.run_task(),
            // The next start shows whether it works.
            Step::Note => drop(self.log.as_mut().expect("open").note_durable()),
            Step::Kill => self.restart(None),
            Step::Close => {
                self.run_task();
                if self.log.take().expect("open").close().is_ok() {
                    self.records.values_mut().for_each(|record| record.synced = true);
                }
                self.restart(None);
            }
            Step::Power { after, seed } => match self.power.take() {
                Some(seed) => self.restart(Some(seed)),
                None => {
                    self.folder.power_off_at(*after);
                    self.power = Some(*seed);
                }
            },
            Step::Fail(fault, nth) => self.folder.fail_nth(*fault, *nth, FaultTimes::Once),
            Step::Room(left) => {
                let names = self.folder.names().into_iter();
                let used: u64 =
                    names.map(|name| self.folder.content(&name).map_or(0, |bytes| bytes.len() as u64)).sum();
                self.folder.set_capacity(left.map(|left| used + left));
                self.is_short = left.is_some();
            }
            Step::Flip { record, byte, bit } => self.flip(record, byte, *bit),
        }
    }

    fn append(&mut self, sizes: &[usize]) {
        let new: Vec<NewFrame> = sizes
            .iter()
            .map(|size| {
                self.counter += 1;
                let mut body = self.counter.to_le_bytes().to_vec();
                body.extend(vec![b'x'; *size]);
                NewFrame { kind: 1, body: body.into() }
            })
            .collect();
        // Records that do not fit begin a segment, which waits for the task.
        let len: usize = new.iter().map(|new| frame_len(new.body.len())).sum();
        if self.log.as_ref().expect("open").room() < len as u64 {
            self.run_task();
        }
        let log = self.log.as_mut().expect("open");
        let bodies = new.iter().map(|new| new.body.to_vec());
        match log.append(&new, 1, 1) {
            Ok(places) => {
                for ((position, len), body) in places.into_iter().zip(bodies) {
                    let record = Known { len, body, synced: false, flipped: false };
                    assert!(self.records.insert(position, record).is_none(), "a position was used twice");
                }
            }
            Err(_) => self.perhaps.extend(bodies),
        }
    }

    fn sync(&mut self) {
        self.run_task();
        if self.log.as_mut().expect("open").sync().is_ok() {
            self.records.values_mut().for_each(|record| record.synced = true);
        }
    }

    fn sync_elsewhere(&mut self) {
        self.run_task();
        let log = self.log.as_mut().expect("open");
        let end = log.end();
        self.task = log.sync_elsewhere().ok().map(|task| (task, end));
    }

    /// Records appended before the task was begun are durable then, and a failure makes the log read-only.
    fn run_task(&mut self) {
        let Some((task, end)) = self.task.take() else { return };
        let log = self.log.as_mut().expect("open");
        let before = log.reader().durable();
        if task.run().is_ok() {
            assert_eq!(log.reader().durable(), end);
            self.records.range_mut(..end).for_each(|(_, record)| record.synced = true);
        } else {
            assert_eq!(log.reader().durable(), before);
            assert!(matches!(log.append(&[], 1, 1), Err(LogError::ReadOnly(_))), "the failure is noticed");
        }
    }

    fn flip(&mut self, record: &prop::sample::Index, byte: &prop::sample::Index, bit: u8) {
        let synced: Vec<u64> = self.intact().filter(|(_, known)| known.synced).map(|(at, _)| *at).collect();
        // Damage to the last record cannot be told from a torn tail.
        let Some((_, others @ [_, ..])) = synced.split_last() else { return };
        let position = others[record.index(others.len())];
        let known = self.records.get_mut(&position).expect("known");
        known.flipped = true;
        flip(&self.folder, position + byte.index(known.len as usize) as u64, 1 << bit);
    }

    fn intact(&self) -> impl Iterator<Item = (&u64, &Known)> {
        self.records.iter().filter(|(_, known)| !known.flipped)
    }

    /// Restarts, after a power cut if there is a seed, and compares the log with the model.
    fn restart(&mut self, power: Option<u64>) {
        self.task = None;
        self.log = None;
        self.folder.fail(None);
        if let Some(seed) = power.or(self.power.take()) {
            self.folder.crash(seed);
            // Sometimes the power is cut again during recovery.
            let mut chooser = SeededChoices::new(seed);
            for _ in 0..chooser.below(3) {
                self.folder.power_off_at(chooser.below(8));
                drop(Log::open(Arc::new(self.folder.clone()), OPTIONS));
                self.folder.crash(chooser.next_u64());
            }
        }
        // A disk without space may refuse the checkpoint of a start. That changes nothing, and the next start has
        // space.
        if self.is_short && Log::open(Arc::new(self.folder.clone()), OPTIONS).is_err() {
            self.folder.set_capacity(None);
            self.is_short = false;
        }
        let (log, _) = open_with(&self.folder, OPTIONS);
        let content = Content::of(&log.reader());
        self.check_kept(&content);
        self.take_up(&content);
        self.check_ranges(&content);
        for (position, known) in &self.records {
            let read = log.reader().read(*position, known.len);
            match read {
                Ok(frame) => assert!(!known.flipped && frame.body == known.body),
                Err(LogError::Damaged(range)) => assert!(known.flipped && range.position == *position),
                Err(error) => panic!("{error}"),
            }
        }
        self.log = Some(log);
    }

    /// Durable, undamaged records must be present.
    fn check_kept(&self, content: &Content) {
        let found: BTreeMap<u64, &Frame> =
            content.frames.iter().map(|frame| (frame.position, frame)).collect();
        for (position, known) in self.intact().filter(|(_, known)| known.synced) {
            let frame = found.get(position).unwrap_or_else(|| panic!("the record at {position} is gone"));
            assert_eq!(frame.body, known.body);
        }
    }

    /// Present records are durable from now on; absent ones that were not durable are gone for good.
    fn take_up(&mut self, content: &Content) {
        let synced_end = self
            .records
            .iter()
            .filter(|(_, known)| known.synced)
            .map(|(at, known)| at + u64::from(known.len))
            .max()
            .unwrap_or(0);
        for (position, until) in content.ranges().into_iter().filter(|(position, _)| *position >= synced_end)
        {
            let followed = content.frames.iter().any(|frame| frame.position == until);
            assert!(followed, "nothing intact is behind {position}..{until}: it should have been cut");
            self.holes.push((position, until));
        }
        self.records.retain(|_, known| known.synced);
        for frame in &content.frames {
            let body = frame.body.to_vec();
            let known = Known { len: frame.len, body, synced: true, flipped: false };
            if self.records.insert(frame.position, known).is_none() {
                // It must be a record that the test wrote, as the counter in the body tells.
                let counter = u32::from_le_bytes(frame.body[..4].try_into().expect("4 bytes"));
                assert!((1..=self.counter).contains(&counter), "the test wrote the record");
            }
        }
        let bodies: std::collections::BTreeSet<&[u8]> =
            content.frames.iter().map(|frame| &frame.body[..]).collect();
        assert_eq!(bodies.len(), content.frames.len(), "a record is there twice");
    }

    /// Every damaged range has its reason, and covers no intact record.
    fn check_ranges(&self, content: &Content) {
        for (position, until) in content.ranges() {
            let hole = self.holes.iter().any(|(at, _)| (position..until).contains(at));
            let flipped = self.records.range(position..until).any(|(_, known)| known.flipped);
            assert!(hole || flipped, "{position}..{until} is reported without a reason");
            let intact = self.intact().find(|(at, _)| (position..until).contains(at));
            assert_eq!(intact.map(|(at, _)| at), None, "inside {position}..{until}");
        }
        for (position, _) in self.records.iter().filter(|(_, known)| known.flipped) {
            let told = content.ranges().iter().any(|(from, until)| (*from..*until).contains(position));
            assert!(told, "the damage at {position} is not reported");
        }
    }
}

proptest! {
    // PROPTEST_CASES asks for more.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.max(1500),
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_log_keeps_its_word(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.step(step);
        }
        world.restart(None);
    }
}
