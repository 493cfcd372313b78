"""kill -9 of the broker: what was acknowledged is there when it comes back on the same port and data."""

import time

import pytest
from rocketmq.v5.exception import ClientException

import clusters
import sdk


@pytest.fixture(params=["cluster", "standalone"])
def cluster(request):
    """A cluster of its own for every test: it is going to be hurt."""
    started = clusters.Cluster(request.param)
    yield started
    started.close()


def crash_and_restart(cluster, topic):
    cluster.broker.kill()
    cluster.broker.start()
    cluster.wait_for_route(topic)


def patiently(action, seconds=30):
    """Repeats what fails while the client's connection comes back."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return action()
        except ClientException:
            raise
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.3)


def test_a_transaction_open_across_a_crash_is_committed_by_its_producer(cluster, clients):
    topic, group = cluster.create_topic("TRANSACTION"), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic, sdk.Checker())
    transaction = sdk.send_half(producer, sdk.new_message(topic, "across"))
    crash_and_restart(cluster, topic)

    patiently(transaction.commit)
    consumer = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    assert sdk.bodies(sdk.receive(consumer, 1)) == ["across"]
    assert sdk.receive_nothing(consumer, 5) == []


def test_a_transaction_open_across_a_crash_is_settled_by_check_back(cluster, clients):
    topic, group = cluster.create_topic("TRANSACTION"), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic, sdk.Checker())
    sdk.send_half(producer, sdk.new_message(topic, "yes"))
    sdk.send_half(producer, sdk.new_message(topic, "no"))
    crash_and_restart(cluster, topic)
    producer.shutdown()

    checker = sdk.Checker({"yes": [sdk.COMMIT], "no": [sdk.ROLLBACK]})
    clients.producer(cluster.access_point, topic, checker)
    consumer = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    assert sdk.bodies(sdk.receive(consumer, 1, seconds=20)) == ["yes"]
    sdk.wait_until(lambda: checker.count("no") == 1, 10, "the other transaction was checked back")
    assert sdk.receive_nothing(consumer, 5) == []
    assert (checker.count("yes"), checker.count("no")) == (1, 1)


def test_decisions_and_acknowledgements_survive_a_crash(cluster, clients):
    topic, group = cluster.create_topic("TRANSACTION"), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic, sdk.Checker(default=sdk.COMMIT))
    for number in range(10):
        transaction = sdk.send_half(producer, sdk.new_message(topic, f"commit-{number}"))
        transaction.commit()
        sdk.send_half(producer, sdk.new_message(topic, f"rollback-{number}")).rollback()
    consumer = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    expected = sorted(f"commit-{number}" for number in range(10))
    assert sdk.bodies(sdk.receive(consumer, 10)) == expected
    consumer.shutdown()
    producer.shutdown()
    crash_and_restart(cluster, topic)

    again = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    assert sdk.receive_nothing(again, sdk.INVISIBLE + 3) == [], "acknowledged messages came back"


def test_topics_messages_and_attempts_survive_a_crash(cluster, clients):
    topic, group = cluster.create_topic(), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    sent = [f"message-{number}" for number in range(20)]
    for body in sent:
        producer.send(sdk.new_message(topic, body))
    consumer = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    held = sdk.receive(consumer, 20, ack=False)
    assert sdk.bodies(held) == sorted(sent)
    consumer.shutdown()
    producer.shutdown()
    crash_and_restart(cluster, topic)

    # What was in flight comes back, whenever the broker holds its time to be over.
    again = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    assert sdk.bodies(sdk.receive(again, 20, seconds=30)) == sorted(sent)
    assert sdk.receive_nothing(again, 3) == []


def test_a_clean_stop_and_start_loses_nothing(cluster, clients):
    topic, group = cluster.create_topic(), cluster.create_group()
    producer = clients.producer(cluster.access_point, topic)
    producer.send(sdk.new_message(topic, "kept"))
    producer.shutdown()
    cluster.broker.stop()
    cluster.broker.start()
    cluster.wait_for_route(topic)
    consumer = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    assert sdk.bodies(sdk.receive(consumer, 1)) == ["kept"]
