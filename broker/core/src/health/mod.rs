//! The health of a broker: verdicts on observed facts. The broker observes; this module has no clock.

use kerolox_model::health::HealthCheck;

/// Damaged ranges and queues that are reported one by one.
const RANGES_SHOWN: usize = 8;

/// The role of a member in its group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupStanding {
    /// It has no duty.
    Waiting,
    /// It copies the log of a leader.
    Follower,
    /// It was elected and does not lead yet.
    Candidate,
    /// It leads.
    Leader,
    /// It leads until another one does.
    Resigning,
}

impl GroupStanding {
    /// Whether this member has a leadership, even one that is ending.
    pub fn leads(self) -> bool {
        matches!(self, Self::Leader | Self::Resigning)
    }
}

/// Facts about the leadership of a group, as one member knows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeadershipFacts {
    /// Name of the group.
    pub group: String,
    /// Role of this member.
    pub standing: GroupStanding,
    /// Leadership of this member, if it has one.
    pub own: Option<OwnLeadership>,
    /// Whether the routes name a leader.
    pub has_leader: bool,
    /// Members that have to be in sync for sends to be accepted.
    pub min_in_sync: usize,
}

/// A leadership of this member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OwnLeadership {
    /// Epoch of the leadership.
    pub epoch: u32,
    /// Whether it is certain that no other member leads now.
    pub is_sure: bool,
    /// Members in sync, this one included.
    pub in_sync: usize,
}

impl LeadershipFacts {
    /// Whether the group accepts sends, as a sentence, or why not.
    fn taken(&self) -> Result<String, String> {
        let Self { group, min_in_sync, .. } = self;
        match self.own.filter(|_| self.standing.leads()) {
            Some(own) if !own.is_sure => Err("this broker was the master, and cannot tell whether another one is now: it reaches neither slaves nor nameservers, and refuses sends".to_owned()),
            Some(own) if own.in_sync < *min_in_sync => Err(format!(
                "{} of the {min_in_sync} members that replication.min-in-sync requires are in sync: sends are refused until more are",
                own.in_sync
            )),
            Some(own) => Ok(format!("this broker is, in epoch {}", own.epoch)),
            None if self.has_leader => Ok(format!("group {group} has one")),
            None => Err(format!(
                "group {group} has none: sends are refused until one is elected; mqadmin getSyncStateSet shows why none is"
            )),
        }
    }
}

/// Observed facts about a broker. The default describes a broker that begins to start.
#[derive(Debug, Clone, Default)]
pub struct HealthFacts {
    /// The broker is shutting down.
    pub is_ending: bool,
    /// Nameservers have the routes of this broker.
    pub is_announced: bool,
    /// Role of this member; `None` for a broker that is no member of a replicated group.
    pub standing: Option<GroupStanding>,
    /// Progress of the index while the store is opened, as a sentence.
    pub opening: Option<String>,
    /// The store is open.
    pub is_open: bool,
    /// Why the index is damaged, until it is replaced.
    pub index_damage: Option<String>,
    /// How often the index was rebuilt since the broker was started, and the last reason.
    pub index_remade: Option<(u32, String)>,
    /// Log positions: progress of the index that is being rebuilt, and the end of its predecessor.
    pub remaking: Option<(u64, u64)>,
    /// Why the log refuses writes.
    pub failure: Option<String>,
    /// Damaged ranges of the log, each with its file, its positions and the reason.
    pub damaged: Vec<String>,
    /// Uncertainties of an index that was built over damage, each with its queue.
    pub repairs: Vec<String>,
    /// Sends are refused for lack of room.
    pub is_room_short: bool,
    /// Messages that groups lost because segments were removed early; empty for none.
    pub lost: String,
    /// How far the wall clock leapt ahead, in milliseconds, while the leap is doubted.
    pub clock_leap_ms: Option<i64>,
    /// Leadership of the group; `None` for a broker without a group.
    pub leadership: Option<LeadershipFacts>,
    /// Why this member does not follow its master, although it could.
    pub refuses: Option<String>,
    /// Why the controller does not accept this broker as a member of its group.
    pub disowned: Option<String>,
}

/// The verdict on each part that has one; a part can have several.
pub fn verdicts(facts: &HealthFacts) -> Vec<HealthCheck> {
    let leader = facts.leadership.as_ref().map(LeadershipFacts::taken);
    let mut verdicts = vec![serving(facts), index(facts)];
    verdicts.extend(remade(facts));
    verdicts.extend(facts.refuses.clone().map(|reason| HealthCheck::failed("replication", reason)));
    let is_led = matches!(leader, Some(Ok(_)));
    verdicts.extend(facts.disowned.as_ref().map(|reason| disowned(is_led, reason)));
    if facts.is_open {
        verdicts.push(log(facts));
        verdicts.extend(damage(&facts.damaged));
        verdicts.extend(repairs(&facts.repairs));
        verdicts.push(disk(facts));
        verdicts.extend(lost(facts));
        verdicts.push(clock(facts));
    }
    verdicts.extend(leader.map(master));
    verdicts
}

/// A group with a master continues without a controller, but cannot elect another master.
fn disowned(is_led: bool, reason: &str) -> HealthCheck {
    if is_led {
        HealthCheck::warning("controller", reason)
    } else {
        HealthCheck::failed("controller", reason)
    }
}

fn serving(facts: &HealthFacts) -> HealthCheck {
    let reason = match facts {
        HealthFacts { is_ending: true, .. } => "the broker is shutting down",
        HealthFacts {
            is_announced: true,
            standing: None | Some(GroupStanding::Leader | GroupStanding::Follower),
            ..
        } => return HealthCheck::ok("serving", "clients are served"),
        HealthFacts { standing: Some(GroupStanding::Candidate), .. } => {
            "this broker was elected, and is about to lead its group"
        }
        HealthFacts { standing: Some(GroupStanding::Resigning), .. } => {
            "this broker hands its leadership over: calls wait for the next leader"
        }
        HealthFacts { is_open: true, standing: Some(GroupStanding::Waiting), .. } => {
            "this broker knows no leader of its group: one is being elected, or no nameserver answers"
        }
        HealthFacts { is_open: true, .. } => "the broker registers with its nameservers",
        _ => "the broker opens its data; clients are told to try again",
    };
    HealthCheck::failed("serving", reason)
}

fn index(facts: &HealthFacts) -> HealthCheck {
    if let Some(reason) = &facts.index_damage {
        return HealthCheck::failed(
            "index",
            format!("damaged ({reason}): it is removed and rebuilt from the log"),
        );
    }
    if let Some((applied, held)) = facts.remaking {
        let reason = format!("damaged, and being rebuilt from the log: position {applied} of {held}");
        return HealthCheck::failed("index", reason);
    }
    match &facts.opening {
        _ if facts.is_open => HealthCheck::ok("index", "up to date"),
        Some(progress) => HealthCheck::failed("index", format!("rebuilding, {progress}")),
        None => HealthCheck::failed("index", "waits for the log to be opened"),
    }
}

/// The warning stays until the broker is restarted: the operator has to check the disk.
fn remade(facts: &HealthFacts) -> Option<HealthCheck> {
    let (times, reason) = facts.index_remade.as_ref()?;
    let times = if *times == 1 { "once".to_owned() } else { format!("{times} times") };
    let reason = format!(
        "it was damaged and rebuilt from the log {times} since the broker was started; nothing is lost, but check the disk: {reason}"
    );
    Some(HealthCheck::warning("index", reason))
}

fn log(facts: &HealthFacts) -> HealthCheck {
    // While the index is rebuilt nothing is stored either, but that is temporary.
    match facts.failure.as_ref().filter(|_| facts.index_damage.is_none()) {
        Some(reason) => HealthCheck::failed(
            "log",
            format!(
                "read-only: {reason}; no record is stored any more: repair the disk and restart the broker"
            ),
        ),
        None => HealthCheck::ok("log", "takes records"),
    }
}

fn damage(damaged: &[String]) -> Vec<HealthCheck> {
    let show = |range: &String| {
        HealthCheck::warning(
            "log",
            format!("damaged range in {range}: its records are lost, the rest is served"),
        )
    };
    let mut verdicts: Vec<HealthCheck> = damaged.iter().take(RANGES_SHOWN).map(show).collect();
    if let Some(more) = damaged.len().checked_sub(RANGES_SHOWN).filter(|more| *more > 0) {
        let reason = format!("{more} more damaged ranges; see kerolox-inspect verify");
        verdicts.push(HealthCheck::warning("log", reason));
    }
    verdicts
}

fn repairs(repairs: &[String]) -> Vec<HealthCheck> {
    let show =
        |repair: &String| HealthCheck::warning("index", format!("made over damage in the log: {repair}"));
    let mut verdicts: Vec<HealthCheck> = repairs.iter().take(RANGES_SHOWN).map(show).collect();
    if let Some(more) = repairs.len().checked_sub(RANGES_SHOWN).filter(|more| *more > 0) {
        verdicts
            .push(HealthCheck::warning("index", format!("{more} more queues; the broker's log names them")));
    }
    verdicts
}

fn disk(facts: &HealthFacts) -> HealthCheck {
    if facts.is_room_short {
        return HealthCheck::failed(
            "disk",
            "nearly full: sends are refused, everything else continues; free space, or lower retention.time",
        );
    }
    HealthCheck::ok("disk", "has room")
}

/// The warning about messages removed unread stays until the broker is restarted: the operator has to look after their
/// groups.
fn lost(facts: &HealthFacts) -> Option<HealthCheck> {
    let reason = format!(
        "unread messages were removed before retention.time since the broker was started: {}; free space, or check why the group lags",
        facts.lost
    );
    (!facts.lost.is_empty()).then(|| HealthCheck::warning("retention", reason))
}

fn master(lead: Result<String, String>) -> HealthCheck {
    match lead {
        Ok(reason) => HealthCheck::ok("master", reason),
        Err(reason) => HealthCheck::failed("master", reason),
    }
}

fn clock(facts: &HealthFacts) -> HealthCheck {
    match facts.clock_leap_ms {
        Some(leap_ms) => HealthCheck::warning(
            "clock",
            format!(
                "the wall clock leapt ahead by {leap_ms} ms: messages due or expired only because of the leap are held back for timers.clock-grace; correct the clock if it is wrong"
            ),
        ),
        None => HealthCheck::ok("clock", "runs normally"),
    }
}

#[cfg(test)]
mod tests;
