"""Lite topics: push and simple consumers of the SDK."""

import time

import pytest
from rocketmq import ConsumeResult, LitePushConsumer, LiteSimpleConsumer, MessageListener
from rocketmq.v5.exception import LiteSubscriptionQuotaExceededException

import clusters
import sdk


def in_order(bodies):
    """The SDK sends to all broker groups in turn, and each has a queue for a lite topic: several keep the order each for itself."""
    return bodies if clusters.GROUPS == 1 else sorted(bodies)


def lite_message(topic, name, body):
    message = sdk.new_message(topic, body)
    message.lite_topic = name
    return message


class Recorder(MessageListener):
    """Keeps what it gets; fails the bodies in `failing` when they come for the first time."""

    def __init__(self, failing=()):
        self.got = []
        self.failing = set(failing)

    def consume(self, message):
        body = message.body.decode()
        self.got.append((message.lite_topic, body))
        if body in self.failing:
            self.failing.remove(body)
            return ConsumeResult.FAILURE
        return ConsumeResult.SUCCESS


def subscribe(consumer, name):
    """The SDK refuses subscriptions until the server told its quota, and its start does not wait for that."""
    deadline = time.monotonic() + 10
    while True:
        try:
            return consumer.subscribe_lite(name)
        except LiteSubscriptionQuotaExceededException as refused:
            if "quota: 0" not in str(refused) or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.fixture
def started():
    consumers = []

    def start(consumer):
        consumer.startup()
        consumers.append(consumer)
        return consumer

    yield start
    for consumer in consumers:
        consumer.shutdown()


def test_a_lite_simple_consumer_gets_what_it_subscribes_to(cluster, clients, started):
    topic, group = cluster.create_topic("LITE"), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    for name in ["a", "b", "c"]:
        for number in range(3):
            producer.send(lite_message(topic, name, f"{name}{number}"))
    consumer = started(LiteSimpleConsumer(topic, sdk.configuration(cluster.access_point), group, 2))
    subscribe(consumer, "a")
    subscribe(consumer, "c")
    got = [(message.lite_topic, message.body.decode()) for message in sdk.receive(consumer, 6)]
    for name in ["a", "c"]:
        assert in_order([body for of, body in got if of == name]) == [f"{name}{number}" for number in range(3)]
    consumer.unsubscribe_lite("a")
    producer.send(lite_message(topic, "a", "a3"))
    producer.send(lite_message(topic, "c", "c3"))
    assert sdk.bodies(sdk.receive(consumer, 1)) == ["c3"]
    assert sdk.receive_nothing(consumer, 3) == []


def test_a_lite_push_consumer_gets_messages_in_order(cluster, clients, started):
    topic, group = cluster.create_topic("LITE"), cluster.create_group()
    cluster.mqadmin("updateSubGroup", "-c", "DefaultCluster", "-g", group, "--attributes", "+retry.backoff=1s")
    producer = clients.producer(cluster.access_point, topic)
    recorder = Recorder(failing=["a1"])
    consumer = started(LitePushConsumer(sdk.configuration(cluster.access_point), group, topic, recorder))
    for name in ["a", "b"]:
        subscribe(consumer, name)
    for number in range(3):
        for name in ["a", "b", "other"]:
            producer.send(lite_message(topic, name, f"{name}{number}"))
            time.sleep(0.2)
    sdk.wait_until(lambda: len(recorder.got) >= 7, 30, "every message was pushed, and one again")
    assert in_order([body for name, body in recorder.got if name == "a"]) == ["a0", "a1", "a1", "a2"]
    assert in_order([body for name, body in recorder.got if name == "b"]) == ["b0", "b1", "b2"]
    assert not [name for name, _ in recorder.got if name == "other"]


def test_a_group_may_have_a_quota(cluster, clients, started):
    topic, group = cluster.create_topic("LITE"), cluster.create_group()
    cluster.mqadmin("updateSubGroup", "-c", "DefaultCluster", "-g", group, "--attributes", "+lite.sub.client.quota=1")
    consumer = started(LiteSimpleConsumer(topic, sdk.configuration(cluster.access_point), group, 2))
    subscribe(consumer, "a")
    with pytest.raises(LiteSubscriptionQuotaExceededException):
        consumer.subscribe_lite("b")
