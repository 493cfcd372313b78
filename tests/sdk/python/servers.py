"""Servers of the program with_cluster, which starts, stops and kills them on request."""

import json
import os
import socket


def harness(*words):
    """One request to tests/src/cluster_server/mod.rs, which owns the servers."""
    host, port = os.environ["KEROLOX_HARNESS"].rsplit(":", 1)
    line = " ".join(str(word) for word in words)
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(f"{line}\n".encode())
        answer = json.loads(connection.makefile().read())
    assert "error" not in answer, f"harness: {line}: {answer['error']}"
    return answer


class Server:
    """One server process; "master" is the broker that rules."""

    def __init__(self, cluster, name):
        state = harness("server", cluster, name)
        self.cluster, self.name, self.address = cluster, state["server"], state["address"]

    def kill(self):
        """kill -9: the process gets no chance to tidy up."""
        harness("kill", self.cluster, self.name)

    def stop(self):
        """Anything but a clean exit is an error."""
        harness("stop", self.cluster, self.name)

    def start(self):
        """On the same port and data; returns when it serves."""
        harness("start", self.cluster, self.name)

    def pid(self):
        """Nothing while it does not run."""
        return harness("server", self.cluster, self.name)["pid"]
