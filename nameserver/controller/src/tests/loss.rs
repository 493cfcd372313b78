//! Elections by force, and groups that begin anew.

use super::*;

fn elect(
    stage: &Stage,
    member: MemberId,
    accepts_loss: bool,
) -> Result<Option<GroupCommand>, CommandRefusal> {
    let time = (stage.now, &POLICY);
    elect_master(&stage.groups, &stage.watch, time, &name(), (member, true, accepts_loss))
}

/// Three members, of which the first two are in sync and the third follows.
fn stage() -> Stage {
    let mut stage = Stage::new(3);
    stage.in_sync(&[1, 2], false);
    assert_eq!(join(&mut stage.groups, folder("stranger")), CommandReply::Joined(4));
    stage.hear(4);
    stage
}

#[test]
fn a_stranger_that_only_reported_is_never_elected() {
    let mut stage = stage();
    stage.hear_with(4, |said| (said.last_epoch, said.end) = (9, 1 << 40));
    let refused = elect(&stage, 4, true).unwrap_err();
    assert!(refused.text.contains("has only reported"), "{}", refused.text);
    stage.groups.apply(GroupCommand::RemoveMember { name: name(), member: 3 });
    for accepts_loss in [false, true] {
        let best = elect(&stage, 0, accepts_loss).unwrap();
        assert!(!matches!(best, Some(GroupCommand::ForceElection { member: 4, .. })), "{best:?}");
    }
    // One that was a member before the controller lost its data is none.
    let returned =
        JoiningMember { last_epoch: 1, known_members: vec!["f1".into(), "old".into()], ..folder("old") };
    assert_eq!(join(&mut stage.groups, returned), CommandReply::Joined(5));
    stage.hear_with(5, |said| said.process = "old".into());
    assert!(elect(&stage, 5, true).unwrap().is_some());
    // Its master says that it follows.
    let note = GroupCommand::NoteHolders { name: name(), epoch: 1, master: 1, holders: set(&[4, 9]) };
    assert_eq!(stage.groups.apply(note), CommandReply::Done);
    assert!(elect(&stage, 4, true).unwrap().is_some());
}

#[test]
fn what_is_known_to_be_lost_has_to_be_accepted_by_name() {
    let mut stage = stage();
    stage.hear_with(3, |said| said.end = 60);
    let text = elect(&stage, 3, false).unwrap_err().text;
    assert!(text.contains("--lose-messages") && text.contains("at least 40 bytes"), "{text}");
    assert!(text.contains("member 1 up to 100, in epoch 1"), "{text}");
    assert!(elect(&stage, 3, true).unwrap().is_some());
    stage.hear_with(3, |said| (said.last_epoch, said.end) = (0, 0));
    let text = elect(&stage, 3, false).unwrap_err().text;
    assert!(text.contains("holds no messages"), "{text}");
    // A member that has as much as any other needs no second word, unless it heard that more was confirmed.
    assert!(elect(&stage, 2, false).unwrap().is_some());
    stage.hear_with(2, |said| said.confirmed = (1, 130));
    let text = elect(&stage, 2, false).unwrap_err().text;
    assert!(text.contains("at least 30 bytes"), "{text}");
}

#[test]
fn nobody_who_is_silent_is_elected() {
    let mut stage = stage();
    stage.now = 10_000;
    assert!(elect(&stage, 2, true).unwrap_err().text.contains("is not there"));
    assert!(elect(&stage, 0, true).unwrap_err().text.contains("start one"));
    stage.watch = MemberWatch::new(stage.now);
    stage.hear(3);
    let loss = election_loss(&stage.groups, &stage.watch, (stage.now, &POLICY), &name(), 3).unwrap();
    assert_eq!((loss.unheard.clone(), loss.is_certain()), (vec![1, 2], false));
    assert!(loss.text().contains("members 1, 2 hold is not known"), "{}", loss.text());
}

#[test]
fn a_group_without_any_data_begins_anew() {
    let mut stage = stage();
    let request = |stage: &Stage| begin_anew(&stage.groups, &stage.watch, (stage.now, &POLICY), &name());
    assert!(request(&stage).unwrap_err().text.contains("holds messages"));
    stage.now = 5000;
    assert!(request(&stage).unwrap_err().text.contains("start one"));
    stage.hear_with(4, |said| (said.last_epoch, said.end) = (0, 0));
    let text = stage.waiting_for();
    assert!(text.contains("resetBrokerGroup"), "{text}");
    let anew = request(&stage).unwrap();
    assert_eq!(stage.groups.apply(anew), CommandReply::Done);
    assert_eq!(stage.group().members.keys().copied().collect::<Vec<_>>(), [4]);
    stage.hear_with(4, |said| (said.process, said.last_epoch, said.end) = ("stranger".into(), 0, 0));
    assert!(matches!(stage.decide(0), Some(GroupCommand::Appoint { master: 4, .. })));
    // One whose folder was not gone after all.
    let known_members = vec!["f1".to_owned(), "f2".to_owned()];
    let late = JoiningMember { known_members, last_epoch: 1, ..folder("f1") };
    assert!(refusal(join(&mut stage.groups, late)).text.contains("other members"));
}
