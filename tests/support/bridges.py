"""A bridge run as its own process, and numbered metrics for it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mqttkit.client import MqttClient
from mqttkit.settings import BrokerSettings, ClientSettings, LimitSettings, MqttSettings
from tests.support.brokers import Mosquitto, free_port, mosquitto

TENANT = "6f1d7c1e-0000-4000-8000-000000000001"
QUEUE_WITHOUT_LIMIT = "max_queued_messages 0"
BOOKS = re.compile(r"received=(\d+) = stored=(\d+) \+ duplicate=(\d+) \+ dead_lettered=(\d+) \+ in_flight=(\d+)")


def wait_until(condition: Callable[[], Any], seconds: float = 60.0, what: str = "") -> Any:
    """Return the condition's first true value; fail when the time is up."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(0.02)


def mqtt_settings(port: int, **client: Any) -> MqttSettings:
    """Settings for a client of a broker on loopback."""
    return MqttSettings(
        broker=BrokerSettings(host="127.0.0.1", port=port),
        client=ClientSettings(**client),
        limits=LimitSettings(max_inflight=1_000),
    )


@contextlib.contextmanager
def publisher(port: int, **client: Any) -> Iterator[MqttClient]:
    """A connected client that publishes."""
    with MqttClient(mqtt_settings(port, **client)) as connected:
        connected.connect(timeout=60)
        yield connected


def body(number: int, prefix: str = "d", **extra: Any) -> bytes:
    """Payload of the numbered metric."""
    return json.dumps({"value": number, "dedupe_id": f"{prefix}{number}", **extra}).encode()


def metric_topic(tenant: str = TENANT, agent: str = "agent-1", metric: str = "temperature") -> str:
    """A topic of the default template."""
    return f"metrics/{tenant}/{agent}/{metric}"


def publish_numbers(client: MqttClient, numbers: Sequence[int], prefix: str = "d") -> None:
    """Publish numbered metrics at QoS 1 and wait until the broker has them all."""
    receipts = [client.publish(metric_topic(), body(n, prefix), qos=1, wait=60) for n in numbers]
    assert client.flush(60)
    assert {receipt.outcome.value for receipt in receipts if receipt.outcome} <= {"acknowledged"}


def rows(path: Path, query: str = "SELECT count(*) FROM metrics") -> list[tuple[Any, ...]]:
    """Ask a SQLite sink's file; no rows while it is not there."""
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=60)) as database:
        try:
            return database.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []


def stored_numbers(path: Path) -> list[int]:
    """The values stored, sorted, as often as they are there."""
    return [int(value) for (value,) in rows(path, "SELECT value FROM metrics ORDER BY value")]


def ask_health(port: int, path: str) -> tuple[int, str]:
    """GET from a health server on loopback: status, 0 if there is none, and body."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


@dataclass
class BridgeProcess:
    """`mqttkit bridge run` in a process of its own."""

    directory: Path
    port: int
    sink: str = ""
    options: tuple[str, ...] = ()
    tenants: str = ""
    config: str = ""
    """A settings file that names the sinks, in place of `sink`."""
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    """What to put before the program, such as faketime."""
    host: str = "127.0.0.1"
    health_port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        if not self.tenants:
            known = self.directory / "tenants.yaml"
            if not known.exists():
                known.write_text(f"- {TENANT}\n")
            self.tenants = str(known)

    @property
    def database(self) -> Path:
        """The SQLite sink's file, where no other sink was named."""
        return self.directory / "metrics.db"

    def start(self, *, ready: bool = True) -> BridgeProcess:
        """Start it, and wait until it is ready."""
        sink = ("--config", self.config) if self.config else ("--sink", self.sink or f"sqlite:{self.database}")
        with (self.directory / "bridge.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *self.command,
                    *(sys.executable, "-m", "mqttkit", "bridge", "run", "-h", self.host, "-p", str(self.port)),
                    *sink,
                    *("--tenants", self.tenants, "--health-port", str(self.health_port)),
                    *self.options,
                ],
                stdout=log,
                stderr=log,
                env={**os.environ, "MQTTKIT_MQTT_RECONNECT_INITIAL_DELAY": "0.2", **self.environment},
            )
        if ready:
            wait_until(lambda: self.is_ready() or self.died(), what="the bridge to be ready")
            assert not self.died(), self.log
        return self

    def died(self) -> bool:
        """True where the process has ended."""
        return self.process is None or self.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self, seconds: float = 60.0) -> int:
        """SIGTERM; return the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

    def ask(self, path: str) -> tuple[int, str]:
        """GET from the health server: status, 0 if there is none, and body."""
        return ask_health(self.health_port, path)

    def is_ready(self) -> bool:
        """True while /readyz says so."""
        return self.ask("/readyz")[0] == 200

    def not_ready_because(self, text: str) -> bool:
        """True while /readyz says no, with `text` among its reasons."""
        code, answer = self.ask("/readyz")
        return code == 503 and text in answer

    def number(self, name: str) -> float:
        """The sample of /metrics with this name (without prefix), labels included; 0 where there is none."""
        for line in self.ask("/metrics")[1].splitlines():
            if line.startswith(f"mqttkit_bridge_{name} "):
                return float(line.split()[-1])
        return 0.0

    @property
    def acknowledged(self) -> float:
        """Metrics and dead letters that it has acknowledged, without its own canaries."""
        return self.number("acknowledged_messages_total")

    @property
    def log(self) -> str:
        """What it wrote so far, all its runs together."""
        return (self.directory / "bridge.log").read_text(errors="replace")

    def last_books(self) -> tuple[int, int, int, int, int]:
        """received, stored, duplicate, dead_lettered, in_flight of the last line with the books."""
        found = BOOKS.findall(self.log)
        assert found, self.log
        received, stored, duplicate, dead, waiting = (int(part) for part in found[-1])
        return received, stored, duplicate, dead, waiting

    def check_books(self) -> tuple[int, int, int, int, int]:
        """Return the last books after checking that they balance."""
        books = self.last_books()
        assert books[0] == sum(books[1:]), books
        return books

    def finish(self) -> tuple[int, int, int, int, int]:
        """SIGTERM: it drained, ended with 0, and its books balance; return them."""
        assert self.stop() == 0, self.log
        return self.check_books()


@contextlib.contextmanager
def bridge(directory: Path, port: int, *options: str, ready: bool = True, **more: Any) -> Iterator[BridgeProcess]:
    """A bridge that is running, ended with SIGTERM, its books checked; it may be killed and started within."""
    process = BridgeProcess(directory, port, options=options, **more)
    process.environment.setdefault("XDG_STATE_HOME", str(directory / "state"))
    process.start(ready=ready)
    try:
        yield process
    except BaseException:
        print(process.log[-6000:])
        raise
    finally:
        if not process.died():
            assert process.process is not None
            process.process.send_signal(signal.SIGCONT)
            process.process.terminate()
            try:
                process.process.wait(60)
            except subprocess.TimeoutExpired:
                process.process.kill()
                process.process.wait()


@contextlib.contextmanager
def bridged(directory: Path, *options: str, **more: Any) -> Iterator[tuple[Mosquitto, BridgeProcess, MqttClient]]:
    """A broker that queues without limit, a bridge of it that is ready, and a client that publishes."""
    with (
        mosquitto(directory / "mosquitto", QUEUE_WITHOUT_LIMIT) as broker,
        bridge(directory / "bridge", broker.port, *options, **more) as process,
        publisher(broker.port) as client,
    ):
        yield broker, process, client


def new_tenant() -> str:
    """An identifier that nobody else uses."""
    return str(uuid.uuid4())
