"""A group of three members: what clients go through when its master is killed, and when all of it is restarted in turn."""

import threading
import time

import pytest

import clusters
import sdk


@pytest.fixture
def cluster():
    """A group of its own for every test: it is going to be hurt. An election passes before the first check-back."""
    started = clusters.Cluster("group 3")
    yield started
    started.close()


class Sending(threading.Thread):
    """Sends one message after the other until it is stopped; remembers what was acknowledged, and what failed."""

    def __init__(self, producer, topic):
        super().__init__(daemon=True)
        self.producer, self.topic = producer, topic
        self.acknowledged, self.failed, self.longest = [], [], 0
        self.stopping = threading.Event()

    def run(self):
        number = 0
        while not self.stopping.wait(0.01):
            body = f"message-{number}"
            number += 1
            began = time.monotonic()
            try:
                self.producer.send(sdk.new_message(self.topic, body))
                self.acknowledged.append(body)
            except Exception as error:
                self.failed.append((body, repr(error)))
            self.longest = max(self.longest, time.monotonic() - began)

    def end(self):
        self.stopping.set()
        self.join()


def receive_all(consumer, expected, seconds=60):
    """Receives until every one of `expected` came."""
    missing, deadline = set(expected), time.monotonic() + seconds
    while missing and time.monotonic() < deadline:
        for message in consumer.receive(32, sdk.INVISIBLE):
            missing.discard(message.body.decode())
            consumer.ack(message)
    assert not missing, f"{len(missing)} of {len(expected)} acknowledged messages did not come"


def survives(cluster, clients, hurt):
    """Sends while the cluster is hurt, and a moment longer: no send fails, and what was acknowledged arrives."""
    topic, group = cluster.create_topic(), cluster.create_group()
    consumer = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    sending = Sending(clients.producer(cluster.access_point, topic), topic)
    sending.start()
    hurt(cluster)
    time.sleep(1)
    sending.end()
    print(f"{len(sending.acknowledged)} sends, the longest took {sending.longest:.1f} s")
    assert sending.failed == []
    receive_all(consumer, sending.acknowledged)


def test_a_killed_master_costs_no_message_and_no_failed_send(cluster, clients):
    def kill(cluster):
        time.sleep(1)
        cluster.master().kill()
        cluster.wait_for_in_sync()

    survives(cluster, clients, kill)


def test_a_master_that_is_back_at_once_fails_no_send(cluster, clients):
    def restart(cluster):
        master = cluster.master()
        master.kill()
        # Others take it for the master until there is an election, and it does not rule before.
        master.start()
        cluster.wait_for_in_sync()

    survives(cluster, clients, restart)


def test_a_rolling_restart_fails_no_send(cluster, clients):
    # It begins at once: slaves have not told of the topic yet when the first member hands over.
    survives(cluster, clients, lambda cluster: cluster.restart_in_turn())


def test_a_transaction_outlives_its_master(cluster, clients):
    topic, group = cluster.create_topic("TRANSACTION"), cluster.create_group()
    checker = sdk.Checker({"asked": [sdk.COMMIT]})
    producer = clients.producer(cluster.access_point, topic, checker)
    consumer = clients.consumer(cluster.access_point, topic, group, await_duration=1)
    decided = sdk.send_half(producer, sdk.new_message(topic, "decided"))
    sdk.send_half(producer, sdk.new_message(topic, "asked"))
    cluster.master().kill()
    decided.commit()
    assert sdk.bodies(sdk.receive(consumer, 2, seconds=40)) == ["asked", "decided"]
    assert (checker.count("decided"), checker.count("asked")) == (0, 1)
