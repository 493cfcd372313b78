//! What a member of a broker group remembers beside its log: who it is, and what it promised.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use kerolox_proto::kerolox::GroupState;
use serde::{Deserialize, Serialize};

const NAME: &str = "member.json";
/// Format version written by this software.
const VERSION: u32 = 3;
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
    /// The newest state of its group that it went by; `None` before the first, and in versions before 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) controller: Option<LastState>,
}

impl Remembered {
    /// Whether its group had other members.
    pub(crate) fn has_others(&self) -> bool {
        let set = self.controller.iter().flat_map(|last| &last.in_sync);
        self.granted > 0 || self.members.iter().chain(set).any(|known| *known != self.incarnation)
    }
}

/// A state of the group, as far as a controller that lost its data has to know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastState {
    /// Random number of the nameservers.
    pub(crate) cluster_id: String,
    /// Of the controller's record of the group.
    pub(crate) lineage: String,
    /// Of the nameserver's time as leader that the state comes from.
    pub(crate) tenure: String,
    /// Its version.
    pub(crate) version: u64,
    /// Epoch and version of the state that had the newest in-sync set first.
    pub(crate) set_epoch: u32,
    pub(crate) set_version: u64,
    /// Incarnations of the members of that set, and of those that this member, as master, is about to take in.
    pub(crate) in_sync: BTreeSet<String>,
}

impl LastState {
    /// After the state `state`.
    pub(crate) fn after(before: Option<&Self>, state: &GroupState) -> Self {
        let mut last = Self {
            cluster_id: state.cluster_id.clone(),
            lineage: state.lineage.clone(),
            tenure: state.tenure.clone(),
            version: state.version,
            ..before.cloned().unwrap_or_default()
        };
        let in_sync: BTreeSet<String> = incarnations(state, |id| state.in_sync.contains(&id)).collect();
        if !in_sync.is_empty() && (state.epoch, &in_sync) != (last.set_epoch, &last.in_sync) {
            // A controller of an earlier version does not say it.
            let version = if state.set_version > 0 { state.set_version } else { state.version };
            (last.set_epoch, last.set_version) = (state.epoch, version);
            last.in_sync = in_sync;
        }
        last
    }
}

/// Incarnations of the members of `state` that hold the group's log, or a part of it: who has only reported is not missed.
pub(crate) fn members(state: &GroupState) -> Vec<String> {
    // A controller of an earlier version does not say who does.
    let is_told = state.members.iter().any(|member| member.holds);
    let of = |id: u64| state.members.iter().any(|member| member.id == id && (member.holds || !is_told));
    incarnations(state, of).collect()
}

/// Incarnations of the members of `state` whose number is as wanted.
pub(crate) fn incarnations(
    state: &GroupState,
    is_wanted: impl Fn(u64) -> bool,
) -> impl Iterator<Item = String> {
    let wanted = state.members.iter().filter(move |member| is_wanted(member.id));
    wanted.map(|member| member.incarnation.clone())
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
        assert!(parse(br#"{"version":4,"incarnation":"","promised":0,"granted":0,"members":[]}"#).is_err());
    }

    /// While an election or a recovery is under way, the set before it counts.
    #[test]
    fn the_last_state_keeps_the_newest_set() {
        let member = |id: u64| kerolox_proto::kerolox::GroupMember {
            id,
            incarnation: format!("m{id}"),
            ..Default::default()
        };
        let ruled = GroupState {
            epoch: 3,
            version: 8,
            in_sync: vec![1],
            members: vec![member(1), member(2)],
            ..GroupState::default()
        };
        let then = LastState::after(None, &ruled);
        assert_eq!((then.set_epoch, then.set_version, then.in_sync.len()), (3, 8, 1));
        let joined = GroupState { version: 9, ..ruled.clone() };
        let then = LastState::after(Some(&then), &joined);
        assert_eq!((then.version, then.set_version), (9, 8), "the set is not newer");
        let recovery =
            GroupState { epoch: 4, version: 10, in_sync: Vec::new(), lineage: "l".into(), ..ruled };
        let last = LastState::after(Some(&then), &recovery);
        assert_eq!((last.version, last.lineage.as_str()), (10, "l"));
        assert_eq!((last.set_epoch, last.set_version, last.in_sync), (3, 8, then.in_sync));
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
