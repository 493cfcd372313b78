//! Random histories, and what must hold after every step of them.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::{POLICY, folder, name, set};
use crate::*;

/// Something that happens. Members are meant by their number, modulo how many there are.
#[derive(Debug, Clone)]
enum Step {
    Join { folder: u8, promised: u32, known: Vec<u8> },
    Report { member: u8, end: u64, promises: bool, restarts: bool, fit: bool },
    Pause(u64),
    Decide,
    DecideTwice,
    ChangeInSync { members: Vec<u8>, version_back: u64, quorum: bool },
    HandOver { to: u8 },
    Elect { member: u8, unclean: bool },
    Remove { member: u8 },
    NoteHolders { members: Vec<u8> },
    BeginAnew,
    NewLeader,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let member = 0..6_u8;
    let flag = any::<bool>;
    let step = prop_oneof![
        2 => (0..6_u8, 0..5_u32, prop::collection::vec(0..6_u8, 0..3))
            .prop_map(|(folder, promised, known)| Step::Join { folder, promised, known }),
        8 => (member.clone(), 0..4_u64, prop::bool::weighted(0.8), prop::bool::weighted(0.1), prop::bool::weighted(0.9))
            .prop_map(|(member, end, promises, restarts, fit)| Step::Report { member, end, promises, restarts, fit }),
        3 => (0..1500_u64).prop_map(Step::Pause),
        6 => Just(Step::Decide),
        1 => Just(Step::DecideTwice),
        3 => (prop::collection::vec(member.clone(), 0..5), 0..2_u64, flag())
            .prop_map(|(members, version_back, quorum)| Step::ChangeInSync { members, version_back, quorum }),
        1 => member.clone().prop_map(|to| Step::HandOver { to }),
        1 => (member.clone(), prop::bool::weighted(0.3)).prop_map(|(member, unclean)| Step::Elect { member, unclean }),
        1 => member.clone().prop_map(|member| Step::Remove { member }),
        1 => prop::collection::vec(member, 0..4).prop_map(|members| Step::NoteHolders { members }),
        1 => Just(Step::BeginAnew),
        1 => Just(Step::NewLeader),
    ];
    prop::collection::vec(step, 1..120)
}

/// A history under way: the state twice, changed by the same commands.
struct History {
    groups: GroupTable,
    twin: GroupTable,
    watch: MemberWatch,
    now: u64,
    processes: BTreeMap<MemberId, u32>,
    /// Whom each number was given to.
    given: BTreeMap<MemberId, String>,
    /// Epochs in which there was a master, with the master and its process.
    leaders: BTreeMap<u32, (MemberId, String)>,
}

impl History {
    fn new() -> Self {
        Self {
            groups: GroupTable::default(),
            twin: GroupTable::default(),
            watch: MemberWatch::new(0),
            now: 0,
            processes: BTreeMap::new(),
            given: BTreeMap::new(),
            leaders: BTreeMap::new(),
        }
    }

    fn group(&self) -> Option<&GroupRecord> {
        self.groups.get(&name())
    }

    fn apply(&mut self, command: GroupCommand) {
        let before = self.group().cloned();
        let reply = self.groups.apply(command.clone());
        // The other nameservers read the command from their logs.
        let copy: GroupCommand = serde_json::from_slice(&serde_json::to_vec(&command).unwrap()).unwrap();
        assert_eq!(self.twin.apply(copy), reply);
        assert_eq!(self.twin, self.groups);
        if let CommandReply::Joined(id) = reply {
            let incarnation = self.group().unwrap().members[&id].incarnation.clone();
            let holder = self.given.entry(id).or_insert_with(|| incarnation.clone());
            assert_eq!(*holder, incarnation, "a number was given twice");
        }
        self.check(before, &command, &reply);
    }

    fn check(&mut self, before: Option<GroupRecord>, command: &GroupCommand, reply: &CommandReply) {
        let Some(group) = self.group().cloned() else { return };
        if matches!(reply, CommandReply::Refused(_)) {
            assert_eq!(before.as_ref(), Some(&group), "a refusal changed something");
        }
        assert!(group.in_sync.iter().all(|id| group.members.contains_key(id)));
        assert_eq!(group.in_sync.is_empty(), group.recovery.is_some(), "{group:?}");
        assert!(group.master == 0 || group.in_sync.contains(&group.master), "{group:?}");
        assert_eq!(group.master == 0, group.master_process.is_empty());
        if group.master != 0 {
            let leader = (group.master, group.master_process.clone());
            let known = self.leaders.entry(group.epoch).or_insert_with(|| leader.clone());
            assert_eq!(*known, leader, "two masters in one epoch");
        }
        let Some(before) = before else { return };
        assert!(group.epoch >= before.epoch);
        let is_same =
            GroupRecord { version: 0, ..group.clone() } == GroupRecord { version: 0, ..before.clone() };
        assert_eq!(group.version > before.version, !is_same, "versions tell states apart");
        if let (GroupCommand::Appoint { .. }, CommandReply::Done) = (command, reply) {
            assert!(before.in_sync.contains(&group.master) || before.recovery.is_some());
            assert!(before.master == 0 && group.epoch > self.epoch_before(group.epoch));
            assert!(before.quorum || before.recovery.is_some() || group.in_sync.is_subset(&before.in_sync));
        }
    }

    fn epoch_before(&self, epoch: u32) -> u32 {
        self.leaders.range(..epoch).next_back().map_or(0, |(epoch, _)| *epoch)
    }

    fn member(&self, number: u8) -> Option<MemberId> {
        let members: Vec<MemberId> = self.group()?.members.keys().copied().collect();
        members.get(usize::from(number) % members.len().max(1)).copied()
    }

    fn step(&mut self, step: Step) -> Option<()> {
        match step {
            Step::Join { folder: number, promised, known } => {
                let known_members = known.iter().map(|number| format!("f{number}")).collect();
                let joiner = JoiningMember { promised, known_members, ..folder(&format!("f{number}")) };
                let command = joining(&self.groups, &name(), &joiner).unwrap()?;
                self.apply(command);
            }
            Step::Report { member, end, promises, restarts, fit } => {
                let id = self.member(member)?;
                let epoch = self.group()?.epoch;
                let process = self.processes.entry(id).or_default();
                *process += u32::from(restarts);
                let said = MemberSighting {
                    at: self.now,
                    process: format!("{id}-{process}"),
                    promised: if promises { epoch } else { epoch.saturating_sub(1) },
                    last_epoch: epoch.saturating_sub(1),
                    end,
                    confirmed: (0, 0),
                    in_sync: BTreeSet::new(),
                    unfit: if fit { String::new() } else { "unfit".into() },
                };
                self.watch.saw(&name(), id, said);
            }
            Step::Pause(pause) => self.now += pause,
            Step::Decide => {
                for command in decide(&self.groups, &mut self.watch, self.now, &POLICY) {
                    self.apply(command);
                }
            }
            Step::DecideTwice => {
                // Two leaders that overlap: what the second one decided goes by a state that is gone.
                let first = decide(&self.groups, &mut self.watch, self.now, &POLICY);
                let second = decide(&self.groups, &mut self.watch.clone(), self.now, &POLICY);
                first.into_iter().chain(second).for_each(|command| self.apply(command));
            }
            Step::ChangeInSync { members, version_back, quorum } => {
                let ids: Vec<MemberId> = members.iter().filter_map(|number| self.member(*number)).collect();
                let group = self.group()?;
                let version = group.version.saturating_sub(version_back);
                let (epoch, member, in_sync) = (group.epoch, group.master, set(&ids));
                self.apply(GroupCommand::ChangeInSync {
                    name: name(),
                    version,
                    epoch,
                    member,
                    in_sync,
                    quorum,
                });
            }
            Step::HandOver { to } => {
                let to = self.member(to)?;
                let (epoch, master) = (self.group()?.epoch, self.group()?.master);
                let time = (self.now, &POLICY);
                self.apply(hand_over(&self.groups, &self.watch, time, &name(), (epoch, master, to)).ok()?);
            }
            Step::Elect { member, unclean } => {
                let wish = (self.member(member)?, unclean, true);
                let time = (self.now, &POLICY);
                self.apply(elect_master(&self.groups, &self.watch, time, &name(), wish).ok()??);
            }
            Step::Remove { member } => {
                let id = self.member(member)?;
                let time = (self.now, &POLICY);
                self.apply(remove_member(&self.groups, &self.watch, time, &name(), id).ok()?);
            }
            Step::NoteHolders { members } => {
                let holders = members.iter().filter_map(|number| self.member(*number)).collect();
                let (epoch, master) = (self.group()?.epoch, self.group()?.master);
                self.apply(GroupCommand::NoteHolders { name: name(), epoch, master, holders });
            }
            Step::BeginAnew => {
                let time = (self.now, &POLICY);
                self.apply(begin_anew(&self.groups, &self.watch, time, &name()).ok()?);
            }
            Step::NewLeader => self.watch = MemberWatch::new(self.now),
        }
        Some(())
    }

    /// All members are there and do what they should: a master must come of it.
    fn settle(&mut self) {
        for _ in 0..60 {
            self.now += 100;
            let ids: Vec<MemberId> =
                self.group().map_or_else(Vec::new, |group| group.members.keys().copied().collect());
            for id in ids {
                let epoch = self.group().unwrap().epoch;
                let process = format!("{id}-{}", self.processes.entry(id).or_default());
                let said = MemberSighting {
                    at: self.now,
                    process,
                    promised: epoch,
                    last_epoch: 0,
                    end: 0,
                    confirmed: (0, 0),
                    in_sync: BTreeSet::new(),
                    unfit: String::new(),
                };
                self.watch.saw(&name(), id, said);
            }
            for command in decide(&self.groups, &mut self.watch, self.now, &POLICY) {
                self.apply(command);
            }
        }
        if let Some(group) = self.group() {
            let rules = group.master != 0 || !group.missing().is_empty();
            assert!(rules, "no master comes of it: {group:?}");
            let text = waiting_for(group, &self.watch, self.now, &POLICY);
            assert_eq!(text.is_empty(), group.master != 0, "{text}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens_there_is_one_master_per_epoch_from_the_in_sync_set(steps in steps()) {
        let mut history = History::new();
        for step in steps {
            // A step that makes no sense in its state changes nothing.
            let _ = history.step(step);
        }
        history.settle();
        let text = serde_json::to_string(&history.groups).unwrap();
        prop_assert_eq!(serde_json::from_str::<GroupTable>(&text).unwrap(), history.groups);
    }
}
