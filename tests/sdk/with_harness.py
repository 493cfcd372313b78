"""Runs a test suite that is not written in Python against real servers: with_harness.py COMMAND...

The command finds in KEROLOX_HARNESS an address (HOST:PORT) that answers one line per connection with a line of JSON:

    cluster [NAME=VALUE]  starts a nameserver and a broker, which gets these environment variables:
                          {"id": 0, "nameserver": ADDRESS, "broker": ADDRESS}
    group MEMBERS         the same with a broker group of so many members, all of them in sync, whose first check-back
                          leaves time for an election
    kill ID SERVER        kill -9 of the server of that name, which is nameserver, broker, broker-2 and so on; "master"
                          is the broker that rules: {"server": NAME}
    stop ID SERVER        stops it cleanly
    start ID SERVER       starts it again on the same port and data
    in-sync ID            answers when a master rules and all running members are in sync: {}
    restart-in-turn ID    stops and starts the members one after the other, each when all are in sync: {}

and {"error": TEXT} for what fails. When the command ends, so do all servers; if it failed, the ends of their logs are
shown. Exits with the command's exit code.
"""

import json
import os
import signal
import socketserver
import subprocess
import sys
import threading

import harness

STOP_SECONDS = 10
# When the members of a group ask for the first time about a transaction: an election passes before that.
GROUP_FIRST_CHECK = "8s"


class Clusters:
    """The clusters that were asked for. Each request has the lock: starting is quick, and nothing else waits."""

    def __init__(self):
        self.lock = threading.Lock()
        self.started = []

    def answer(self, line):
        command, *arguments = line.split()
        # These take long, and nothing but their own cluster has to do with them.
        if command == "in-sync":
            self.started[int(arguments[0])].wait_for_in_sync()
            return {}
        if command == "restart-in-turn":
            self.started[int(arguments[0])].restart_in_turn()
            return {}
        with self.lock:
            if command == "cluster":
                return self.add(harness.Cluster(settings=dict(each.split("=", 1) for each in arguments)))
            if command == "group":
                return self.add(harness.Cluster(members=int(arguments[0]), first_check=GROUP_FIRST_CHECK))
            if command in ("kill", "stop", "start"):
                number, name = arguments
                cluster = self.started[int(number)]
                server = cluster.master() if name == "master" else cluster.servers()[name]
                getattr(server, command)()
                return {"server": server.name}
        raise ValueError(f"unknown request {line!r}")

    def add(self, cluster):
        self.started.append(cluster)
        return {
            "id": len(self.started) - 1,
            "nameserver": cluster.nameserver.address,
            "broker": cluster.broker.address,
        }

    def close(self):
        for cluster in self.started:
            cluster.close()


class Handler(socketserver.StreamRequestHandler):
    """One request."""

    def handle(self):
        try:
            answer = self.server.clusters.answer(self.rfile.readline().decode())
        except Exception as error:  # Whatever it is, the suite has to hear of it.
            answer = {"error": f"{type(error).__name__}: {error}"}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def run(command, environment):
    """Runs the command to its end; an interruption of this process ends it too."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def main(command):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    clusters = Clusters()
    try:
        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
            server.clusters = clusters
            threading.Thread(target=server.serve_forever, daemon=True).start()
            host, port = server.server_address
            code = run(command, {**os.environ, "KEROLOX_HARNESS": f"{host}:{port}"})
            server.shutdown()
        if code != 0:
            for name, tail in harness.live_logs():
                print(f"--- end of the log of {name}\n{tail}", flush=True)
        return code
    finally:
        clusters.close()
        harness.kill_all()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
