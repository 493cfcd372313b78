"""A producer that sends one half message and then waits to be killed: doomed_producer.py ADDRESS TOPIC BODY."""

import sys
import time

import sdk


def main(address, topic, body):
    producer = sdk.start_producer(address, topic, sdk.Checker())
    sdk.send_half(producer, sdk.new_message(topic, body))
    print("half message sent", flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(*sys.argv[1:])
