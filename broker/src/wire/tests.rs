//! Messages passed on byte for byte against the same messages decoded, changed and encoded again.

use bytes::Bytes;
use kerolox_core::record::{MessageHold, MessageRecord};
use kerolox_core::topic::{MessageType, Topic};
use kerolox_proto::v2::{self, DigestType, Encoding, SystemProperties};
use proptest::prelude::*;
use prost::Message as _;
use prost_types::{Duration, Timestamp};

use super::{Delivery, Irregular, Placement, Sent, digest, duration, duration_ms, signed_ms, timestamp};

const HOST: &str = "broker-a:8081";

pub(super) fn placed<R>(kind: MessageType, queue: u32, with: impl FnOnce(&Placement<'_>) -> R) -> R {
    let topic = Topic::new("orders", 1);
    with(&Placement {
        topic: &topic,
        queue,
        kind,
        hold: MessageHold::None,
        deliver_at_ms: None,
        hold_ms: 0,
        producer: "p",
        store_host: HOST,
    })
}

pub(super) fn delivery(queue: u32, offset: Option<u64>) -> Delivery {
    Delivery {
        store_ms: 1_700_000_000_123,
        queue,
        offset,
        attempt: offset.map(|_| 2),
        receipt_handle: offset.map(|_| "handle".to_owned()),
        invisible_ms: offset.map(|_| 30_000),
    }
}

/// The path under test: scan, normalized first if necessary.
fn understood<R>(sent: &[u8], with: impl FnOnce(&Sent<'_>) -> R) -> Result<R, prost::DecodeError> {
    let messages = [Bytes::copy_from_slice(sent)];
    if let Ok(scanned) = super::scan(&messages) {
        return Ok(with(&scanned[0]));
    }
    let normalized = super::normalize(&messages)?;
    Ok(with(&super::scan(&normalized).expect("what prost encodes is regular")[0]))
}

fn stored(sent: &[u8], kind: MessageType, queue: u32) -> Result<MessageRecord, prost::DecodeError> {
    understood(sent, |message| placed(kind, queue, |placement| super::record(message, placement)))
}

/// The expected delivery, built from the typed message.
pub(super) fn expected(
    sent: &[u8],
    kind: MessageType,
    delivery: &Delivery,
) -> Result<v2::Message, prost::DecodeError> {
    let mut message = v2::Message::decode(sent)?;
    let mut system = message.system_properties.take().unwrap_or_default();
    system.body_digest = Some(digest(&message.body));
    if system.body_encoding() == Encoding::Unspecified {
        system.set_body_encoding(Encoding::Identity);
    }
    system.message_type = kind.into();
    system.born_timestamp.get_or_insert_with(Timestamp::default);
    system.store_host = HOST.to_owned();
    system.dead_letter_queue = None;
    system.store_timestamp = Some(timestamp(delivery.store_ms));
    system.queue_id = delivery.queue.cast_signed();
    system.queue_offset = delivery.offset.map(u64::cast_signed);
    system.delivery_attempt = delivery.attempt.map(u32::cast_signed);
    system.receipt_handle.clone_from(&delivery.receipt_handle);
    system.invisible_duration = delivery.invisible_ms.map(duration);
    message.system_properties = Some(system);
    Ok(message)
}

/// Compares the path under test with the typed message: the same refusals, deliveries and decisions.
fn check(sent: &[u8], kind: MessageType, delivery: &Delivery) -> Result<(), TestCaseError> {
    let expected = expected(sent, kind, delivery);
    let record = stored(sent, kind, delivery.queue);
    let (Ok(expected), Ok(record)) = (&expected, &record) else {
        prop_assert_eq!(expected.is_ok(), record.is_ok(), "{:02x?}", sent);
        return Ok(());
    };
    let delivered = super::message(record, delivery);
    prop_assert_eq!(&v2::Message::decode(delivered.clone()).expect("delivered to clients"), expected);
    prop_assert_eq!(nested_times(&delivered), nested_times(&expected.encode_to_vec()), "each stands once");
    let typed = v2::Message::decode(sent).expect("decoded above");
    let system = typed.system_properties.clone().unwrap_or_default();
    prop_assert_eq!(super::labels::tag(record).expect("own bytes"), system.tag.as_deref());
    prop_assert_eq!(&record.header.message_id, &system.message_id);
    understood(sent, |sent| {
        let draft = &sent.draft;
        let topic = typed.topic.as_ref().map(|name| (name.resource_namespace.as_str(), name.name.as_str()));
        prop_assert_eq!(sent.topic, topic);
        prop_assert_eq!((sent.body, draft.body_len), (&typed.body[..], typed.body.len()));
        prop_assert_eq!(sent.queue_id, system.queue_id);
        prop_assert_eq!(draft.message_id, &system.message_id);
        prop_assert_eq!(draft.declared.map_or(0, i32::from), known_type(system.message_type));
        prop_assert_eq!(draft.tag, system.tag.as_deref());
        prop_assert_eq!(&draft.keys, &system.keys);
        let properties = draft.properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        prop_assert_eq!(&typed.user_properties, &properties);
        prop_assert_eq!(draft.message_group, system.message_group.as_deref());
        prop_assert_eq!(draft.deliver_at_ms.is_some(), system.delivery_timestamp.is_some());
        prop_assert_eq!(draft.priority, system.priority);
        prop_assert_eq!(draft.lite_topic, system.lite_topic.as_deref());
        let recovery = system.orphaned_transaction_recovery_duration;
        prop_assert_eq!(draft.recovery_ms, recovery.as_ref().map(signed_ms));
        Ok(())
    })
    .expect("understood above")
}

fn known_type(number: i32) -> i32 {
    MessageType::try_from(number).map_or(0, i32::from)
}

/// How often each message-typed field occurs in the system properties: libraries that replace instead of merging must
/// not see one twice.
fn nested_times(message: &[u8]) -> Vec<usize> {
    use super::fields::Fields;
    use super::numbers::system;
    let mut fields = Fields::of(message);
    let mut times = [0; 23];
    while let Some(field) = fields.next().expect("regular") {
        if field.number == super::field::SYSTEM_PROPERTIES {
            let mut fields = Fields::of(field.bytes().expect("a message"));
            while let Some(field) = fields.next().expect("regular") {
                times[field.number.min(system::LAST) as usize] += 1;
            }
        }
    }
    [
        system::BODY_DIGEST,
        system::BORN_TIMESTAMP,
        system::STORE_TIMESTAMP,
        system::DELIVERY_TIMESTAMP,
        system::INVISIBLE_DURATION,
        system::ORPHANED_TRANSACTION_RECOVERY_DURATION,
    ]
    .map(|number| times[number as usize])
    .to_vec()
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,8}", "\\PC{0,8}", "x{120,140}"]
}

fn time() -> impl Strategy<Value = (i64, i32)> {
    prop_oneof![Just((0, 0)), (any::<i64>(), any::<i32>()), (0..2_000_000_000i64, 0..1_000_000_000)]
}

fn maybe<T: std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<T>> {
    proptest::option::of(value)
}

prop_compose! {
    fn system_properties()(
        (tag, keys, message_id, message_group) in
            (maybe(text()), proptest::collection::vec(text(), 0..3), text(), maybe(text())),
        (trace_context, lite_topic, born_host) in (maybe(text()), maybe(text()), text()),
        (born, delivery, recovery) in (maybe(time()), maybe(time()), maybe(time())),
        (encoding, kind) in (prop_oneof![0..4, any::<i32>()], prop_oneof![0..8, any::<i32>()]),
        (queue_id, priority) in (prop_oneof![0..9, any::<i32>()], maybe(any::<i32>())),
        // Most producers do not set the broker's fields.
        forged in proptest::option::weighted(0.3, (text(), any::<i64>(), time(), text())),
    ) -> SystemProperties {
        let mut system = SystemProperties {
            tag, keys, message_id, message_group, trace_context, lite_topic, born_host, queue_id, priority,
            body_encoding: encoding,
            message_type: kind,
            born_timestamp: born.map(|(seconds, nanos)| Timestamp { seconds, nanos }),
            delivery_timestamp: delivery.map(|(seconds, nanos)| Timestamp { seconds, nanos }),
            orphaned_transaction_recovery_duration: recovery.map(|(seconds, nanos)| Duration { seconds, nanos }),
            ..SystemProperties::default()
        };
        if let Some((text, number, (seconds, nanos), other)) = forged {
            system.body_digest = Some(v2::Digest { r#type: nanos, checksum: text.clone() });
            system.store_timestamp = Some(Timestamp { seconds, nanos });
            system.invisible_duration = Some(Duration { seconds, nanos });
            system.queue_offset = Some(number);
            system.delivery_attempt = Some(nanos);
            system.receipt_handle = Some(other.clone());
            system.store_host = other.clone();
            system.dead_letter_queue = Some(v2::DeadLetterQueue { topic: text, message_id: other });
        }
        system
    }
}

prop_compose! {
    fn typed_message()(
        topic in maybe((text(), text())),
        user_properties in proptest::collection::hash_map(text(), text(), 0..4),
        system_properties in maybe(system_properties()),
        body in proptest::collection::vec(any::<u8>(), 0..300),
    ) -> v2::Message {
        let topic = topic.map(|(resource_namespace, name)| v2::Resource { resource_namespace, name });
        v2::Message { topic, user_properties, system_properties, body: body.into() }
    }
}

/// A number in one of its forms, not always the shortest.
fn varint() -> impl Strategy<Value = Vec<u8>> {
    let value = prop_oneof![0..200u64, any::<u64>()];
    (value, prop_oneof![9 => Just(0usize), 1 => 1..12usize]).prop_map(|(mut value, more)| {
        let mut out = Vec::new();
        while value >= 0x80 {
            out.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        out.push(value.to_le_bytes()[0]);
        for _ in 0..more {
            *out.last_mut().expect("at least one byte") |= 0x80;
            out.push(0);
        }
        out
    })
}

/// One field with any number and wire type, most of them well-formed; its content may be fields in turn.
fn any_field(depth: u32) -> BoxedStrategy<Vec<u8>> {
    let number = prop_oneof![1..6u8, 1..26u8];
    let scalar = prop_oneof![
        (number.clone(), varint()).prop_map(|(number, value)| (number, 0u8, value)),
        (number.clone(), any::<[u8; 8]>()).prop_map(|(number, value)| (number, 1, value.to_vec())),
        (number.clone(), any::<[u8; 4]>()).prop_map(|(number, value)| (number, 5, value.to_vec())),
        (number.clone(), 3..8u8).prop_map(|(number, kind)| (number, kind, Vec::new())),
    ];
    let bytes = prop_oneof![
        4 => text().prop_map(String::into_bytes),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
    .boxed();
    let inner = if depth == 0 { bytes } else { prop_oneof![bytes, any_fields(depth - 1)].boxed() };
    let nested = (number, inner).prop_map(|(number, inner)| {
        let mut value = Vec::new();
        super::fields::put_bytes(&mut value, u32::from(number), &inner);
        value
    });
    let keyed = |(number, kind, value): (u8, u8, Vec<u8>)| {
        let mut out = vec![number << 3 | kind];
        if number >= 16 {
            out = vec![(number << 3 | kind) | 0x80, number >> 4];
        }
        out.extend(value);
        out
    };
    prop_oneof![1 => scalar.prop_map(keyed), 3 => nested].boxed()
}

fn any_fields(depth: u32) -> BoxedStrategy<Vec<u8>> {
    proptest::collection::vec(any_field(depth), 0..5).prop_map(|fields| fields.concat()).boxed()
}

fn kind() -> impl Strategy<Value = MessageType> {
    prop_oneof![Just(MessageType::Normal), Just(MessageType::Transaction), Just(MessageType::Fifo)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whole_messages(sent in typed_message(), kind in kind(), queue in 0..9u32, offset in maybe(0..u64::MAX / 2)) {
        check(&sent.encode_to_vec(), kind, &delivery(queue, offset))?;
    }

    #[test]
    fn messages_with_more_fields(
        sent in typed_message(),
        (outer, system) in (any_fields(1), any_fields(1)),
        front in any::<bool>(),
    ) {
        let mut typed = sent.clone();
        let mut system_bytes = typed.system_properties.take().unwrap_or_default().encode_to_vec();
        system_bytes.splice(if front { 0..0 } else { system_bytes.len()..system_bytes.len() }, system);
        let mut bytes = typed.encode_to_vec();
        super::fields::put_bytes(&mut bytes, 3, &system_bytes);
        bytes.splice(if front { 0..0 } else { bytes.len()..bytes.len() }, outer);
        check(&bytes, MessageType::Normal, &delivery(1, Some(7)))?;
    }

    #[test]
    fn fields_of_all_kinds(sent in any_fields(3)) {
        check(&sent, MessageType::Normal, &delivery(0, Some(7)))?;
    }

    #[test]
    fn messages_with_changed_bytes(
        sent in typed_message(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..3),
        cut in maybe(any::<prop::sample::Index>()),
    ) {
        let mut bytes = sent.encode_to_vec();
        let len = bytes.len();
        if len > 0 {
            changes.iter().for_each(|(place, byte)| bytes[place.index(len)] = *byte);
            bytes.truncate(cut.map_or(len, |cut| cut.index(len)));
        }
        check(&bytes, MessageType::Normal, &delivery(2, None))?;
    }

    #[test]
    fn arbitrary_bytes(sent in proptest::collection::vec(any::<u8>(), 0..40)) {
        check(&sent, MessageType::Normal, &delivery(2, None))?;
    }
}

/// A message as an SDK sends it.
pub(super) fn sent_by_sdk() -> v2::Message {
    v2::Message {
        topic: Some(v2::Resource { resource_namespace: String::new(), name: "t".into() }),
        user_properties: [("k".to_owned(), "v".to_owned())].into(),
        system_properties: Some(SystemProperties {
            tag: Some("paid".into()),
            message_id: "01AB".into(),
            body_encoding: Encoding::Identity.into(),
            message_type: MessageType::Normal.into(),
            born_timestamp: Some(Timestamp { seconds: 5, nanos: 0 }),
            queue_id: 2,
            ..SystemProperties::default()
        }),
        body: Bytes::from_static(b"hello"),
    }
}

/// The bytes of one message in the log and on the way to a client.
#[test]
fn fixture() {
    let sent = sent_by_sdk().encode_to_vec();
    let (tag, id, others) = ("0a0470616964", "1a0430314142", "280130013a0208056802");
    let content = ["0a03120174", "12060a016b120176", "220568656c6c6f"];
    assert_eq!(
        hex::encode(&sent),
        format!("{}{}1a16{tag}{id}{others}{}", content[0], content[1], content[2])
    );

    let record = stored(&sent, MessageType::Normal, 0).expect("an SDK's");
    let added = "2224080212203544343134303241424334423241373642393731394439313130313743353932\
                 520d62726f6b65722d613a38303831";
    assert_eq!(hex::encode(&record.content), content.concat());
    assert_eq!(
        hex::encode(&record.system),
        format!("{tag}{others}{added}"),
        "the bytes that arrived, and the broker's"
    );

    let delivered = super::message(&record, &delivery(0, Some(9)));
    let on_delivery = "4a0b0880e2cfaa0610c0a9d33a\
                       6800\
                       7009\
                       800102\
                       620668616e646c65\
                       7a02081e";
    let system = format!("{tag}{others}{added}{id}{on_delivery}");
    let expected = format!("{}1a{:02x}{system}", content.concat(), system.len() / 2);
    assert_eq!(hex::encode(&delivered), expected);
}

#[test]
fn what_only_the_broker_may_say_is_not_taken_from_producers() {
    let mut sent = sent_by_sdk();
    let system = sent.system_properties.as_mut().expect("set above");
    system.receipt_handle = Some("forged".into());
    system.delivery_attempt = Some(77);
    system.dead_letter_queue = Some(v2::DeadLetterQueue::default());
    assert_eq!(super::scan(&[sent.encode_to_vec().into()]).err(), Some(Irregular));
    let record = stored(&sent.encode_to_vec(), MessageType::Normal, 3).expect("a message");
    let delivered = v2::Message::decode(super::message(&record, &delivery(3, None))).expect("a message");
    let system = delivered.system_properties.expect("always set");
    assert_eq!(
        (system.receipt_handle, system.delivery_attempt, system.dead_letter_queue),
        (None, None, None)
    );
    assert_eq!((system.queue_id, system.message_id.as_str()), (3, "01AB"));
}

#[test]
fn bodies_are_digested_as_all_sdks_expect() {
    let digest = digest(b"hello");
    assert_eq!(
        (digest.r#type(), digest.checksum.as_str()),
        (DigestType::Md5, "5D41402ABC4B2A76B9719D911017C592")
    );
}

#[test]
fn malformed_messages_are_told_from_irregular_ones() {
    // Field 1 of the system properties, the tag: not UTF-8.
    assert!(stored(&[0x1a, 0x03, 0x0a, 0x01, 0xff], MessageType::Normal, 0).is_err());
    // The system properties twice: they are one.
    let twice = [[0x1a, 0x03, 0x0a, 0x01, b'a'], [0x1a, 0x03, 0x1a, 0x01, b'b']].concat();
    assert_eq!(super::scan(&[Bytes::from(twice.clone())]).err(), Some(Irregular));
    let record = stored(&twice, MessageType::Normal, 0).expect("a message");
    assert_eq!((super::labels::tag(&record), record.header.message_id.as_str()), (Ok(Some("a")), "b"));
}

#[test]
fn times_survive_the_round_trip() {
    for ms in [0, 1, 999, 1000, 123_456_789] {
        assert_eq!(duration_ms(&duration(ms)), ms);
    }
    assert_eq!(duration_ms(&Duration { seconds: -1, nanos: 0 }), 0);
    assert_eq!(signed_ms(&Duration { seconds: -1, nanos: 0 }), -1000);
    assert_eq!(signed_ms(&Duration { seconds: 0, nanos: -1 }), -1, "below 0 is not 0");
    assert_eq!(timestamp(-1), Timestamp { seconds: -1, nanos: 999_000_000 });
}
