"""Normal messages: send, receive, acknowledge, redelivery."""

import os
import time

import pytest
from rocketmq import ConsumeResult, FilterExpression, MessageListener, PushConsumer
from rocketmq.v5.exception import BadRequestException

import sdk


def test_a_message_arrives_as_it_was_sent(cluster, clients):
    topic, group = cluster.create_topic(), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    consumer = clients.consumer(cluster.access_point, topic, group)
    body = os.urandom(4096) + "Grüße, 你好\0".encode()
    before = int(time.time() * 1000) - 1000

    receipt = producer.send(sdk.new_message(topic, body, tag="paid", key="order-1", city="Zürich"))
    [message] = sdk.receive(consumer, 1)

    assert message.body == body
    assert message.topic == topic
    assert message.tag == "paid"
    assert message.keys == {"order-1"}
    assert message.properties == {"city": "Zürich"}
    assert message.message_id == receipt.message_id
    assert message.message_type == 1
    assert message.delivery_attempt == 1
    assert message.born_host
    assert before <= message.born_timestamp <= int(time.time() * 1000) + 1000


def test_nothing_is_left_after_the_acknowledgement(cluster, clients):
    topic, group = cluster.create_topic(queues=4), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    consumer = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    sent = [f"message-{number}" for number in range(50)]
    ids = {producer.send(sdk.new_message(topic, body)).message_id for body in sent}
    assert len(ids) == len(sent)

    assert sdk.bodies(sdk.receive(consumer, len(sent), seconds=40)) == sorted(sent)
    # Longer than the invisible duration: whatever was not acknowledged would come back.
    assert sdk.receive_nothing(consumer, sdk.INVISIBLE + 3) == []


def test_asynchronous_sends_all_arrive(cluster, clients):
    topic, group = cluster.create_topic(), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    consumer = clients.consumer(cluster.access_point, topic, group)
    sent = [f"message-{number}" for number in range(200)]
    for receipt in [producer.send_async(sdk.new_message(topic, body)) for body in sent]:
        assert receipt.result(timeout=10).message_id
    assert sdk.bodies(sdk.receive(consumer, len(sent), seconds=40)) == sorted(sent)


def test_two_groups_each_get_every_message(cluster, clients):
    topic, groups = cluster.create_topic(), [cluster.create_group(), cluster.create_group()]
    consumers = [clients.consumer(cluster.access_point, topic, group) for group in groups]
    producer = clients.producer(cluster.access_point, topic)
    sent = [f"message-{number}" for number in range(10)]
    for body in sent:
        producer.send(sdk.new_message(topic, body))
    for consumer in consumers:
        assert sdk.bodies(sdk.receive(consumer, len(sent))) == sorted(sent)


def test_tags_select_messages(cluster, clients):
    topic, group = cluster.create_topic(), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    for body, tag in [("1", "a"), ("2", "b"), ("3", "c"), ("4", None), ("5", "a")]:
        producer.send(sdk.new_message(topic, body, tag=tag))
    consumer = clients.consumer(
        cluster.access_point, topic, group, await_duration=1, expression=FilterExpression("a || c")
    )
    assert sdk.bodies(sdk.receive(consumer, 3)) == ["1", "3", "5"]
    assert sdk.receive_nothing(consumer, 2) == []


def test_an_unacknowledged_message_comes_back_with_a_higher_attempt(cluster, clients):
    topic, group = cluster.create_topic(), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    consumer = clients.consumer(cluster.access_point, topic, group)
    producer.send(sdk.new_message(topic, "again"))

    [first] = sdk.receive(consumer, 1, ack=False)
    received = time.monotonic()
    assert first.delivery_attempt == 1
    [second] = sdk.receive(consumer, 1, seconds=25, ack=False)
    assert time.monotonic() - received > sdk.INVISIBLE - 1, "it came back before its invisible duration was over"
    assert (second.message_id, second.delivery_attempt) == (first.message_id, 2)

    with pytest.raises(BadRequestException, match="(?i)handle"):
        consumer.ack(first)
    consumer.ack(second)
    consumer.ack(second)  # Repeated by a client that missed the answer: no error.
    assert sdk.receive_nothing(consumer, sdk.INVISIBLE + 3) == []


def test_the_invisible_duration_can_be_shortened_and_extended(cluster, clients):
    topic, group = cluster.create_topic(), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    consumer = clients.consumer(cluster.access_point, topic, group)
    producer.send(sdk.new_message(topic, "sooner"))
    producer.send(sdk.new_message(topic, "later"))
    messages = {message.body: message for message in sdk.receive(consumer, 2, ack=False)}
    received = time.monotonic()

    later = messages[b"later"]
    handle = later.receipt_handle
    consumer.change_invisible_duration(later, 30)
    assert later.receipt_handle and later.receipt_handle != handle
    consumer.change_invisible_duration(messages[b"sooner"], 1)

    [again] = sdk.receive(consumer, 1, seconds=8)
    assert (again.body, again.delivery_attempt) == (b"sooner", 2)
    assert time.monotonic() - received < sdk.INVISIBLE - 1
    # The extended one stays away beyond the duration that it was received with, and its new handle is good.
    assert sdk.receive_nothing(consumer, sdk.INVISIBLE + 3) == []
    consumer.ack(later)


def test_the_largest_body_goes_through(cluster, clients):
    topic, group = cluster.create_topic(), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    consumer = clients.consumer(cluster.access_point, topic, group)
    body = os.urandom(4 * 1024 * 1024)
    producer.send(sdk.new_message(topic, body))
    [message] = sdk.receive(consumer, 1)
    assert message.body == body


class Listener(MessageListener):
    """Fails the first delivery of each body in `fail_once`; records (body, attempt)."""

    def __init__(self, fail_once=()):
        self.fail_once = set(fail_once)
        self.got = []

    def consume(self, message):
        body = message.body.decode()
        self.got.append((body, message.delivery_attempt))
        if body in self.fail_once and message.delivery_attempt == 1:
            return ConsumeResult.FAILURE
        return ConsumeResult.SUCCESS


def test_a_push_consumer_gets_everything_and_failures_again(cluster, clients):
    topic, group = cluster.create_topic(queues=4), cluster.create_group()
    listener = Listener(fail_once=["message-3"])
    consumer = PushConsumer(sdk.configuration(cluster.access_point), group, listener, {topic: FilterExpression()})
    consumer.startup()
    clients.keep(consumer)
    producer = clients.producer(cluster.access_point, topic)
    sent = [f"message-{number}" for number in range(20)]
    for body in sent:
        producer.send(sdk.new_message(topic, body))

    sdk.wait_until(lambda: len({body for body, _ in listener.got}) == len(sent), 20, "every message was pushed")
    sdk.wait_until(lambda: len(listener.got) == len(sent) + 1, 40, "the failed message was pushed again")
    time.sleep(2)
    assert sorted(listener.got) == sorted([(body, 1) for body in sent] + [("message-3", 2)])
