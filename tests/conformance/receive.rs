//! Lines 48 to 59: ReceiveMessage.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use kerolox_proto::v2::receive_message_response::Content;
use kerolox_proto::v2::{self, Code, FilterType};
use md5::{Digest, Md5};

use crate::peer::{
    INVISIBLE, Peer, attempt, bodies, body, code, duration, filter, grouped, handle, message, receiving,
    resource, system, with_system,
};
use crate::world::{Setting, eventually};

lines![
    c48_status_then_messages_then_the_time,
    c49_an_empty_poll_ends_before_the_deadline,
    c50_without_a_poll_time_the_deadline_counts,
    c51_messages_are_complete,
    c52_the_digest_is_md5_in_upper_case,
    c53_auto_renew_lasts_as_long_as_the_client,
    c54_a_cancelled_poll_takes_nothing_along,
    c55_invisible_durations_out_of_range,
    c56_a_message_group_is_locked_and_an_attempt_can_be_repeated,
    c57_tag_and_sql_filters,
    c58_after_the_last_attempt_the_server_makes_a_dead_letter,
    c59_queue_minus_one_is_every_queue,
];

async fn c48_status_then_messages_then_the_time(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.a(), setting.world.nameserver()] {
        let peer = Peer::connect(server, setting.transport).await;
        peer.send(vec![message(&topic, "1"), message(&topic, "2")]).await;
        let group = crate::world::new_name("group");
        let shape = |items: &[Content]| -> String {
            let letter = |item: &Content| match item {
                Content::Status(_) => 's',
                Content::Message(_) => 'm',
                Content::DeliveryTimestamp(_) => 't',
            };
            items.iter().map(letter).collect()
        };
        let items = peer.receive_items(receiving(&topic, &group)).await;
        let expected = format!("s{}t", "m".repeat(items.len() - 2));
        assert!(items.len() > 3 && shape(&items) == expected, "{}", shape(&items));
        // Without a message, and with a mistake, there is a status too.
        let mut empty = receiving(&topic, &group);
        empty.long_polling_timeout = duration(Duration::from_millis(100));
        assert_eq!(shape(&peer.receive_items(empty).await)[..1], *"s");
        assert_eq!(shape(&peer.receive_items(receiving("no/topic", &group)).await)[..1], *"s");
    }
}

async fn c49_an_empty_poll_ends_before_the_deadline(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.a(), setting.world.nameserver()] {
        // Poll and deadline in milliseconds: as most SDKs have them, and as the Rust SDKs do.
        for (poll, deadline) in [(1000, 4000), (2000, 2000), (40_000, 2000)] {
            let peer = Peer::connect(server, setting.transport).await;
            let peer = peer.with_timeout(Some(Duration::from_millis(deadline)));
            let mut request = receiving(&topic, "group");
            request.long_polling_timeout = duration(Duration::from_millis(poll));
            let started = Instant::now();
            // An end by the deadline would be a gRPC error.
            assert_eq!(peer.receive(request).await.0, Code::MessageNotFound, "{poll} {deadline}");
            let shortest = Duration::from_millis(poll.min(deadline) / 2);
            assert!(started.elapsed() > shortest, "it does wait: {poll} {deadline}");
        }
    }
}

async fn c50_without_a_poll_time_the_deadline_counts(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    let peer =
        Peer::connect(setting.world.a(), setting.transport).await.with_timeout(Some(Duration::from_secs(5)));
    let mut request = receiving(&topic, "group");
    request.long_polling_timeout = None;
    let started = Instant::now();
    assert_eq!(peer.receive(request).await.0, Code::MessageNotFound);
    // Five seconds less half of a request timeout of three.
    assert!(started.elapsed() >= Duration::from_millis(3300), "{:?}", started.elapsed());
}

async fn c51_messages_are_complete(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    let mut sent = with_system(message(&topic, "body"), |system| {
        system.tag = Some("tag".to_owned());
        system.keys = vec!["key-1".to_owned(), "key-2".to_owned()];
        system.trace_context = Some("trace".to_owned());
    });
    sent.user_properties.insert("city".to_owned(), "Zürich".to_owned());
    peer.send(vec![sent.clone()]).await;
    let received = peer.receive_one(&topic, "group").await;
    assert_eq!((&received.topic, &received.body), (&sent.topic, &sent.body));
    assert_eq!(received.user_properties, sent.user_properties);
    let (said, heard) = (system(&sent), system(&received));
    assert_eq!((&heard.message_id, &heard.tag, &heard.keys), (&said.message_id, &said.tag, &said.keys));
    assert_eq!((heard.message_type, heard.body_encoding), (said.message_type, said.body_encoding));
    assert_eq!((&heard.born_timestamp, &heard.born_host), (&said.born_timestamp, &said.born_host));
    assert_eq!(heard.trace_context, said.trace_context);
    assert!(heard.body_digest.is_some() && heard.store_timestamp.is_some() && !heard.store_host.is_empty());
    assert_eq!((heard.queue_offset(), heard.delivery_attempt()), (0, 1));
    assert!(!heard.receipt_handle().is_empty() && heard.receipt_handle().is_ascii());
    assert!(heard.invisible_duration.is_some());

    let fifo = setting.world.topic("FIFO").await;
    peer.send(vec![grouped(message(&fifo, "body"), "orders")]).await;
    let received = peer.receive_one(&fifo, "group").await;
    assert_eq!(system(&received).message_group(), "orders");
}

async fn c52_the_digest_is_md5_in_upper_case(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    peer.send(vec![message(&topic, "short"), message(&topic, &"x".repeat(100_000))]).await;
    for group in ["group-1", "group-2"] {
        let (_, received) = peer.receive(receiving(&topic, group)).await;
        for each in &received {
            let digest = system(each).body_digest.as_ref().expect("a digest");
            let expected: String = Md5::digest(&each.body).iter().map(|byte| format!("{byte:02X}")).collect();
            assert_eq!((digest.r#type(), &digest.checksum), (v2::DigestType::Md5, &expected));
        }
        assert_eq!(received.len(), 2);
    }
}

async fn c53_auto_renew_lasts_as_long_as_the_client(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    let other = Peer::connect(setting.world.a(), setting.transport).await;
    let peer = Peer::connect(setting.world.a(), setting.transport).await;
    let mut session = crate::telemetry::Session::open(
        &peer,
        crate::telemetry::consumer("group", &topic, filter(FilterType::Tag, "*")),
    )
    .await;
    session.settings().await;
    peer.send(vec![message(&topic, "held")]).await;
    let mut request = receiving(&topic, "group");
    (request.auto_renew, request.invisible_duration) = (true, None);
    let (_, held) = peer.receive(request).await;
    assert_eq!(bodies(&held), ["held"]);
    other.receive_nothing(&topic, "group", INVISIBLE + Duration::from_secs(1)).await;
    let bye = v2::NotifyClientTerminationRequest { group: resource("group") };
    assert_eq!(code(&peer.notify_client_termination(bye).await.status), Code::Ok);
    let again = other.receive_one(&topic, "group").await;
    assert_eq!((body(&again), attempt(&again)), ("held", 2));
}

async fn c54_a_cancelled_poll_takes_nothing_along(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    let other = Peer::connect(setting.world.a(), setting.transport).await;
    for _ in 0..5 {
        let peer = Peer::connect(setting.world.a(), setting.transport).await;
        let mut poll = receiving(&topic, "group");
        poll.long_polling_timeout = duration(Duration::from_secs(20));
        let waiting = tokio::spawn(async move { peer.receive(poll).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        waiting.abort();
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    other.send(vec![message(&topic, "for who is there")]).await;
    let received = other.receive_one(&topic, "group").await;
    assert_eq!(attempt(&received), 1);
}

async fn c55_invisible_durations_out_of_range(setting: Setting) {
    let topic = setting.world.topic("NORMAL").await;
    for server in [setting.world.a(), setting.world.nameserver()] {
        let peer = Peer::connect(server, setting.transport).await;
        let receive = async |invisible: Option<u64>, auto_renew| {
            let mut request = receiving(&topic, "group");
            request.invisible_duration = invisible.and_then(|ms| duration(Duration::from_millis(ms)));
            request.auto_renew = auto_renew;
            request.long_polling_timeout = duration(Duration::from_millis(100));
            peer.receive(request).await.0
        };
        let hours_12 = 12 * 3600 * 1000;
        for bad in [None, Some(0), Some(9999), Some(hours_12 + 1)] {
            assert_eq!(receive(bad, false).await, Code::IllegalInvisibleTime, "{bad:?}");
            assert_eq!(receive(bad, true).await, Code::MessageNotFound, "{bad:?}");
        }
        for good in [10_000, hours_12] {
            assert_eq!(receive(Some(good), false).await, Code::MessageNotFound, "{good}");
        }
    }
}

async fn c56_a_message_group_is_locked_and_an_attempt_can_be_repeated(setting: Setting) {
    let world = &setting.world;
    let (topic, group) = (world.topic("FIFO").await, world.group(true, None).await);
    let peer = Peer::connect(world.a(), setting.transport).await;
    for number in 0..4 {
        peer.send(vec![grouped(message(&topic, &number.to_string()), "orders")]).await;
    }
    let mut request = receiving(&topic, &group);
    (request.batch_size, request.attempt_id) = (2, Some("attempt-1".to_owned()));
    (request.auto_renew, request.invisible_duration) = (true, None);
    let (_, first) = peer.receive(request.clone()).await;
    assert_eq!(bodies(&first), ["0", "1"]);
    peer.other().receive_nothing(&topic, &group, Duration::from_secs(1)).await;
    // The answer got lost: the same attempt gets the same messages.
    let (_, repeated) = peer.receive(request.clone()).await;
    assert_eq!(bodies(&repeated), ["0", "1"]);
    for each in &repeated {
        peer.other().receive_nothing(&topic, &group, Duration::from_millis(500)).await;
        assert_eq!(peer.ack(&topic, &group, handle(each)).await, Code::Ok);
    }
    request.attempt_id = Some("attempt-2".to_owned());
    let (_, next) = peer.receive(request).await;
    assert_eq!(bodies(&next), ["2", "3"]);
}

async fn c57_tag_and_sql_filters(setting: Setting) {
    let world = &setting.world;
    let peer = Peer::connect(world.a(), setting.transport).await;
    let topic = world.topic("NORMAL").await;
    for (text, tag, price) in [("1", "a", "5"), ("2", "b", "15"), ("3", "c", "25"), ("4", "a", "x")] {
        let mut sent = with_system(message(&topic, text), |system| system.tag = Some(tag.to_owned()));
        sent.user_properties.insert("price".to_owned(), price.to_owned());
        peer.send(vec![sent]).await;
    }
    for (kind, expression, expected) in [
        (FilterType::Tag, "*", "1234"),
        (FilterType::Tag, "", "1234"),
        (FilterType::Tag, "a", "14"),
        (FilterType::Tag, "a || b", "124"),
        // Empty parts are left out, and a single bar belongs to a tag.
        (FilterType::Tag, "a||||b", "124"),
        (FilterType::Tag, "|| a ||", "14"),
        (FilterType::Tag, "a|b", ""),
        (FilterType::Tag, "A", ""),
        (FilterType::Sql, "price > 10", "23"),
        (FilterType::Sql, "price BETWEEN 5 AND 15 AND TAGS = 'a'", "1"),
        (FilterType::Sql, "price IS NULL OR TAGS IN ('c')", "3"),
    ] {
        let group = world.group(false, None).await;
        let mut received = BTreeSet::new();
        let mut request = receiving(&topic, &group);
        request.filter_expression = Some(filter(kind, expression));
        request.long_polling_timeout = duration(Duration::from_millis(300));
        loop {
            let (code, messages) = peer.receive(request.clone()).await;
            received.extend(bodies(&messages).into_iter().map(str::to_owned));
            if code == Code::MessageNotFound {
                break;
            }
        }
        assert_eq!(received.into_iter().collect::<String>(), expected, "{expression}");
    }
    for (kind, expression) in [
        (FilterType::Tag, "|| ||"),
        (FilterType::Tag, "||"),
        (FilterType::Sql, ""),
        (FilterType::Sql, "price >"),
        (FilterType::Sql, "(price > 1"),
        (FilterType::Sql, "price ~ 1"),
    ] {
        let mut request = receiving(&topic, "group");
        request.filter_expression = Some(filter(kind, expression));
        assert_eq!(peer.receive(request).await.0, Code::IllegalFilterExpression, "{expression:?}");
    }
}

async fn c58_after_the_last_attempt_the_server_makes_a_dead_letter(setting: Setting) {
    let world = &setting.world;
    let (topic, group) = (world.topic("NORMAL").await, world.group(false, Some(1)).await);
    let peer = Peer::connect(world.a(), setting.transport).await;
    peer.send(vec![message(&topic, "poison")]).await;
    for number in 1..=2 {
        let received = peer.receive_one(&topic, &group).await;
        assert_eq!(attempt(&received), number);
        let changed = peer.change_invisible(&topic, &group, handle(&received), Duration::ZERO).await;
        assert_eq!(code(&changed.status), Code::Ok);
    }
    // The next poll finds nothing; meanwhile the server moves the message.
    peer.receive_nothing(&topic, &group, Duration::from_secs(1)).await;
    let dead_letters = format!("%DLQ%{group}");
    eventually("the dead-letter topic is there", async || {
        code(&peer.query_route(&dead_letters).await.status) == Code::Ok
    })
    .await;
    let dead = peer.receive_one(&dead_letters, "undertaker").await;
    assert_eq!((body(&dead), attempt(&dead)), ("poison", 1));
    peer.receive_nothing(&topic, &group, Duration::from_secs(1)).await;
}

async fn c59_queue_minus_one_is_every_queue(setting: Setting) {
    let world = &setting.world;
    let topic = world.topic("NORMAL").await;
    let peer = Peer::connect(world.a(), setting.transport).await;
    for queue in 0..3 {
        peer.send(vec![with_system(message(&topic, &queue.to_string()), |system| system.queue_id = queue)])
            .await;
    }
    let mut found = BTreeSet::new();
    while found.len() < 3 {
        let (code, messages) = peer.receive(receiving(&topic, "group")).await;
        assert_eq!(code, Code::Ok);
        found.extend(bodies(&messages).into_iter().map(str::to_owned));
    }
}
