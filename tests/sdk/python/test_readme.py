"""The README's programs run as printed; only the server's address is filled in."""

import os
import subprocess
import sys

import pytest

README = os.path.join(os.path.dirname(__file__), "..", "..", "..", "README.md")
# What the text around a program has made, by a word of the program, and what it prints.
TOPICS = {"greetings": "NORMAL", "orders": "TRANSACTION"}
PRINTED = {"greetings": "received b'hello from Python'", "orders": "committed"}


def programs():
    with open(README, encoding="utf-8") as readme:
        return [block.split("```")[0] for block in readme.read().split("```python\n")[1:]]


def test_there_are_programs():
    assert len(programs()) == len(PRINTED)


@pytest.mark.parametrize("topic", PRINTED)
def test_a_program_of_the_readme_runs_as_printed(cluster, tmp_path, topic):
    (text,) = [text for text in programs() if topic in text]
    address = cluster.access_point
    cluster.mqadmin("updateTopic", "-c", "DefaultCluster", "-t", topic, "-a", f"+message.type={TOPICS[topic]}")
    cluster.wait_for_route(topic)
    program = tmp_path / "program.py"
    program.write_text(text.replace("127.0.0.1:9876", address), encoding="utf-8")
    # The SDK leaves threads behind that end with the process, after its long poll at the latest.
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60, check=True)
    assert PRINTED[topic] in done.stdout, done
