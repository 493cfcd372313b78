//! Permissions that are withheld from all topics.

use kerolox_core::record::WithholdChange;
use kerolox_core::topic::{PERM_READ, PERM_WRITE};

use super::*;

fn withhold(perm: u32) -> Record {
    Record::Meta(MetaRecord { change: Some(MetaChange::Withhold(WithholdChange { perm })) })
}

#[test]
fn what_is_withheld_survives_a_restart_and_a_rebuild_and_topics_keep_their_own() {
    let mut replay = Replay::new();
    assert_eq!(replay.state.topics.withheld(), 0);
    replay.apply(withhold(PERM_WRITE));
    replay.flush();
    replay.apply(withhold(PERM_READ | PERM_WRITE));
    assert_eq!(StateMachine::load(replay.state.kv.clone()).expect("loads").topics.withheld(), PERM_WRITE);
    replay.flush();
    assert_eq!(StateMachine::load(replay.state.kv.clone()).expect("loads").topics.withheld(), 6);

    // Rebuilt from a snapshot alone.
    let mut rebuilt = StateMachine::empty(Arc::new(MemKv::default())).expect("memory");
    for part in replay.state.snapshot().expect("reads") {
        let record = Record::Snapshot(Box::new(part));
        let (kind, body) = (record.kind() as u8, Bytes::from(record.encode()));
        let frame = Frame { position: 0, len: 64, kind, epoch: 1, store_ms: 1, body };
        rebuilt.apply(&frame, &mut Vec::new()).expect("applies");
    }
    assert_eq!(rebuilt.topics.withheld(), 6);
    assert_eq!(rebuilt.topics.get("t").expect("is there").perm, 6, "the topic's own perm is not touched");

    replay.apply(withhold(0));
    replay.flush();
    assert_eq!(StateMachine::load(replay.state.kv.clone()).expect("loads").topics.withheld(), 0);
    assert_eq!(replay.state.kv.get(KeyFamily::State, keys::WITHHELD).expect("reads"), None);
}
