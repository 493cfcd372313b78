//! What a member of a broker group remembers beside its log: who it is, and what it promised.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const NAME: &str = "member.json";
/// Format version written by this software.
const VERSION: u32 = 2;
/// Stands in [`Remembered::members`] for members that format version 1 did not note: a slave wrote none.
const UNNAMED: &str = "unnamed";

/// The content of the file. Everything is durable before it is acted upon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Remembered {
    version: u32,
    /// Random number of this data folder.
    pub(crate) incarnation: String,
    /// The member follows no master of an earlier epoch than this.
    pub(crate) promised: u32,
    /// Epoch of the newest master that it granted a lease to; 0 when it ruled itself since.
    pub(crate) granted: u32,
    /// Incarnations of the members that its group was last known to have, written before anything goes by it.
    pub(crate) members: Vec<String>,
    /// Up to where it heard that the log was confirmed, about a second ago.
    #[serde(default)]
    pub(crate) confirmed: u64,
    /// Epoch of the newest reign that told something of that.
    #[serde(default)]
    pub(crate) confirmed_epoch: u32,
}

/// The file of one data folder.
#[derive(Debug)]
pub(crate) struct MemberFile {
    folder: PathBuf,
    now: Remembered,
}

impl MemberFile {
    /// Reads the file in the data folder `folder`, or begins one. A folder whose log is gone (`is_blank`) is another member than
    /// the one that the file speaks of: what that one promised to hold is not here.
    ///
    /// # Errors
    /// The file cannot be read or written, or was written by a newer version.
    pub(crate) fn open(folder: &Path, is_blank: bool) -> io::Result<Self> {
        let found = match fs::read(folder.join(NAME)) {
            Ok(bytes) => Some(parse(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let mut file = Self { folder: folder.to_owned(), now: found.clone().unwrap_or_default() };
        if found.is_none() || is_blank {
            let incarnation = uuid::Uuid::new_v4().to_string();
            file.change(|now| *now = Remembered { version: VERSION, incarnation, ..Remembered::default() })?;
        }
        file.change(upgrade)?;
        Ok(file)
    }

    /// What it says.
    pub(crate) fn now(&self) -> &Remembered {
        &self.now
    }

    /// Changes it, durably. Nothing is written when nothing changes.
    ///
    /// # Errors
    /// It cannot be written; nothing changed then.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Remembered)) -> io::Result<()> {
        let mut then = self.now.clone();
        change(&mut then);
        if then != self.now {
            self.write(&then)?;
            self.now = then;
        }
        Ok(())
    }

    fn write(&self, content: &Remembered) -> io::Result<()> {
        let (path, written) = (self.folder.join(NAME), self.folder.join("member.json.new"));
        let mut file = File::create(&written)?;
        file.write_all(&serde_json::to_vec_pretty(content)?)?;
        file.sync_all()?;
        fs::rename(&written, &path)?;
        File::open(&self.folder)?.sync_all()
    }
}

/// What an earlier version left out. A slave of version 1 had a master, and did not note who its others were.
fn upgrade(now: &mut Remembered) {
    if now.version < 2 && now.granted > 0 && now.members.len() < 2 {
        now.members = vec![now.incarnation.clone(), UNNAMED.to_owned()];
    }
    now.version = VERSION;
}

fn parse(bytes: &[u8]) -> io::Result<Remembered> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, format!("{NAME}: {reason}"));
    let found: Remembered = serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    if found.version > VERSION {
        return Err(invalid(format!("format version {} of a newer broker; use that one", found.version)));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_survive_and_an_emptied_folder_is_somebody_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut file = MemberFile::open(folder.path(), true).expect("begun");
        file.change(|now| now.promised = 7).expect("written");
        let again = MemberFile::open(folder.path(), false).expect("read");
        assert_eq!(again.now(), file.now());
        assert_eq!(again.now().promised, 7);
        let emptied = MemberFile::open(folder.path(), true).expect("begun anew");
        assert_ne!(emptied.now().incarnation, file.now().incarnation);
        assert_eq!(emptied.now().promised, 0);
    }

    /// The bytes of format version 1 stay readable.
    #[test]
    fn fixture_of_version_1() {
        let text = br#"{"version":1,"incarnation":"a","promised":3,"granted":2,"members":["a","b"]}"#;
        let found = parse(text).expect("readable");
        assert_eq!((found.promised, found.granted, found.members.len()), (3, 2, 2));
    }

    #[test]
    fn fixture_of_version_2() {
        let text = br#"{"version":2,"incarnation":"a","promised":3,"granted":2,"members":["a","b"],"confirmed":900,"confirmed_epoch":2}"#;
        let found = parse(text).expect("readable");
        assert_eq!((found.confirmed, found.confirmed_epoch), (900, 2));
        assert!(parse(br#"{"version":3,"incarnation":"","promised":0,"granted":0,"members":[]}"#).is_err());
    }

    /// A slave of version 1 had a master, and its file does not say who: it must not take itself for the only member.
    #[test]
    fn a_slave_of_version_1_knows_that_there_are_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = br#"{"version":1,"incarnation":"a","promised":3,"granted":2,"members":[]}"#;
        fs::write(folder.path().join(NAME), text).expect("written");
        let file = MemberFile::open(folder.path(), false).expect("read");
        assert_eq!(file.now().members, ["a", UNNAMED]);
        let alone = br#"{"version":1,"incarnation":"a","promised":3,"granted":0,"members":["a"]}"#;
        fs::write(folder.path().join(NAME), alone).expect("written");
        let file = MemberFile::open(folder.path(), false).expect("read");
        assert_eq!(file.now().members, ["a"]);
    }
}
