//! Two histories of one group: what members acted upon after a copy was taken, and what the copy went on with, with any number of
//! leading nameservers on either side.

use super::lost::{acted, begin, report, stage};
use super::*;

/// Tenures that begin one after the other.
fn lead(stage: &mut Stage, tenures: &[&str]) {
    tenures.iter().for_each(|tenure| begin(stage, tenure));
}

/// The copy elects member 3 without the other two.
fn elect_3(stage: &mut Stage) {
    stage.begin(ElectionWishes::default());
    stage.hear(3);
    assert!(matches!(stage.decide(POLICY.election_patience), Some(GroupCommand::Appoint { master: 3, .. })));
}

/// A copy is taken; the original goes on under these nameservers, and 1 and 2 alone stay in sync; the copy is restored, elects member 3
/// and goes on under those. Then member 1 comes.
fn history_after_parting(original: &[&str], copy: &[&str]) -> Stage {
    let mut stage = stage();
    let taken = stage.groups.clone();
    lead(&mut stage, original);
    stage.in_sync(&[1, 2], false);
    let late = acted(&stage.groups, "f1");
    stage.groups = taken;
    begin(&mut stage, "c0");
    elect_3(&mut stage);
    lead(&mut stage, copy);
    report(&mut stage, &late);
    stage
}

#[test]
fn a_lost_history_counts_as_unknown_whoever_led_in_it_and_since() {
    for original in [&[][..], &["o1"], &["o1", "o2"]] {
        for copy in [&[][..], &["c1"], &["c1", "c2"]] {
            let stage = history_after_parting(original, copy);
            assert!(stage.group().recovery.is_some(), "{original:?} {copy:?}");
            assert!(stage.group().is_split, "3 may have acknowledged something: {original:?} {copy:?}");
        }
    }
}

/// The copy elected no master: its members' knowledge settles it.
#[test]
fn a_lost_history_is_no_second_one_if_the_copy_had_no_master() {
    let mut stage = stage();
    let taken = stage.groups.clone();
    lead(&mut stage, &["o1"]);
    stage.in_sync(&[1, 2], false);
    let late = acted(&stage.groups, "f1");
    stage.groups = taken;
    lead(&mut stage, &["c0", "c1"]);
    report(&mut stage, &late);
    assert_eq!((stage.group().master, stage.group().is_split), (0, false));
    assert_eq!(stage.group().recovery, Some(["f1", "f2"].map(str::to_owned).into()));
}

#[test]
fn a_set_from_before_the_copy_calls_for_no_recovery_whoever_led_since() {
    for copy in [&["c0"][..], &["c0", "c1", "c2"]] {
        let mut stage = stage();
        lead(&mut stage, &["t2", "t3"]);
        stage.in_sync(&[1, 2], false);
        lead(&mut stage, &["t4"]);
        let taken = stage.groups.clone();
        lead(&mut stage, &["o1", "o2"]);
        // A fourth member, which only reports.
        assert_eq!(join(&mut stage.groups, folder("f4")), CommandReply::Joined(4));
        let late = acted(&stage.groups, "f1");
        stage.groups = taken;
        lead(&mut stage, copy);
        stage.begin(ElectionWishes::default());
        stage.hear(1);
        stage.hear(2);
        assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 1, .. })));
        lead(&mut stage, &["c3"]);
        report(&mut stage, &late);
        assert_eq!((stage.group().master, &stage.group().recovery), (1, &None));
        assert_eq!(joining(&stage.groups, &name(), &late), Ok(None), "once is enough");
    }
}

/// The data were lost, and a member that knew of no other one began a record alone and led.
#[test]
fn what_was_acknowledged_in_a_new_record_counts_whoever_leads_since() {
    for since in [&[][..], &["n1"], &["n1", "n2"]] {
        let mut stage = stage();
        stage.in_sync(&[1, 2], false);
        let late = acted(&stage.groups, "f1");
        stage.groups = GroupTable::default();
        begin(&mut stage, "n0");
        let mark = Some(StateMark { cluster_id: "t1".to_owned(), ..StateMark::default() });
        assert_eq!(join(&mut stage.groups, JoiningMember { mark, ..folder("f3") }), CommandReply::Joined(1));
        assert_eq!(stage.group().master, 1);
        lead(&mut stage, since);
        assert!(matches!(join(&mut stage.groups, late), CommandReply::Joined(2)));
        assert!(stage.group().is_split, "{since:?}");
    }
}

/// More nameservers led since the copy than a mark names: rather an operator is asked once too often.
#[test]
fn histories_that_parted_long_ago_have_nothing_in_common() {
    let names: Vec<String> = (0..40).map(|number| format!("o{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert!(history_after_parting(&names, &["c1"]).group().is_split);
}

/// The newest in-sync set is there every time, and everything that the copy knows it holds.
#[test]
fn a_copy_that_is_restored_again_and_again_under_running_members_is_put_right_by_them() {
    let mut stage = stage();
    let taken = stage.groups.clone();
    begin(&mut stage, "o1");
    stage.in_sync(&[1, 2], false);
    for tenure in ["c1", "c2", "c3"] {
        let (epoch, known) = (stage.group().epoch, ["f1", "f2"].map(|one| acted(&stage.groups, one)));
        stage.groups = taken.clone();
        begin(&mut stage, tenure);
        known.iter().for_each(|joiner| report(&mut stage, joiner));
        assert!(!stage.group().is_split && stage.group().epoch > epoch, "{tenure}");
        (1..=2).for_each(|id| stage.hear(id));
        assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 1, .. })), "{tenure}");
        stage.in_sync(&[1, 2], false);
    }
}

/// With a majority for enough, one member of the set alone no longer holds everything.
#[test]
fn what_acknowledged_means_is_part_of_the_set() {
    let mut stage = stage();
    let taken = stage.groups.clone();
    stage.in_sync(&[1, 2, 3], true);
    let late = acted(&stage.groups, "f1");
    stage.groups = taken;
    begin(&mut stage, "c0");
    report(&mut stage, &late);
    assert_eq!(stage.group().recovery, Some(["f1", "f2", "f3"].map(str::to_owned).into()));
    assert!(!stage.group().is_split);
}

/// The nameservers began an election, of which only a member without records heard, and lost their data twice.
#[test]
fn an_election_that_none_of_its_set_heard_of_is_no_history() {
    for order in [["f1", "f2", "f3"], ["f3", "f1", "f2"], ["f2", "f3", "f1"], ["f3", "f2", "f1"]] {
        let mut stage = stage();
        stage.in_sync(&[1, 2], false);
        let known = stage.groups.clone();
        let old = ["f1", "f2"].map(|one| acted(&known, one));
        stage.begin(ElectionWishes::default());
        let heard = acted(&stage.groups, "f3");
        // The members of the set begin another record.
        stage.groups = GroupTable::default();
        begin(&mut stage, "n1");
        old.iter().for_each(|joiner| {
            assert!(matches!(join(&mut stage.groups, joiner.clone()), CommandReply::Joined(_)))
        });
        (1..=2).for_each(|id| stage.hear(id));
        assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { .. })));
        stage.in_sync(&[1, 2], false);
        let newer = ["f1", "f2"].map(|one| acted(&stage.groups, one));
        stage.groups = GroupTable::default();
        begin(&mut stage, "n2");
        for one in order {
            let joiner = newer.iter().chain([&heard]).find(|joiner| joiner.incarnation == one).unwrap();
            assert!(matches!(join(&mut stage.groups, joiner.clone()), CommandReply::Joined(_)));
        }
        let group = stage.group();
        assert_eq!((group.is_split, group.is_parted), (false, false), "{order:?}");
        assert_eq!(group.recovery, Some(["f1", "f2"].map(str::to_owned).into()), "{order:?}");
        newer.iter().chain([&heard]).for_each(|joiner| {
            assert_eq!(joining(&stage.groups, &name(), joiner), Ok(None), "once is enough");
        });
        let ids = ["f1", "f2"].map(|one| stage.group().member_of(one).unwrap());
        ids.iter().for_each(|id| stage.hear(*id));
        assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { .. })), "{order:?}");
    }
}

/// One of the set acted upon it: it may have led.
#[test]
fn an_election_that_one_of_its_set_acted_upon_stays_a_history() {
    let mut stage = stage();
    stage.in_sync(&[1, 2], false);
    let known = stage.groups.clone();
    let old = acted(&known, "f1");
    stage.begin(ElectionWishes::default());
    let heard = acted(&stage.groups, "f2");
    stage.groups = GroupTable::default();
    begin(&mut stage, "n1");
    // An operator takes member 1 without the other one.
    assert!(matches!(join(&mut stage.groups, old), CommandReply::Joined(1)));
    let forced =
        GroupCommand::ForceElection { name: name(), version: stage.group().version, above: 9, member: 1 };
    assert_eq!(stage.groups.apply(forced), CommandReply::Done);
    let newer = acted(&stage.groups, "f1");
    stage.groups = GroupTable::default();
    begin(&mut stage, "n2");
    [heard, newer].into_iter().for_each(|joiner| {
        assert!(matches!(join(&mut stage.groups, joiner), CommandReply::Joined(_)));
    });
    assert!(stage.group().is_split);
}
