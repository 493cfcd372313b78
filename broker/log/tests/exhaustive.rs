//! A small log, damaged at every byte and cut at every length.

mod support;

use kerolox_log::fs::{Folder, MemFolder};
use kerolox_log::{FrameSalt, LogError, LogOptions};
use support::{Content, append, name, open_with, segments};

/// Three records to a segment; the checkpoint is only written at a roll or a clean stop.
const OPTIONS: LogOptions =
    LogOptions { segment_bytes: 260, checkpoint_bytes: 1 << 20, ..LogOptions::new(FrameSalt::new(7)) };
const RECORDS: usize = 7;

/// A log on disk with its expected content.
struct Sample {
    folder: MemFolder,
    places: Vec<(u64, u32)>,
    bases: Vec<u64>,
    end: u64,
    /// Whether the checkpoint knows the end.
    closed: bool,
}

fn sample(closed: bool) -> Sample {
    let folder = MemFolder::new();
    let (mut log, _) = open_with(&folder, OPTIONS);
    let places: Vec<(u64, u32)> = (0..RECORDS).map(|i| append(&mut log, i)).collect();
    log.sync().expect("synced");
    let end = log.end();
    if closed {
        log.close().expect("closed");
    } else {
        drop(log);
        folder.crash_with(|_| false);
    }
    let bases: Vec<u64> = segments(&folder).into_iter().map(|(_, base)| base).collect();
    assert_eq!(bases.len(), 3, "one is sealed and not the first, one is open");
    Sample { folder, places, bases, end, closed }
}

impl Sample {
    /// The expected report of a scan when only the bytes of the `lost` records, which are adjacent, cannot be read.
    fn range_of(&self, lost: &[usize]) -> Vec<(u64, u64)> {
        let Some(first) = lost.first() else { return Vec::new() };
        let next = self.places.get(first + lost.len()).map_or(self.end, |place| place.0);
        vec![(self.places[*first].0, next)]
    }

    /// Opens a copy after `harm`, checks that it holds all records but the `lost` ones, that the damage is reported as
    /// `ranges`, and that the log continues from there.
    fn check(&self, what: &str, harm: impl Fn(&MemFolder), lost: &[usize], ranges: &[(u64, u64)]) {
        let folder = self.folder.fork();
        harm(&folder);
        let (mut log, recovered) = open_with(&folder, OPTIONS);
        let content = Content::of(&log.reader());
        let kept = (0..RECORDS).filter(|i| !lost.contains(i)).map(|i| self.places[i].0);
        assert_eq!(content.positions(), kept.collect::<Vec<_>>(), "{what}");
        // A scan begins behind the header of the first segment, but reports damage of that header.
        assert_eq!(content.ranges(), ranges, "{what}");
        for range in &recovered.damaged {
            let told = content
                .damaged
                .iter()
                .any(|told| told.position <= range.position && range.until <= told.until.max(log.end()));
            assert!(told, "{what}: {range:?} is not in {:?}", content.damaged);
        }
        for i in lost {
            let (position, len) = self.places[*i];
            if position < log.end() {
                let Err(LogError::Damaged(range)) = log.reader().read(position, len) else {
                    panic!("{what}: record {i} is readable")
                };
                assert_eq!(range.position, position, "{what}");
            }
        }
        // The log goes on, and a second start finds an equal log.
        let new = append(&mut log, 50).0;
        assert!(!self.closed || new >= self.end, "{what}: a position was used again");
        log.close().expect("closed");
        let again = Content::of(&open_with(&folder, OPTIONS).0.reader());
        assert_eq!(again.positions(), [content.positions(), vec![new]].concat(), "{what}");
    }
}

#[test]
fn every_flipped_byte_is_reported_or_does_not_matter() {
    for closed in [true, false] {
        let sample = sample(closed);
        for base in &sample.bases {
            let file = name(*base);
            let len = sample.folder.content(&file).expect("there").len();
            for offset in 0..len {
                let mask = 1 << (offset % 8);
                let position = base + offset as u64;
                let what = format!("closed {closed}, {file} at {offset}");
                let hit = sample
                    .places
                    .iter()
                    .position(|(at, len)| (*at..at + u64::from(*len)).contains(&position));
                let flip = |folder: &MemFolder| folder.flip_bits(&file, offset, mask);
                match hit {
                    _ if offset < 64 => sample.check(&what, flip, &[], &[(*base, base + 64)]),
                    // The last record of a log that was not closed cannot be told from an unfinished one.
                    Some(last) if last == RECORDS - 1 && !closed => sample.check(&what, flip, &[last], &[]),
                    Some(i) => sample.check(&what, flip, &[i], &sample.range_of(&[i])),
                    None => sample.check(&what, flip, &[], &[]),
                }
            }
        }
    }
}

#[test]
fn a_file_cut_at_any_length_loses_what_was_cut() {
    for closed in [true, false] {
        let sample = sample(closed);
        for base in &sample.bases {
            let file = name(*base);
            let len = sample.folder.content(&file).expect("there").len();
            for keep in 0..len {
                let file_end = base + keep as u64;
                let next = sample.bases.iter().find(|next| *next > base);
                let lost: Vec<usize> = (0..RECORDS)
                    .filter(|i| {
                        let (at, len) = sample.places[*i];
                        at > *base && next.is_none_or(|next| at < *next) && at + u64::from(len) > file_end
                    })
                    .collect();
                let is_last = next.is_none();
                let mut ranges = if is_last && !closed { Vec::new() } else { sample.range_of(&lost) };
                // A segment that is shorter than a header, but held records.
                if keep < 28 && (closed || !is_last) {
                    ranges.insert(0, (*base, base + 64));
                }
                if is_last && closed && !lost.is_empty() {
                    // The log goes on in a new segment.
                    ranges.last_mut().expect("one").1 = sample.end + 64;
                }
                let what = format!("closed {closed}, {file} cut to {keep}");
                sample.check(&what, |folder| folder.truncate(&file, keep), &lost, &ranges);
            }
        }
    }
}

type Harm<'a> = &'a dyn Fn(&MemFolder);

/// Wherever the power is cut while a damaged log is opened, the next start reaches an equal result.
#[test]
fn recovery_can_be_interrupted_anywhere() {
    let sample = sample(false);
    let last = sample.bases[2];
    let harms: [(&str, Harm); 6] = [
        ("nothing", &|_| {}),
        ("torn tail", &|folder| folder.flip(&name(last), 70)),
        ("damage", &|folder| support::flip(folder, sample.places[4].0 + 9, 1)),
        ("no header in the newest", &|folder| folder.truncate(&name(last), 0)),
        ("shortened in the middle", &|folder| folder.truncate(&name(sample.bases[1]), 100)),
        ("newest missing", &|folder| folder.remove(&name(last)).expect("removed")),
    ];
    for (what, harm) in harms {
        let harmed = sample.folder.fork();
        harm(&harmed);
        harmed.sync().expect("synced");
        let expected = {
            let folder = harmed.fork();
            Content::of(&open_with(&folder, OPTIONS).0.reader())
        };
        for cut in 0.. {
            let interrupted = harmed.fork();
            interrupted.power_off_at(cut);
            let opened = kerolox_log::Log::open(std::sync::Arc::new(interrupted.clone()), OPTIONS);
            for seed in 0..20 {
                let folder = interrupted.fork();
                folder.crash(seed);
                let found = Content::of(&open_with(&folder, OPTIONS).0.reader());
                assert_eq!(found, expected, "{what}, cut at {cut}, seed {seed}");
            }
            if opened.is_ok() {
                assert!(cut > 2, "{what}: there was something to interrupt");
                break;
            }
        }
    }
}
