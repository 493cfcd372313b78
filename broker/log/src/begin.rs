//! An empty file that marks the beginning of the log: without it, the loss of the oldest segments would pass for a
//! trim.
//!
//! `<position>.begin` exists from the beginning of the log, and follows each trim. A start compares it with the oldest
//! segment. Folders of earlier versions have none: their content is trusted, and the mark is added.

use crate::error::LogError;
use crate::fs::Folder;
use crate::segment::{all_bases, file_name};
use crate::trim;

const ENDING: &str = ".begin";

fn name(base: u64) -> String {
    format!("{base:020}{ENDING}")
}

/// The beginning of the log as a file of these names marks it, if one does. An interrupted change leaves two marks: the
/// later position is the newer one.
fn known(names: &[String]) -> Option<u64> {
    let position =
        |name: &String| name.strip_suffix(ENDING).filter(|digits| digits.len() == 20)?.parse().ok();
    names.iter().filter_map(position).max()
}

/// The missing beginning of the log: its first position, and the base of the oldest segment that exists.
pub(crate) fn missing(names: &[String]) -> Option<(u64, u64)> {
    let begin = known(names)?.max(trim::interrupted(names).unwrap_or(0));
    let oldest = *all_bases(names).first()?;
    (oldest > begin).then_some((begin, oldest))
}

/// Refuses a log whose oldest segments are missing.
///
/// # Errors
/// [`LogError::Missing`], [`LogError::Io`]
pub(crate) fn check(folder: &dyn Folder) -> Result<(), LogError> {
    let names = folder.list().map_err(LogError::io("listing the log folder"))?;
    match missing(&names) {
        Some((begin, oldest)) => Err(LogError::Missing {
            file: file_name(begin),
            oldest: file_name(oldest),
            begin: name(known(&names).unwrap_or(begin)),
        }),
        None => Ok(()),
    }
}

/// Marks the beginning of the log at `base`; durable after [`Folder::sync`]. Call [`forget_others`] then.
pub(crate) fn note(folder: &dyn Folder, base: u64) -> Result<(), LogError> {
    let name = name(base);
    let listed = folder.list().map_err(LogError::io("listing the log folder"))?;
    if listed.contains(&name) {
        return Ok(());
    }
    folder.create(&name).map(drop).map_err(LogError::io(format!("writing {name}")))
}

/// Removes all marks but the one at `base`.
pub(crate) fn forget_others(folder: &dyn Folder, base: u64) -> Result<(), LogError> {
    remove(folder, |other| *other != name(base))
}

/// Removes all marks: the log is given up.
pub(crate) fn forget(folder: &dyn Folder) -> Result<(), LogError> {
    remove(folder, |_| true)
}

fn remove(folder: &dyn Folder, which: impl Fn(&String) -> bool) -> Result<(), LogError> {
    let names = folder.list().map_err(LogError::io("listing the log folder"))?;
    for other in names.iter().filter(|other| other.ends_with(ENDING) && which(other)) {
        folder.remove(other).map_err(LogError::io(format!("removing {other}")))?;
    }
    Ok(())
}

/// Ensures that the folder marks the beginning of its log at `base`.
pub(crate) fn settle(folder: &dyn Folder, base: u64) -> Result<(), LogError> {
    let names = folder.list().map_err(LogError::io("listing the log folder"))?;
    if known(&names) != Some(base) {
        note(folder, base)?;
        folder.sync().map_err(LogError::io("syncing the log folder"))?;
    }
    forget_others(folder, base)
}
