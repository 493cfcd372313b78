//! Holds the logs of the members against each other.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kerolox_log::fs::OsFolder;
use kerolox_log::inspect::{InspectMode, LogFinding, LogInspector};

/// The time limit for slaves to have all records of the master, once all writes have ended.
const LIMIT: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(200);

/// A record: position, kind and body.
type Frame = (u64, u8, Vec<u8>);

/// Compares the logs in `folders`, record by record, from the first position that all of them have to their ends. Waits for
/// records that are still being copied.
pub(super) async fn compare(folders: &[impl AsRef<Path>]) -> Result<String> {
    let started = Instant::now();
    loop {
        let logs = folders.iter().map(|folder| read(folder.as_ref())).collect::<Result<Vec<_>>>()?;
        match difference(&logs) {
            None => return Ok(format!("{} records", logs.iter().map(Vec::len).min().unwrap_or_default())),
            Some(difference) if started.elapsed() > LIMIT => bail!("{difference}"),
            Some(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// Where logs differ first, in words.
fn difference(logs: &[Vec<Frame>]) -> Option<String> {
    let begin = logs.iter().filter_map(|log| log.first()).map(|(position, ..)| *position).max()?;
    let common: Vec<&[Frame]> =
        logs.iter().map(|log| &log[log.partition_point(|(position, ..)| *position < begin)..]).collect();
    let (first, others) = common.split_first()?;
    others.iter().enumerate().find_map(|(number, other)| {
        let place = first.iter().zip(other.iter()).position(|(one, two)| one != two);
        let shorter = first.len().min(other.len());
        let place = place.or((first.len() != other.len()).then_some(shorter))?;
        let words = |log: &[Frame]| {
            log.get(place).map_or_else(
                || "its end".to_owned(),
                |(position, kind, body)| {
                    format!("a record of kind {kind} and {} bytes at {position}", body.len())
                },
            )
        };
        Some(format!(
            "the logs of members 1 and {} differ: {} in one, {} in the other",
            number + 2,
            words(first),
            words(other)
        ))
    })
}

fn read(folder: &Path) -> Result<Vec<Frame>> {
    let opened = OsFolder::read_only(folder).with_context(|| format!("opening {}", folder.display()))?;
    let mut frames = Vec::new();
    for finding in LogInspector::open(&opened, InspectMode::Live).context("reading a log")? {
        match finding.context("reading a log")? {
            LogFinding::Record(frame) => frames.push((frame.position, frame.kind, frame.body.to_vec())),
            LogFinding::Damaged(damage) => {
                bail!(
                    "{} of {} is damaged from {} to {}: {}",
                    damage.file,
                    folder.display(),
                    damage.position,
                    damage.until,
                    damage.reason
                )
            }
            LogFinding::End { .. } => {}
        }
    }
    Ok(frames)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(frames: &[(u64, &str)]) -> Vec<Frame> {
        frames.iter().map(|(position, body)| (*position, 1, body.as_bytes().to_vec())).collect()
    }

    #[test]
    fn a_log_that_begins_later_may_be_the_same() {
        let (long, short) = (log(&[(0, "a"), (8, "b"), (16, "c")]), log(&[(8, "b"), (16, "c")]));
        assert_eq!(difference(&[long.clone(), long.clone(), short]), None);
        assert!(difference(&[long.clone(), long.clone(), log(&[(8, "b")])]).is_some());
        assert!(difference(&[long.clone(), log(&[(0, "a"), (8, "x"), (16, "c")])]).unwrap().contains("at 8"));
        assert!(difference(&[log(&[(0, "a")]), log(&[])]).is_some());
    }
}
