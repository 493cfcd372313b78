use super::*;

fn file(folder: &MemFolder, name: &str) -> Arc<dyn File> {
    folder.create(name).expect("created")
}

#[test]
fn names_and_lengths_need_their_syncs() {
    let folder = MemFolder::new();
    file(&folder, "kept").sync().expect("synced");
    folder.sync().expect("synced");
    file(&folder, "new").sync().expect("synced");
    folder.remove("kept").expect("removed");
    folder.open("new").expect("there").set_len(10).expect("longer");
    let unlucky = folder.fork();
    unlucky.crash_with(|_| false);
    assert_eq!(unlucky.list().expect("listed"), ["kept"], "a synced file without a synced name is gone");
    let lucky = folder.fork();
    let mut asked = Vec::new();
    lucky.crash_with(|piece| {
        asked.push(piece.clone());
        true
    });
    assert_eq!(lucky.list().expect("listed"), ["new"]);
    assert_eq!(lucky.content("new").expect("there").len(), 10);
    let name = |name: &str| UnsyncedPiece::Name(name.to_owned());
    assert_eq!(asked, [name("kept"), name("new"), UnsyncedPiece::Length { name: "new".into(), len: 10 }]);
}

#[test]
fn writes_are_torn_and_reordered_by_sectors() {
    let folder = MemFolder::new();
    let data = file(&folder, "data");
    folder.sync().expect("synced");
    data.write_at(&[1; 1024], 0).expect("written");
    data.sync().expect("synced");
    data.write_at(&[2; 600], 100).expect("written");
    data.write_at(&[3; 10], 0).expect("written");
    // The first sector of the first write is lost, and with it later writes to that sector.
    folder.crash_with(|piece| !matches!(piece, UnsyncedPiece::Write { offset: 100, .. }));
    let found = folder.content("data").expect("there");
    assert_eq!((found[0], found[200], found[511], found[512], found[699], found[700]), (1, 1, 1, 2, 2, 1));
    assert!(data.read_at(&mut [0], 0).is_err(), "a file that was open in the cut is of no use");
}

#[test]
fn a_failed_sync_is_not_mended_by_the_next_one() {
    let folder = MemFolder::new();
    let data = file(&folder, "data");
    folder.sync().expect("synced");
    data.write_at(b"lost", 0).expect("written");
    folder.fail_nth(DiskFault::Sync, 0, FaultTimes::Once);
    assert!(data.sync().is_err());
    data.write_at(b"kept", 512).expect("written");
    data.sync().expect("works again");
    folder.crash_with(|_| false);
    let found = folder.content("data").expect("there");
    assert_eq!((&found[..4], &found[512..]), (&[0; 4][..], &b"kept"[..]));
}

#[test]
fn the_nth_operation_of_a_kind_fails() {
    let folder = MemFolder::new();
    let data = file(&folder, "data");
    folder.fail_nth(DiskFault::Write, 1, FaultTimes::Once);
    folder.fail_nth(DiskFault::Read, 2, FaultTimes::ForGood);
    let written: Vec<bool> = (0..3).map(|i| data.write_at(b"abcd", i * 4).is_ok()).collect();
    assert_eq!(written, [true, false, true]);
    assert_eq!(folder.content("data").expect("there"), b"abcdab\0\0abcd", "half of it got through");
    let read: Vec<bool> = (0..4).map(|_| data.read_at(&mut [0; 4], 0).is_ok()).collect();
    assert_eq!(read, [true, true, false, false]);
    folder.fail(None);
    assert!(data.read_at(&mut [0; 4], 0).is_ok());
}

#[test]
fn a_power_cut_comes_at_a_chosen_operation() {
    let folder = MemFolder::new();
    let data = file(&folder, "data");
    folder.sync().expect("synced");
    assert_eq!(folder.operations(), 2);
    folder.power_off_at(1);
    data.write_at(b"a", 0).expect("still on");
    assert!(data.sync().is_err(), "off");
    assert!(data.write_at(b"b", 1).is_err());
    assert!(data.len().is_err() && folder.list().is_err() && folder.open("data").is_err());
    folder.crash_with(|_| true);
    assert_eq!(folder.content("data").expect("there"), b"a");
    assert!(folder.open("data").expect("on again").write_at(b"c", 0).is_ok());
}

#[test]
fn a_full_disk_takes_what_fits() {
    let folder = MemFolder::new();
    folder.set_capacity(Some(10));
    let data = file(&folder, "data");
    data.allocate(6).expect("fits");
    let full = |result: io::Result<()>| result.expect_err("full").kind() == io::ErrorKind::StorageFull;
    assert!(full(data.allocate(11)));
    assert!(full(data.write_at(&[1; 8], 4)));
    assert_eq!(folder.content("data").expect("there"), [0, 0, 0, 0, 1, 1, 1, 1, 1, 1]);
    data.write_at(&[2; 10], 0).expect("overwriting needs no room");
    folder.remove("data").expect("removed");
    file(&folder, "next").allocate(10).expect("room again");
}

#[test]
fn the_same_seed_makes_the_same_cut_and_seeds_differ() {
    let folder = MemFolder::new();
    let data = file(&folder, "data");
    folder.sync().expect("synced");
    for i in 0..20u8 {
        data.write_at(&[i + 1; 512], u64::from(i) * 512).expect("written");
    }
    let cut = |seed| {
        let folder = folder.fork();
        folder.crash(seed);
        folder.content("data").expect("there")
    };
    let cuts: std::collections::BTreeSet<Vec<u8>> = (0..40).map(cut).collect();
    assert!(cuts.len() > 15, "{} different cuts", cuts.len());
    assert!((0..40).all(|seed| cut(seed) == cut(seed)));
}
