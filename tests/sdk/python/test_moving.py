"""Clients move from one broker group to another one, and the first one is stopped."""

import threading
import time

import pytest

import clusters
import sdk
from test_failover import Sending

# The SDK keeps routes for 30 s.
ROUTE_AGE = "35s"


@pytest.fixture
def cluster():
    started = clusters.Cluster()
    yield started
    started.close()


class Receiving(threading.Thread):
    """Receives and acknowledges until it is stopped; remembers the bodies."""

    def __init__(self, consumer):
        super().__init__(daemon=True)
        self.consumer = consumer
        self.bodies = set()
        self.stopping = threading.Event()

    def run(self):
        while not self.stopping.is_set():
            try:
                messages = self.consumer.receive(32, sdk.INVISIBLE)
            except Exception:
                # Of the group that was stopped, as long as the route names it.
                time.sleep(0.1)
                continue
            for message in messages:
                self.consumer.ack(message)
                self.bodies.add(message.body.decode())


def add_group(cluster, name):
    """Starts another broker group with the topics and consumer groups of the first one."""
    cluster.start_group(name)
    cluster.mqadmin("addBrokerGroup", "-b", name)


def test_clients_move_to_another_broker_group_without_a_failed_send_or_a_lost_message(cluster, clients):
    topic, group = cluster.create_topic(), cluster.create_group()
    receiving = Receiving(clients.consumer(cluster.access_point, topic, group, await_duration=1))
    sending = Sending(clients.producer(cluster.access_point, topic), topic)
    receiving.start()
    sending.start()
    sdk.wait_until(lambda: receiving.bodies, 20, "a message came")
    add_group(cluster, "broker-b")

    left, deadline = None, time.monotonic() + 180
    while left is None or left.returncode != 0:
        assert time.monotonic() < deadline, f"{left.stdout}{left.stderr}"
        time.sleep(1)
        left = clusters.run_mqadmin(
            "removeBrokerGroup", "-n", cluster.access_point, "-b", "broker-a", "--route-age", ROUTE_AGE, "-y"
        )
    cluster.broker.stop()
    time.sleep(2)
    sending.end()
    assert sending.failed == []
    assert len(sending.acknowledged) > 500
    missing = lambda: set(sending.acknowledged) - receiving.bodies  # noqa: E731
    sdk.wait_until(lambda: not missing(), 60, "everything that was acknowledged came")
    receiving.stopping.set()
    receiving.join()
