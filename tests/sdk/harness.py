"""Starts, stops and kills real Kerolox processes for the tests of all SDKs; needs nothing beyond Python.

Servers listen on a free port unless told otherwise, print one line when they serve, and write their log to a file
whose end is shown when a test fails. The whole file outlives the test in the folder that KEROLOX_LOGS names, if any.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

BIN = Path(os.environ["KEROLOX_BIN"])
CLUSTER = "DefaultCluster"
# How many broker groups a cluster has, of which each topic has queues on all. What needs one group asks for it by its members.
GROUPS = int(os.environ.get("KEROLOX_SDK_GROUPS", "1"))
START_SECONDS = 30
# What mqadmin exits with when there is no such topic, and when a server does not answer.
NOT_FOUND, UNREACHABLE = 4, 6
STOP_SECONDS = 15
LISTENING = re.compile(r"listening on (\S+:\d+)")

_live = []


def keep(log):
    """Gives a log a second name, so that it is still there when its cluster has removed its folder."""
    kept = os.environ.get("KEROLOX_LOGS")
    if kept:
        second = Path(kept) / f"{log.parent.name}-{log.name}"
        second.parent.mkdir(parents=True, exist_ok=True)
        if not second.exists():
            os.link(log, second)


class Server:
    """One server process that can be stopped, killed and started again on the same port and data."""

    def __init__(self, name, arguments, directory, settings=None):
        self.name = name
        self.arguments = arguments
        self.settings = settings or {}
        self.data = directory / f"{name}-data"
        self.log = directory / f"{name}.log"
        self.address = None
        self.process = None

    def start(self):
        """Starts the process and returns when it serves."""
        out_path = self.log.with_suffix(".out")
        command = [BIN / self.arguments[0], *self.arguments[1:]]
        command += ["--listen", self.address or "127.0.0.1:0", "--data", self.data]
        # Many servers run side by side here, and nobody asks for their health.
        command += ["--health-listen", "off"]
        with open(self.log, "ab") as log, open(out_path, "wb") as out:
            keep(self.log)
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL, stdout=out, stderr=log, env={**os.environ, **self.settings},
            )
        if self not in _live:
            _live.append(self)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            found = LISTENING.search(out_path.read_text())
            if found:
                self.address = found.group(1)
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.kill()
        raise AssertionError(f"{self.name} does not serve:\n{self.tail()}")

    def stop(self):
        """Stops the process cleanly; anything but a clean exit is an error."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self.name} did not stop within {STOP_SECONDS} s of SIGTERM:\n{self.tail()}")
        self.process = None
        assert code == 0, f"{self.name} exited with {code} after SIGTERM:\n{self.tail()}"

    def kill(self):
        """kill -9: the process gets no chance to tidy up."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def tail(self, lines=60):
        if not self.log.exists():
            return "(no log)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Cluster:
    """A nameserver with GROUPS broker groups, or a standalone broker; topics and groups are made with mqadmin, on all of them.

    A group has one member unless more `members` are asked for; then there is one group. `broker` is of the first group.
    """

    def __init__(
        self, standalone=False, first_check="2s", check_interval="2s", check_max=15, settings=None, members=1
    ):
        self.directory = Path(tempfile.mkdtemp(prefix="kerolox-sdk-"))
        self.standalone = standalone
        self.names = 0
        self.nameserver = None
        self.brokers = []
        broker = [
            "broker",
            "--transaction-first-check", first_check,
            "--transaction-check-interval", check_interval,
            "--transaction-check-max", check_max,
        ]
        try:
            if standalone:
                broker += ["--standalone", "--auto-create", "off"]
            else:
                self.nameserver = Server("nameserver", ["nameserver"], self.directory).start()
                broker += ["--cluster", CLUSTER, "--nameserver", self.nameserver.address]
            groups = ["broker-a"]
            if not standalone and members == 1:
                groups += [f"broker-{chr(ord('a') + number)}" for number in range(1, GROUPS)]
            names = ["broker"] + [f"broker-{number}" for number in range(2, members + 1)] + groups[1:]
            for number, name in enumerate(names):
                group = groups[max(0, number - members + 1)]
                command = broker if standalone else [*broker, "--group", group]
                self.brokers.append(Server(name, command, self.directory, settings).start())
            self.broker = self.brokers[0]
            if members > 1:
                self.wait_for_in_sync()
            if len(groups) > 1:
                self.wait_for_groups(groups)
        except BaseException:
            self.close()
            raise

    @property
    def access_point(self):
        """What an SDK is configured with."""
        return (self.nameserver or self.broker).address

    def servers(self):
        """All processes by name."""
        servers = {broker.name: broker for broker in self.brokers}
        if self.nameserver is not None:
            servers["nameserver"] = self.nameserver
        return servers

    def group_state(self):
        """What the controller says of the broker group; nothing before its first member is known."""
        groups = self.mqadmin("getSyncStateSet")["brokers"]
        return groups[0] if groups else None

    def master(self):
        """The broker that rules; nobody else may be asked to fail over."""
        state = self.group_state()
        address = next(member["address"] for member in state["members"] if member["id"] == state["master"])
        return next(broker for broker in self.brokers if broker.address == address)

    def wait_for_in_sync(self, seconds=START_SECONDS):
        """Returns when a master rules and all running members are in sync."""
        deadline = time.monotonic() + seconds
        running = sum(broker.is_running() for broker in self.brokers)
        while True:
            state = self.group_state()
            if state and state["master"] and len(state["inSync"]) == running:
                return
            assert time.monotonic() < deadline, f"not in sync after {seconds} s: {state}"
            time.sleep(0.05)

    def wait_for_groups(self, groups, seconds=START_SECONDS):
        """Returns when the nameserver knows these broker groups: topics come to those only that it knows."""
        deadline = time.monotonic() + seconds
        while True:
            known = {row["broker"] for row in self.mqadmin("clusterList")["brokers"]}
            if known.issuperset(groups):
                return
            assert time.monotonic() < deadline, f"only {known} after {seconds} s"
            time.sleep(0.05)

    def restart_in_turn(self):
        """Stops the members and starts them again, one after the other, each when all are in sync."""
        for broker in self.brokers:
            broker.stop()
            broker.start()
            self.wait_for_in_sync()

    def mqadmin(self, command, *arguments):
        """Runs mqadmin with JSON output and returns what it printed."""
        done = run_mqadmin(command, "-n", self.access_point, *arguments)
        assert done.returncode == 0, f"{done.args}\n{done.stdout}{done.stderr}"
        return json.loads(done.stdout) if done.stdout.strip() else None

    def create_topic(self, message_type="NORMAL", queues=1, name=None):
        """Creates a topic with a new name. One queue by default: a simple consumer polls one random queue a call."""
        name = name or self.new_name("topic")
        self.mqadmin(
            "updateTopic", "-c", CLUSTER, "-t", name, "-r", queues, "-w", queues,
            "-a", f"+message.type={message_type}",
        )
        self.wait_for_route(name)
        return name

    def create_group(self, name=None):
        name = name or self.new_name("group")
        self.mqadmin("updateSubGroup", "-c", CLUSTER, "-g", name)
        return name

    def new_name(self, kind):
        self.names += 1
        return f"{kind}-{self.names}"

    def wait_for_route(self, topic, seconds=15):
        """Returns when the access point knows the topic."""
        deadline = time.monotonic() + seconds
        while True:
            done = run_mqadmin("topicRoute", "-n", self.access_point, "-t", topic)
            if done.returncode == 0:
                return
            assert done.returncode in (NOT_FOUND, UNREACHABLE), f"{done.args}\n{done.stdout}{done.stderr}"
            assert time.monotonic() < deadline, f"no route to {topic} after {seconds} s: {done.stderr}"
            time.sleep(0.05)

    def close(self):
        """Ends all processes and removes their data."""
        for server in self.servers().values():
            server.kill()
            if server in _live:
                _live.remove(server)
        shutil.rmtree(self.directory, ignore_errors=True)


def run_mqadmin(command, *arguments):
    """Runs mqadmin with JSON output to its end."""
    full = [str(BIN / "mqadmin"), command, *(str(argument) for argument in arguments), "--output", "json"]
    return subprocess.run(full, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=30)


def live_logs():
    """(name, end of the log) of every server that a test may have talked to."""
    return [(server.name, server.tail()) for server in _live]


def kill_all():
    """Last resort on the way out: no process outlives the tests."""
    for server in list(_live):
        server.kill()
