"""Messages with a priority."""

import pytest
from rocketmq.v5.exception import IllegalArgumentException

import sdk


def with_priority(topic, body, priority):
    message = sdk.new_message(topic, body)
    message.priority = priority
    return message


def test_the_highest_priority_comes_first(cluster, clients):
    topic, group = cluster.create_topic("PRIORITY", queues=3), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    for body, priority in [("low", 0), ("high", 2), ("middle", 1), ("above all", 99)]:
        producer.send(with_priority(topic, body, priority))
    consumer = clients.consumer(cluster.access_point, topic, group)
    got = [(message.body.decode(), message.priority) for message in sdk.receive(consumer, 4)]
    assert got == [("high", 2), ("above all", 99), ("middle", 1), ("low", 0)]


def test_a_message_without_a_priority_is_refused(cluster, clients):
    topic = cluster.create_topic("PRIORITY")
    producer = clients.producer(cluster.access_point, topic)
    with pytest.raises(IllegalArgumentException):
        producer.send(sdk.new_message(topic, "without"))
