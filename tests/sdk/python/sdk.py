"""Short spellings for the official SDK, and the waiting that tests need."""

import threading
import time

from rocketmq import (ClientConfiguration, Credentials, Message, Producer, SimpleConsumer, TransactionChecker,
                      TransactionResolution)

COMMIT = TransactionResolution.COMMIT
ROLLBACK = TransactionResolution.ROLLBACK
UNKNOWN = TransactionResolution.TRANSACTION_RESOLUTION_UNSPECIFIED
# The shortest that a simple consumer may ask for, seconds.
INVISIBLE = 10


def configuration(address):
    return ClientConfiguration(address, Credentials())


def new_message(topic, body, tag=None, key=None, **properties):
    built = Message()
    built.topic = topic
    built.body = body if isinstance(body, bytes) else body.encode()
    if tag:
        built.tag = tag
    if key:
        built.keys = key
    for name, value in properties.items():
        built.add_property(name, value)
    return built


class Checker(TransactionChecker):
    """Answers check-backs by a plan, {body: [first answer, second answer, ...]}, the last one for ever; records them."""

    def __init__(self, plan=None, default=UNKNOWN):
        self.plan = plan or {}
        self.default = default
        self.asked = []
        self.lock = threading.Lock()

    def check(self, message):
        body = message.body.decode()
        with self.lock:
            before = sum(1 for earlier in self.asked if earlier == body)
            self.asked.append(body)
        answers = self.plan.get(body, [self.default])
        return answers[min(before, len(answers) - 1)]

    def count(self, body):
        with self.lock:
            return self.asked.count(body)


def start_producer(address, topic, checker=None):
    producer = Producer(configuration(address), (topic,), checker)
    producer.startup()
    return producer


def start_consumer(address, topic, group, await_duration=2, expression=None):
    consumer = SimpleConsumer(configuration(address), group, {topic: expression} if expression else None, await_duration)
    consumer.startup()
    if expression is None:
        consumer.subscribe(topic)
    return consumer


def send_half(producer, message):
    """Sends a half message; returns the open transaction."""
    transaction = producer.begin_transaction()
    producer.send(message, transaction)
    return transaction


def receive(consumer, count, seconds=20, invisible=INVISIBLE, ack=True):
    """Receives until `count` messages came or `seconds` passed, acknowledging each unless told not to."""
    got = []
    deadline = time.monotonic() + seconds
    while len(got) < count and time.monotonic() < deadline:
        for message in consumer.receive(32, invisible):
            assert not message.corrupted, f"body digest of {message.message_id} does not match"
            if ack:
                consumer.ack(message)
            got.append(message)
    return got


def receive_nothing(consumer, seconds):
    """Polls for `seconds`; returns the bodies that came although none should."""
    got = []
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        got += [message.body for message in consumer.receive(32, INVISIBLE)]
    return got


def bodies(messages):
    return sorted(message.body.decode() for message in messages)


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.05)
