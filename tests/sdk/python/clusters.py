"""Clusters of real servers, and mqadmin for their topics and consumer groups."""

import json
import os
import subprocess
import time

from servers import Server, harness

CLUSTER = "DefaultCluster"
# How many broker groups a cluster has, of which each topic has queues on all. What needs one group asks for it by its members.
GROUPS = int(os.environ.get("KEROLOX_SDK_GROUPS", "1"))
# What mqadmin exits with when there is no such topic, and when a server does not answer.
NOT_FOUND, UNREACHABLE = 4, 6


def program(name):
    """A program that is tested."""
    return os.path.join(os.environ["KEROLOX_BIN"], name)


def run_mqadmin(command, *arguments):
    """Runs mqadmin with JSON output to its end."""
    full = [program("mqadmin"), command, *(str(argument) for argument in arguments), "--output", "json"]
    return subprocess.run(full, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)


class Cluster:
    """Starts what a request says: "cluster", "standalone", or "group 3"; topics and groups are made on all broker groups."""

    def __init__(self, request="cluster"):
        self.id = harness(request)["id"]
        self.names = 0
        self.nameserver = None if request == "standalone" else Server(self.id, "nameserver")
        self.broker = Server(self.id, "broker")
        self.access_point = (self.nameserver or self.broker).address

    def master(self):
        return Server(self.id, "master")

    def wait_for_in_sync(self):
        """Returns when a master rules and all running members are in sync."""
        harness("in-sync", self.id)

    def restart_in_turn(self):
        """Stops the members and starts them again, one after the other, each when all are in sync."""
        harness("restart-in-turn", self.id)

    def start_group(self, name):
        """Starts a broker that is a group of its own."""
        harness("add-group", self.id, name)

    def mqadmin(self, command, *arguments):
        """Runs mqadmin with JSON output and returns what it printed."""
        done = run_mqadmin(command, "-n", self.access_point, *arguments)
        assert done.returncode == 0, f"{done.args}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout) if done.stdout.strip() else None

    def create_topic(self, message_type="NORMAL", queues=1):
        """Creates a topic with a new name. One queue by default: a simple consumer polls one random queue a call."""
        name = self.new_name("topic")
        attributes = f"+message.type={message_type}"
        self.mqadmin("updateTopic", "-c", CLUSTER, "-t", name, "-r", queues, "-w", queues, "-a", attributes)
        self.wait_for_route(name)
        return name

    def create_group(self):
        name = self.new_name("group")
        self.mqadmin("updateSubGroup", "-c", CLUSTER, "-g", name)
        return name

    def new_name(self, kind):
        self.names += 1
        return f"{kind}-{self.names}"

    def wait_for_route(self, topic, seconds=15):
        """Returns when the access point knows the topic."""
        deadline = time.monotonic() + seconds
        while (done := run_mqadmin("topicRoute", "-n", self.access_point, "-t", topic)).returncode != 0:
            assert done.returncode in (NOT_FOUND, UNREACHABLE), f"{done.args}\n{done.stdout}{done.stderr}"
            assert time.monotonic() < deadline, f"no route to {topic} after {seconds} s: {done.stderr}"
            time.sleep(0.05)

    def close(self):
        harness("close", self.id)
