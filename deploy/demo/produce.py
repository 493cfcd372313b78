"""Sends normal messages with the official RocketMQ SDK: produce.py ADDRESS TOPIC TEXT..."""

import sys

from rocketmq import ClientConfiguration, Credentials, Message, Producer


def main(address, topic, *texts):
    producer = Producer(ClientConfiguration(address, Credentials()), (topic,))
    producer.startup()
    for text in texts:
        message = Message()
        message.topic = topic
        message.body = text.encode()
        receipt = producer.send(message)
        print(f"sent {receipt.message_id}: {text}")
    producer.shutdown()


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
