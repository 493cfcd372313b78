//! What members and administrators ask for: the command that meets it, or why it is not met.

use std::collections::BTreeSet;

use crate::command::{CommandRefusal, GroupCommand, JoiningMember, RefusalReason};
use crate::election::Scene;
use crate::state::{ElectionWishes, GroupName, GroupRecord, GroupTable, MemberId, set_text};
use crate::watch::{ElectionPolicy, MemberWatch};

/// The command that a report asks for by who sends it: a member joins that is unknown, has moved, or knows what a controller that
/// lost its data, or has older ones, does not.
///
/// # Errors
/// It belongs to other nameservers.
pub fn joining(
    groups: &GroupTable,
    name: &GroupName,
    joiner: &JoiningMember,
) -> Result<Option<GroupCommand>, CommandRefusal> {
    groups.check_identity(joiner)?;
    let is_current = groups.get(name).is_some_and(|group| {
        let member = group.member_of(&joiner.incarnation).and_then(|id| group.members.get(&id));
        member.is_some_and(|member| *member == joiner.clone().into()) && !group.is_behind(joiner)
    });
    Ok((!is_current).then(|| GroupCommand::Join { name: name.clone(), joiner: joiner.clone() }))
}

/// The master `member` of `epoch` gives up its leadership, to `to` if that is not 0.
///
/// # Errors
/// It is not the master of that epoch, or no member can take over.
pub fn hand_over(
    groups: &GroupTable,
    watch: &MemberWatch,
    (now, policy): (u64, &ElectionPolicy),
    name: &GroupName,
    (epoch, member, to): (u32, MemberId, MemberId),
) -> Result<GroupCommand, CommandRefusal> {
    let group = known(groups, name)?;
    let scene = Scene { group, watch, now, policy };
    if group.master == 0 || (group.master, group.epoch) != (member, epoch) {
        let text = format!("member {member} is not the master of group {name} in epoch {epoch}");
        return Err(CommandRefusal::new(RefusalReason::NotAllowed, text));
    }
    if to != 0 {
        scene.check_candidate(to)?;
    }
    if !scene.can_do_without(member) {
        return Err(scene.nobody_else());
    }
    Ok(scene.begin(ElectionWishes { excluded: Some(member), preferred: wished(to) }, true))
}

/// The master's wish for another in-sync set.
///
/// # Errors
/// Members are to leave the set, and the data of the controller may be an older copy: then another master may rule since, and who
/// has not been heard of could know.
pub fn change_in_sync(
    groups: &GroupTable,
    watch: &MemberWatch,
    (now, policy): (u64, &ElectionPolicy),
    name: &GroupName,
    in_sync: &BTreeSet<MemberId>,
) -> Result<(), CommandRefusal> {
    let group = known(groups, name)?;
    let scene = Scene { group, watch, now, policy };
    let unheard = scene.unheard().filter(|unheard| !unheard.is_empty());
    match unheard {
        Some(unheard) if !group.in_sync.is_subset(in_sync) => {
            let text = format!(
                "the data of this nameserver could be an older copy: before members {} are heard of, or {} s after its start, no member \
                 leaves the in-sync set of group {name}",
                set_text(&unheard),
                policy.cautious_until.div_ceil(1000)
            );
            Err(CommandRefusal::new(RefusalReason::NotAllowed, text))
        }
        _ => Ok(()),
    }
}

/// An administrator's election of `member`; 0 for the best member besides the present master. `None` when
/// there is nothing to do: it is the master, or an election is under way anyway.
///
/// # Errors
/// The member does not exist, is not there, has never held the log, or may lack records. With `unclean` it
/// may lack records, but the caller has to accept a certain loss.
pub fn elect_master(
    groups: &GroupTable,
    watch: &MemberWatch,
    (now, policy): (u64, &ElectionPolicy),
    name: &GroupName,
    (member, unclean, accepts_loss): (MemberId, bool, bool),
) -> Result<Option<GroupCommand>, CommandRefusal> {
    let group = known(groups, name)?;
    let scene = Scene { group, watch, now, policy };
    if unclean {
        return scene.forced(member, accepts_loss);
    }
    if group.recovery.is_some() || (member == 0 && group.master == 0) {
        return Ok(None);
    }
    if member == 0 {
        if !scene.can_do_without(group.master) {
            return Err(scene.nobody_else());
        }
        return Ok(Some(
            scene.begin(ElectionWishes { excluded: Some(group.master), preferred: None }, false),
        ));
    }
    scene.check_member(member)?;
    if group.master == member {
        return Ok(None);
    }
    scene.check_candidate(member)?;
    Ok(Some(scene.begin(ElectionWishes { excluded: None, preferred: Some(member) }, false)))
}

/// Takes a member out of its group.
///
/// # Errors
/// It does not exist, is there, or the group cannot do without it.
pub fn remove_member(
    groups: &GroupTable,
    watch: &MemberWatch,
    (now, policy): (u64, &ElectionPolicy),
    name: &GroupName,
    member: MemberId,
) -> Result<GroupCommand, CommandRefusal> {
    let group = known(groups, name)?;
    let scene = Scene { group, watch, now, policy };
    scene.check_member(member)?;
    group.may_lose(member)?;
    // A new leader has heard no member yet, and must not take that silence for their death.
    if watch.silence(group, member, now) <= policy.master_timeout {
        let text = format!("{} of group {name} is there; stop it first", group.label(member));
        return Err(CommandRefusal::new(RefusalReason::NotAllowed, text));
    }
    Ok(GroupCommand::RemoveMember { name: name.clone(), member })
}

fn known<'a>(groups: &'a GroupTable, name: &GroupName) -> Result<&'a GroupRecord, CommandRefusal> {
    groups.get(name).ok_or_else(|| CommandRefusal::unknown_group(name))
}

fn wished(member: MemberId) -> Option<MemberId> {
    (member != 0).then_some(member)
}

impl Scene<'_> {
    pub(crate) fn check_member(&self, member: MemberId) -> Result<(), CommandRefusal> {
        if self.group.members.contains_key(&member) {
            return Ok(());
        }
        Err(CommandRefusal::unknown_member(&self.group.name, member))
    }

    /// Whether a member may be elected by name.
    fn check_candidate(&self, member: MemberId) -> Result<(), CommandRefusal> {
        self.check_member(member)?;
        let label = self.group.label(member);
        let text = if !self.group.in_sync.contains(&member) {
            let set = set_text(&self.group.in_sync);
            format!(
                "{label} is not in the in-sync set {set}: it may lack what was acknowledged. Wait until it has caught up, or \
                 accept loss with mqadmin electMaster --unclean"
            )
        } else {
            match self.live(member) {
                None => format!("{label} is not there; start it"),
                Some(said) if !said.unfit.is_empty() => {
                    format!("{label} must not be elected: {}", said.unfit)
                }
                Some(_) => return Ok(()),
            }
        };
        Err(CommandRefusal::new(RefusalReason::NotAllowed, text))
    }

    fn nobody_else(&self) -> CommandRefusal {
        let text = format!(
            "no member can take over from {}: of the in-sync set {} no other member is there and fit to rule, or too few are; \
             start another member and wait until it has caught up",
            self.group.label(self.group.master),
            set_text(&self.group.in_sync)
        );
        CommandRefusal::new(RefusalReason::NotAllowed, text)
    }
}
