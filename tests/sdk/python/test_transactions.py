"""Transactional messages: commit, rollback, check-back, and producers that die."""

import os
import signal
import subprocess
import sys

import pytest

import sdk
import servers


@pytest.fixture
def topic(cluster):
    return cluster.create_topic("TRANSACTION")


@pytest.fixture
def consumer(cluster, clients, topic):
    return clients.consumer(cluster.access_point, topic, cluster.create_group(), await_duration=1)


def test_a_committed_message_is_delivered_once(cluster, clients, topic, consumer):
    checker = sdk.Checker()
    producer = clients.producer(cluster.access_point, topic, checker)
    transaction = sdk.send_half(producer, sdk.new_message(topic, "order-1", tag="paid", key="k", city="Zürich"))
    assert sdk.receive_nothing(consumer, 1) == [], "a half message must be invisible"

    transaction.commit()
    transaction.commit()  # Repeating a decision is no error and makes no second message.
    [message] = sdk.receive(consumer, 1)
    assert message.body == b"order-1"
    assert message.message_id == transaction.message_id
    assert (message.tag, message.keys, message.properties) == ("paid", {"k"}, {"city": "Zürich"})
    assert message.delivery_attempt == 1
    assert sdk.receive_nothing(consumer, 4) == []
    assert checker.asked == [], "a decided transaction must not be checked back"


def test_a_rolled_back_message_is_never_delivered(cluster, clients, topic, consumer):
    checker = sdk.Checker(default=sdk.COMMIT)
    producer = clients.producer(cluster.access_point, topic, checker)
    transaction = sdk.send_half(producer, sdk.new_message(topic, "order-2"))
    transaction.rollback()
    transaction.rollback()
    assert sdk.receive_nothing(consumer, 6) == []
    assert checker.asked == [], "a decided transaction must not be checked back"


@pytest.mark.parametrize("answer, delivered", [(sdk.COMMIT, ["order-3"]), (sdk.ROLLBACK, [])])
def test_an_undecided_message_is_settled_by_check_back(cluster, clients, topic, consumer, answer, delivered):
    checker = sdk.Checker({"order-3": [sdk.UNKNOWN, answer]})
    producer = clients.producer(cluster.access_point, topic, checker)
    sdk.send_half(producer, sdk.new_message(topic, "order-3"))

    assert sdk.bodies(sdk.receive(consumer, 1, seconds=12)) == delivered
    assert checker.count("order-3") == 2
    assert sdk.receive_nothing(consumer, 5) == []
    assert checker.count("order-3") == 2, "a settled transaction must not be checked back again"


def test_many_transactions_settle_as_decided(cluster, clients, topic, consumer):
    plan = {f"late-{number}": [sdk.COMMIT if number % 2 else sdk.ROLLBACK] for number in range(20)}
    producer = clients.producer(cluster.access_point, topic, sdk.Checker(plan))
    expected = [f"late-{number}" for number in range(1, 20, 2)]
    for number in range(30):
        transaction = sdk.send_half(producer, sdk.new_message(topic, f"now-{number}"))
        if number % 3 == 0:
            transaction.rollback()
        else:
            transaction.commit()
            expected.append(f"now-{number}")
    for body in plan:
        sdk.send_half(producer, sdk.new_message(topic, body))

    assert sdk.bodies(sdk.receive(consumer, len(expected), seconds=30)) == sorted(expected)
    assert sdk.receive_nothing(consumer, 5) == []


def test_another_producer_is_asked_when_the_first_one_died(cluster, clients, topic, consumer):
    doomed = start_doomed_producer(cluster.access_point, topic, "order-4")
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.wait()

    checker = sdk.Checker(default=sdk.COMMIT)
    clients.producer(cluster.access_point, topic, checker)
    assert sdk.bodies(sdk.receive(consumer, 1, seconds=20)) == ["order-4"]
    assert checker.count("order-4") == 1
    assert sdk.receive_nothing(consumer, 4) == []


def test_a_producer_that_lives_already_takes_over(cluster, clients, topic, consumer):
    checker = sdk.Checker(default=sdk.COMMIT)
    clients.producer(cluster.access_point, topic, checker)
    doomed = start_doomed_producer(cluster.access_point, topic, "order-5")
    os.kill(doomed.pid, signal.SIGKILL)
    doomed.wait()
    assert sdk.bodies(sdk.receive(consumer, 1, seconds=20)) == ["order-5"]
    assert checker.count("order-5") >= 1


def start_doomed_producer(address, topic, body):
    """A process that has sent a half message and will never decide it."""
    script = os.path.join(os.path.dirname(__file__), "doomed_producer.py")
    process = subprocess.Popen(
        [sys.executable, script, address, topic, body],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )
    line = process.stdout.readline()
    if line != "half message sent\n":
        process.kill()
        raise AssertionError(f"the producer process did not send: {line!r}\n{servers.harness('logs')}")
    return process
