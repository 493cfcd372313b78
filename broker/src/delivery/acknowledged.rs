//! Recent acknowledgements with client and time, for administrators. The log knows only that a message is done; this is memory
//! of the master, and is lost with it.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

/// Number of remembered acknowledgements: some 5 MB.
const REMEMBERED: usize = 65_536;

/// A message of a group, by its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessagePlace {
    /// Number of the group, or of the member of a broadcast group.
    pub group_id: u32,
    /// Number of the topic.
    pub topic_id: u32,
    /// Queue of the topic.
    pub queue: u32,
    /// Offset in the queue.
    pub offset: u64,
}

/// An acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcknowledgedMessages {
    /// Client id of the sender.
    pub client: Arc<str>,
    /// When it came, milliseconds since the Unix epoch.
    pub at_ms: i64,
}

/// The newest acknowledgements.
#[derive(Debug, Default)]
pub struct AckJournal(Mutex<VecDeque<(MessagePlace, AcknowledgedMessages)>>);

impl AckJournal {
    /// Records an acknowledgement, and forgets the oldest when there are too many.
    pub fn note(&self, place: MessagePlace, client: &str, at_ms: i64) {
        let mut entries = self.0.lock();
        // They come in bursts of one client.
        let last = entries.back().map(|(_, acknowledged)| &acknowledged.client);
        let client = last.filter(|last| &***last == client).cloned().unwrap_or_else(|| client.into());
        if entries.len() == REMEMBERED {
            entries.pop_front();
        }
        entries.push_back((place, AcknowledgedMessages { client, at_ms }));
    }

    /// The last acknowledgement of a message, if it is remembered.
    pub fn find(&self, place: MessagePlace) -> Option<AcknowledgedMessages> {
        let entries = self.0.lock();
        entries.iter().rev().find(|(known, _)| *known == place).map(|(_, acknowledged)| acknowledged.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(offset: u64) -> MessagePlace {
        MessagePlace { group_id: 1, topic_id: 2, queue: 3, offset }
    }

    #[test]
    fn the_newest_are_remembered() {
        let journal = AckJournal::default();
        journal.note(place(7), "early", 10);
        journal.note(place(7), "late", 20);
        assert_eq!(journal.find(place(7)), Some(AcknowledgedMessages { client: "late".into(), at_ms: 20 }));
        assert_eq!(journal.find(place(8)), None);
        for offset in 0..REMEMBERED as u64 {
            journal.note(place(100 + offset), "busy", 30);
        }
        assert_eq!(journal.find(place(7)), None, "there is a limit");
        assert!(journal.find(place(100)).is_some());
    }
}
