//! What a member of a broker group remembers beside its log: who it is, and what it promised.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use kerolox_replication::{ConfirmedMark, MemberRecord, StateMemory, StateName};
use serde::{Deserialize, Serialize};

const NAME: &str = "member.json";
/// Format version written by this software.
const VERSION: u32 = 3;
/// Stands in [`Remembered::members`] for members that format version 1 did not note: a slave wrote none.
const UNNAMED: &str = "unnamed";

/// The content of the file. Everything is durable before it is acted upon.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    version: u32,
    /// Random number of this data folder.
    incarnation: String,
    /// The member may have told others that it holds records. A file without this field counts as one that may have.
    #[serde(default = "yes")]
    has_held: bool,
    /// The member follows no master of an earlier epoch than this.
    promised: u32,
    /// Epoch of the newest master that it granted a lease to; 0 when it ruled itself since.
    granted: u32,
    /// Incarnations of the members that its group was last known to have, written before anything goes by it.
    members: Vec<String>,
    /// Up to where it heard that the log was confirmed, about a second ago.
    #[serde(default)]
    confirmed: u64,
    /// Epoch of the newest leadership that told something of that.
    #[serde(default)]
    confirmed_epoch: u32,
    /// The newest state of its group that it went by; `None` before the first, and in versions before 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    controller: Option<LastState>,
}

/// A state of the group, as far as a controller that lost its data has to know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LastState {
    /// Random number of the nameservers.
    cluster_id: String,
    /// Of the controller's record of the group.
    lineage: String,
    /// Of the nameserver's time as leader that the state comes from.
    tenure: String,
    /// Its version.
    version: u64,
    /// Epoch and version of the state that had the newest in-sync set first.
    set_epoch: u32,
    set_version: u64,
    /// Incarnations of the members of that set, and of those that this member, as master, is about to take in.
    in_sync: BTreeSet<String>,
    /// Tenure of the state that had that set first; missing in files of earlier programs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    set_tenure: String,
    /// Tenure and version of the states that the set covers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    origins: Vec<(String, u64)>,
}

fn yes() -> bool {
    true
}

impl From<Remembered> for MemberRecord {
    fn from(found: Remembered) -> Self {
        let memory = found.controller.map(|last| StateMemory {
            name: StateName { cluster_id: last.cluster_id, lineage: last.lineage, version: last.version },
            tenure: last.tenure,
            set_epoch: last.set_epoch,
            set_version: last.set_version,
            set_tenure: last.set_tenure,
            in_sync: last.in_sync,
            origins: last.origins,
        });
        Self {
            incarnation: found.incarnation,
            has_held: found.has_held,
            promised: found.promised,
            granted: found.granted,
            members: found.members.into_iter().collect(),
            confirmed: ConfirmedMark { epoch: found.confirmed_epoch, position: found.confirmed },
            memory,
        }
    }
}

impl From<MemberRecord> for Remembered {
    fn from(record: MemberRecord) -> Self {
        let controller = record.memory.map(|memory| LastState {
            cluster_id: memory.name.cluster_id,
            lineage: memory.name.lineage,
            tenure: memory.tenure,
            version: memory.name.version,
            set_epoch: memory.set_epoch,
            set_version: memory.set_version,
            in_sync: memory.in_sync,
            set_tenure: memory.set_tenure,
            origins: memory.origins,
        });
        Self {
            version: VERSION,
            incarnation: record.incarnation,
            has_held: record.has_held,
            promised: record.promised,
            granted: record.granted,
            members: record.members.into_iter().collect(),
            confirmed: record.confirmed.position,
            confirmed_epoch: record.confirmed.epoch,
            controller,
        }
    }
}

/// The file of one data folder.
#[derive(Debug)]
pub(crate) struct MemberFile {
    folder: PathBuf,
    /// Version of the record that was written last.
    written: u64,
}

impl MemberFile {
    /// Reads the file in the data folder `folder`, or begins one. A folder whose log is gone (`is_blank`) is another member than
    /// the one that the file speaks of, if that one may have held anything.
    ///
    /// # Errors
    /// The file cannot be read or written, or was written by a newer version.
    pub(crate) fn open(folder: &Path, is_blank: bool) -> io::Result<(Self, MemberRecord)> {
        let found = match fs::read(folder.join(NAME)) {
            Ok(bytes) => Some(parse(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        let file = Self { folder: folder.to_owned(), written: 0 };
        let read = found.clone().map(|mut found| {
            upgrade(&mut found);
            MemberRecord::from(found)
        });
        let record = MemberRecord::at_start(read, is_blank, || uuid::Uuid::new_v4().to_string());
        let content = Remembered::from(record.clone());
        if found.as_ref() != Some(&content) {
            file.write(&content)?;
        }
        Ok((file, record))
    }

    /// Makes a version of the record durable, unless a newer one is.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn save(&mut self, version: u64, record: MemberRecord) -> io::Result<()> {
        if version > self.written {
            self.write(&record.into())?;
            self.written = version;
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
    fn promises_survive_and_an_emptied_folder_is_another_member() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut file, begun) = MemberFile::open(folder.path(), true).expect("begun");
        let (_, killed) = MemberFile::open(folder.path(), true).expect("read");
        assert_eq!(killed, begun, "it is who it said that it is");
        let record = MemberRecord { promised: 7, has_held: true, ..begun.clone() };
        file.save(2, record.clone()).expect("written");
        file.save(1, begun.clone()).expect("older than the record on disk");
        let (_, again) = MemberFile::open(folder.path(), false).expect("read");
        assert_eq!(again, record);
        let (_, emptied) = MemberFile::open(folder.path(), true).expect("begun anew");
        assert_ne!(emptied.incarnation, begun.incarnation);
        assert_eq!(emptied.promised, 0);
    }

    /// The bytes of format version 1 stay readable.
    #[test]
    fn fixture_of_version_1() {
        let text = br#"{"version":1,"incarnation":"a","promised":3,"granted":2,"members":["a","b"]}"#;
        let found = parse(text).expect("readable");
        assert_eq!((found.promised, found.granted, found.members.len()), (3, 2, 2));
        assert!(found.has_held, "it may have, for the file does not say");
    }

    #[test]
    fn fixture_of_version_2() {
        let text = br#"{"version":2,"incarnation":"a","promised":3,"granted":2,"members":["a","b"],"confirmed":900,"confirmed_epoch":2}"#;
        let found = parse(text).expect("readable");
        assert_eq!((found.confirmed, found.confirmed_epoch), (900, 2));
        assert_eq!(found.controller, None);
    }

    #[test]
    fn fixture_of_version_3() {
        let text = br#"{"version":3,"incarnation":"a","promised":3,"granted":2,"members":["a","b"],"confirmed":900,"confirmed_epoch":2,
            "controller":{"cluster_id":"c","lineage":"l","tenure":"t","version":9,"set_epoch":3,"set_version":8,"in_sync":["a"]}}"#;
        let last = parse(text).expect("readable").controller.expect("there");
        assert_eq!((last.cluster_id.as_str(), last.lineage.as_str(), last.tenure.as_str()), ("c", "l", "t"));
        assert_eq!((last.version, last.set_epoch, last.set_version), (9, 3, 8));
        assert_eq!(last.in_sync, ["a".to_owned()].into());
        assert!(last.set_tenure.is_empty() && last.origins.is_empty());
        let mut found = parse(text).expect("readable");
        let last = found.controller.as_mut().expect("there");
        (last.set_tenure, last.origins) = ("s".to_owned(), vec![("s".to_owned(), 7)]);
        assert_eq!(Remembered::from(MemberRecord::from(found.clone())), found, "nothing gets lost");
        assert!(parse(br#"{"version":4,"incarnation":"","promised":0,"granted":0,"members":[]}"#).is_err());
    }

    /// A slave of version 1 had a master, and its file does not say who: it must not take itself for the only member.
    #[test]
    fn a_slave_of_version_1_knows_that_there_are_others() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = br#"{"version":1,"incarnation":"a","promised":3,"granted":2,"members":[]}"#;
        fs::write(folder.path().join(NAME), text).expect("written");
        let (_, read) = MemberFile::open(folder.path(), false).expect("read");
        assert_eq!(read.members, ["a".to_owned(), UNNAMED.to_owned()].into());
        let alone = br#"{"version":1,"incarnation":"a","promised":3,"granted":0,"members":["a"]}"#;
        fs::write(folder.path().join(NAME), alone).expect("written");
        let (_, read) = MemberFile::open(folder.path(), false).expect("read");
        assert!(read.is_only_member());
    }
}
