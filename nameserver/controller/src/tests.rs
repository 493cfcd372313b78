//! Each rule on its own.
#![allow(clippy::unwrap_used)]

mod copies;
mod loss;
mod lost;
mod model;
mod parted;

use std::collections::BTreeSet;

use super::*;

const POLICY: ElectionPolicy =
    ElectionPolicy { master_timeout: 2000, election_patience: 300, cautious_until: 0 };

fn name() -> GroupName {
    GroupName { cluster: "c".into(), group: "g".into() }
}

/// The data folder `incarnation`, run by a process of the same name.
fn folder(incarnation: &str) -> JoiningMember {
    JoiningMember {
        incarnation: incarnation.into(),
        process: incarnation.into(),
        host: incarnation.into(),
        port: 1,
        replication_address: format!("{incarnation}:2"),
        last_epoch: 0,
        promised: 0,
        end: 0,
        known_members: Vec::new(),
        mark: None,
    }
}

fn join(groups: &mut GroupTable, joiner: JoiningMember) -> CommandReply {
    groups.apply(GroupCommand::Join { name: name(), joiner })
}

/// A group of the members 1 to `size`, all in sync, member 1 the master of epoch 1; and a leader that heard them at 0.
struct Stage {
    groups: GroupTable,
    watch: MemberWatch,
    now: u64,
}

fn set(ids: &[MemberId]) -> BTreeSet<MemberId> {
    ids.iter().copied().collect()
}

impl Stage {
    fn new(size: u64) -> Self {
        let mut stage = Self { groups: GroupTable::default(), watch: MemberWatch::new(0), now: 0 };
        for id in 1..=size {
            assert_eq!(join(&mut stage.groups, folder(&format!("f{id}"))), CommandReply::Joined(id));
        }
        stage.in_sync(&(1..=size).collect::<Vec<_>>(), false);
        for id in 1..=size {
            stage.hear(id);
        }
        stage
    }

    fn group(&self) -> &GroupRecord {
        self.groups.get(&name()).unwrap()
    }

    fn in_sync(&mut self, ids: &[MemberId], quorum: bool) {
        let group = self.group();
        let (version, epoch, member) = (group.version, group.epoch, group.master);
        let in_sync = set(ids);
        let change = GroupCommand::ChangeInSync { name: name(), version, epoch, member, in_sync, quorum };
        assert_eq!(self.groups.apply(change), CommandReply::Done);
    }

    /// A report that agrees with the state, from a fit member with an empty log.
    fn said(&self, id: MemberId) -> MemberSighting {
        let process = format!("f{id}");
        let promised = self.group().epoch;
        MemberSighting {
            at: self.now,
            process,
            promised,
            last_epoch: 1,
            end: 100,
            confirmed: (0, 0),
            in_sync: BTreeSet::new(),
            unfit: String::new(),
        }
    }

    fn hear(&mut self, id: MemberId) {
        let said = self.said(id);
        self.watch.saw(&name(), id, said);
    }

    fn hear_with(&mut self, id: MemberId, change: impl FnOnce(&mut MemberSighting)) {
        let mut said = self.said(id);
        change(&mut said);
        self.watch.saw(&name(), id, said);
    }

    /// Decides after `pause` and carries that out. Returns what was decided.
    fn decide(&mut self, pause: u64) -> Option<GroupCommand> {
        self.now += pause;
        let mut commands = decide(&self.groups, &mut self.watch, self.now, &POLICY);
        assert!(commands.len() <= 1);
        let command = commands.pop()?;
        assert_eq!(self.groups.apply(command.clone()), CommandReply::Done);
        Some(command)
    }

    fn begin(&mut self, wishes: ElectionWishes) {
        let ElectionWishes { excluded, preferred } = wishes;
        let version = self.group().version;
        let begin = GroupCommand::BeginElection {
            name: name(),
            version,
            above: 0,
            excluded,
            preferred,
            released: false,
        };
        assert_eq!(self.groups.apply(begin), CommandReply::Done);
        assert_eq!(self.decide(0), None);
    }

    fn waiting_for(&self) -> String {
        waiting_for(self.group(), &self.watch, self.now, &POLICY)
    }
}

fn refusal(reply: CommandReply) -> CommandRefusal {
    match reply {
        CommandReply::Refused(refusal) => refusal,
        other => panic!("{other:?} is no refusal"),
    }
}

#[test]
fn the_first_member_rules_and_others_follow() {
    let mut groups = GroupTable::default();
    let first =
        JoiningMember { promised: 4, last_epoch: 3, end: 9, known_members: vec!["a".into()], ..folder("a") };
    assert_eq!(join(&mut groups, first), CommandReply::Joined(1));
    assert_eq!(join(&mut groups, folder("b")), CommandReply::Joined(2));
    let group = groups.get(&name()).unwrap();
    assert_eq!((group.epoch, group.master, group.master_process.as_str()), (5, 1, "a"));
    assert_eq!((group.in_sync.clone(), group.next_id, group.version), (set(&[1]), 3, 2));

    let moved = JoiningMember { host: "elsewhere".into(), ..folder("b") };
    assert_eq!(joining(&groups, &name(), &folder("b")), Ok(None));
    assert!(joining(&groups, &name(), &moved).unwrap().is_some());
    assert_eq!(join(&mut groups, moved.clone()), CommandReply::Joined(2));
    assert_eq!(join(&mut groups, moved), CommandReply::Joined(2));
    let group = groups.get(&name()).unwrap();
    assert_eq!((group.members[&2].host.as_str(), group.version), ("elsewhere", 3));
    assert_eq!(refusal(join(&mut groups, folder(""))).why, RefusalReason::Invalid);
}

#[test]
fn a_removed_members_number_is_not_given_again() {
    let mut stage = Stage::new(3);
    stage.in_sync(&[1], false);
    stage.now = 2000;
    stage.hear(1);
    let request =
        |stage: &Stage, id| remove_member(&stage.groups, &stage.watch, (stage.now, &POLICY), &name(), id);
    assert!(request(&stage, 3).unwrap_err().text.contains("is there"));
    stage.now = 2001;
    let remove = request(&stage, 3).unwrap();
    assert_eq!(stage.groups.apply(remove), CommandReply::Done);
    assert_eq!(join(&mut stage.groups, folder("f3")), CommandReply::Joined(4));
    assert!(request(&stage, 1).unwrap_err().text.contains("is the master"));
    stage.in_sync(&[1, 2], false);
    assert!(request(&stage, 2).unwrap_err().text.contains("in-sync set {1, 2}"));
    assert_eq!(request(&stage, 9).unwrap_err().why, RefusalReason::Unknown);
    // A new leader takes no member's silence for death.
    stage.watch = MemberWatch::new(stage.now);
    assert!(request(&stage, 4).unwrap_err().text.contains("is there"));
}

#[test]
fn only_the_master_changes_the_set_and_only_from_the_newest_state() {
    let mut stage = Stage::new(3);
    let version = stage.group().version;
    let mut change = |version, epoch, member, ids: &[u64]| {
        let in_sync = set(ids);
        let quorum = false;
        let change = GroupCommand::ChangeInSync { name: name(), version, epoch, member, in_sync, quorum };
        stage.groups.apply(change)
    };
    assert_eq!(refusal(change(version, 1, 2, &[1, 2])).why, RefusalReason::NotAllowed);
    assert_eq!(refusal(change(version, 2, 1, &[1, 2])).why, RefusalReason::NotAllowed);
    assert_eq!(refusal(change(version - 1, 1, 1, &[1, 2])).why, RefusalReason::Stale);
    assert_eq!(refusal(change(version, 1, 1, &[2, 3])).why, RefusalReason::Invalid);
    assert_eq!(refusal(change(version, 1, 1, &[])).why, RefusalReason::Invalid);
    assert_eq!(refusal(change(version, 1, 1, &[1, 9])).why, RefusalReason::Unknown);
    assert_eq!(change(version, 1, 1, &[1, 2]), CommandReply::Done);
    assert_eq!(refusal(change(version, 1, 1, &[1])).why, RefusalReason::Stale);
    assert_eq!((stage.group().in_sync.clone(), stage.group().version), (set(&[1, 2]), version + 1));
    stage.begin(ElectionWishes::default());
    let (version, epoch) = (stage.group().version, stage.group().epoch);
    let late = GroupCommand::ChangeInSync {
        name: name(),
        version,
        epoch,
        member: 0,
        in_sync: set(&[1]),
        quorum: false,
    };
    assert_eq!(refusal(stage.groups.apply(late)).why, RefusalReason::NotAllowed);
}

#[test]
fn a_silent_master_is_replaced_by_the_most_complete_member() {
    let mut stage = Stage::new(3);
    stage.now = 1500;
    stage.hear(2);
    stage.hear(3);
    assert_eq!(stage.decide(500), None);
    assert!(matches!(stage.decide(1), Some(GroupCommand::BeginElection { excluded: None, .. })));
    assert_eq!(
        (stage.group().epoch, stage.group().master, stage.group().in_sync.clone()),
        (2, 0, set(&[1, 2, 3]))
    );
    // No member has promised the epoch yet.
    assert_eq!(stage.decide(0), None);
    stage.hear_with(2, |said| said.end = 90);
    assert_eq!(stage.decide(100), None);
    stage.hear(3);
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 3, .. })));
    let group = stage.group();
    assert_eq!((group.master, group.master_process.as_str(), group.in_sync.clone()), (3, "f3", set(&[2, 3])));
}

#[test]
fn a_master_that_nobody_can_replace_stays() {
    let mut stage = Stage::new(2);
    stage.in_sync(&[1], false);
    stage.now = 60_000;
    stage.hear(2);
    assert_eq!(stage.decide(0), None);
    let text = stage.waiting_for();
    assert!(
        text.contains("member 1 (f1:1)") && text.contains("60 s") && text.contains("--unclean"),
        "{text}"
    );
    // Neither does a member in sync help that must not rule.
    stage.in_sync(&[1, 2], false);
    stage.hear_with(2, |said| said.unfit = "read-only".into());
    assert_eq!(stage.decide(0), None);
    stage.hear(2);
    assert_eq!(stage.waiting_for(), "");
    assert!(stage.decide(0).is_some());
}

#[test]
fn a_leader_that_just_took_over_gives_everybody_time() {
    let mut stage = Stage::new(2);
    stage.now = 60_000;
    stage.watch = MemberWatch::new(stage.now);
    stage.hear(2);
    assert_eq!(stage.decide(2000), None);
    stage.hear(2);
    assert!(stage.decide(1).is_some());

    let mut stage = Stage::new(2);
    stage.now = 60_000;
    stage.hear(2);
    stage.watch.was_deaf(stage.now);
    assert_eq!(stage.decide(2000), None);
}

#[test]
fn a_process_that_was_not_elected_does_not_rule() {
    let mut stage = Stage::new(1);
    stage.hear_with(1, |said| said.process = "second".into());
    assert!(matches!(stage.decide(10), Some(GroupCommand::BeginElection { .. })));
    stage.hear_with(1, |said| said.process = "second".into());
    assert!(matches!(stage.decide(10), Some(GroupCommand::Appoint { master: 1, .. })));
    assert_eq!((stage.group().epoch, stage.group().master_process.as_str()), (2, "second"));
}

#[test]
fn an_unfit_master_makes_way_if_somebody_can_take_over() {
    let mut stage = Stage::new(2);
    stage.hear_with(2, |said| said.unfit = "full".into());
    stage.hear_with(1, |said| said.unfit = "read-only".into());
    assert_eq!(stage.decide(0), None);
    stage.hear(2);
    let begun = stage.decide(0);
    assert!(matches!(begun, Some(GroupCommand::BeginElection { excluded: Some(1), .. })), "{begun:?}");
    stage.hear(1);
    stage.hear_with(2, |said| said.end = 90);
    // Without quorum every member in sync holds what was acknowledged, so less is enough.
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 2, .. })));
    assert_eq!(stage.group().in_sync, set(&[1, 2]));
}

#[test]
fn patience_ends_and_the_lowest_id_wins_among_equals() {
    let mut stage = Stage::new(3);
    stage.begin(ElectionWishes::default());
    stage.hear(3);
    stage.hear(2);
    assert_eq!(stage.decide(299), None);
    assert!(matches!(stage.decide(1), Some(GroupCommand::Appoint { master: 2, .. })));
    // Member 1 was there, but did not promise the epoch in time.
    assert_eq!(stage.group().in_sync, set(&[2, 3]));
}

#[test]
fn wishes_are_respected_as_far_as_nothing_is_lost() {
    let mut stage = Stage::new(3);
    stage.begin(ElectionWishes { excluded: Some(1), preferred: Some(3) });
    stage.hear(1);
    stage.hear(2);
    stage.hear_with(3, |said| said.end = 90);
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 3, .. })));

    let mut stage = Stage::new(3);
    stage.in_sync(&[1, 2, 3], true);
    stage.begin(ElectionWishes { excluded: None, preferred: Some(3) });
    stage.hear(1);
    stage.hear(2);
    stage.hear_with(3, |said| said.end = 90);
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 1, .. })));
    assert_eq!(stage.group().in_sync, set(&[1, 2, 3]));

    // The excluded member is better than none: after a while, or at once when there never is another one.
    let mut stage = Stage::new(2);
    stage.begin(ElectionWishes { excluded: Some(1), preferred: None });
    stage.now = 1990;
    stage.hear(1);
    assert_eq!(stage.decide(10), None);
    assert!(matches!(stage.decide(1), Some(GroupCommand::Appoint { master: 1, .. })));
    let mut stage = Stage::new(1);
    stage.begin(ElectionWishes { excluded: Some(1), preferred: None });
    stage.hear(1);
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 1, .. })));
}

#[test]
fn a_quorum_is_heard_and_nobody_who_lags_behind_it_wins() {
    let mut stage = Stage::new(3);
    stage.in_sync(&[1, 2, 3], true);
    stage.begin(ElectionWishes::default());
    stage.now = 3000;
    stage.hear(2);
    assert_eq!(stage.decide(0), None);
    let text = stage.waiting_for();
    assert!(text.contains("only 1") && text.contains("2 are needed") && text.contains("f1:1"), "{text}");
    // Member 3 was heard, but it is ahead and must not rule: what only it and member 1 hold may be acknowledged.
    stage.hear_with(3, |said| {
        said.end = 101;
        said.unfit = "read-only".into();
    });
    assert_eq!(stage.decide(0), None);
    stage.hear_with(3, |said| said.unfit = "read-only".into());
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 2, .. })));
    assert_eq!(stage.group().in_sync, set(&[1, 2, 3]));
    // Alone it could not be replaced: too few would be heard.
    stage.now = 10_000;
    stage.hear(1);
    assert_eq!(stage.decide(0), None);
    stage.hear(3);
    assert!(stage.decide(0).is_some());
}

#[test]
fn a_master_hands_over_only_to_somebody_in_sync() {
    let mut stage = Stage::new(3);
    stage.in_sync(&[1, 2], false);
    let request = |stage: &Stage, epoch, member, to| {
        hand_over(&stage.groups, &stage.watch, (stage.now, &POLICY), &name(), (epoch, member, to))
    };
    assert!(request(&stage, 1, 2, 0).unwrap_err().text.contains("not the master"));
    assert!(request(&stage, 2, 1, 0).unwrap_err().text.contains("not the master"));
    assert!(request(&stage, 1, 1, 3).unwrap_err().text.contains("not in the in-sync set"));
    stage.hear_with(2, |said| said.unfit = "full".into());
    assert!(request(&stage, 1, 1, 2).unwrap_err().text.contains("full"));
    assert!(request(&stage, 1, 1, 0).unwrap_err().text.contains("no member can take over"));
    stage.hear(2);
    let command = request(&stage, 1, 1, 2).unwrap();
    assert_eq!(stage.groups.apply(command.clone()), CommandReply::Done);
    assert_eq!(refusal(stage.groups.apply(command)).why, RefusalReason::Stale);
    let group = stage.group();
    let wishes = ElectionWishes { excluded: Some(1), preferred: Some(2) };
    assert_eq!((group.epoch, group.master, group.released, group.wishes), (2, 0, true, wishes));
    stage.now = 5000;
    assert!(request(&stage, 2, 0, 0).is_err());
}

#[test]
fn administrators_elect_cleanly_or_not() {
    let mut stage = Stage::new(3);
    stage.in_sync(&[1, 2], false);
    let request = |stage: &Stage, member, unclean| {
        elect_master(&stage.groups, &stage.watch, (stage.now, &POLICY), &name(), (member, unclean, false))
    };
    assert_eq!(request(&stage, 1, false), Ok(None));
    assert!(request(&stage, 3, false).unwrap_err().text.contains("--unclean"));
    assert_eq!(request(&stage, 9, true).unwrap_err().why, RefusalReason::Unknown);
    assert!(matches!(
        request(&stage, 2, false),
        Ok(Some(GroupCommand::BeginElection { preferred: Some(2), excluded: None, released: false, .. }))
    ));
    assert!(matches!(
        request(&stage, 0, false),
        Ok(Some(GroupCommand::BeginElection { preferred: None, excluded: Some(1), .. }))
    ));
    stage.now = 2001;
    assert!(request(&stage, 2, false).unwrap_err().text.contains("not there"));
    assert!(request(&stage, 3, true).unwrap_err().text.contains("not there"));
    stage.hear_with(3, |said| said.promised = 1);
    let force = request(&stage, 3, true).unwrap().unwrap();
    assert_eq!(stage.groups.apply(force), CommandReply::Done);
    assert_eq!((stage.group().master, stage.group().in_sync.clone()), (0, set(&[3])));
    assert_eq!(stage.decide(0), None);
    stage.hear(3);
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 3, .. })));
    assert_eq!(request(&stage, 3, true), Ok(None));
}

#[test]
fn nobody_there_is_said_with_a_way_out() {
    let mut stage = Stage::new(2);
    stage.begin(ElectionWishes::default());
    stage.now = 2001;
    let text = stage.waiting_for();
    assert!(
        text.contains("no member of the in-sync set {1, 2}") && text.contains("member 2 (f2:1)"),
        "{text}"
    );
    assert!(text.contains("mqadmin electMaster --unclean"), "{text}");
    stage.hear_with(2, |said| said.unfit = "read-only".into());
    assert!(stage.waiting_for().contains("member 2 (f2:1) must not be elected: read-only"));
    stage.hear(2);
    assert_eq!(stage.waiting_for(), "");
}

#[test]
fn who_knows_a_later_epoch_is_led_into_one_that_is_later_still() {
    let mut stage = Stage::new(2);
    stage.hear_with(2, |said| said.promised = 7);
    assert!(stage.decide(0).is_some());
    assert_eq!((stage.group().epoch, stage.group().master), (8, 0));
    let version = stage.group().version;
    let last = GroupCommand::BeginElection {
        name: name(),
        version,
        above: u32::MAX,
        excluded: None,
        preferred: None,
        released: false,
    };
    assert_eq!(refusal(stage.groups.apply(last)).why, RefusalReason::NotAllowed);
    assert_eq!(stage.group().version, version);
}

/// A data folder of a group of `a`, `b` and `c` that the controller has forgotten.
fn survivor(incarnation: &str, last_epoch: u32, end: u64) -> JoiningMember {
    let known_members = ["a", "b", "c"].map(str::to_owned).to_vec();
    JoiningMember { last_epoch, promised: 6, end, known_members, ..folder(incarnation) }
}

#[test]
fn a_group_that_was_forgotten_waits_for_all_its_members() {
    let mut stage = Stage { groups: GroupTable::default(), watch: MemberWatch::new(0), now: 0 };
    for (id, joiner) in [(1, survivor("a", 5, 900)), (2, survivor("b", 6, 100)), (3, folder("d"))] {
        assert_eq!(join(&mut stage.groups, joiner), CommandReply::Joined(id));
        stage.hear_with(id, |said| said.process = format!("p{id}"));
    }
    assert_eq!((stage.group().epoch, stage.group().master), (7, 0));
    assert_eq!(stage.group().missing(), ["c"]);
    assert_eq!(stage.decide(1000), None);
    let text = stage.waiting_for();
    assert!(text.contains("1 of 3 are missing") && text.contains("electMaster --unclean"), "{text}");
    assert_eq!(join(&mut stage.groups, survivor("c", 6, 90)), CommandReply::Joined(4));
    assert_eq!(stage.decide(0), None);
    stage.hear_with(1, |said| (said.last_epoch, said.end) = (5, 900));
    stage.hear_with(2, |said| (said.last_epoch, said.end) = (6, 100));
    stage.hear_with(4, |said| (said.last_epoch, said.end, said.promised) = (6, 90, 6));
    assert_eq!(stage.decide(1000), None);
    stage.hear_with(4, |said| (said.last_epoch, said.end) = (6, 90));
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 2, .. })));
    assert_eq!((stage.group().in_sync.clone(), stage.group().recovery.clone()), (set(&[2]), None));

    // Members of another group's history would lose it here.
    let known_members = vec!["x".to_owned(), "y".to_owned()];
    let foreign = JoiningMember { known_members, last_epoch: 1, ..folder("x") };
    assert!(refusal(join(&mut stage.groups, foreign)).text.contains("controller.redb"));
    assert_eq!(
        join(&mut stage.groups, JoiningMember { known_members: vec!["b".into()], ..folder("e") }),
        CommandReply::Joined(5)
    );
}

#[test]
fn a_recovery_can_be_cut_short() {
    let mut groups = GroupTable::default();
    assert_eq!(join(&mut groups, survivor("a", 5, 900)), CommandReply::Joined(1));
    let mut stage = Stage { groups, watch: MemberWatch::new(0), now: 0 };
    let elect = |stage: &Stage, unclean| {
        elect_master(&stage.groups, &stage.watch, (stage.now, &POLICY), &name(), (1, unclean, true))
    };
    assert_eq!(elect(&stage, false), Ok(None));
    stage.hear(1);
    let force = elect(&stage, true).unwrap().unwrap();
    assert_eq!(stage.groups.apply(force), CommandReply::Done);
    stage.hear(1);
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 1, .. })));
}

#[test]
fn a_recovery_waits_for_whom_any_member_knows_and_for_what_was_confirmed() {
    let mut stage = Stage { groups: GroupTable::default(), watch: MemberWatch::new(0), now: 0 };
    let knows = |incarnation: &str, others: &[&str]| JoiningMember {
        known_members: others.iter().map(|other| (*other).to_owned()).collect(),
        ..folder(incarnation)
    };
    assert_eq!(join(&mut stage.groups, knows("f1", &["f1", "f2"])), CommandReply::Joined(1));
    assert_eq!(join(&mut stage.groups, knows("f2", &[])), CommandReply::Joined(2));
    // A member that is there already comes to know of a third one.
    let tells = knows("f2", &["f1", "f2", "f3"]);
    assert!(joining(&stage.groups, &name(), &tells).unwrap().is_some());
    assert_eq!(join(&mut stage.groups, tells.clone()), CommandReply::Joined(2));
    assert_eq!(joining(&stage.groups, &name(), &tells), Ok(None), "once is enough");
    assert_eq!(stage.group().missing(), ["f3"]);
    stage.hear(1);
    stage.hear(2);
    assert_eq!(stage.decide(1000), None);
    assert_eq!(join(&mut stage.groups, folder("f3")), CommandReply::Joined(3));
    // All are there, and one of them heard that more was confirmed than any of them holds.
    stage.hear(3);
    stage.hear(1);
    stage.hear_with(2, |said| said.confirmed = (1, 101));
    assert_eq!(stage.decide(0), None);
    let text = stage.waiting_for();
    assert!(text.contains("member 2 (f2:1)") && text.contains("position 101"), "{text}");
    stage.hear_with(3, |said| said.end = 101);
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 3, .. })));
}
