//! The records that are lost when a lagging member is elected, and the members that not even an operator can
//! elect.

use crate::command::{CommandRefusal, GroupCommand, RefusalReason};
use crate::election::Scene;
use crate::state::{GroupName, GroupTable, MemberId};
use crate::watch::{ElectionPolicy, MemberSighting, MemberWatch};

/// What the election of a member by force would give up, as far as the controller has heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ElectionLoss {
    /// The member that would be elected.
    pub member: MemberId,
    /// Epoch of its newest record; 0 when it has none.
    pub last_epoch: u32,
    /// The end of its log.
    pub end: u64,
    /// Up to where the log was confirmed, as far as any member heard that an operator has not given it up since.
    pub confirmed: u64,
    /// Members that hold more: number, epoch of the newest record, end.
    pub ahead: Vec<(MemberId, u32, u64)>,
    /// Members of which this leader has not heard, and that may hold more.
    pub unheard: Vec<MemberId>,
}

impl ElectionLoss {
    /// Bytes of the log that are known to be lost at the least. Where logs parted before the end of the member's, it is more.
    pub fn bytes(&self) -> u64 {
        let ends = self.ahead.iter().map(|(_, _, end)| *end).chain([self.confirmed]);
        ends.max().unwrap_or(0).saturating_sub(self.end)
    }

    /// Whether something is known to be lost, or the member has nothing at all.
    pub fn is_certain(&self) -> bool {
        !self.ahead.is_empty() || self.confirmed > self.end || self.last_epoch == 0
    }

    /// In a sentence.
    pub fn text(&self) -> String {
        let Self { member, last_epoch, end, confirmed, .. } = self;
        let mut text = if *last_epoch == 0 {
            format!("member {member} holds no messages")
        } else {
            format!("member {member} holds the log up to position {end}, in epoch {last_epoch}")
        };
        for (id, epoch, end) in &self.ahead {
            text += &format!(", member {id} up to {end}, in epoch {epoch}");
        }
        if *confirmed > 0 {
            text += &format!("; up to {confirmed} it was confirmed");
        }
        if self.is_certain() {
            text += &format!(": at least {} bytes of the log are lost", self.bytes());
        }
        if !self.unheard.is_empty() {
            let ids: Vec<String> = self.unheard.iter().map(MemberId::to_string).collect();
            text += &format!("; what members {} hold is not known", ids.join(", "));
        }
        text
    }
}

/// What the election of `member` by force would give up; 0 for the one that is there with the most.
///
/// # Errors
/// It cannot be elected: it does not exist, is not there, or has only reported and never held the log.
pub fn election_loss(
    groups: &GroupTable,
    watch: &MemberWatch,
    (now, policy): (u64, &ElectionPolicy),
    name: &GroupName,
    member: MemberId,
) -> Result<ElectionLoss, CommandRefusal> {
    let group = groups.get(name).ok_or_else(|| CommandRefusal::unknown_group(name))?;
    let scene = Scene { group, watch, now, policy };
    let (member, said) = scene.forced_candidate(member)?;
    Ok(scene.loss(member, said))
}

impl Scene<'_> {
    /// The member that an operator can elect by force.
    pub(crate) fn forced_candidate(
        &self,
        member: MemberId,
    ) -> Result<(MemberId, &MemberSighting), CommandRefusal> {
        let refuse = |text: String| CommandRefusal::new(RefusalReason::NotAllowed, text);
        if member == 0 {
            let holders = self.group.members.keys().filter(|id| self.group.holds(**id));
            let live = holders.filter_map(|id| self.live(*id).map(|said| (*id, said)));
            let best = live.filter(|(_, said)| said.unfit.is_empty()).max_by_key(|(_, said)| said.progress());
            return best.ok_or_else(|| {
                refuse(format!(
                    "no member that has held the log of group {} is there; start one",
                    self.group.name
                ))
            });
        }
        self.check_member(member)?;
        let label = self.group.label(member);
        if !self.group.holds(member) {
            return Err(refuse(format!(
                "{label} has only reported: no master of group {} has seen it hold the log, so it cannot be elected. Name another \
                 member; if all data folders of the group are gone, begin without messages with mqadmin resetBrokerGroup",
                self.group.name
            )));
        }
        let said = self.live(member);
        said.map(|said| (member, said)).ok_or_else(|| refuse(format!("{label} is not there; start it")))
    }

    pub(crate) fn loss(&self, member: MemberId, said: &MemberSighting) -> ElectionLoss {
        let others = self.group.members.keys().filter(|id| **id != member && self.group.holds(**id));
        let heard = others
            .clone()
            .filter_map(|id| self.watch.sighting(&self.group.name, *id).map(|said| (*id, said)));
        let ahead = heard.filter(|(_, other)| other.progress() > said.progress());
        let confirmed = self.group.members.keys().filter_map(|id| self.watch.sighting(&self.group.name, *id));
        let confirmed = confirmed.filter(|said| said.confirmed.0 >= self.group.unclean_epoch);
        ElectionLoss {
            member,
            last_epoch: said.last_epoch,
            end: said.end,
            confirmed: confirmed.map(|said| said.confirmed.1).max().unwrap_or(0),
            ahead: ahead.map(|(id, said)| (id, said.last_epoch, said.end)).collect(),
            unheard: others
                .filter(|id| self.watch.sighting(&self.group.name, **id).is_none())
                .copied()
                .collect(),
        }
    }

    /// The election of a member that may lack records; 0 for the live one with the most. The caller has to
    /// accept a certain loss.
    pub(crate) fn forced(
        &self,
        member: MemberId,
        accepts_loss: bool,
    ) -> Result<Option<GroupCommand>, CommandRefusal> {
        let (member, said) = self.forced_candidate(member)?;
        if member == self.group.master && said.process == self.group.master_process {
            return Ok(None);
        }
        let loss = self.loss(member, said);
        if loss.is_certain() && !accepts_loss {
            let text = format!("{}. To accept that, say --lose-messages as well as --unclean", loss.text());
            return Err(CommandRefusal::new(RefusalReason::NotAllowed, text));
        }
        Ok(Some(GroupCommand::ForceElection {
            name: self.group.name.clone(),
            version: self.group.version,
            above: self.newest_epoch(),
            member,
        }))
    }
}

/// A group whose data folders are all gone begins without messages, with an empty member as master. The members that are missing
/// are forgotten.
///
/// # Errors
/// A member that held the log is there or may be, or no other one is.
pub fn begin_anew(
    groups: &GroupTable,
    watch: &MemberWatch,
    (now, policy): (u64, &ElectionPolicy),
    name: &GroupName,
) -> Result<GroupCommand, CommandRefusal> {
    let group = groups.get(name).ok_or_else(|| CommandRefusal::unknown_group(name))?;
    let scene = Scene { group, watch, now, policy };
    let refuse = |text: String| Err(CommandRefusal::new(RefusalReason::NotAllowed, text));
    let has_log =
        |id: &&MemberId| group.holds(**id) || scene.live(**id).is_some_and(|said| said.last_epoch > 0);
    let survivor = group.members.keys().filter(has_log).find(|id| !scene.is_silent(**id));
    if let Some(id) = survivor {
        return refuse(format!(
            "{} is there, or was within {} ms, and holds messages of group {name}: elect it with mqadmin electMaster instead, or stop \
             it, remove its data folder and start it again",
            group.label(*id),
            policy.master_timeout
        ));
    }
    let kept = group.members.keys().filter(|id| scene.live(**id).is_some()).copied();
    let kept: std::collections::BTreeSet<MemberId> = kept.collect();
    let Some(member) = kept.first().copied() else {
        return refuse(format!("no member of group {name} is there; start one with an empty data folder"));
    };
    let (version, above) = (group.version, scene.newest_epoch());
    Ok(GroupCommand::BeginAnew { name: name.clone(), version, above, member, kept })
}
