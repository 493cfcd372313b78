//! The behaviour that every [`Kv`] must show; run by the tests of each implementation, so that the map used in tests
//! cannot drift away from RocksDB.

use super::{Family, Kv, Op};

/// Exercises an empty store.
///
/// # Panics
/// Where the store does not behave.
pub fn check_contract(kv: &dyn Kv) {
    let put = |family, key: &[u8], value: &[u8]| Op::Put(family, key.to_vec(), value.to_vec());
    let keys = |family, from: &[u8], limit| -> Vec<Vec<u8>> {
        kv.scan(family, from, limit).expect("scan").into_iter().map(|(key, _)| key).collect()
    };

    assert_eq!(kv.get(Family::State, b"a").expect("get"), None);
    kv.write(vec![
        put(Family::State, b"b", b"1"),
        put(Family::State, b"a", b"2"),
        put(Family::State, b"a\xff", b"3"),
        put(Family::Topics, b"a", b"4"),
    ])
    .expect("write");
    assert_eq!(kv.get(Family::State, b"a").expect("get").as_deref(), Some(&b"2"[..]));
    assert_eq!(kv.get(Family::Topics, b"a").expect("get").as_deref(), Some(&b"4"[..]), "families are apart");
    assert_eq!(keys(Family::State, b"", 10), [&b"a"[..], b"a\xff", b"b"], "in byte order");
    assert_eq!(keys(Family::State, b"a\0", 1), [b"a\xff"], "from the first key at or after, up to the limit");
    assert_eq!(keys(Family::Halves, b"", 10), Vec::<Vec<u8>>::new());

    kv.write(vec![
        put(Family::State, b"c", b"5"),
        Op::Delete(Family::State, b"c".to_vec()),
        put(Family::State, b"b", b"6"),
        Op::Delete(Family::State, b"missing".to_vec()),
    ])
    .expect("write");
    assert_eq!(kv.get(Family::State, b"c").expect("get"), None, "changes apply in order");
    assert_eq!(kv.get(Family::State, b"b").expect("get").as_deref(), Some(&b"6"[..]));

    kv.write(vec![put(Family::State, b"\xff\xff", b"7"), Op::DeletePrefix(Family::State, b"a".to_vec())])
        .expect("write");
    assert_eq!(keys(Family::State, b"", 10), [&b"b"[..], b"\xff\xff"], "only the prefix goes");
    kv.write(vec![
        put(Family::Kept, b"a", b"1"),
        put(Family::Kept, b"b", b"2"),
        put(Family::Kept, b"c", b"3"),
    ])
    .expect("write");
    kv.write(vec![Op::DeleteRange(Family::Kept, b"a".to_vec(), b"c".to_vec())]).expect("write");
    assert_eq!(keys(Family::Kept, b"", 10), [b"c"], "up to, but not including, the end");
    let many: Vec<Vec<u8>> = (0..100).map(|i| vec![b'm', i]).collect();
    kv.write(many.iter().map(|key| Op::Put(Family::Lookups, key.clone(), Vec::new())).collect())
        .expect("write");
    kv.write(vec![put(Family::Lookups, b"l", b""), put(Family::Lookups, b"n", b"")]).expect("write");
    let with =
        |prefix| kv.scan_prefix(Family::Lookups, prefix).expect("scan").into_iter().map(|(key, _)| key);
    assert_eq!(with(b"m").collect::<Vec<_>>(), many, "all with the prefix and no others");
    assert_eq!((with(b"l").count(), with(b"n").count(), with(b"x").count()), (1, 1, 0));
    let around = |prefix: &[u8], at: &[u8], limit| -> Vec<Vec<u8>> {
        let found = kv.scan_around(Family::Lookups, prefix, at, limit).expect("scan");
        found.into_iter().map(|(key, _)| key).collect()
    };
    assert_eq!(around(b"m", b"m\x05", 2), [b"m\x05", b"m\x06"], "at");
    assert_eq!(around(b"m", b"m\x05x", 2), [b"m\x05", b"m\x06"], "the last one before");
    assert_eq!(around(b"m", b"m\x63x", 9), [b"m\x63"], "not beyond the prefix");
    assert_eq!(around(b"n", b"n\0", 9), [b"n"]);
    assert_eq!(around(b"m\x05", b"m\x05", 9), [b"m\x05"], "what is before has another prefix");
    assert_eq!(around(b"m\x64", b"m\x64", 9), Vec::<Vec<u8>>::new());
    kv.persist().expect("persists");
    kv.write(vec![Op::DeletePrefix(Family::State, b"\xff".to_vec())]).expect("write");
    assert_eq!(keys(Family::State, b"", 10), [b"b"], "a prefix without a successor");
    kv.write(vec![Op::DeletePrefix(Family::State, Vec::new())]).expect("write");
    assert_eq!(keys(Family::State, b"", 10), Vec::<Vec<u8>>::new());
    assert_eq!(keys(Family::Topics, b"", 10), [b"a"], "other families stay");
}
