//! What health checks say about this broker. The decision is [`checks`], a function of what was seen; [`BrokerHealth`] looks.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use kerolox_gateway::routes::Routes;
use kerolox_log::DamagedRange;
use kerolox_replication::MemberRole;
use kerolox_runtime::data_folder::DataFolder;
use kerolox_runtime::health::Check;
use kerolox_runtime::listen::Connections;
use kerolox_runtime::process::Shutdown;
use kerolox_store::{GuardedClock, Opening, QueueRepair, RebuildProgress};

use crate::index_folder::{Damage, IndexFolder};
use crate::replication::{Group, Leadership, StoreCell};
use crate::tasks::early_removal::Losses;
use crate::tasks::retention::DiskSpace;

/// Damaged ranges that are listed one by one.
const RANGES_SHOWN: usize = 8;

/// What health checks look at. Looking never waits.
#[derive(Default)]
pub(crate) struct BrokerHealth {
    pub(crate) opening: Arc<Opening>,
    pub(crate) store: StoreCell,
    pub(crate) index: OnceLock<Arc<IndexFolder>>,
    pub(crate) data: OnceLock<Arc<DataFolder>>,
    pub(crate) room: DiskSpace,
    pub(crate) losses: Losses,
    /// Nameservers know what this broker serves.
    pub(crate) is_announced: AtomicBool,
    pub(crate) clock: OnceLock<Arc<GuardedClock>>,
    /// This member of its group, and what it knows of the others; none of a standalone broker.
    pub(crate) group: OnceLock<Arc<Group>>,
    pub(crate) routes: OnceLock<Arc<Routes>>,
    /// Who is connected.
    pub(crate) connections: Option<Arc<Connections>>,
}

/// Whether what clients send to a member of a group is taken, or why not. `reign` is that of a leader, and `has_leader` whether the
/// routes name one.
fn taken(
    group: &str,
    (role, reign): (&MemberRole, Option<&Leadership>),
    has_leader: bool,
    min_in_sync: usize,
) -> Result<String, String> {
    match (role, reign) {
        (MemberRole::Leader { .. } | MemberRole::Resigning { .. }, Some(reign)) => {
            let in_sync = reign.in_sync_len();
            if reign.over.is_requested() || !reign.store.rules() {
                Err("this broker was the master, and cannot tell whether another one is by now: it reaches neither slaves nor nameservers, and refuses what clients send".to_owned())
            } else if in_sync < min_in_sync {
                Err(format!(
                    "{in_sync} of the {min_in_sync} members that replication.min-in-sync asks for are in sync: sends are refused until more are"
                ))
            } else {
                Ok(format!("this broker is, in epoch {}", reign.epoch))
            }
        }
        _ if has_leader => Ok(format!("group {group} has one")),
        _ => Err(format!(
            "group {group} has none: what clients send is refused until one is elected; mqadmin getSyncStateSet says what that waits for"
        )),
    }
}

/// What was seen.
#[derive(Debug, Clone, Default)]
struct Sight {
    is_ending: bool,
    is_announced: bool,
    /// What this member is; `None` for a broker that is no member of a replicated group.
    role: Option<MemberRole>,
    opening: Option<RebuildProgress>,
    is_open: bool,
    index: Damage,
    /// Up to where the new index is, and where the one before it was, as log positions.
    remaking: Option<(u64, u64)>,
    failure: Option<String>,
    damaged: Vec<DamagedRange>,
    repairs: Vec<QueueRepair>,
    is_room_short: bool,
    /// What groups lost because segments went early; empty for nothing.
    lost: String,
    /// By how much the wall clock leapt ahead, in milliseconds, while that is doubted.
    clock_leap_ms: Option<i64>,
    /// See [`taken`].
    lead: Option<Result<String, String>>,
    /// Why this member does not follow its master, although it could.
    refuses: Option<String>,
    /// Why the controller does not take this broker for a member of its group.
    disowned: Option<String>,
}

impl BrokerHealth {
    /// Looks at everything.
    pub(crate) fn checks(&self, shutdown: &Shutdown) -> Vec<Check> {
        let role = self.group.get().map(|group| group.role());
        let store = self.store.get();
        let store = store.as_ref();
        let index = self.index.get();
        let data = self.data.get().map(|data| data.check());
        let seen = checks(&Sight {
            is_ending: shutdown.is_requested(),
            is_announced: self.is_announced.load(Ordering::Relaxed),
            role: role.clone(),
            opening: self.opening.progress(),
            is_open: store.is_some(),
            index: index.map(|index| index.damage()).unwrap_or_default(),
            remaking: store.zip(index).and_then(|(store, index)| {
                let applied = store.positions().applied;
                let held = index.held().min(store.reader().frames_end());
                (applied < held).then_some((applied, held))
            }),
            failure: store.and_then(|store| store.failure()),
            damaged: store.map(|store| store.damaged()).unwrap_or_default(),
            repairs: store.map(|store| store.repairs()).unwrap_or_default(),
            // Only a master looks at its disk; what it saw in an earlier reign is no news.
            is_room_short: self.room.is_short() && role.as_ref().is_none_or(leads),
            lost: self.losses.all().to_string(),
            clock_leap_ms: self.clock.get().and_then(|clock| clock.doubted_ms()),
            lead: self.lead(),
            refuses: self.group.get().and_then(|group| group.refuses()),
            disowned: self.group.get().and_then(|group| group.disowned()),
        });
        let connections = self.connections.iter().flat_map(|connections| connections.checks());
        seen.into_iter().chain(data).chain(connections).collect()
    }

    /// Whether what this broker is sent is taken; `None` where that does not depend on a group.
    fn lead(&self) -> Option<Result<String, String>> {
        let (group, routes) = (self.group.get()?, self.routes.get()?);
        let role = group.role();
        // Before it has heard of its group there is nothing to say of it.
        if role == MemberRole::Waiting && !self.is_announced.load(Ordering::Relaxed) {
            return None;
        }
        let has_leader = routes.master(&group.name).is_some();
        let reign = group.leadership();
        Some(taken(&group.name, (&role, reign.as_deref()), has_leader, group.config.min_in_sync))
    }
}

fn leads(role: &MemberRole) -> bool {
    matches!(role, MemberRole::Leader { .. } | MemberRole::Resigning { .. })
}

fn checks(sight: &Sight) -> Vec<Check> {
    let mut checks = vec![serving(sight), index(sight)];
    checks.extend(remade(sight));
    checks.extend(sight.refuses.clone().map(|reason| Check::failed("replication", reason)));
    checks.extend(sight.disowned.as_ref().map(|reason| disowned(sight, reason)));
    if sight.is_open {
        checks.push(log(sight));
        checks.extend(damage(&sight.damaged));
        checks.extend(repairs(&sight.repairs));
        checks.push(disk(sight));
        checks.extend(lost(sight));
        checks.push(clock(sight));
    }
    checks.extend(sight.lead.iter().map(master));
    checks
}

/// A group that has its master goes on without a controller, but elects no other one.
fn disowned(sight: &Sight, reason: &str) -> Check {
    match sight.lead {
        Some(Ok(_)) => Check::warning("controller", reason),
        _ => Check::failed("controller", reason),
    }
}

fn serving(sight: &Sight) -> Check {
    let reason = match sight {
        Sight { is_ending: true, .. } => "the broker is shutting down",
        Sight {
            is_announced: true,
            role: None | Some(MemberRole::Leader { .. } | MemberRole::Follower { .. }),
            ..
        } => return Check::ok("serving", "clients are served"),
        Sight { role: Some(MemberRole::Candidate { .. }), .. } => {
            "this broker was elected, and is about to lead its group"
        }
        Sight { role: Some(MemberRole::Resigning { .. }), .. } => {
            "this broker hands its leadership over: calls wait until the next leader is there"
        }
        Sight { is_open: true, role: Some(MemberRole::Waiting), .. } => {
            "this broker knows no leader of its group: one is being elected, or no nameserver answers"
        }
        Sight { is_open: true, .. } => "the broker registers with its nameservers",
        _ => "the broker opens its data; clients are told to try again",
    };
    Check::failed("serving", reason)
}

fn index(sight: &Sight) -> Check {
    if let Some(reason) = &sight.index.now {
        return Check::failed(
            "index",
            format!("damaged ({reason}): it is removed and made again from the log"),
        );
    }
    if let Some((applied, held)) = sight.remaking {
        let reason = format!("damaged, and made again from the log: position {applied} of {held}");
        return Check::failed("index", reason);
    }
    match &sight.opening {
        _ if sight.is_open => Check::ok("index", "up to date"),
        Some(progress) => Check::failed("index", format!("rebuilding, {progress}")),
        None => Check::failed("index", "waits for the log to be opened"),
    }
}

/// It stays a warning until the broker is restarted: somebody has to see after the disk.
fn remade(sight: &Sight) -> Option<Check> {
    let (times, reason) = sight.index.remade.as_ref()?;
    let times = if *times == 1 { "once".to_owned() } else { format!("{times} times") };
    let reason = format!(
        "it was damaged and made again from the log {times} since the broker was started; nothing is lost, but see after the disk: {reason}"
    );
    Some(Check::warning("index", reason))
}

fn log(sight: &Sight) -> Check {
    // While the index is made again nothing is stored either, but that passes.
    match sight.failure.as_ref().filter(|_| sight.index.now.is_none()) {
        Some(reason) => Check::failed(
            "log",
            format!("read-only: {reason}; nothing is stored any more: mend the disk and restart the broker"),
        ),
        None => Check::ok("log", "takes records"),
    }
}

fn damage(damaged: &[DamagedRange]) -> Vec<Check> {
    let show = |range: &DamagedRange| {
        let DamagedRange { file, position, until, reason } = range;
        Check::warning(
            "log",
            format!(
                "damaged range in {file} at {position}..{until} ({reason}): what it held is lost, the rest is served"
            ),
        )
    };
    let mut checks: Vec<Check> = damaged.iter().take(RANGES_SHOWN).map(show).collect();
    if let Some(more) = damaged.len().checked_sub(RANGES_SHOWN).filter(|more| *more > 0) {
        checks.push(Check::warning("log", format!("{more} more damaged ranges; see mqadmin store verify")));
    }
    checks
}

fn repairs(repairs: &[QueueRepair]) -> Vec<Check> {
    let show =
        |repair: &QueueRepair| Check::warning("index", format!("made over damage in the log: {repair}"));
    let mut checks: Vec<Check> = repairs.iter().take(RANGES_SHOWN).map(show).collect();
    if let Some(more) = repairs.len().checked_sub(RANGES_SHOWN).filter(|more| *more > 0) {
        checks.push(Check::warning("index", format!("{more} more queues; the broker's log names them")));
    }
    checks
}

fn disk(sight: &Sight) -> Check {
    if sight.is_room_short {
        return Check::failed(
            "disk",
            "nearly full: sends are refused, everything else goes on; make room, or lower retention.time",
        );
    }
    Check::ok("disk", "has room")
}

/// Unread messages that went early stay a warning until the broker is restarted: somebody has to look after their groups.
fn lost(sight: &Sight) -> Option<Check> {
    let reason = format!(
        "unread messages were removed before retention.time since the broker was started: {}; make room, or see what hinders the group",
        sight.lost
    );
    (!sight.lost.is_empty()).then(|| Check::warning("retention", reason))
}

fn master(lead: &Result<String, String>) -> Check {
    match lead {
        Ok(reason) => Check::ok("master", reason),
        Err(reason) => Check::failed("master", reason),
    }
}

fn clock(sight: &Sight) -> Check {
    match sight.clock_leap_ms {
        Some(leap_ms) => Check::warning(
            "clock",
            format!(
                "the wall clock leapt ahead by {leap_ms} ms: what is due or too old only by that waits for timers.clock-grace; set it right if it is wrong"
            ),
        ),
        None => Check::ok("clock", "goes as it should"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kerolox_runtime::health::{State, report};

    use super::*;

    fn serving() -> Sight {
        Sight { is_announced: true, is_open: true, ..Sight::default() }
    }

    /// Status of the HTTP answer, and what a check says.
    fn told(sight: &Sight, name: &str) -> (u16, State, String) {
        let checks = checks(sight);
        let worst = checks.iter().filter(|check| check.name == name).max_by_key(|check| check.state as u8);
        let worst = worst.unwrap_or_else(|| panic!("no check {name:?} in {checks:?}"));
        (report(&checks).status, worst.state, worst.reason.clone())
    }

    #[test]
    fn a_broker_is_ready_when_it_serves_and_not_before_or_after() {
        assert_eq!(told(&serving(), "serving"), (200, State::Ok, "clients are served".into()));
        let starting = Sight::default();
        assert_eq!(told(&starting, "index").0, 503);
        let progress = RebuildProgress { from: 0, position: 43, end: 100, elapsed: Duration::from_secs(8) };
        let rebuilding = Sight { opening: Some(progress), ..Sight::default() };
        let (status, _, reason) = told(&rebuilding, "index");
        assert_eq!(
            (status, reason.as_str()),
            (503, "rebuilding, 43 % (position 43 of 100), about 11 s left")
        );
        let registering = Sight { is_announced: false, ..serving() };
        assert_eq!(told(&registering, "serving").0, 503);
        assert_eq!(told(&Sight { is_ending: true, ..serving() }, "serving").0, 503);
    }

    /// What it served before the election says nothing about now.
    #[test]
    fn a_member_is_ready_only_while_it_leads_or_follows() {
        let told = |role| told(&Sight { role: Some(role), ..serving() }, "serving");
        assert_eq!(told(MemberRole::Leader { epoch: 3 }).0, 200);
        assert_eq!(told(MemberRole::Follower { epoch: 3, leader: 2 }).0, 200);
        for (role, wanted) in [
            (MemberRole::Waiting, "knows no leader"),
            (MemberRole::Candidate { epoch: 4 }, "about to lead"),
            (MemberRole::Resigning { epoch: 3 }, "hands its leadership over"),
        ] {
            let (status, state, reason) = told(role);
            assert_eq!((status, state), (503, State::Failed));
            assert!(reason.contains(wanted), "{reason}");
        }
    }

    #[test]
    fn a_failed_log_is_not_ready_and_says_why() {
        let sight = Sight { failure: Some("fdatasync of x failed: EIO".into()), ..serving() };
        let (status, state, reason) = told(&sight, "log");
        assert_eq!((status, state), (503, State::Failed));
        assert!(reason.contains("read-only: fdatasync of x failed: EIO") && reason.contains("restart"));
    }

    #[test]
    fn a_damaged_index_is_not_ready_until_there_is_another_one_and_a_warning_then() {
        let mut index = Damage { now: Some("Corruption: x".into()), remade: None };
        let failure = Some("its index is damaged".to_owned());
        let damaged = Sight { index: index.clone(), failure, ..serving() };
        let (status, state, reason) = told(&damaged, "index");
        assert_eq!((status, state), (503, State::Failed));
        assert!(reason.contains("damaged (Corruption: x)"), "{reason}");
        assert_eq!(told(&damaged, "log").1, State::Ok, "the log is what it is made from");
        index = Damage { now: None, remade: Some((2, "Corruption: x".into())) };
        let behind = Sight { index: index.clone(), remaking: Some((20, 80)), ..serving() };
        let (status, state, reason) = told(&behind, "index");
        assert_eq!((status, state), (503, State::Failed));
        assert!(reason.contains("position 20 of 80"), "{reason}");
        let (status, state, reason) = told(&Sight { index, ..serving() }, "index");
        assert_eq!((status, state), (200, State::Warning));
        assert!(reason.contains("made again from the log 2 times"), "{reason}");
    }

    #[test]
    fn damage_and_a_leap_of_the_clock_are_warnings_and_a_full_disk_is_not() {
        let range = |position| DamagedRange {
            file: "f.log".into(),
            position,
            until: position + 8,
            reason: "checksum".into(),
        };
        let sight = Sight { damaged: vec![range(64)], ..serving() };
        let (status, state, reason) = told(&sight, "log");
        assert_eq!((status, state), (200, State::Warning));
        assert!(reason.contains("damaged range in f.log at 64..72"), "{reason}");
        let many = Sight { damaged: (0..20).map(|i| range(i * 100)).collect(), ..serving() };
        let shown = checks(&many);
        assert_eq!(shown.iter().filter(|check| check.state == State::Warning).count(), RANGES_SHOWN + 1);
        assert!(shown.iter().any(|check| check.reason.starts_with("12 more")), "{shown:?}");

        let repair = QueueRepair { topic: "orders".into(), queue: 3, from: 100, lost: Some(2), again: 1 };
        let (status, state, reason) = told(&Sight { repairs: vec![repair], ..serving() }, "index");
        assert_eq!((status, state), (200, State::Warning));
        assert!(
            reason.contains("topic orders, queue 3, from offset 100 on: 2 messages are lost"),
            "{reason}"
        );

        let lost = Sight { lost: "group g lost 3 of topic t".to_owned(), ..serving() };
        let (status, state, reason) = told(&lost, "retention");
        assert_eq!((status, state), (200, State::Warning));
        assert!(reason.contains("group g lost 3 of topic t"), "{reason}");

        let leapt = Sight { clock_leap_ms: Some(3_600_000), ..serving() };
        let (status, state, reason) = told(&leapt, "clock");
        assert_eq!((status, state), (200, State::Warning));
        assert!(reason.contains("by 3600000 ms"), "{reason}");

        let (status, state, reason) = told(&Sight { is_room_short: true, ..serving() }, "disk");
        assert_eq!((status, state), (503, State::Failed));
        assert!(reason.contains("sends are refused"), "{reason}");
    }

    #[test]
    fn a_broker_that_the_controller_refuses_is_ready_only_under_a_master() {
        let refused = Sight { disowned: Some("another cluster id".into()), ..serving() };
        assert_eq!(told(&refused, "controller").0, 503);
        let led = Sight { lead: Some(Ok("one".to_owned())), ..refused };
        assert_eq!(told(&led, "controller"), (200, State::Warning, "another cluster id".into()));
    }

    #[test]
    fn a_broker_whose_group_has_no_master_is_not_ready() {
        let led = |lead| told(&Sight { lead: Some(lead), ..serving() }, "master");
        assert_eq!(led(Ok("one".to_owned())), (200, State::Ok, "one".to_owned()));
        assert_eq!(led(Err("none".to_owned())), (503, State::Failed, "none".to_owned()));
        let member = |role, has_leader| taken("broker-a", (&role, None), has_leader, 1);
        assert!(member(MemberRole::Follower { epoch: 3, leader: 2 }, true).is_ok());
        assert!(member(MemberRole::Waiting, false).is_err_and(|reason| reason.contains("broker-a has none")));
        assert!(!checks(&serving()).iter().any(|check| check.name == "master"), "it has no group");
    }
}
