"""`bridge verify` on a broker, with nodes of a cluster killed, and the time that a fail-over takes."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from mqttkit.client import MqttClient
from mqttkit.errors import MqttkitError
from mqttkit.messages import Message
from mqttkit.settings import BrokerSettings, ClientSettings, MqttSettings, ReconnectSettings
from tests.interoperability.nodes import Cluster
from tests.support.clients import wait_until

METRICS = 20_000
KILLS = 3
TIME_LIMIT = 240
KILL_AFTER, DOWN_SECONDS = 3.0, 5.0
"""When a node of a cluster is killed during the proof, and for how long it is down."""
ROUNDS = 3
GONE = "not within 60 s"
TENANT = "6f1d7c1e-0000-4000-8000-000000000001"


def verify(cluster: Cluster, directory: Path) -> str:
    """Return the result of `bridge verify` while the bridge, and each node but the last in turn, is killed."""
    (directory / "tenants.yaml").write_text(json.dumps([TENANT]))
    hosts = [word for port in cluster.ports for word in ("-h", f"127.0.0.1:{port}")]
    words = ["bridge", "verify", "--count", str(METRICS), "--kill", str(KILLS), "--time-limit", str(TIME_LIMIT)]
    words += ["--sink", "sqlite:metrics.db", "--tenants", "tenants.yaml", "--quiet", *hosts]
    with _killer(cluster) as killed:
        done = subprocess.run(
            [sys.executable, "-m", "mqttkit", *words],
            cwd=directory,
            capture_output=True,
            text=True,
            timeout=TIME_LIMIT + 60,
        )
    if not done.stdout.strip():
        return f"exit code {done.returncode}: {(done.stderr.strip().splitlines() or [''])[-1][:160]}"
    found = dict(word.split("=") for word in done.stdout.split())
    parts = [f"lost {found['lost']}", f"twice {found['twice']}", f"again {found['duplicates']}"]
    if len(cluster.nodes) > 1:
        parts.append(f"nodes killed {len(killed)}")
    return f"{', '.join(parts)}; {float(found['seconds']):.0f} s"


@contextlib.contextmanager
def _killer(cluster: Cluster) -> Iterator[list[str]]:
    """Kill each node of a cluster but the last, one after the other, and start it again; yield the names so far."""
    stop, killed = threading.Event(), list[str]()

    def kill() -> None:
        for node in cluster.nodes[:-1]:
            if stop.wait(KILL_AFTER):
                return
            node.kill()
            killed.append(node.name)
            stop.wait(DOWN_SECONDS)
            node.launch()
            node.wait()

    thread = threading.Thread(target=kill, daemon=True)
    if len(cluster.nodes) > 1:
        thread.start()
    try:
        yield killed
    finally:
        stop.set()
        if thread.is_alive():
            thread.join()


class Follower:
    """A subscriber with a kept session, connected to the first node that answers."""

    def __init__(self, cluster: Cluster) -> None:
        self.got: list[float] = []
        hosts = tuple(f"127.0.0.1:{port}" for port in cluster.ports)
        settings = MqttSettings(
            broker=BrokerSettings(hosts=hosts),
            client=ClientSettings(client_id="follower", clean_session=False, session_expiry=600),
            reconnect=ReconnectSettings(initial_delay=0.2, max_delay=2.0),
        )
        self.client = MqttClient(settings, on_message=self._receive)

    def _receive(self, _message: Message) -> None:
        self.got.append(time.monotonic())


def fail_over(cluster: Cluster) -> str:
    """Return how long a subscriber gets nothing after its node is killed: median and worst of a few rounds."""
    times: list[float] = []
    follower = Follower(cluster)
    with follower.client, _ticking(cluster):
        follower.client.connect(timeout=60)
        follower.client.subscribe("fail/over", qos=1, timeout=60)
        for _ in range(ROUNDS):
            wait_until(lambda: follower.got and time.monotonic() - follower.got[-1] < 1)
            node = next(node for node in cluster.nodes if node.port == follower.client.address[1])
            node.kill()
            killed = time.monotonic()
            try:
                wait_until(lambda: follower.got[-1] > killed + 0.2)  # noqa: B023  # called now
            except AssertionError:
                return GONE
            times.append(next(each for each in follower.got if each > killed + 0.2) - killed)
            node.launch()
            node.wait()
            time.sleep(5)  # the node joins its cluster again
    return f"{statistics.median(times):.1f} s (worst {max(times):.1f} s)"


@contextlib.contextmanager
def _ticking(cluster: Cluster) -> Iterator[None]:
    """Publish ten messages a second, through whichever node answers, last node first."""
    hosts = tuple(f"127.0.0.1:{port}" for port in reversed(cluster.ports))
    settings = MqttSettings(
        broker=BrokerSettings(hosts=hosts), reconnect=ReconnectSettings(initial_delay=0.2, max_delay=1.0)
    )
    stop = threading.Event()

    def publish() -> None:
        with MqttClient(settings) as client:
            client.start()
            while not stop.wait(0.1):
                with contextlib.suppress(MqttkitError):
                    client.publish("fail/over", b"tick", qos=1)

    thread = threading.Thread(target=publish, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
