//! The index in an ordered map.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use super::{KeyFamily, KeyValue, Kv, KvError, WriteOp};

type Pairs = BTreeMap<(KeyFamily, Vec<u8>), Vec<u8>>;

/// An ordered map in memory; a clone is a snapshot.
#[derive(Debug, Default)]
pub struct MemKv {
    pairs: RwLock<Pairs>,
}

impl Clone for MemKv {
    fn clone(&self) -> Self {
        Self { pairs: RwLock::new(self.pairs.read().unwrap_or_else(PoisonError::into_inner).clone()) }
    }
}

impl Kv for MemKv {
    fn get(&self, family: KeyFamily, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let pairs = self.pairs.read().unwrap_or_else(PoisonError::into_inner);
        Ok(pairs.get(&(family, key.to_vec())).cloned())
    }

    fn scan(&self, family: KeyFamily, from: &[u8], limit: usize) -> Result<Vec<KeyValue>, KvError> {
        let pairs = self.pairs.read().unwrap_or_else(PoisonError::into_inner);
        let found = pairs.range((family, from.to_vec())..).take_while(|((f, _), _)| *f == family);
        Ok(found.take(limit).map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn scan_around(
        &self,
        family: KeyFamily,
        prefix: &[u8],
        at: &[u8],
        limit: usize,
    ) -> Result<Vec<KeyValue>, KvError> {
        let pairs = self.pairs.read().unwrap_or_else(PoisonError::into_inner);
        let before =
            pairs.range((family, prefix.to_vec())..=(family, at.to_vec().max(prefix.to_vec()))).next_back();
        let from = before.map_or_else(|| (family, at.to_vec()), |(key, _)| key.clone());
        let found = pairs.range(from..).take_while(|((f, key), _)| *f == family && key.starts_with(prefix));
        Ok(found.take(limit).map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn write(&self, ops: Vec<WriteOp>) -> Result<(), KvError> {
        let mut pairs = self.pairs.write().unwrap_or_else(PoisonError::into_inner);
        for op in ops {
            match op {
                WriteOp::Put(family, key, value) => {
                    pairs.insert((family, key), value);
                }
                WriteOp::Delete(family, key) => {
                    pairs.remove(&(family, key));
                }
                WriteOp::DeleteRange(family, from, to) => {
                    pairs.retain(|(f, key), _| *f != family || *key < from || *key >= to);
                }
                WriteOp::DeletePrefix(family, prefix) => {
                    pairs.retain(|(f, key), _| *f != family || !key.starts_with(&prefix));
                }
            }
        }
        Ok(())
    }

    fn persist(&self) -> Result<(), KvError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn keeps_the_contract() {
        super::super::check_contract(&super::MemKv::default());
    }
}
