//! Reading stored messages: here, or at a slave.

use std::sync::Arc;

use kerolox_store::{QueueEntry, ReadMessage, Store, StoreError};

use crate::replication::{Leadership, RemoteRead};

/// Reads the messages of this broker, at any member of its group that has them intact. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MessageReader {
    store: Arc<Store>,
    /// Leadership of a member of a replicated group.
    leadership: Option<Arc<Leadership>>,
}

impl MessageReader {
    /// A reader of the messages of `store`, and of those of its slaves while it leads.
    pub(crate) fn new(store: Arc<Store>, leadership: Option<Arc<Leadership>>) -> Self {
        Self { store, leadership }
    }

    /// The messages of entries, each as from [`Store::read_entry`]. In a replicated group, messages that are damaged here are
    /// read at a slave, and so are old ones if the operator chose that.
    pub(crate) async fn read_entries(&self, entries: &[Option<QueueEntry>]) -> Vec<ReadMessage> {
        let far: Vec<QueueEntry> = match &self.leadership {
            Some(leadership) if leadership.reads_far_back_elsewhere() => {
                entries.iter().flatten().filter(|entry| !self.store.is_hot(entry.position)).copied().collect()
            }
            _ => Vec::new(),
        };
        let elsewhere = self.read_elsewhere(&far).await;
        let read = |entry: &Option<QueueEntry>| match entry {
            Some(entry) => match elsewhere.get(&entry.position) {
                Some(message) => Ok(Some(message.clone())),
                None => self.store.read_entry(entry),
            },
            None => Ok(None),
        };
        let mut messages: Vec<ReadMessage> = entries.iter().map(read).collect();
        let is_damaged = |read: &ReadMessage| read.as_ref().is_err_and(StoreError::is_damage);
        let damaged = entries.iter().zip(&messages).filter(|(_, read)| is_damaged(read));
        let damaged: Vec<QueueEntry> = damaged.filter_map(|(entry, _)| *entry).collect();
        let mended = self.read_elsewhere(&damaged).await;
        for (entry, read) in entries.iter().zip(&mut messages) {
            if let Some(message) = entry.and_then(|entry| mended.get(&entry.position)) {
                *read = Ok(Some(message.clone()));
            }
        }
        messages
    }

    async fn read_elsewhere(&self, entries: &[QueueEntry]) -> RemoteRead {
        match &self.leadership {
            Some(leadership) if !entries.is_empty() => leadership.read_elsewhere(entries).await,
            _ => RemoteRead::default(),
        }
    }
}
