"""`mqttkit publish-scan` as a process: messages, outages, signals, exit codes."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.messages import Message, Subscription
from tests.support.brokers import Mosquitto, free_port, need
from tests.support.clients import settings_for, wait_until

pytestmark = pytest.mark.system

CAPTURE = Path(__file__).parents[3] / "examples" / "captures" / "street-32-per-second.btsnoop"
Start = Callable[..., "Publisher"]


class Publisher:
    """A running `mqttkit publish-scan`, its stderr collected."""

    def __init__(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "mqttkit", "publish-scan", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        self.lines.extend(iter(self.process.stderr.readline, ""))

    def finish(self, seconds: float = 20) -> int:
        """Wait for its end and return the exit code."""
        code = self.process.wait(seconds)
        self._reader.join(5)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code

    @property
    def log(self) -> str:
        """What it said on stderr so far."""
        return "".join(self.lines)

    def resident_bytes(self) -> int:
        """Return its resident memory."""
        text = Path(f"/proc/{self.process.pid}/statm").read_text()
        return int(text.split()[1]) * 4096


@pytest.fixture
def start() -> Iterator[Start]:
    """Start publishers that are ended with the test."""
    running: list[Publisher] = []

    def run(*arguments: str) -> Publisher:
        running.append(Publisher(*arguments))
        return running[-1]

    yield run
    for publisher in running:
        if publisher.process.poll() is None:
            publisher.process.kill()
        publisher.finish()


@pytest.fixture
def received(broker: Mosquitto) -> Iterator[list[Message]]:
    """Collect everything published on the broker."""
    messages: list[Message] = []
    with MqttClient(settings_for(broker.port), on_messages=messages.extend) as client:
        client.connect(timeout=10)
        client.subscribe(Subscription("#", qos=1))
        yield messages


@pytest.mark.parametrize("qos", ["0", "1"])
def test_a_replay_is_published_whole_and_ends_with_0(
    broker: Mosquitto, received: list[Message], start: Start, qos: str
) -> None:
    """Each recorded advertisement is one message on its device's topic; mosquitto_sub sees the same."""
    subscriber = [need("mosquitto_sub"), "-p", str(broker.port), "-v", "-t", "ble/raw/#", "-C", "412", "-W", "20"]
    with subprocess.Popen(subscriber, stdout=subprocess.PIPE, text=True) as peer:
        assert peer.stdout is not None
        wait_until(lambda: broker.log.count("Sending SUBACK") == 2)
        source = f"replay:{CAPTURE}"
        publisher = start(
            "-p", str(broker.port), "-q", qos, "--scanner-id", "s-1", "--source", source, "--speed", "max"
        )
        assert publisher.finish() == 0
        theirs = [line.rstrip("\n") for line in peer.stdout]
    wait_until(lambda: len(received) == 412)
    assert [f"{message.topic} {message.payload.decode()}" for message in received] == theirs
    for message in received:
        fields = json.loads(message.payload)
        assert message.topic == f"ble/raw/s-1/{fields['mac_address']}"
    assert "412 scanned, 412 published, 0 lost" in publisher.log


def test_broker_away_drops_and_counts_then_publishing_resumes(
    broker: Mosquitto, received: list[Message], start: Start
) -> None:
    """While the broker is away nothing is kept and memory stays flat; it resumes within 10 s of its return."""
    publisher = start("-p", str(broker.port), "--source", "simulated", "--rate", "1000", "--stats-interval", "1")
    wait_until(lambda: len(received) > 500)
    before = publisher.resident_bytes()
    broker.stop()
    # a line a second: long enough for the delays between tries to grow
    wait_until(lambda: publisher.log.count("publish failed") >= 7, 40)
    broker.start()
    returned, count = time.monotonic(), len(received)
    wait_until(lambda: len(received) > count + 100, 15)
    assert time.monotonic() - returned < 10
    assert publisher.resident_bytes() - before < 6_000_000
    publisher.process.send_signal(signal.SIGTERM)
    assert publisher.finish() == 0
    total = re.search(r"total: (\d+) scanned, (\d+) published, (\d+) lost \((\d+) not connected", publisher.log)
    assert total is not None
    scanned, published, lost, away = map(int, total.groups())
    assert scanned == published + away
    assert lost >= away > 5_000
    failures = [line for line in publisher.lines if "publish failed" in line]
    assert 5 <= len(failures) <= 25


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_in_good_order(
    broker: Mosquitto, received: list[Message], start: Start, number: signal.Signals
) -> None:
    """SIGINT and SIGTERM flush, say offline, disconnect and end with 0 and the totals."""
    publisher = start("-p", str(broker.port), "--source", "simulated", "--status-topic", "status/s", "-q", "1")
    wait_until(lambda: len(received) > 10)
    publisher.process.send_signal(number)
    assert publisher.finish() == 0
    wait_until(lambda: received[-1].payload == b"offline")
    states = [message.payload for message in received if message.topic == "status/s"]
    assert states == [b"online", b"offline"]
    published = re.search(r"total: \d+ scanned, (\d+) published, 0 lost", publisher.log)
    assert published is not None
    assert len(received) == int(published.group(1)) + len(states)


def test_killed_publisher_leaves_offline_by_its_will(broker: Mosquitto, received: list[Message], start: Start) -> None:
    """The retained status does not stay online when the process is killed."""
    publisher = start("-p", str(broker.port), "--source", "simulated", "--status-topic", "status/s")
    wait_until(lambda: len(received) > 10)
    publisher.process.kill()
    wait_until(lambda: any(message.payload == b"offline" for message in received))
    states = [message.payload for message in received if message.topic == "status/s"]
    assert states == [b"online", b"offline"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--scanner-id", "a/b", "--source", "simulated"], 2, "scanner"),
        (["--topic", "x/{nothing}", "--source", "simulated"], 2, "{nothing}"),
        (["--source", "replay:/no/such/file.btsnoop"], 2, "/no/such/file.btsnoop"),
        (["--source", "simulated", "--no-retry"], 3, "connection refused"),
    ],
)
def test_what_cannot_work_ends_with_its_code_and_one_line(
    start: Start, arguments: list[str], code: int, said: str
) -> None:
    """Bad options end before anything connects; an unreachable broker with --no-retry has its own code."""
    publisher = start("-p", str(free_port()), "--quiet", *arguments)
    assert publisher.finish() == code
    assert said in publisher.log
    assert publisher.log.count("\n") == 1
    assert "Traceback" not in publisher.log
