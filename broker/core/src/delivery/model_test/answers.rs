//! What becomes of what was handed out: its consumers answer, or do not.

use proptest::prelude::*;

use super::super::{DeliveredMessage, ExhaustedAction, HandleError};
use super::MAX_ATTEMPTS;
use super::world::{ExpectedFlight, ModelWorld, lease_of, name};
use crate::queue_offset::QueueOffset;

impl ModelWorld {
    pub(super) fn handle(&self, index: usize) -> Option<(usize, DeliveredMessage)> {
        (!self.handles.is_empty()).then(|| self.handles[index % self.handles.len()].clone())
    }

    pub(super) fn ack(&mut self, index: usize) -> Result<(), TestCaseError> {
        let Some((_, message)) = self.handle(index) else { return Ok(()) };
        let answer = self.subscription.ack(self.now_ms, &lease_of(&message));
        let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
        if expected.done || expected.admits(&message, self.now_ms) {
            prop_assert_eq!(answer, Ok(()));
            if !std::mem::replace(&mut expected.done, true) {
                self.note_overtaken(message.offset);
            }
        } else {
            let refused = matches!(answer, Err(HandleError::Expired | HandleError::Superseded));
            prop_assert!(refused, "{:?}", answer);
        }
        Ok(())
    }

    /// What a group in order had handed out in front of a message that is done.
    pub(super) fn note_overtaken(&mut self, offset: QueueOffset) {
        let key = self.key(offset);
        let in_front: Vec<QueueOffset> =
            QueueOffset::FIRST.up_to(offset).filter(|other| self.key(*other) == key).collect();
        for other in in_front.into_iter().filter(|_| self.policy.ordered) {
            if let Some(expected) = self.reference.get_mut(&other) {
                expected.noted |= expected.repeats && !expected.done;
            }
        }
    }

    pub(super) fn nack(&mut self, index: usize, ms: u64, suspend: bool) -> Result<(), TestCaseError> {
        let Some((client, message)) = self.handle(index) else { return Ok(()) };
        let answer = self.subscription.change_invisible(self.now_ms, &lease_of(&message), ms, suspend);
        let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
        if expected.done {
            prop_assert_eq!(answer, Ok(None));
        } else if expected.admits(&message, self.now_ms) {
            let lease = answer.expect("a current handle").expect("not done");
            prop_assert_eq!(lease.visible_ms, self.now_ms + i64::try_from(ms).expect("small"));
            *expected = ExpectedFlight {
                attempts: message.attempt - u32::from(suspend),
                invisible_until_ms: lease.visible_ms,
                lease: Some(lease.lease),
                repeats: true,
                noted: true,
                ..expected.anew()
            };
            let place = index % self.handles.len();
            self.handles[place] =
                (client, DeliveredMessage { lease: lease.lease, visible_ms: lease.visible_ms, ..message });
        } else {
            prop_assert!(answer.is_err());
        }
        Ok(())
    }

    pub(super) fn give_up(&mut self, index: usize) -> Result<(), TestCaseError> {
        let Some((_, message)) = self.handle(index) else { return Ok(()) };
        let answer = self.subscription.give_up(self.now_ms, &lease_of(&message));
        let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
        if expected.done {
            prop_assert_eq!(answer, Ok(false));
        } else if expected.admits(&message, self.now_ms) {
            prop_assert_eq!(answer, Ok(true));
            if self.policy.exhausted == ExhaustedAction::Block {
                *expected = ExpectedFlight { attempts: MAX_ATTEMPTS, blocked: true, ..expected.anew() };
            }
        } else {
            prop_assert!(answer.is_err());
        }
        Ok(())
    }

    pub(super) fn unblock(&mut self, index: usize) {
        let blocked = self.subscription.blocked();
        let Some(message) = blocked.get(index) else { return };
        assert!(self.subscription.unblock(self.now_ms, message.queue, message.offset));
        let expected = self.reference.get_mut(&message.offset).expect("it was delivered");
        *expected = ExpectedFlight { invisible_until_ms: self.now_ms, ..expected.anew() };
    }

    pub(super) fn give_back(&mut self, index: usize) {
        let Some((_, message)) = self.handle(index) else { return };
        self.subscription.give_back(self.now_ms, std::slice::from_ref(&message));
        let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
        if !expected.done && expected.lease == Some(message.lease) {
            *expected = ExpectedFlight {
                attempts: message.attempt - 1,
                invisible_until_ms: self.now_ms,
                repeats: message.attempt > 1 || expected.noted,
                ..expected.anew()
            };
        }
    }

    /// A receive breaks: what its client still holds because of it can be had again, and nothing else changes.
    pub(super) fn breaks(&mut self, index: usize, sent: bool) -> Result<(), TestCaseError> {
        let Some((client, one)) = self.handle(index) else { return Ok(()) };
        let of_receive = |(holder, message): &(usize, DeliveredMessage)| {
            *holder == client && message.receive == one.receive
        };
        let batch: Vec<DeliveredMessage> =
            self.handles.iter().filter(|h| of_receive(h)).map(|(_, m)| m.clone()).collect();
        let has_acted = |message: &DeliveredMessage| {
            let expected = &self.reference[&message.offset];
            expected.done || expected.lease != Some(message.lease)
        };
        prop_assert_eq!(self.subscription.is_known_to_have(&batch), batch.iter().any(has_acted));
        if sent {
            self.subscription.may_not_have_come(self.now_ms, &batch);
        } else {
            self.subscription.never_came(self.now_ms, &batch);
        }
        for message in &batch {
            let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
            if !expected.done && expected.lease == Some(message.lease) && expected.receive == message.receive
            {
                *expected = ExpectedFlight {
                    attempts: message.attempt - u32::from(!sent),
                    invisible_until_ms: self.now_ms + if sent { 1_000 } else { 0 },
                    repeats: sent || message.attempt > 1 || expected.noted,
                    ..expected.anew()
                };
            }
        }
        Ok(())
    }

    pub(super) fn client_dies(&mut self, client: usize) {
        self.alive[client] = false;
        self.subscription.client_left(self.now_ms, &name(client));
        for (holder, message) in &self.handles {
            let expected = self.reference.get_mut(&message.offset).expect("it was handed out");
            if *holder == client
                && expected.lease == Some(message.lease)
                && expected.alive_held
                && !expected.done
            {
                expected.invisible_until_ms = self.now_ms;
                expected.alive_held = false;
            }
        }
    }
}
