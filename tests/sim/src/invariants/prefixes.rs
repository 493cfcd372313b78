//! Logs are prefixes of each other below the confirmed end: what a master takes for confirmed is in the log of every
//! later master, frame by frame.

use kerolox_log::Frame;
use kerolox_store::Store;

/// A frame in a few words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Print {
    position: u64,
    len: u32,
    kind: u8,
    epoch: u32,
    store_ms: i64,
    body: u32,
}

impl Print {
    fn of(frame: &Frame) -> Self {
        Self {
            position: frame.position,
            len: frame.len,
            kind: frame.kind,
            epoch: frame.epoch,
            store_ms: frame.store_ms,
            body: crc32c::crc32c(&frame.body),
        }
    }
}

/// The confirmed log of a group.
#[derive(Default)]
pub(crate) struct Canon {
    prints: Vec<Print>,
    end: u64,
    /// The process that confirmed last, and the newest epoch that anything was confirmed in.
    by: u64,
    epoch: u32,
}

impl Canon {
    /// A master, by its process and epoch, takes everything before `until` for confirmed.
    pub(crate) fn confirmed(
        &mut self,
        store: &Store,
        (life, epoch): (u64, u32),
        until: u64,
    ) -> Result<(), String> {
        if life != self.by {
            // One of an earlier epoch that did not hear of its end: what it takes for confirmed must be so.
            self.check_before(store, until)?;
            self.by = life;
        }
        self.epoch = self.epoch.max(epoch);
        if until <= self.end {
            return Ok(());
        }
        for frame in store.reader().scan(self.end.max(store.reader().start())) {
            let frame = frame.map_err(|error| error.to_string())?;
            if frame.end() > until {
                break;
            }
            self.prints.push(Print::of(&frame));
        }
        self.end = until;
        Ok(())
    }

    /// The log of a master that begins to lead holds everything that is confirmed. One of an earlier epoch than the newest may lack
    /// something: it will never confirm anything.
    pub(crate) fn opened(&self, store: &Store, epoch: u32) -> Result<(), String> {
        if epoch < self.epoch { Ok(()) } else { self.check(store) }
    }

    /// The log of `store` holds everything that is confirmed, as far as it was not trimmed.
    pub(crate) fn check(&self, store: &Store) -> Result<(), String> {
        self.check_before(store, u64::MAX)
    }

    fn check_before(&self, store: &Store, until: u64) -> Result<(), String> {
        let start = store.reader().start();
        let mut frames = store.reader().scan(start);
        let prints = self.prints.iter().filter(|print| print.position >= start && print.position < until);
        for print in prints {
            let frame = frames.next().transpose().map_err(|error| error.to_string())?;
            let found = frame.as_ref().map(Print::of);
            if found != Some(*print) {
                return Err(format!("confirmed was {print:?}, but the log has {found:?}"));
            }
        }
        Ok(())
    }
}

/// The logs of two stores are the same from where both begin.
pub(crate) fn check_same(a: &Store, b: &Store) -> Result<(), String> {
    let start = a.reader().start().max(b.reader().start());
    let (mut ours, mut theirs) = (a.reader().scan(start), b.reader().scan(start));
    loop {
        match (ours.next().transpose(), theirs.next().transpose()) {
            (Ok(None), Ok(None)) => return Ok(()),
            (Ok(our), Ok(their)) if our == their => {}
            (our, their) => return Err(format!("logs differ: {our:?} and {their:?}")),
        }
    }
}
