//! Iteration over a whole family without holding all of it in memory.

use super::{KeyValue, KvError};

/// Pairs read at a time.
const PAGE: usize = 1024;

/// All pairs that `scan(from, limit)` returns, in key order, read lazily page by page.
pub(crate) fn pairs(
    mut scan: impl FnMut(&[u8], usize) -> Result<Vec<KeyValue>, KvError>,
) -> impl Iterator<Item = Result<KeyValue, KvError>> {
    let mut from = Vec::new();
    let mut page = Vec::new().into_iter();
    std::iter::from_fn(move || {
        if page.len() == 0 {
            match scan(&from, PAGE) {
                Ok(next) => page = next.into_iter(),
                Err(error) => return Some(Err(error)),
            }
        }
        let pair: KeyValue = page.next()?;
        // The smallest key after this one.
        from.clone_from(&pair.0);
        from.push(0);
        Some(Ok(pair))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::{KeyFamily, Kv, MemKv, WriteOp};

    #[test]
    fn every_pair_comes_once_and_in_order() {
        for count in [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE] {
            let kv = MemKv::default();
            let keys: Vec<Vec<u8>> = (0..count).map(|i| i.to_be_bytes().to_vec()).collect();
            kv.write(keys.iter().map(|key| WriteOp::Put(KeyFamily::Kept, key.clone(), Vec::new())).collect())
                .expect("memory");
            let found = pairs(|from, limit| kv.scan(KeyFamily::Kept, from, limit));
            let found: Vec<Vec<u8>> = found.map(|pair| pair.expect("memory").0).collect();
            assert_eq!(found, keys, "{count} pairs");
        }
    }
}
