//! Removal of whole segments at the beginning of the log.

use crate::begin;
use crate::error::LogError;
use crate::fs::Folder;
use crate::reader::LogReader;
use crate::sabotage;
use crate::segment::{HEADER_LEN, all_bases, file_name};

/// A segment of the log, as [`LogReader::segments`] lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Position of its first byte.
    pub base: u64,
    /// Position of its first frame.
    pub start: u64,
    /// Position behind its last frame.
    pub end: u64,
}

impl LogReader {
    /// All segments, oldest first.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let bases = self.shared.bases();
        let ends = bases.iter().skip(1).copied().chain([self.end()]);
        bases
            .iter()
            .zip(ends)
            .map(|(base, end)| SegmentInfo { base: *base, start: base + HEADER_LEN, end })
            .collect()
    }

    /// Removes the segments that end at or before `before`, and returns the number of bytes freed. All or none of them go, even
    /// if the power is cut in between: [`Log::open`](crate::Log::open) finishes the removal. The newest segment always stays.
    /// Readers of a removed segment can read it to its end.
    ///
    /// # Errors
    /// [`LogError::Io`]; the remaining segments still follow each other without a gap.
    pub fn remove_before(&self, folder: &dyn Folder, before: u64) -> Result<u64, LogError> {
        let segments = self.segments();
        let gone = segments.iter().take(segments.len().saturating_sub(1));
        let gone: Vec<&SegmentInfo> = gone.filter(|segment| segment.end <= before).collect();
        let Some(last) = gone.last() else { return Ok(0) };
        assert!(
            gone.len() < segments.len() && last.end <= before,
            "the newest segment and all segments behind the trim stay"
        );
        mark(folder, last.end)?;
        // Out of the table first: no reader may find a segment whose file is gone.
        gone.iter().for_each(|segment| self.shared.remove(segment.base));
        remove(folder, last.end)?;
        Ok(gone.iter().map(|segment| segment.end - segment.base).sum())
    }
}

/// Suffix of an empty file whose name holds a position: the segments before that are to be removed. An index that is made from
/// a log without some of them, but with others, would mistake repeated messages in the first ones for new.
const MARK: &str = ".trim";

/// The beginning of the log, if a trim was interrupted.
pub(crate) fn interrupted(names: &[String]) -> Option<u64> {
    let position = |name: &String| name.strip_suffix(MARK).filter(|digits| digits.len() == 20)?.parse().ok();
    names.iter().filter_map(position).max()
}

fn mark(folder: &dyn Folder, before: u64) -> Result<(), LogError> {
    let name = format!("{before:020}{MARK}");
    let is_there = names(folder)?.contains(&name);
    if sabotage::is("trim-without-mark") || is_there {
        return Ok(());
    }
    folder.create(&name).and_then(|_| folder.sync()).map_err(LogError::io(format!("writing {name}")))
}

/// Removes the remaining segments of an interrupted trim, if there was one.
pub(crate) fn finish(folder: &dyn Folder) -> Result<(), LogError> {
    match interrupted(&names(folder)?) {
        Some(before) => remove(folder, before),
        None => Ok(()),
    }
}

fn remove(folder: &dyn Folder, before: u64) -> Result<(), LogError> {
    let names = names(folder)?;
    let remove =
        |name: &str| folder.remove(name).map_err(LogError::io(format!("removing {name} from the log")));
    for base in all_bases(&names).into_iter().filter(|base| *base < before) {
        remove(&file_name(base))?;
    }
    // Before the mark is removed, so that at every moment one of the files marks the beginning of the log.
    begin::note(folder, before)?;
    folder.sync().map_err(LogError::io("syncing the log folder"))?;
    begin::forget_others(folder, before)?;
    names.iter().filter(|name| name.ends_with(MARK)).try_for_each(|name| remove(name))
}

/// Cancels an interrupted trim: the log is given up as a whole.
pub(crate) fn forget(folder: &dyn Folder) -> Result<(), LogError> {
    let names = names(folder)?;
    let marks = names.iter().filter(|name| name.ends_with(MARK));
    let remove = |name: &String| folder.remove(name).map_err(LogError::io(format!("removing {name}")));
    marks.into_iter().try_for_each(remove)
}

fn names(folder: &dyn Folder) -> Result<Vec<String>, LogError> {
    folder.list().map_err(LogError::io("listing the log folder"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::MemFolder;
    use crate::segment::bases;

    #[test]
    fn an_interrupted_trim_is_finished() {
        let folder = MemFolder::new();
        for base in [0, 100, 200] {
            folder.create(&file_name(base)).expect("created");
        }
        assert_eq!(bases(&folder).expect("lists"), [0, 100, 200]);
        mark(&folder, 200).expect("marked");
        folder.remove(&file_name(0)).expect("removed");
        assert_eq!(bases(&folder).expect("lists"), [200], "an inspection sees only the segments that stay");
        finish(&folder).expect("finished");
        let begin = "00000000000000000200.begin".to_owned();
        assert_eq!(folder.list().expect("lists"), [begin, file_name(200)]);
        finish(&folder).expect("nothing to finish");
        assert_eq!(bases(&folder).expect("lists"), [200]);
    }
}
