//! Transactions against a model, in thousands of seeded histories with check-backs, decisions of all kinds, restarts, power
//! cuts, rebuilt indexes and trims: a committed message is visible once, a rolled-back one never, an undecided one is
//! checked or parked, messages of one transaction share its fate, and no part remains of one that a crash cut off.

#[path = "support/machine.rs"]
mod machine;

use std::collections::BTreeMap;

use bytes::Bytes;
use kerolox_core::record::{
    CheckedHalf, DiscardRecord, MessageHeader, MessageHold, MessageRecord, ProgressItem, Record,
    ReleaseRecord,
};
use kerolox_core::topic::Topic;
use kerolox_core::transaction::{TransactionDecision, TransactionPhase};
use kerolox_store::ApplyOutcome;

use machine::{Machine, START_MS, each_seed};

const TOPIC: u32 = 1;
const QUEUES: u32 = 2;
const STEPS: usize = 80;
const HISTORIES: u64 = 2_000;
/// Maximum number of messages in a transaction.
const TOGETHER_MAX: u64 = 4;
const CHECKS_MAX: u32 = 3;

#[derive(Debug, Clone)]
struct Known {
    /// Queue and id of each message, in order.
    messages: Vec<(u32, String)>,
    phase: TransactionPhase,
    checks: u32,
    /// Decided long enough ago that its segment may be gone.
    decided: bool,
}

struct History {
    machine: Machine,
    /// By position of the message that decides.
    transactions: BTreeMap<u64, Known>,
    /// Remains of other transactions after a crash.
    torn: Vec<u64>,
    /// Ids in the order in which they became visible, by queue.
    visible: BTreeMap<u32, Vec<String>>,
}

impl History {
    fn new(seed: u64) -> Self {
        let machine = Machine::new(seed);
        machine.put_topic(Topic::new("t", QUEUES));
        Self { machine, transactions: BTreeMap::new(), torn: Vec::new(), visible: BTreeMap::new() }
    }

    fn step(&mut self, number: usize) {
        match self.machine.chooser.below(40) {
            0..10 => self.begin(number),
            10..12 => self.cut_off(number),
            12..20 => self.decide(TransactionDecision::Commit),
            20..25 => self.decide(TransactionDecision::Rollback),
            25..32 => self.check_back(),
            32 => self.decide_what_never_was(),
            33 => self.machine(Machine::restart),
            34 => self.machine(|machine| machine.kill(false)),
            35 => self.machine(|machine| machine.kill(true)),
            36 => self.machine(Machine::trim),
            _ => self.send(number),
        }
    }

    fn message(&mut self, id: &str, hold: MessageHold, joins: bool) -> (u32, Record) {
        let queue = u32::try_from(self.machine.below(QUEUES.into())).expect("small");
        let header = MessageHeader {
            topic_id: TOPIC,
            queue,
            message_id: id.to_owned(),
            hold: hold.into(),
            hold_ms: 1,
            joins,
            ..MessageHeader::default()
        };
        let content = Bytes::from(vec![7; 150]);
        (queue, Record::Message(MessageRecord { header, system: Bytes::new(), content }))
    }

    fn send(&mut self, number: usize) {
        let (queue, record) = self.message(&format!("plain{number}"), MessageHold::None, false);
        let outcome = self.machine.propose(&record).outcome;
        assert!(matches!(outcome, ApplyOutcome::Visible { .. }), "{outcome:?}");
        self.visible.entry(queue).or_default().push(format!("plain{number}"));
    }

    fn begin(&mut self, number: usize) {
        let count = self.machine.chooser.below(TOGETHER_MAX) + 1;
        let made = (1..=count).map(|i| (format!("half{number}-{i}"), i < count));
        let made: Vec<_> =
            made.map(|(id, joins)| (self.message(&id, MessageHold::Half, joins), id)).collect();
        let records: Vec<Record> = made.iter().map(|((_, record), _)| record.clone()).collect();
        let applied = self.machine.propose_all(&records);
        assert!(applied.iter().all(|applied| applied.outcome == ApplyOutcome::Held), "{applied:?}");
        let messages = made.into_iter().map(|((queue, _), id)| (queue, id)).collect();
        let known = Known { messages, phase: TransactionPhase::Prepared, checks: 0, decided: false };
        self.transactions.insert(applied.last().expect("one at least").position, known);
    }

    /// A power cut takes the end of a transaction that was never acknowledged.
    fn cut_off(&mut self, number: usize) {
        for i in 0..=self.machine.chooser.below(TOGETHER_MAX) {
            let (_, record) = self.message(&format!("torn{number}-{i}"), MessageHold::Half, true);
            self.torn.push(self.machine.propose(&record).position);
        }
        match self.machine.chooser.below(3) {
            0 => self.machine.restart(),
            loses_index => self.machine.kill(loses_index == 1),
        }
        // Every broker reports this at first.
        self.send(number);
        self.check();
    }

    fn any(&mut self) -> Option<u64> {
        let known: Vec<u64> = self.transactions.keys().copied().collect();
        self.machine.one_of(&known)
    }

    fn record(held: u64, decision: TransactionDecision) -> Record {
        let by = "p".to_owned();
        match decision {
            TransactionDecision::Commit => {
                Record::Release(ReleaseRecord { held, by, ..ReleaseRecord::default() })
            }
            TransactionDecision::Rollback => {
                Record::Discard(DiscardRecord { held, by, ..DiscardRecord::default() })
            }
        }
    }

    fn decide(&mut self, decision: TransactionDecision) {
        let Some(held) = self.any() else { return };
        let outcome = self.machine.propose(&Self::record(held, decision)).outcome;
        let known = self.transactions.get_mut(&held).expect("known");
        let what = format!("seed {}, {decision:?} of {known:?}: {outcome:?}", self.machine.seed);
        let decided = match decision {
            TransactionDecision::Commit => TransactionPhase::Committed,
            TransactionDecision::Rollback => TransactionPhase::RolledBack,
        };
        match known.phase {
            TransactionPhase::Prepared | TransactionPhase::Parked => {
                let is_shown = matches!(outcome, ApplyOutcome::Visible { .. });
                assert!(is_shown || outcome == ApplyOutcome::Discarded, "{what}");
                assert_eq!(is_shown, decision == TransactionDecision::Commit, "{what}");
                (known.phase, known.decided) = (decided, true);
                if is_shown {
                    for (queue, id) in known.messages.clone() {
                        self.visible.entry(queue).or_default().push(id);
                    }
                }
            }
            // When its segment is gone, the decision is forgotten.
            _ if outcome == ApplyOutcome::NoSuchHalf => assert!(known.decided, "{what}"),
            phase if phase == decided => assert_eq!(outcome, ApplyOutcome::Repeated, "{what}"),
            _ => assert_eq!(outcome, ApplyOutcome::Contradicted, "{what}"),
        }
    }

    fn decide_what_never_was(&mut self) {
        for held in self.torn.iter().copied().chain([9_999_999]).collect::<Vec<_>>() {
            let outcome = self.machine.propose(&Self::record(held, TransactionDecision::Commit)).outcome;
            assert_eq!(outcome, ApplyOutcome::NoSuchHalf, "seed {}", self.machine.seed);
        }
    }

    /// The broker's action when checks are due, with a producer that does not know.
    fn check_back(&mut self) {
        self.machine.wall_ms.fetch_add(1_000, std::sync::atomic::Ordering::Relaxed);
        let now_ms = self.machine.wall_ms.load(std::sync::atomic::Ordering::Relaxed);
        let due = self.machine.store().state().transactions.due(now_ms, None, 1_000).expect("reads");
        for (held, half) in due {
            let known = self.transactions.get_mut(&held).expect("only those that decide are checked back");
            assert_eq!(
                (known.phase, known.checks),
                (TransactionPhase::Prepared, half.checks),
                "seed {}",
                self.machine.seed
            );
            known.checks += 1;
            let is_last = known.checks == CHECKS_MAX;
            if is_last {
                known.phase = TransactionPhase::Parked;
            }
            let next_check_ms = (!is_last).then_some(now_ms + 500);
            let checked = CheckedHalf {
                held,
                checks: known.checks,
                next_check_ms,
                asked: "p".into(),
                ..CheckedHalf::default()
            };
            self.machine.progress(ProgressItem::Checked(checked));
        }
        let late = self
            .transactions
            .values()
            .find(|known| known.phase == TransactionPhase::Prepared && known.checks == 0);
        assert!(late.is_none(), "seed {}: {late:?} was not checked", self.machine.seed);
    }

    /// Applies an event to the machine.
    fn machine(&mut self, happens: impl FnOnce(&mut Machine)) {
        happens(&mut self.machine);
        self.check();
    }

    /// Checks that the store agrees with the model.
    fn check(&self) {
        let what = format!("seed {}", self.machine.seed);
        let store = self.machine.store();
        let index = store.state();
        let undecided = self.transactions.iter().filter(|(_, known)| !known.decided);
        let (mut messages, mut transactions) = (0, 0);
        for (position, known) in undecided {
            let half = index.transactions.get(*position).expect("reads").expect("undecided ones stay");
            assert_eq!((half.phase, half.checks), (known.phase, known.checks), "{what}");
            let all =
                half.members.iter().map(|member| (*member, index.transactions.get(*member).expect("reads")));
            let all = all.chain([(*position, Some(half.clone()))]);
            for ((position, half), (queue, id)) in std::iter::zip(all, &known.messages) {
                let half = half.expect("stays with its transaction");
                let read = store.read_message(half.location(position), half.frame_len);
                let (_, message) = read.expect("an undecided message outlives its segment");
                assert_eq!((&message.header.message_id, half.queue), (id, *queue), "{what}");
                messages += 1;
            }
            transactions += 1;
        }
        assert_eq!(index.transactions.open_total(), transactions, "{what}");
        assert_eq!(index.transactions.due(i64::MAX, None, 10_000).expect("reads").len(), messages, "{what}");
        for queue in 0..QUEUES {
            let expected = self.visible.get(&queue).map_or(&[][..], Vec::as_slice);
            let bounds = index.queues.bounds(TOPIC, queue);
            assert_eq!(bounds.next, expected.len() as u64, "{what}, queue {queue}");
            for (offset, entry) in index.queues.entries(TOPIC, queue, bounds.min, 10_000).expect("reads") {
                let entry = index.carried_entry(TOPIC, queue, offset, entry).expect("reads");
                let (_, message) = store.read_message(entry.position, entry.len).expect("reads");
                let id = &expected[usize::try_from(offset).expect("small")];
                assert_eq!(&message.header.message_id, id, "{what}, queue {queue}, offset {offset}");
            }
        }
    }

    fn run(mut self) {
        assert!(self.machine.wall_ms.load(std::sync::atomic::Ordering::Relaxed) >= START_MS);
        (0..STEPS).for_each(|number| self.step(number));
        self.check();
        // A half message that is asked about often enough ends up parked, and has no other fate.
        for _ in 0..=CHECKS_MAX {
            self.check_back();
        }
        let open = self.transactions.values().filter(|known| !known.decided);
        assert!(
            open.clone().all(|known| known.phase == TransactionPhase::Parked),
            "seed {}",
            self.machine.seed
        );
        self.check();
    }
}

#[test]
fn transactions_follow_the_model_in_every_history() {
    each_seed(HISTORIES, |seed| History::new(seed).run());
}
