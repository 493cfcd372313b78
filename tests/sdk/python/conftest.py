"""Fixtures of the tests with the Python SDK: clusters per module, clients per test, logs of the servers with every failure."""

import os
import shutil
import sys
import tempfile

# The SDK writes a log below the home directory as soon as it is imported: keep that out of the user's, and beside the logs
# of the servers where those are kept.
_kept = os.environ.get("KEROLOX_LOGS")
if _kept:
    os.makedirs(_kept, exist_ok=True)
_home = tempfile.mkdtemp(prefix="kerolox-sdk-home-", dir=_kept)
os.environ["HOME"] = _home
sys.path.insert(0, os.path.dirname(__file__))

import pytest  # noqa: E402

import clusters  # noqa: E402
import sdk  # noqa: E402
import servers  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    """A nameserver and a broker whose check-backs come every 2 s."""
    started = clusters.Cluster()
    yield started
    started.close()


@pytest.fixture(scope="module")
def standalone():
    """One process with everything in it."""
    started = clusters.Cluster("standalone")
    yield started
    started.close()


class Clients:
    """Makes SDK clients and shuts them down when the test is over."""

    def __init__(self):
        self.open = []

    def producer(self, address, topic, checker=None):
        return self._keep(sdk.start_producer(address, topic, checker))

    def consumer(self, address, topic, group, **options):
        return self._keep(sdk.start_consumer(address, topic, group, **options))

    def keep(self, client):
        return self._keep(client)

    def _keep(self, client):
        self.open.append(client)
        return client

    def close(self):
        for client in self.open:
            if client.is_running:
                client.shutdown()


@pytest.fixture
def clients():
    made = Clients()
    yield made
    made.close()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.failed:
        for tails in servers.harness("logs")["logs"]:
            report.sections.append(("ends of the logs of a cluster", tails))


def pytest_sessionfinish():
    if not _kept:
        shutil.rmtree(_home, ignore_errors=True)


def pytest_terminal_summary(terminalreporter):
    """The suite's figures on one line, which run.sh adds up."""
    stats = terminalreporter.stats
    passed = len(stats.get("passed", []))
    failed = len(stats.get("failed", [])) + len(stats.get("error", []))
    terminalreporter.write_line(f"sdk python: {passed} passed, {failed} failed")
