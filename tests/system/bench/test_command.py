"""`mqttkit bench` as a command, against real brokers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mqttkit.bench.own_broker import own_broker
from mqttkit.errors import MqttkitError
from tests.support.brokers import Mosquitto, mosquitto, need

pytestmark = pytest.mark.system
CONNECT = b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me"
BENCH = [sys.executable, "-m", "mqttkit", "bench"]


def bench(*arguments: str, seconds: float = 50) -> subprocess.CompletedProcess[str]:
    """Run a bench; it needs a mosquitto."""
    need("mosquitto")
    return subprocess.run([*BENCH, *arguments], capture_output=True, text=True, timeout=seconds, check=False)


def result(*arguments: str) -> dict[str, Any]:
    """Run a bench that must succeed; return its JSON."""
    done = bench(*arguments, "--own-broker", "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["partial"] == ""
    return found


@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_pub_counts_what_the_broker_took(qos: str) -> None:
    """Every publish has an outcome; as fast as possible there are no latencies to mislead."""
    metrics = result("pub", "-q", qos, "--count", "500")["metrics"]
    assert metrics["published"] == 500
    assert metrics["dropped"] == metrics["failed"] == 0
    assert metrics["rate"] > 0
    assert "p99" not in metrics


def test_pub_at_a_rate_knows_the_latency_of_acknowledgements() -> None:
    """From the intended time to the PUBACK."""
    metrics = result("pub", "-q", "1", "--count", "200", "--rate", "400")["metrics"]
    assert 0 < metrics["p50"] <= metrics["p99"] <= metrics["max"]
    assert 0 < metrics["rate"] < 450


@pytest.mark.parametrize(
    ("scenario", "options", "received"),
    [
        ("sub", ["-q", "1"], 600),
        ("roundtrip", ["-q", "2"], 600),
        ("fan-in", ["--clients", "3"], 600),
        ("fan-out", ["--clients", "3", "--rate", "600"], 1800),
        ("pairs", ["--clients", "3", "-q", "1"], 600),
        ("shared", ["--clients", "3", "--subscribers", "2", "-q", "1"], 600),
        ("fan-in", ["--clients", "3", "--connect-rate", "100"], 600),
        ("scan", ["--rate", "600"], 600),
        ("sub", ["--size", "70000"], 600),
        ("sub", ["-q", "1", "--tls"], 600),
        ("roundtrip", ["--ws"], 600),
        ("scan", ["--tls", "--ws"], 600),
    ],
)
def test_everything_published_is_received_once_and_in_order(scenario: str, options: list[str], received: int) -> None:
    """Counts, sequence numbers and latencies of each scenario."""
    found = result(scenario, "--count", "600", *options)
    metrics = found["metrics"]
    assert metrics["published"] == 600
    assert metrics["received"] == received
    assert metrics["lost"] == metrics["duplicated"] == metrics["reordered"] == metrics["dropped"] == 0
    assert 0 < metrics["p50"] <= metrics["p999"] <= metrics["max"] < 30_000
    assert found["points"]
    plan = found["plan"]
    assert (plan["scenario"], plan["tls"], plan["websockets"]) == (scenario, "--tls" in options, "--ws" in options)


@pytest.mark.parametrize("websockets", [False, True])
def test_own_broker_over_tls_proves_itself_and_takes_nothing_plain(websockets: bool) -> None:
    """Its authority is the run's own: the handshake verifies against it, and its files end with the broker."""
    need("mosquitto")
    with own_broker(tls=True, websockets=websockets) as broker:
        assert broker.tls is not None
        assert broker.tls.ca_file is not None
        context = ssl.create_default_context(cafile=broker.tls.ca_file)
        with (
            socket.create_connection((broker.host, broker.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=broker.host) as secured,
        ):
            assert secured.getpeercert()
        with socket.create_connection((broker.host, broker.port), timeout=10) as plain:
            plain.sendall(b"GET /mqtt HTTP/1.1\r\nHost: x\r\n\r\n" if websockets else CONNECT)
            with contextlib.suppress(ConnectionResetError):
                assert not plain.recv(100).startswith((b"HTTP", b"\x20"))
    assert not Path(broker.tls.ca_file).exists()


def test_connections_are_made_at_their_rate() -> None:
    """All stay connected; the time to CONNACK counts from the schedule."""
    metrics = result("connections", "--clients", "40", "--connect-rate", "80", "--duration", "0.2")["metrics"]
    assert (metrics["clients"], metrics["lost"]) == (40, 0)
    assert 0 < metrics["connect_rate"] < 83
    assert 0 < metrics["p50"] <= metrics["max"]
    assert metrics["generator"] >= 0


@pytest.mark.parametrize(
    ("scenario", "published", "received"),
    [("p2p-1K-1K-1K-1K", 100, 100), ("fanout-1-1K-1-1K", 1, 100), ("sharedsub-1K-5-1K-1K", 100, 100)],
)
def test_scenarios_of_the_suite_can_be_scaled(scenario: str, published: int, received: int) -> None:
    """Payload 16 bytes, QoS 1, the rate of the name; --clients and --count make them smaller."""
    found = result(scenario, "--clients", "100", "--count", str(published))
    plan, metrics = found["plan"], found["metrics"]
    assert (plan["size"], plan["qos"], plan["rate"]) == (16, 1, 1 if "fanout" in scenario else 1_000)
    assert (metrics["published"], metrics["received"], metrics["lost"]) == (published, received, 0)
    assert 0 < metrics["p50"] <= metrics["p99"]


def test_the_connections_of_the_suite_can_be_scaled() -> None:
    """100 a second, as the name says."""
    found = result("conn-tcp-10k-100", "--clients", "20", "--duration", "0.1")
    assert (found["plan"]["connect_rate"], found["metrics"]["clients"], found["metrics"]["lost"]) == (100, 20, 0)


def test_payloads_may_be_empty() -> None:
    """Counted without numbers and latencies, with a note."""
    found = result("sub", "--size", "0", "--count", "300")
    assert (found["metrics"]["received"], found["metrics"]["lost"], found["metrics"]["mib"]) == (300, 0, 0)
    assert "p50" not in found["metrics"]
    assert any("no latencies" in note for note in found["notes"])


def test_a_broker_that_drops_messages_makes_the_run_fail(tmp_path: Path) -> None:
    """Exit 1 with the number, although nothing else went wrong: the subscriber may not read."""
    acl = tmp_path / "acl"
    acl.write_text("topic write #\n")
    with mosquitto(tmp_path / "broker", f"acl_file {acl}") as broker:
        done = bench("sub", "-h", "127.0.0.1", "-p", str(broker.port), "--count", "50", "--json")
    assert done.returncode == 1, done.stderr
    metrics = json.loads(done.stdout)["metrics"]
    assert (metrics["published"], metrics["received"], metrics["lost"]) == (50, 0, 50)
    assert done.stderr.startswith("mqttkit: 50 lost")


def test_denied_publishes_make_the_run_fail(tmp_path: Path) -> None:
    """MQTT 5 at QoS 1 tells; the run counts them and ends with 1."""
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    with mosquitto(tmp_path / "broker", f"acl_file {acl}") as broker:
        done = bench("pub", "-q", "1", "-h", "127.0.0.1", "-p", str(broker.port), "--count", "50", "--json")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout)["metrics"]["failed"] == 50
    assert done.stderr.startswith("mqttkit: 50 denied or lost after sending")


def test_fault_found_is_exit_1_and_the_numbers_are_there(tmp_path: Path) -> None:
    """--fail-if and --baseline judge after the run; the plot is written."""
    first = bench("sub", "--count", "300", "--own-broker", "--json", "--plot", str(tmp_path / "p.svg"))
    assert first.returncode == 0, first.stderr
    assert (tmp_path / "p.svg").read_text().startswith("<svg")
    baseline = json.loads(first.stdout)
    baseline["metrics"]["rate"] = 1e12
    (tmp_path / "b.json").write_text(json.dumps(baseline))
    second = bench(
        "sub", "--count", "300", "--own-broker", "--baseline", str(tmp_path / "b.json"), "--fail-if", "rate>0"
    )
    assert second.returncode == 1
    assert "received" in second.stdout
    assert second.stderr.startswith("mqttkit: rate>0: rate is ")
    assert "before 1,000,000,000,000 messages/s" in second.stderr


@pytest.mark.parametrize(
    "options",
    [
        ["--fail-if", "p98>1"],
        ["--baseline", "missing.json"],
        ["--plot", "p.gif"],
        ["--topic", "a/#"],
        ["--size", "-1"],
        ["--subscribers", "3"],
    ],
)
def test_bad_input_is_exit_2_before_any_load(options: list[str]) -> None:
    """Nothing is connected to: the port is closed, and that is not what is complained of."""
    done = bench("pub", "-p", "1", *options)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""


def test_unreachable_broker_is_exit_3() -> None:
    """No load, no result."""
    for scenario in ("pub", "sub", "connections"):
        done = bench(scenario, "-p", "1", "--count", "5")
        assert done.returncode == 3, done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize("scenario", ["pub", "sub", "scan"])
def test_broker_that_goes_away_leaves_a_partial_result(broker: Mosquitto, scenario: str) -> None:
    """Exit 3, the numbers up to then, and the mark."""
    command = [
        *BENCH,
        scenario,
        "-h",
        "127.0.0.1",
        "-p",
        str(broker.port),
        "--rate",
        "200",
        "--duration",
        "40",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        wait_for_messages(broker)
        broker.stop(signal.SIGKILL)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 3, err
    found = json.loads(out)
    assert found["partial"]
    assert "partial result" in err


def test_interrupted_run_shows_what_it_has(broker: Mosquitto) -> None:
    """Ctrl-C: 130, partial."""
    command = [*BENCH, "sub", "-h", "127.0.0.1", "-p", str(broker.port), "--rate", "200", "--duration", "40", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        wait_for_messages(broker)
        os.kill(running.pid, signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    found = json.loads(out)
    assert found["partial"] == "interrupted"
    assert found["metrics"]["received"] > 0


def wait_for_messages(broker: Mosquitto) -> None:
    """Wait until the broker has seen some publishes."""
    deadline = time.monotonic() + 20
    while broker.log.count("Received PUBLISH") < 50:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_suite_steps_are_judged_and_stopped(tmp_path: Path) -> None:
    """Each step has its own process and its own broker; a stop ends it with a partial result."""
    from mqttkit.bench.plan import Plan
    from mqttkit.stop import Stop
    from tests.benchmarks.step import run_step

    need("mosquitto")
    for tls in (False, True):
        whole = run_step(Plan(scenario="sub", topic="t", subscribers=1, count=300, qos=1, tls=tls), Stop())
        assert (whole.metrics["received"], whole.metrics["lost"], whole.partial) == (300, 0, "")
    stop = Stop()
    stopper = threading.Timer(2.0, stop.set)
    stopper.start()
    cut = run_step(Plan(scenario="sub", topic="t", subscribers=1, rate=100, duration=40), stop)
    stopper.join()
    assert cut.partial == "interrupted"
    plan = Plan(scenario="scan", topic="t", subscribers=1, rate=10, count=5, source="no-such-recording.jsonl")
    with pytest.raises(MqttkitError, match="no-such-recording"):
        run_step(plan, Stop())


def test_each_connection_needs_one_open_file_at_each_end() -> None:
    """10,000 clients and an own broker fit a limit of 20,000."""
    line = " ".join([*BENCH, "connections", "--clients", "300", "--duration", "0.1", "--own-broker", "--json"])
    command = ["sh", "-c", f"ulimit -n 500; {line}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["metrics"]["clients"] == 300
