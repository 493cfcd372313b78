//! The index's interface to a key-value store: a few calls, so that RocksDB stays behind one crate and an ordered map
//! serves tests and simulations.

mod mem;
mod pairs;
mod suite;

pub use mem::MemKv;
pub(crate) use pairs::pairs;
pub use suite::check_contract;

/// Families of keys, one column family each. The names are part of the index format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyFamily {
    /// Position of the state machine, and counters.
    State,
    /// Topics by id.
    Topics,
    /// Consumer groups by id.
    Groups,
    /// Bounds of queues.
    Queues,
    /// Blocks of queue entries.
    Entries,
    /// Half messages by position.
    Halves,
    /// Undecided half messages by the time of their next check.
    HalfDue,
    /// Scheduled messages by position.
    Timers,
    /// Pending scheduled messages by their delivery time.
    TimerDue,
    /// Acknowledgements by group, topic and queue.
    Progress,
    /// Visible messages whose record was carried forward.
    Kept,
    /// Places of messages by hashes of their ids and keys.
    Lookups,
    /// Lite topics by parent and name.
    Lites,
    /// Slots of message groups that move to other queues, by topic.
    Moving,
    /// Messages of topics with deduplication, by identity.
    Dedup,
    /// Manual decisions of administrators, by position.
    Audit,
}

impl KeyFamily {
    /// Every family.
    pub const ALL: [Self; 16] = [
        Self::State,
        Self::Topics,
        Self::Groups,
        Self::Queues,
        Self::Entries,
        Self::Halves,
        Self::HalfDue,
        Self::Timers,
        Self::TimerDue,
        Self::Progress,
        Self::Kept,
        Self::Lookups,
        Self::Lites,
        Self::Moving,
        Self::Dedup,
        Self::Audit,
    ];

    /// Name on disk.
    pub fn name(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Topics => "topics",
            Self::Groups => "groups",
            Self::Queues => "queues",
            Self::Entries => "entries",
            Self::Halves => "halves",
            Self::HalfDue => "half-due",
            Self::Timers => "timers",
            Self::TimerDue => "timer-due",
            Self::Progress => "progress",
            Self::Kept => "kept",
            Self::Lookups => "lookups",
            Self::Lites => "lites",
            Self::Moving => "moving",
            Self::Dedup => "dedup",
            Self::Audit => "audit",
        }
    }
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteOp {
    /// Sets a key.
    Put(KeyFamily, Vec<u8>, Vec<u8>),
    /// Removes a key.
    Delete(KeyFamily, Vec<u8>),
    /// Removes every key that begins with a prefix; an empty one empties the family.
    DeletePrefix(KeyFamily, Vec<u8>),
    /// Removes every key from the first one on up to, but not including, the second one.
    DeleteRange(KeyFamily, Vec<u8>, Vec<u8>),
}

/// A key and its value.
pub type KeyValue = (Vec<u8>, Vec<u8>);

/// The store failed; the text is its own, without the path of its folder: clients may see it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// Its content is corrupt or gone. A retry does not help; a new store does, because it is rebuilt from the log.
    #[error("the index is damaged: {0}")]
    Damaged(String),
    /// Any other failure: no space, too many open files, closed.
    #[error("the index store failed: {0}")]
    Failed(String),
}

impl KvError {
    /// Whether the cause is a lack of space, so that a retry is safe once there is some. Stores return no more than the text of
    /// the system.
    pub fn is_full(&self) -> bool {
        let Self::Failed(said) = self else { return false };
        ["No space left on device", "Disk quota exceeded"].iter().any(|text| said.contains(text))
    }
}

/// Pairs that [`Kv::scan_prefix`] reads at a time; more would mostly belong to other prefixes.
const PREFIX_PAGE: usize = 32;

/// An ordered key-value store. [`check_contract`] defines the behaviour of every implementation.
pub trait Kv: Send + Sync {
    /// The value of a key.
    ///
    /// # Errors
    /// [`KvError`] when the store fails, here and below.
    fn get(&self, family: KeyFamily, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Up to `limit` pairs with keys at or after `from`, in key order.
    ///
    /// # Errors
    /// See [`Self::get`].
    fn scan(&self, family: KeyFamily, from: &[u8], limit: usize) -> Result<Vec<KeyValue>, KvError>;

    /// Up to `limit` pairs whose key begins with `prefix`, in key order, from the last one at or before `at`; if there is
    /// none, from the first one behind it.
    ///
    /// # Errors
    /// See [`Self::get`].
    fn scan_around(
        &self,
        family: KeyFamily,
        prefix: &[u8],
        at: &[u8],
        limit: usize,
    ) -> Result<Vec<KeyValue>, KvError>;

    /// All pairs whose key begins with `prefix`, in key order; for ranges that fit into memory.
    ///
    /// # Errors
    /// See [`Self::get`].
    fn scan_prefix(&self, family: KeyFamily, prefix: &[u8]) -> Result<Vec<KeyValue>, KvError> {
        let mut found: Vec<KeyValue> = Vec::new();
        let mut from = prefix.to_vec();
        loop {
            let page = self.scan(family, &from, PREFIX_PAGE)?;
            let next = page.get(PREFIX_PAGE - 1).map(|(last, _)| last.clone());
            found.extend(page.into_iter().take_while(|(key, _)| key.starts_with(prefix)));
            match next.filter(|last| last.starts_with(prefix)) {
                Some(last) => from = last,
                None => return Ok(found),
            }
            // The smallest key after the last one.
            from.push(0);
        }
    }

    /// Applies all changes or none, in order. They need not be durable at once, but after a crash the store holds a
    /// prefix of the written batches, each whole.
    ///
    /// # Errors
    /// See [`Self::get`].
    fn write(&self, ops: Vec<WriteOp>) -> Result<(), KvError>;

    /// Makes everything written so far survive a power cut.
    ///
    /// # Errors
    /// See [`Self::get`].
    fn persist(&self) -> Result<(), KvError>;
}
