"""Prints what arrives, with the official RocketMQ SDK, until Ctrl-C: consume.py ADDRESS TOPIC GROUP"""

import os
import sys
import time

from rocketmq import ClientConfiguration, ConsumeResult, Credentials, FilterExpression, MessageListener, PushConsumer


class Printer(MessageListener):
    def consume(self, message):
        print(f"{message.message_id} attempt {message.delivery_attempt}: {message.body.decode()}", flush=True)
        return ConsumeResult.SUCCESS


def main(address, topic, group):
    configuration = ClientConfiguration(address, Credentials())
    PushConsumer(configuration, group, Printer(), {topic: FilterExpression()}).startup()
    print(f"listening to {topic} as {group}; Ctrl-C ends", flush=True)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        # The SDK's own shutdown waits for the long poll that is open.
        os._exit(0)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
