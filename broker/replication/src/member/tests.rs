//! The machine from input to effect: the order of dependent steps.

use super::*;
use crate::{ReplicationPolicy, StateName};

const POLICY: ReplicationPolicy = ReplicationPolicy { follower_timeout_ms: 1_000, lease_ms: 1_000 };
const LOG: LogEnds = LogEnds { durable: 900, end: 900 };

fn at(mono_ms: u64) -> ClockReading {
    ClockReading { mono_ms, wall_ms: 0 }
}

fn view(version: u64, epoch: u32, leader: MemberId, in_sync: &[MemberId]) -> GroupView {
    let peer = |id: MemberId| {
        let (incarnation, address) = (format!("m{id}"), format!("h:{id}"));
        (id, PeerView { incarnation, address, holds: true })
    };
    GroupView {
        name: StateName { version, ..StateName::default() },
        epoch,
        leader,
        leader_process: format!("p{leader}"),
        in_sync: in_sync.iter().copied().collect(),
        members: [peer(1), peer(2), peer(3)].into(),
        ..GroupView::default()
    }
}

/// Member 1 under a driver with a fast disk.
struct Driven {
    member: GroupMember,
    now: u64,
}

impl Driven {
    fn new(record: MemberRecord) -> Self {
        let settings = MemberSettings { process: "p1".into(), policy: POLICY, hand_over_ms: 500 };
        Self { member: GroupMember::new(settings, record, at(10_000)), now: 10_000 }
    }

    fn blank() -> Self {
        Self::new(MemberRecord { incarnation: "m1".into(), ..MemberRecord::default() })
    }

    /// Takes one input, without completing any save.
    fn take(&mut self, input: MemberInput) -> Vec<MemberEffect> {
        self.member.handle(input, at(self.now))
    }

    /// Takes an input and completes all saves that follow; returns the other effects.
    fn run(&mut self, input: MemberInput) -> Vec<MemberEffect> {
        let (mut inputs, mut effects) = (vec![input], Vec::new());
        while let Some(input) = inputs.pop() {
            for effect in self.take(input) {
                match effect {
                    MemberEffect::Save { version, .. } => inputs.push(MemberInput::Saved(version)),
                    other => effects.push(other),
                }
            }
        }
        effects
    }

    fn hears(&mut self, view: GroupView) -> Vec<MemberEffect> {
        self.run(MemberInput::State { me: 1, view })
    }

    fn number(&self) -> u64 {
        self.member.order_now().number
    }

    /// Follows member 2 in epoch 3, with logs that agree.
    fn following() -> Self {
        let mut driven = Self::blank();
        driven.hears(view(5, 3, 2, &[2]));
        let log = Some(FollowerLog { start: 0, end: 400, last_epoch: 2, last: None });
        driven.run(MemberInput::Greeting);
        driven.run(MemberInput::Answered { answer: LeaderAnswer::Start, log, salt: 7 });
        driven
    }

    /// Leads in epoch 3 with a record that ends at 500, and is open.
    fn leading(in_sync: &[MemberId]) -> Self {
        let mut driven = Self::blank();
        driven.hears(view(5, 3, 1, in_sync));
        let number = driven.number();
        driven.run(MemberInput::Opened { number, end: 500 });
        driven.run(MemberInput::Settled);
        driven
    }

    fn tick(&mut self) -> Vec<MemberEffect> {
        self.run(MemberInput::Tick { log: LOG, wants_quorum: false })
    }

    fn acked(&mut self, member: MemberId, durable: u64) -> Vec<MemberEffect> {
        let ping = self.now;
        self.run(MemberInput::Acked { member, durable, ping, log: LOG })
    }
}

fn promised(effects: &[MemberEffect]) -> bool {
    effects.iter().any(|effect| matches!(effect, MemberEffect::Promised(_)))
}

fn ordered(effects: &[MemberEffect]) -> Option<&MemberDuty> {
    effects.iter().find_map(|effect| match effect {
        MemberEffect::Order(order) => Some(&order.duty),
        _ => None,
    })
}

fn acks(effects: &[MemberEffect]) -> Vec<(u64, u64)> {
    let ack = |effect: &MemberEffect| match effect {
        MemberEffect::SendAck { durable, ping } => Some((*durable, *ping)),
        _ => None,
    };
    effects.iter().filter_map(ack).collect()
}

fn statuses(effects: &[MemberEffect]) -> Vec<(CommitStatus, bool)> {
    let status = |effect: &MemberEffect| match effect {
        MemberEffect::Publish { status, is_barrier } => Some((*status, *is_barrier)),
        _ => None,
    };
    effects.iter().filter_map(status).collect()
}

#[test]
fn a_state_is_remembered_then_promised_then_acted_upon() {
    let mut driven = Driven::blank();
    let effects = driven.take(MemberInput::State { me: 1, view: view(5, 3, 2, &[2]) });
    let [MemberEffect::Save { version, record }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!(record.memory.as_ref().map(|memory| memory.name.version), Some(5));
    assert_eq!(record.promised, 0, "not before the state is remembered");
    let effects = driven.take(MemberInput::Saved(*version));
    let [MemberEffect::Save { version, record }] = effects.as_slice() else { panic!("{effects:?}") };
    assert_eq!((record.promised, driven.member.promised()), (3, 0));
    assert_eq!(driven.member.role(), MemberRole::Waiting);
    let effects = driven.take(MemberInput::Saved(*version));
    assert!(promised(&effects) && matches!(ordered(&effects), Some(MemberDuty::Follow(_))), "{effects:?}");
    assert_eq!(driven.member.role(), MemberRole::Follower { epoch: 3, leader: 2 });
}

#[test]
fn nothing_follows_from_what_could_not_be_saved_until_it_is() {
    let mut driven = Driven::blank();
    let state = MemberInput::State { me: 1, view: view(5, 3, 2, &[2]) };
    assert_eq!(driven.take(state.clone()).len(), 1);
    assert_eq!(driven.take(MemberInput::SaveFailed), []);
    assert!(driven.member.view().is_none());
    let effects = driven.take(state);
    assert!(matches!(effects.as_slice(), [MemberEffect::Save { .. }]), "tried again: {effects:?}");
}

#[test]
fn a_follower_answers_a_ping_when_its_grant_is_remembered_and_what_it_holds_is_durable() {
    let mut driven = Driven::blank();
    driven.hears(view(5, 3, 2, &[2]));
    let start = MemberInput::Answered { answer: LeaderAnswer::Start, log: None, salt: 0 };
    let effects = driven.take(start);
    let [MemberEffect::Save { version, record }, MemberEffect::StartCopying] = effects.as_slice() else {
        panic!("{effects:?}")
    };
    assert_eq!(record.granted, 3);
    let update = Some(CommitUpdate { high_watermark: 300, ping: 77 });
    assert_eq!(acks(&driven.take(MemberInput::Copied { durable: 400, update })), []);
    assert_eq!(acks(&driven.take(MemberInput::Saved(*version))), [(400, 77)]);
    let effects = driven.take(MemberInput::Copied { durable: 500, update: None });
    assert_eq!((acks(&effects), effects.as_slice()), (vec![], [MemberEffect::Apply(300)].as_slice()));
}

#[test]
fn a_follower_that_heard_of_a_later_epoch_helps_no_more() {
    let mut driven = Driven::following();
    let effects = driven.hears(view(6, 4, 0, &[2]));
    assert_eq!(ordered(&effects), Some(&MemberDuty::Idle));
    assert!(!promised(&effects), "not while it may answer");
    let update = Some(CommitUpdate { high_watermark: 300, ping: 77 });
    assert_eq!(driven.run(MemberInput::Copied { durable: 500, update }), []);
    let number = driven.number();
    assert_eq!(driven.run(MemberInput::Ended(number - 1)), [], "an older duty");
    assert_eq!(driven.run(MemberInput::Ended(number)), [MemberEffect::Promised(4)]);
}

#[test]
fn an_elected_member_waits_for_the_leases_that_it_gave() {
    let mut driven = Driven::following();
    let update = Some(CommitUpdate { high_watermark: 300, ping: 77 });
    assert_eq!(acks(&driven.run(MemberInput::Copied { durable: 500, update })).len(), 1);
    driven.hears(view(6, 4, 1, &[1, 2]));
    let number = driven.number();
    driven.run(MemberInput::Ended(number));
    assert_eq!(driven.member.role(), MemberRole::Waiting);
    let left = driven.member.wakes_after(at(driven.now)).expect("it waits");
    assert!((1_000..1_200).contains(&left), "{left}");
    driven.now += left - 1;
    assert_eq!(ordered(&driven.tick()), None);
    driven.now += 1;
    let effects = driven.tick();
    assert_eq!(ordered(&effects), Some(&MemberDuty::Lead { epoch: 4, me: 1, is_alone: false }));
    assert_eq!(driven.member.role(), MemberRole::Candidate { epoch: 4 });
    assert_eq!(driven.member.record().granted, 0);
}

#[test]
fn a_process_knows_of_the_grant_of_the_one_before() {
    let record =
        MemberRecord { incarnation: "m1".into(), promised: 4, granted: 4, ..MemberRecord::default() };
    let mut driven = Driven::new(record);
    assert_eq!(ordered(&driven.hears(view(6, 4, 1, &[1, 2]))), None);
    driven.now += 2_000;
    assert!(ordered(&driven.tick()).is_some());
}

#[test]
fn nothing_is_confirmed_before_the_set_has_the_record_that_opened_the_leadership() {
    let mut driven = Driven::blank();
    driven.hears(view(5, 3, 1, &[1, 2]));
    let number = driven.number();
    let effects = driven.run(MemberInput::Opened { number, end: 500 });
    assert_eq!(statuses(&effects), [(CommitStatus::UNHEARD, false)]);
    assert_eq!(statuses(&driven.acked(2, 499))[0].0.high_watermark, 0);
    let (status, _) = statuses(&driven.acked(2, 500))[0];
    assert_eq!((status.high_watermark, status.lease_until), (500, 11_000));
    assert_eq!(driven.member.role(), MemberRole::Candidate { epoch: 3 });
    driven.run(MemberInput::Settled);
    assert_eq!(driven.member.role(), MemberRole::Leader { epoch: 3 });
}

#[test]
fn a_newcomer_is_asked_for_behind_a_barrier_and_when_it_is_remembered() {
    let mut driven = Driven::leading(&[1]);
    driven.acked(2, 900);
    let effects = driven.tick();
    assert!(statuses(&effects).iter().any(|(status, is_barrier)| *is_barrier && status.all == 900));
    assert_eq!(statuses(&driven.tick()).iter().filter(|(_, is_barrier)| *is_barrier).count(), 0);
    assert_eq!(driven.run(MemberInput::Published { end: 950 }), [], "950 may be confirmed without it");
    driven.acked(2, 950);
    let effects = driven.take(MemberInput::Tick { log: LOG, wants_quorum: false });
    let save = effects.iter().find_map(|effect| match effect {
        MemberEffect::Save { version, record } => Some((*version, record.clone())),
        _ => None,
    });
    let (version, record) = save.expect("the member is remembered first");
    assert!(record.memory.is_some_and(|memory| memory.in_sync.contains("m2")));
    assert!(!effects.iter().any(|effect| matches!(effect, MemberEffect::AskChange { .. })));
    driven.take(MemberInput::Saved(version));
    let is_asked = |effects: &[MemberEffect]| {
        effects.iter().any(|effect| matches!(effect, MemberEffect::AskChange { epoch: 3, me: 1, .. }))
    };
    assert!(is_asked(&driven.tick()));
    assert!(!is_asked(&driven.tick()), "one request at a time");
    driven.run(MemberInput::ChangeAnswered);
    assert!(is_asked(&driven.tick()), "it is repeated");
}

#[test]
fn a_first_leadership_waits_until_the_record_says_that_there_is_a_log() {
    let mut driven = Driven::blank();
    driven.hears(view(5, 3, 1, &[1]));
    let number = driven.number();
    let saves = driven.take(MemberInput::Opened { number, end: 500 });
    let [MemberEffect::Save { version, record }] = saves.as_slice() else { panic!("{saves:?}") };
    assert!(record.has_held);
    driven.take(MemberInput::Settled);
    assert_eq!(driven.member.role(), MemberRole::Candidate { epoch: 3 });
    assert_eq!(statuses(&driven.run(MemberInput::Saved(*version))).len(), 1);
    assert_eq!(driven.member.role(), MemberRole::Leader { epoch: 3 });
}

#[test]
fn a_leader_gives_its_lease_up_before_it_asks_to_be_replaced() {
    let mut driven = Driven::leading(&[1, 2]);
    driven.acked(2, 800);
    assert_eq!(driven.run(MemberInput::HandOver(2)), [MemberEffect::Drain]);
    assert_eq!(driven.member.role(), MemberRole::Resigning { epoch: 3 });
    assert_eq!(driven.run(MemberInput::Drained), [], "member 2 lacks something");
    let effects = driven.acked(2, 900);
    let [.., MemberEffect::Publish { status, .. }, MemberEffect::AskHandOver { epoch: 3, me: 1, to: 2 }] =
        effects.as_slice()
    else {
        panic!("{effects:?}")
    };
    assert_eq!(status.lease_until, 0);
    let refused = MemberInput::HandOverAnswered(HandOverAnswer::Refused("no".into()));
    let effects = driven.run(refused);
    assert!(effects.contains(&MemberEffect::HandedOver(Err("no".into()))), "{effects:?}");
    assert_eq!(driven.member.role(), MemberRole::Leader { epoch: 3 });
    assert!(statuses(&effects)[0].0.lease_until > driven.now, "it is sure of itself again");
}

/// A second request must not pass for the end of the first: its caller would admit the clients again, and never report that their
/// calls have ended.
#[test]
fn a_hand_over_that_is_wished_twice_ends_once() {
    let mut driven = Driven::leading(&[1, 2]);
    driven.acked(2, 800);
    driven.run(MemberInput::HandOver(0));
    assert_eq!(driven.run(MemberInput::HandOver(2)), [MemberEffect::Drain]);
    driven.run(MemberInput::Drained);
    assert_eq!(driven.run(MemberInput::HandOver(0)), [], "it is under way");
    assert_eq!(driven.member.role(), MemberRole::Resigning { epoch: 3 });
    let effects = driven.acked(2, 900);
    assert!(
        matches!(effects.last(), Some(MemberEffect::AskHandOver { to: 2, .. })),
        "the newest wish before the clients were out counts: {effects:?}"
    );
}

#[test]
fn a_hand_over_without_an_answer_is_waited_for() {
    let mut driven = Driven::leading(&[1, 2]);
    driven.acked(2, 900);
    driven.run(MemberInput::HandOver(0));
    driven.run(MemberInput::Drained);
    driven.tick();
    assert_eq!(driven.run(MemberInput::HandOverAnswered(HandOverAnswer::Unknown("lost".into()))), []);
    driven.now += 3_999;
    driven.tick();
    assert_eq!(driven.member.role(), MemberRole::Resigning { epoch: 3 }, "it may be carried out yet");
    let mut other = Driven { member: driven.member.clone(), now: driven.now };
    let effects = other.hears(view(6, 4, 0, &[1, 2]));
    assert!(effects.contains(&MemberEffect::HandedOver(Ok(()))), "{effects:?}");
    driven.now += 1;
    assert!(driven.tick().contains(&MemberEffect::HandedOver(Err("lost".into()))));
    assert_eq!(driven.member.role(), MemberRole::Leader { epoch: 3 });
}

#[test]
fn a_hand_over_that_followers_do_not_confirm_is_given_up() {
    let mut driven = Driven::leading(&[1, 2]);
    driven.acked(2, 800);
    driven.run(MemberInput::HandOver(0));
    driven.run(MemberInput::Drained);
    driven.now += 500;
    let effects = driven.tick();
    assert!(effects.iter().any(|effect| matches!(effect, MemberEffect::HandedOver(Err(_)))), "{effects:?}");
    let effects = Driven::leading(&[1]).run(MemberInput::HandOver(0));
    assert_eq!(effects, [MemberEffect::HandedOver(Err("no other member is in sync".into()))]);
}

#[test]
fn an_interrupted_member_does_nothing_until_it_is_resumed() {
    let mut driven = Driven::leading(&[1]);
    assert_eq!(ordered(&driven.run(MemberInput::Interrupted)), Some(&MemberDuty::Idle));
    let number = driven.number();
    assert_eq!(driven.run(MemberInput::Ended(number)), []);
    assert_eq!(driven.member.role(), MemberRole::Waiting);
    let effects = driven.run(MemberInput::Resumed);
    assert!(matches!(ordered(&effects), Some(MemberDuty::Lead { .. })), "{effects:?}");
}
