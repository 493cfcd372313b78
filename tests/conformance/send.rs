//! Lines 39, 40 and 42 to 47: SendMessage.

use std::collections::HashMap;
use std::time::Duration;

use kerolox_proto::v2::{self, Code, MessageType};

use crate::peer::{
    Peer, bodies, code, delayed, grouped, handle, in_lite, message, receiving, resource, system, typed,
    with_system,
};
use crate::world::{ConformanceWorld, Setting};

lines![
    c39_one_entry_per_message_in_order,
    c40_a_half_message_has_a_transaction_id,
    c40_a_delayed_message_has_a_recall_handle,
    c42_types_and_topics_must_fit,
    c43_a_delivery_attempt_on_send_is_ignored,
    c44_a_message_group_keeps_its_order_whatever_the_queue_id,
    c45_a_send_is_answered_before_the_deadline,
    c46_overload_is_too_many_requests,
    c47_bodies_are_kept_as_they_came,
];

async fn c39_one_entry_per_message_in_order(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.a(), setting.world.nameserver()] {
        let peer = Peer::connect(server, setting.transport).await;
        let messages: Vec<v2::Message> = (0..20).map(|number| message(&topic, &number.to_string())).collect();
        let ids: Vec<String> = messages.iter().map(|each| system(each).message_id.clone()).collect();
        let entries = peer.send(messages).await;
        assert!(entries.iter().all(|entry| code(&entry.status) == Code::Ok));
        assert_eq!(entries.into_iter().map(|entry| entry.message_id).collect::<Vec<_>>(), ids);
    }
}

async fn c40_a_half_message_has_a_transaction_id(setting: Setting) {
    let topic = setting.world.topic("TRANSACTION").await;
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    let entry = peer.send_half(&topic, "half").await;
    assert!(!entry.transaction_id.trim().is_empty());
    let other = peer.send_half(&topic, "half").await;
    assert_ne!(entry.transaction_id, other.transaction_id);
}

async fn c40_a_delayed_message_has_a_recall_handle(setting: Setting) {
    let topic = setting.world.topic("DELAY").await;
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    let sent = [delayed(message(&topic, "first"), 60), delayed(message(&topic, "second"), 60)];
    let entries = peer.send(sent.to_vec()).await;
    assert!(entries.iter().all(|entry| !entry.recall_handle.trim().is_empty()), "{entries:?}");
    assert_ne!(entries[0].recall_handle, entries[1].recall_handle);
    assert!(entries.iter().all(|entry| entry.transaction_id.is_empty()));
}

async fn c42_types_and_topics_must_fit(setting: Setting) {
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    for (kind, fitting) in [
        ("NORMAL", MessageType::Normal),
        ("FIFO", MessageType::Fifo),
        ("DELAY", MessageType::Delay),
        ("TRANSACTION", MessageType::Transaction),
        ("LITE", MessageType::Lite),
        ("PRIORITY", MessageType::Priority),
    ] {
        let topic = setting.world.topic(kind).await;
        let of_type = |kind| match kind {
            MessageType::Fifo => grouped(message(&topic, "body"), "group"),
            MessageType::Delay => delayed(message(&topic, "body"), 60),
            MessageType::Lite => in_lite(message(&topic, "body"), "session"),
            MessageType::Priority => {
                typed(with_system(message(&topic, "body"), |system| system.priority = Some(1)), kind)
            }
            kind => typed(message(&topic, "body"), kind),
        };
        for sent in [
            MessageType::Normal,
            MessageType::Fifo,
            MessageType::Delay,
            MessageType::Transaction,
            MessageType::Lite,
            MessageType::Priority,
        ] {
            let expected = if sent == fitting { Code::Ok } else { Code::MessagePropertyConflictWithType };
            assert_eq!(peer.send_code(of_type(sent)).await, expected, "{sent:?} to {kind}");
        }
    }
    let mixed = setting.world.topic("MIXED").await;
    for sent in [
        message(&mixed, "body"),
        grouped(message(&mixed, "body"), "group"),
        delayed(message(&mixed, "body"), 60),
        delayed(grouped(message(&mixed, "body"), "group"), 60),
        typed(message(&mixed, "body"), MessageType::Transaction),
    ] {
        assert_eq!(peer.send_code(sent).await, Code::Ok);
    }
}

async fn c43_a_delivery_attempt_on_send_is_ignored(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    let sent = with_system(message(&topic, "body"), |system| {
        system.delivery_attempt = Some(-77);
        system.queue_offset = Some(77);
        system.receipt_handle = Some("forged".to_owned());
    });
    peer.send(vec![sent]).await;
    let received = peer.receive_one(&topic, "group").await;
    assert_eq!(system(&received).delivery_attempt(), 1);
    assert_ne!(system(&received).receipt_handle(), "forged");
}

async fn c44_a_message_group_keeps_its_order_whatever_the_queue_id(setting: Setting) {
    let world = &setting.world;
    let (topic, group) = (world.topic("FIFO").await, world.group(true, None).await);
    let peer = Peer::connect(world.a(), setting.transport).await;
    let sent: Vec<String> = (0..10).map(|number| number.to_string()).collect();
    for (number, body) in sent.iter().enumerate() {
        let each = grouped(message(&topic, body), "orders");
        // Go and Python name no queue, the others one of their choice.
        let queue = i32::try_from(number % 3).expect("small");
        peer.send(vec![with_system(each, |system| system.queue_id = queue)]).await;
    }
    let mut received = Vec::new();
    while received.len() < sent.len() {
        let (code, messages) = peer.receive(receiving(&topic, &group)).await;
        assert_eq!(code, Code::Ok);
        for each in &messages {
            assert_eq!(peer.ack(&topic, &group, handle(each)).await, Code::Ok);
        }
        received.extend(bodies(&messages).into_iter().map(str::to_owned));
    }
    assert_eq!(received, sent);
}

async fn c45_a_send_is_answered_before_the_deadline(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    let peer =
        Peer::connect(setting.world.a(), setting.transport).await.with_timeout(Some(Duration::from_secs(3)));
    for _ in 0..20 {
        assert_eq!(peer.send_code(message(&topic, &"x".repeat(100_000))).await, Code::Ok);
    }
}

async fn c46_overload_is_too_many_requests(setting: Setting) {
    // What waits for the disk is more than this as soon as a few requests come while it is busy.
    let world =
        ConformanceWorld::start_with(&[], &[("KEROLOX_BROKER__LOG__MAX_WAITING_BYTES", "32KiB")]).await;
    let topic = world.topic("NORMAL").await;
    let peer = Peer::connect(world.a(), setting.transport).await;
    let body = "x".repeat(10_000);
    let sends: Vec<_> = (0..1000)
        .map(|_| {
            let (peer, message) = (peer.clone(), message(&topic, &body));
            tokio::spawn(async move { peer.send_code(message).await })
        })
        .collect();
    let mut codes: HashMap<Code, usize> = HashMap::new();
    for send in sends {
        *codes.entry(send.await.expect("no gRPC error")).or_default() += 1;
    }
    let (ok, refused) = (codes.remove(&Code::Ok), codes.remove(&Code::TooManyRequests));
    assert!(ok.is_some() && refused.is_some() && codes.is_empty(), "{ok:?} {refused:?} {codes:?}");
    assert_eq!(peer.send_code(message(&topic, "later")).await, Code::Ok);
}

async fn c47_bodies_are_kept_as_they_came(setting: Setting) {
    let world = &setting.world;
    let peer = Peer::connect(world.a(), setting.transport).await;
    let every_byte: Vec<u8> = (0..=255).cycle().take(10_000).collect();
    // These bytes are no valid GZIP: the server does not look inside.
    for (encoding, bytes) in
        [(v2::Encoding::Identity, every_byte), (v2::Encoding::Gzip, vec![0x78, 0x9c, 0x01])]
    {
        let topic = world.topic("NORMAL").await;
        let mut sent = with_system(message(&topic, ""), |system| system.body_encoding = encoding.into());
        sent.body = bytes.clone().into();
        sent.topic = resource(&topic);
        peer.send(vec![sent]).await;
        let received = peer.receive_one(&topic, "group").await;
        assert_eq!((received.body.as_ref(), system(&received).body_encoding()), (bytes.as_slice(), encoding));
        assert_eq!(system(&received).body_digest.as_ref().expect("a digest").r#type(), v2::DigestType::Md5);
    }
}
