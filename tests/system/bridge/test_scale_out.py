"""Scale-out on existing engines: shared subscriptions, and a cluster behind `hosts:`."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.aedes import aedes_cluster
from tests.support.bridges import (
    QUEUE_WITHOUT_LIMIT,
    BridgeProcess,
    body,
    bridge,
    metric_topic,
    publisher,
    rows,
    stored_numbers,
    wait_until,
)
from tests.support.brokers import missing, need
from tests.support.redis import redis_server

pytestmark = pytest.mark.system
WORKERS = 4
PUBLISH = """
import sys
from tests.support.bridges import publish_numbers, publisher, mqtt_settings
from mqttkit.client import MqttClient
import dataclasses
host, port, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
settings = mqtt_settings(port)
settings = dataclasses.replace(settings, broker=dataclasses.replace(settings.broker, host=host))
with MqttClient(settings) as client:
    client.connect(timeout=10)
    publish_numbers(client, range(first, last))
"""


def ip(*words: str) -> None:
    """Run ip, in a namespace where `-n NAME` says so."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def network(prefix: str) -> Iterator[tuple[str, list[str]]]:
    """A namespace for the broker with a bridge device in it, and one for each worker, joined to that."""
    need("ip")
    hub, spokes = f"{prefix}-hub", [f"{prefix}-{number}" for number in range(WORKERS)]
    try:
        ip("netns", "add", hub)
    except subprocess.CalledProcessError as error:
        missing(f"no right to make network namespaces: {error.stderr.decode().strip()}")
    try:
        ip("-n", hub, "link", "add", "br0", "type", "bridge")
        ip("-n", hub, "addr", "add", "10.99.0.1/24", "dev", "br0")
        ip("-n", hub, "link", "set", "br0", "up")
        ip("-n", hub, "link", "set", "lo", "up")
        for number, spoke in enumerate(spokes):
            ip("netns", "add", spoke)
            ip("-n", hub, "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", spoke)
            ip("-n", hub, "link", "set", f"v{number}", "master", "br0", "up")
            ip("-n", spoke, "addr", "add", f"10.99.0.{10 + number}/24", "dev", "eth0")
            ip("-n", spoke, "link", "set", "eth0", "up")
            ip("-n", spoke, "link", "set", "lo", "up")
        yield hub, spokes
    finally:
        for name in (hub, *spokes):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def within(namespace: str) -> tuple[str, ...]:
    """Words to put before a command that must run in the namespace."""
    return ("ip", "netns", "exec", namespace)


def test_four_workers_in_four_namespaces_share_the_load(tmp_path: Path) -> None:
    """An even split; of a killed worker nothing is lost but what its session holds, which it gets on its return."""
    conf = tmp_path / "mosquitto.conf"
    conf.write_text(f"listener 1883 10.99.0.1\nallow_anonymous true\nuser root\n{QUEUE_WITHOUT_LIMIT}\n")
    with network(f"mk{tmp_path.stat().st_ino % 100_000}") as (hub, spokes), contextlib.ExitStack() as stack:
        broker = subprocess.Popen([*within(hub), need("mosquitto"), "-c", str(conf)], stderr=subprocess.DEVNULL)
        stack.callback(broker.wait)
        stack.callback(broker.terminate)
        bridges = [_worker(tmp_path, spoke, number) for number, spoke in enumerate(spokes)]
        for one in bridges:
            one.start(ready=False)
            stack.callback(_end, one)
        for one in bridges:
            wait_until(lambda: "subscribed to $share/ingest/metrics/#" in one.log, 30)  # noqa: B023
        _publish(hub, 0, 4_000)
        wait_until(lambda: _stored(bridges) == list(range(4_000)))
        shares = [len(stored_numbers(one.database)) for one in bridges]
        assert all(700 <= share <= 1_300 for share in shares), shares
        publishing = subprocess.Popen(_publish_command(hub, 4_000, 10_000))
        wait_until(lambda: len(_stored(bridges)) > 4_300)
        bridges[0].kill()
        assert publishing.wait(60) == 0
        wait_until(lambda: all(_idle(one) for one in bridges[1:]))
        bridges[0].start(ready=False)
        wait_until(lambda: _stored(bridges) == list(range(10_000)))


def _worker(tmp_path: Path, namespace: str, number: int) -> BridgeProcess:
    directory = tmp_path / f"bridge-{number}"
    worker = BridgeProcess(directory, 1883, options=("--group", "ingest"), command=within(namespace), host="10.99.0.1")
    worker.environment["XDG_STATE_HOME"] = str(directory / "state")
    worker.environment["MQTTKIT_BRIDGE_STATS_INTERVAL"] = "1"
    return worker


def _publish_command(namespace: str, first: int, last: int) -> list[str]:
    return [*within(namespace), sys.executable, "-c", PUBLISH, "10.99.0.1", "1883", str(first), str(last)]


def _publish(namespace: str, first: int, last: int) -> None:
    subprocess.run(_publish_command(namespace, first, last), check=True)


def _stored(bridges: list[BridgeProcess]) -> list[int]:
    return sorted(number for one in bridges for number in stored_numbers(one.database))


def _idle(one: BridgeProcess) -> bool:
    before = len(stored_numbers(one.database))
    return before > 0 and one.last_books()[1] == before


def _end(one: BridgeProcess) -> None:
    if not one.died():
        assert one.process is not None
        one.process.send_signal(signal.SIGTERM)
        one.process.wait(60)


def test_aedes_cluster_with_one_node_killed_under_load(tmp_path: Path) -> None:
    """The bridge goes over to the other node, which has the session in Redis: nothing lost, nothing twice."""
    total = 3_000
    with (
        redis_server(tmp_path / "redis") as redis,
        aedes_cluster(tmp_path / "aedes", redis.port) as ((first, node), (second, _)),
        bridge(tmp_path / "bridge", first, "-h", f"127.0.0.1:{second}") as process,
        publisher(second, version="311") as client,
    ):
        for number in range(total):
            client.publish(metric_topic(), body(number), qos=1, wait=20)
            if number == total // 3:
                wait_until(lambda: rows(process.database)[0][0] > 100)
                node.kill()
        assert client.flush(30)
        wait_until(process.is_ready)
        wait_until(lambda: rows(process.database) == [(total,)])
        assert stored_numbers(process.database) == list(range(total))
        assert process.number("connects_total") == 2
        process.finish()


def test_group_is_refused_where_shared_subscriptions_deliver_nothing(tmp_path: Path) -> None:
    """aedes grants $share/… as if it were a topic: the canary is silent, the bridge ends with 5 and says why."""
    with (
        redis_server(tmp_path / "redis") as redis,
        aedes_cluster(tmp_path / "aedes", redis.port, nodes=1) as ((port, _),),
        bridge(tmp_path / "bridge", port, "--group", "ingest", ready=False) as process,
    ):
        assert process.process is not None
        assert process.process.wait(60) == 5
        assert "does not support shared subscriptions" in process.log
        assert "Run one bridge without --group" in process.log
