"""Sends with the official SDK: each line of standard input is a body in hexadecimal digits; the answer is `ok`, or `error: REASON`.

official.py ENDPOINT TOPIC; says `ready` when it can send.
"""

import sys

from rocketmq import ClientConfiguration, Credentials, Message, Producer


def main(endpoint, topic):
    producer = Producer(ClientConfiguration(endpoint, Credentials()), (topic,))
    producer.startup()
    print("ready", flush=True)
    for line in sys.stdin:
        message = Message()
        message.topic = topic
        message.body = bytes.fromhex(line)
        try:
            producer.send(message)
            print("ok", flush=True)
        except Exception as error:  # After any error the outcome of the message is unknown.
            print("error:", repr(error).replace("\n", " "), flush=True)


main(*sys.argv[1:])
