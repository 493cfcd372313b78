"""Prints figures of the servers: time to the first answer, idle memory, messages a second. `tests/run.sh figures`."""

import os
import shutil
import subprocess
import sys
import tempfile
import time

_home = tempfile.mkdtemp(prefix="kerolox-figures-home-")
os.environ["HOME"] = _home

import clusters  # noqa: E402
import sdk  # noqa: E402
from raw import RawClient  # noqa: E402

PYTHON_MESSAGES = 3000
BODY = b"." * 100


def first_answer(server):
    """Milliseconds from the start of the process to the first answered request."""
    started = time.monotonic()
    server.start()
    with RawClient(server.address) as client:
        client.query_route("no-such-topic")
    return (time.monotonic() - started) * 1000


def resident_mib(server):
    with open(f"/proc/{server.pid()}/status") as status:
        for line in status:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


def python_rate(address, topic):
    producer = sdk.start_producer(address, topic)
    started = time.monotonic()
    for _ in range(PYTHON_MESSAGES):
        producer.send(sdk.new_message(topic, BODY))
    rate = PYTHON_MESSAGES / (time.monotonic() - started)
    producer.shutdown()
    return rate


def main():
    cluster = clusters.Cluster()
    try:
        topic = cluster.create_topic(queues=4)
        for server in (cluster.nameserver, cluster.broker):
            server.stop()
            print(f"{server.name}: first request answered {first_answer(server):.0f} ms after the start of the process")
        cluster.wait_for_route(topic)
        time.sleep(5)
        for server in (cluster.nameserver, cluster.broker):
            print(f"{server.name}: {resident_mib(server):.0f} MiB resident while idle")
        print(f"Python producer: {python_rate(cluster.access_point, topic):.0f} messages/s, one after the other, 100 B")
        rate = [clusters.program("rate"), "--address", cluster.access_point, "--topic", topic]
        for concurrent in ("1", "64"):
            done = subprocess.run([*rate, "--concurrent", concurrent], capture_output=True, text=True, check=True)
            print(f"Rust producer: {done.stdout.strip()}")
    finally:
        cluster.close()
        shutil.rmtree(_home, ignore_errors=True)
    print("figures: 1 passed, 0 failed")


if __name__ == "__main__":
    sys.exit(main())
