"""`mqttkit publish-scan` as a process: messages, outages, signals, exit codes."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mqttkit.client import MqttClient
from mqttkit.messages import Message, Subscription
from mqttkit.scan_publisher import ScanPublisher
from mqttkit.scan_publisher.status import StatusTopic
from mqttkit.scanner import Source
from mqttkit.scanner.advertisement import Advertisement, parse_timestamp
from mqttkit.settings import PublisherSettings
from tests.support.brokers import Mosquitto, free_port, mosquitto, need
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

    def totals(self) -> tuple[int, int, int]:
        """Return scanned, published and lost of the last line."""
        found = re.search(r"total: (\d+) scanned, (\d+) published \([a-z ]+\), (\d+) lost", self.lines[-1] + self.log)
        assert found is not None, self.log
        scanned, published, lost = map(int, found.groups())
        return scanned, published, lost

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
    how = "acknowledged" if qos == "1" else "sent without acknowledgement"
    assert f"412 scanned, 412 published ({how}), 0 lost" in publisher.log


def test_during_an_outage_only_recent_advertisements_wait(
    broker: Mosquitto, received: list[Message], start: Start
) -> None:
    """Older ones are dropped and logged once; the others are published within 10 s after the broker is back."""
    publisher = start(
        *("-p", str(broker.port), "--source", "simulated", "--rate", "1000", "--max-age", "2", "--stats-interval", "1")
    )
    wait_until(lambda: len(received) > 500)
    before = publisher.resident_bytes()
    broker.stop()
    wait_until(lambda: re.search(r"[1-9]\d{3} too old", publisher.log))
    broker.start()
    returned, count = time.monotonic(), len(received)
    wait_until(lambda: len(received) > count + 100)
    assert time.monotonic() - returned < 10
    assert publisher.resident_bytes() - before < 6_000_000
    publisher.process.send_signal(signal.SIGTERM)
    assert publisher.finish() == 0
    scanned, published, lost = publisher.totals()
    assert scanned == published + lost
    assert lost > 1_000
    assert publisher.log.count("advertisements lost: too old") == 1


def sequences(received: list[Message]) -> list[int]:
    """Return the sequence numbers of the advertisements received."""
    return [json.loads(message.payload)["sequence"] for message in received if message.payload.startswith(b"{")]


@contextlib.contextmanager
def slow_link(port: int, rate: float) -> Iterator[int]:
    """Listen on a port whose connection reaches the broker with `rate` bytes/s; yield the port."""
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(("127.0.0.1", port)) as broker:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)  # a smaller window stalls for seconds

        def answer(client: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := broker.recv(4096):
                    client.sendall(data)

        def forward() -> None:
            client, _ = listener.accept()
            with client, contextlib.suppress(OSError):
                threading.Thread(target=answer, args=(client,), daemon=True).start()
                while (data := client.recv(4096)) and not done.wait(len(data) / rate):
                    broker.sendall(data)

        thread = threading.Thread(target=forward)
        thread.start()
        yield int(listener.getsockname()[1])
        done.set()
        broker.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        assert not thread.is_alive()


@pytest.mark.parametrize("qos", ["0", "1"])
def test_a_slow_broker_gets_no_old_advertisements(broker: Mosquitto, start: Start, qos: str) -> None:
    """Neither the kernel nor the client keeps many for it: the age is at most --max-age and a little."""
    ages: list[float] = []

    def note(messages: list[Message]) -> None:
        now = time.time()
        ages.extend(now - parse_timestamp(json.loads(message.payload)["timestamp"]) for message in messages)

    with MqttClient(settings_for(broker.port), on_messages=note) as client, slow_link(broker.port, 100_000) as port:
        client.connect(timeout=10)
        client.subscribe(Subscription("ble/#", qos=1))
        publisher = start(
            *("-h", "127.0.0.1", "-p", str(port), "-q", qos),
            *("--source", "simulated", "--rate", "1000", "--max-age", "1"),
        )
        wait_until(lambda: "too old" in publisher.log)
        count = len(ages)
        wait_until(lambda: len(ages) > count + 1_000)
        publisher.process.kill()
    assert max(ages) < 10


@pytest.mark.parametrize("qos", ["0", "1"])
def test_messages_that_were_not_sent_survive_a_reconnect(
    broker: Mosquitto, received: list[Message], start: Start, qos: str
) -> None:
    """With a clean session: the broker restarts, and every advertisement of the outage arrives afterwards."""
    publisher = start(*("-p", str(broker.port), "-q", qos, "--source", "simulated", "--rate", "200", "--max-age", "30"))
    wait_until(lambda: len(received) > 100)
    broker.stop()
    time.sleep(1.0)  # the outage itself
    broker.start()
    count = len(received)
    wait_until(lambda: len(received) > count + 500)
    publisher.process.send_signal(signal.SIGTERM)
    assert publisher.finish() == 0
    scanned, published, lost = publisher.totals()
    assert (scanned, lost) == (published, 0)


def test_an_unpaced_replay_waits_for_a_broker_that_restarts(
    broker: Mosquitto, received: list[Message], start: Start
) -> None:
    """Every advertisement of a looped recording is acknowledged, or the totals and the exit code show the loss."""
    publisher = start(*("-p", str(broker.port), "-q", "1", "--source", f"replay:{CAPTURE}", "--speed", "max", "--loop"))
    wait_until(lambda: len(received) > 2_000)
    broker.stop()
    time.sleep(1.0)  # the outage itself
    broker.start()
    count = len(received)
    wait_until(lambda: len(received) > count + 2_000)
    publisher.process.send_signal(signal.SIGTERM)
    code = publisher.finish()
    scanned, published, lost = publisher.totals()
    assert scanned == published + lost
    assert "too old" not in publisher.log
    assert (code == 6) == (lost > 0)


def test_totals_are_true_if_the_broker_stalls(broker: Mosquitto, received: list[Message], start: Start) -> None:
    """Only acknowledged messages count as published; the command ends within 5 s, with 6 and the number lost."""
    publisher = start("-p", str(broker.port), "-q", "1", "--source", "simulated", "--rate", "1000")
    wait_until(lambda: len(received) > 500)
    broker.signal(signal.SIGSTOP)
    time.sleep(2.0)  # the stall itself
    publisher.process.send_signal(signal.SIGTERM)
    stopped = time.monotonic()
    assert publisher.finish() == 6
    assert time.monotonic() - stopped < 5
    broker.signal(signal.SIGCONT)
    scanned, published, lost = publisher.totals()
    assert scanned == published + lost
    assert lost > 1_000
    assert f"{lost} advertisements were not published at shutdown" in publisher.log
    wait_until(lambda: len(received) >= published)


def test_a_second_sigterm_within_a_second_changes_nothing(
    broker: Mosquitto, received: list[Message], start: Start
) -> None:
    """`timeout` sends two of them: to its child, and to the group."""
    publisher = start("-p", str(broker.port), "--source", "simulated")
    wait_until(lambda: len(received) > 10)
    publisher.process.send_signal(signal.SIGTERM)
    publisher.process.send_signal(signal.SIGTERM)
    assert publisher.finish() == 0


def test_the_flag_q_has_precedence_over_the_settings_file(
    broker: Mosquitto, received: list[Message], start: Start, tmp_path: Path
) -> None:
    """`-q 0`, too: a flag of value 0 counts."""
    config = tmp_path / "mqttkit.yaml"
    config.write_text("publisher: {qos: 1}\n")
    publisher = start("--config", str(config), "-p", str(broker.port), "-q", "0", "--source", "simulated")
    wait_until(lambda: len(received) > 10)
    publisher.process.send_signal(signal.SIGTERM)
    assert publisher.finish() == 0
    assert "published (sent without acknowledgement)" in publisher.log


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
    scanned, published, lost = publisher.totals()
    assert (scanned, lost) == (published, 0)
    assert len(received) == published + len(states)


class LargeBatch(Source):
    """A source that ends after one batch of 4,000 advertisements."""

    scanning = True

    def batches(self) -> Iterator[list[Advertisement]]:
        """Yield the batch."""
        yield [Advertisement(mac_address="AA:BB:CC:DD:EE:FF", rssi=-40, timestamp=1.5)] * 4_000
        self.close()

    def close(self) -> None:
        """Say that nothing scans any more."""
        self.scanning = False


def test_the_last_status_follows_the_last_advertisement(broker: Mosquitto, received: list[Message]) -> None:
    """Not the end of the scan: advertisements may still wait then."""
    checks = threading.Event()

    def delay(_advertisement: Advertisement, _payload: bytes) -> None:
        if not checks.is_set():
            checks.wait(0.5)  # so that the status is due to be checked before the second half is published
            checks.set()

    with MqttClient(settings_for(broker.port)) as client:
        client.connect(timeout=10)
        status, settings = StatusTopic("status/s"), PublisherSettings(qos=1)
        publisher = ScanPublisher(client, settings, "s", lossless=True, status=status, on_publish=delay)
        assert publisher.run(LargeBatch()).published == 4_000
    wait_until(lambda: sum(message.topic != "status/s" for message in received) == 4_000)
    wait_until(lambda: received[-1].payload == b"offline")
    assert sum(message.payload == b"offline" for message in received) == 1


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


def test_a_denial_at_qos_0_is_proven_and_counted(tmp_path: Path, start: Start) -> None:
    """A broker discards forbidden messages at QoS 0 without an error; a probe at QoS 1 shows it."""
    rules = tmp_path / "acl"
    rules.write_text("topic write allowed/#\n")
    with mosquitto(tmp_path / "broker", f"acl_file {rules}") as broker:
        publisher = start("-p", str(broker.port), "--source", "simulated", "--rate", "200")
        wait_until(lambda: "denied by the broker" in publisher.log)
        publisher.process.send_signal(signal.SIGTERM)
        assert publisher.finish() == 0
    assert re.search("the broker denies publishing to ble/raw/scanner-01/[0-9A-F:]+: Not authorized", publisher.log)
    scanned, published, lost = publisher.totals()
    assert (published, lost) == (0, scanned)
