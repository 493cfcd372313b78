//! Replication at the rim: this member's conversation with the controller and with the other members of its group.
//!
//! The decisions are those of [`kerolox_replication::GroupMember`]; [`driver`] gives it inputs and carries out what it says.
//! [`roles`] ends and begins what this member does, one thing after the other: lead, follow, or neither. [`reports`]
//! brings the group's state from the controller. [`leadership`] is what a master has while it rules; its slaves come to
//! [`server`], and [`remote_read`] reads at them. [`follow`] is the slave's side.
//!
//! # Replicate
//!
//! A record that the writer has stored waits in the indexer until the gate (`store/src/gate.rs`) lets it through:
//! confirmed, or, for those who ask for no more, while the master is sure to rule.
//! `broker/src/replication/server.rs` streams the log as it lies there (`log/src/copy.rs`); `follow.rs` writes it
//! at the same positions, syncs, answers, and applies confirmed records. `kerolox-replication` counts
//! (`in_sync.rs`): what the in-sync set has, which set to ask the controller for, until when the master rules. The
//! member's machine (`broker/replication/src/member`) decides what this member does: rule, follow, or neither.
//! `broker/src/replication/driver.rs` gives it inputs from all threads and carries out its effects, `roles.rs` is
//! the one task that ends a duty before it begins the next; a store is parked (`store/src/standby_log.rs`) until it
//! rules (`leading.rs`). What a master serves is in `serving.rs`, what it does by itself in `leader_tasks.rs`; both
//! are begun anew with each epoch.

mod copying;
mod driver;
mod file;
mod follow;
mod hand_over;
mod handshake;
mod leadership;
mod remote_read;
mod reports;
mod roles;
mod server;
mod status;
mod stores;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use kerolox_client::admin::controller::ControllerClient;
use kerolox_core::flush::FlushRequirement;
use kerolox_proto::kerolox::GroupState;
use kerolox_replication::{DutyOrder, GroupMember, MemberId, MemberRecord, MemberRole, MemberSettings};
use kerolox_runtime::reminder::LogReminder;
use kerolox_store::clock_reading;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::ReplicationConfig;

pub(crate) use file::MemberFile;
pub(crate) use leadership::Leadership;
pub(crate) use remote_read::RemoteRead;
pub(crate) use reports::run as report;
pub(crate) use roles::Member;
pub(crate) use server::ReplicationService;
pub(crate) use stores::{StoreCell, Stores};

/// The group's state as the controller said it last, and this member's number in it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    pub(crate) me: MemberId,
    pub(crate) state: GroupState,
    /// Why no master is elected.
    pub(crate) waiting_for: String,
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
    pub(crate) flush: FlushRequirement,
    pub(crate) controller: ControllerClient,
    /// What decides.
    member: Mutex<GroupMember>,
    /// Held while the file is written; nothing else is locked then.
    file: Mutex<FileInUse>,
    /// What this member is to do.
    order: watch::Sender<DutyOrder>,
    /// What it is to others.
    role: watch::Sender<MemberRole>,
    /// How far a hand-over is.
    hand_over: watch::Sender<HandOverStage>,
    /// Why this member does not follow a master, although it could.
    refuses: Mutex<Option<String>>,
    /// Why the controller does not take it for a member.
    disowned: Mutex<Option<String>>,
    seen: watch::Sender<Option<Seen>>,
    standing: watch::Sender<Standing>,
    leadership: watch::Sender<Option<Arc<Leadership>>>,
    /// An operator wants this member not to rule.
    drained: watch::Sender<bool>,
    /// Records that this member read for its masters.
    read_for_master: AtomicU64,
    /// What administrators ask of the task that changes roles.
    asked: mpsc::Sender<GiveUp>,
    asking: Mutex<Option<mpsc::Receiver<GiveUp>>>,
}

/// The file, and why it could not be written last.
struct FileInUse {
    member: MemberFile,
    troubles: LogReminder,
}

/// What a hand-over waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum HandOverStage {
    /// The machine, which waits for followers or for the end of a doubt.
    Machine,
    /// No client is to be let in, and those inside are to come to their end.
    Drain,
    /// The controller is to be asked.
    Ask { epoch: u32, me: MemberId, to: MemberId },
    /// Nothing: an error says why this member leads on.
    Over(Result<(), String>),
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
        (config, flush): (ReplicationConfig, FlushRequirement),
        controller: ControllerClient,
        (file, record): (MemberFile, MemberRecord),
    ) -> Self {
        let Identity { cluster, name, process, host, port } = identity;
        let address = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        let replication_address =
            if config.advertise.is_empty() { address } else { config.advertise.clone() };
        let standing = Standing { promised: record.promised, ..Standing::default() };
        let settings = MemberSettings {
            process: process.clone(),
            policy: config.policy(),
            hand_over_ms: config.hand_over_timeout.as_millis(),
        };
        let member = GroupMember::new(settings, record, clock_reading());
        let (asked, asking) = mpsc::channel(1);
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
            order: watch::Sender::new(member.order_now().clone()),
            role: watch::Sender::new(member.role()),
            hand_over: watch::Sender::new(HandOverStage::Machine),
            member: Mutex::new(member),
            file: Mutex::new(FileInUse { member: file, troubles: LogReminder::default() }),
            refuses: Mutex::new(None),
            disowned: Mutex::new(None),
            seen: watch::Sender::new(None),
            standing: watch::Sender::new(standing),
            leadership: watch::Sender::new(None),
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

    /// The leadership of this member, while it rules.
    pub(crate) fn leadership(&self) -> Option<Arc<Leadership>> {
        self.leadership.borrow().clone()
    }

    /// Version of the state that is known; 0 for none.
    fn version(&self) -> u64 {
        self.seen.borrow().as_ref().map_or(0, |seen| seen.state.version)
    }

    /// Number of this member; 0 before the controller gave it one.
    pub(crate) fn me(&self) -> MemberId {
        self.member().view().map_or(0, |(me, _)| *me)
    }

    /// What this member is to others, and each change of that.
    pub(crate) fn watch_role(&self) -> watch::Receiver<MemberRole> {
        self.role.subscribe()
    }

    /// What this member is to others.
    pub(crate) fn role(&self) -> MemberRole {
        self.role.borrow().clone()
    }

    /// Why the controller does not take this broker for a member; for health checks.
    pub(crate) fn disowned(&self) -> Option<String> {
        self.disowned.lock().clone()
    }

    fn set_disowned(&self, reason: Option<String>) {
        *self.disowned.lock() = reason;
    }

    /// Why this member does not follow its master, although it could; for health checks.
    pub(crate) fn refuses(&self) -> Option<String> {
        self.refuses.lock().clone()
    }

    fn set_refuses(&self, reason: Option<String>) {
        *self.refuses.lock() = reason;
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

    fn member(&self) -> MutexGuard<'_, GroupMember> {
        self.member.lock()
    }
}
