//! What must hold, each in a file of its own: some at every moment, some at the end, when nothing is in the way any more.

mod acknowledged;
mod dense;
mod elections;
mod folds;
mod fresh;
mod leaderships;
mod order;
mod phantoms;
mod prefixes;
mod promises;
mod transactions;

use kerolox_store::Store;

use crate::history::{History, TOPIC};

pub(crate) use acknowledged::check as acknowledged;
pub(crate) use dense::check as dense;
pub(crate) use elections::check as election;
pub(crate) use folds::check as fold;
pub(crate) use fresh::check as fresh;
pub(crate) use leaderships::LeadershipHistory;
pub(crate) use order::check as order;
pub(crate) use phantoms::check as phantoms;
pub(crate) use prefixes::{Canon, check_same};
pub(crate) use promises::Promises;
pub(crate) use transactions::{check as transactions, settled};

/// A message as the final master shows it.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) queue: u32,
    pub(crate) offset: u64,
    pub(crate) id: String,
    pub(crate) content: bytes::Bytes,
}

/// Everything that a store shows.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) shown: Vec<Shown>,
    /// First and next offset of each queue.
    pub(crate) bounds: Vec<(u64, u64)>,
}

impl View {
    /// Reads all queues through the index.
    pub(crate) fn of(store: &Store, queues: u32) -> Result<Self, String> {
        let mut view = Self { shown: Vec::new(), bounds: Vec::new() };
        for queue in 0..queues {
            let bounds = store.state().queues.bounds(TOPIC, queue);
            view.bounds.push((bounds.min, bounds.next));
            for offset in bounds.min..bounds.next {
                let entry = store.state().entry(TOPIC, queue, offset).map_err(|error| error.to_string())?;
                let entry = entry.ok_or_else(|| format!("no entry for queue {queue}, offset {offset}"))?;
                let (_, message) = store
                    .read_message(entry.position, entry.len)
                    .map_err(|error| format!("queue {queue}, offset {offset}: {error}"))?;
                let (id, content) = (message.header.message_id, message.content);
                view.shown.push(Shown { queue, offset, id, content });
            }
        }
        Ok(view)
    }

    /// What lies at a place.
    pub(crate) fn at(&self, queue: u32, offset: u64) -> Option<&Shown> {
        self.shown.iter().find(|shown| (shown.queue, shown.offset) == (queue, offset))
    }

    /// Whether a place was given up by retention.
    pub(crate) fn is_trimmed(&self, queue: u32, offset: u64) -> bool {
        self.bounds.get(queue as usize).is_some_and(|(min, _)| offset < *min)
    }
}

/// Everything that must hold of a group at the end.
pub(crate) fn at_the_end(history: &History, store: &Store, queues: u32) -> Result<(), String> {
    let view = View::of(store, queues)?;
    dense(&view)?;
    acknowledged(history, &view)?;
    phantoms(history, &view)?;
    order(history, &view)?;
    transactions(history, store, &view)
}
