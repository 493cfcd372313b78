"""What clients get wrong: the protocol's code, a message that helps, and a broker that stays up."""

import os
import socket

import pytest
from rocketmq.grpc_protocol import definition_pb2 as definition
from rocketmq.grpc_protocol import service_pb2 as service
from rocketmq.v5.exception import ClientException, IllegalArgumentException

import sdk
from raw import RawClient, message, resource

Code = definition.Code
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def topic(cluster):
    return cluster.create_topic()


@pytest.fixture(scope="module")
def tx_topic(cluster):
    return cluster.create_topic("TRANSACTION")


@pytest.fixture(scope="module")
def group(cluster):
    return cluster.create_group()


@pytest.fixture
def broker(cluster, topic):
    """A raw connection; afterwards the broker must still be the same process and take messages."""
    pid = cluster.broker.pid()
    with RawClient(cluster.broker.address) as client:
        yield client
        assert cluster.broker.pid() == pid
        assert client.send(message(topic)).status.code == Code.OK


def check(status, code, *words):
    """The status has the code, and a sentence for the person who reads it that mentions the words."""
    assert Code.Name(status.code) == Code.Name(code), status
    assert len(status.message.split()) >= 4, f"not much of a help: {status.message!r}"
    for word in words:
        assert word.lower() in status.message.lower(), f"{word!r} is not in {status.message!r}"


def send_status(answer):
    """The one status of a send of one message: the top one, and the entry agrees when there is one."""
    for entry in answer.entries:
        assert entry.status.code == answer.status.code
    return answer.status


def test_unknown_topic(cluster, broker, group):
    with RawClient(cluster.nameserver.address) as nameserver:
        for client in (broker, nameserver):
            answer = client.query_route("no-such-topic")
            check(answer.status, Code.TOPIC_NOT_FOUND, "no-such-topic")
            assert not answer.message_queues
    check(send_status(broker.send(message("no-such-topic"))), Code.TOPIC_NOT_FOUND, "no-such-topic")
    status, _ = broker.receive("no-such-topic", group)
    check(status, Code.TOPIC_NOT_FOUND, "no-such-topic")
    answer = broker.call("QueryAssignment", service.QueryAssignmentRequest(
        topic=resource("no-such-topic"), group=resource(group)
    ))
    check(answer.status, Code.TOPIC_NOT_FOUND, "no-such-topic")


@pytest.mark.parametrize("name", ["", " ", "a b", "ö", "a/b", "t" * 128])
def test_illegal_topic(broker, name):
    check(broker.query_route(name).status, Code.ILLEGAL_TOPIC)
    check(send_status(broker.send(message(name))), Code.ILLEGAL_TOPIC)


@pytest.mark.parametrize("name", ["", " ", "a b", "g" * 121])
def test_illegal_group(broker, topic, name):
    status, _ = broker.receive(topic, name)
    check(status, Code.ILLEGAL_CONSUMER_GROUP)


def test_wrong_message_type(broker, topic, tx_topic):
    half = message(topic, message_type=definition.MessageType.TRANSACTION)
    check(send_status(broker.send(half)), Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "transaction")
    check(send_status(broker.send(message(tx_topic))), Code.MESSAGE_PROPERTY_CONFLICT_WITH_TYPE, "normal")


def test_wrong_message_type_in_the_sdk(cluster, clients, topic):
    """The route tells the SDK the topic's type, so that it refuses by itself."""
    producer = clients.producer(cluster.access_point, topic, sdk.Checker())
    with pytest.raises(IllegalArgumentException):
        sdk.send_half(producer, sdk.new_message(topic, "half"))


def test_body_too_large(broker, topic):
    check(send_status(broker.send(message(topic, bytes(4 * MIB + 1)))), Code.MESSAGE_BODY_TOO_LARGE, str(4 * MIB))


def test_body_too_large_in_the_sdk(cluster, clients, topic):
    producer = clients.producer(cluster.access_point, topic)
    with pytest.raises(ClientException):
        producer.send(sdk.new_message(topic, bytes(4 * MIB + 1)))


def test_empty_body(broker, topic):
    check(send_status(broker.send(message(topic, b""))), Code.MESSAGE_BODY_EMPTY)


@pytest.mark.parametrize("message_id", ["", "  "])
def test_empty_message_id(broker, topic, message_id):
    check(send_status(broker.send(message(topic, message_id=message_id))), Code.ILLEGAL_MESSAGE_ID)


def test_no_messages_and_mixed_topics(broker, topic, tx_topic):
    check(broker.send().status, Code.MESSAGE_CORRUPTED)
    check(send_status(broker.send(message(topic), message(tx_topic))), Code.MESSAGE_CORRUPTED)


@pytest.mark.parametrize("field, value, code", [
    ("tag", " ", Code.ILLEGAL_MESSAGE_TAG),
    ("tag", "a|b", Code.ILLEGAL_MESSAGE_TAG),
    ("tag", "a\nb", Code.ILLEGAL_MESSAGE_TAG),
    ("keys", [" "], Code.ILLEGAL_MESSAGE_KEY),
    ("keys", ["a\tb"], Code.ILLEGAL_MESSAGE_KEY),
    ("keys", ["k" * 17000], Code.MESSAGE_PROPERTIES_TOO_LARGE),
])
def test_system_properties(broker, topic, field, value, code):
    check(send_status(broker.send(message(topic, **{field: value}))), code)


@pytest.mark.parametrize("properties, code", [
    ({"a\nb": "c"}, Code.ILLEGAL_MESSAGE_PROPERTY_KEY),
    ({"a": "b\0c"}, Code.ILLEGAL_MESSAGE_PROPERTY_KEY),
    ({"UNIQ_KEY": "x"}, Code.ILLEGAL_MESSAGE_PROPERTY_KEY),
    ({f"key-{number}": "value" for number in range(129)}, Code.MESSAGE_PROPERTIES_TOO_LARGE),
    ({"a": "v" * 17000}, Code.MESSAGE_PROPERTIES_TOO_LARGE),
])
def test_user_properties(broker, topic, properties, code):
    built = message(topic)
    built.user_properties.update(properties)
    check(send_status(broker.send(built)), code)


def test_malformed_messages_are_refused_and_unusual_ones_brought_in_order(cluster, broker, group):
    topic = cluster.create_topic()
    sound = message(topic, b"sound").SerializeToString()
    malformed = [
        sound[:-1],  # cut off
        sound + b"\x1a\x03\x0a\x01\xff",  # a tag that is not UTF-8
        sound + b"\x1a\x02\x18\x01",  # a message id that is a number
        sound + b"\x22\xff\xff\xff\xff\x0f",  # a body longer than the message
        sound + b"\x2b",  # a group that does not end
    ]
    for each in malformed:
        check(broker.send_bytes(sound, each).status, Code.BAD_REQUEST, "malformed")
    # System properties in two parts are one to protobuf; what only a broker may say is not heard.
    unusual = message(topic, b"unusual", receipt_handle="forged", delivery_attempt=77).SerializeToString()
    assert broker.send_bytes(unusual + b"\x1a\x03\x0a\x01a").status.code == Code.OK
    _, received = broker.receive(topic, group)
    assert [each.body for each in received] == [b"unusual"], "nothing of a refused request is stored"
    system = received[0].system_properties
    assert (system.tag, system.delivery_attempt) == ("a", 1)
    assert system.receipt_handle not in ("", "forged")


@pytest.mark.parametrize("handle", ["", "nonsense", "a b c", "AAAA" * 20, "x" * 5000, "ü"])
def test_malformed_receipt_handle(broker, topic, group, handle):
    answer = broker.ack(topic, group, handle)
    check(answer.status, Code.INVALID_RECEIPT_HANDLE, "handle")
    assert [entry.status.code for entry in answer.entries] == [Code.INVALID_RECEIPT_HANDLE]

    answer = broker.change_invisible(topic, group, handle, 15)
    check(answer.status, Code.INVALID_RECEIPT_HANDLE, "handle")
    assert answer.receipt_handle == handle, "SDKs keep the handle of the answer even when it is an error"


def test_a_handle_of_another_topic_or_group(broker, cluster, group):
    topic, other = cluster.create_topic(), cluster.create_group()
    broker.send(message(topic))
    _, [received] = broker.receive(topic, group)
    handle = received.system_properties.receipt_handle
    check(broker.ack(topic, other, handle).status, Code.INVALID_RECEIPT_HANDLE)
    assert broker.ack(topic, group, handle).status.code == Code.OK


@pytest.mark.parametrize(
    "seconds, text",
    [
        (0.5, "the invisibleTime is too small. min is 10000"),
        (9, "the invisibleTime is too small. min is 10000"),
        (12 * 3600 + 1, "the invisibleTime is too large. max is 43200000"),
    ],
)
def test_invisible_duration_out_of_range(broker, topic, group, seconds, text):
    status, _ = broker.receive(topic, group, invisible=seconds)
    check(status, Code.ILLEGAL_INVISIBLE_TIME, text)


def test_filter_expression(broker, topic, group):
    status, _ = broker.receive(topic, group, expression="|| ||")
    check(status, Code.ILLEGAL_FILTER_EXPRESSION)


@pytest.mark.parametrize("transaction_id", ["", "  "])
def test_blank_transaction_id(broker, tx_topic, transaction_id):
    answer = broker.end_transaction(tx_topic, transaction_id, sdk.COMMIT)
    check(answer.status, Code.INVALID_TRANSACTION_ID)


def test_mangled_transaction_id(broker, tx_topic):
    check(broker.end_transaction(tx_topic, "nonsense", sdk.COMMIT).status, Code.INVALID_TRANSACTION_ID)


def test_the_first_decision_wins(broker, tx_topic, group):
    half = message(tx_topic, b"decided", message_type=definition.MessageType.TRANSACTION)
    [entry] = broker.send(half).entries
    assert entry.transaction_id
    assert broker.end_transaction(tx_topic, entry.transaction_id, sdk.UNKNOWN).status.code == Code.OK
    assert broker.end_transaction(tx_topic, entry.transaction_id, sdk.COMMIT, entry.message_id).status.code == Code.OK
    late = broker.end_transaction(tx_topic, entry.transaction_id, sdk.ROLLBACK, entry.message_id)
    assert late.status.code != Code.OK and late.status.message
    _, messages = broker.receive(tx_topic, group)
    assert [found.body for found in messages] == [b"decided"]


@pytest.mark.parametrize("server", ["nameserver", "broker"])
@pytest.mark.parametrize("headers", [(), (("x-mq-client-id", ""),), (("x-mq-client-id", "  "),)])
def test_missing_client_id(cluster, broker, topic, server, headers):
    with RawClient(getattr(cluster, server).address, headers=headers) as client:
        check(client.query_route(topic).status, Code.CLIENT_ID_REQUIRED, "x-mq-client-id")
        if server == "broker":
            check(send_status(client.send(message(topic))), Code.CLIENT_ID_REQUIRED, "x-mq-client-id")


def test_odd_headers_are_accepted(cluster, broker, topic):
    headers = (
        ("x-mq-client-id", "host@1@0@x"), ("x-mq-language", "HTTP"), ("x-mq-date-time", "yesterday"),
        ("authorization", "MQv2-HMAC-SHA1 Credential=, SignedHeaders=x-mq-date-time, Signature=00"),
        ("x-unheard-of", "1"),
    )
    with RawClient(cluster.broker.address, headers=headers) as client:
        assert client.query_route(topic).status.code == Code.OK


def test_an_ordinary_topic_has_no_lite_topics(broker, topic, group):
    if not hasattr(broker.stub, "SyncLiteSubscription"):
        return
    request = service.SyncLiteSubscriptionRequest(topic=resource(topic), group=resource(group))
    status = broker.call("SyncLiteSubscription", request).status
    assert status.code == Code.ILLEGAL_TOPIC and "message.type=LITE" in status.message, status


def test_a_heartbeat_without_settings_is_fine(broker, group):
    answer = broker.call("Heartbeat", service.HeartbeatRequest(
        client_type=definition.ClientType.SIMPLE_CONSUMER, group=resource(group)
    ))
    assert answer.status.code == Code.OK
    answer = broker.call("NotifyClientTermination", service.NotifyClientTerminationRequest(group=resource(group)))
    assert answer.status.code == Code.OK


def test_garbage_on_the_port_does_no_harm(cluster, broker):
    host, port = cluster.broker.address.rsplit(":", 1)
    for garbage in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x00\x05hello", os.urandom(512), b"PRI * HTTP/2.0"):
        with socket.create_connection((host, int(port)), timeout=5) as connection:
            connection.sendall(garbage)
