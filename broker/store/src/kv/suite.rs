//! The required behaviour of every [`Kv`]; run by the tests of each implementation, so that the map used in tests
//! cannot drift away from RocksDB.

use super::{KeyFamily, Kv, WriteOp};

/// Exercises an empty store.
///
/// # Panics
/// On any deviation.
pub fn check_contract(kv: &dyn Kv) {
    let put = |family, key: &[u8], value: &[u8]| WriteOp::Put(family, key.to_vec(), value.to_vec());
    let keys = |family, from: &[u8], limit| -> Vec<Vec<u8>> {
        kv.scan(family, from, limit).expect("scan").into_iter().map(|(key, _)| key).collect()
    };

    assert_eq!(kv.get(KeyFamily::State, b"a").expect("get"), None);
    kv.write(vec![
        put(KeyFamily::State, b"b", b"1"),
        put(KeyFamily::State, b"a", b"2"),
        put(KeyFamily::State, b"a\xff", b"3"),
        put(KeyFamily::Topics, b"a", b"4"),
    ])
    .expect("write");
    assert_eq!(kv.get(KeyFamily::State, b"a").expect("get").as_deref(), Some(&b"2"[..]));
    assert_eq!(
        kv.get(KeyFamily::Topics, b"a").expect("get").as_deref(),
        Some(&b"4"[..]),
        "families are apart"
    );
    assert_eq!(keys(KeyFamily::State, b"", 10), [&b"a"[..], b"a\xff", b"b"], "in byte order");
    assert_eq!(
        keys(KeyFamily::State, b"a\0", 1),
        [b"a\xff"],
        "from the first key at or after, up to the limit"
    );
    assert_eq!(keys(KeyFamily::Halves, b"", 10), Vec::<Vec<u8>>::new());

    kv.write(vec![
        put(KeyFamily::State, b"c", b"5"),
        WriteOp::Delete(KeyFamily::State, b"c".to_vec()),
        put(KeyFamily::State, b"b", b"6"),
        WriteOp::Delete(KeyFamily::State, b"missing".to_vec()),
    ])
    .expect("write");
    assert_eq!(kv.get(KeyFamily::State, b"c").expect("get"), None, "changes apply in order");
    assert_eq!(kv.get(KeyFamily::State, b"b").expect("get").as_deref(), Some(&b"6"[..]));

    kv.write(vec![
        put(KeyFamily::State, b"\xff\xff", b"7"),
        WriteOp::DeletePrefix(KeyFamily::State, b"a".to_vec()),
    ])
    .expect("write");
    assert_eq!(keys(KeyFamily::State, b"", 10), [&b"b"[..], b"\xff\xff"], "only the prefix goes");
    kv.write(vec![
        put(KeyFamily::Kept, b"a", b"1"),
        put(KeyFamily::Kept, b"b", b"2"),
        put(KeyFamily::Kept, b"c", b"3"),
    ])
    .expect("write");
    kv.write(vec![WriteOp::DeleteRange(KeyFamily::Kept, b"a".to_vec(), b"c".to_vec())]).expect("write");
    assert_eq!(keys(KeyFamily::Kept, b"", 10), [b"c"], "up to, but not including, the end");
    let many: Vec<Vec<u8>> = (0..100).map(|i| vec![b'm', i]).collect();
    kv.write(many.iter().map(|key| WriteOp::Put(KeyFamily::Lookups, key.clone(), Vec::new())).collect())
        .expect("write");
    kv.write(vec![put(KeyFamily::Lookups, b"l", b""), put(KeyFamily::Lookups, b"n", b"")]).expect("write");
    let with =
        |prefix| kv.scan_prefix(KeyFamily::Lookups, prefix).expect("scan").into_iter().map(|(key, _)| key);
    assert_eq!(with(b"m").collect::<Vec<_>>(), many, "all with the prefix and no others");
    assert_eq!((with(b"l").count(), with(b"n").count(), with(b"x").count()), (1, 1, 0));
    let around = |prefix: &[u8], at: &[u8], limit| -> Vec<Vec<u8>> {
        let found = kv.scan_around(KeyFamily::Lookups, prefix, at, limit).expect("scan");
        found.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(around(b"m", b"m\x05", 2), [b"m\x05", b"m\x06"], "at");
    assert_eq!(around(b"m", b"m\x05x", 2), [b"m\x05", b"m\x06"], "the last one before");
    assert_eq!(around(b"m", b"m\x63x", 9), [b"m\x63"], "not beyond the prefix");
    assert_eq!(around(b"n", b"n\0", 9), [b"n"]);
    assert_eq!(around(b"m\x05", b"m\x05", 9), [b"m\x05"], "the key before it has another prefix");
    assert_eq!(around(b"m\x64", b"m\x64", 9), Vec::<Vec<u8>>::new());
    kv.persist().expect("persists");
    kv.write(vec![WriteOp::DeletePrefix(KeyFamily::State, b"\xff".to_vec())]).expect("write");
    assert_eq!(keys(KeyFamily::State, b"", 10), [b"b"], "a prefix without a successor");
    kv.write(vec![WriteOp::DeletePrefix(KeyFamily::State, Vec::new())]).expect("write");
    assert_eq!(keys(KeyFamily::State, b"", 10), Vec::<Vec<u8>>::new());
    assert_eq!(keys(KeyFamily::Topics, b"", 10), [b"a"], "other families stay");
}
