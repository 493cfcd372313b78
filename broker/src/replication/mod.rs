//! Replication at the rim: this member's conversation with the controller and with the other members of its group.
//!
//! [`roles`] decides what this member does at each moment, one thing after the other: rule, follow, or neither. [`reports`]
//! brings the group's state from the controller. [`reign`] is what a master has while it rules; its slaves come to
//! [`server`], and [`neighbours`] reads at them. [`follow`] is the slave's side. The decisions themselves are `kerolox-replication`.

mod desk;
mod file;
mod follow;
mod handshake;
mod neighbours;
mod reign;
mod reports;
mod roles;
mod server;

use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kerolox_core::flush::Flush;
use kerolox_kit::controller::ControllerClient;
use kerolox_log::sabotage;
use kerolox_proto::kerolox::{GroupMember, GroupState};
use kerolox_replication::{Grants, Known, MemberId, StateName};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::ReplicationConfig;

use file::LastState;
pub(crate) use file::MemberFile;
pub(crate) use neighbours::Elsewhere;
pub(crate) use reign::Reign;
pub(crate) use reports::run as report;
pub(crate) use roles::{Member, StoreCell, Stores};
pub(crate) use server::ReplicationService;

/// How often the file learns up to where the log is confirmed. A member that ends in between knows it by its index.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// The group's state as the controller said it last, and this member's number in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) me: MemberId,
    pub(crate) state: GroupState,
    /// Why nobody is elected.
    pub(crate) waiting_for: String,
}

impl Seen {
    /// The member that rules, if it is known.
    pub(crate) fn master(&self) -> Option<&GroupMember> {
        self.state.members.iter().find(|member| member.id == self.state.master)
    }
}

/// What this member says of itself when it reports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) promised: u32,
    pub(crate) last_epoch: u32,
    pub(crate) end: u64,
    /// Why it must not be elected.
    pub(crate) unfit: String,
    /// While it rules: the members that follow it.
    pub(crate) followers: Vec<MemberId>,
}

/// What the parts of replication share.
pub(crate) struct Group {
    pub(crate) cluster: String,
    pub(crate) name: String,
    /// Random number of this process.
    pub(crate) process: String,
    /// Where clients reach this member, and where other members do.
    pub(crate) host: String,
    pub(crate) port: u32,
    pub(crate) replication_address: String,
    pub(crate) config: ReplicationConfig,
    pub(crate) flush: Flush,
    pub(crate) controller: ControllerClient,
    file: Mutex<MemberFile>,
    grants: Mutex<Grants>,
    /// Up to where the log is confirmed, as far as this member heard, and when its file learned of it.
    known: Mutex<(Known, Instant)>,
    /// Why this member does not follow a master, although it could.
    refuses: Mutex<Option<String>>,
    /// Why the controller does not take it for a member.
    disowned: Mutex<Option<String>>,
    seen: watch::Sender<Option<Seen>>,
    standing: watch::Sender<Standing>,
    reign: watch::Sender<Option<Arc<Reign>>>,
    /// An operator wants this member not to rule.
    drained: watch::Sender<bool>,
    /// Records that this member read for its masters.
    read_for_master: AtomicU64,
    /// What administrators ask of the task that changes roles.
    asked: mpsc::Sender<GiveUp>,
    asking: Mutex<Option<mpsc::Receiver<GiveUp>>>,
}

/// Asks for a hand-over to a member, 0 for any; the answer is why it cannot be.
pub(crate) struct GiveUp {
    to: MemberId,
    answer: oneshot::Sender<Result<(), String>>,
}

/// Who this process is.
pub(crate) struct Identity {
    pub(crate) cluster: String,
    pub(crate) name: String,
    pub(crate) process: String,
    pub(crate) host: String,
    pub(crate) port: u32,
}

impl Group {
    pub(crate) fn new(
        identity: Identity,
        (config, flush): (ReplicationConfig, Flush),
        controller: ControllerClient,
        file: MemberFile,
    ) -> Self {
        let Identity { cluster, name, process, host, port } = identity;
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let replication_address =
            if config.advertise.is_empty() { address } else { config.advertise.clone() };
        // An earlier life of this member may have granted a lease just before it ended.
        let granted = file.now().granted > 0;
        let grants = if granted {
            Grants::unknown(config.lease_ms(), kerolox_store::mono_ms())
        } else {
            Grants::default()
        };
        let known = Known { epoch: file.now().confirmed_epoch, position: file.now().confirmed };
        let (asked, asking) = mpsc::channel(1);
        let standing = Standing { promised: file.now().promised, ..Standing::default() };
        Self {
            cluster,
            name,
            process,
            host,
            port,
            replication_address,
            config,
            flush,
            controller,
            file: Mutex::new(file),
            grants: Mutex::new(grants),
            known: Mutex::new((known, Instant::now())),
            refuses: Mutex::new(None),
            disowned: Mutex::new(None),
            seen: watch::Sender::new(None),
            standing: watch::Sender::new(standing),
            reign: watch::Sender::new(None),
            drained: watch::Sender::new(false),
            read_for_master: AtomicU64::new(0),
            asked,
            asking: Mutex::new(Some(asking)),
        }
    }

    /// What the controller said last.
    pub(crate) fn seen(&self) -> watch::Receiver<Option<Seen>> {
        self.seen.subscribe()
    }

    /// The reign of this member, while it rules.
    pub(crate) fn reign(&self) -> Option<Arc<Reign>> {
        self.reign.borrow().clone()
    }

    /// Version of the state that is known; 0 for none.
    fn version(&self) -> u64 {
        self.seen.borrow().as_ref().map_or(0, |seen| seen.state.version)
    }

    /// Up to where this member heard that the log is confirmed.
    fn known(&self) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    /// Newest epoch for which an operator accepted loss.
    fn accepted(&self) -> u32 {
        self.seen.borrow().as_ref().map_or(0, |seen| seen.state.unclean_epoch)
    }

    /// A master of `epoch`, this member perhaps, says up to where the log is confirmed. The file learns of it now and then.
    ///
    /// # Errors
    /// The file cannot be written.
    fn hear_confirmed(&self, epoch: u32, position: u64) -> io::Result<()> {
        let accepted = self.accepted();
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.0.hear(epoch, position, accepted);
            if known.1.elapsed() < NOTE_EVERY {
                return Ok(());
            }
            known.1 = Instant::now();
        }
        self.note_confirmed()
    }

    /// Has the file say up to where the log is confirmed.
    ///
    /// # Errors
    /// The file cannot be written.
    fn note_confirmed(&self) -> io::Result<()> {
        let Known { epoch, position } = self.known();
        self.file().change(|now| (now.confirmed_epoch, now.confirmed) = (epoch, position))
    }

    /// Notes, durably, whom the group consists of, and the state that this member is about to go by.
    ///
    /// # Errors
    /// The file cannot be written.
    fn remember(&self, state: &GroupState) -> io::Result<()> {
        if sabotage::is("forget-members") {
            return Ok(());
        }
        let members = file::members(state);
        self.file().change(|now| {
            now.members = members;
            now.controller = Some(LastState::after(now.controller.as_ref(), state));
        })
    }

    /// Notes, durably, that this master is about to have more members in its in-sync set: whether that came about shows only in
    /// the answer, and a controller that lost its data has to ask them.
    ///
    /// # Errors
    /// The file cannot be written.
    fn remember_wanted(&self, in_sync: &[MemberId]) -> io::Result<()> {
        let Some(state) = self.seen.borrow().as_ref().map(|seen| seen.state.clone()) else { return Ok(()) };
        let wanted = file::incarnations(&state, |id| in_sync.contains(&id));
        self.file().change(|now| {
            if let Some(last) = &mut now.controller {
                last.in_sync.extend(wanted);
            }
        })
    }

    /// The newest state that this member went by.
    fn last_state(&self) -> Option<StateName> {
        let file = self.file();
        let last = file.now().controller.as_ref()?;
        let (cluster_id, lineage) = (last.cluster_id.clone(), last.lineage.clone());
        Some(StateName { cluster_id, lineage, version: last.version })
    }

    /// Whether this member rules a group of which it is the only member.
    fn rules_alone(&self) -> bool {
        let is_only = {
            let file = self.file();
            let now = file.now();
            matches!(now.members.as_slice(), [only] if *only == now.incarnation)
        };
        is_only && self.reign.borrow().is_some()
    }

    /// Why the controller does not take this broker for a member; for health checks.
    pub(crate) fn disowned(&self) -> Option<String> {
        self.disowned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_disowned(&self, reason: Option<String>) {
        *self.disowned.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Why this member does not follow its master, although it could; for health checks.
    pub(crate) fn refuses(&self) -> Option<String> {
        self.refuses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_refuses(&self, reason: Option<String>) {
        *self.refuses.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }

    /// Why this member must not rule, as far as administrators and its own store say.
    fn unfit(&self, failure: Option<String>) -> String {
        match failure {
            Some(reason) => reason,
            None if *self.drained.borrow() => "drained by an administrator".to_owned(),
            None => String::new(),
        }
    }

    /// Has the controller know how far the log goes.
    fn holds(&self, last_epoch: u32, end: u64) {
        self.standing.send_if_modified(|standing| {
            let is_new = (standing.last_epoch, standing.end) != (last_epoch, end);
            (standing.last_epoch, standing.end) = (last_epoch, end);
            is_new
        });
    }

    /// This member rules, and these hold a copy of its log.
    fn followed_by(&self, followers: Vec<MemberId>) {
        self.standing.send_if_modified(|standing| {
            let is_new = standing.followers != followers;
            standing.followers = followers;
            is_new
        });
    }

    /// Has the controller elect others for this reason, if it is not empty.
    pub(crate) fn must_not_rule(&self, reason: &str) {
        self.standing.send_if_modified(|standing| {
            let is_new = standing.unfit != reason;
            standing.unfit = reason.to_owned();
            is_new
        });
    }

    fn file(&self) -> MutexGuard<'_, MemberFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grants(&self) -> MutexGuard<'_, Grants> {
        self.grants.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
