//! Random histories of three members whose controller loses its data and is given copies of them, again and again: no member follows a
//! master that lacks what was acknowledged, unless an operator says so.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{POLICY, folder, name};
use crate::*;

#[derive(Debug, Clone)]
enum Step {
    Report(MemberId),
    Decide(u64),
    Acknowledge(MemberId),
    TakeIn {
        master: MemberId,
        slave: MemberId,
        quorum: bool,
    },
    LeaveOut {
        master: MemberId,
        slave: MemberId,
        quorum: bool,
    },
    /// These members are there for a while, and no others.
    Run {
        there: Vec<MemberId>,
    },
    NewLeader,
    Copy,
    Restore(usize),
    Lose,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let member = || 1..4_u64;
    let change = || (member(), member(), prop::bool::weighted(0.1));
    let step = prop_oneof![
        12 => member().prop_map(Step::Report),
        6 => prop_oneof![Just(0_u64), Just(300), Just(2500)].prop_map(Step::Decide),
        6 => member().prop_map(Step::Acknowledge),
        5 => change().prop_map(|(master, slave, quorum)| Step::TakeIn { master, slave, quorum }),
        4 => change().prop_map(|(master, slave, quorum)| Step::LeaveOut { master, slave, quorum }),
        12 => prop::sample::subsequence(vec![1, 2, 3], 1..4).prop_map(|there| Step::Run { there }),
        2 => Just(Step::NewLeader),
        2 => Just(Step::Copy),
        2 => (0..4_usize).prop_map(Step::Restore),
        1 => Just(Step::Lose),
    ];
    prop::collection::vec(step, 1..40)
}

/// What happens to the controller, and whether the third member is there after it.
fn controller_steps() -> impl Strategy<Value = Vec<(Step, bool)>> {
    let step = prop_oneof![
        2 => Just(Step::NewLeader),
        3 => Just(Step::Copy),
        3 => (0..4_usize).prop_map(Step::Restore),
        1 => Just(Step::Lose),
    ];
    prop::collection::vec((step, any::<bool>()), 1..20)
}

/// A member with what it remembers.
#[derive(Debug, Clone, Default)]
struct Folder {
    /// Epoch and number of each record.
    log: Vec<(u32, u32)>,
    promised: u32,
    mark: Option<StateMark>,
    /// The state that it goes by.
    view: Option<GroupRecord>,
}

impl Folder {
    fn joiner(&self, id: MemberId) -> JoiningMember {
        let members = self.view.iter().flat_map(|view| view.members.values());
        JoiningMember {
            promised: self.promised,
            last_epoch: self.log.last().map_or(0, |(epoch, _)| *epoch),
            end: self.log.len() as u64,
            known_members: members.map(|member| member.incarnation.clone()).collect(),
            mark: self.mark.clone(),
            ..folder(&format!("f{id}"))
        }
    }

    /// Remembers a state before it goes by it.
    fn take(&mut self, cluster_id: &str, state: &GroupRecord) {
        let is_older = |view: &GroupRecord| view.lineage == state.lineage && view.version > state.version;
        if self.view.as_ref().is_some_and(is_older) {
            return;
        }
        let mut mark = self.mark.take().unwrap_or_default();
        let newest = TenureState { tenure: state.tenure.clone(), version: state.version };
        (mark.cluster_id, mark.lineage) = (cluster_id.to_owned(), state.lineage.clone());
        (mark.tenure, mark.version) = (newest.tenure.clone(), newest.version);
        if !state.in_sync.is_empty() {
            let set_of = (state.epoch, state.set_version);
            if (&mark.set_tenure, mark.set_of) != (&state.set_tenure, set_of) {
                (mark.set_tenure, mark.set_of) = (state.set_tenure.clone(), set_of);
                mark.in_sync = state.in_sync.iter().map(|id| state.members[id].incarnation.clone()).collect();
            }
            mark.origins = state.origins().into_iter().chain([newest]).collect();
        }
        self.mark = Some(mark);
        self.promised = self.promised.max(state.epoch);
        self.view = Some(state.clone());
    }
}

fn number(group: &GroupRecord, folder: MemberId) -> Option<MemberId> {
    group.member_of(&format!("f{folder}"))
}

struct History {
    groups: GroupTable,
    watch: MemberWatch,
    now: u64,
    folders: [Folder; 3],
    /// Numbers of the records that were acknowledged.
    acknowledged: BTreeSet<u32>,
    records: u32,
    copies: Vec<GroupTable>,
    tenures: u32,
}

impl History {
    fn new() -> Self {
        let mut history = Self {
            groups: GroupTable::default(),
            watch: MemberWatch::new(0),
            now: 0,
            folders: Default::default(),
            acknowledged: BTreeSet::new(),
            records: 0,
            copies: Vec::new(),
            tenures: 0,
        };
        history.lead();
        (1..=3).chain(1..=3).for_each(|id| history.report(id));
        history
    }

    fn lead(&mut self) {
        self.tenures += 1;
        let tenure = format!("t{}", self.tenures);
        assert_eq!(self.groups.apply(GroupCommand::BeginTenure { tenure }), CommandReply::Done);
        self.watch = MemberWatch::new(self.now);
    }

    fn folder(&mut self, id: MemberId) -> &mut Folder {
        &mut self.folders[usize::try_from(id).unwrap() - 1]
    }

    fn group(&self) -> Option<&GroupRecord> {
        self.groups.get(&name())
    }

    /// The number that the controller has given a folder.
    fn id_of(&self, folder: MemberId) -> Option<MemberId> {
        number(self.group()?, folder)
    }

    fn report(&mut self, folder: MemberId) {
        let joiner = self.folder(folder).joiner(folder);
        if let Some(command) = joining(&self.groups, &name(), &joiner).unwrap()
            && matches!(self.groups.apply(command), CommandReply::Refused(_))
        {
            return;
        }
        let id = self.id_of(folder).unwrap();
        let said = MemberSighting {
            at: self.now,
            process: joiner.process.clone(),
            promised: joiner.promised,
            last_epoch: joiner.last_epoch,
            end: joiner.end,
            confirmed: (0, 0),
            in_sync: BTreeSet::new(),
            unfit: String::new(),
        };
        self.watch.saw(&name(), id, said);
        self.take(folder);
    }

    fn take(&mut self, folder: MemberId) {
        let (cluster_id, state) = (self.groups.cluster_id().to_owned(), self.group().unwrap().clone());
        self.folder(folder).take(&cluster_id, &state);
    }

    fn decide(&mut self, pause: u64) {
        self.now += pause;
        for command in decide(&self.groups, &mut self.watch, self.now, &POLICY) {
            self.groups.apply(command);
        }
    }

    /// The state by which a folder leads, with the folders in sync.
    fn led(&mut self, folder: MemberId) -> Option<(GroupRecord, BTreeSet<MemberId>)> {
        let view = self.folder(folder).view.clone()?;
        let is_in_sync = |id: &u64| number(&view, *id).is_some_and(|id| view.in_sync.contains(&id));
        let folders: BTreeSet<MemberId> = (1..=3).filter(is_in_sync).collect();
        let leads = Some(view.master) == number(&view, folder) && self.folder(folder).promised == view.epoch;
        leads.then_some((view, folders))
    }

    /// Whether a folder follows that master, or is it.
    fn follows(&mut self, folder: MemberId, master: MemberId, epoch: u32) -> bool {
        let Folder { promised, view, .. } = self.folder(folder);
        let knows = |view: &GroupRecord| view.epoch == epoch && Some(view.master) == number(view, master);
        *promised == epoch && view.as_ref().is_some_and(knows)
    }

    fn acknowledge(&mut self, master: MemberId) -> Option<()> {
        let (view, folders) = self.led(master)?;
        let log = self.folder(master).log.clone();
        let mut reached = folders.clone();
        reached.retain(|id| self.follows(*id, master, view.epoch) && self.folder(*id).log == log);
        let enough = if view.quorum { folders.len() / 2 + 1 } else { folders.len() };
        if reached.len() < enough {
            return None;
        }
        self.records += 1;
        let record = (view.epoch, self.records);
        reached.into_iter().for_each(|id| self.folder(id).log.push(record));
        self.acknowledged.insert(self.records);
        Some(())
    }

    fn change(&mut self, master: MemberId, slave: MemberId, takes_in: bool, quorum: bool) -> Option<()> {
        let (view, mut folders) = self.led(master)?;
        if slave == master || takes_in && !self.follows(slave, master, view.epoch) {
            return None;
        }
        if takes_in {
            self.copy_log(master, slave);
            folders.insert(slave);
            // It may come about.
            self.folder(master).mark.as_mut()?.in_sync.insert(format!("f{slave}"));
        } else {
            folders.remove(&slave);
        }
        let in_sync = folders.iter().filter_map(|id| number(&view, *id)).collect();
        let (version, epoch, member) = (view.version, view.epoch, view.master);
        let change = GroupCommand::ChangeInSync { name: name(), version, epoch, member, in_sync, quorum };
        let is_known = self.group().is_some_and(|group| group.lineage == view.lineage);
        if is_known && self.groups.apply(change) == CommandReply::Done {
            self.take(master);
        }
        Some(())
    }

    /// What a slave holds more than its master it gives up.
    fn copy_log(&mut self, master: MemberId, slave: MemberId) {
        let log = self.folder(master).log.clone();
        let lacking: Vec<u32> =
            self.lacking(&self.folders[usize::try_from(slave).unwrap() - 1].log.clone(), &log);
        assert!(lacking.is_empty(), "{slave} gives up {lacking:?} for {master}: {:?}", self.group());
        self.folder(slave).log = log;
    }

    fn lacking(&self, of: &[(u32, u32)], log: &[(u32, u32)]) -> Vec<u32> {
        let of = of.iter().filter(|record| !log.contains(record)).map(|(_, number)| *number);
        of.filter(|number| self.acknowledged.contains(number)).collect()
    }

    fn run(&mut self, there: &[MemberId]) {
        for pause in [2500, 300, 300] {
            self.now += pause;
            there.iter().for_each(|id| self.report(*id));
            self.decide(0);
        }
        there.iter().for_each(|id| self.report(*id));
        let master = self.group().map_or(0, |group| group.master);
        let Some(master) = there.iter().copied().find(|id| master > 0 && self.id_of(*id) == Some(master))
        else {
            return;
        };
        for slave in (1..=3).filter(|id| *id != master) {
            self.change(master, slave, there.contains(&slave), false);
            there.iter().for_each(|id| self.report(*id));
        }
        self.acknowledge(master);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Report(folder) => self.report(folder),
            Step::Decide(pause) => self.decide(pause),
            Step::Acknowledge(master) => drop(self.acknowledge(master)),
            Step::TakeIn { master, slave, quorum } => drop(self.change(master, slave, true, quorum)),
            Step::LeaveOut { master, slave, quorum } => drop(self.change(master, slave, false, quorum)),
            Step::Run { there } => self.run(&there),
            Step::NewLeader => self.lead(),
            Step::Copy => self.copies.push(self.groups.clone()),
            Step::Restore(which) => {
                let count = self.copies.len();
                if let Some(copy) =
                    count.checked_sub(1 + which % count.max(1)).and_then(|at| self.copies.get(at))
                {
                    self.groups = copy.clone();
                    self.lead();
                }
            }
            Step::Lose => {
                self.groups = GroupTable::default();
                self.lead();
            }
        }
    }

    /// Everybody is there for a while.
    fn settle(&mut self) {
        for _ in 0..12 {
            (1..=3).for_each(|id| self.report(id));
            self.decide(300);
        }
        let Some(group) = self.group().cloned() else { return };
        if group.master == 0 {
            assert!(group.is_split, "{group:?}");
            return;
        }
        let master = (1..=3).find(|id| self.id_of(*id) == Some(group.master)).unwrap();
        let log = self.folder(master).log.clone();
        for slave in (1..=3).filter(|id| *id != master) {
            self.copy_log(master, slave);
        }
        let all: Vec<(u32, u32)> = self.folders.iter().flat_map(|one| one.log.clone()).collect();
        assert!(self.lacking(&all, &log).is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_copies_are_restored_nobody_gives_up_what_was_acknowledged(steps in steps()) {
        let mut history = History::new();
        steps.into_iter().for_each(|step| history.step(step));
        history.settle();
    }

    /// Members 1 and 2 run all the time, and member 3 now and then.
    #[test]
    fn running_members_put_any_copy_right_without_an_operator(steps in controller_steps()) {
        let mut history = History::new();
        history.run(&[1, 2, 3]);
        for (step, has_third) in steps {
            let there: &[MemberId] = if has_third { &[1, 2, 3] } else { &[1, 2] };
            history.run(there);
            history.step(step);
            history.run(there);
            let group = history.group().unwrap();
            prop_assert!(group.master != 0 && !group.is_split && group.in_sync.len() > 1, "{group:?}");
        }
        history.settle();
        prop_assert!(history.group().unwrap().master != 0);
    }
}

/// Says whether an operator has to decide after these steps, and all members being there.
fn is_split_after(steps: &[Step]) -> bool {
    let mut history = History::new();
    steps.iter().cloned().for_each(|step| history.step(step));
    history.settle();
    history.group().unwrap().is_split
}

fn there(ids: &[MemberId]) -> Step {
    Step::Run { there: ids.to_vec() }
}

/// The controller given a copy knows neither history: only its members tell that there are two.
#[test]
fn two_histories_that_only_members_know_wait_for_an_operator() {
    let steps = [there(&[1, 3]), Step::Copy, there(&[1, 2]), Step::Restore(0), there(&[3]), Step::Restore(0)];
    assert!(is_split_after(&steps));
    let steps = [there(&[1, 3]), Step::Copy, there(&[1, 2]), Step::Restore(0), there(&[3]), Step::Lose];
    assert!(is_split_after(&steps));
}

/// Member 3 acted upon a recovery of which the copy knows nothing, and never had its set.
#[test]
fn who_heard_of_a_recovery_does_not_hide_the_set_of_the_others() {
    let steps = [
        there(&[1, 2, 3]),
        Step::Copy,
        there(&[1]),
        Step::Restore(0),
        Step::Report(1),
        Step::Report(3),
        Step::Restore(0),
        Step::Report(3),
        Step::Decide(0),
    ];
    assert!(!is_split_after(&steps));
}
