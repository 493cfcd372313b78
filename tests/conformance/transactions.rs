//! Lines 65 to 70: transactions.

use std::time::Duration;

use kerolox_proto::v2::telemetry_command::Command;
use kerolox_proto::v2::{self, Code, MessageType, TransactionResolution, TransactionSource};

use crate::peer::{
    Peer, bodies, code, duration, handle, message, receiving, resource, system, typed, with_system,
};
use crate::telemetry::{Session, producer};
use crate::world::{CHECKS, CHECKS_MAX, ConformanceWorld, Setting};

lines![
    c65_a_commit_shows_once_and_a_rollback_never,
    c66_an_unspecified_resolution_changes_nothing,
    c67_the_source_does_not_matter,
    c68_a_check_back_carries_the_message_to_a_live_producer,
    c69_another_producer_is_asked_and_a_late_one_too,
    c70_a_transaction_id_is_good_as_long_as_its_message,
];

const COMMIT: TransactionResolution = TransactionResolution::Commit;
const ROLLBACK: TransactionResolution = TransactionResolution::Rollback;
const UNSPECIFIED: TransactionResolution = TransactionResolution::Unspecified;
const SHORT: Duration = Duration::from_secs(1);

async fn c65_a_commit_shows_once_and_a_rollback_never(setting: Setting) {
    let topic = setting.world.topic("TRANSACTION").await;
    for server in [setting.world.a(), setting.world.nameserver()] {
        let peer = Peer::connect(server, setting.transport).await;
        let (kept, dropped) = (peer.send_half(&topic, "kept").await, peer.send_half(&topic, "dropped").await);
        peer.receive_nothing(&topic, "group", SHORT).await;
        for _ in 0..3 {
            assert_eq!(peer.end(&topic, &kept.transaction_id, COMMIT).await, Code::Ok);
            assert_eq!(peer.end(&topic, &dropped.transaction_id, ROLLBACK).await, Code::Ok);
        }
        // The first decision stands.
        assert_ne!(peer.end(&topic, &kept.transaction_id, ROLLBACK).await, Code::Ok);
        assert_ne!(peer.end(&topic, &dropped.transaction_id, COMMIT).await, Code::Ok);
        let received = peer.receive_one(&topic, "group").await;
        assert_eq!(
            (bodies(std::slice::from_ref(&received)), &system(&received).message_id),
            (vec!["kept"], &kept.message_id)
        );
        assert_eq!(peer.ack(&topic, "group", handle(&received)).await, Code::Ok);
        peer.receive_nothing(&topic, "group", SHORT).await;
    }
}

async fn c66_an_unspecified_resolution_changes_nothing(setting: Setting) {
    let topic = setting.world.topic("TRANSACTION").await;
    for server in [setting.world.a(), setting.world.nameserver()] {
        let peer = Peer::connect(server, setting.transport).await;
        let half = peer.send_half(&topic, "half").await;
        assert_eq!(peer.end(&topic, &half.transaction_id, UNSPECIFIED).await, Code::Ok);
        peer.receive_nothing(&topic, "group", SHORT).await;
        assert_eq!(peer.end(&topic, &half.transaction_id, COMMIT).await, Code::Ok);
        let received = peer.receive_one(&topic, "group").await;
        assert_eq!(peer.ack(&topic, "group", handle(&received)).await, Code::Ok);
    }
}

async fn c67_the_source_does_not_matter(setting: Setting) {
    let topic = setting.world.topic("TRANSACTION").await;
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    for source in [
        TransactionSource::SourceUnspecified,
        TransactionSource::SourceClient,
        TransactionSource::SourceServerCheck,
    ] {
        let half = peer.send_half(&topic, source.as_str_name()).await;
        let request = v2::EndTransactionRequest {
            topic: resource(&topic),
            message_id: half.message_id,
            transaction_id: half.transaction_id,
            resolution: COMMIT.into(),
            source: source.into(),
            ..Default::default()
        };
        assert_eq!(code(&peer.end_transaction(request).await.status), Code::Ok);
        let received = peer.receive_one(&topic, "group").await;
        assert_eq!(peer.ack(&topic, "group", handle(&received)).await, Code::Ok);
    }
}

async fn c68_a_check_back_carries_the_message_to_a_live_producer(setting: Setting) {
    let topic = setting.world.topic("TRANSACTION").await;
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    let mut session = Session::open(&peer, producer(&[&topic])).await;
    session.settings().await;
    let half = with_system(typed(message(&topic, "order"), MessageType::Transaction), |system| {
        system.tag = Some("tag".to_owned());
        system.keys = vec!["key".to_owned()];
    });
    let id = peer.send(vec![half.clone()]).await.remove(0).transaction_id;
    let (asked, transaction_id) = checked(&mut session).await;
    assert_eq!((transaction_id.as_str(), &asked.topic, &asked.body), (id.as_str(), &half.topic, &half.body));
    let (said, heard) = (system(&half), system(&asked));
    assert_eq!((&heard.message_id, &heard.tag, &heard.keys), (&said.message_id, &said.tag, &said.keys));
    assert_eq!((heard.body_encoding, &heard.born_timestamp), (said.body_encoding, &said.born_timestamp));
    assert_eq!(heard.body_digest.as_ref().expect("a digest").r#type(), v2::DigestType::Md5);
    // Undecided: it is asked again. Decided: never again, and the message is there.
    let (again, _) = checked(&mut session).await;
    assert_eq!(system(&again).message_id, said.message_id);
    assert_eq!(peer.end(&topic, &id, COMMIT).await, Code::Ok);
    assert_eq!(bodies(&[peer.receive_one(&topic, "group").await]), ["order"]);
    let more = tokio::time::timeout(2 * CHECKS, session.replies.message()).await;
    assert!(more.is_err(), "{more:?}");
}

async fn c69_another_producer_is_asked_and_a_late_one_too(setting: Setting) {
    let world = ConformanceWorld::start().await;
    let topic = world.topic("TRANSACTION").await;
    let first = Peer::connect(world.a(), setting.transport).await;
    let mut session = Session::open(&first, producer(&[&topic])).await;
    session.settings().await;
    let half = first.send_half(&topic, "orphan").await;
    drop((session, first));
    // No producer is connected, for longer than all check-backs together: a check without a recipient does not count.
    tokio::time::sleep(CHECKS * u32::try_from(CHECKS_MAX + 1).expect("few")).await;
    let late = Peer::connect(world.a(), setting.transport).await;
    let mut session = Session::open(&late, producer(&[&topic])).await;
    session.settings().await;
    for _ in 0..CHECKS_MAX {
        assert_eq!(checked(&mut session).await.1, half.transaction_id);
    }
    // After the last one the message stays invisible, and its decision is still taken.
    let more = tokio::time::timeout(2 * CHECKS, session.replies.message()).await;
    assert!(more.is_err(), "{more:?}");
    late.receive_nothing(&topic, "group", SHORT).await;
    assert_eq!(late.end(&topic, &half.transaction_id, COMMIT).await, Code::Ok);
    assert_eq!(bodies(&[late.receive_one(&topic, "group").await]), ["orphan"]);
}

async fn c70_a_transaction_id_is_good_as_long_as_its_message(setting: Setting) {
    let topic = setting.world.topic("TRANSACTION").await;
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    let half = peer.send_half(&topic, "late").await;
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(peer.end(&topic, &half.transaction_id, COMMIT).await, Code::Ok);
    let mut request = receiving(&topic, "group");
    request.long_polling_timeout = duration(SHORT);
    assert_eq!(bodies(&peer.receive(request).await.1), ["late"]);
}

/// The next check-back: message and transaction id.
async fn checked(session: &mut Session) -> (v2::Message, String) {
    match session.next().await.expect("no error").expect("a command").command {
        Some(Command::RecoverOrphanedTransactionCommand(asked)) => {
            (asked.message.expect("a message"), asked.transaction_id)
        }
        other => panic!("a check-back is expected, not {other:?}"),
    }
}
