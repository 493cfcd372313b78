//! Walking through a family of two stores side by side.

use crate::kv::{KeyFamily, KeyValue, Kv, KvError};
use crate::state::table::StateTable;

/// Pairs that are read at a time.
const PAGE: usize = 1024;

/// All pairs of a family, read a page at a time. Pairs that were separated only by a flush are joined.
pub(super) struct Scan<'a> {
    kv: &'a dyn Kv,
    family: KeyFamily,
    /// The table that owns the family, and knows its pieces.
    table: Option<&'a dyn StateTable>,
    page: std::vec::IntoIter<KeyValue>,
    next: Option<Vec<u8>>,
    current: Option<KeyValue>,
}

impl<'a> Scan<'a> {
    pub(super) fn new(kv: &'a dyn Kv, family: KeyFamily, table: Option<&'a dyn StateTable>) -> Self {
        Self { kv, family, table, page: Vec::new().into_iter(), next: Some(Vec::new()), current: None }
    }

    /// Ensures that there is a current pair, unless all were read.
    pub(super) fn fill(&mut self) -> Result<(), KvError> {
        if self.current.is_some() {
            return Ok(());
        }
        self.read_page()?;
        let Some((key, piece)) = self.page.next() else { return Ok(()) };
        let mut value = self.plain_of(piece);
        let whole = self.whole_of(key);
        loop {
            self.read_page()?;
            match self.page.as_slice().first() {
                Some((next, _)) if self.whole_of(next.clone()) == whole => {
                    let piece = self.page.next().expect("looked at").1;
                    value.extend(self.plain_of(piece));
                }
                _ => break,
            }
        }
        self.current = Some((whole, value));
        Ok(())
    }

    fn read_page(&mut self) -> Result<(), KvError> {
        if self.page.as_slice().is_empty()
            && let Some(from) = self.next.take()
        {
            let page = self.kv.scan(self.family, &from, PAGE)?;
            // The smallest key behind the last one.
            self.next = page.last().map(|(key, _)| [key, &[0][..]].concat());
            self.page = page.into_iter();
        }
        Ok(())
    }

    fn plain_of(&self, value: Vec<u8>) -> Vec<u8> {
        match self.table {
            Some(table) => table.plain_value(self.family, value),
            None => value,
        }
    }

    fn whole_of(&self, key: Vec<u8>) -> Vec<u8> {
        match self.table {
            Some(table) => table.whole_key(self.family, key),
            None => key,
        }
    }

    pub(super) fn peek(&self) -> Option<&KeyValue> {
        self.current.as_ref()
    }

    pub(super) fn skip(&mut self, key: &[u8]) {
        if self.peek().is_some_and(|(own, _)| own == key) {
            self.current = None;
        }
    }
}
