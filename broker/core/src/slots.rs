//! The queues of message groups, and how they move when a topic gets another number of queues.
//!
//! A message group belongs to one of [`SLOTS`] slots, and a slot to a queue. Another number of queues moves most slots, but
//! the earlier messages of a slot must be consumed before later ones: a slot stays on its queue until the consumers have
//! finished all its messages there, and only then do its next messages go to the new queue.

use std::collections::BTreeMap;

use prost::Message;

use crate::lookup;

/// Slots of a topic: enough that 1024 queues get about the same number of them, few enough that a bit for each is 2 KiB.
pub const SLOTS: u32 = 16_384;

const SLOT_BYTES: usize = SLOTS as usize / 8;

/// The slot of a message group.
pub fn slot_of(message_group: &str) -> u32 {
    u32::try_from(lookup::id_hash(message_group) % u64::from(SLOTS)).expect("below the number of slots")
}

/// The queue of a slot in a topic with `write_queues` queues. The producer's choice does not matter: SDKs differ in how they
/// choose.
pub fn queue_of(slot: u32, write_queues: u32) -> u32 {
    let queue = slot % write_queues.max(1);
    assert!(queue == 0 || queue < write_queues, "a slot belongs to one of the queues");
    queue
}

/// The offset of a queue before which all consumer groups have finished: the minimum over the ordered groups, or over all groups
/// if none is ordered; `None` without groups. `groups` yields for each group whether it is ordered, and the offset before which
/// it has finished everything.
pub fn finished_by_all(groups: impl IntoIterator<Item = (bool, u64)>) -> Option<u64> {
    let groups: Vec<(bool, u64)> = groups.into_iter().collect();
    let any_ordered = groups.iter().any(|(is_ordered, _)| *is_ordered);
    groups.iter().filter(|(is_ordered, _)| *is_ordered || !any_ordered).map(|(_, floor)| *floor).min()
}

/// The slots of a topic that have not moved to their new queue yet. Field numbers are part of the index format and of
/// snapshots.
///
/// A queue has a mark: its end at the last check. A slot without messages since then may leave the queue once everything
/// before the mark is finished.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MovingSlots {
    /// Slots by the number of queues that determines their place; without overlaps.
    #[prost(message, repeated, tag = "1")]
    staying: Vec<Staying>,
    /// Slots that got a message since the mark of their queue: a bit each, from the lowest one of the first byte on.
    #[prost(bytes = "vec", tag = "2")]
    touched: Vec<u8>,
    /// Marks by queue.
    #[prost(btree_map = "uint32, uint64", tag = "3")]
    marks: BTreeMap<u32, u64>,
}

/// Slots that stay where an earlier number of queues put them.
#[derive(Clone, PartialEq, Eq, Message)]
struct Staying {
    #[prost(uint32, tag = "1")]
    write_queues: u32,
    /// A bit for each slot, as in [`MovingSlots::touched`].
    #[prost(bytes = "vec", tag = "2")]
    slots: Vec<u8>,
}

impl MovingSlots {
    /// The slots that have to move when the number of queues changes; `present` are those that had to move before. `ends`
    /// returns the next offset of a queue, or `None` if nothing in it will ever be consumed: slots leave such a queue at once.
    pub fn resized(
        present: Option<&Self>,
        from: u32,
        to: u32,
        ends: &impl Fn(u32) -> Option<u64>,
    ) -> Option<Self> {
        let mut moving = Self { touched: vec![0; SLOT_BYTES], ..Self::default() };
        for slot in 0..SLOTS {
            let write_queues = present.and_then(|present| present.write_queues_of(slot)).unwrap_or(from);
            let queue = queue_of(slot, write_queues);
            if queue != queue_of(slot, to)
                && let Some(end) = ends(queue)
            {
                moving.stay(slot, write_queues);
                moving.marks.insert(queue, end);
            }
        }
        assert_eq!(moving.staying.is_empty(), moving.marks.is_empty(), "slots stay where a queue has a mark");
        assert!(moving.slots() <= SLOTS, "a slot stays in one queue");
        (!moving.staying.is_empty()).then_some(moving)
    }

    /// The queue of a slot that has not moved yet.
    pub fn queue(&self, slot: u32) -> Option<u32> {
        self.write_queues_of(slot).map(|write_queues| queue_of(slot, write_queues))
    }

    /// Records a message for a slot. Returns whether that changed anything.
    pub fn touch(&mut self, slot: u32) -> bool {
        let is_news = self.queue(slot).is_some() && !bit(&self.touched, slot);
        if is_news {
            set_bit(&mut self.touched, slot, true);
        }
        is_news
    }

    /// Everything before `floor` in `queue` is finished: releases the slots without messages behind it, and marks the queue
    /// anew for the others. Returns whether anything changed.
    pub fn finished(&mut self, queue: u32, floor: u64, ends: &impl Fn(u32) -> Option<u64>) -> bool {
        let Some(mark) = self.marks.get(&queue).copied().filter(|mark| *mark <= floor) else { return false };
        let end = ends(queue);
        let mut is_needed = false;
        for layer in self.staying.iter_mut().filter(|layer| queue < layer.write_queues) {
            for slot in (queue..SLOTS).step_by(layer.write_queues as usize) {
                if !bit(&layer.slots, slot) {
                    continue;
                }
                if bit(&self.touched, slot) && end.is_some() {
                    set_bit(&mut self.touched, slot, false);
                    is_needed = true;
                } else {
                    set_bit(&mut layer.slots, slot, false);
                }
            }
        }
        self.staying.retain(|layer| layer.slots.iter().any(|byte| *byte != 0));
        match end.filter(|_| is_needed) {
            Some(end) => drop(self.marks.insert(queue, end.max(mark))),
            None => drop(self.marks.remove(&queue)),
        }
        true
    }

    /// Whether every slot is where it belongs.
    pub fn is_over(&self) -> bool {
        self.staying.is_empty()
    }

    /// Queues that slots wait to leave, each with the offset before which everything has to be finished.
    pub fn marks(&self) -> impl Iterator<Item = (u32, u64)> + '_ {
        self.marks.iter().map(|(queue, mark)| (*queue, *mark))
    }

    /// Slots that have not moved yet.
    pub fn slots(&self) -> u32 {
        self.staying.iter().flat_map(|layer| &layer.slots).map(|byte| byte.count_ones()).sum()
    }

    fn write_queues_of(&self, slot: u32) -> Option<u32> {
        self.staying.iter().find(|layer| bit(&layer.slots, slot)).map(|layer| layer.write_queues)
    }

    fn stay(&mut self, slot: u32, write_queues: u32) {
        let place = self.staying.iter().position(|layer| layer.write_queues == write_queues);
        let place = place.unwrap_or_else(|| {
            self.staying.push(Staying { write_queues, slots: vec![0; SLOT_BYTES] });
            self.staying.len() - 1
        });
        set_bit(&mut self.staying[place].slots, slot, true);
    }
}

/// Bits beyond what was stored are 0.
fn bit(bits: &[u8], slot: u32) -> bool {
    bits.get(slot as usize / 8).is_some_and(|byte| byte >> (slot % 8) & 1 == 1)
}

fn set_bit(bits: &mut [u8], slot: u32, value: bool) {
    if let Some(byte) = bits.get_mut(slot as usize / 8) {
        let mask = 1 << (slot % 8);
        *byte = if value { *byte | mask } else { *byte & !mask };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_at(end: u64) -> impl Fn(u32) -> Option<u64> {
        move |_| Some(end)
    }

    #[test]
    fn a_slot_stays_until_what_it_has_is_finished() {
        let mut moving = MovingSlots::resized(None, 2, 3, &all_at(10)).expect("slots move");
        // Slot 2 belongs to queue 0 of 2 and to queue 2 of 3; slot 1 to queue 1 both times.
        assert_eq!((moving.queue(2), moving.queue(1)), (Some(0), None));
        assert!(!moving.finished(0, 9, &all_at(12)));
        assert_eq!(moving.queue(2), Some(0));
        assert!(moving.finished(0, 10, &all_at(12)));
        assert_eq!(moving.queue(2), None);
        assert_eq!(moving.marks().collect::<Vec<_>>(), [(1, 10)]);
        assert!(moving.finished(1, 10, &all_at(12)));
        assert!(moving.is_over());
    }

    #[test]
    fn a_slot_with_new_messages_waits_for_those() {
        let mut moving = MovingSlots::resized(None, 2, 3, &all_at(10)).expect("slots move");
        assert!(moving.touch(2));
        assert!(!moving.touch(2) && !moving.touch(1));
        assert!(moving.finished(0, 10, &all_at(14)));
        // Slot 8 got no message.
        assert_eq!((moving.queue(2), moving.queue(8)), (Some(0), None));
        assert!(!moving.finished(0, 13, &all_at(14)));
        assert!(moving.finished(0, 14, &all_at(14)));
        assert_eq!(moving.queue(2), None);
    }

    #[test]
    fn slots_of_empty_queues_move_at_once() {
        assert_eq!(MovingSlots::resized(None, 2, 3, &|_| None), None);
        let moving =
            MovingSlots::resized(None, 2, 3, &|queue| (queue == 1).then_some(4)).expect("slots move");
        assert_eq!((moving.queue(2), moving.queue(3)), (None, Some(1)));
    }

    #[test]
    fn a_number_that_changes_again_moves_each_slot_from_where_it_is() {
        let moving = MovingSlots::resized(None, 2, 3, &all_at(10)).expect("slots move");
        // Slot 5 stays in queue 1 of 2, which is its place with 4 queues, too. Slot 2 moves, and slot 7 of 3 stays in queue
        // 1.
        let again = MovingSlots::resized(Some(&moving), 3, 4, &all_at(10)).expect("slots move");
        assert_eq!([5, 2, 7].map(|slot| again.queue(slot)), [None, Some(0), Some(1)]);
        assert_eq!(MovingSlots::resized(Some(&moving), 3, 2, &all_at(10)), None);
    }

    #[test]
    fn those_for_whom_order_matters_have_the_say() {
        assert_eq!(finished_by_all([(true, 7), (false, 2), (true, 9)]), Some(7));
        assert_eq!(finished_by_all([(false, 7), (false, 2)]), Some(2));
        assert_eq!(finished_by_all([]), None);
    }

    #[test]
    fn groups_spread_over_the_queues() {
        let mut counts = [0; 8];
        for group in 0..8_000 {
            counts[queue_of(slot_of(&format!("customer-{group}")), 8) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
    }
}
