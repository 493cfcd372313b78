"""Scheduled messages: in their time, once, recalled or delivered but never both."""

import time

import pytest
from rocketmq.v5.exception import BadRequestException, NotFoundException

import clusters
import sdk


def scheduled(topic, body, seconds):
    message = sdk.new_message(topic, body)
    # The SDK sends whole seconds.
    message.delivery_timestamp = int(time.time()) + seconds
    return message


def test_scheduled_messages_come_in_the_order_of_their_times(cluster, clients):
    topic, group = cluster.create_topic("DELAY"), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    consumer = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    for body, seconds in (("late", 6), ("soon", 3), ("past", -60)):
        receipt = producer.send(scheduled(topic, body, seconds))
        assert receipt.message_id
        assert bool(receipt.recall_handle) == (seconds > 0), body

    received = []
    for body in ("past", "soon", "late"):
        [message] = sdk.receive(consumer, 1)
        assert time.time() * 1000 >= message.delivery_timestamp, f"{body} came early"
        received.append((message.body.decode(), message.delivery_attempt))
    assert received == [("past", 1), ("soon", 1), ("late", 1)]
    assert sdk.receive_nothing(consumer, 2) == []


def test_a_recalled_message_never_comes(cluster, clients):
    topic, group = cluster.create_topic("DELAY"), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    consumer = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    delivered = producer.send(scheduled(topic, "delivered", 2))
    recalled = producer.send(scheduled(topic, "recalled", 4))

    assert producer.recall_message(topic, recalled.recall_handle) == recalled.message_id
    with pytest.raises(NotFoundException, match="recalled before"):
        producer.recall_message(topic, recalled.recall_handle)
    assert sdk.bodies(sdk.receive(consumer, 1)) == ["delivered"]
    with pytest.raises(NotFoundException, match="delivered before"):
        producer.recall_message(topic, delivered.recall_handle)
    with pytest.raises(BadRequestException, match="recall handle"):
        producer.recall_message(topic, "nonsense")
    assert sdk.receive_nothing(consumer, 5) == []


def test_scheduled_messages_survive_a_crash(clients):
    cluster = clusters.Cluster()
    try:
        topic, group = cluster.create_topic("DELAY"), cluster.create_group()
        producer = clients.producer(cluster.access_point, topic)
        producer.send(scheduled(topic, "overdue", 2))
        producer.send(scheduled(topic, "later", 12))
        recalled = producer.send(scheduled(topic, "recalled", 8))
        producer.recall_message(topic, recalled.recall_handle)
        producer.shutdown()
        cluster.broker.kill()
        time.sleep(3)
        cluster.broker.start()
        consumer = clients.consumer(cluster.access_point, topic, group, await_duration=1)
        assert [message.body for message in sdk.receive(consumer, 2, seconds=40)] == [b"overdue", b"later"]
        assert sdk.receive_nothing(consumer, 2) == []
        consumer.shutdown()
    finally:
        cluster.close()


def test_an_administrator_lists_cancels_and_delivers(cluster, clients):
    topic, group = cluster.create_topic("DELAY"), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    consumer = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    sent = {body: producer.send(scheduled(topic, body, 3600 + number))
            for number, body in enumerate(("first", "second", "third"))}

    def listed(*options):
        [broker] = cluster.mqadmin("timerList", "-c", "DefaultCluster", "-t", topic, *options)["brokers"]
        return [entry["body"] for entry in broker["scheduled"]], broker["truncated"]

    assert listed() == (["first", "second", "third"], False)
    assert listed("-m", 2) == (["first", "second"], True)
    assert listed("-i", sent["second"].message_id) == (["second"], False)
    assert listed("--tags", "unknown") == ([], False)
    assert cluster.mqadmin("topicStatus", "-t", topic)["brokers"][0]["scheduledMessages"] == 3

    cluster.mqadmin("timerCancel", "-c", "DefaultCluster", "-i", sent["first"].message_id, "-y")
    cluster.mqadmin("timerDeliver", "-c", "DefaultCluster", "--handle", sent["second"].recall_handle, "-y")
    assert sdk.bodies(sdk.receive(consumer, 1)) == ["second"]
    assert listed() == (["third"], False)
    with pytest.raises(AssertionError, match="recalled before"):
        cluster.mqadmin("timerCancel", "-c", "DefaultCluster", "-i", sent["first"].message_id, "-y")
    with pytest.raises(NotFoundException, match="delivered before"):
        producer.recall_message(topic, sent["second"].recall_handle)
