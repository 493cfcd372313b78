//! The commands that are due, from the state and the members' reports.

use std::collections::BTreeSet;

use crate::command::GroupCommand;
use crate::election::Scene;
use crate::sabotage;
use crate::state::{ElectionWishes, GroupRecord, GroupTable, MemberId, set_text};
use crate::watch::{ElectionPolicy, MemberWatch};

/// The commands that are due: at most one for each group. To be called every 100 ms or so, and after reports.
pub fn decide(
    groups: &GroupTable,
    watch: &mut MemberWatch,
    now: u64,
    policy: &ElectionPolicy,
) -> Vec<GroupCommand> {
    watch.follow(groups, now);
    let scenes = groups.iter().map(|group| Scene { group, watch, now, policy });
    scenes.filter_map(|scene| scene.due()).collect()
}

impl Scene<'_> {
    fn due(&self) -> Option<GroupCommand> {
        if self.newest_live_epoch() > self.group.epoch {
            // A member that knows a later epoch will not follow this one.
            return Some(self.begin(self.group.wishes, self.group.released));
        }
        if self.group.master == 0 {
            return self.appointment();
        }
        let ruler_excluded = ElectionWishes { excluded: Some(self.group.master), preferred: None };
        match self.live(self.group.master) {
            Some(master) if master.process != self.group.master_process => {
                Some(self.begin(ElectionWishes::default(), false))
            }
            Some(master) if !master.unfit.is_empty() => self.succession(ruler_excluded),
            Some(_) => None,
            None if self.is_silent(self.group.master) => self.succession(ElectionWishes::default()),
            None => None,
        }
    }

    fn newest_live_epoch(&self) -> u32 {
        let live = self.group.members.keys().filter_map(|id| self.live(*id));
        live.map(|said| said.promised.max(said.last_epoch)).max().unwrap_or(0)
    }

    pub(crate) fn is_silent(&self, member: MemberId) -> bool {
        self.watch.silence(self.group, member, self.now) > self.policy.master_timeout
    }

    /// An election, if a member other than the master can win it.
    fn succession(&self, wishes: ElectionWishes) -> Option<GroupCommand> {
        self.can_do_without(self.group.master).then(|| self.begin(wishes, false))
    }

    pub(crate) fn begin(&self, wishes: ElectionWishes, released: bool) -> GroupCommand {
        if sabotage::is("elect-outside-set")
            && let Some(member) = self.group.members.keys().rfind(|id| !self.group.in_sync.contains(id))
        {
            let (name, version, above) = (self.group.name.clone(), self.group.version, self.newest_epoch());
            return GroupCommand::ForceElection { name, version, above, member: *member };
        }
        GroupCommand::BeginElection {
            name: self.group.name.clone(),
            version: self.group.version,
            above: self.newest_epoch(),
            excluded: wishes.excluded,
            preferred: wishes.preferred,
            released,
        }
    }

    /// Members that have reported to this leader.
    fn asked(&self) -> BTreeSet<MemberId> {
        let has_reported = |id: &MemberId| self.watch.sighting(&self.group.name, *id).is_some();
        self.group.members.keys().copied().filter(has_reported).collect()
    }

    fn appointment(&self) -> Option<GroupCommand> {
        let winner = self.winner()?;
        Some(GroupCommand::Appoint {
            name: self.group.name.clone(),
            version: self.group.version,
            master: winner.master,
            process: winner.process,
            in_sync: winner.in_sync,
            asked: self.asked(),
        })
    }
}

/// A duration as people say it, which grows in ever longer steps: who repeats it when it changes does so ever less often.
fn about(seconds: u64) -> String {
    const STEPS: [u64; 10] = [1, 2, 5, 10, 20, 30, 60, 120, 300, 1200];
    match STEPS.iter().rfind(|step| **step <= seconds) {
        _ if seconds >= 3600 => format!("{} h", 1 << (seconds / 3600).ilog2()),
        Some(step) => format!("{step} s"),
        None => "0 s".to_owned(),
    }
}

/// Why an election of a new master is due, in words for the log.
pub fn why_elect(group: &GroupRecord, watch: &MemberWatch, now: u64, policy: &ElectionPolicy) -> String {
    let scene = Scene { group, watch, now, policy };
    if scene.newest_live_epoch() > group.epoch {
        return format!(
            "a member knows epoch {}, which is later than {}",
            scene.newest_live_epoch(),
            group.epoch
        );
    }
    let label = group.label(group.master);
    match scene.live(group.master) {
        Some(master) if master.process != group.master_process => {
            format!("the master, {label}, was restarted")
        }
        Some(master) if !master.unfit.is_empty() => {
            format!("the master, {label}, is unfit: {}", master.unfit)
        }
        Some(_) => "it was asked for".to_owned(),
        None => {
            format!("the master, {label}, has been silent for {} ms", watch.silence(group, group.master, now))
        }
    }
}

/// Why a group has no master that is there, in a plain sentence with what to do; empty when it has one, or is about to.
pub fn waiting_for(group: &GroupRecord, watch: &MemberWatch, now: u64, policy: &ElectionPolicy) -> String {
    let scene = Scene { group, watch, now, policy };
    let reason = match (&group.recovery, group.master) {
        (Some(_), _) => scene.recovery_waits_for(),
        (None, 0) => scene.election_waits_for(),
        (None, master) => scene.master_waits_for(master),
    };
    match reason {
        Some(reason) if group.is_split => reason,
        Some(reason) => format!("{reason}, or accept loss with mqadmin electMaster --unclean"),
        None => String::new(),
    }
}

impl Scene<'_> {
    fn recovery_waits_for(&self) -> Option<String> {
        if self.group.is_split {
            return Some(
                "the controller had lost its data, or was given an older copy of them, and elected a master while members were missing \
                 that know later ones: both sides may hold what was acknowledged and the other one lacks. See with mqadmin \
                 getSyncStateSet what the members hold, and take one of them with mqadmin electMaster --unclean --member"
                    .to_owned(),
            );
        }
        let awaited = self.group.recovery.as_ref().map_or(0, |awaited| awaited.len());
        let absent = awaited - self.returned().len();
        if absent > 0 {
            return Some(format!(
                "the controller has no record of this group and waits for all members that it had, because each of them \
                 may hold what the others lack: {absent} of {awaited} are missing; start them"
            ));
        }
        if let Some((id, confirmed)) = self.beyond_reach() {
            return Some(format!(
                "{} heard that the log was confirmed up to position {confirmed}, and no member that is there has so much; start \
                 the one that does",
                self.group.label(id)
            ));
        }
        let unfit = self.returned().into_iter().find(|(_, said)| !said.unfit.is_empty());
        unfit.filter(|_| self.winner().is_none()).map(|(id, said)| self.unfit_text(id, &said.unfit))
    }

    fn election_waits_for(&self) -> Option<String> {
        let set = set_text(&self.group.in_sync);
        let there = self.live_in_sync().count();
        if there == 0 {
            let (absent, wiped) = (self.absent(), self.perhaps_wiped());
            return Some(format!("no member of the in-sync set {set} is there; start {absent}{wiped}"));
        }
        if there < self.group.needed() {
            let needed = self.group.needed();
            return Some(format!(
                "only {there} members of the in-sync set {set} are there, {needed} are needed because a majority of it \
                 acknowledges; start {}",
                self.absent()
            ));
        }
        let unheard = self.unheard().filter(|unheard| !unheard.is_empty());
        if let Some(unheard) = unheard {
            let labels: Vec<String> = unheard.iter().map(|id| self.group.label(*id)).collect();
            return Some(format!(
                "this nameserver was started with data that could be an older copy, and {} may know of later ones: no master is \
                 elected without them before {} s after its start; start them",
                labels.join(" and "),
                self.policy.cautious_until.div_ceil(1000)
            ));
        }
        let mut unfit = self.live_in_sync().filter(|(_, said)| !said.unfit.is_empty());
        let is_anyone_fit = self.live_in_sync().any(|(_, said)| said.unfit.is_empty());
        let (id, said) = unfit.next().filter(|_| !is_anyone_fit)?;
        Some(self.unfit_text(id, &said.unfit))
    }

    fn master_waits_for(&self, master: MemberId) -> Option<String> {
        if !self.is_silent(master) || self.can_do_without(master) {
            return None;
        }
        let silence = about(self.watch.silence(self.group, master, self.now) / 1000);
        Some(format!(
            "the master, {}, has been silent for over {silence}, and the others of the in-sync set {} cannot replace it; start \
             {}{}",
            self.group.label(master),
            set_text(&self.group.in_sync),
            self.absent(),
            self.perhaps_wiped()
        ))
    }

    /// What helps where only members without messages are there.
    fn perhaps_wiped(&self) -> &'static str {
        let mut there = self.group.members.keys().filter_map(|id| self.live(*id)).peekable();
        if there.peek().is_some() && there.all(|said| said.last_epoch == 0) {
            ", or, if all data folders of the group are gone, begin without messages with mqadmin resetBrokerGroup"
        } else {
            ""
        }
    }

    fn unfit_text(&self, id: MemberId, reason: &str) -> String {
        format!("{} must not be elected: {reason}; repair it", self.group.label(id))
    }

    /// Members of the in-sync set that are not there.
    fn absent(&self) -> String {
        let absent = self.group.in_sync.iter().filter(|id| self.live(**id).is_none());
        let labels: Vec<String> = absent.map(|id| self.group.label(*id)).collect();
        labels.join(" or ")
    }
}
