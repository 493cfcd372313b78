//! Line 41: faults of messages, and the code for each.

use std::collections::HashMap;
use std::time::Duration;

use kerolox_proto::v2::{self, Code, MessageType};

use crate::peer::{Peer, duration, filter, grouped, message, receiving, typed, with_system};
use crate::world::Setting;

lines![c41_bad_messages_and_their_codes, c41_bad_names_and_their_codes, c41_good_messages_at_the_limits];

const BODY_MAX: usize = 4 * 1024 * 1024;
const PROPERTIES_MAX: usize = 16 * 1024;

type Case = (&'static str, Code, v2::Message);

fn with_properties(
    message: v2::Message,
    properties: impl IntoIterator<Item = (String, String)>,
) -> v2::Message {
    v2::Message { user_properties: HashMap::from_iter(properties), ..message }
}

fn property(message: v2::Message, key: &str, value: &str) -> v2::Message {
    with_properties(message, [(key.to_owned(), value.to_owned())])
}

fn tagged(message: v2::Message, tag: &str) -> v2::Message {
    with_system(message, |system| system.tag = Some(tag.to_owned()))
}

fn keyed(message: v2::Message, keys: &[&str]) -> v2::Message {
    with_system(message, |system| system.keys = keys.iter().map(|&key| key.to_owned()).collect())
}

fn with_id(message: v2::Message, id: &str) -> v2::Message {
    with_system(message, |system| system.message_id = id.to_owned())
}

fn many(count: usize) -> impl Iterator<Item = (String, String)> {
    (0..count).map(|number| (format!("key-{number}"), "value".to_owned()))
}

async fn c41_bad_messages_and_their_codes(setting: Setting) {
    let world = &setting.world;
    let (normal, fifo, transactional) =
        (world.topic("NORMAL").await, world.topic("FIFO").await, world.topic("TRANSACTION").await);
    let ok = || message(&normal, "body");
    let half = || typed(message(&transactional, "body"), MessageType::Transaction);
    let recovering =
        |time| with_system(half(), |system| system.orphaned_transaction_recovery_duration = duration(time));
    let in_group = |group: &str| grouped(message(&fifo, "body"), group);
    let cases: Vec<Case> = vec![
        ("an empty body", Code::MessageBodyEmpty, message(&normal, "")),
        ("a body too large", Code::MessageBodyTooLarge, message(&normal, &"x".repeat(BODY_MAX + 1))),
        ("too many properties", Code::MessagePropertiesTooLarge, with_properties(ok(), many(129))),
        (
            "a property too large",
            Code::MessagePropertiesTooLarge,
            property(ok(), "k", &"v".repeat(PROPERTIES_MAX)),
        ),
        (
            "keys too large",
            Code::MessagePropertiesTooLarge,
            keyed(ok(), &["k".repeat(PROPERTIES_MAX + 1).as_str()]),
        ),
        ("a tag too large", Code::MessagePropertiesTooLarge, tagged(ok(), &"t".repeat(PROPERTIES_MAX + 1))),
        ("a reserved property", Code::IllegalMessagePropertyKey, property(ok(), "UNIQ_KEY", "v")),
        (
            "a property key with a control character",
            Code::IllegalMessagePropertyKey,
            property(ok(), "a\u{1}", "v"),
        ),
        (
            "a property value with a control character",
            Code::IllegalMessagePropertyKey,
            property(ok(), "a", "\u{0}"),
        ),
        ("a blank tag", Code::IllegalMessageTag, tagged(ok(), "  ")),
        ("a tag with a bar", Code::IllegalMessageTag, tagged(ok(), "a|b")),
        ("a tag with a control character", Code::IllegalMessageTag, tagged(ok(), "a\n")),
        ("a blank key", Code::IllegalMessageKey, keyed(ok(), &["good", " "])),
        ("a key with a control character", Code::IllegalMessageKey, keyed(ok(), &["a\tb"])),
        ("a blank message group", Code::IllegalMessageGroup, in_group(" ")),
        ("a message group too long", Code::IllegalMessageGroup, in_group(&"g".repeat(64))),
        ("a message group too long in UTF-8", Code::IllegalMessageGroup, in_group(&"ü".repeat(32))),
        ("a message group with a control character", Code::IllegalMessageGroup, in_group("a\u{7f}")),
        ("no message id", Code::IllegalMessageId, with_id(ok(), "")),
        ("a blank message id", Code::IllegalMessageId, with_id(ok(), "  ")),
        ("a message id that clears the screen", Code::IllegalMessageId, with_id(ok(), "a\u{1b}[2J")),
        ("a property key with a newline", Code::IllegalMessagePropertyKey, property(ok(), "a\nb", "v")),
        (
            "a property key with a line separator",
            Code::IllegalMessagePropertyKey,
            property(ok(), "a\u{2028}b", "v"),
        ),
        ("a recovery time too long", Code::BadRequest, recovering(Duration::from_secs(3601))),
        (
            "another type than its topic",
            Code::MessagePropertyConflictWithType,
            typed(ok(), MessageType::Transaction),
        ),
        ("no such topic", Code::TopicNotFound, message("no-such-topic", "body")),
    ];
    let peer = Peer::connect(world.a(), setting.transport).await;
    for (what, expected, sent) in cases {
        assert_eq!(peer.send_code(sent).await, expected, "{what}");
    }
    let send = async |messages| {
        let answer = peer.send_message(v2::SendMessageRequest { messages }).await;
        crate::peer::code(&answer.status)
    };
    assert_eq!(send(vec![]).await, Code::MessageCorrupted, "no messages");
    assert_eq!(send(vec![ok(), half()]).await, Code::MessageCorrupted, "messages of two topics");
    assert_ne!(send(vec![ok(), message(&normal, "")]).await, Code::Ok, "one bad message among good ones");
    // Nothing of all that was stored.
    peer.receive_nothing(&normal, "group", Duration::from_secs(1)).await;
}

async fn c41_bad_names_and_their_codes(setting: Setting) {
    let world = &setting.world;
    let topic = world.topic("NORMAL").await;
    let peer = Peer::connect(world.a(), setting.transport).await;
    for name in ["", " ", "a b", "a/b", "ö", "rmq_sys_trace", "RMQ_SYS_TRANS_HALF_TOPIC", &"t".repeat(128)] {
        assert_eq!(peer.send_code(message(name, "body")).await, Code::IllegalTopic, "{name}");
        assert_eq!(peer.receive(receiving(name, "group")).await.0, Code::IllegalTopic, "{name}");
    }
    for name in ["", " ", "a b", "a/b", "ö", "CID_RMQ_SYS_TRANS", &"g".repeat(121)] {
        assert_eq!(peer.receive(receiving(&topic, name)).await.0, Code::IllegalConsumerGroup, "{name}");
    }
    for id in ["", "  ", "nonsense"] {
        let commit = v2::TransactionResolution::Commit;
        assert_eq!(peer.end(&topic, id, commit).await, Code::InvalidTransactionId, "{id}");
    }
    let mut unknown = receiving(&topic, "group");
    unknown.filter_expression = Some(filter(v2::FilterType::Tag, "|| ||"));
    assert_eq!(peer.receive(unknown).await.0, Code::IllegalFilterExpression);
    let (write_only, read_only) =
        (world.topic_on(&[world.a()], "NORMAL", 2).await, world.topic_on(&[world.a()], "NORMAL", 4).await);
    assert_eq!(peer.receive(receiving(&write_only, "group")).await.0, Code::Forbidden);
    assert_eq!(peer.send_code(message(&read_only, "body")).await, Code::Forbidden);
}

async fn c41_good_messages_at_the_limits(setting: Setting) {
    let world = &setting.world;
    let (normal, fifo, transactional) =
        (world.topic("NORMAL").await, world.topic("FIFO").await, world.topic("TRANSACTION").await);
    let ok = || message(&normal, "body");
    let peer = Peer::connect(world.a(), setting.transport).await;
    for (what, sent) in [
        ("a body of 4 MiB", message(&normal, &"x".repeat(BODY_MAX))),
        ("a body of one byte", message(&normal, "x")),
        ("128 properties", with_properties(ok(), many(128))),
        ("16 KiB of properties", property(ok(), "k", &"v".repeat(PROPERTIES_MAX - 1))),
        ("many keys", keyed(ok(), &["key"; 200])),
        ("a tag with blanks", tagged(ok(), " a b ")),
        ("a message group of 63 bytes", grouped(message(&fifo, "body"), &"g".repeat(63))),
        (
            "a recovery time of an hour",
            with_system(typed(message(&transactional, "body"), MessageType::Transaction), |system| {
                system.orphaned_transaction_recovery_duration = duration(Duration::from_secs(3600));
            }),
        ),
    ] {
        assert_eq!(peer.send_code(sent).await, Code::Ok, "{what}");
    }
}
