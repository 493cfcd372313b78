"""Three transactions with the official RocketMQ SDK, step by step: one commits, one rolls back, one is left undecided
and settled by check-back. A consumer watches all the time. Exits with 0 only if exactly the right things happened.

    transactions.py ADDRESS TOPIC GROUP
"""

import os
import sys
import threading
import time

from rocketmq import (ClientConfiguration, ConsumeResult, Credentials, FilterExpression, Message, MessageListener,
                      Producer, PushConsumer, TransactionChecker, TransactionResolution)

STARTED = time.monotonic()
# Marks the messages of this run: the topic may hold others.
RUN = f"{os.getpid()}-{time.time_ns():x}"
# How long anything may take that must happen, and how long nothing may happen that must not, seconds.
PATIENCE, SILENCE = 30, 5


def say(text):
    print(f"  {time.monotonic() - STARTED:5.1f} s  {text}", flush=True)


class Watcher(MessageListener):
    """The consumer: records the messages that it gets."""

    def __init__(self):
        self.changed = threading.Condition()
        self.bodies = []

    def consume(self, message):
        body = message.body.decode()
        if message.properties.get("run") != RUN:
            say(f"consumer    received '{body}', which is not from this run")
            return ConsumeResult.SUCCESS
        say(f"consumer    received '{body}' (delivery attempt {message.delivery_attempt})")
        with self.changed:
            self.bodies.append(body)
            self.changed.notify_all()
        return ConsumeResult.SUCCESS

    def wait_for(self, body):
        with self.changed:
            if not self.changed.wait_for(lambda: body in self.bodies, PATIENCE):
                raise AssertionError(f"'{body}' was not delivered within {PATIENCE} s")


class Checker(TransactionChecker):
    """What the broker asks when a transaction stays undecided: first the answer is "unknown", then "commit"."""

    def __init__(self):
        self.asked = []

    def check(self, message):
        body = message.body.decode()
        if message.properties.get("run") != RUN:
            return TransactionResolution.ROLLBACK
        self.asked.append(body)
        if self.asked.count(body) == 1:
            say(f"check-back  the broker asks about '{body}': still unknown")
            return TransactionResolution.TRANSACTION_RESOLUTION_UNSPECIFIED
        say(f"check-back  the broker asks about '{body}' again: commit")
        return TransactionResolution.COMMIT


def send_half(producer, topic, body):
    message = Message()
    message.topic = topic
    message.body = body.encode()
    message.add_property("run", RUN)
    transaction = producer.begin_transaction()
    producer.send(message, transaction)
    say(f"producer    sent '{body}' as a half message: stored, but invisible")
    return transaction


def expect(condition, what):
    if not condition:
        raise AssertionError(what)


def show(address, topic, group):
    configuration = ClientConfiguration(address, Credentials())
    watcher, checker = Watcher(), Checker()
    consumer = PushConsumer(configuration, group, watcher, {topic: FilterExpression()})
    consumer.startup()
    producer = Producer(configuration, (topic,), checker)
    producer.startup()
    say(f"clients     producer and consumer are connected to {address}")

    order = send_half(producer, topic, "order 1")
    order.commit()
    say("producer    committed 'order 1'")
    watcher.wait_for("order 1")

    order = send_half(producer, topic, "order 2")
    order.rollback()
    say("producer    rolled back 'order 2'")

    send_half(producer, topic, "order 3")
    say("producer    says nothing more about 'order 3', as if it had crashed")
    watcher.wait_for("order 3")

    say(f"consumer    listens for {SILENCE} s more: nothing else may come")
    time.sleep(SILENCE)
    expect(watcher.bodies == ["order 1", "order 3"], f"the consumer received {watcher.bodies}")
    expect(checker.asked == ["order 3", "order 3"], f"the broker asked about {checker.asked}")
    say("result      'order 1' and 'order 3' arrived exactly once, 'order 2' never")


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    try:
        show(*sys.argv[1:])
        code = 0
    except Exception as error:
        print(f"demo failed: {error}", file=sys.stderr)
        code = 1
    sys.stdout.flush()
    # The SDK's clients would wait for their open long polls; the process has nothing left to do.
    os._exit(code)


if __name__ == "__main__":
    main()
