//! The contract of every file system behind the interface.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::{File, Folder};

/// Checks an empty folder against the rules that the log relies on; leaves files behind.
///
/// # Errors
/// A description of the broken rule.
pub fn check_contract(folder: &dyn Folder) -> Result<(), String> {
    check_names(folder)?;
    let file = done("creating", folder.create("data"))?;
    check_bytes(&*file)?;
    check_lengths(&*file)?;
    check_holes(&*done("creating", folder.create("holes"))?)?;
    check_sharing(folder)
}

fn check_names(folder: &dyn Folder) -> Result<(), String> {
    done("creating", folder.create("a"))?;
    done("creating", folder.create("b"))?;
    rule(names(folder)? == ["a", "b"], "created files are listed")?;
    rule(kind(folder.create("a")) == Some(io::ErrorKind::AlreadyExists), "a name cannot be created twice")?;
    rule(kind(folder.open("c")) == Some(io::ErrorKind::NotFound), "a missing file cannot be opened")?;
    rule(kind(folder.remove("c")) == Some(io::ErrorKind::NotFound), "a missing file cannot be removed")?;
    done("removing", folder.remove("a"))?;
    rule(names(folder)? == ["b"], "removed files are not listed")?;
    done("syncing the folder", folder.sync())?;
    done("creating again", folder.create("a"))?;
    done("removing", folder.remove("a"))?;
    done("removing", folder.remove("b"))
}

fn check_bytes(file: &dyn File) -> Result<(), String> {
    rule(done("is_empty", file.is_empty())?, "a new file is empty")?;
    done("writing", file.write_at(b"kerolox", 5))?;
    rule(content(file)? == b"\0\0\0\0\0kerolox", "a write behind the end leaves zeros")?;
    done("writing", file.write_at(b"KERO", 5))?;
    done("writing nothing", file.write_at(b"", 100))?;
    rule(content(file)? == b"\0\0\0\0\0KEROlox", "a write replaces its range and nothing else")?;
    let mut buf = [9; 8];
    rule(done("reading", file.read_at(&mut buf, 9))? == 3, "a read ends at the end of the file")?;
    rule(&buf == b"lox\x09\x09\x09\x09\x09", "a short read leaves the rest of the buffer alone")?;
    rule(done("reading", file.read_at(&mut buf, 12))? == 0, "nothing is read at the end")?;
    rule(done("reading", file.read_at(&mut buf, 1 << 40))? == 0, "nothing is read behind the end")?;
    done("syncing", file.sync())
}

fn check_lengths(file: &dyn File) -> Result<(), String> {
    done("set_len", file.set_len(7))?;
    rule(content(file)? == b"\0\0\0\0\0KE", "set_len cuts off")?;
    done("set_len", file.set_len(9))?;
    rule(content(file)? == b"\0\0\0\0\0KE\0\0", "set_len extends with zeros, not with cut-off bytes")?;
    done("allocate", file.allocate(4000))?;
    let found = content(file)?;
    rule(found.len() == 4000 && found[9..].iter().all(|byte| *byte == 0), "allocate extends with zeros")?;
    rule(&found[..9] == b"\0\0\0\0\0KE\0\0", "allocate keeps the content")?;
    done("allocate", file.allocate(10))?;
    rule(done("len", file.len())? == 4000, "allocate never shortens")
}

fn check_holes(file: &dyn File) -> Result<(), String> {
    done("allocate", file.allocate(1 << 20))?;
    done("writing", file.write_at(b"x", 600_000))?;
    done("syncing", file.sync())?;
    done("writing", file.write_at(b"y", 100_000))?;
    done("syncing", file.sync())?;
    for asked in [0..1 << 20, 0..u64::MAX, 5..600_001, 99_999..100_001, 100_000..100_001, 100_001..600_000] {
        let found = done("data_in", file.data_in(asked.clone()))?;
        let in_order = found.windows(2).all(|pair| pair[0].end < pair[1].start);
        let inside = |data: &Range<u64>| {
            asked.start <= data.start && data.start < data.end && data.end <= asked.end.min(1 << 20)
        };
        rule(
            in_order && found.iter().all(inside),
            "data_in returns ordered ranges inside the requested one",
        )?;
        for at in [100_000, 600_000].into_iter().filter(|at| asked.contains(at)) {
            rule(found.iter().any(|data| data.contains(&at)), "data_in passes over zeros only")?;
        }
    }
    rule(done("data_in", file.data_in(1 << 20..1 << 30))?.is_empty(), "there is no data behind the end")?;
    rule(done("data_in", file.data_in(600_000..600_000))?.is_empty(), "there is no data in an empty range")
}

fn check_sharing(folder: &dyn Folder) -> Result<(), String> {
    let writer = done("creating", folder.create("shared"))?;
    let reader = done("opening", folder.open("shared"))?;
    done("writing", writer.write_at(b"seen", 0))?;
    rule(content(&*reader)? == b"seen", "a write is visible at once through every open handle")?;
    done("removing", folder.remove("shared"))?;
    rule(content(&*reader)? == b"seen", "a removed file can be read through an open handle")?;
    let other: Arc<dyn File> = done("creating", folder.create("shared"))?;
    rule(content(&*other)?.is_empty(), "a new file of an old name is another file")
}

fn names(folder: &dyn Folder) -> Result<Vec<String>, String> {
    let mut names = done("listing", folder.list())?;
    names.sort();
    Ok(names)
}

fn content(file: &dyn File) -> Result<Vec<u8>, String> {
    let len = usize::try_from(done("len", file.len())?).map_err(|error| error.to_string())?;
    let mut bytes = vec![0; len + 1];
    let n = done("reading", file.read_at(&mut bytes, 0))?;
    rule(n == len, "a read gives everything up to the end")?;
    bytes.truncate(n);
    Ok(bytes)
}

fn kind<T>(result: io::Result<T>) -> Option<io::ErrorKind> {
    result.err().map(|error| error.kind())
}

fn done<T>(action: &str, result: io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{action} failed: {error}"))
}

fn rule(holds: bool, rule: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(format!("broken rule: {rule}")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{MemFolder, OsFolder};

    #[test]
    fn memory_and_disk_behave_the_same() {
        check_contract(&MemFolder::new()).expect("memory");
        let path = tempfile::tempdir().expect("a folder");
        check_contract(&OsFolder::create(path.path()).expect("created")).expect("disk");
    }
}
