"""Runs a command with Apache RocketMQ's own servers: with_apache.py COMMAND...

Starts a nameserver, and a broker with the proxy in one process, from the jars in $KEROLOX_APACHE (see setup_apache in
deploy/setup.sh), on free ports of 127.0.0.1 and in a temporary folder. Makes the topics Normal, Fifo, Delay and Tx, each of the
type that its name says, and the consumer group "ordered", whose messages come in order. The command finds the proxy's
address (HOST:PORT) in APACHE_PROXY. When it ends, so do the servers; if it failed, the ends of their logs are shown.
Exits with the command's exit code.
"""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

# How long the servers may take to start, in seconds.
PATIENCE = 120
LOG_LINES = 40
TOPICS = {"Normal": "NORMAL", "Fifo": "FIFO", "Delay": "DELAY", "Tx": "TRANSACTION"}
# Two servers and an administration tool share the machine with what is tested.
MEMORY = ["-Xms256m", "-Xmx768m", "-XX:MaxDirectMemorySize=512m"]
# What RocketMQ asks a JVM of today for.
OPENED = [
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
]


def free_ports(count):
    """Ports that nobody listens on, each with the two before it: a broker listens on more than it is told."""
    sockets, ports = [], []
    while len(ports) < count:
        sockets.append(socket.create_server(("127.0.0.1", 0)))
        port = sockets[-1].getsockname()[1]
        try:
            sockets += [socket.create_server(("127.0.0.1", port - before)) for before in (1, 2)]
        except OSError:
            continue
        ports.append(port)
    for each in sockets:
        each.close()
    return ports


class Servers:
    def __init__(self, folder, jars):
        self.folder = folder
        self.jars = jars
        self.processes = []
        self.nameserver, self.broker, ha, self.proxy, remoting = free_ports(5)
        (folder / "conf").mkdir()
        self.write("namesrv.conf", {"listenPort": self.nameserver, "bindAddress": "127.0.0.1"})
        self.write(
            "broker.conf",
            {
                "brokerClusterName": "DefaultCluster",
                "brokerName": "apache",
                "brokerId": 0,
                "brokerIP1": "127.0.0.1",
                "listenPort": self.broker,
                "haListenPort": ha,
                "namesrvAddr": f"127.0.0.1:{self.nameserver}",
                "storePathRootDir": folder / "store",
                "storePathCommitLog": folder / "store" / "commitlog",
                "mappedFileSizeCommitLog": 64 << 20,
                "mappedFileSizeConsumeQueue": 600_000,
                "mappedFileSizeTimerLog": 8 << 20,
                "maxIndexNum": 10_000,
                "maxHashSlotNum": 5_000,
                "diskMaxUsedSpaceRatio": 99,
                "flushDiskType": "ASYNC_FLUSH",
                "autoCreateTopicEnable": "false",
                "autoCreateSubscriptionGroup": "true",
                "recallMessageEnable": "true",
                # Undecided transactions are asked about within seconds.
                "transactionTimeOut": 1_000,
                "transactionCheckInterval": 1_000,
                # The delays of a message that failed are levels; the first ones last seconds.
                "messageDelayLevel": "1s 1s 2s 3s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m",
            },
        )
        proxy = {
            "rocketMQClusterName": "DefaultCluster",
            "grpcServerPort": self.proxy,
            "remotingListenPort": remoting,
            "localServeAddr": "127.0.0.1",
            "namesrvAddr": f"127.0.0.1:{self.nameserver}",
        }
        (folder / "conf" / "rmq-proxy.json").write_text(json.dumps(proxy))

    def write(self, name, settings):
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        (self.folder / "conf" / name).write_text("".join(lines))

    def command(self, main_class, *arguments):
        home = [f"-Duser.home={self.folder}", f"-Drocketmq.home.dir={self.folder}"]
        return ["java", *MEMORY, *OPENED, *home, "-cp", f"{self.jars}/*", main_class, *arguments]

    def start(self, name, main_class, *arguments):
        log = open(self.folder / f"{name}.log", "wb")
        environment = {**os.environ, "ROCKETMQ_HOME": str(self.folder)}
        process = subprocess.Popen(
            self.command(main_class, *arguments),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
        )
        self.processes.append(process)

    def start_all(self):
        conf = self.folder / "conf"
        self.start("nameserver", "org.apache.rocketmq.namesrv.NamesrvStartup", "-c", str(conf / "namesrv.conf"))
        self.wait_for(self.nameserver)
        self.start(
            "proxy", "org.apache.rocketmq.proxy.ProxyStartup", "-pm", "local", "-n", f"127.0.0.1:{self.nameserver}",
            "-pc", str(conf / "rmq-proxy.json"), "-bc", str(conf / "broker.conf"),
        )
        self.wait_for(self.broker)
        self.wait_for(self.proxy)
        self.make_topics()

    def wait_for(self, port):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if any(process.poll() is not None for process in self.processes):
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.2)
        raise RuntimeError(f"nobody listens on port {port} after {PATIENCE} s")

    def make_topics(self):
        broker = ["-b", f"127.0.0.1:{self.broker}"]
        commands = [
            ["updateTopic", *broker, "-t", name, "-r", "4", "-w", "4", "-a", f"+message.type={kind}"]
            for name, kind in TOPICS.items()
        ]
        commands.append(["updateSubGroup", *broker, "-g", "ordered", "-o", "true"])
        # At the same time: each is a JVM that mostly starts.
        running = [
            subprocess.Popen(
                self.command("org.apache.rocketmq.tools.command.MQAdminStartup", *command),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
            for command in commands
        ]
        for command, process in zip(commands, running):
            said = process.communicate(timeout=PATIENCE)[0].decode(errors="replace")
            if process.returncode != 0 or "success" not in said:
                raise RuntimeError(f"mqadmin {' '.join(command)} failed: {said}")

    def show_logs(self):
        # What they print themselves, and of their many logs the errors.
        for log in sorted(self.folder.glob("**/*.log")):
            lines = log.read_text(errors="replace").splitlines()
            if log.parent != self.folder:
                lines = [line for line in lines if " ERROR " in line]
            if lines:
                print(f"--- end of {log.name}", *lines[-LOG_LINES:], sep="\n", flush=True)

    def stop(self):
        for process in self.processes:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()


def main(command):
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    jars = os.environ.get("KEROLOX_APACHE")
    if not jars:
        sys.exit("KEROLOX_APACHE names no folder with jars: run setup_apache of deploy/setup.sh")
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kerolox-apache-"))
    servers = Servers(folder, jars)
    try:
        try:
            servers.start_all()
        except RuntimeError as error:
            print(f"error: {error}", file=sys.stderr)
            servers.show_logs()
            return 1
        environment = {**os.environ, "APACHE_PROXY": f"127.0.0.1:{servers.proxy}"}
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
        try:
            code = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
        if code != 0:
            servers.show_logs()
        return code
    finally:
        servers.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1:]))
