//! Lines 60 to 64: acknowledgements, and messages that come again.

use std::time::{Duration, Instant};

use kerolox_proto::v2::{self, Code, FilterType, Language};

use crate::peer::{INVISIBLE, Peer, acking, attempt, code, filter, handle, message, receiving, resource};
use crate::telemetry::{Session, consumer, spoken_by};
use crate::world::Setting;

lines![
    c60_acknowledgements_are_idempotent_and_dead_handles_say_so,
    c61_a_changed_duration_always_comes_with_a_handle,
    c62_a_node_client_cannot_spin,
    c63_each_redelivery_counts,
    c64_a_dead_letter_without_a_handle_is_refused_cleanly,
];

const BAD_HANDLES: [&str; 5] = ["", "nonsense", "a b c", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "ü"];

async fn c60_acknowledgements_are_idempotent_and_dead_handles_say_so(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.a(), setting.world.nameserver()] {
        let peer = Peer::connect(server, setting.transport).await;
        peer.send(vec![message(&topic, "body")]).await;
        let first = peer.receive_one(&topic, "group").await;
        let changed = peer.change_invisible(&topic, "group", handle(&first), Duration::ZERO).await;
        assert_eq!(code(&changed.status), Code::Ok);
        let second = peer.receive_one(&topic, "group").await;
        assert_eq!(peer.ack(&topic, "group", handle(&first)).await, Code::InvalidReceiptHandle);
        for _ in 0..3 {
            assert_eq!(peer.ack(&topic, "group", handle(&second)).await, Code::Ok);
        }
        for bad in BAD_HANDLES {
            assert_eq!(peer.ack(&topic, "group", bad).await, Code::InvalidReceiptHandle, "{bad:?}");
        }
        assert_ne!(peer.ack(&topic, "another-group", handle(&second)).await, Code::Ok);
        // Good and bad ones together: each has its result, in order.
        let answer =
            peer.ack_message(acking(&topic, "group", &[handle(&second), "nonsense", handle(&second)])).await;
        let codes: Vec<Code> = answer.entries.iter().map(|entry| code(&entry.status)).collect();
        assert_eq!(code(&answer.status), Code::MultipleResults);
        assert_eq!(codes, [Code::Ok, Code::InvalidReceiptHandle, Code::Ok]);
    }
}

async fn c61_a_changed_duration_always_comes_with_a_handle(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.a(), setting.world.nameserver()] {
        let peer = Peer::connect(server, setting.transport).await;
        peer.send(vec![message(&topic, "body")]).await;
        let received = peer.receive_one(&topic, "group").await;
        let later = peer.change_invisible(&topic, "group", handle(&received), Duration::from_secs(60)).await;
        assert_eq!(code(&later.status), Code::Ok);
        let refused = peer
            .change_invisible(&topic, "group", &later.receipt_handle, Duration::from_secs(12 * 3600 + 1))
            .await;
        assert_eq!(code(&refused.status), Code::IllegalInvisibleTime);
        assert_eq!(refused.receipt_handle, later.receipt_handle, "what was asked with is still good");
        for bad in BAD_HANDLES {
            let refused = peer.change_invisible(&topic, "group", bad, Duration::from_secs(20)).await;
            assert_eq!(
                (code(&refused.status), refused.receipt_handle.as_str()),
                (Code::InvalidReceiptHandle, bad)
            );
        }
        let now = peer.change_invisible(&topic, "group", &later.receipt_handle, Duration::ZERO).await;
        assert_eq!(code(&now.status), Code::Ok);
        assert!(!now.receipt_handle.is_empty());
        let again = peer.receive_one(&topic, "group").await;
        let kept = peer.change_invisible(&topic, "group", handle(&again), Duration::from_secs(60)).await;
        assert_eq!(peer.ack(&topic, "group", &kept.receipt_handle).await, Code::Ok);
    }
}

async fn c62_a_node_client_cannot_spin(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    let settings = consumer("group", &topic, filter(FilterType::Tag, "*"));
    let mut session = Session::open(&peer, spoken_by(Language::NodeJs, settings)).await;
    session.settings().await;
    peer.send(vec![message(&topic, "fails")]).await;
    let started = Instant::now();
    for (number, asked) in [Duration::ZERO, Duration::from_millis(2), Duration::ZERO].into_iter().enumerate()
    {
        let received = peer.receive_one(&topic, "group").await;
        assert!(started.elapsed() >= Duration::from_millis(900) * u32::try_from(number).expect("small"));
        let changed = peer.change_invisible(&topic, "group", handle(&received), asked).await;
        assert_eq!(code(&changed.status), Code::Ok);
    }
}

async fn c63_each_redelivery_counts(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    peer.send(vec![message(&topic, "body")]).await;
    for number in 1..=5 {
        let received = peer.receive_one(&topic, "group").await;
        assert_eq!(attempt(&received), number);
        peer.change_invisible(&topic, "group", handle(&received), Duration::ZERO).await;
    }
    // And when the time that it was received for runs out.
    let received = peer.receive_one(&topic, "group").await;
    assert_eq!(attempt(&received), 6);
    let mut patient = receiving(&topic, "group");
    patient.long_polling_timeout = crate::peer::duration(INVISIBLE + Duration::from_secs(5));
    let (_, again) = peer.receive(patient).await;
    assert_eq!(again.iter().map(attempt).collect::<Vec<_>>(), [7]);
}

async fn c64_a_dead_letter_without_a_handle_is_refused_cleanly(setting: Setting) {
    let world = &setting.world;
    let (topic, group) = (world.topic("NORMAL").await, world.group(false, None).await);
    for server in [world.a(), world.nameserver()] {
        let peer = Peer::connect(server, setting.transport).await;
        peer.send(vec![message(&topic, "body")]).await;
        let received = peer.receive_one(&topic, &group).await;
        let forward = |handle: &str| v2::ForwardMessageToDeadLetterQueueRequest {
            group: resource(&group),
            topic: resource(&topic),
            receipt_handle: handle.to_owned(),
            ..Default::default()
        };
        for bad in BAD_HANDLES {
            let answer = peer.forward_message_to_dead_letter_queue(forward(bad)).await;
            let status = answer.status.expect("a status");
            assert_eq!(status.code(), Code::InvalidReceiptHandle, "{bad:?}");
            assert!(status.message.split(' ').count() > 3, "{}", status.message);
        }
        let good = forward(handle(&received));
        for _ in 0..2 {
            let answer = peer.forward_message_to_dead_letter_queue(good.clone()).await;
            assert_eq!(code(&answer.status), Code::Ok, "and it may be repeated");
        }
        assert_eq!(peer.ack(&topic, &group, handle(&received)).await, Code::Ok, "it counts as acknowledged");
    }
}
