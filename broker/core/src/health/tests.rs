use kerolox_model::health::HealthState;

use super::*;

fn serving() -> HealthFacts {
    HealthFacts { is_announced: true, is_open: true, ..HealthFacts::default() }
}

/// The worst verdict on a part.
fn told(facts: &HealthFacts, name: &str) -> (HealthState, String) {
    let verdicts = verdicts(facts);
    let worst = verdicts.iter().filter(|verdict| verdict.name == name).max_by_key(|verdict| verdict.state);
    let worst = worst.unwrap_or_else(|| panic!("nothing is said of {name:?} in {verdicts:?}"));
    (worst.state, worst.reason.clone())
}

#[test]
fn a_broker_is_ready_when_it_serves_and_not_before_or_after() {
    assert_eq!(told(&serving(), "serving"), (HealthState::Ok, "clients are served".into()));
    let starting = HealthFacts::default();
    assert_eq!(told(&starting, "index"), (HealthState::Failed, "waits for the log to be opened".into()));
    let rebuilding = HealthFacts { opening: Some("43 %".into()), ..HealthFacts::default() };
    assert_eq!(told(&rebuilding, "index"), (HealthState::Failed, "rebuilding, 43 %".into()));
    let registering = HealthFacts { is_announced: false, ..serving() };
    assert_eq!(told(&registering, "serving").0, HealthState::Failed);
    assert_eq!(told(&HealthFacts { is_ending: true, ..serving() }, "serving").0, HealthState::Failed);
}

/// Having served before the election does not count now.
#[test]
fn a_member_is_ready_only_while_it_leads_or_follows() {
    let told = |standing| told(&HealthFacts { standing: Some(standing), ..serving() }, "serving");
    assert_eq!(told(GroupStanding::Leader).0, HealthState::Ok);
    assert_eq!(told(GroupStanding::Follower).0, HealthState::Ok);
    for (standing, wanted) in [
        (GroupStanding::Waiting, "knows no leader"),
        (GroupStanding::Candidate, "about to lead"),
        (GroupStanding::Resigning, "hands its leadership over"),
    ] {
        let (state, reason) = told(standing);
        assert_eq!(state, HealthState::Failed);
        assert!(reason.contains(wanted), "{reason}");
    }
}

#[test]
fn a_failed_log_is_not_ready_and_says_why() {
    let facts = HealthFacts { failure: Some("fdatasync of x failed: EIO".into()), ..serving() };
    let (state, reason) = told(&facts, "log");
    assert_eq!(state, HealthState::Failed);
    assert!(reason.contains("read-only: fdatasync of x failed: EIO") && reason.contains("restart"));
}

#[test]
fn a_damaged_index_is_not_ready_until_there_is_another_one_and_a_warning_then() {
    let (now, failure) = (Some("Corruption: x".to_owned()), Some("its index is damaged".to_owned()));
    let damaged = HealthFacts { index_damage: now, failure, ..serving() };
    let (state, reason) = told(&damaged, "index");
    assert_eq!(state, HealthState::Failed);
    assert!(reason.contains("damaged (Corruption: x)"), "{reason}");
    assert_eq!(told(&damaged, "log").0, HealthState::Ok, "the index is rebuilt from the log");
    let remade = HealthFacts { index_remade: Some((2, "Corruption: x".into())), ..serving() };
    let behind = HealthFacts { remaking: Some((20, 80)), ..remade.clone() };
    let (state, reason) = told(&behind, "index");
    assert_eq!(state, HealthState::Failed);
    assert!(reason.contains("position 20 of 80"), "{reason}");
    let (state, reason) = told(&remade, "index");
    assert_eq!(state, HealthState::Warning);
    assert!(reason.contains("rebuilt from the log 2 times"), "{reason}");
}

#[test]
fn damage_and_a_leap_of_the_clock_are_warnings_and_a_full_disk_is_not() {
    let range = |position: u64| format!("f.log at {position}..{} (checksum)", position + 8);
    let facts = HealthFacts { damaged: vec![range(64)], ..serving() };
    let (state, reason) = told(&facts, "log");
    assert_eq!(state, HealthState::Warning);
    assert!(reason.contains("damaged range in f.log at 64..72"), "{reason}");
    let many = HealthFacts { damaged: (0..20).map(|i| range(i * 100)).collect(), ..serving() };
    let shown = verdicts(&many);
    assert_eq!(
        shown.iter().filter(|verdict| verdict.state == HealthState::Warning).count(),
        RANGES_SHOWN + 1
    );
    assert!(shown.iter().any(|verdict| verdict.reason.starts_with("12 more")), "{shown:?}");

    let repair = HealthFacts { repairs: vec!["topic orders, queue 3".into()], ..serving() };
    let (state, reason) = told(&repair, "index");
    assert_eq!(state, HealthState::Warning);
    assert!(reason.contains("made over damage in the log: topic orders, queue 3"), "{reason}");

    let lost = HealthFacts { lost: "group g lost 3 of topic t".to_owned(), ..serving() };
    let (state, reason) = told(&lost, "retention");
    assert_eq!(state, HealthState::Warning);
    assert!(reason.contains("group g lost 3 of topic t"), "{reason}");

    let leapt = HealthFacts { clock_leap_ms: Some(3_600_000), ..serving() };
    let (state, reason) = told(&leapt, "clock");
    assert_eq!(state, HealthState::Warning);
    assert!(reason.contains("by 3600000 ms"), "{reason}");

    let (state, reason) = told(&HealthFacts { is_room_short: true, ..serving() }, "disk");
    assert_eq!(state, HealthState::Failed);
    assert!(reason.contains("sends are refused"), "{reason}");
}

fn leadership(standing: GroupStanding) -> LeadershipFacts {
    LeadershipFacts { group: "broker-a".into(), standing, own: None, has_leader: false, min_in_sync: 2 }
}

fn follower(has_leader: bool) -> HealthFacts {
    let leadership = LeadershipFacts { has_leader, ..leadership(GroupStanding::Follower) };
    HealthFacts { leadership: Some(leadership), ..serving() }
}

#[test]
fn a_broker_that_the_controller_refuses_is_ready_only_under_a_master() {
    let refused = |facts| HealthFacts { disowned: Some("another cluster id".into()), ..facts };
    for alone in [serving(), follower(false)] {
        assert_eq!(told(&refused(alone), "controller").0, HealthState::Failed);
    }
    let led = told(&refused(follower(true)), "controller");
    assert_eq!(led, (HealthState::Warning, "another cluster id".into()));
}

#[test]
fn a_broker_whose_group_has_no_master_is_not_ready() {
    assert_eq!(told(&follower(true), "master"), (HealthState::Ok, "group broker-a has one".into()));
    let (state, reason) = told(&follower(false), "master");
    assert_eq!(state, HealthState::Failed);
    assert!(reason.contains("broker-a has none"), "{reason}");
    let said = verdicts(&serving());
    assert!(!said.iter().any(|verdict| verdict.name == "master"), "it has no group");
}

#[test]
fn a_master_is_ready_while_it_is_sure_and_enough_members_are_in_sync() {
    let own = OwnLeadership { epoch: 3, is_sure: true, in_sync: 2 };
    let told = |standing, own| {
        let leadership = LeadershipFacts { own: Some(own), has_leader: true, ..leadership(standing) };
        told(&HealthFacts { leadership: Some(leadership), ..serving() }, "master")
    };
    let leads = (HealthState::Ok, "this broker is, in epoch 3".to_owned());
    assert_eq!(told(GroupStanding::Leader, own), leads);
    assert_eq!(told(GroupStanding::Resigning, own), leads);
    let (state, reason) = told(GroupStanding::Leader, OwnLeadership { in_sync: 1, ..own });
    assert_eq!(state, HealthState::Failed);
    assert!(reason.starts_with("1 of the 2 members"), "{reason}");
    let unsure = OwnLeadership { is_sure: false, ..own };
    assert!(told(GroupStanding::Leader, unsure).1.contains("cannot tell"));
    let elsewhere = told(GroupStanding::Follower, unsure);
    assert_eq!(elsewhere.0, HealthState::Ok, "an earlier leadership does not count");
}
