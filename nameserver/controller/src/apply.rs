//! Changes the state by commands. Deterministic: every nameserver comes to one state.

use std::collections::BTreeSet;

use crate::command::{CommandRefusal, CommandReply, GroupCommand, JoiningMember, RefusalReason};
use crate::state::{
    ElectionWishes, GroupMemberRecord, GroupName, GroupRecord, GroupTable, MemberId, set_text,
};

impl GroupTable {
    /// Changes the state as a command says, or leaves it as it is.
    pub fn apply(&mut self, command: GroupCommand) -> CommandReply {
        let name = command.name().cloned();
        let before = name.as_ref().and_then(|name| self.get(name)).map(GroupRecord::terms);
        let reply = self.changed(command).unwrap_or_else(CommandReply::Refused);
        if let Some(group) = name.as_ref().and_then(|name| self.get_mut(name)) {
            group.note_terms(before.as_ref());
        }
        reply
    }

    fn changed(&mut self, command: GroupCommand) -> Result<CommandReply, CommandRefusal> {
        match command {
            GroupCommand::BeginTenure { tenure } => self.begin_tenure(tenure),
            GroupCommand::Join { name, joiner } => return self.join(&name, joiner).map(CommandReply::Joined),
            GroupCommand::ChangeInSync { name, version, epoch, member, in_sync, quorum } => {
                self.group(&name)?.change_in_sync((version, epoch, member), in_sync, quorum)?;
            }
            GroupCommand::BeginElection { name, version, above, excluded, preferred, released } => {
                let group = self.based_on(&name, version)?;
                group.begin_election(above, ElectionWishes { excluded, preferred })?;
                group.released = released;
            }
            GroupCommand::Appoint { name, version, master, process, in_sync, asked } => {
                self.based_on(&name, version)?.appoint(master, process, (in_sync, asked))?;
            }
            GroupCommand::ForceElection { name, version, above, member } => {
                self.based_on(&name, version)?.force_election(above, member)?;
            }
            GroupCommand::NoteHolders { name, epoch, master, holders } => {
                self.group(&name)?.note_holders((epoch, master), &holders);
            }
            GroupCommand::BeginAnew { name, version, above, member, kept } => {
                let group = self.based_on(&name, version)?;
                group.force_election(above, member)?;
                group.members.retain(|id, _| kept.contains(id) || *id == member);
                group.holders = BTreeSet::from([member]);
            }
            GroupCommand::RemoveMember { name, member } => self.group(&name)?.remove(member)?,
        }
        Ok(CommandReply::Done)
    }

    fn group(&mut self, name: &GroupName) -> Result<&mut GroupRecord, CommandRefusal> {
        self.get_mut(name).ok_or_else(|| CommandRefusal::unknown_group(name))
    }

    fn based_on(&mut self, name: &GroupName, version: u64) -> Result<&mut GroupRecord, CommandRefusal> {
        let group = self.group(name)?;
        group.check_version(version)?;
        Ok(group)
    }

    fn join(&mut self, name: &GroupName, joiner: JoiningMember) -> Result<MemberId, CommandRefusal> {
        if name.cluster.is_empty() || name.group.is_empty() || joiner.incarnation.is_empty() {
            let text =
                "a member that joins names its cluster, its group and its incarnation; one of them is empty";
            return Err(CommandRefusal::new(RefusalReason::Invalid, text));
        }
        self.check_identity(&joiner)?;
        match self.get_mut(name) {
            Some(group) => group.join(joiner),
            None => {
                let group = GroupRecord::founded(name.clone(), &self.tenure, joiner.clone())?;
                self.adopt_identity(&joiner);
                self.insert(group);
                Ok(1)
            }
        }
    }
}

impl GroupRecord {
    /// A group with its first member: its master at once, unless it knows that there were others, who may hold more.
    fn founded(name: GroupName, tenure: &str, joiner: JoiningMember) -> Result<Self, CommandRefusal> {
        let mut group = Self::new(name, tenure);
        let process = joiner.process.clone();
        group.raise_epoch(joiner.promised.max(joiner.last_epoch))?;
        group.begin_record(&joiner);
        if joiner.needs_others() {
            group.await_more(&joiner);
            group.note_report(&joiner);
            group.vouch(&joiner);
            group.admit(joiner);
        } else {
            group.master = group.admit(joiner);
            group.master_process = process;
            group.in_sync = BTreeSet::from([group.master]);
            group.holders = BTreeSet::from([group.master]);
            group.asked.insert(group.master, group.version + 1);
        }
        group.version += 1;
        Ok(group)
    }

    fn join(&mut self, joiner: JoiningMember) -> Result<MemberId, CommandRefusal> {
        if let Some(id) = self.member_of(&joiner.incarnation) {
            let mut is_news = self.learn(&joiner)?;
            is_news |= self.vouch(&joiner);
            let member = GroupMemberRecord::from(joiner);
            is_news |= self.members.insert(id, member.clone()) != Some(member);
            self.version += u64::from(is_news);
            return Ok(id);
        }
        let known = joiner.group_known();
        // An empty folder has nothing to lose.
        if self.recovery.is_none()
            && joiner.last_epoch > 0
            && joiner.knows_others()
            && !known.iter().any(|known| self.member_of(known).is_some())
        {
            return Err(self.foreign(&joiner));
        }
        self.learn(&joiner)?;
        let newest = joiner.promised.max(joiner.last_epoch);
        if self.recovery.is_some() && newest >= self.epoch {
            self.raise_epoch(newest)?;
        }
        self.vouch(&joiner);
        let id = self.admit(joiner);
        self.version += 1;
        // It told what it knew.
        self.asked.insert(id, self.version);
        Ok(id)
    }

    /// A folder with a history that this group does not share would lose its log here.
    fn foreign(&self, joiner: &JoiningMember) -> CommandRefusal {
        let text = format!(
            "the data folder of {}:{} belongs to a group {} with other members than those that the controller knows. If the \
             nameservers have lost their data, stop them, remove controller.redb from their data folders and start this \
             broker before any other; to join as an empty member, give the broker an empty data folder",
            joiner.host, joiner.port, self.name
        );
        CommandRefusal::new(RefusalReason::Foreign, text)
    }

    fn admit(&mut self, joiner: JoiningMember) -> MemberId {
        let id = self.next_id;
        self.next_id += 1;
        self.members.insert(id, joiner.into());
        id
    }

    /// The epoch that follows this one and `above`.
    pub(crate) fn raise_epoch(&mut self, above: u32) -> Result<(), CommandRefusal> {
        let next = self.epoch.max(above).checked_add(1);
        self.epoch = next.ok_or_else(|| {
            let text = format!("there is no epoch after {} for group {}", u32::MAX, self.name);
            CommandRefusal::new(RefusalReason::NotAllowed, text)
        })?;
        Ok(())
    }

    fn check_version(&self, version: u64) -> Result<(), CommandRefusal> {
        if version == self.version {
            return Ok(());
        }
        let text = format!(
            "the state of group {} has version {}, the request goes by version {version}; fetch it and decide again",
            self.name, self.version
        );
        Err(CommandRefusal::new(RefusalReason::Stale, text))
    }

    fn known(&self, member: MemberId) -> Result<(), CommandRefusal> {
        if self.members.contains_key(&member) {
            return Ok(());
        }
        Err(CommandRefusal::unknown_member(&self.name, member))
    }

    fn change_in_sync(
        &mut self,
        (version, epoch, member): (u64, u32, MemberId),
        in_sync: BTreeSet<MemberId>,
        quorum: bool,
    ) -> Result<(), CommandRefusal> {
        if self.master == 0 || (self.master, self.epoch) != (member, epoch) {
            let text = format!(
                "member {member} is not the master of group {} in epoch {epoch}: in epoch {} it is {}",
                self.name,
                self.epoch,
                if self.master == 0 { "no member".to_owned() } else { self.label(self.master) },
            );
            return Err(CommandRefusal::new(RefusalReason::NotAllowed, text));
        }
        self.check_version(version)?;
        self.check_set(member, &in_sync)?;
        if (&self.in_sync, self.quorum) != (&in_sync, quorum) {
            self.holders.extend(&in_sync);
            (self.in_sync, self.quorum) = (in_sync, quorum);
            self.version += 1;
        }
        Ok(())
    }

    /// An in-sync set has the master in it, and only members.
    fn check_set(&self, master: MemberId, in_sync: &BTreeSet<MemberId>) -> Result<(), CommandRefusal> {
        let stranger = in_sync.iter().find(|id| !self.members.contains_key(id));
        if let Some(stranger) = stranger {
            return Err(CommandRefusal::unknown_member(&self.name, *stranger));
        }
        if in_sync.contains(&master) {
            return Ok(());
        }
        let text = format!("the in-sync set {} lacks the master, member {master}", set_text(in_sync));
        Err(CommandRefusal::new(RefusalReason::Invalid, text))
    }

    fn begin_election(&mut self, above: u32, wishes: ElectionWishes) -> Result<(), CommandRefusal> {
        self.raise_epoch(above)?;
        self.master = 0;
        self.master_process.clear();
        self.wishes = wishes;
        self.version += 1;
        Ok(())
    }

    fn force_election(&mut self, above: u32, member: MemberId) -> Result<(), CommandRefusal> {
        self.known(member)?;
        self.begin_election(above, ElectionWishes::default())?;
        self.in_sync = BTreeSet::from([member]);
        self.unclean_epoch = self.epoch;
        self.asked.clear();
        self.released = false;
        self.recovery = None;
        self.is_split = false;
        self.forget_reports();
        Ok(())
    }

    /// What an earlier master says counts no more.
    fn note_holders(&mut self, led: (u32, MemberId), holders: &BTreeSet<MemberId>) {
        if (self.epoch, self.master) != led {
            return;
        }
        let before = self.holders.len();
        self.holders.extend(holders.iter().filter(|id| self.members.contains_key(id)));
        self.version += u64::from(self.holders.len() > before);
    }

    fn appoint(
        &mut self,
        master: MemberId,
        process: String,
        (in_sync, asked): (BTreeSet<MemberId>, BTreeSet<MemberId>),
    ) -> Result<(), CommandRefusal> {
        self.check_set(master, &in_sync)?;
        let may_rule = self.recovery.is_some() || self.in_sync.contains(&master);
        if self.master != 0 || !may_rule {
            let text = format!("member {master} of group {} cannot be appointed as things are", self.name);
            return Err(CommandRefusal::new(RefusalReason::NotAllowed, text));
        }
        self.master = master;
        self.master_process = process;
        self.holders.extend(&in_sync);
        self.in_sync = in_sync;
        self.wishes = ElectionWishes::default();
        self.recovery = None;
        self.forget_reports();
        self.version += 1;
        // An operator's choice does not go by what members said.
        if self.unclean_epoch != self.epoch {
            let asked = asked.into_iter().filter(|id| self.members.contains_key(id));
            self.asked.extend(asked.map(|id| (id, self.version)));
        }
        Ok(())
    }

    fn remove(&mut self, member: MemberId) -> Result<(), CommandRefusal> {
        self.known(member)?;
        self.may_lose(member)?;
        self.members.remove(&member);
        self.holders.remove(&member);
        self.asked.remove(&member);
        self.version += 1;
        Ok(())
    }

    /// Whether the group can do without a member.
    pub(crate) fn may_lose(&self, member: MemberId) -> Result<(), CommandRefusal> {
        let text = if self.master == member {
            format!("{} is the master of group {}; elect another one first", self.label(member), self.name)
        } else if self.in_sync.contains(&member) {
            format!(
                "{} is in the in-sync set {} of group {}: it may hold records that no other member has. The master takes it out of the \
                 set when it falls behind",
                self.label(member),
                set_text(&self.in_sync),
                self.name
            )
        } else if self.recovery.is_some() {
            format!(
                "the controller waits for all members of group {}, because it does not know what they hold; accept that \
                 something may be lost with mqadmin electMaster --unclean before removing one",
                self.name
            )
        } else {
            return Ok(());
        };
        Err(CommandRefusal::new(RefusalReason::NotAllowed, text))
    }
}

impl From<JoiningMember> for GroupMemberRecord {
    fn from(joiner: JoiningMember) -> Self {
        let JoiningMember { incarnation, host, port, replication_address, .. } = joiner;
        Self { incarnation, host, port, replication_address }
    }
}
