//! Which broker group a message goes to that a server passes on.

use std::sync::atomic::{AtomicUsize, Ordering};

use kerolox_proto::v2;
use twox_hash::XxHash3_64;

/// The choice of one server among the broker groups that take a topic.
#[derive(Debug, Default)]
pub struct GroupRotation {
    /// Which group is next for messages that belong to no others.
    turn: AtomicUsize,
}

impl GroupRotation {
    /// The groups in the order in which to try them. Messages of one message group or lite topic always go to the same group
    /// first, whichever server is asked, as long as there are the same groups; others take turns.
    pub fn order(&self, mut groups: Vec<String>, message: &v2::Message) -> Vec<String> {
        let properties = message.system_properties.as_ref();
        let together = properties
            .and_then(|properties| properties.message_group.as_deref().or(properties.lite_topic.as_deref()));
        let number = match together {
            // Every server comes to equal numbers, and so does every run.
            Some(name) => (XxHash3_64::oneshot(name.as_bytes()) >> 32) as usize,
            None => self.turn.fetch_add(1, Ordering::Relaxed),
        };
        if let Some(first) = number.checked_rem(groups.len()) {
            groups.rotate_left(first);
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups() -> Vec<String> {
        ["a", "b", "c"].map(str::to_owned).to_vec()
    }

    fn message(group: Option<&str>) -> v2::Message {
        let properties =
            v2::SystemProperties { message_group: group.map(str::to_owned), ..Default::default() };
        v2::Message { system_properties: Some(properties), ..Default::default() }
    }

    #[test]
    fn messages_take_turns_and_every_group_can_be_tried() {
        let spread = GroupRotation::default();
        let orders: Vec<String> = (0..4).map(|_| spread.order(groups(), &message(None)).concat()).collect();
        assert_eq!(orders, ["abc", "bca", "cab", "abc"]);
        assert!(spread.order(Vec::new(), &message(None)).is_empty());
    }

    #[test]
    fn a_message_group_goes_to_one_broker_group_on_every_server() {
        let (one, other) = (GroupRotation::default(), GroupRotation::default());
        other.order(groups(), &message(None));
        let mut used = std::collections::BTreeSet::new();
        for number in 0..20 {
            let message = message(Some(&format!("customer-{number}")));
            let order = one.order(groups(), &message);
            assert_eq!(order, other.order(groups(), &message));
            used.insert(order[0].clone());
        }
        assert_eq!(used.len(), 3);
    }
}
