"""Runs a command with Apache RocketMQ's own servers: with_apache.py [--cluster] COMMAND...

Starts a nameserver, a broker and a proxy from the jars in $KEROLOX_APACHE (see setup_apache in deploy/setup.sh), on free
ports and in a temporary folder. Broker and proxy are one process, or two with --cluster; only then lite topics work. Makes
the topics Normal, Fifo, Delay, Tx and Lite, each of the type that its name says, and the consumer groups of GROUPS:
"ordered" gets its messages in order, "lites" the lite topics of Lite. The command finds the proxy's address (HOST:PORT) in
APACHE_PROXY, and APACHE_LITE set if lite topics work. When it ends, so do the servers; if it failed, the ends of their logs are shown. Exits with the command's exit
code, or with 1 if the servers do not come up.
"""

import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

# How long it may take until the servers serve, in seconds.
PATIENCE = 120
LOG_LINES = 40
TOPICS = {"Normal": "NORMAL", "Fifo": "FIFO", "Delay": "DELAY", "Tx": "TRANSACTION", "Lite": "LITE"}
# All groups that the command may use: the proxy refuses a consumer of any other.
GROUPS = {
    **{name: {} for name in ("readers", "pushers", "pullers", "batches", "delayed", "transactions", "encrypted")},
    "ordered": {"consumeMessageOrderly": True},
    "lites": {"attributes": {"+lite.bind.topic": "Lite"}},
}
# Three JVMs or more share the machine with the program under test, and none lives long: they start faster with the simple
# compiler and collector.
JVM = [
    "-Xms128m", "-Xmx512m", "-XX:MaxDirectMemorySize=512m",
    "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
]
# What RocketMQ asks a JVM of today for.
OPENED = [
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
]
INTERRUPTIONS = (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)


class StartError(Exception):
    pass


def free_ports(count):
    """Free ports, each with the two before it free as well: a broker also listens on those.

    They are below the system's ephemeral ports, so that no other process takes them before the servers do.
    """
    ports = []
    for port in random.sample(range(10_000, 32_000, 3), 1_000):
        try:
            for each in (port - 2, port - 1, port):
                socket.create_server(("127.0.0.1", each)).close()
        except OSError:
            continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise StartError("no free ports")


def kill(process):
    """Ends a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


class Servers:
    def __init__(self, folder, jars):
        self.folder = folder
        self.jars = jars
        self.processes = {}
        self.deadline = time.monotonic() + PATIENCE
        self.nameserver = self.broker = self.proxy = None

    def configure(self):
        nameserver, broker, ha, proxy, remoting = free_ports(5)
        self.nameserver, self.broker, self.proxy = (f"127.0.0.1:{port}" for port in (nameserver, broker, proxy))
        self.write_properties("namesrv.conf", {"listenPort": nameserver, "bindAddress": "127.0.0.1"})
        self.write_properties(
            "broker.conf",
            {
                "brokerClusterName": "DefaultCluster",
                "brokerName": "apache",
                "brokerId": 0,
                "brokerIP1": "127.0.0.1",
                "bindAddress": "127.0.0.1",
                "listenPort": broker,
                "haListenPort": ha,
                "namesrvAddr": self.nameserver,
                "storePathRootDir": self.folder / "store",
                "storePathCommitLog": self.folder / "store" / "commitlog",
                "mappedFileSizeCommitLog": 64 << 20,
                "mappedFileSizeConsumeQueue": 600_000,
                "mappedFileSizeTimerLog": 8 << 20,
                "maxHashSlotNum": 5_000,
                "maxIndexNum": 10_000,
                "diskMaxUsedSpaceRatio": 99,
                "flushDiskType": "ASYNC_FLUSH",
                "autoCreateTopicEnable": "false",
                "recallMessageEnable": "true",
                # Lite topics take both.
                "enableLmq": "true",
                "enableMultiDispatch": "true",
                # Undecided transactions are asked about within seconds, decided ones are known as such by then.
                "transactionTimeOut": 2_000,
                "transactionCheckInterval": 1_000,
                "transactionOpBatchInterval": 100,
            },
        )
        self.write_json(
            "rmq-proxy.json",
            {
                "rocketMQClusterName": "DefaultCluster",
                "grpcServerPort": proxy,
                "remotingListenPort": remoting,
                "localServeAddr": "127.0.0.1",
                # How often a proxy apart from the broker tells it who can be asked about transactions.
                "transactionHeartbeatPeriodSecond": 1,
                "namesrvAddr": self.nameserver,
            },
        )
        queues = {"readQueueNums": 4, "writeQueueNums": 4, "perm": 6}
        topics = [
            {"topicName": name, **queues, "attributes": {"+message.type": kind}} for name, kind in TOPICS.items()
        ]
        self.write_json("topics.json", topics)
        self.write_json("groups.json", [{"groupName": name, **settings} for name, settings in GROUPS.items()])

    def write_properties(self, name, settings):
        (self.folder / name).write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))

    def write_json(self, name, value):
        (self.folder / name).write_text(json.dumps(value))

    def start(self, name, main_class, *arguments):
        """Starts a JVM, which leaves nothing outside of the folder."""
        places = [f"-D{key}={self.folder}" for key in ("user.home", "java.io.tmpdir", "rocketmq.home.dir")]
        command = ["java", *JVM, *OPENED, *places, "-cp", f"{self.jars}/*", f"org.apache.rocketmq.{main_class}"]
        with open(self.folder / f"{name}.log", "wb") as log:
            self.processes[name] = subprocess.Popen(
                [*command, *(str(argument) for argument in arguments)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "ROCKETMQ_HOME": str(self.folder)},
            )

    def start_all(self, cluster):
        self.configure()
        self.start("nameserver", "namesrv.NamesrvStartup", "-c", self.folder / "namesrv.conf")
        self.wait_for("nameserver", "boot success")
        broker, proxy = self.folder / "broker.conf", ["-pc", self.folder / "rmq-proxy.json"]
        if cluster:
            self.start("broker", "broker.BrokerStartup", "-c", broker)
            self.wait_for("broker", "boot success")
            mode = ["-pm", "cluster", *proxy]
        else:
            mode = ["-pm", "local", *proxy, "-bc", broker]

        def start_proxy():
            self.start("proxy", "proxy.ProxyStartup", *mode)

        start_proxy()
        if not cluster:
            self.wait_for("proxy", "startup successfully")
        # At the same time: each mostly starts and stops.
        commands = {"updateTopicList": "topics.json", "updateSubGroupList": "groups.json"}
        for command, file in commands.items():
            # It would ask a host of the Internet for the nameserver's address, although it needs none.
            known = ["-n", self.nameserver, "-b", self.broker]
            self.start(command, "tools.command.MQAdminStartup", command, *known, "-f", self.folder / file)
        # It ends when the nameserver does not know the broker yet.
        self.wait_for("proxy", "startup successfully", start_again=start_proxy if cluster else None)
        for command in commands:
            self.wait_for(command, " success")
            # It takes its time to end.
            kill(self.processes[command])

    def wait_for(self, name, words, start_again=None):
        """Returns when the process has printed these words."""
        while True:
            ended = self.processes[name].poll() is not None
            if words in (self.folder / f"{name}.log").read_text(errors="replace"):
                return
            if ended and start_again is None:
                raise StartError(f"{name} has ended")
            if time.monotonic() > self.deadline:
                raise StartError(f"{name} is not ready after {PATIENCE} s")
            time.sleep(0.1)
            if ended:
                start_again()

    def show_logs(self):
        """The ends of what they print themselves, and of the errors in their many logs."""
        for log in sorted(self.folder.rglob("*.log")):
            lines = log.read_text(errors="replace").splitlines()
            if log.parent != self.folder:
                lines = [line for line in lines if " ERROR " in line]
            if lines:
                print(f"--- end of {log.relative_to(self.folder)}", *lines[-LOG_LINES:], sep="\n", flush=True)

    def keep_logs(self):
        """All of their logs, in the folder that KEROLOX_LOGS names, if any."""
        kept = os.environ.get("KEROLOX_LOGS")
        for log in self.folder.rglob("*.log") if kept else ():
            second = pathlib.Path(kept) / self.folder.name / log.relative_to(self.folder)
            second.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, second)

    def stop(self):
        for process in self.processes.values():
            kill(process)


def run(command, environment):
    """Runs the command to its end; an interruption of this process ends it too."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment, start_new_session=True)
    try:
        code = process.wait()
    finally:
        kill(process)
    # One that a signal ended has that signal's number, negated.
    return code if code >= 0 else 128 - code


def interrupted(number, _):
    sys.exit(128 + number)


def main(cluster, command):
    jars = os.environ.get("KEROLOX_APACHE")
    if not jars:
        sys.exit("KEROLOX_APACHE names no folder with jars: run setup_apache of deploy/setup.sh")
    for each in INTERRUPTIONS:
        signal.signal(each, interrupted)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="kerolox-apache-"))
    servers = Servers(folder, jars)
    try:
        servers.start_all(cluster)
        lite = {"APACHE_LITE": "yes"} if cluster else {}
        code = run(command, {**os.environ, "APACHE_PROXY": servers.proxy, **lite})
        if code != 0:
            servers.show_logs()
        return code
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        servers.show_logs()
        return 1
    finally:
        for each in INTERRUPTIONS:
            signal.signal(each, signal.SIG_IGN)
        servers.stop()
        servers.keep_logs()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    with_cluster = sys.argv[1:2] == ["--cluster"]
    arguments = sys.argv[2 if with_cluster else 1:]
    if not arguments:
        sys.exit(__doc__)
    sys.exit(main(with_cluster, arguments))
