//! Each property holds of a right history, and fails on one that violates it.

use super::*;
use crate::message_history::{QueueEnd, SentMessage, StandingMessage};

const TOPIC: &str = "t";
const CONSUMER: &str = "c";

fn deliver() -> SentMessage {
    SentMessage::acknowledged(TOPIC, MessageIntent::Deliver)
}

fn standing(label: &str, offset: u64) -> StandingMessage {
    StandingMessage { topic: TOPIC, queue: 0, offset, label: label.to_owned() }
}

/// Two messages of a group, one without an answer, one that is rolled back and one that no checker can decide.
fn right() -> MessageHistory {
    let mut history = MessageHistory::default();
    let sent = [
        (
            "a",
            SentMessage { message_id: Some("1".to_owned()), offset: Some(0), ..deliver().in_group("g", 0) },
        ),
        ("b", deliver().in_group("g", 1)),
        ("open", SentMessage::new(TOPIC, MessageIntent::Deliver)),
        ("back", SentMessage::acknowledged(TOPIC, MessageIntent::Withhold)),
        ("undecided", SentMessage::acknowledged(TOPIC, MessageIntent::Park)),
    ];
    history.sent.extend(sent.map(|(label, sent)| (label.to_owned(), sent)));
    ["a", "b"].iter().for_each(|label| history.receive(CONSUMER, label));
    history.standing = vec![standing("a", 0), standing("b", 1)];
    history.ends = vec![QueueEnd { topic: TOPIC, queue: 0, offset: 2 }];
    history.parked.insert("undecided".to_owned());
    history.log = vec!["1".to_owned(), "2".to_owned()];
    history
}

/// The properties that do not hold of the right history with a change.
fn violated(change: impl FnOnce(&mut MessageHistory)) -> Vec<&'static str> {
    let mut history = right();
    change(&mut history);
    let outcomes = [
        ("lost", nothing_lost(&history, &[(CONSUMER, TOPIC)])),
        ("stands", everything_stands(&history)),
        ("else received", nothing_else_received(&history)),
        ("else stands", nothing_else_stands(&history)),
        ("delivered once", delivered_once(&history, CONSUMER)),
        ("stored once", stored_once(&history)),
        ("order", groups_in_order(&history, CONSUMER)),
        ("offsets", offsets_are_whole(&history)),
        ("log", log_has_everything_once(&history)),
        ("parked", undecided_are_parked(&history)),
        ("else parked", nothing_else_is_parked(&history)),
    ];
    outcomes.into_iter().filter(|(_, outcome)| outcome.is_err()).map(|(name, _)| name).collect()
}

#[test]
fn a_right_history_passes_with_and_without_the_message_that_had_no_answer() {
    assert_eq!(violated(|_| {}), [""; 0]);
    let with_open = |history: &mut MessageHistory| {
        history.receive(CONSUMER, "open");
        history.standing.push(standing("open", 2));
        history.ends[0].offset = 3;
    };
    assert_eq!(violated(with_open), [""; 0]);
}

#[test]
fn a_lost_message_is_noticed() {
    let unreceived = |history: &mut MessageHistory| {
        history.received.get_mut(CONSUMER).unwrap().retain(|label, _| label != "b")
    };
    assert_eq!(violated(unreceived), ["lost"]);
    assert_eq!(violated(|history| drop(history.standing.pop())), ["stands", "offsets"]);
    assert_eq!(violated(|history| drop(history.log.remove(0))), ["log"]);
}

#[test]
fn a_message_that_should_not_be_seen_is_noticed() {
    for label in ["back", "undecided", "never sent"] {
        assert_eq!(violated(|history| history.receive(CONSUMER, label)), ["else received"], "{label}");
        let stands = |history: &mut MessageHistory| {
            history.standing.push(standing(label, 2));
            history.ends[0].offset = 3;
        };
        assert_eq!(violated(stands), ["else stands"], "{label}");
    }
    assert_eq!(violated(|history| history.spoilt.push("a".to_owned())), ["else received"], "another body");
}

#[test]
fn a_second_copy_is_noticed() {
    assert_eq!(violated(|history| history.receive(CONSUMER, "a")), ["delivered once"]);
    let stored_again = |history: &mut MessageHistory| {
        history.standing.push(standing("b", 2));
        history.ends[0].offset = 3;
    };
    assert_eq!(violated(stored_again), ["stored once"]);
    assert_eq!(violated(|history| history.log.push("2".to_owned())), ["log"]);
}

#[test]
fn disorder_in_a_message_group_is_noticed_and_repeats_are_not_disorder() {
    let disorder = |history: &mut MessageHistory| {
        history.received.clear();
        ["b", "a"].iter().for_each(|label| history.receive(CONSUMER, label));
    };
    assert_eq!(violated(disorder), ["order"]);
    let mut again = right();
    again.receive(CONSUMER, "a");
    assert!(groups_in_order(&again, CONSUMER).is_ok());
    let nothing = |history: &mut MessageHistory| history.sent.values_mut().for_each(|sent| sent.place = None);
    assert_eq!(violated(nothing), ["order"], "nothing that has an order");
}

#[test]
fn an_offset_with_two_messages_or_none_is_noticed() {
    assert_eq!(violated(|history| history.standing[1].offset = 0), ["offsets"], "two");
    assert_eq!(violated(|history| history.ends[0].offset = 3), ["offsets"], "none");
    let exchanged =
        |history: &mut MessageHistory| history.standing = vec![standing("b", 0), standing("a", 1)];
    assert_eq!(violated(exchanged), ["offsets"], "another one than was answered");
}

#[test]
fn a_transaction_that_is_settled_otherwise_than_decided_is_noticed() {
    assert_eq!(violated(|history| history.parked.clear()), ["parked"]);
    for label in ["back", "a", "never sent"] {
        assert_eq!(violated(|history| history.parked.extend([label.to_owned()])), ["else parked"], "{label}");
    }
}
