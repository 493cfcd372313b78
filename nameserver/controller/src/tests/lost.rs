//! Controllers that lost their data or were given older ones, and members that know better.

use super::*;

/// What a member says that acted upon the newest state of these groups.
pub(super) fn acted(groups: &GroupTable, incarnation: &str) -> JoiningMember {
    let group = groups.get(&name()).unwrap();
    let in_sync = group.in_sync.iter().map(|id| group.members[id].incarnation.clone()).collect();
    let newest = TenureState { tenure: group.tenure.clone(), version: group.version };
    let mark = StateMark {
        cluster_id: groups.cluster_id().to_owned(),
        lineage: group.lineage.clone(),
        tenure: group.tenure.clone(),
        version: group.version,
        set_of: (group.epoch, group.set_version),
        set_tenure: group.set_tenure.clone(),
        in_sync,
        origins: group.origins().into_iter().chain([newest]).collect(),
    };
    let known_members = group.members.values().map(|member| member.incarnation.clone()).collect();
    JoiningMember {
        promised: group.epoch,
        last_epoch: group.epoch,
        mark: Some(mark),
        known_members,
        ..folder(incarnation)
    }
}

pub(super) fn begin(stage: &mut Stage, tenure: &str) {
    assert_eq!(stage.groups.apply(GroupCommand::BeginTenure { tenure: tenure.into() }), CommandReply::Done);
    stage.watch = MemberWatch::new(stage.now);
}

/// Three members in sync under a controller with an identity.
pub(super) fn stage() -> Stage {
    let mut stage = Stage { groups: GroupTable::default(), watch: MemberWatch::new(0), now: 0 };
    begin(&mut stage, "t1");
    for id in 1..=3 {
        assert_eq!(join(&mut stage.groups, folder(&format!("f{id}"))), CommandReply::Joined(id));
    }
    stage.in_sync(&[1, 2, 3], false);
    assert_eq!(stage.groups.cluster_id(), "t1");
    stage
}

pub(super) fn report(stage: &mut Stage, joiner: &JoiningMember) {
    if let Some(command) = joining(&stage.groups, &name(), joiner).unwrap() {
        assert!(matches!(stage.groups.apply(command), CommandReply::Joined(_)));
    }
}

#[test]
fn a_restart_changes_nothing_for_members_that_know_the_newest_state() {
    let mut stage = stage();
    let knows = acted(&stage.groups, "f2");
    for tenure in ["t2", "t3"] {
        begin(&mut stage, tenure);
        assert_eq!(joining(&stage.groups, &name(), &knows), Ok(None));
    }
    stage.in_sync(&[1, 2], false);
    assert_eq!(joining(&stage.groups, &name(), &knows), Ok(None), "it knows an older one");
    assert_eq!(joining(&stage.groups, &name(), &acted(&stage.groups, "f1")), Ok(None));
}

#[test]
fn a_lost_record_begins_anew_above_what_members_know() {
    let mut stage = stage();
    stage.in_sync(&[1, 2], false);
    let (one, two) = (acted(&stage.groups, "f1"), acted(&stage.groups, "f2"));
    let (version, lineage) = (stage.group().version, stage.group().lineage.clone());
    stage.groups = GroupTable::default();
    begin(&mut stage, "t2");
    assert_eq!(join(&mut stage.groups, two), CommandReply::Joined(1));
    assert_eq!(stage.groups.cluster_id(), "t1", "they take over whose they are");
    assert!(stage.group().version > version && stage.group().lineage != lineage);
    assert_eq!((stage.group().master, stage.group().epoch, stage.group().missing()), (0, 2, vec!["f1"]));
    // The third one is not awaited: it was not in sync.
    assert_eq!(join(&mut stage.groups, one), CommandReply::Joined(2));
    stage.hear_with(1, |said| (said.process, said.end) = ("f2".into(), 90));
    stage.hear_with(2, |said| said.process = "f1".into());
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 2, .. })));
}

#[test]
fn a_member_that_fell_behind_earlier_waits_for_those_that_it_knew_in_sync() {
    let mut stage = stage();
    let stale = acted(&stage.groups, "f3");
    stage.in_sync(&[1, 2], false);
    let newer = acted(&stage.groups, "f1");
    stage.groups = GroupTable::default();
    begin(&mut stage, "t2");
    assert_eq!(join(&mut stage.groups, stale), CommandReply::Joined(1));
    assert_eq!(stage.group().missing(), ["f1", "f2"]);
    // The newest set counts.
    assert_eq!(join(&mut stage.groups, newer), CommandReply::Joined(2));
    assert_eq!(stage.group().missing(), ["f2"]);
    assert_eq!(stage.group().recovery, Some(["f1".to_owned(), "f2".to_owned()].into()));
}

#[test]
fn an_older_copy_asks_the_members_as_soon_as_one_knows_better() {
    let mut stage = stage();
    let copy = stage.groups.clone();
    let stale = acted(&stage.groups, "f3");
    stage.in_sync(&[1, 2], false);
    let (one, two) = (acted(&stage.groups, "f1"), acted(&stage.groups, "f2"));
    stage.groups = copy;
    begin(&mut stage, "t2");
    report(&mut stage, &stale);
    assert_eq!(stage.group().recovery, None, "it knows what the copy knows");
    let version = one.mark.as_ref().unwrap().version;
    report(&mut stage, &one);
    assert_eq!((stage.group().master, stage.group().missing()), (0, Vec::<&str>::new()));
    assert_eq!(stage.group().recovery, Some(["f1".to_owned(), "f2".to_owned()].into()));
    assert!(stage.group().version > version);
    // Once is enough.
    let epoch = stage.group().epoch;
    report(&mut stage, &two);
    report(&mut stage, &one);
    assert_eq!(stage.group().epoch, epoch);
    for id in 1..=3 {
        stage.hear_with(id, |said| said.end = if id == 3 { 50 } else { 100 });
    }
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 1, .. })));
    // What they knew then says nothing against the new record.
    report(&mut stage, &two);
    assert_eq!((stage.group().master, stage.group().recovery.clone()), (1, None));
}

/// The copy was taken between the beginning of an election and its outcome.
#[test]
fn an_election_in_an_older_copy_gives_no_epoch_twice() {
    let mut stage = stage();
    let version = stage.group().version;
    let election = GroupCommand::BeginElection {
        name: name(),
        version,
        above: 0,
        excluded: None,
        preferred: None,
        released: false,
    };
    assert_eq!(stage.groups.apply(election), CommandReply::Done);
    let (copy, epoch) = (stage.groups.clone(), stage.group().epoch);
    let (version, in_sync) = (stage.group().version, stage.group().in_sync.clone());
    let appointed = GroupCommand::Appoint {
        name: name(),
        version,
        master: 2,
        process: "f2".into(),
        in_sync,
        asked: set(&[]),
    };
    assert_eq!(stage.groups.apply(appointed), CommandReply::Done);
    let led = acted(&stage.groups, "f2");
    assert_eq!(led.last_epoch, epoch);
    stage.groups = copy;
    begin(&mut stage, "t2");
    for _ in 0..2 {
        report(&mut stage, &led);
        assert_eq!((stage.group().master, stage.group().epoch), (0, epoch + 1));
    }
}

#[test]
fn a_copy_elects_nobody_while_someone_in_sync_may_know_better() {
    let mut stage = stage();
    stage.hear(3);
    let policy = ElectionPolicy { cautious_until: 30_000, ..POLICY };
    let version = stage.group().version;
    let election = GroupCommand::BeginElection {
        name: name(),
        version,
        above: 0,
        excluded: None,
        preferred: None,
        released: false,
    };
    assert_eq!(stage.groups.apply(election), CommandReply::Done);
    let decide_at = |stage: &mut Stage, now: u64| {
        stage.now = now;
        stage.hear(3);
        decide(&stage.groups, &mut stage.watch, now, &policy)
    };
    assert!(decide_at(&mut stage, 29_000).is_empty());
    let text = waiting_for(stage.group(), &stage.watch, stage.now, &policy);
    assert!(
        text.contains("older copy") && text.contains("member 1 (f1:1)") && text.contains("30 s"),
        "{text}"
    );
    assert_eq!(decide_at(&mut stage, 30_000).len(), 1, "it cannot wait for ever");
    // Neither does the set get smaller.
    let shrinks = |stage: &Stage, now| {
        change_in_sync(&stage.groups, &stage.watch, (now, &policy), &name(), &set(&[2, 3]))
    };
    assert!(shrinks(&stage, 29_000).unwrap_err().text.contains("older copy"));
    assert_eq!(shrinks(&stage, 30_000), Ok(()));
    // All have answered: no member knows better.
    stage.hear(1);
    stage.hear(2);
    assert_eq!(decide_at(&mut stage, 29_500).len(), 1);
}

/// A set that the members of the base knew counts as known, whichever member saw it first.
#[test]
fn a_set_of_members_that_were_all_asked_calls_for_no_recovery() {
    let mut stage = stage();
    let one = acted(&stage.groups, "f1");
    stage.in_sync(&[1], false);
    let mut master = acted(&stage.groups, "f1");
    let mut slave = acted(&stage.groups, "f2");
    slave.mark.as_mut().unwrap().set_of.1 += 2;
    slave.mark.as_mut().unwrap().version += 2;
    master.mark.as_mut().unwrap().tenure = "before".into();
    for first in [master, one] {
        stage.groups = GroupTable::default();
        begin(&mut stage, "t2");
        assert_eq!(join(&mut stage.groups, first), CommandReply::Joined(1));
        let (recovery, in_sync) = (stage.group().recovery.clone(), stage.group().in_sync.clone());
        assert_eq!(join(&mut stage.groups, slave.clone()), CommandReply::Joined(2));
        assert!(!stage.group().is_split);
        if recovery.is_none() {
            assert_eq!((stage.group().master, stage.group().in_sync.clone()), (1, in_sync));
        }
    }
}

/// Members of which one has heard of a member that joined, and the other one has not.
#[test]
fn a_newer_version_with_the_same_set_calls_for_no_recovery() {
    let mut stage = stage();
    stage.in_sync(&[1], false);
    let one = acted(&stage.groups, "f1");
    let mut two = acted(&stage.groups, "f2");
    two.mark.as_mut().unwrap().version += 3;
    let version = two.mark.as_ref().unwrap().version;
    // Its data are older.
    begin(&mut stage, "t2");
    report(&mut stage, &two);
    assert_eq!((stage.group().master, stage.group().recovery.clone()), (1, None));
    assert!(stage.group().version > version, "members take it for newer");
    // They are lost.
    for tenures in [&["t2"][..], &["t2", "t3"]] {
        stage.groups = GroupTable::default();
        tenures.iter().for_each(|tenure| begin(&mut stage, tenure));
        assert_eq!(join(&mut stage.groups, one.clone()), CommandReply::Joined(1));
        assert_eq!(join(&mut stage.groups, two.clone()), CommandReply::Joined(2));
        assert_eq!((stage.group().master, stage.group().recovery.clone()), (1, None));
        assert!(stage.group().version > version);
        two.mark.as_mut().unwrap().tenure = "before".into();
    }
}

/// A copy from before an election whose beginning a member outside the set heard of, and never its outcome. The copy repeats the
/// election, with these of the set asked. Says whether that is taken for two histories.
fn is_split_by_a_repeated_election(in_sync: &[MemberId], asked: &[MemberId], cautious_until: u64) -> bool {
    let mut stage = stage();
    stage.in_sync(in_sync, false);
    let copy = stage.groups.clone();
    stage.now = 3000;
    stage.begin(ElectionWishes::default());
    let late = acted(&stage.groups, "f3");
    assert_eq!(late.mark.as_ref().unwrap().set_of.0, stage.group().epoch);
    stage.groups = copy;
    begin(&mut stage, "t2");
    stage.begin(ElectionWishes::default());
    asked.iter().for_each(|id| stage.hear(*id));
    stage.now += POLICY.election_patience;
    let policy = ElectionPolicy { cautious_until, ..POLICY };
    let appoint = decide(&stage.groups, &mut stage.watch, stage.now, &policy).pop().expect("one is elected");
    assert_eq!(stage.groups.apply(appoint), CommandReply::Done);
    // Another nameserver leads by then.
    begin(&mut stage, "t3");
    let (master, version) = (stage.group().master, stage.group().version);
    report(&mut stage, &late);
    if stage.group().recovery.is_none() {
        assert_eq!((stage.group().master, stage.group().in_sync.is_empty()), (master, false));
        assert!(stage.group().version > version, "members take it for newer");
        assert_eq!(joining(&stage.groups, &name(), &late), Ok(None), "once is enough");
    }
    stage.group().is_split
}

#[test]
fn an_election_that_a_copy_repeats_is_no_split_when_its_whole_set_was_asked() {
    assert!(!is_split_by_a_repeated_election(&[1], &[1], 0));
    assert!(!is_split_by_a_repeated_election(&[1, 2], &[1, 2], u64::MAX));
    assert!(
        is_split_by_a_repeated_election(&[1, 2], &[1], 0),
        "2 may have been elected without any other member knowing"
    );
}

/// A member that was asked before the histories parted was not asked about the other one.
#[test]
fn an_answer_from_before_the_copy_says_nothing_of_what_came_after_it() {
    let mut stage = stage();
    stage.in_sync(&[1, 2], false);
    stage.begin(ElectionWishes::default());
    (1..=2).for_each(|id| stage.hear(id));
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { .. })));
    let copy = stage.groups.clone();
    stage.begin(ElectionWishes::default());
    let late = acted(&stage.groups, "f3");
    stage.groups = copy;
    begin(&mut stage, "t2");
    stage.begin(ElectionWishes::default());
    stage.hear(2);
    assert!(matches!(stage.decide(POLICY.election_patience), Some(GroupCommand::Appoint { master: 2, .. })));
    report(&mut stage, &late);
    assert!(stage.group().is_split, "1 may have been elected");
}

#[test]
fn two_histories_wait_for_an_operator() {
    let mut stage = stage();
    let copy = stage.groups.clone();
    stage.in_sync(&[1, 2], false);
    let one = acted(&stage.groups, "f1");
    stage.groups = copy;
    begin(&mut stage, "t2");
    stage.now = 3000;
    stage.hear(3);
    assert!(stage.decide(1).is_some());
    stage.hear(3);
    assert!(matches!(stage.decide(1000), Some(GroupCommand::Appoint { master: 3, .. })));
    report(&mut stage, &one);
    (1..=3).for_each(|id| stage.hear(id));
    assert_eq!(stage.decide(1000), None);
    assert!(stage.waiting_for().contains("both sides"), "{}", stage.waiting_for());
    let version = stage.group().version;
    let force = GroupCommand::ForceElection { name: name(), version, above: 1, member: 1 };
    assert_eq!(stage.groups.apply(force), CommandReply::Done);
    stage.hear(1);
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 1, .. })));
    assert!(!stage.group().is_split);
}

#[test]
fn what_an_operator_gave_up_calls_for_no_recovery() {
    let mut stage = stage();
    let copy = stage.groups.clone();
    stage.in_sync(&[1, 2], false);
    let late = acted(&stage.groups, "f1");
    stage.groups = copy;
    begin(&mut stage, "t2");
    let version = stage.group().version;
    let force = GroupCommand::ForceElection { name: name(), version, above: 1, member: 3 };
    assert_eq!(stage.groups.apply(force), CommandReply::Done);
    report(&mut stage, &late);
    assert_eq!((stage.group().recovery.clone(), stage.group().in_sync.clone()), (None, set(&[3])));
    assert_eq!(joining(&stage.groups, &name(), &late), Ok(None));
}

#[test]
fn members_of_other_nameservers_are_refused() {
    let mut stage = stage();
    let mut other = acted(&stage.groups, "f1");
    other.mark.as_mut().unwrap().cluster_id = "elsewhere".into();
    let text = joining(&stage.groups, &name(), &other).unwrap_err().text;
    assert!(
        text.contains("cluster id t1") && text.contains("elsewhere") && text.contains("own data back"),
        "{text}"
    );
    assert_eq!(refusal(join(&mut stage.groups, other)).text, text);
}

#[test]
fn a_stranger_with_a_foreign_mark_deposes_nobody() {
    let mut stage = stage();
    let mut stranger = acted(&stage.groups, "x");
    stranger.known_members = vec!["x".into()];
    let mark = stranger.mark.as_mut().unwrap();
    (mark.version, mark.in_sync) = (1 << 40, ["x".to_owned()].into());
    assert_eq!(join(&mut stage.groups, stranger), CommandReply::Joined(4));
    assert_eq!((stage.group().master, stage.group().recovery.clone()), (1, None));
}

/// Bytes of the first format stay readable, and the groups in them get an identity.
#[test]
fn groups_of_format_1_are_read() {
    let groups = stage().groups;
    let stored = serde_json::to_value(&groups).unwrap();
    let mut list = stored["groups"].clone();
    let later = "lineage lineage_version tenure past forgotten base_set base_state base_members is_split led set_version set_tenure";
    for field in later.split(' ') {
        list[0].as_object_mut().unwrap().remove(field).unwrap();
    }
    let mut read: GroupTable = serde_json::from_value(list).unwrap();
    let version = read.get(&name()).unwrap().version;
    let unmarked = JoiningMember { known_members: vec!["f1".into(), "f2".into()], ..folder("f1") };
    assert_eq!(joining(&read, &name(), &unmarked), Ok(None));
    assert_eq!(read.apply(GroupCommand::BeginTenure { tenure: "t9".into() }), CommandReply::Done);
    let group = read.get(&name()).unwrap();
    assert_eq!((read.cluster_id(), group.version, group.lineage.is_empty()), ("t9", version + 1, false));
}
