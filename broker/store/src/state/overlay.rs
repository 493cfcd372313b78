//! Changes that are not in the key-value store yet, and a view through them.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::kv::{KeyFamily, KeyValue, Kv, KvError, WriteOp, pairs};

pub(super) struct Overlay {
    kv: Arc<dyn Kv>,
    changed: BTreeMap<(KeyFamily, Vec<u8>), Option<Vec<u8>>>,
}

impl Overlay {
    pub(super) fn new(kv: Arc<dyn Kv>) -> Self {
        Self { kv, changed: BTreeMap::new() }
    }

    pub(super) fn put(&mut self, family: KeyFamily, key: Vec<u8>, value: Vec<u8>) {
        self.changed.insert((family, key), Some(value));
    }

    pub(super) fn delete(&mut self, family: KeyFamily, key: Vec<u8>) {
        self.changed.insert((family, key), None);
    }

    pub(super) fn get(&self, family: KeyFamily, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        match self.changed.get(&(family, key.to_vec())) {
            Some(changed) => Ok(changed.clone()),
            None => self.kv.get(family, key),
        }
    }

    /// Up to `limit` pairs with keys at or after `from`, in order, changes included.
    pub(super) fn scan(
        &self,
        family: KeyFamily,
        from: &[u8],
        limit: usize,
    ) -> Result<Vec<KeyValue>, KvError> {
        let range = (Bound::Included((family, from.to_vec())), Bound::Unbounded);
        let mut changed = self.changed.range(range).take_while(|((f, _), _)| *f == family).peekable();
        let mut found = Vec::new();
        let mut from = from.to_vec();
        loop {
            let wanted = limit - found.len();
            let stored = self.kv.scan(family, &from, wanted)?;
            let exhausted = stored.len() < wanted;
            for (key, value) in stored {
                while let Some(((_, earlier), new)) = changed.next_if(|((_, k), _)| *k < key) {
                    found.extend(new.as_ref().map(|new| (earlier.clone(), new.clone())));
                }
                // The smallest key after `key`.
                from.clone_from(&key);
                from.push(0);
                match changed.next_if(|((_, k), _)| *k == key) {
                    Some((_, Some(new))) => found.push((key, new.clone())),
                    Some((_, None)) => {}
                    None => found.push((key, value)),
                }
            }
            if exhausted {
                for ((_, key), new) in changed {
                    found.extend(new.as_ref().map(|new| (key.clone(), new.clone())));
                }
                found.truncate(limit);
                return Ok(found);
            }
            if found.len() >= limit {
                found.truncate(limit);
                return Ok(found);
            }
        }
    }

    /// The store under the changes.
    pub(super) fn kv(&self) -> &dyn Kv {
        &*self.kv
    }

    /// Every pair of a family, changes included, in key order.
    pub(super) fn pairs(&self, family: KeyFamily) -> impl Iterator<Item = Result<KeyValue, KvError>> + '_ {
        pairs(move |from, limit| self.scan(family, from, limit))
    }

    /// Adds the changes to `ops`.
    pub(super) fn changes(&self, ops: &mut Vec<WriteOp>) {
        ops.extend(self.changed.iter().map(|((family, key), value)| match value {
            Some(value) => WriteOp::Put(*family, key.clone(), value.clone()),
            None => WriteOp::Delete(*family, key.clone()),
        }));
    }

    pub(super) fn clear(&mut self) {
        self.changed.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.changed.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::MemKv;
    use proptest::prelude::*;

    proptest! {
        /// A scan through the overlay equals a scan of a map with the changes applied.
        #[test]
        fn scans_see_through(
            stored in prop::collection::btree_map(0u8..40, any::<u8>(), 0..30),
            changes in prop::collection::btree_map(0u8..40, any::<Option<u8>>(), 0..30),
            from in 0u8..40, limit in 1usize..20,
        ) {
            let kv = MemKv::default();
            kv.write(stored.iter().map(|(k, v)| WriteOp::Put(KeyFamily::State, vec![*k], vec![*v])).collect()).expect("memory");
            let mut overlay = Overlay::new(Arc::new(kv));
            let mut expected = stored.clone();
            for (key, change) in &changes {
                match change {
                    Some(value) => {
                        overlay.put(KeyFamily::State, vec![*key], vec![*value]);
                        expected.insert(*key, *value);
                    }
                    None => {
                        overlay.delete(KeyFamily::State, vec![*key]);
                        expected.remove(key);
                    }
                }
            }
            let wanted: Vec<KeyValue> = expected.range(from..).take(limit).map(|(k, v)| (vec![*k], vec![*v])).collect();
            prop_assert_eq!(overlay.scan(KeyFamily::State, &[from], limit).expect("memory"), wanted);
        }
    }
}
